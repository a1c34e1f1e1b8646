package http

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// smallest is the least buffer that bufio allows: every line is longer.
const smallest = 16

func reader(s string) *bufio.Reader { return bufio.NewReaderSize(strings.NewReader(s), 4096) }

// head is a request from lines, with the line ends and the blank line.
func head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

// sameFields wants a list of fields and a header to say the same.
func sameFields(t *testing.T, list []Field, header map[string][]string) {
	t.Helper()
	listed := map[string][]string{}
	for _, f := range list {
		key := strings.ToLower(f.Name)
		if f.key != key {
			t.Errorf("%q has the key %q", f.Name, f.key)
		}
		listed[key] = append(listed[key], f.Value)
	}
	if !reflect.DeepEqual(listed, header) {
		t.Errorf("the fields %v are not the header %v", list, header)
	}
}

func TestReadRequest(t *testing.T) {
	long := strings.Repeat("x", 9000)
	for _, test := range []struct {
		message string
		want    Request
	}{
		{
			head("CONNECT example.com:443 HTTP/1.1", "Host: example.com:443", "User-Agent: curl/8", "X-A: 1", "x-a:\t 2 \t", "Empty:"),
			Request{Method: "CONNECT", Target: "example.com:443", Proto: "HTTP/1.1", Host: "example.com", Port: 443, Header: map[string][]string{
				"host": {"example.com:443"}, "user-agent": {"curl/8"}, "x-a": {"1", "2"}, "empty": {""},
			}},
		},
		{
			"\r\n" + head("CONNECT [2001:db8::1]:8443 HTTP/1.0"),
			Request{Method: "CONNECT", Target: "[2001:db8::1]:8443", Proto: "HTTP/1.0", Host: "2001:db8::1", Port: 8443, Header: map[string][]string{}},
		},
		{ // a Host that names another target, or none, plays no part
			head("CONNECT 0x7f.1:1 HTTP/1.1", "Host: public.example", "Content-Length: 0"),
			Request{Method: "CONNECT", Target: "0x7f.1:1", Proto: "HTTP/1.1", Host: "0x7f.1", Port: 1, Header: map[string][]string{"host": {"public.example"}, "content-length": {"0"}}},
		},
		{
			head("CONNECT bücher.example:65535 HTTP/1.1"),
			Request{Method: "CONNECT", Target: "bücher.example:65535", Proto: "HTTP/1.1", Host: "bücher.example", Port: 65535, Header: map[string][]string{}},
		},
		{
			head("GET http://example.com/a/b%20c?q=/d HTTP/1.1", "Host: example.com", "Long: "+long),
			Request{Method: "GET", Target: "http://example.com/a/b%20c?q=/d", Proto: "HTTP/1.1", Scheme: "http", Host: "example.com", Port: 80, Path: "/a/b%20c", Query: "?q=/d", Header: map[string][]string{"host": {"example.com"}, "long": {long}}},
		},
		{
			head("GET http://example.com?q HTTP/1.0"),
			Request{Method: "GET", Target: "http://example.com?q", Proto: "HTTP/1.0", Scheme: "http", Host: "example.com", Port: 80, Path: "/", Query: "?q", Header: map[string][]string{}},
		},
		{
			head("POST /upload HTTP/1.1", "Host: a", "Transfer-Encoding: Chunked"),
			Request{Method: "POST", Target: "/upload", Proto: "HTTP/1.1", Path: "/upload", Body: Framing{Chunked: true}, Header: map[string][]string{"host": {"a"}, "transfer-encoding": {"Chunked"}}},
		},
		{
			head("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Content-Length: 5"),
			Request{Method: "POST", Target: "/", Proto: "HTTP/1.1", Path: "/", Body: Framing{Length: 5}, Header: map[string][]string{"host": {"a"}, "content-length": {"5", "5"}}},
		},
		{
			head("GET HTTP://[2001:db8::1]:8080 HTTP/1.1", "Host: elsewhere.example"),
			Request{Method: "GET", Target: "HTTP://[2001:db8::1]:8080", Proto: "HTTP/1.1", Scheme: "http", Host: "2001:db8::1", Port: 8080, Path: "/", Header: map[string][]string{"host": {"elsewhere.example"}}},
		},
		{
			head("GET https://example.com:x/?a?b HTTP/1.1", "Host: a"),
			Request{Method: "GET", Target: "https://example.com:x/?a?b", Proto: "HTTP/1.1", Scheme: "https", Path: "/", Query: "?a?b", Header: map[string][]string{"host": {"a"}}},
		},
		{
			head("OPTIONS http://example.com HTTP/1.1", "Host: a"),
			Request{Method: "OPTIONS", Target: "http://example.com", Proto: "HTTP/1.1", Scheme: "http", Host: "example.com", Port: 80, Path: "*", Header: map[string][]string{"host": {"a"}}},
		},
		{
			head("OPTIONS http://example.com/ HTTP/1.1", "Host: a"),
			Request{Method: "OPTIONS", Target: "http://example.com/", Proto: "HTTP/1.1", Scheme: "http", Host: "example.com", Port: 80, Path: "/", Header: map[string][]string{"host": {"a"}}},
		},
		{
			head("OPTIONS * HTTP/1.1", "Host:"),
			Request{Method: "OPTIONS", Target: "*", Proto: "HTTP/1.1", Path: "*", Header: map[string][]string{"host": {""}}},
		},
	} {
		const early = "\x16\x03\x01early\r\n\r\n"
		for name, r := range map[string]*bufio.Reader{
			"in one piece":       reader(test.message + early),
			"one byte at a time": bufio.NewReader(iotest.OneByteReader(strings.NewReader(test.message + early))),
			"in a small buffer":  bufio.NewReaderSize(strings.NewReader(test.message+early), smallest),
		} {
			got, err := ReadRequest(r)
			if err == nil {
				sameFields(t, got.Fields, got.Header)
				got.Fields = nil
			}
			if err != nil || !reflect.DeepEqual(*got, test.want) {
				t.Errorf("%.60q %s: got %+v, %v; want %+v", test.message, name, got, err, test.want)
				continue
			}
			if rest, _ := io.ReadAll(r); string(rest) != early {
				t.Errorf("%.60q %s: early data %q", test.message, name, rest)
			}
		}
		for _, n := range []int{0, 1, len(test.message) / 2, len(test.message) - 2, len(test.message) - 1} {
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if _, err := ReadRequest(reader(test.message[:n])); !errors.Is(err, want) {
				t.Errorf("%.60q cut after %d bytes: %v", test.message, n, err)
			}
		}
	}
}

