package http

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	nethttp "net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestAppendEstablished(t *testing.T) {
	if got, want := string(AppendEstablished([]byte("a"))), "aHTTP/1.1 200 Connection established\r\n\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAppendRefusal(t *testing.T) {
	for _, test := range []struct {
		refusal Refusal
		want    string
	}{
		{
			Refusal{Status: 403, ProxyStatus: "http_request_denied", DecisionID: "d1", Reasons: []string{"not on the list", `say "no" \`}},
			"HTTP/1.1 403 Forbidden\r\n" +
				`Proxy-Status: sallyport; error=http_request_denied; details="not on the list; say \"no\" \\"` + "\r\n" +
				"Content-Type: application/json\r\nContent-Length: 67\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n" +
				`{"decision_id":"d1","reasons":["not on the list","say \"no\" \\"]}` + "\n",
		},
		{
			Refusal{Status: 407, DecisionID: "d2"},
			"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Status: sallyport\r\n" +
				"Proxy-Authenticate: Basic realm=\"sallyport\", charset=\"UTF-8\"\r\nProxy-Authenticate: Bearer realm=\"sallyport\"\r\n" +
				"Content-Type: application/json\r\nContent-Length: 21\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n" +
				`{"decision_id":"d2"}` + "\n",
		},
		{
			Refusal{Status: 429, RetryAfter: 1001 * time.Millisecond, Details: "over a limit"},
			"HTTP/1.1 429 Too Many Requests\r\nProxy-Status: sallyport; details=\"over a limit\"\r\nRetry-After: 2\r\n" +
				"Content-Type: application/json\r\nContent-Length: 3\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n" +
				`{}` + "\n",
		},
		{
			Refusal{Status: 405, ProxyStatus: "http_request_error", Reasons: []string{"told in the body"}, Details: "told in the field"},
			"HTTP/1.1 405 Method Not Allowed\r\nProxy-Status: sallyport; error=http_request_error; details=\"told in the field\"\r\nAllow: CONNECT, GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE\r\n" +
				"Content-Type: application/json\r\nContent-Length: 33\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n" +
				`{"reasons":["told in the body"]}` + "\n",
		},
	} {
		if got := string(AppendRefusal(nil, test.refusal)); got != test.want {
			t.Errorf("%+v\n got %q\nwant %q", test.refusal, got, test.want)
		}
	}
}

// Whatever a policy gives as a reason, the answer is one well-formed refusal,
// as a client of another make reads it.
func FuzzAppendRefusal(f *testing.F) {
	f.Add(403, "d", "reason", "detail", int64(0))
	f.Add(407, "", "a\r\nX: y", "\r\n\r\nHTTP/1.1 200 OK", int64(1))
	f.Add(200, "\xff\x00", "\"\\\u2028<b>", "ü\"\\\x7f", int64(-1))
	f.Add(0, "", "", "", int64(1<<62))
	f.Fuzz(func(t *testing.T, status int, id, reason, details string, retry int64) {
		b := AppendRefusal(nil, Refusal{Status: status, DecisionID: id, Reasons: []string{reason, reason}, Details: details, RetryAfter: time.Duration(retry)})
		r := reader(string(b))
		res, err := nethttp.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || r.Buffered() > 0 {
			t.Fatalf("%q: body %q, %v, %d bytes left", b, body, err, r.Buffered())
		}
		if res.StatusCode < 400 || !res.Close || len(res.Header["Proxy-Status"]) != 1 || len(res.Header) > 6 {
			t.Fatalf("%q: status %d, close %v, header %v", b, res.StatusCode, res.Close, res.Header)
		}
		if (res.StatusCode == 407) != (len(res.Header["Proxy-Authenticate"]) == 2) || (retry > 0) != (res.Header.Get("Retry-After") != "") {
			t.Fatalf("%q: header %v", b, res.Header)
		}
		var told struct {
			DecisionID string `json:"decision_id"`
			Reasons    []string
		}
		valid := strings.ToValidUTF8
		if err := json.Unmarshal(body, &told); err != nil || len(told.Reasons) != 2 {
			t.Fatalf("%q: body %q: %v", b, body, err)
		}
		if valid(id, "") == id && told.DecisionID != id || valid(reason, "") == reason && told.Reasons[0] != reason {
			t.Fatalf("told %+v, want %q and %q", told, id, reason)
		}
		own, err := ReadResponse(reader(string(b)))
		if err != nil || own.Status != res.StatusCode {
			t.Fatalf("%q: own reader has %v, %v", b, own, err)
		}
	})
}

func TestAppendConnect(t *testing.T) {
	for _, test := range []struct {
		host           string
		port           uint16
		user, password string
		want           string
	}{
		{"example.com", 443, "", "", head("CONNECT example.com:443 HTTP/1.1", "Host: example.com:443")},
		{"2001:db8::1", 80, "user", "pass", head("CONNECT [2001:db8::1]:80 HTTP/1.1", "Host: [2001:db8::1]:80", "Proxy-Authorization: Basic dXNlcjpwYXNz")},
		{"a", 1, "", "p:q", head("CONNECT a:1 HTTP/1.1", "Host: a:1", "Proxy-Authorization: Basic OnA6cQ==")},
	} {
		got, err := AppendConnect(nil, test.host, test.port, test.user, test.password)
		if err != nil || string(got) != test.want {
			t.Errorf("got %q, %v; want %q", got, err, test.want)
		}
	}
	for _, host := range []string{"", "a b", "a\r\nX: y", "a\x00", "a\n", "u@a", "a/b", "a?b", "a#b", "[::1]", "a:b", "a:1:2", "fe80::1%\r\n", "fe80::1% 0", "bücher", "\x7f", `"`} {
		if b, err := AppendConnect([]byte("kept"), host, 1, "", ""); !errors.Is(err, ErrTarget) || string(b) != "kept" {
			t.Errorf("host %q: %q, %v", host, b, err)
		}
	}
	if _, err := AppendConnect(nil, "a", 0, "", ""); !errors.Is(err, ErrTarget) {
		t.Errorf("port 0: %v", err)
	}
	if _, err := AppendConnect(nil, "a", 1, "a:b", ""); !errors.Is(err, ErrCredentials) {
		t.Errorf("user with a colon: %v", err)
	}
}

func TestReadResponse(t *testing.T) {
	for _, test := range []struct {
		message string
		want    Response
	}{
		{string(AppendEstablished(nil)), Response{Proto: "HTTP/1.1", Status: 200, Reason: "Connection established", Header: map[string][]string{}}},
		{head("HTTP/1.0 200 OK", "Via: x", "via: y"), Response{Proto: "HTTP/1.0", Status: 200, Reason: "OK", Header: map[string][]string{"via": {"x", "y"}}}},
		{head("HTTP/1.1 200"), Response{Proto: "HTTP/1.1", Status: 200, Header: map[string][]string{}}},
		{head("HTTP/1.1 200 "), Response{Proto: "HTTP/1.1", Status: 200, Header: map[string][]string{}}},
		{head("HTTP/1.1 407 Proxy Authentication Required", "Content-Length: 5"), Response{Proto: "HTTP/1.1", Status: 407, Reason: "Proxy Authentication Required", Header: map[string][]string{"content-length": {"5"}}}},
		{head("HTTP/1.1 100 Continue", "A: b") + head("HTTP/1.1 103") + head("HTTP/1.1 200 OK"), Response{Proto: "HTTP/1.1", Status: 200, Reason: "OK", Header: map[string][]string{}}},
	} {
		for name, r := range map[string]*bufio.Reader{
			"in one piece":       reader(test.message + "early"),
			"one byte at a time": bufio.NewReader(iotest.OneByteReader(strings.NewReader(test.message + "early"))),
			"in a small buffer":  bufio.NewReaderSize(strings.NewReader(test.message+"early"), smallest),
		} {
			got, err := ReadResponse(r)
			if err == nil {
				sameFields(t, got.Fields, got.Header)
				got.Fields = nil
			}
			if err != nil || !reflect.DeepEqual(*got, test.want) {
				t.Errorf("%q %s: got %v, %v", test.message, name, got, err)
				continue
			}
			if rest, _ := io.ReadAll(r); string(rest) != "early" {
				t.Errorf("%q %s: early data %q", test.message, name, rest)
			}
		}
	}
	if _, err := ReadResponse(reader("")); !errors.Is(err, io.EOF) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := ReadResponse(reader("HTTP/1.1 200 OK\r\n")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut: %v", err)
	}
	for _, message := range []string{
		head("HTTP/2.0 200 OK"), head("200 OK"), head("HTTP/1.1 20 OK"), head("HTTP/1.1 2000 OK"), head("HTTP/1.1 099 OK"), head("HTTP/1.1 +20 OK"), head("HTTP/1.1  200 OK"), head("HTTP/1.1 2x0 OK"),
		head("HTTP/1.1 200 OK", "A : b"), head("HTTP/1.1 200 OK", " folded"), "HTTP/1.1 200 OK\n\n", "\r\n" + head("HTTP/1.1 200 OK"), head("HTTP/1.1"), "SSH-2.0-x\r\n",
		head("HTTP/1.1 200 OK", "A: "+strings.Repeat("b", MaxHeader)),
		strings.Repeat(head("HTTP/1.1 100 Continue"), 3000) + head("HTTP/1.1 200 OK"),
	} {
		_, err := ReadResponse(reader(message))
		var fault *Error
		if !errors.As(err, &fault) || fault.Status != 502 {
			t.Errorf("%.60q: %v", message, err)
		}
	}
}
