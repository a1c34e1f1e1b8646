# METADATA
# title: Dial public addresses, and the office's own servers
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
	message := sprintf("%s is at %s, a %s address that is no server of the office", [
		input.target.host,
		input.address.ip,
		input.address.scope,
	])
}

_internal if {
	some network in input.address.prefixes
	data.office.internal[network]
}
