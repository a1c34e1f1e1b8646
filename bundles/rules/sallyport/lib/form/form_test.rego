package sallyport.lib.form_test

import data.sallyport.lib.form

test_what_is_understood if {
	every rule in [
		{"action": "allow"},
		{"action": "deny", "priority": -7, "note": "no"},
		{"action": "allow", "ports": [1, 443, {"from": 8000, "to": 8099}], "groups": ["dev"], "wildcard": "*.a-b_c.*"},
		{"action": "redirect", "to": {"host": "a.example"}},
		{"action": "redirect", "to": {"host": "a.example", "port": 443}},
	] {
		form.problems(rule) == set()
	}
}

test_what_is_not if {
	wrong := {
		"action": [{}, {"action": "alow"}, {"action": true}],
		"prots": [{"action": "allow", "prots": [443]}],
		"note": [{"action": "deny", "note": 7}],
		"priority": [{"action": "allow", "priority": "high"}, {"action": "allow", "priority": 1.5}],
		"wildcard": [{"action": "allow", "wildcard": 7}, {"action": "allow", "wildcard": "[a"}],
		"groups": [{"action": "allow", "groups": "dev"}, {"action": "allow", "groups": [7]}],
		"ports": [
			{"action": "allow", "ports": 443},
			{"action": "allow", "ports": null},
			{"action": "allow", "ports": ["443"]},
			{"action": "allow", "ports": [0]},
			{"action": "allow", "ports": [65536]},
			{"action": "allow", "ports": [{"from": 2, "to": 1}]},
			{"action": "allow", "ports": [{"from": 1}]},
		],
		"to": [
			{"action": "redirect"},
			{"action": "allow", "to": {"port": 443}},
			{"action": "redirect", "to": {}},
			{"action": "redirect", "to": "a.example"},
			{"action": "redirect", "to": {"hots": "a.example"}},
			{"action": "redirect", "to": {"host": 7}},
			{"action": "redirect", "to": {"port": "443"}},
		],
	}
	every key, rules in wrong {
		every rule in rules {
			form.problems(rule) == {sprintf("%s is missing, unknown or malformed", [key])}
		}
	}
	every rule in ["deny", 7, null] {
		form.problems(rule) == {"it is not an object"}
	}
}

# The rest hold the data that is shipped.
_rules[place] := data.rules.domains[place]

_rules[place] := data.rules.networks[place]

_rules["any"] := data.rules.any

test_every_rule_of_the_data_is_understood if {
	every rule in [rule | some rules in _rules; some rule in _list(rules)] {
		form.problems(rule) == set()
	}
}

_list(rules) := rules if is_array(rules)

_list(rule) := [rule] if is_object(rule)

test_every_place_of_the_data_is_a_list_or_a_rule if {
	every rules in _rules {
		_list(rules)
	}
}

test_every_domain_is_written_as_targets_are if {
	every domain, _ in data.rules.domains {
		regex.match(`^[a-z0-9_-]+(\.[a-z0-9_-]+)*$`, domain)
	}
}

test_every_network_has_no_host_bits if {
	every network, _ in object.union(data.rules.networks, data.rules.internal) {
		net.cidr_merge([network]) == {network}
	}
}
