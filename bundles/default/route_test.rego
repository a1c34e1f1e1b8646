package sallyport.route_test

import data.sallyport.route

_asked(command, port) := {"request": {"command": command}, "target": {"host": "example.com", "port": port}}

test_the_web_is_allowed if {
	every command in ["connect", "forward"] {
		every port in [80, 443] {
			route.allow with input as _asked(command, port)
			route.reason == set() with input as _asked(command, port)
		}
	}
}

test_other_ports_are_denied if {
	every port in [0, 22, 25, 53, 8080, 65535] {
		not route.allow with input as _asked("connect", port)
	}
	route.reason == {"port 25 is neither 80, 443 nor in data.settings.allow_ports"} with input as _asked("connect", 25)
}

test_the_ports_of_the_settings_are_allowed_too if {
	every port in [22, 80, 443] {
		route.allow with input as _asked("connect", port) with data.settings.allow_ports as [22, 8443]
	}
	not route.allow with input as _asked("connect", 25) with data.settings.allow_ports as [22, 8443]
}

test_other_commands_are_denied if {
	every command in ["bind", "associate", "datagram", ""] {
		not route.allow with input as _asked(command, 443) with data.settings.allow_ports as [443]
	}
	route.reason == {"the command bind is not allowed: only connect and forward are"} with input as _asked("bind", 25)
}
