package http

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	nethttp "net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestBody(t *testing.T) {
	for _, c := range []struct {
		framing       Framing
		sent, want    string
		rest, trailer string
		err           error
	}{
		{Framing{}, "rest", "", "rest", "", nil},
		{Framing{Length: 5}, "hellorest", "hello", "rest", "", nil},
		{Framing{Length: 5}, "hell", "hell", "", "", io.ErrUnexpectedEOF},
		{Framing{Length: -1}, "hello", "hello", "", "", nil},
		{Framing{Length: -1, Chunked: true}, "5\r\nhello\r\n0006;a=\"b\"\r\n world\r\n0\r\nA: b\r\n\r\nrest", "hello world", "rest", "A", nil},
		{Framing{Chunked: true}, "0\r\n\r\nrest", "", "rest", "", nil},
		{Framing{Chunked: true}, "5\r\nhello\r\n0\r\n", "hello", "", "", io.ErrUnexpectedEOF},
		{Framing{Chunked: true}, "5\r\nhel", "hel", "", "", io.ErrUnexpectedEOF},
		{Framing{Chunked: true}, "", "", "", "", io.ErrUnexpectedEOF},
		{Framing{Chunked: true}, "5\r\nhello\r\nx", "hello", "", "", io.ErrUnexpectedEOF},
		{Framing{Chunked: true}, "5\r\nhello\r\nx\r\n", "hello", "", "", &Error{Status: 400, Reason: "invalid chunk"}},
		{Framing{Chunked: true}, "0\r\n A: b\r\n\r\n", "", "", "", &Error{Status: 400, Reason: "folded header field"}},
	} {
		for way, from := range map[string]io.Reader{
			"at once": strings.NewReader(c.sent), "byte by byte": iotest.OneByteReader(strings.NewReader(c.sent)),
		} {
			r := bufio.NewReader(from)
			b := NewBody(r, c.framing)
			got, err := io.ReadAll(b)
			var fault, wanted *Error
			same := errors.Is(err, c.err)
			if errors.As(c.err, &wanted) {
				same = errors.As(err, &fault) && *fault == *wanted
			}
			if string(got) != c.want || !same || b.Done() != (c.err == nil) {
				t.Errorf("%q %s: %q, %v", c.sent, way, got, err)
			}
			if _, again := b.Read(make([]byte, 1)); err == nil && again != io.EOF || err != nil && again != err {
				t.Errorf("%q %s: behind %v comes %v", c.sent, way, err, again)
			}
			if c.err != nil {
				continue
			}
			if rest, _ := io.ReadAll(r); string(rest) != c.rest {
				t.Errorf("%q %s: %q is left", c.sent, way, rest)
			}
			if len(b.Trailer()) != min(len(c.trailer), 1) {
				t.Errorf("%q %s: trailer %v", c.sent, way, b.Trailer())
			}
		}
	}
}

func TestChunk(t *testing.T) {
	for n, want := range map[int]string{1: "1\r\n", 15: "f\r\n", 16: "10\r\n", 65535: "ffff\r\n", 1 << 20: "100000\r\n"} {
		room := bytes.Repeat([]byte("x"), ChunkHead+n+ChunkTail)
		got := string(Chunk(room, n))
		if got != want+strings.Repeat("x", n)+"\r\n" {
			t.Errorf("%d bytes: %.20q", n, got)
		}
	}
}

