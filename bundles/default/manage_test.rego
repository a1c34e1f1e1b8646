package sallyport.manage_test

import data.sallyport.manage

_stranger := {
	"method": "GET",
	"path": ["v1", "sessions"],
	"token": {"name": "", "roles": []},
	"certificate": {"fingerprint_sha256": ""},
	"peer": {"same_user": false},
	"source": {"scope": "loopback"},
}

_call(changes) := {"api": object.union(_stranger, changes)}

test_a_stranger_is_denied_even_from_loopback if {
	not manage.allow with input as _call({})
	manage.reason == {"neither a valid token, nor a client certificate, nor the server's own user"} with input as _call({})
}

test_known_callers_are_allowed if {
	manage.allow with input as _call({"token": {"name": "ops"}, "method": "DELETE", "source": {"scope": "private"}})
	manage.allow with input as _call({"certificate": {"fingerprint_sha256": "c0ffee"}})
	manage.allow with input as _call({"peer": {"same_user": true}})
	manage.reason == set() with input as _call({"peer": {"same_user": true}})
}

test_metrics_are_open_from_loopback if {
	manage.allow with input as _call({"path": ["metrics"]})
	manage.reason == set() with input as _call({"path": ["metrics"]})
}

test_metrics_are_closed_to_everything_else if {
	not manage.allow with input as _call({"path": ["metrics"], "source": {"scope": "private"}})
	not manage.allow with input as _call({"path": ["metrics"], "source": {"scope": ""}})
	not manage.allow with input as _call({"path": ["metrics"], "method": "POST"})
	not manage.allow with input as _call({"path": ["metrics", "x"]})
	not manage.allow with input as _call({"path": []})
}