func TestReadRequestRefused(t *testing.T) {
	const connect = "CONNECT a:443 HTTP/1.1"
	for _, test := range []struct {
		message string
		status  int
		reason  string
	}{
		// lines
		{"CONNECT a:443 HTTP/1.1\nHost: a\n\n", 400, "line ends in a bare LF"},
		{connect + "\r\nHost: a\n\r\n", 400, "line ends in a bare LF"},
		{connect + "\r\nHost: a\r\n\n", 400, "line ends in a bare LF"},
		{"\n" + head(connect), 400, "line ends in a bare LF"},
		{"\r\n\r\n" + head(connect), 400, "request line has not three parts"},
		{head(connect, " X: folded"), 400, "folded header field"},
		{head(connect, "A: b", "\tfolded"), 400, "folded header field"},
		{head(connect, "A: b", " "), 400, "folded header field"},
		{head(connect, "no colon"), 400, "header line without a colon"},
		{head(connect, "Host : a"), 400, "invalid header field name"},
		{head(connect, "Host\t: a"), 400, "invalid header field name"},
		{head(connect, ": a"), 400, "invalid header field name"},
		{head(connect, "H(st: a"), 400, "invalid header field name"},
		{head(connect, "H\x00st: a"), 400, "invalid header field name"},
		{head(connect, "Hö: a"), 400, "invalid header field name"},
		{head(connect, "A: b\x00c"), 400, "control character in a header field"},
		{head(connect, "A: b\rc"), 400, "control character in a header field"},
		{head(connect, "A: b\r"), 400, "control character in a header field"},
		{head(connect, "A: \x1b[31m"), 400, "control character in a header field"},
		{head(connect, "A: \x7f"), 400, "control character in a header field"},
		// request line
		{head("CONNECT a:443"), 400, "request line has not three parts"},
		{head("CONNECT"), 400, "request line has not three parts"},
		{head("CONNECT a:443 HTTP/1.1 x"), 400, "request line has not three parts"},
		{head("CONNECT a:443 HTTP/1.1 "), 400, "request line has not three parts"},
		{head("CONNECT  a:443 HTTP/1.1"), 400, "request line has not three parts"},
		{head(" CONNECT a:443 HTTP/1.1"), 400, "request line has not three parts"},
		{head("CONNECT\ta:443\tHTTP/1.1"), 400, "request line has not three parts"},
		{head("CONNECT a :443 HTTP/1.1"), 400, "request line has not three parts"},
		{head(" a:443 HTTP/1.1"), 400, "invalid method"},
		{head("CONN(CT a:443 HTTP/1.1"), 400, "invalid method"},
		{head("CONNECT a\tb:443 HTTP/1.1"), 400, "control character in the request target"},
		{head("CONNECT a\x00b:443 HTTP/1.1"), 400, "control character in the request target"},
		{head("CONNECT a\rb:443 HTTP/1.1"), 400, "control character in the request target"},
		{head("CONNECT a\x7f:443 HTTP/1.1"), 400, "control character in the request target"},
		{head("CONNECT a\xff:443 HTTP/1.1"), 400, "request target is not UTF-8"},
		{head("CONNECT a:443 HTTP/1.2"), 505, "HTTP version is not supported"},
		{head("CONNECT a:443 HTTP/0.9"), 505, "HTTP version is not supported"},
		{head("PRI * HTTP/2.0"), 505, "HTTP version is not supported"},
		{head("CONNECT a:443 HTTP/3.0"), 505, "HTTP version is not supported"},
		{head("CONNECT a:443 http/1.1"), 400, "invalid HTTP version"},
		{head("CONNECT a:443 HTTP/1.10"), 400, "invalid HTTP version"},
		{head("CONNECT a:443 HTTP/1"), 400, "invalid HTTP version"},
		{head("CONNECT a:443 HTTP/1.1\r"), 400, "invalid HTTP version"},
		{head("CONNECT a:443 "), 400, "invalid HTTP version"},
		{head("CONNECT a:443 FTP/1.1"), 400, "invalid HTTP version"},
		// Host
		{head(connect, "Host: a", "host: a"), 400, "more than one Host"},
		{head(connect, "Host: a b"), 400, "invalid Host"},
		{head("GET http://a/ HTTP/1.1"), 400, "no Host"},
		// length
		{head("POST http://a/ HTTP/1.1", "Host: a", "Content-Length: 1", "Transfer-Encoding: chunked"), 400, "both Content-Length and Transfer-Encoding"},
		{head(connect, "Content-Length: 0", "Transfer-Encoding: chunked"), 400, "both Content-Length and Transfer-Encoding"},
		{head(connect, "Content-Length: 0", "Content-Length: 1"), 400, "two Content-Lengths that differ"},
		{head(connect, "Content-Length: 0", "Content-Length: 00"), 400, "two Content-Lengths that differ"},
		{head(connect, "Content-Length: 0, 0"), 400, "invalid Content-Length"},
		{head(connect, "Content-Length: -1"), 400, "invalid Content-Length"},
		{head(connect, "Content-Length: +0"), 400, "invalid Content-Length"},
		{head(connect, "Content-Length: 0x0"), 400, "invalid Content-Length"},
		{head(connect, "Content-Length:"), 400, "invalid Content-Length"},
		{head(connect, "Content-Length: 9223372036854775808"), 400, "invalid Content-Length"},
		{head(connect, "Content-Length: 1"), 400, "CONNECT with a body"},
		{head(connect, "Transfer-Encoding: chunked"), 400, "CONNECT with a body"},
		{head("CONNECT a:443 HTTP/1.0", "Transfer-Encoding: chunked"), 400, "Transfer-Encoding in HTTP/1.0"},
		{head(connect, "Transfer-Encoding: gzip, chunked"), 501, "transfer coding is not supported"},
		{head(connect, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 501, "transfer coding is not supported"},
		{head(connect, "Transfer-Encoding: identity"), 501, "transfer coding is not supported"},
		{head(connect, "Transfer-Encoding:"), 501, "transfer coding is not supported"},
		// other targets
		{head("GET a:80 HTTP/1.1", "Host: a"), 400, "invalid request target"},
		{head("GET * HTTP/1.1", "Host: a"), 400, "invalid request target"},
		{head("GET  HTTP/1.1", "Host: a"), 400, "invalid request target"},
		{head("GET http:/// HTTP/1.1", "Host: a"), 400, "invalid request target"},
		{head("GET :// HTTP/1.1", "Host: a"), 400, "invalid request target"},
		{head("connect a:443 HTTP/1.1", "Host: a"), 400, "invalid request target"},
		{head("GET /?a#b HTTP/1.1", "Host: a"), 400, "request target with a fragment"},
		{head("GET http://a#b HTTP/1.1", "Host: a"), 400, "request target with a fragment"},
		{head("GET http://u@a/ HTTP/1.1", "Host: a"), 400, "authority of the target is not host:port"},
		{head("GET http://u:p@a/ HTTP/1.1", "Host: a"), 400, "authority of the target is not host:port"},
		{head("GET http://a@b@c/ HTTP/1.1", "Host: a"), 400, "authority of the target is not host:port"},
		{head(`GET http://a\@b/ HTTP/1.1`, "Host: a"), 400, "authority of the target is not host:port"},
		{head(`GET http:\\a/ HTTP/1.1`, "Host: a"), 400, "invalid request target"},
		{head("GET http://a?@b/ HTTP/1.0", "X: a", "Content-Length: -1"), 400, "invalid Content-Length"},
		{head("GET http://a:/ HTTP/1.1", "Host: a"), 400, "target has no valid port"},
		{head("GET http://a:0/ HTTP/1.1", "Host: a"), 400, "target has no valid port"},
		{head("GET http://a:65536/ HTTP/1.1", "Host: a"), 400, "target has no valid port"},
		{head("GET http://a:80:80/ HTTP/1.1", "Host: a"), 400, "authority of the target is not host:port"},
		{head("GET http://::1/ HTTP/1.1", "Host: a"), 400, "authority of the target is not host:port"},
		{head("GET http://[127.0.0.1]/ HTTP/1.1", "Host: a"), 400, "target has no IPv6 address in its brackets"},
		{head("GET http://[::1/ HTTP/1.1", "Host: a"), 400, "authority of the target is not host:port"},
		{head("GET http://:80/ HTTP/1.1", "Host: a"), 400, "authority of the target is not host:port"},
		{head("GET h_t://a/ HTTP/1.1", "Host: a"), 400, "invalid request target"},
		{head("GET http:a HTTP/1.1", "Host: a"), 400, "invalid request target"},
		{head("OPTIONS *?a HTTP/1.1", "Host: a"), 400, "invalid request target"},
	} {
		req, err := ReadRequest(reader(test.message))
		var refused *Error
		if !errors.As(err, &refused) || *refused != (Error{Status: test.status, Reason: test.reason}) || req != nil {
			t.Errorf("%q: got %v, %v; want %d %s", test.message, req, err, test.status, test.reason)
		}
	}
}

func TestConnectTargetRefused(t *testing.T) {
	for _, target := range []string{
		"a", "a:", ":443", ":", "a:0", "a:00", "a:65536", "a:99999999999999999999", "a:-1", "a:+1", "a:1_0", "a:0x50", "a:https", "a:４４３",
		"user@a:443", "user:pw@a:443", "@a:443", "a@:443", "a:443@b:80", "a:443/", "/a:443", "a/b:443", "a:443/path", "a?b:443", "a:443?q", "a#b:443", `a\b:443`,
		"http://a:443", "http://a", "//a:443", "*", "/",
		"::1:443", "::1", "[::1]", "[::1]:", "[::1]443", "[::1:443", "::1]:443", "[]:443", "[a]:443", "[127.0.0.1]:443", "[[::1]]:443", "x[::1]:443", "[::1]x:443", "[::1]:443:80", "a:b:443", "a:443:",
	} {
		_, err := ReadRequest(reader(head("CONNECT " + target + " HTTP/1.1")))
		var refused *Error
		if !errors.As(err, &refused) || refused.Status != 400 {
			t.Errorf("CONNECT %s: %v", target, err)
		}
	}
}

// endless gives header lines without end, and counts what was read of them.
type endless struct {
	start, line string
	read        int
}

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		if e.read < len(e.start) {
			b[i] = e.start[e.read]
		} else {
			b[i] = e.line[(e.read-len(e.start))%len(e.line)]
		}
		e.read++
	}
	return len(b), nil
}

