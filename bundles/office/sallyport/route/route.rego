# METADATA
# title: Route people to what their groups use, in working hours
# description: |
#   Groups, hours and whom to ask are in office/data.yaml. Whoever is refused is
#   told every reason.
# schemas:
#   - input: schema.route
package sallyport.route

import data.sallyport.lib.hours

default allow := false

allow if {
	_command_allowed
	_port_allowed
	_listed
	_at_work
}

explain := true

deny contains message if {
	not _command_allowed
	message := sprintf("the command %s is not allowed: only connect and forward are", [input.request.command])
}

deny contains message if {
	not _port_allowed
	message := sprintf("port %d is not allowed", [input.target.port])
}

deny contains message if {
	not _listed
	message := sprintf("%s is on no list of %s (%s); ask %s", [
		input.target.host,
		input.identity.name,
		concat(", ", input.identity.groups),
		data.office.contact,
	])
}

deny contains message if {
	not _at_work
	message := sprintf("the office is closed: it is %s there, and it is %s", [hours.clock, hours.usual])
}

deny contains sprintf("the office is closed on %s", [hours.holiday]) if not _at_work

labels := {"groups": concat(" ", input.identity.groups)}

# Who is let in for the night is; who is not leaves when the office closes.
session_limits := data.office.session_limits.night if not hours.open

session_limits := object.union(data.office.session_limits.day, _closing) if hours.open

default _closing := {}

_closing := {"until": hours.closing} if not _after_hours

_command_allowed if input.request.command in {"connect", "forward"}

_port_allowed if input.target.port in data.office.ports

_listed if {
	some group in input.identity.groups
	some suffix in input.target.suffixes
	data.office.groups[group].domains[suffix]
}

_at_work if hours.open

_at_work if _after_hours

_after_hours if {
	some group in input.identity.groups
	data.office.groups[group].after_hours
}
