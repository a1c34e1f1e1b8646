# METADATA
# title: Which addresses may be dialled
# description: Public ones, and those within data.settings.allow_private.
# schemas:
#   - input: schema.dial
package sallyport.dial

default allow := false

allow if input.address.scope == "public"

allow if {
	some cidr in data.settings.allow_private
	net.cidr_contains(cidr, input.address.ip)
}

reason := sprintf("the address is not public but %s", [input.address.scope]) if not allow
