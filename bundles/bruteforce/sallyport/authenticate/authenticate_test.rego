package sallyport.authenticate_test

import data.sallyport.authenticate

login(verified, failures) := {
	"credentials": {"method": "password", "verified": verified, "failures": {"hour": 0}},
	"source": {"prefixes": ["198.51.100.7/32"], "failures": {"hour": failures}},
}

test_the_right_password_is_never_slow if {
	authenticate.allow with input as login(true, 20)
	not authenticate.delay with input as login(true, 20)
	not authenticate.ban with input as login(true, 20)
}

test_each_failure_costs_more if {
	not authenticate.allow with input as login(false, 0)
	authenticate.delay == 0 with input as login(false, 0)
	authenticate.delay == 3 with input as login(false, 3)
	authenticate.delay == 8 with input as login(false, 30)
}

test_the_fifth_bans if {
	not authenticate.ban with input as login(false, 3)
	authenticate.ban.for == "1h" with input as login(false, 4)
}

test_the_trusted_are_not_banned if {
	trusted := object.union(login(false, 40), {"source": {"prefixes": ["192.0.2.0/24"]}})
	not authenticate.ban with input as trusted
}
