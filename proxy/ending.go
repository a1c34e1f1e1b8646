package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
	"sallyport/proxy/guard"
	"sallyport/proxy/identity"
	"sallyport/proxy/relay"
	"sallyport/proxy/session"
	"sallyport/proxy/wire/socks4"
	"sallyport/proxy/wire/socks5"
	"sallyport/proxy/wire/target"
)

// refusal is a decision that did not allow.
type refusal struct{ policy.Decision }

func (r *refusal) Error() string {
	if r.Verdict == policy.Fault {
		return r.Err.Error()
	}
	return string(r.Stage) + " denies"
}

// rejection is a refusal of what the client presented of itself.
type rejection struct{ *refusal }

func (r *rejection) Unwrap() error { return r.refusal }

// originError is what an origin server has done wrong.
type originError struct {
	status     int
	proxyError string
	err        error
}

func (e *originError) Error() string { return "origin server: " + e.err.Error() }
func (e *originError) Unwrap() error { return e.err }

// limitError is that a limit of the session has ended it before an origin server has
// begun to answer. It is as good an end as that of a tunnel by the same limit.
type limitError struct{ cause relay.Cause }

func (e *limitError) Error() string { return e.cause.String() }

var errCommand = errors.New("the command is not supported")

// ending is how the end of a session is told: its name to the log and the
// metrics, the rest to the client.
type ending struct {
	name       string
	socks5     socks5.Reply
	status     int
	proxyError string        // RFC 9209 §2.3
	decision   string        // id
	retry      time.Duration // after which to come again
	told       []string      // the policy's reasons, where it explains itself
}

// endingOf is the one table from errors to endings.
func endingOf(err error) ending {
	var r *refusal
	var spelling *target.Error
	var cut session.ErrCut
	var hop *dial.HopError
	var held *guard.Refusal
	if errors.As(err, &held) {
		name := "limit"
		if held.Cause == "ban" {
			name = "banned"
		}
		return ending{name: name, socks5: socks5.NotAllowed, status: http.StatusTooManyRequests, proxyError: "http_request_denied", retry: held.Retry}
	}
	if errors.As(err, &hop) {
		return hopEnding(hop)
	}
	var origin *originError
	if errors.As(err, &origin) {
		name := "failed"
		if origin.status == http.StatusGatewayTimeout {
			name = "timeout"
		}
		return ending{name: name, socks5: socks5.GeneralFailure, status: origin.status, proxyError: origin.proxyError}
	}
	if e, ok := malformed(err); ok {
		return e
	}
	switch {
	case errors.As(err, new(*limitError)):
		return ending{name: "ok", socks5: socks5.GeneralFailure, status: http.StatusServiceUnavailable, proxyError: "connection_terminated"}
	case errors.As(err, &cut):
		return ending{name: "cut", socks5: socks5.GeneralFailure, status: http.StatusServiceUnavailable, proxyError: "connection_terminated"}
	case errors.As(err, &r) && r.Verdict == policy.Fault:
		return ending{name: "fault", socks5: socks5.GeneralFailure, status: http.StatusServiceUnavailable, proxyError: "proxy_internal_error"}
	case errors.As(err, &r) && r.Stage == policy.Dial:
		return ending{name: "denied", socks5: socks5.NotAllowed, status: http.StatusForbidden, proxyError: "destination_ip_prohibited"}
	case errors.As(err, &r), errors.Is(err, errNoMethod):
		return ending{name: "denied", socks5: socks5.NotAllowed, status: http.StatusForbidden, proxyError: "http_request_denied"}
	case errors.Is(err, errVia):
		return ending{name: "unsupported", socks5: socks5.CommandNotSupported, status: http.StatusNotImplemented, proxyError: "http_request_error"}
	case errors.Is(err, errOneHop):
		return noUDP()
	case errors.Is(err, dial.ErrNoHop):
		return ending{name: "upstream_none", socks5: socks5.GeneralFailure, status: http.StatusBadGateway, proxyError: "destination_unavailable"}
	case errors.Is(err, errCommand):
		return ending{name: "unsupported", socks5: socks5.CommandNotSupported, status: http.StatusMethodNotAllowed, proxyError: "http_request_error"}
	case errors.Is(err, errNoProxyRequest):
		return ending{name: "malformed", socks5: socks5.GeneralFailure, status: http.StatusBadRequest, proxyError: "http_request_error",
			told: []string{err.Error()}}
	case errors.Is(err, errScheme):
		return ending{name: "unsupported", socks5: socks5.GeneralFailure, status: http.StatusNotImplemented, proxyError: "http_request_error",
			told: []string{err.Error()}}
	case errors.Is(err, errNotSpoken):
		return ending{name: "unsupported", socks5: socks5.GeneralFailure, status: http.StatusNotImplemented, proxyError: "http_request_error",
			told: []string{err.Error()}}
	case errors.Is(err, socks5.ErrAddressType):
		return ending{name: "unsupported", socks5: socks5.AddressTypeNotSupported, status: http.StatusBadRequest, proxyError: "http_request_error"}
	case errors.Is(err, errUnknownClient), errors.As(err, &spelling), errors.Is(err, socks5.ErrEmptyName), errors.Is(err, socks5.ErrVersion),
		errors.Is(err, socks4.ErrEmptyName), errors.Is(err, socks4.ErrTooLong), errors.Is(err, errAnnounced):
		return ending{name: "malformed", socks5: socks5.GeneralFailure, status: http.StatusBadRequest, proxyError: "http_request_error"}
	case errors.Is(err, identity.ErrBusy):
		return ending{name: "limit", socks5: socks5.NotAllowed, status: http.StatusTooManyRequests, proxyError: "http_request_denied", retry: time.Second}
	case errors.Is(err, dial.ErrUnresolved):
		return ending{name: "unresolved", socks5: socks5.HostUnreachable, status: http.StatusBadGateway, proxyError: dnsError(err)}
	case errors.Is(err, dial.ErrResolveFailed):
		return ending{name: "resolver", socks5: socks5.HostUnreachable, status: http.StatusBadGateway, proxyError: dnsError(err)}
	case errors.Is(err, dial.ErrResolveTimeout):
		return ending{name: "timeout", socks5: socks5.HostUnreachable, status: http.StatusGatewayTimeout, proxyError: "dns_timeout"}
	case errors.Is(err, dial.ErrRefused):
		return ending{name: "refused", socks5: socks5.ConnectionRefused, status: http.StatusBadGateway, proxyError: "connection_refused"}
	case errors.Is(err, dial.ErrTimeout):
		return ending{name: "timeout", socks5: socks5.HostUnreachable, status: http.StatusGatewayTimeout, proxyError: "connection_timeout"}
	case errors.Is(err, dial.ErrHostUnreachable):
		return ending{name: "unreachable", socks5: socks5.HostUnreachable, status: http.StatusGatewayTimeout, proxyError: "destination_ip_unroutable"}
	case errors.Is(err, dial.ErrNetworkUnreachable):
		return ending{name: "unreachable", socks5: socks5.NetworkUnreachable, status: http.StatusBadGateway, proxyError: "destination_ip_unroutable"}
	case errors.As(err, new(*tlsError)) && !unanswerable(err):
		return ending{name: "tls", socks5: socks5.GeneralFailure, status: http.StatusBadRequest, proxyError: "http_request_error"}
	case errors.Is(err, os.ErrDeadlineExceeded): // of the handshake
		return ending{name: "timeout", socks5: socks5.GeneralFailure, status: http.StatusRequestTimeout, proxyError: "http_request_error"}
	case unanswerable(err): // the client has hung up, perhaps before its first byte
		return ending{name: "incomplete", socks5: socks5.GeneralFailure, status: http.StatusBadRequest, proxyError: "http_request_error"}
	}
	return ending{name: "failed", socks5: socks5.GeneralFailure, status: http.StatusBadGateway, proxyError: "proxy_internal_error"}
}

