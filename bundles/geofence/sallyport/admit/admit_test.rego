package sallyport.admit_test

import data.sallyport.admit

_geofence := {
	"clients": {"countries": {"DE": "allow"}, "unknown": "deny"},
	"internal": {"clients": {"10.0.0.0/8": "the offices"}},
}

_client(ip, scope, country) := {"source": {
	"ip": ip,
	"scope": scope,
	"prefixes": [sprintf("%s/32", [ip]), "10.0.0.0/8"],
	"geo": {"country": country, "continent": "", "city": "", "asn": 0, "organization": "Example"},
}}

test_clients_within_the_fence_are_allowed if {
	facts := _client("93.184.216.34", "public", "DE")
	admit.allow with input as facts with data.geofence as _geofence
	admit.reason == set() with input as facts with data.geofence as _geofence
	admit.labels == {"client.country": "DE"} with input as facts
}

test_clients_elsewhere_are_denied if {
	facts := _client("93.184.216.34", "public", "FR")
	not admit.allow with input as facts with data.geofence as _geofence
	admit.reason == {"93.184.216.34 is in FR"} with input as facts with data.geofence as _geofence
}

test_clients_from_nowhere_are_denied if {
	facts := _client("93.184.216.34", "public", "")
	not admit.allow with input as facts with data.geofence as _geofence
	admit.reason == {"93.184.216.34 is in a country that no database tells"} with input as facts
		with data.geofence as _geofence
}

test_internal_networks_are_in_no_country if {
	admit.allow with input as _client("10.1.2.3", "private", "") with data.geofence as _geofence
	facts := _client("10.1.2.3", "private", "DE")
	not admit.allow with input as facts with data.geofence as object.remove(_geofence, ["internal"])
	admit.reason == {"10.1.2.3 is a private address of no internal network"} with input as facts
		with data.geofence as object.remove(_geofence, ["internal"])
}
