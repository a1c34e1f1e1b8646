# METADATA
# title: Dial addresses within the fence
# description: |
#   A name is not in a country: each address that it leads to is. Of a name with
#   several addresses, those within the fence are dialled.
# schemas:
#   - input: schema.dial
package sallyport.dial

import data.sallyport.lib.fence

default allow := false

allow if _inside

# No network in the data can open these: there clouds keep the credentials of
# the proxy's machine.
deny contains message if {
	input.address.scope in {"link_local", "metadata", "multicast", "unspecified"}
	message := sprintf("%s is a %s address", [input.address.ip, input.address.scope])
}

explain := true

reason contains message if {
	input.address.scope == "public"
	not _inside
	message := sprintf("%s is at %s, %s", [
		input.target.host,
		input.address.ip,
		fence.place(input.address.geo),
	])
}

reason contains message if {
	input.address.scope != "public"
	not _inside
	message := sprintf("%s is at %s, a %s address of no internal network", [
		input.target.host,
		input.address.ip,
		input.address.scope,
	])
}

_inside if {
	input.address.scope == "public"
	fence.verdict(data.geofence.targets, input.address.geo) == "allow"
}

_inside if {
	input.address.scope != "public"
	some network in input.address.prefixes
	data.geofence.internal.targets[network]
}
