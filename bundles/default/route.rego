# METADATA
# title: Where a client may go
# description: connect to ports 80, 443 and data.settings.allow_ports.
# schemas:
#   - input: schema.route
package sallyport.route

default allow := false

allow if {
	input.request.command == "connect"
	_port_allowed
}

reason := "the port is not allowed" if not _port_allowed

_port_allowed if input.target.port in {80, 443}

_port_allowed if input.target.port in data.settings.allow_ports
