package sallyport.dial_test

import data.sallyport.dial

_address(ip, scope) := {"address": {"ip": ip, "scope": scope}}

_elsewhere := {
	"100.64.0.1": "shared",
	"127.0.0.1": "loopback",
	"169.254.0.7": "link_local",
	"169.254.169.254": "metadata",
	"192.0.2.1": "reserved",
	"192.168.1.1": "private",
	"224.0.0.1": "multicast",
	"0.0.0.0": "unspecified",
	"64:ff9b::a01:203": "private",
	"fd00::1": "private",
}

test_public_addresses_are_allowed if {
	dial.allow with input as _address("93.184.216.34", "public")
	dial.allow with input as _address("2606:2800:220:1::1", "public")
	dial.reason == set() with input as _address("93.184.216.34", "public")
}

test_all_other_addresses_are_denied if {
	every ip, scope in _elsewhere {
		not dial.allow with input as _address(ip, scope)
	}
	reason := "192.168.1.1 is not a public address but private, and not in data.settings.allow_private"
	dial.reason == {reason} with input as _address("192.168.1.1", "private")
}

test_the_networks_of_the_settings_are_allowed_too if {
	dial.allow with input as _address("10.1.2.3", "private") with data.settings.allow_private as ["10.1.0.0/16"]
	dial.allow with input as _address("fd00::1", "private") with data.settings.allow_private as ["fd00::/8"]
	not dial.allow with input as _address("10.2.2.3", "private") with data.settings.allow_private as ["10.1.0.0/16"]
}

test_an_address_that_embeds_an_allowed_one_is_denied if {
	not dial.allow with input as _address("64:ff9b::a01:203", "private")
		with data.settings.allow_private as ["10.1.0.0/16"]
}
