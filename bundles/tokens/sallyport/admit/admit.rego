# METADATA
# title: Admit everybody who is ready to show a token
# schemas:
#   - input: schema.admit
package sallyport.admit

allow := true

methods := {"password"}
