package sallyport.dial_test

import data.sallyport.dial

_geofence := {
	"targets": {"countries": {"US": "allow", "BY": "deny"}, "continents": {"EU": "allow"}, "unknown": "deny"},
	"internal": {"targets": {"10.20.0.0/16": "servers", "0.0.0.0/0": "everything"}},
}

_dialled(ip, network, scope, country, continent) := {
	"target": {"host": "www.example"},
	"address": {
		"ip": ip,
		"scope": scope,
		"prefixes": [sprintf("%s/32", [ip]), network],
		"geo": {"country": country, "continent": continent, "city": "", "asn": 0, "organization": "Example"},
	},
}

_public(country, continent) := _dialled("93.184.216.34", "93.184.216.0/24", "public", country, continent)

test_addresses_within_the_fence_are_allowed if {
	every facts in [_public("US", "NA"), _public("FR", "EU")] {
		dial.allow with input as facts with data.geofence as _geofence
		dial.deny == set() with input as facts with data.geofence as _geofence
		dial.reason == set() with input as facts with data.geofence as _geofence
	}
}

test_addresses_elsewhere_are_denied if {
	not dial.allow with input as _public("BY", "EU") with data.geofence as _geofence
	facts := _public("BR", "SA")
	not dial.allow with input as facts with data.geofence as _geofence
	dial.explain with input as facts with data.geofence as _geofence
	dial.reason == {"www.example is at 93.184.216.34, in BR"} with input as facts
		with data.geofence as _geofence
}

test_the_unknown_is_denied_unless_the_data_allow_it if {
	facts := _public("", "")
	not dial.allow with input as facts with data.geofence as _geofence
	dial.reason == {"www.example is at 93.184.216.34, in a country that no database tells"} with input as facts
		with data.geofence as _geofence
	dial.allow with input as facts with data.geofence as {"targets": {"unknown": "allow"}}
}

test_internal_networks_are_in_no_country if {
	dial.allow with input as _dialled("10.20.0.7", "10.20.0.0/16", "private", "", "") with data.geofence as _geofence
	facts := _dialled("10.21.0.7", "10.21.0.0/16", "private", "US", "NA")
	not dial.allow with input as facts with data.geofence as _geofence
	dial.reason == {"www.example is at 10.21.0.7, a private address of no internal network"} with input as facts
		with data.geofence as _geofence
}

test_no_network_opens_the_metadata_service if {
	every scope in ["link_local", "metadata", "multicast", "unspecified"] {
		dial.deny == {sprintf("169.254.169.254 is a %s address", [scope])}
			with input as _dialled("169.254.169.254", "0.0.0.0/0", scope, "", "")
			with data.geofence as _geofence
	}
}
