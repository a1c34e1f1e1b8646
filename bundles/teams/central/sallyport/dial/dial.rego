# METADATA
# title: Dial public addresses, and internal networks of the caller's team
# description: Which team may reach which network is for central/data.yaml to say.
# schemas:
#   - input: schema.dial
package sallyport.dial

default allow := false

allow if input.address.scope == "public"

allow if _internal

# No network in the data can open these: there clouds keep the credentials of
# the proxy's machine.
deny contains message if {
	input.address.scope in {"link_local", "metadata", "multicast", "unspecified"}
	message := sprintf("%s is a %s address", [input.address.ip, input.address.scope])
}

explain := true

reason contains message if {
	input.address.scope != "public"
	not _internal
	message := sprintf("%s leads to %s, a %s address that %s may not reach", [
		input.target.host,
		input.address.ip,
		input.address.scope,
		input.identity.name,
	])
}

_internal if {
	some network in input.address.prefixes
	input.identity.attributes.team in data.central.internal[network]
}
