# METADATA
# title: Who the client is
# description: Verified credentials, and none from loopback and data.settings.anonymous_from.
# schemas:
#   - input: schema.authenticate
package sallyport.authenticate

default allow := false

allow if input.credentials.verified

allow if {
	input.credentials.method == "none"
	input.source.scope == "loopback"
}

allow if {
	input.credentials.method == "none"
	some cidr in data.settings.anonymous_from
	net.cidr_contains(cidr, input.source.ip)
}

reason := "no verified credentials" if not allow
