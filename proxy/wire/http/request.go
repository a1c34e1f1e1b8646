package http

import (
	"bufio"
	"bytes"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// Request is the head of a request. A body, if there is one, is still in the
// reader.
type Request struct {
	Method string // a token, in the case in which it was sent
	Target string // as sent: UTF-8 without space or control character
	Proto  string // "HTTP/1.1" or "HTTP/1.0"

	// Host and Port are those of CONNECT, and empty for other methods. An IPv6
	// literal has no brackets; whether Host is a name is not judged here.
	Host string
	Port uint16

	Path   string              // as sent, no query; empty for CONNECT
	Header map[string][]string // lower-case names to values
}

// ReadRequest reads the head of a request. What is wrong with it is an *Error:
// 414 or 431 where it is longer than allowed, 505 for another version, 501 for
// a transfer coding other than chunked, and 400 for all else. After an error it
// is not known where the next request would begin, so the connection must end.
//
// A CONNECT request names its target in authority form alone, host and port
// (RFC 9112 section 3.2.3); its Host header plays no part, and may be missing
// as in HTTP/1.0. It has no body.
func ReadRequest(r *bufio.Reader) (*Request, error) {
	b := block{r: r, left: MaxHeader}
	line, err := b.start()
	if err != nil {
		if err == errTooLarge {
			err = &Error{Status: 414, Reason: "request line is too long"}
		}
		return nil, err
	}
	var req Request
	if err := req.startLine(line); err != nil {
		return nil, err
	}
	if req.Header, err = b.fields(); err != nil {
		if err == errTooLarge {
			err = &Error{Status: 431, Reason: errTooLarge.Error()}
		}
		return nil, err
	}
	if err := req.judge(); err != nil {
		return nil, err
	}
	return &req, nil
}

// startLine takes method, target and version apart: three parts with one space
// between them, no more and no fewer.
func (req *Request) startLine(line []byte) error {
	parts := bytes.Split(line, []byte(" "))
	if len(parts) != 3 {
		return malformed("request line has not three parts")
	}
	if !httpguts.ValidHeaderFieldName(string(parts[0])) {
		return malformed("invalid method")
	}
	for _, c := range parts[1] {
		if c < ' ' || c == 0x7f {
			return malformed("control character in the request target")
		}
	}
	if !utf8.Valid(parts[1]) {
		return malformed("request target is not UTF-8")
	}
	req.Method, req.Target, req.Proto = string(parts[0]), string(parts[1]), string(parts[2])
	return version(req.Proto)
}

// version takes HTTP/1.0 and HTTP/1.1.
func version(proto string) error {
	if proto == "HTTP/1.1" || proto == "HTTP/1.0" {
		return nil
	}
	digit := func(c byte) bool { return '0' <= c && c <= '9' }
	if n, ok := strings.CutPrefix(proto, "HTTP/"); ok && len(n) == 3 && digit(n[0]) && n[1] == '.' && digit(n[2]) {
		return &Error{Status: 505, Reason: "HTTP version is not supported"}
	}
	return malformed("invalid HTTP version")
}

// judge looks at the request as a whole.
func (req *Request) judge() error {
	hosts := req.Header["host"]
	switch {
	case len(hosts) > 1:
		return malformed("more than one Host")
	case len(hosts) == 1 && !httpguts.ValidHostHeader(hosts[0]):
		return malformed("invalid Host")
	case len(hosts) == 0 && req.Proto == "HTTP/1.1" && req.Method != "CONNECT":
		return malformed("no Host")
	}
	body, err := length(req.Header, req.Proto[len(req.Proto)-1])
	if err != nil {
		return err
	}
	if req.Method != "CONNECT" {
		req.Path, err = path(req.Method, req.Target)
		return err
	}
	if body {
		return malformed("CONNECT with a body")
	}
	req.Host, req.Port, err = authority(req.Target)
	return err
}

// authority takes host and port apart (RFC 3986 section 3.2 without userinfo).
func authority(s string) (string, uint16, error) {
	host, number, err := net.SplitHostPort(s)
	if err != nil || host == "" || strings.ContainsAny(s, `@/?#\`) {
		return "", 0, malformed("target of CONNECT is not host:port")
	}
	if s[0] == '[' {
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() {
			return "", 0, malformed("target of CONNECT has no IPv6 address in its brackets")
		}
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || port == 0 {
		return "", 0, malformed("target of CONNECT has no valid port")
	}
	return host, uint16(port), nil
}

// path is that of a target in origin form, absolute form or asterisk form (RFC
// 9112 section 3.2). An absolute form without a path means "/".
func path(method, target string) (string, error) {
	if strings.Contains(target, "#") {
		return "", malformed("request target with a fragment")
	}
	bare, _, _ := strings.Cut(target, "?")
	if bare != "" && bare[0] == '/' || target == "*" && method == "OPTIONS" {
		return bare, nil
	}
	scheme, rest, ok := strings.Cut(bare, "://")
	if !ok || scheme == "" || rest == "" || rest[0] == '/' {
		return "", malformed("invalid request target")
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[i:], nil
	}
	return "/", nil
}

// Facts are the header fields that a policy may see: all but those that carry
// secrets. Bytes that are no UTF-8 are replaced.
func (req *Request) Facts() map[string][]string {
	facts := make(map[string][]string, len(req.Header))
	for name, values := range req.Header {
		switch name {
		case "authorization", "proxy-authorization", "cookie":
			continue
		}
		shown := make([]string, len(values))
		for i, value := range values {
			shown[i] = strings.ToValidUTF8(value, "\uFFFD")
		}
		facts[name] = shown
	}
	return facts
}