// FuzzOnward wants every request that is taken to go on as one request that two
// parsers read as the same: to the host that was decided upon, without anything
// that is for this hop, and with a body of the same length.
func FuzzOnward(f *testing.F) {
	for _, lines := range [][]string{
		{"GET http://example.com/b?c HTTP/1.1", "Host: a", "A:\tb ", "Connection: x, a", "Proxy-Authorization: Basic eA==", "Via: 1.0 x"},
		{"POST http://example.com:81 HTTP/1.1", "Host: a", "Content-Length: 3", "Connection:", "connection: Content-Length, host"},
		{"POST http://[::1]/ HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "TE: trailers", "Trailer: x"},
		{"OPTIONS http://a HTTP/1.0", "Max-Forwards: 3", "Expect: 100-continue"},
		{"GET http://a/ HTTP/1.1", "Host: a", "Connection: upgrade", "Upgrade: websocket"},
	} {
		f.Add([]byte(head(lines...) + "5\r\nhello\r\n0\r\nX: y\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := reader(string(data))
		req, err := ReadRequest(r)
		if err != nil || req.Scheme != "http" {
			return
		}
		if _, err := req.MaxForwards(); err != nil {
			return
		}
		body := NewBody(r, req.Body)
		content, err := io.ReadAll(body)
		sent := AppendOnward(nil, req, "decided.example:1")
		if !req.Body.Chunked {
			sent = append(sent, content...)
		} else {
			if len(content) > 0 {
				room := make([]byte, ChunkHead+len(content)+ChunkTail)
				copy(room[ChunkHead:], content)
				sent = append(sent, Chunk(room, len(content))...)
			}
			sent = AppendLastChunk(sent, body.Trailer())
		}
		if err != nil || len(sent) > MaxHeader {
			return
		}
		const next = "GET / HTTP/1.1\r\nHost: next\r\n\r\n"
		r = reader(string(sent) + next)
		again, err := ReadRequest(r)
		if err != nil {
			t.Fatalf("%q is not read again: %v", sent, err)
		}
		if again.Header["host"][0] != "decided.example:1" || again.Method != req.Method || again.Path != req.Path || again.Query != req.Query || again.Body.Chunked != req.Body.Chunked || again.Body.Length != req.Body.Length {
			t.Fatalf("%+v goes on as %+v", req, again)
		}
		for name := range again.Header {
			if strings.HasPrefix(name, "proxy-") || name == "keep-alive" || name == "http2-settings" {
				t.Fatalf("%q has %s", sent, name)
			}
		}
		copied, err := io.ReadAll(NewBody(r, again.Body))
		if rest, _ := io.ReadAll(r); err != nil || string(rest) != next || !bytes.Equal(copied, content) {
			t.Fatalf("behind %q is %q, %v", sent, rest, err)
		}

		r = reader(string(sent) + next)
		other, err := nethttp.ReadRequest(r)
		if err != nil {
			if strings.Contains(err.Error(), "parse ") {
				return
			}
			t.Fatalf("net/http refuses %q: %v", sent, err)
		}
		if other.Host != "decided.example:1" || other.Method != req.Method || other.RequestURI != req.Path+req.Query {
			t.Fatalf("net/http has %s %s of %s, want %+v", other.Method, other.RequestURI, other.Host, req)
		}
		copied, err = io.ReadAll(other.Body)
		if rest, _ := io.ReadAll(r); err != nil || string(rest) != next || !bytes.Equal(copied, content) {
			t.Fatalf("net/http sees %q behind %q, %v", rest, sent, err)
		}
	})
}

// FuzzAnswer wants every answer that is taken to be passed on as one answer that
// net/http reads as the same.
func FuzzAnswer(f *testing.F) {
	for _, answer := range []string{
		head("HTTP/1.1 200 OK", "Content-Length: 5", "Connection: close, x", "X: y") + "hello",
		head("HTTP/1.1 200", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\nX: y\r\n\r\n",
		head("HTTP/1.0 404 No", "Date: x") + "hello", head("HTTP/1.1 204 No", "Content-Length: 5") + "hello", head("HTTP/1.1 304 x", "Content-Length: 5"),
	} {
		f.Add([]byte(answer), false)
		f.Add([]byte(answer), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, asHead bool) {
		method := "GET"
		if asHead {
			method = "HEAD"
		}
		r := reader(string(data))
		res, err := ReadResponse(r)
		if err != nil {
			return
		}
		framing, err := res.Body(method)
		if err != nil {
			return
		}
		body := NewBody(r, framing)
		content, err := io.ReadAll(body)
		if err != nil {
			return
		}
		down := framing
		down.Chunked = down.Chunked || down.Length < 0
		sent := AppendAnswer(nil, res, Answer{Body: down, Now: time.Unix(1, 0)})
		if down.Chunked {
			if len(content) > 0 {
				room := make([]byte, ChunkHead+len(content)+ChunkTail)
				copy(room[ChunkHead:], content)
				sent = append(sent, Chunk(room, len(content))...)
			}
			sent = AppendLastChunk(sent, body.Trailer())
		} else {
			sent = append(sent, content...)
		}
		const next = "HTTP/1.1 200 OK\r\n\r\n"
		r = reader(string(sent) + next)
		other, err := nethttp.ReadResponse(r, &nethttp.Request{Method: method})
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", sent, err)
		}
		if other.StatusCode != res.Status || other.Header.Get("Date") == "" || other.Header.Get("Via") == "" {
			t.Fatalf("net/http has %v, want %+v", other, res)
		}
		copied, err := io.ReadAll(other.Body)
		if rest, _ := io.ReadAll(r); err != nil || string(rest) != next || !bytes.Equal(copied, content) {
			t.Fatalf("net/http sees %q behind %q, %v", rest, sent, err)
		}
	})
}

func BenchmarkOnward(b *testing.B) {
	sent := head("GET http://www.example.com/index.html?q=1 HTTP/1.1", "Host: www.example.com",
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "Accept: text/html,application/xhtml+xml",
		"Accept-Encoding: gzip, deflate", "Accept-Language: en", "Cookie: a=b; c=d", "Proxy-Connection: keep-alive")
	answer := head("HTTP/1.1 200 OK", "Date: Mon, 01 Jan 2001 00:00:00 GMT", "Server: x", "Content-Type: text/html", "Content-Length: 5", "Connection: keep-alive")
	client, server := strings.NewReader(sent), strings.NewReader(answer)
	r := bufio.NewReaderSize(client, 4096)
	b.ReportAllocs()
	for b.Loop() {
		client.Reset(sent)
		r.Reset(client)
		req, err := ReadRequest(r)
		if err != nil {
			b.Fatal(err)
		}
		AppendOnward(nil, req, "www.example.com")
		server.Reset(answer)
		r.Reset(server)
		res, err := ReadResponse(r)
		if err != nil {
			b.Fatal(err)
		}
		AppendAnswer(nil, res, Answer{Body: Framing{Length: 5}})
	}
}
