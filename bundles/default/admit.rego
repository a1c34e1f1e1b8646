# METADATA
# title: Who may connect
# description: The default lets everyone knock.
# schemas:
#   - input: schema.admit
package sallyport.admit

default allow := true
