package proxy

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"sallyport/policy"
)

// maxHeader bounds a request's header block in bytes.
const maxHeader = 64 << 10

// httpDialect is the server's side of CONNECT (RFC 9110 §9.3.6).
type httpDialect struct {
	conn    *net.TCPConn
	reader  *bufio.Reader
	request request
	err     error
}

func (d *httpDialect) Present(methods policy.Methods) (presented, error) {
	r, err := http.ReadRequest(d.reader)
	if err != nil {
		return presented{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	facts := policy.Request{Command: "forward", Method: r.Method, Path: r.URL.Path, Headers: map[string][]string{}}
	d.err = errCommand
	if r.Method == http.MethodConnect {
		facts.Command, facts.Path, d.err = "connect", "", nil
		host, portText, err := net.SplitHostPort(r.RequestURI)
		port, err2 := strconv.ParseUint(portText, 10, 16)
		if err != nil || err2 != nil || port == 0 || host == "" || r.ContentLength != 0 {
			return presented{}, fmt.Errorf("%w: CONNECT wants host:port and no body", errMalformed)
		}
		d.request.host, d.request.port = host, uint16(port)
	}
	for name, values := range r.Header {
		switch name = strings.ToLower(name); name {
		case "authorization", "proxy-authorization", "cookie":
		default:
			facts.Headers[name] = values
		}
	}
	d.request.facts = facts

	p := presented{method: policy.MethodNone, request: facts}
	values := r.Header.Values("Proxy-Authorization")
	if len(values) == 1 && methods.Has(policy.MethodPassword) {
		scheme, rest, _ := strings.Cut(values[0], " ")
		switch strings.ToLower(scheme) {
		case "basic":
			plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
			name, password, ok := strings.Cut(string(plain), ":")
			if err != nil || !ok {
				return presented{}, fmt.Errorf("%w: Basic credentials", errMalformed)
			}
			p.method, p.username, p.password = policy.MethodPassword, name, password
		case "bearer":
			p.method, p.token = policy.MethodPassword, strings.TrimSpace(rest)
		default:
			return presented{}, fmt.Errorf("%w: the scheme of Proxy-Authorization", errMalformed)
		}
		return p, nil
	}
	if len(values) > 1 {
		return presented{}, fmt.Errorf("%w: several Proxy-Authorization headers", errMalformed)
	}
	if !methods.Has(policy.MethodNone) {
		return presented{}, errNoMethod
	}
	return p, nil
}

func (d *httpDialect) Accept() error { return nil }

func (d *httpDialect) Request() (request, error) { return d.request, d.err }

func (d *httpDialect) Reject(e *ending) error {
	if e.status != http.StatusServiceUnavailable {
		e.status = http.StatusProxyAuthRequired
	}
	return d.Refuse(e)
}

func (d *httpDialect) Refuse(e *ending) error {
	body, err := json.Marshal(struct {
		DecisionID string   `json:"decision_id,omitempty"`
		Reasons    []string `json:"reasons,omitempty"`
	}{e.decision, e.told})
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nProxy-Status: sallyport; error=%s\r\n", e.status, http.StatusText(e.status), e.proxyError)
	if e.status == http.StatusProxyAuthRequired {
		b.WriteString("Proxy-Authenticate: Basic realm=\"sallyport\", charset=\"UTF-8\"\r\n")
	}
	if e.status == http.StatusMethodNotAllowed {
		b.WriteString("Allow: CONNECT\r\n")
	}
	fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n%s\n", len(body)+1, body)
	_, err = io.WriteString(d.conn, b.String())
	return err
}

func (d *httpDialect) Grant(netip.AddrPort) error {
	_, err := io.WriteString(d.conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	return err
}
