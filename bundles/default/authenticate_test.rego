package sallyport.authenticate_test

import data.sallyport.authenticate

_presented(method, verified, ip, scope) := {
	"credentials": {"method": method, "verified": verified},
	"source": {"ip": ip, "scope": scope},
}

test_verified_credentials_are_allowed_from_anywhere if {
	authenticate.allow with input as _presented("password", true, "198.51.100.7", "reserved")
	authenticate.reason == set() with input as _presented("password", true, "198.51.100.7", "reserved")
}

test_unverified_credentials_are_denied_even_from_loopback if {
	facts := _presented("password", false, "127.0.0.1", "loopback")
	not authenticate.allow with input as facts
	authenticate.reason == {"the password is wrong, or the user is unknown, disabled or expired"} with input as facts
}

test_no_credentials_are_allowed_from_loopback if {
	authenticate.allow with input as _presented("none", false, "127.0.0.1", "loopback")
	authenticate.allow with input as _presented("none", false, "::1", "loopback")
}

test_no_credentials_are_denied_from_elsewhere if {
	facts := _presented("none", false, "10.0.0.7", "private")
	not authenticate.allow with input as facts
	reason := `no credentials, and "10.0.0.7" is neither loopback nor in data.settings.anonymous_from`
	authenticate.reason == {reason} with input as facts
}

test_no_credentials_are_allowed_from_the_networks_of_the_settings if {
	authenticate.allow with input as _presented("none", false, "10.1.2.3", "private")
		with data.settings.anonymous_from as ["192.0.2.0/24", "10.1.0.0/16"]
	authenticate.allow with input as _presented("none", false, "fd00::7", "private")
		with data.settings.anonymous_from as ["fd00::/8"]
	not authenticate.allow with input as _presented("none", false, "10.2.2.3", "private")
		with data.settings.anonymous_from as ["192.0.2.0/24", "10.1.0.0/16"]
}

test_the_networks_of_the_settings_excuse_no_wrong_password if {
	not authenticate.allow with input as _presented("password", false, "10.1.2.3", "private")
		with data.settings.anonymous_from as ["10.1.0.0/16"]
}

test_a_client_without_an_address_is_in_no_network if {
	not authenticate.allow with input as _presented("none", false, "", "")
		with data.settings.anonymous_from as ["0.0.0.0/0", "::/0"]
}
