# METADATA
# title: Dial by the rules of the networks
# description: |
#   A name that is allowed leads to a public address unless a rule of its network
#   says otherwise, and to another one only in data.rules.internal.
# schemas:
#   - input: schema.dial
package sallyport.dial

import data.sallyport.lib.rules

default allow := false

allow if {
	_reachable
	not _forbidden
}

deny contains problem if some problem in rules.malformed(_found)

deny contains message if {
	_forbidden
	message := sprintf("%s leads to %s, %s: %s", [
		input.target.host,
		input.address.ip,
		_decisive.name,
		object.get(_decisive.rule, "note", "denied"),
	])
}

# No rule can open these: there clouds keep the credentials of the proxy's
# machine.
deny contains message if {
	input.address.scope in {"link_local", "metadata", "multicast", "unspecified"}
	message := sprintf("%s is a %s address", [input.address.ip, input.address.scope])
}

explain := true

reason contains message if {
	not _reachable
	message := sprintf("%s leads to %s, a %s address that is not in data.rules.internal", [
		input.target.host,
		input.address.ip,
		input.address.scope,
	])
}

_reachable if input.address.scope == "public"

_reachable if {
	some network in input.address.prefixes
	data.rules.internal[network]
}

_forbidden if _decisive.rule.action != "allow"

_decisive := rules.decisive(_found)

_found contains rules.found(rule, network, distance, line) if {
	networks := data.rules.networks
	some distance, network in input.address.prefixes
	some line, rule in rules.at(networks[network])
}
