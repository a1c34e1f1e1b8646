package sallyport.dial_test

import data.sallyport.dial

_lists := {
	"ports": [443],
	"groups": {"services": {"networks": {"10.1.0.0/16": {}, "0.0.0.0/0": {"ports": [99]}}}},
	"identities": {"billing": {"networks": {"10.2.0.0/16": {"ports": [5432]}}}},
}

_dialled(name, groups, address, port) := {
	"identity": {"name": name, "groups": groups},
	"target": {"host": "db.corp.example", "port": port},
	"address": address,
}

_public := {"ip": "93.184.216.34", "scope": "public", "prefixes": ["93.184.216.34/32", "0.0.0.0/0"]}

_private(second) := {
	"ip": sprintf("10.%d.3.4", [second]),
	"scope": "private",
	"prefixes": [sprintf("10.%d.3.4/32", [second]), sprintf("10.%d.0.0/16", [second]), "10.0.0.0/8", "0.0.0.0/0"],
}

test_public_addresses_are_allowed if {
	facts := _dialled("stranger", [], _public, 443)
	dial.allow with input as facts with data.egress as _lists
	dial.deny == set() with input as facts with data.egress as _lists
	dial.reason == set() with input as facts with data.egress as _lists
}

test_private_addresses_are_allowed_in_named_networks if {
	dial.allow with input as _dialled("billing", [], _private(2), 5432) with data.egress as _lists
	dial.allow with input as _dialled("billing", ["services"], _private(1), 443) with data.egress as _lists
	dial.allow with input as _dialled("newcomer", ["services"], _private(1), 443) with data.egress as _lists
}

test_other_private_addresses_are_denied if {
	not dial.allow with input as _dialled("billing", [], _private(2), 443) with data.egress as _lists
	not dial.allow with input as _dialled("billing", [], _private(1), 443) with data.egress as _lists
	not dial.allow with input as _dialled("stranger", [], _private(2), 5432) with data.egress as _lists
	not dial.allow with input as _dialled("billing", [], _private(2), 5432) with data.egress as {}
	facts := _dialled("billing", ["services"], _private(3), 443)
	not dial.allow with input as facts with data.egress as _lists
	dial.explain with input as facts with data.egress as _lists
	dial.reason == {"10.3.3.4 is a private address, and in no network of billing with port 443"} with input as facts
		with data.egress as _lists
}

test_no_list_opens_the_proxy_s_own_machine if {
	every scope in ["link_local", "loopback", "metadata", "multicast", "unspecified"] {
		address := {"ip": "169.254.169.254", "scope": scope, "prefixes": ["169.254.169.254/32", "0.0.0.0/0"]}
		dial.deny == {sprintf("169.254.169.254 is a %s address", [scope])}
			with input as _dialled("billing", ["services"], address, 99)
			with data.egress as _lists
	}
}
