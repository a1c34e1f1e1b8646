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

var (
	errNoProxyRequest = errors.New("this is a proxy: a request names its target whole, as in GET http://host/path")
	errScheme         = errors.New("only http:// is forwarded: https:// goes by CONNECT")
)

// httpDialect is the server's side of CONNECT (RFC 9110 section 9.3.6) and of
// requests that are to be forwarded (RFC 9112 section 3.2.2).
type httpDialect struct {
	conn    io.Writer
	reader  *bufio.Reader
	request *http.Request // nil until it was read whole
	shown   policy.Request
	status  int  // what the client was told; 0: nothing yet
	keep    bool // the client may go on with another request after this one

	certified bool // by TLS
}

func (d *httpDialect) Present(methods policy.Methods) (presented, error) {
	var err error
	if d.request, err = http.ReadRequest(d.reader); err != nil {
		return presented{}, err
	}
	command := "forward"
	if d.request.Method == "CONNECT" {
		command = "connect"
	}
	d.shown = policy.Request{Command: command, Method: d.request.Method, Path: d.request.Path, Headers: d.request.Header}
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
		return presented{method: chosen, request: d.shown}, nil
	}
	return presented{method: chosen, username: user, password: password, token: token, request: d.shown}, nil
}

func (d *httpDialect) Accept() error { return nil }

func (d *httpDialect) Request() (request, error) {
	switch {
	case d.request.Method == "CONNECT" || d.request.Scheme == "http":
	case d.request.Scheme == "":
		return request{}, errNoProxyRequest
	default:
		return request{}, errScheme
	}
	return request{
		facts: d.shown, host: d.request.Host, port: d.request.Port,
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
	d.status = e.status
	_, err := d.conn.Write(http.AppendRefusal(nil, http.Refusal{
		Status: e.status, ProxyStatus: e.proxyError, DecisionID: e.decision, Reasons: e.told, RetryAfter: e.retry,
		Head: d.request != nil && d.request.Method == "HEAD", Keep: d.keep,
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
	var origin *originError
	if errors.As(err, &origin) || !errors.As(err, &wire) {
		return ending{}, false
	}
	return ending{name: "malformed", socks5: socks5.GeneralFailure, status: wire.Status, proxyError: "http_request_error"}, true
}
