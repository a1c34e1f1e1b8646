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
	"sallyport/proxy/identity"
	"sallyport/proxy/session"
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
	if e, ok := malformed(err); ok {
		return e
	}
	switch {
	case errors.As(err, &cut):
		return ending{name: "cut", socks5: socks5.GeneralFailure, status: http.StatusServiceUnavailable, proxyError: "connection_terminated"}
	case errors.As(err, &r) && r.Verdict == policy.Fault:
		return ending{name: "fault", socks5: socks5.GeneralFailure, status: http.StatusServiceUnavailable, proxyError: "proxy_internal_error"}
	case errors.As(err, &r) && r.Stage == policy.Dial:
		return ending{name: "denied", socks5: socks5.NotAllowed, status: http.StatusForbidden, proxyError: "destination_ip_prohibited"}
	case errors.As(err, &r), errors.Is(err, errNoMethod):
		return ending{name: "denied", socks5: socks5.NotAllowed, status: http.StatusForbidden, proxyError: "http_request_denied"}
	case errors.Is(err, errCommand):
		return ending{name: "unsupported", socks5: socks5.CommandNotSupported, status: http.StatusMethodNotAllowed, proxyError: "http_request_error",
			told: []string{"only CONNECT is supported: curl asks for it by --proxytunnel"}}
	case errors.Is(err, socks5.ErrAddressType):
		return ending{name: "unsupported", socks5: socks5.AddressTypeNotSupported, status: http.StatusBadRequest, proxyError: "http_request_error"}
	case errors.As(err, &spelling), errors.Is(err, socks5.ErrEmptyName), errors.Is(err, socks5.ErrVersion):
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
	case errors.Is(err, os.ErrDeadlineExceeded): // of the handshake
		return ending{name: "timeout", socks5: socks5.GeneralFailure, status: http.StatusRequestTimeout, proxyError: "http_request_error"}
	case unanswerable(err): // the client has hung up, perhaps before its first byte
		return ending{name: "incomplete", socks5: socks5.GeneralFailure, status: http.StatusBadRequest, proxyError: "http_request_error"}
	}
	return ending{name: "failed", socks5: socks5.GeneralFailure, status: http.StatusBadGateway, proxyError: "proxy_internal_error"}
}

// fail tells the client, where it can be told, and hangs up.
func (l *life) fail(err error) {
	l.err = err
	e := endingOf(err)
	l.outcome = e.name
	if e.name == "limit" {
		l.proxy.Observe.Refused("limit")
	}
	e.decision = l.answer.ID // the latest, where no decision was the cause
	var r *refusal
	if errors.As(err, &r) {
		if r.Verdict == policy.Denied {
			l.proxy.Guard.Denied(l.conn.Source.Addr(), l.identity)
		}
		e.decision = r.ID
		l.reasons = r.Reasons()
		if r.Explain {
			e.told = l.reasons
		}
	}
	if l.dialect == nil {
		return
	}
	l.conn.SetDeadline(time.Now().Add(2 * time.Second))
	var rejected *rejection
	var told error
	if errors.As(err, &rejected) || errors.Is(err, errNoMethod) {
		told = l.dialect.Reject(&e)
	} else if !unanswerable(err) {
		told = l.dialect.Refuse(&e)
	}
	if told == nil {
		// Only now, so that a session that was cut is told so before it is hurried.
		defer context.AfterFunc(l.session.Context(), func() { l.conn.SetDeadline(time.Unix(1, 0)) })()
		l.hangUp()
	}
}

// unanswerable tells an end before the client had asked in a way that its
// protocol can answer.
func unanswerable(err error) bool {
	return errors.Is(err, errGone) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded)
}

// hangUp closes so that the answer arrives: unread bytes would turn the close
// into a reset that overtakes it.
func (l *life) hangUp() {
	if l.conn.CloseWrite() == nil {
		io.CopyN(io.Discard, l.conn.TCPConn, 256<<10)
	}
}

// record is what is said of the session once.
func (l *life) record() *session.Record {
	r := &session.Record{
		Snapshot: l.session.Snapshot(),
		Asked:    l.asked,
		Outcome:  l.outcome, Reasons: l.reasons, Warnings: l.warnings, Revision: l.revision,
	}
	switch {
	case l.err != nil: // says more, for a session that was cut by whom
		r.Cause = l.err.Error()
	case l.outcome == "ok":
		r.Cause = l.cause.String()
	}
	return r
}
