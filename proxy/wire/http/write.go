package http

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	nethttp "net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// AppendEstablished tells a client of CONNECT that what follows is the tunnel.
// It says nothing of a body's length (RFC 9110 section 9.3.6).
func AppendEstablished(b []byte) []byte {
	return append(b, "HTTP/1.1 200 Connection established\r\n\r\n"...)
}

// Refusal is an answer that refuses a request.
type Refusal struct {
	Status      int           // 400 to 599; anything else is sent as 500
	ProxyStatus string        // error type of RFC 9209 section 2.3, such as http_request_denied; may be empty
	Details     string        // for a person, in Proxy-Status; where empty the reasons stand there
	DecisionID  string        // may be empty
	Reasons     []string      // told to the client; none: not told
	RetryAfter  time.Duration // rounded up to seconds; 0: not said
	Head        bool          // it answers HEAD: there is no body
	Keep        bool          // the client may go on with another request
}

// AppendRefusal writes a whole answer, after which the connection must close
// unless it is to be kept. Status 407 says how to authenticate, and 405 what is
// allowed.
//
// Basic is offered first, Bearer in a field of its own. Clients take the first
// scheme that they know, and those of the day do not know Bearer for a proxy:
// curl leaves it out when it chooses, with --proxy-anyauth too.
func AppendRefusal(b []byte, r Refusal) []byte {
	if r.Status < 400 || r.Status > 599 {
		r.Status = nethttp.StatusInternalServerError
	}
	body := refusalBody(&r)

	b = fmt.Appendf(b, "HTTP/1.1 %d %s\r\n", r.Status, nethttp.StatusText(r.Status))
	b = append(b, "Proxy-Status: sallyport"...)
	if r.ProxyStatus != "" {
		b = append(append(b, "; error="...), r.ProxyStatus...)
	}
	if r.Details == "" {
		r.Details = strings.Join(r.Reasons, "; ")
	}
	if r.Details != "" {
		b = appendQuoted(append(b, "; details="...), r.Details)
	}
	b = append(b, "\r\n"...)
	switch r.Status {
	case nethttp.StatusProxyAuthRequired:
		b = append(b, "Proxy-Authenticate: Basic realm=\"sallyport\", charset=\"UTF-8\"\r\n"+
			"Proxy-Authenticate: Bearer realm=\"sallyport\"\r\n"...)
	case nethttp.StatusMethodNotAllowed:
		b = append(b, "Allow: CONNECT, GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE\r\n"...)
	}
	if r.RetryAfter > 0 {
		b = fmt.Appendf(b, "Retry-After: %d\r\n", (r.RetryAfter-1)/time.Second+1)
	}
	b = fmt.Appendf(b, "Content-Type: application/json\r\nContent-Length: %d\r\nCache-Control: no-store\r\n", len(body))
	if !r.Keep {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	if r.Head {
		return b
	}
	return append(b, body...)
}

// refusalBody is the body, a JSON object on a line of its own; without an id where
// no policy was asked.
func refusalBody(r *Refusal) []byte {
	body, err := json.Marshal(struct {
		DecisionID string   `json:"decision_id,omitempty"`
		Reasons    []string `json:"reasons,omitempty"`
	}{r.DecisionID, r.Reasons})
	if err != nil {
		panic(err) // strings always marshal
	}
	return append(body, '\n')
}

// appendQuoted writes a string of RFC 8941 section 3.3.3: printable ASCII, and
// a question mark for each other character.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for _, c := range s {
		switch {
		case c < ' ' || c > '~':
			b = append(b, '?')
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		default:
			b = append(b, byte(c))
		}
	}
	return append(b, '"')
}

// Faults of what AppendConnect is given.
var (
	ErrTarget      = errors.New("http: host or port that CONNECT cannot name")
	ErrCredentials = errors.New("http: user name with a colon")
)

// AppendConnect asks a proxy for a tunnel. An IPv6 literal is given without
// brackets. Without user and password no credentials are sent.
//
// ErrTarget where the target would not be read as what it is, and
// ErrCredentials where the user name would not (RFC 7617 section 2).
func AppendConnect(b []byte, host string, port uint16, user, password string) ([]byte, error) {
	target := net.JoinHostPort(host, strconv.Itoa(int(port)))
	if h, p, err := authority(target); err != nil || h != host || p != port || !httpguts.ValidHostHeader(target) {
		return b, ErrTarget
	}
	if strings.Contains(user, ":") {
		return b, ErrCredentials
	}
	b = fmt.Appendf(b, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", target, target)
	if user != "" || password != "" {
		b = append(b, "Proxy-Authorization: Basic "...)
		b = base64.StdEncoding.AppendEncode(b, []byte(user+":"+password))
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...), nil
}
