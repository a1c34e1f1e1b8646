# METADATA
# title: Authenticate, by default
# description: |
#   Verified credentials are allowed. A client without any is allowed from
#   loopback and from the networks in data.settings.anonymous_from, an array of
#   CIDRs such as ["10.0.0.0/8"].
# schemas:
#   - input: schema.authenticate
package sallyport.authenticate

default allow := false

allow if input.credentials.verified

allow if {
	input.credentials.method == "none"
	_anonymous_source
}

reason contains "the password is wrong, or the user is unknown, disabled or expired" if {
	input.credentials.method != "none"
	not input.credentials.verified
}

reason contains message if {
	input.credentials.method == "none"
	not _anonymous_source
	message := sprintf("no credentials, and %q is neither loopback nor in data.settings.anonymous_from", [input.source.ip])
}

_anonymous_source if input.source.scope == "loopback"

_anonymous_source if {
	# The client of a unix socket has no address.
	input.source.ip != ""
	some network in data.settings.anonymous_from
	net.cidr_contains(network, input.source.ip)
}