// fail tells the client, where it can be told, and hangs up.
func (l *life) fail(err error) {
	e := l.settle(err)
	if errors.Is(err, errGivenUp) {
		abort(l.conn.Plain())
		return
	}
	if l.dialect == nil {
		if e.name == "tls" { // whose alert says why
			l.conn.SetDeadline(time.Now().Add(2 * time.Second))
			l.hangUp()
		}
		return
	}
	if l.tell(err, &e) == nil {
		// Only now, so that a session that was cut is told so before it is hurried.
		defer context.AfterFunc(l.session.Context(), func() { l.conn.SetDeadline(time.Unix(1, 0)) })()
		l.hangUp()
	}
}

// settle notes for the record how a request has failed, counts it, and says what
// to tell of it. Its identity has it open no more.
func (l *life) settle(err error) ending {
	l.err = err
	e := endingOf(err)
	l.outcome = e.name
	switch e.name {
	case "limit":
		l.proxy.Observe.Refused("limit")
	case "banned":
		l.proxy.Observe.Refused("ban")
	}
	e.decision = l.answer.ID // the latest, where no decision was the cause
	var r *refusal
	if errors.As(err, &r) {
		if r.Verdict == policy.Denied && e.name != "cut" { // which the client did nothing for
			at := l.facts.Address.IP
			if !at.IsValid() {
				at = l.facts.Target.IP
			}
			l.denied(l.facts.Target.Host, at.Addr)
		}
		e.decision = r.ID
		l.reasons = r.Reasons()
		if r.Explain {
			e.told = l.reasons
		}
	}
	l.release()
	return e
}

// tell tells the client, unless there is no way to.
func (l *life) tell(err error, e *ending) error {
	l.conn.SetDeadline(time.Now().Add(2 * time.Second))
	var rejected *rejection
	switch {
	case errors.As(err, &rejected), errors.Is(err, errNoMethod):
		return l.dialect.Reject(e)
	case unanswerable(err):
		return nil
	}
	return l.dialect.Refuse(e)
}

// unanswerable tells an end before the client had asked in a way that its
// protocol can answer.
func unanswerable(err error) bool {
	var origin *originError
	if errors.As(err, &origin) {
		return false
	}
	// What the system says of a target or a name server may well be an end or a
	// deadline, but it is not the client's.
	for _, elsewhere := range []error{dial.ErrTimeout, dial.ErrResolveTimeout, dial.ErrResolveFailed} {
		if errors.Is(err, elsewhere) {
			return false
		}
	}
	return errors.Is(err, errGone) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded)
}

// hangUp closes so that the answer arrives: unread bytes would turn the close
// into a reset that overtakes it.
func (l *life) hangUp() {
	if l.conn.CloseWrite() == nil {
		io.CopyN(io.Discard, l.conn.Plain(), 256<<10)
	}
}

// record is what is said of the session once.
func (l *life) record() *session.Record {
	r := &session.Record{
		Snapshot: l.session.Snapshot(),
		Asked:    l.asked,
		Outcome:  l.outcome, Reasons: l.reasons, Warnings: l.warnings, Revision: l.revision,
		Requests: l.requests,
	}
	switch {
	case l.err != nil: // says more, for a session that was cut by whom
		r.Cause = l.err.Error()
	case l.outcome == "ok":
		r.Cause = l.cause.String()
	}
	return r
}
