# METADATA
# title: Admit, by default
# description: |
#   Everybody may connect. Who a client is and what it may do is for the later
#   stages, and the configuration bounds how many may be connected at once.
# schemas:
#   - input: schema.admit
package sallyport.admit

allow := true
