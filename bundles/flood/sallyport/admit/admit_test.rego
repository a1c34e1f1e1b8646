package sallyport.admit_test

import data.sallyport.admit

rules := {
	"trusted": {"192.0.2.0/24": "friends"},
	"limits": {"connections": 20, "rate": "5/s"},
	"networks": {"198.51.100.0/24": {"connections": 200}, "198.51.0.0/16": {"connections": 900}},
	"bans": [
		{"measure": "connections in a minute", "over": 600, "for": 60},
		{"measure": "connections open", "over": 100, "for": 120},
		{"measure": "denials in a minute", "over": 50, "for": 600},
	],
}

source(prefixes, minute, open, denials) := {"source": {
	"prefixes": prefixes, "open": open,
	"rate": {"second": 1, "minute": minute},
	"denials": {"minute": denials, "hour": denials, "day": denials},
}}

stranger := ["203.0.113.7/32", "203.0.113.0/24"]

test_a_stranger_has_limits if {
	admit.allow with input as source(stranger, 1, 0, 0) with data.flood as rules
	admit.limits == rules.limits with input as source(stranger, 1, 0, 0) with data.flood as rules
	not admit.ban with input as source(stranger, 600, 100, 50) with data.flood as rules
}

test_a_network_has_its_own if {
	pupil := ["198.51.100.7/32", "198.51.100.0/24", "198.51.0.0/16"]
	limits := admit.limits with input as source(pupil, 1, 0, 0) with data.flood as rules
	limits == {"connections": 200, "prefix": "198.51.100.0/24"}
}

test_each_measure_bans if {
	admit.ban == {"for": 60} with input as source(stranger, 601, 0, 0) with data.flood as rules
	admit.ban == {"for": 120} with input as source(stranger, 1, 101, 0) with data.flood as rules
	admit.ban == {"for": 600} with input as source(stranger, 1, 0, 51) with data.flood as rules
}

test_the_longest_applies_and_all_are_told if {
	admit.ban == {"for": 120} with input as source(stranger, 601, 101, 0) with data.flood as rules
	reasons := admit.reason with input as source(stranger, 601, 101, 0) with data.flood as rules
	reasons == {"connections in a minute: 601, and 600 are a flood", "connections open: 101, and 100 are a flood"}
}

test_the_trusted_are_let_be if {
	friend := source(["192.0.2.7/32", "192.0.2.0/24"], 100000, 10000, 100000)
	admit.allow with input as friend with data.flood as rules
	not admit.limits with input as friend with data.flood as rules
	not admit.ban with input as friend with data.flood as rules
}

test_a_measure_that_is_none_is_warned_of if {
	wrong := object.union(rules, {"bans": [{"measure": "connections a minute", "over": 1, "for": 60}]})
	warnings := admit.warn with input as source(stranger, 1, 0, 0) with data.flood as wrong
	warnings == {"flood.bans: there is no measure \"connections a minute\""}
	not admit.warn.x with input as source(stranger, 1, 0, 0) with data.flood as rules
}

# The numbers that are shipped ban nobody who browses, and nobody on this machine.
test_shipped_numbers_are_safe if {
	not admit.ban with input as source(stranger, 3000, 200, 100)
	not admit.limits with input as source(["127.0.0.1/32", "127.0.0.0/8"], 100000, 10000, 100000)
}
