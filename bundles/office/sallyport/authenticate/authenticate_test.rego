package sallyport.authenticate_test

import data.sallyport.authenticate

test_verified_credentials_are_allowed if {
	facts := {"credentials": {"method": "password", "verified": true}}
	authenticate.allow with input as facts
	authenticate.reason == set() with input as facts
}

test_other_credentials_are_denied if {
	facts := {"credentials": {"method": "password", "verified": false}}
	not authenticate.allow with input as facts
	count(authenticate.reason) == 1 with input as facts
}

test_no_credentials_are_denied if {
	not authenticate.allow with input as {"credentials": {"method": "none", "verified": false}}
}
