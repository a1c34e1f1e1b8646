package sallyport.dial_test

import data.sallyport.dial

_rules := {
	"networks": {
		"198.51.100.0/24": [{"action": "allow", "groups": ["ops"]}, {"action": "deny", "note": "rented by somebody else"}],
		"203.0.113.0/24": {"action": "redirect", "to": {"host": "a.example"}},
		"192.0.2.0/24": {"actoin": "allow"},
	},
	"internal": {"10.20.0.0/16": "servers", "0.0.0.0/0": "everything"},
}

_dialled(groups, ip, network, scope) := {
	"identity": {"name": "mia", "groups": groups},
	"target": {"host": "www.example", "port": 443},
	"address": {"ip": ip, "scope": scope, "prefixes": [sprintf("%s/32", [ip]), network]},
}

test_public_addresses_are_allowed if {
	facts := _dialled([], "93.184.216.34", "93.184.216.0/24", "public")
	dial.allow with input as facts with data.rules as _rules
	dial.deny == set() with input as facts with data.rules as _rules
	dial.reason == set() with input as facts with data.rules as _rules
	dial.allow with input as facts with data.rules as {}
}

test_addresses_of_forbidden_networks_are_denied if {
	facts := _dialled([], "198.51.100.7", "198.51.100.0/24", "public")
	not dial.allow with input as facts with data.rules as _rules
	reason := "www.example leads to 198.51.100.7, rule 2 at 198.51.100.0/24: rented by somebody else"
	dial.deny == {reason} with input as facts with data.rules as _rules
	dial.allow with input as _dialled(["ops"], "198.51.100.7", "198.51.100.0/24", "public") with data.rules as _rules
	not dial.allow with input as _dialled([], "203.0.113.7", "203.0.113.0/24", "public") with data.rules as _rules
}

test_a_rule_that_is_not_understood_denies if {
	facts := _dialled([], "192.0.2.7", "192.0.2.0/24", "public")
	count(dial.deny) == 2 with input as facts with data.rules as _rules
}

test_internal_networks_are_allowed if {
	dial.allow with input as _dialled([], "10.20.0.7", "10.20.0.0/16", "private") with data.rules as _rules
	facts := _dialled([], "10.21.0.7", "10.21.0.0/16", "private")
	not dial.allow with input as facts with data.rules as _rules
	dial.explain with input as facts with data.rules as _rules
	reason := "www.example leads to 10.21.0.7, a private address that is not in data.rules.internal"
	dial.reason == {reason} with input as facts
		with data.rules as _rules
}

test_no_network_opens_the_metadata_service if {
	every scope in ["link_local", "metadata", "multicast", "unspecified"] {
		dial.deny == {sprintf("169.254.169.254 is a %s address", [scope])}
			with input as _dialled(["ops"], "169.254.169.254", "0.0.0.0/0", scope)
			with data.rules as _rules
	}
}
