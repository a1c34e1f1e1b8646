# METADATA
# title: Manage, by default
# description: |
#   A caller with a valid token or client certificate, or the server's own user
#   on a unix socket, may do everything. Metrics may be read from loopback
#   without any of these.
# schemas:
#   - input: schema.manage
package sallyport.manage

default allow := false

allow if _known_caller

allow if _local_metrics

reason contains "neither a valid token, nor a client certificate, nor the server's own user" if {
	not _known_caller
	not _local_metrics
}

_known_caller if input.api.token.name != ""

_known_caller if input.api.certificate.fingerprint_sha256 != ""

_known_caller if input.api.peer.same_user

_local_metrics if {
	input.api.method == "GET"
	input.api.path == ["metrics"]
	input.api.source.scope == "loopback"
}
