package http

import (
	"errors"
	"strings"
	"testing"
)

func TestProxyError(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []string
		want string
	}{
		{"none", nil, ""},
		{"no parameter", []string{"squid"}, ""},
		{"one", []string{"sallyport; error=connection_refused"}, "connection_refused"},
		{"the first proxy is nearest", []string{`a;error=dns_timeout, b; error=proxy_internal_error`}, "dns_timeout"},
		{"a later field", []string{"a", "b;error=dns_error"}, "dns_error"},
		{"within quotes", []string{`a; details="x; error=connection_refused, b;error=dns_error"`}, ""},
		{"after quotes", []string{`a; details="say \"no\";"; error=http_request_denied`}, "http_request_denied"},
		{"not a token", []string{`a; error="connection_refused"`, "b; error=Evil\x7f", "c; error="}, ""},
		{"a name, not a parameter", []string{"error=connection_refused"}, ""},
		{"endless", []string{"a; error=" + strings.Repeat("x", 65)}, ""},
		{"a quote without an end", []string{`a; details="\`}, ""},
	} {
		res := Response{Header: map[string][]string{"proxy-status": c.in}}
		if got := res.ProxyError(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTooLarge(t *testing.T) {
	for in, want := range map[string]bool{
		"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", MaxHeader) + "\r\n\r\n":   true,
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", MaxFields+1) + "\r\n": true,
		strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", MaxHeader/20):            true,
		"HTTP/1.1 200 OK\r\nno colon\r\n\r\n":                                    false,
		"SSH-2.0-OpenSSH_9.2\r\n":                                                false,
	} {
		_, err := ReadResponse(reader(in))
		var fault *Error
		if !errors.As(err, &fault) || fault.TooLarge() != want {
			t.Errorf("%.40q: %v, want too large: %v", in, err, want)
		}
	}
}

func FuzzProxyError(f *testing.F) {
	f.Add(`a; details="x;\"", b;error=dns_error`)
	f.Fuzz(func(t *testing.T, value string) {
		res := Response{Header: map[string][]string{"proxy-status": {value}}}
		if got := res.ProxyError(); got != "" && (!isErrorType(got) || !strings.Contains(value, "error="+got)) {
			t.Fatalf("%q of %q", got, value)
		}
	})
}
