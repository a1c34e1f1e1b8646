# METADATA
# title: Route by the rules
# description: |
#   A name is looked up by itself and its parents, an address by its networks, so
#   that a decision costs the same however many places there are.
# schemas:
#   - input: schema.route
package sallyport.route

import data.sallyport.lib.rules

default allow := false

allow if {
	_command_allowed
	_decisive.rule.action in {"allow", "redirect"}
}

redirect := _decisive.rule.to if _decisive.rule.action == "redirect"

deny contains problem if some problem in rules.malformed(_found)

deny contains message if {
	_decisive.rule.action == "deny"
	message := sprintf("%s: %s", [_decisive.name, object.get(_decisive.rule, "note", "denied")])
}

explain := true

reason contains message if {
	not _decisive
	message := sprintf("no rule allows %s to reach %s:%d", [input.identity.name, input.target.host, input.target.port])
}

reason contains message if {
	not _command_allowed
	message := sprintf("the command %s is not allowed: only connect and forward are", [input.request.command])
}

# Which rule it was is on the log.
labels := {"rule": _decisive.name}

_command_allowed if input.request.command in {"connect", "forward"}

_decisive := rules.decisive(_found)

_found contains rules.found(rule, suffix, distance, line) if {
	domains := data.rules.domains
	some distance, suffix in input.target.suffixes
	some line, rule in rules.at(domains[suffix])
}

_found contains rules.found(rule, network, distance, line) if {
	networks := data.rules.networks
	some distance, network in input.target.prefixes
	some line, rule in rules.at(networks[network])
}

_found contains rules.found(rule, "any", rules.farthest, line) if {
	some line, rule in rules.at(data.rules.any)
}
