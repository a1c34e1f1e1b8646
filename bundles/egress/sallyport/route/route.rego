# METADATA
# title: Route to what is on the caller's lists
# description: |
#   Nothing is allowed but connections to the names and networks that the lists
#   in egress/data.yaml give to the caller or to one of its groups.
# schemas:
#   - input: schema.route
package sallyport.route

import data.sallyport.lib.egress

default allow := false

allow if {
	_command_allowed
	_port_allowed
}

deny contains message if {
	blocked := data.egress.blocked
	some suffix in input.target.suffixes
	message := sprintf("%s is blocked: %s", [suffix, blocked[suffix]])
}

# The callers are programs and their authors: tell them what to ask for.
explain := true

reason contains message if {
	not _command_allowed
	message := sprintf("the command %s is not allowed: only connect and forward are", [input.request.command])
}

reason contains message if {
	_entries == set()
	message := sprintf("%s is on no list of %s", [input.target.host, input.identity.name])
}

reason contains message if {
	_entries != set()
	not _port_allowed
	message := sprintf("%s is on a list of %s, but not with port %d", [
		input.target.host,
		input.identity.name,
		input.target.port,
	])
}

warn contains entry.warn if some entry in _entries

default labels := {}

labels := data.egress.identities[input.identity.name].labels

session_limits := object.union(_common_limits, _own_limits)

_command_allowed if input.request.command in {"connect", "forward"}

_port_allowed if {
	some entry in _entries
	input.target.port in egress.ports(entry)
}

# The entries that speak of the target.
_entries contains entry if {
	some list in egress.lists
	some suffix in input.target.suffixes
	entry := list.domains[suffix]
}

_entries contains entry if {
	some list in egress.lists
	some network in input.target.prefixes
	entry := list.networks[network]
}

default _common_limits := {}

_common_limits := data.egress.session_limits

default _own_limits := {}

_own_limits := data.egress.identities[input.identity.name].session_limits
