package proxy

import (
	"net/http"

	"sallyport/proxy/dial"
	"sallyport/proxy/wire/socks5"
)

// hopEnding is the part of the table of endings that is about upstreams. What an
// upstream says of the target is told as if this proxy had found it out, and what
// is wrong with an upstream is no more of the client's business than that it is.
func hopEnding(e *dial.HopError) ending {
	if e.Target {
		return farEnding(e)
	}
	told := ending{
		name: "upstream_" + string(e.Failure), socks5: socks5.GeneralFailure,
		status: http.StatusBadGateway, proxyError: "destination_unavailable",
	}
	switch e.Failure {
	case dial.HopRefused:
		told.proxyError = "connection_refused"
	case dial.HopTimeout:
		told.status, told.proxyError = http.StatusGatewayTimeout, "connection_timeout"
	case dial.HopUnresolved:
		told.proxyError = "dns_error"
	case dial.HopAuth, dial.HopSource, dial.HopUnsupported:
		told.proxyError = "proxy_configuration_error"
	case dial.HopMalformed:
		told.proxyError = "http_protocol_error"
	case dial.HopTooLarge:
		told.proxyError = "http_response_header_section_size"
	case dial.HopClosed:
		told.proxyError = "connection_terminated"
	case dial.HopTLS:
		told.proxyError = "tls_protocol_error"
	case dial.HopCertificate:
		told.proxyError = "tls_certificate_error"
	}
	return told
}

// noUDP is for an association whose way does not take datagrams.
func noUDP() ending {
	return ending{name: "upstream_no_udp", socks5: socks5.CommandNotSupported, status: http.StatusNotImplemented, proxyError: "proxy_configuration_error"}
}

// farEnding is for what an upstream says of the target.
func farEnding(e *dial.HopError) ending {
	switch e.Failure {
	case dial.HopRefused:
		return endingOf(dial.ErrRefused)
	case dial.HopTimeout:
		return endingOf(dial.ErrTimeout)
	case dial.HopUnreachable:
		if e.Network {
			return endingOf(dial.ErrNetworkUnreachable)
		}
		return endingOf(dial.ErrHostUnreachable)
	case dial.HopDenied:
		return ending{name: "upstream_denied", socks5: socks5.NotAllowed, status: http.StatusForbidden, proxyError: "http_request_denied"}
	case dial.HopNoUDP:
		return noUDP()
	case dial.HopUnsupported:
		return ending{name: "upstream_unsupported", socks5: socks5.AddressTypeNotSupported, status: http.StatusBadGateway, proxyError: "destination_unavailable"}
	}
	return ending{name: "upstream_failed", socks5: socks5.GeneralFailure, status: http.StatusBadGateway, proxyError: "destination_unavailable"}
}
