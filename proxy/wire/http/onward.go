package http

import (
	"fmt"
	nethttp "net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// What follows passes messages on (RFC 9110 section 7.6): each is written anew
// from what was read. Fields that are for one hop only go no further, a body's
// length is said once, Via tells of this hop, and every other field goes on as it
// came, in its order.

// tokens calls yield with each member of a field that is a list, in lower case
// and without parameters. What is no token is left out: U+212A, the Kelvin sign,
// would become a k.
func tokens(values []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, value := range values {
			for member := range strings.SplitSeq(value, ",") {
				token, _, _ := strings.Cut(member, ";")
				token = strings.Trim(token, " \t")
				if httpguts.ValidHeaderFieldName(token) && !yield(strings.ToLower(token)) {
					return
				}
			}
		}
	}
}

func lists(values []string, token string) bool {
	for t := range tokens(values) {
		if t == token {
			return true
		}
	}
	return false
}

// perHop are the fields of a header that go no further: those that every one of
// its Connection fields names, and those that are for one hop whether it is said
// or not (RFC 9110 section 7.6.1). Those of the framing are among them, since it
// is said anew.
func perHop(header map[string][]string) map[string]bool {
	hop := map[string]bool{
		"connection": true, "keep-alive": true, "te": true, "upgrade": true, "http2-settings": true,
		"transfer-encoding": true, "content-length": true,
	}
	for name := range tokens(header["connection"]) {
		hop[name] = true
	}
	return hop
}

// Persistent reports whether the client may send another request.
func (req *Request) Persistent() bool {
	return req.Proto == "HTTP/1.1" && !lists(req.Header["connection"], "close") && !lists(req.Header["proxy-connection"], "close")
}

// ExpectsContinue reports whether the client waits for 100 (Continue) before it
// sends the body.
func (req *Request) ExpectsContinue() bool {
	return req.Proto == "HTTP/1.1" && lists(req.Header["expect"], "100-continue")
}

// Repeatable reports whether the request may be sent again when it is not known
// whether it has arrived: its method changes nothing, and it has no body (RFC 9110
// section 9.2.2).
func (req *Request) Repeatable() bool {
	switch req.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return req.Body.Empty()
	}
	return false
}

// WebSocket reports whether the client asks to go on in that protocol (RFC 6455
// section 4.1). No other upgrade is passed on: what follows an upgrade is seen by
// nobody, and HTTP/2 would be requests that nobody has decided upon.
func (req *Request) WebSocket() bool {
	return req.Method == "GET" && req.Proto == "HTTP/1.1" && req.Body.Empty() &&
		lists(req.Header["connection"], "upgrade") && lists(req.Header["upgrade"], "websocket")
}

// MaxForwards is how many more hops a request of OPTIONS or TRACE may make (RFC
// 9110 section 7.6.2); -1 for any number. The error is an *Error.
func (req *Request) MaxForwards() (int64, error) {
	values := req.Header["max-forwards"]
	if len(values) == 0 || req.Method != "OPTIONS" && req.Method != "TRACE" {
		return -1, nil
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil || len(values) > 1 {
		return 0, malformed("invalid Max-Forwards")
	}
	return int64(n), nil
}

// AppendOnward writes the head of a request for its origin server: in origin
// form, with host, which may have a port, as its Host, whatever the client's Host
// said. Credentials for the proxy stay here.
func AppendOnward(b []byte, req *Request, host string) []byte {
	b = append(append(b, req.Method...), ' ')
	b = append(append(b, req.Path...), req.Query...)
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), host...), "\r\n"...)
	hop := perHop(req.Header)
	hops, _ := req.MaxForwards()
	for i := range req.Fields {
		f := &req.Fields[i]
		switch {
		case hop[f.key], f.key == "host", strings.HasPrefix(f.key, "proxy-"):
		case f.key == "expect" && req.Proto == "HTTP/1.0": // RFC 9110 section 10.1.1
		case f.key == "max-forwards" && hops > 0:
			b = fmt.Appendf(b, "%s: %d\r\n", f.Name, hops-1)
		default:
			b = f.append(b)
		}
	}
	b = appendVia(b, req.Proto)
	switch {
	case req.Body.Chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case len(req.Header["content-length"]) > 0:
		b = fmt.Appendf(b, "Content-Length: %d\r\n", req.Body.Length)
	}
	switch {
	case req.WebSocket():
		b = append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	case lists(req.Header["te"], "trailers"):
		b = append(b, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	return append(b, "\r\n"...)
}

func appendVia(b []byte, proto string) []byte {
	return append(append(append(b, "Via: "...), strings.TrimPrefix(proto, "HTTP/")...), " sallyport\r\n"...)
}

// Body says how long the body of the answer to a request of that method is (RFC
// 9112 section 6.3). A length of -1 without chunks is until the server closes. An
// error is an *Error.
func (res *Response) Body(method string) (Framing, error) {
	f, err := framing(res.Header, res.Proto)
	if err != nil {
		return f, answered(err)
	}
	if method == "HEAD" || res.Status < 200 || res.Status == 204 || res.Status == 304 {
		return Framing{}, nil
	}
	return f, nil
}

// Persistent reports whether the server takes another request.
func (res *Response) Persistent() bool {
	return res.Proto == "HTTP/1.1" && !lists(res.Header["connection"], "close")
}

// Upgraded reports whether the server goes on in the protocol of a WebSocket.
func (res *Response) Upgraded() bool {
	return res.Status == nethttp.StatusSwitchingProtocols &&
		lists(res.Header["connection"], "upgrade") && lists(res.Header["upgrade"], "websocket")
}

// Answer is how an answer is passed on to the client.
type Answer struct {
	Body  Framing   // in which it is sent; chunks only to a client of HTTP/1.1
	Close bool      // the connection ends with it
	Now   time.Time // for a Date, where the server has told none
}

// AppendAnswer writes the head of an answer for the client. Of an interim answer
// (1xx) only its fields are passed on.
func AppendAnswer(b []byte, res *Response, a Answer) []byte {
	reason := res.Reason
	if reason == "" {
		reason = nethttp.StatusText(res.Status)
	}
	b = fmt.Appendf(b, "HTTP/1.1 %d %s\r\n", res.Status, reason)
	hop := perHop(res.Header)
	for i := range res.Fields {
		f := &res.Fields[i]
		switch f.key {
		case "proxy-authenticate", "proxy-authentication-info", "proxy-connection": // are this proxy's to say
		default:
			if !hop[f.key] {
				b = f.append(b)
			}
		}
	}
	b = appendVia(b, res.Proto)
	final := res.Status >= 200
	if _, dated := res.Header["date"]; final && !dated { // RFC 9110 section 6.6.1
		b = append(a.Now.UTC().AppendFormat(append(b, "Date: "...), nethttp.TimeFormat), "\r\n"...)
	}
	switch {
	case !final || res.Status == nethttp.StatusNoContent:
	case a.Body.Chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case len(res.Header["content-length"]) > 0: // where there is no body it says how long one would be
		b = append(append(append(b, "Content-Length: "...), res.Header["content-length"][0]...), "\r\n"...)
	}
	switch {
	case res.Upgraded():
		b = append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	case final && a.Close:
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}
