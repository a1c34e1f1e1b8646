package sallyport.route_test

import data.sallyport.route

_central := {
	"ports": [80, 443],
	"blocked": {"paste.example": "anybody can put anything there"},
	"session_limits": {"idle": "5m"},
}

_teams := {
	"red": {"domains": {"api.example": {"ports": [443, 25]}, "paste.example": {"ports": [443]}}},
	"blue": {"domains": {"www.example": {"ports": [80]}, "odd.example": {"ports": "443"}, "empty.example": true}},
}

_suffixes := {
	"api.example": ["api.example", "example"],
	"empty.example": ["empty.example", "example"],
	"odd.example": ["odd.example", "example"],
	"raw.paste.example": ["raw.paste.example", "paste.example", "example"],
	"v2.api.example": ["v2.api.example", "api.example", "example"],
	"www.example": ["www.example", "example"],
}

_asked(attributes, host, port) := {
	"identity": {"name": "mia", "attributes": attributes},
	"request": {"command": "connect"},
	"target": {"host": host, "port": port, "suffixes": _suffixes[host]},
}

test_the_team_s_own_list_is_allowed if {
	every host in ["api.example", "v2.api.example"] {
		facts := _asked({"team": "red"}, host, 443)
		route.allow with input as facts with data.central as _central with data.teams as _teams
		route.deny == set() with input as facts with data.central as _central with data.teams as _teams
		route.reason == set() with input as facts with data.central as _central with data.teams as _teams
		route.labels == {"team": "red"} with input as facts
		route.session_limits == {"idle": "5m"} with input as facts with data.central as _central
	}
}

test_the_list_of_another_team_is_denied if {
	facts := _asked({"team": "blue"}, "api.example", 443)
	not route.allow with input as facts with data.central as _central with data.teams as _teams
	route.explain with input as facts
	route.reason == {"api.example:443 is on no list of the team blue"} with input as facts
		with data.central as _central
		with data.teams as _teams
}

test_no_team_lifts_the_guard_rails if {
	blocked := _asked({"team": "red"}, "raw.paste.example", 443)
	route.allow with input as blocked with data.central as _central with data.teams as _teams
	route.deny == {"paste.example is blocked for every team: anybody can put anything there"} with input as blocked
		with data.central as _central
		with data.teams as _teams
	mail := _asked({"team": "red"}, "api.example", 25)
	route.deny == {"port 25 is allowed to no team"} with input as mail
		with data.central as _central
		with data.teams as _teams
}

test_a_malformed_entry_allows_nothing if {
	every host in ["odd.example", "empty.example"] {
		facts := _asked({"team": "blue"}, host, 443)
		not route.allow with input as facts with data.central as _central with data.teams as _teams
	}
}

test_whoever_has_no_team_reaches_nothing if {
	facts := _asked({}, "api.example", 443)
	not route.allow with input as facts with data.central as _central with data.teams as _teams
	route.reason == {"mia has no team"} with input as facts with data.central as _central with data.teams as _teams
	not route.allow with input as _asked({"team": "green"}, "api.example", 443)
		with data.central as _central
		with data.teams as _teams
}

test_plain_http_is_as_a_tunnel if {
	facts := object.union(_asked({"team": "red"}, "api.example", 443), {"request": {"command": "forward"}})
	route.allow with input as facts with data.central as _central with data.teams as _teams
}

test_other_commands_are_denied if {
	facts := object.union(_asked({"team": "red"}, "api.example", 443), {"request": {"command": "bind"}})
	not route.allow with input as facts with data.central as _central with data.teams as _teams
	route.reason == {"the command bind is not allowed: only connect and forward are"} with input as facts
		with data.central as _central
		with data.teams as _teams
}

test_nothing_is_allowed_without_data if {
	facts := _asked({"team": "red"}, "api.example", 443)
	count(route.deny) == 1 with input as facts with data.central as {} with data.teams as _teams
	not route.allow with input as facts with data.central as _central with data.teams as {}
}
