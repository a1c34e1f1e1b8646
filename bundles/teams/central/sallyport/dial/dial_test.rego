package sallyport.dial_test

import data.sallyport.dial

_central := {"internal": {"10.30.0.0/16": ["red"], "0.0.0.0/0": ["red"]}}

_dialled(attributes, ip, network, scope) := {
	"identity": {"name": "mia", "attributes": attributes},
	"target": {"host": "db.example"},
	"address": {"ip": ip, "scope": scope, "prefixes": [sprintf("%s/32", [ip]), network]},
}

test_public_addresses_are_allowed if {
	facts := _dialled({}, "93.184.216.34", "93.184.216.0/24", "public")
	dial.allow with input as facts with data.central as _central
	dial.deny == set() with input as facts with data.central as _central
	dial.reason == set() with input as facts with data.central as _central
}

test_internal_networks_are_for_their_teams if {
	dial.allow with input as _dialled({"team": "red"}, "10.30.0.7", "10.30.0.0/16", "private")
		with data.central as _central
	every attributes in [{}, {"team": "blue"}] {
		facts := _dialled(attributes, "10.30.0.7", "10.30.0.0/16", "private")
		not dial.allow with input as facts with data.central as _central
		dial.explain with input as facts
		dial.reason == {"db.example leads to 10.30.0.7, a private address that mia may not reach"} with input as facts
			with data.central as _central
	}
}

test_no_network_opens_the_metadata_service if {
	every scope in ["link_local", "metadata", "multicast", "unspecified"] {
		dial.deny == {sprintf("169.254.169.254 is a %s address", [scope])}
			with input as _dialled({"team": "red"}, "169.254.169.254", "0.0.0.0/0", scope)
			with data.central as _central
	}
}
