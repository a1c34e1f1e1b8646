# METADATA
# title: Admit everybody who is ready to log in
# schemas:
#   - input: schema.admit
package sallyport.admit

allow := true

methods := {"password"}
