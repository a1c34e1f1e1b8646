package sallyport.default_test

import data.sallyport.authenticate
import data.sallyport.dial
import data.sallyport.route

test_verified_is_allowed if authenticate.allow with input.credentials as {"verified": true, "method": "password"}

test_wrong_password_is_denied if {
	not authenticate.allow with input as {
		"credentials": {"verified": false, "method": "password"},
		"source": {"scope": "loopback", "ip": "127.0.0.1"},
	}
}

test_anonymous_only_from_loopback_and_named_ranges if {
	none := {"verified": false, "method": "none"}
	authenticate.allow with input as {"credentials": none, "source": {"scope": "loopback", "ip": "127.0.0.1"}}
	not authenticate.allow with input as {"credentials": none, "source": {"scope": "private", "ip": "10.0.0.1"}}
	authenticate.allow with input as {"credentials": none, "source": {"scope": "private", "ip": "10.0.0.1"}}
		with data.settings.anonymous_from as ["10.0.0.0/8"]
}

test_ports if {
	route.allow with input as {"request": {"command": "connect"}, "target": {"port": 443}}
	not route.allow with input as {"request": {"command": "connect"}, "target": {"port": 25}}
	route.allow with input as {"request": {"command": "connect"}, "target": {"port": 25}}
		with data.settings.allow_ports as [25]
}

test_addresses if {
	dial.allow with input.address as {"scope": "public", "ip": "192.0.2.1"}
	not dial.allow with input.address as {"scope": "private", "ip": "10.0.0.1"}
	dial.allow with input.address as {"scope": "private", "ip": "10.0.0.1"}
		with data.settings.allow_private as ["10.0.0.0/8"]
}
