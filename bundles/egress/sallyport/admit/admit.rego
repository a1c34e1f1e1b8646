# METADATA
# title: Admit everybody who is ready to log in
# schemas:
#   - input: schema.admit
package sallyport.admit

default allow := false

allow := true

methods := {"password"}
