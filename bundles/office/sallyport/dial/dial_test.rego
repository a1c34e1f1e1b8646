package sallyport.dial_test

import data.sallyport.dial

_office := {"internal": {"10.1.2.0/24": "servers", "0.0.0.0/0": "everything"}}

_dialled(ip, network, scope) := {
	"target": {"host": "wiki.example"},
	"address": {"ip": ip, "scope": scope, "prefixes": [sprintf("%s/32", [ip]), network]},
}

test_public_addresses_are_allowed if {
	facts := _dialled("93.184.216.34", "93.184.216.0/24", "public")
	dial.allow with input as facts with data.office as _office
	dial.deny == set() with input as facts with data.office as _office
	dial.reason == set() with input as facts with data.office as _office
}

test_the_office_s_servers_are_allowed if {
	dial.allow with input as _dialled("10.1.2.3", "10.1.2.0/24", "private") with data.office as _office
}

test_other_addresses_are_denied if {
	facts := _dialled("10.1.3.3", "10.1.3.0/24", "private")
	not dial.allow with input as facts with data.office as _office
	dial.explain with input as facts
	dial.reason == {"wiki.example is at 10.1.3.3, a private address that is no server of the office"} with input as facts
		with data.office as _office
	not dial.allow with input as _dialled("10.1.2.3", "10.1.2.0/24", "private") with data.office as {}
}

test_no_network_opens_the_metadata_service if {
	every scope in ["link_local", "metadata", "multicast", "unspecified"] {
		dial.deny == {sprintf("169.254.169.254 is a %s address", [scope])}
			with input as _dialled("169.254.169.254", "0.0.0.0/0", scope)
			with data.office as _office
	}
}
