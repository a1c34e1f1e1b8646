# METADATA
# title: Route each team to what it has on its list
# description: |
#   A team's bundle owns data.teams.NAME and gives `domains` there, by data or by
#   rules. Only the list of the caller's own team is looked at, so that a mistake
#   in it is felt by nobody else.
# schemas:
#   - input: schema.route
package sallyport.route

default allow := false

allow if {
	_command_allowed
	_listed
}

# The guard rails: no team can lift them.
deny contains message if {
	some suffix in input.target.suffixes
	message := sprintf("%s is blocked for every team: %s", [suffix, data.central.blocked[suffix]])
}

deny contains message if {
	not _port_allowed
	message := sprintf("port %d is allowed to no team", [input.target.port])
}

explain := true

reason contains message if {
	not _command_allowed
	message := sprintf("the command %s is not allowed: only connect and forward are", [input.request.command])
}

reason contains message if {
	not _listed
	message := sprintf("%s:%d is on no list of the team %s", [input.target.host, input.target.port, _team])
}

reason contains message if {
	not _team
	message := sprintf("%s has no team", [input.identity.name])
}

labels := {"team": _team}

session_limits := data.central.session_limits

_command_allowed if input.request.command in {"connect", "forward"}

_team := input.identity.attributes.team

_port_allowed if input.target.port in data.central.ports

_listed if {
	some suffix in input.target.suffixes
	input.target.port in data.teams[_team].domains[suffix].ports
}
