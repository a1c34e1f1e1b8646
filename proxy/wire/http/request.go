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

	// Host and Port are those of CONNECT, and of a target in absolute form whose
	// scheme is http; else they are empty. An IPv6 literal has no brackets; whether
	// Host is a name is not judged here.
	Host string
	Port uint16

	Scheme string              // of a target in absolute form, in lower case; else empty
	Path   string              // as sent, no query; empty for CONNECT
	Query  string              // as sent, with its question mark; empty where there is none
	Fields []Field             // in the order in which they were sent
	Header map[string][]string // the same: lower-case names to values
	Body   Framing             // of a request without a body, a length of 0
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
	if req.Fields, req.Header, err = b.fields(); err != nil {
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
	var err error
	if req.Body, err = framing(req.Header, req.Proto); err != nil {
		return err
	}
	req.Body.Length = max(req.Body.Length, 0) // a request's body is announced or not there
	if req.Method != "CONNECT" {
		return req.split()
	}
	if !req.Body.Empty() {
		return malformed("CONNECT with a body")
	}
	req.Host, req.Port, err = authority(req.Target)
	return err
}

// authority takes host and port apart (RFC 3986 section 3.2 without userinfo).
func authority(s string) (string, uint16, error) {
	host, number, err := net.SplitHostPort(s)
	if err != nil || host == "" || strings.ContainsAny(s, `@/?#\`) {
		return "", 0, malformed("authority of the target is not host:port")
	}
	if s[0] == '[' {
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() {
			return "", 0, malformed("target has no IPv6 address in its brackets")
		}
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || port == 0 {
		return "", 0, malformed("target has no valid port")
	}
	return host, uint16(port), nil
}

// split takes a target in origin form, absolute form or asterisk form apart (RFC
// 9112 section 3.2). An absolute form without a path means "/", and "*" of
// OPTIONS, if it has no query either (section 3.2.4). A user name in it is
// refused (RFC 9110 section 4.2.4), and so is a port that is empty.
func (req *Request) split() error {
	target := req.Target
	if strings.Contains(target, "#") {
		return malformed("request target with a fragment")
	}
	if i := strings.IndexByte(target, '?'); i >= 0 {
		target, req.Query = target[:i], target[i:]
	}
	if target != "" && target[0] == '/' || req.Target == "*" && req.Method == "OPTIONS" {
		req.Path = target
		return nil
	}
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !isScheme(scheme) || rest == "" || rest[0] == '/' {
		return malformed("invalid request target")
	}
	req.Scheme, req.Path = strings.ToLower(scheme), "/"
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		rest, req.Path = rest[:i], rest[i:]
	} else if req.Method == "OPTIONS" && req.Query == "" {
		req.Path = "*"
	}
	if req.Scheme != "http" {
		return nil
	}
	if strings.IndexByte(rest[strings.IndexByte(rest, ']')+1:], ':') < 0 {
		rest += ":80"
	}
	var err error
	req.Host, req.Port, err = authority(rest)
	return err
}

// isScheme tells a scheme (RFC 3986 section 3.1).
func isScheme(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if !('a' <= c && c <= 'z' || i > 0 && ('0' <= s[i] && s[i] <= '9' || strings.IndexByte("+-.", s[i]) >= 0)) {
			return false
		}
	}
	return s != ""
}