func TestHeaderIsBounded(t *testing.T) {
	for name, test := range map[string]struct {
		source endless
		status int
	}{
		"request line": {endless{"", "A", 0}, 414},
		"one line":     {endless{"CONNECT a:1 HTTP/1.1\r\nA: ", "b", 0}, 431},
		"no line end":  {endless{"CONNECT a:1 HTTP/1.1\r\n", "b", 0}, 431},
		"long lines":   {endless{"CONNECT a:1 HTTP/1.1\r\n", "A: " + strings.Repeat("b", 1000) + "\r\n", 0}, 431},
		"short lines":  {endless{"CONNECT a:1 HTTP/1.1\r\n", "A:\r\n", 0}, 431},
	} {
		const buffer = 4096
		_, err := ReadRequest(bufio.NewReaderSize(&test.source, buffer))
		var refused *Error
		if !errors.As(err, &refused) || refused.Status != test.status {
			t.Errorf("%s: %v", name, err)
		}
		if test.source.read > MaxHeader+buffer {
			t.Errorf("%s: %d bytes were read", name, test.source.read)
		}
	}
}

// The bounds are exact: what just fits is taken.
func TestHeaderJustFits(t *testing.T) {
	sized := func(n int) string {
		start := "CONNECT a:1 HTTP/1.1\r\nA: "
		return start + strings.Repeat("b", n-len(start)-4) + "\r\n\r\n"
	}
	counted := func(n int) string { return "CONNECT a:1 HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", n) + "\r\n" }
	for _, test := range []struct {
		message string
		fits    bool
	}{{sized(MaxHeader), true}, {sized(MaxHeader + 1), false}, {counted(MaxFields), true}, {counted(MaxFields + 1), false}} {
		if _, err := ReadRequest(reader(test.message)); (err == nil) != test.fits {
			t.Errorf("%d bytes, %d lines: %v", len(test.message), strings.Count(test.message, "\n"), err)
		}
	}
}

