package proxy

import (
	"bufio"
	"errors"
	"io"
	"net/netip"

	"sallyport/policy"
	"sallyport/proxy/session"
	"sallyport/proxy/wire/http"
	"sallyport/proxy/wire/socks5"
)

// httpDialect is the server's side of CONNECT (RFC 9110 §9.3.6).
type httpDialect struct {
	conn    io.Writer
	reader  *bufio.Reader
	request *http.Request

	certified bool // by TLS
}

func (d *httpDialect) Present(methods policy.Methods) (presented, error) {
	var err error
	if d.request, err = http.ReadRequest(d.reader); err != nil {
		return presented{}, err
	}
	scheme, user, password, token, present, err := d.request.Authorization()
	if err != nil {
		return presented{}, err
	}
	shown := present && (scheme == "basic" || scheme == "bearer")
	chosen, ok := strongest(methods, d.certified, shown, true)
	switch {
	case !ok:
		return presented{}, errNoMethod
	case chosen == policy.MethodCertificate || chosen == policy.MethodNone:
		return presented{method: chosen, request: d.facts()}, nil
	}
	return presented{method: chosen, username: user, password: password, token: token, request: d.facts()}, nil
}

func (d *httpDialect) facts() policy.Request {
	command := "forward"
	if d.request.Method == "CONNECT" {
		command = "connect"
	}
	return policy.Request{
		Command: command, Method: d.request.Method, Path: d.request.Path, Headers: d.request.Facts(),
	}
}

func (d *httpDialect) Accept() error { return nil }

func (d *httpDialect) Request() (request, error) {
	if d.request.Method != "CONNECT" {
		return request{}, errCommand
	}
	return request{
		facts: d.facts(), host: d.request.Host, port: d.request.Port,
		trace: session.TraceContext{
			Parent: d.request.Header["traceparent"], State: d.request.Header["tracestate"],
		},
	}, nil
}

// Reject answers 407 to a denial, and to all else as to a request.
func (d *httpDialect) Reject(e *ending) error {
	asked := *e
	if asked.name == "denied" {
		asked.status = 407
	}
	return d.Refuse(&asked)
}

func (d *httpDialect) Refuse(e *ending) error {
	_, err := d.conn.Write(http.AppendRefusal(nil, http.Refusal{
		Status: e.status, ProxyStatus: e.proxyError, DecisionID: e.decision, Reasons: e.told, RetryAfter: e.retry,
	}))
	return err
}

func (d *httpDialect) Grant(netip.AddrPort) error {
	_, err := d.conn.Write(http.AppendEstablished(nil))
	return err
}

// malformed is the ending of a request that the codec could not take.
func malformed(err error) (ending, bool) {
	var wire *http.Error
	if !errors.As(err, &wire) {
		return ending{}, false
	}
	return ending{name: "malformed", socks5: socks5.GeneralFailure, status: wire.Status, proxyError: "http_request_error"}, true
}
