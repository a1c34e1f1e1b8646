package sallyport.route_test

import data.sallyport.route

_rules := {
	"domains": {
		"example": {"action": "allow", "ports": [443]},
		"paste.example": [
			{"action": "deny", "wildcard": "raw.*.example", "note": "anybody can put anything there"},
			{"action": "allow", "ports": [443, {"from": 8000, "to": 8099}], "groups": ["dev"]},
			{"action": "deny"},
		],
		"old.example": {"action": "redirect", "to": {"host": "new.example", "port": 8443}},
		"banned.example": {"action": "deny", "priority": 100, "note": "it is banned"},
		"fine.banned.example": {"action": "allow"},
		"odd.example": [{"action": "allow"}, {"action": "allow", "prots": [443]}],
		"worse.example": "deny",
	},
	"networks": {
		"192.0.2.0/24": {"action": "allow"},
		"192.0.2.128/25": {"action": "deny"},
	},
	"any": [{"action": "allow", "groups": ["ops"]}],
}

_suffixes := {
	"banned.example": ["banned.example", "example"],
	"example.net": ["example.net", "net"],
	"fine.banned.example": ["fine.banned.example", "banned.example", "example"],
	"odd.example": ["odd.example", "example"],
	"old.example": ["old.example", "example"],
	"paste.example": ["paste.example", "example"],
	"raw.paste.example": ["raw.paste.example", "paste.example", "example"],
	"worse.example": ["worse.example", "example"],
	"www.example": ["www.example", "example"],
}

_prefixes := {
	"192.0.2.7": ["192.0.2.7/32", "192.0.2.0/25", "192.0.2.0/24", "0.0.0.0/0"],
	"192.0.2.200": ["192.0.2.200/32", "192.0.2.128/25", "192.0.2.0/24", "0.0.0.0/0"],
	"198.51.100.7": ["198.51.100.7/32", "198.51.100.0/24", "0.0.0.0/0"],
}

_asked(groups, host, port) := {
	"identity": {"name": "mia", "groups": groups},
	"request": {"command": "connect"},
	"target": {
		"host": host,
		"port": port,
		"suffixes": object.get(_suffixes, host, []),
		"prefixes": object.get(_prefixes, host, []),
	},
}

test_a_name_is_allowed_by_a_rule_of_its_parents if {
	facts := _asked([], "www.example", 443)
	route.allow with input as facts with data.rules as _rules
	route.deny == set() with input as facts with data.rules as _rules
	route.reason == set() with input as facts with data.rules as _rules
	route.labels == {"rule": "rule 1 at example"} with input as facts with data.rules as _rules
}

test_what_no_rule_speaks_of_is_denied if {
	every facts in [_asked([], "example.net", 443), _asked([], "www.example", 80), _asked([], "198.51.100.7", 443)] {
		not route.allow with input as facts with data.rules as _rules
		reason := sprintf("no rule allows mia to reach %s:%d", [facts.target.host, facts.target.port])
		route.reason == {reason} with input as facts with data.rules as _rules
		route.explain with input as facts with data.rules as _rules
	}
}

test_the_longer_name_decides if {
	facts := _asked([], "paste.example", 443)
	not route.allow with input as facts with data.rules as _rules
	route.deny == {"rule 3 at paste.example: denied"} with input as facts with data.rules as _rules
}

test_the_first_rule_of_a_list_decides if {
	every port in [443, 8000, 8050, 8099] {
		route.allow with input as _asked(["dev"], "paste.example", port) with data.rules as _rules
	}
	every port in [80, 7999, 8100] {
		not route.allow with input as _asked(["dev"], "paste.example", port) with data.rules as _rules
	}
	facts := _asked(["dev"], "raw.paste.example", 443)
	not route.allow with input as facts with data.rules as _rules
	route.deny == {"rule 1 at paste.example: anybody can put anything there"} with input as facts with data.rules as _rules
}

test_the_highest_priority_decides_before_all if {
	facts := _asked(["ops"], "fine.banned.example", 443)
	not route.allow with input as facts with data.rules as _rules
	route.deny == {"rule 1 at banned.example: it is banned"} with input as facts with data.rules as _rules
}

test_a_rule_for_any_target_comes_last if {
	route.allow with input as _asked(["ops"], "example.net", 25) with data.rules as _rules
	route.allow with input as _asked(["ops"], "198.51.100.7", 25) with data.rules as _rules
	not route.allow with input as _asked(["ops"], "paste.example", 25) with data.rules as _rules
}

test_an_address_is_allowed_by_the_smallest_network if {
	route.allow with input as _asked([], "192.0.2.7", 443) with data.rules as _rules
	not route.allow with input as _asked([], "192.0.2.200", 443) with data.rules as _rules
}

test_a_redirect_is_told if {
	facts := _asked([], "old.example", 80)
	route.allow with input as facts with data.rules as _rules
	route.redirect == {"host": "new.example", "port": 8443} with input as facts with data.rules as _rules
	not route.redirect with input as _asked([], "www.example", 443) with data.rules as _rules
}

test_what_is_not_understood_denies if {
	odd := _asked(["ops"], "odd.example", 443)
	route.deny == {"rule 2 at odd.example: prots is missing, unknown or malformed"} with input as odd
		with data.rules as _rules
	worse := _asked(["ops"], "worse.example", 443)
	route.deny == {"rule 1 at worse.example: it is not an object"} with input as worse with data.rules as _rules
}

test_plain_http_is_as_a_tunnel if {
	facts := object.union(_asked(["ops"], "www.example", 443), {"request": {"command": "forward"}})
	route.allow with input as facts with data.rules as _rules
}

test_other_commands_are_denied if {
	facts := object.union(_asked(["ops"], "www.example", 443), {"request": {"command": "bind"}})
	not route.allow with input as facts with data.rules as _rules
	route.reason == {"the command bind is not allowed: only connect and forward are"} with input as facts with data.rules as _rules
}

test_nothing_is_allowed_without_rules if {
	not route.allow with input as _asked(["ops"], "www.example", 443) with data.rules as {}
}

# This holds the data that is shipped.
test_the_shipped_developer_reads_code_but_no_gists if {
	github := object.union(_asked(["dev"], "github.com", 443), {"target": {"suffixes": ["github.com", "com"]}})
	route.allow with input as github
	gist := {"target": {"host": "gist.github.com", "suffixes": ["gist.github.com", "github.com", "com"]}}
	not route.allow with input as object.union(github, gist)
	route.deny == {"rule 1 at github.com: anybody can put anything there"} with input as object.union(github, gist)
}
