package sallyport.route_test

import data.sallyport.route

_tokens := {
	"groups": {"dev": {"domains": {"github.com": "code"}}, "staff": {"domains": {"wiki.example": "notes"}}},
	"ports": [443],
}

_asked(host, suffixes, port, groups) := {
	"identity": {"name": "ann", "groups": groups, "attributes": {"expires": 1893456000}},
	"request": {"command": "connect"},
	"target": {"host": host, "suffixes": suffixes, "port": port},
}

_github := _asked("api.github.com", ["api.github.com", "github.com", "com"], 443, ["staff", "dev"])

test_the_groups_of_the_token_say_where_to if {
	route.allow with input as _github with data.tokens as _tokens
	route.reason == set() with input as _github with data.tokens as _tokens
	route.session_limits == {"until": 1893456000000000000} with input as _github with data.tokens as _tokens
}

test_plain_http_is_as_a_tunnel if {
	route.allow with input as object.union(_github, {"request": {"command": "forward"}}) with data.tokens as _tokens
}

test_other_names_are_denied if {
	facts := _asked("github.com", ["github.com", "com"], 443, ["staff"])
	not route.allow with input as facts with data.tokens as _tokens
	route.reason == {"github.com is on no list of ann (staff)"} with input as facts with data.tokens as _tokens
	not route.allow with input as _asked("evilgithub.com", ["evilgithub.com", "com"], 443, ["dev"]) with data.tokens as _tokens
	not route.allow with input as _asked("github.com", ["github.com", "com"], 443, []) with data.tokens as _tokens
}

test_other_ports_and_commands_are_denied if {
	facts := _asked("github.com", ["github.com", "com"], 22, ["dev"])
	not route.allow with input as facts with data.tokens as _tokens
	route.reason == {"connect 22 is not allowed: only connect and forward are, to the ports [443]"} with input as facts
		with data.tokens as _tokens
	not route.allow with input as object.union(_github, {"request": {"command": "bind"}}) with data.tokens as _tokens
}

# Nobody stays without an end.
test_who_has_no_token_is_denied if {
	facts := json.remove(_github, ["/identity/attributes/expires"])
	not route.allow with input as facts with data.tokens as _tokens
}
