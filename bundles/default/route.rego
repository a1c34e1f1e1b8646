# METADATA
# title: Route, by default
# description: |
#   A client may connect to any name or address on ports 80 and 443, and on the
#   ports in data.settings.allow_ports, an array of integers, and so may a
#   request of plain HTTP that is forwarded for it. Which addresses that may lead
#   to is for the dial stage.
# schemas:
#   - input: schema.route
package sallyport.route

default allow := false

allow if {
	_command_allowed
	_port_allowed
}

reason contains message if {
	not _command_allowed
	message := sprintf("the command %s is not allowed: only connect and forward are", [input.request.command])
}

reason contains message if {
	_command_allowed
	not _port_allowed
	message := sprintf("port %d is neither 80, 443 nor in data.settings.allow_ports", [input.target.port])
}

_command_allowed if input.request.command in {"connect", "forward"}

_port_allowed if input.target.port in {80, 443}

_port_allowed if input.target.port in data.settings.allow_ports