func TestAuthorization(t *testing.T) {
	long := strings.Repeat("t.", 8000)
	for _, test := range []struct {
		fields []string
		want   string // scheme, user, password, token, present
		status int
	}{
		{nil, `"" "" "" "" false`, 0},
		{[]string{"Basic dXNlcjpwYXNz"}, `"basic" "user" "pass" "" true`, 0},
		{[]string{"bAsIc   dXNlcjpwYXNz"}, `"basic" "user" "pass" "" true`, 0},
		{[]string{"Basic dTphOmI="}, `"basic" "u" "a:b" "" true`, 0},
		{[]string{"Basic Og=="}, `"basic" "" "" "" true`, 0},
		{[]string{"Basic dTo="}, `"basic" "u" "" "" true`, 0},
		{[]string{"Basic AP86AAoN"}, `"basic" "\x00\xff" "\x00\n\r" "" true`, 0},
		{[]string{"Basic w7w6w7Y="}, `"basic" "ü" "ö" "" true`, 0},
		{[]string{"Bearer abc.DEF-_~+/123=="}, `"bearer" "" "" "abc.DEF-_~+/123==" true`, 0},
		{[]string{"BEARER " + long}, fmt.Sprintf(`"bearer" "" "" %q true`, long), 0},
		{[]string{"Digest username=x"}, `"digest" "" "" "" true`, 0},
		{[]string{"Negotiate"}, `"negotiate" "" "" "" true`, 0},
		{[]string{""}, `"" "" "" "" true`, 0},
		{[]string{"Basic"}, `"basic" "" "" "" true`, 407},
		{[]string{"Basic dXNlcg=="}, `"basic" "" "" "" true`, 407}, // no colon
		{[]string{"Basic !!!"}, `"basic" "" "" "" true`, 407},
		{[]string{"Basic dXNlcjpwYXNz x"}, `"basic" "" "" "" true`, 407},
		{[]string{"Basic dXNlcjpwYXNzZA"}, `"basic" "" "" "" true`, 407}, // no padding
		{[]string{"Bearer"}, `"bearer" "" "" "" true`, 407},
		{[]string{"Bearer a b"}, `"bearer" "" "" "" true`, 407},
		{[]string{"Bearer a,b"}, `"bearer" "" "" "" true`, 407},
		{[]string{"Bearer =a"}, `"bearer" "" "" "" true`, 407},
		{[]string{"Bearer =="}, `"bearer" "" "" "" true`, 407},
		{[]string{"Basic dXNlcjpwYXNz", "Basic dXNlcjpwYXNz"}, `"" "" "" "" true`, 400},
		{[]string{"", "Basic dXNlcjpwYXNz"}, `"" "" "" "" true`, 400},
	} {
		lines := []string{"CONNECT a:1 HTTP/1.1"}
		for _, field := range test.fields {
			lines = append(lines, "Proxy-Authorization: "+field)
		}
		req, err := ReadRequest(reader(head(lines...)))
		if err != nil {
			t.Fatal(err)
		}
		scheme, user, password, token, present, err := req.Authorization()
		if got := fmt.Sprintf("%q %q %q %q %v", scheme, user, password, token, present); got != test.want {
			t.Errorf("%q: got %s, want %s", test.fields, got, test.want)
		}
		var refused *Error
		if errors.As(err, &refused); (err == nil) != (test.status == 0) || err != nil && refused.Status != test.status {
			t.Errorf("%q: %v, want %d", test.fields, err, test.status)
		}
	}
}
