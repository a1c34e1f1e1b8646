package sallyport.admit_test

import data.sallyport.admit

stranger(denials) := {"source": {"prefixes": ["198.51.100.7/32"], "denials": {"minute": denials}}}

friend := {"source": {"prefixes": ["192.0.2.7/32", "192.0.2.0/24"], "denials": {"minute": 1000}}}

test_strangers_have_limits if {
	admit.allow with input as stranger(0)
	admit.limits.connections == 50 with input as stranger(0)
	not admit.ban with input as stranger(100)
}

test_who_floods_is_banned if admit.ban.for == "10m" with input as stranger(101)

test_the_trusted_have_none if {
	not admit.limits with input as friend
	not admit.ban with input as friend
}
