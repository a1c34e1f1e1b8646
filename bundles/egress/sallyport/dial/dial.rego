# METADATA
# title: Dial public addresses, and named networks
# description: |
#   A name may lead to any public address. It leads to a private one only where
#   a list of the caller names its network with the target's port.
# schemas:
#   - input: schema.dial
package sallyport.dial

import data.sallyport.lib.egress

default allow := false

allow if input.address.scope == "public"

allow if _network_allowed

# No list can open these: they are the proxy's own machine, and where clouds
# keep the credentials of its instance.
deny contains message if {
	input.address.scope in {"link_local", "loopback", "metadata", "multicast", "unspecified"}
	message := sprintf("%s is a %s address", [input.address.ip, input.address.scope])
}

explain := true

reason contains message if {
	input.address.scope != "public"
	not _network_allowed
	message := sprintf("%s is a %s address, and in no network of %s with port %d", [
		input.address.ip,
		input.address.scope,
		input.identity.name,
		input.target.port,
	])
}

_network_allowed if {
	some list in egress.lists
	some network in input.address.prefixes
	input.target.port in egress.ports(list.networks[network])
}
