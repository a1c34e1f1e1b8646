package sallyport.admit_test

import data.sallyport.admit

_office := {"networks": {"10.1.0.0/16": "the office"}, "contact": "it@office.example"}

_client(ip, network) := {"source": {"ip": ip, "prefixes": [sprintf("%s/32", [ip]), network, "0.0.0.0/0"]}}

test_the_office_may_log_in_with_a_password_only if {
	admit.allow with input as _client("10.1.2.3", "10.1.0.0/16") with data.office as _office
	admit.reason == set() with input as _client("10.1.2.3", "10.1.0.0/16") with data.office as _office
	admit.methods == {"password"} with input as {}
}

test_others_are_told_whom_to_ask if {
	facts := _client("192.0.2.1", "192.0.0.0/16")
	not admit.allow with input as facts with data.office as _office
	admit.reason == {"192.0.2.1 is in no network of the office; ask it@office.example"} with input as facts
		with data.office as _office
	admit.explain with input as facts
}
