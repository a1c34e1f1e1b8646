# METADATA
# title: Dial, by default
# description: |
#   Public addresses are allowed, and those in the networks of
#   data.settings.allow_private, an array of CIDRs such as ["10.1.0.0/16"].
# schemas:
#   - input: schema.dial
package sallyport.dial

default allow := false

allow if input.address.scope == "public"

allow if _private_allowed

reason contains message if {
	input.address.scope != "public"
	not _private_allowed
	message := sprintf(
		"%s is not a public address but %s, and not in data.settings.allow_private",
		[input.address.ip, input.address.scope],
	)
}

_private_allowed if {
	some network in data.settings.allow_private
	net.cidr_contains(network, input.address.ip)
}
