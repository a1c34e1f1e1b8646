package http

import (
	"bytes"
	"io"
	nethttp "net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// marshal writes a request as it was read.
func marshal(req *Request) string {
	var b strings.Builder
	b.WriteString(req.Method + " " + req.Target + " " + req.Proto + "\r\n")
	for _, f := range req.Fields {
		b.WriteString(f.Name + ": " + f.Value + "\r\n")
	}
	return b.String() + "\r\n"
}

// FuzzReadRequest wants three things of every request that is taken: written
// again it reads the same; what follows it stays; and net/http, another parser,
// takes it too and sees the same request in it.
func FuzzReadRequest(f *testing.F) {
	for _, lines := range [][]string{
		{"CONNECT example.com:443 HTTP/1.1", "Host: example.com:443", "Proxy-Authorization: Basic dTpw"},
		{"CONNECT [::1]:1 HTTP/1.0"},
		{"GET http://a/b?c HTTP/1.1", "Host: a", "A:\tb ", "a: c"},
		{"POST / HTTP/1.1", "Host: a", "Content-Length: 3"},
		{"POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"},
		{"CONNECT a:1 HTTP/1.1", " folded"},
		{"CONNECT u@a:1 HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked"},
		{"OPTIONS * HTTP/1.1", "Host: a"},
	} {
		f.Add([]byte(head(lines...) + "rest"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := reader(string(data))
		req, err := ReadRequest(r)
		if err != nil {
			if req != nil {
				t.Fatalf("%v beside %v", req, err)
			}
			return
		}
		rest, _ := io.ReadAll(r)
		if !bytes.HasSuffix(data, rest) || !bytes.HasSuffix(data[:len(data)-len(rest)], []byte("\r\n\r\n")) {
			t.Fatalf("%q left of %q", rest, data)
		}
		again, err := ReadRequest(reader(marshal(req)))
		if err != nil || !reflect.DeepEqual(again, req) {
			t.Fatalf("read %+v, again %+v, %v", req, again, err)
		}
		if req.Method == "CONNECT" {
			if req.Host == "" || req.Port == 0 || req.Path != "" {
				t.Fatalf("CONNECT without a target: %+v", req)
			}
		} else if (req.Host != "") != (req.Scheme == "http") || (req.Port != 0) != (req.Scheme == "http") || req.Path == "" {
			t.Fatalf("%s with half a target or without a path: %+v", req.Method, req)
		}
		req.Authorization()
		agree(t, req, data)
	})
}

// agree compares with net/http, but for its opinion of URLs, which are not judged
// here.
func agree(t *testing.T, req *Request, data []byte) {
	other, err := nethttp.ReadRequest(reader(strings.TrimLeft(string(data), "\r\n")))
	if err != nil {
		if strings.Contains(err.Error(), "parse ") {
			return
		}
		t.Fatalf("net/http refuses %q: %v", data, err)
	}
	if other.Method != req.Method || other.RequestURI != req.Target || other.Proto != req.Proto {
		t.Fatalf("net/http has %s %s %s, want %+v", other.Method, other.RequestURI, other.Proto, req)
	}
	if req.Method == "CONNECT" && (other.ContentLength != 0 || len(other.TransferEncoding) > 0) {
		t.Fatalf("net/http sees a body after %q", data)
	}
	fields := 0
	for name, values := range other.Header {
		fields++
		if !slices.Equal(req.Header[strings.ToLower(name)], values) && !strings.EqualFold(name, "Content-Length") {
			t.Fatalf("net/http has %s: %q, want %q", name, values, req.Header)
		}
	}
	for _, apart := range []string{"host", "transfer-encoding", "trailer"} { // net/http keeps these elsewhere
		if _, ok := req.Header[apart]; ok {
			fields++
		}
	}
	if fields < len(req.Header) {
		t.Fatalf("net/http has %v, want %v", other.Header, req.Header)
	}
}

// FuzzAppendConnect wants every request for a tunnel to be read as what was
// asked, and to be one request.
func FuzzAppendConnect(f *testing.F) {
	f.Add("example.com", uint16(443), "user", "p:w")
	f.Add("::1", uint16(1), "", "")
	f.Add("a\r\nb", uint16(0), "\x00\xff", "\r\n")
	f.Fuzz(func(t *testing.T, host string, port uint16, user, password string) {
		b, err := AppendConnect(nil, host, port, user, password)
		if err != nil {
			return
		}
		r := reader(string(b))
		req, err := ReadRequest(r)
		if err != nil || r.Buffered() > 0 || req.Host != host || req.Port != port {
			if len(b) > MaxHeader {
				return
			}
			t.Fatalf("%q is read as %+v, %v", b, req, err)
		}
		_, u, p, _, present, err := req.Authorization()
		if err != nil || u != user || p != password || present != (user != "" || password != "") {
			t.Fatalf("%q: user %q, password %q, %v, %v", b, u, p, present, err)
		}
	})
}

func FuzzReadResponse(f *testing.F) {
	f.Add([]byte(string(AppendEstablished(nil)) + "rest"))
	f.Add([]byte(head("HTTP/1.1 100 Continue") + head("HTTP/1.0 407 No", "Proxy-Authenticate: Basic")))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := reader(string(data))
		res, err := ReadResponse(r)
		if err != nil {
			return
		}
		if res.Status < 200 || res.Status > 999 {
			t.Fatalf("status %d", res.Status)
		}
		rest, _ := io.ReadAll(r)
		if !bytes.HasSuffix(data, rest) || !bytes.HasSuffix(data[:len(data)-len(rest)], []byte("\r\n\r\n")) {
			t.Fatalf("%q left of %q", rest, data)
		}
	})
}
