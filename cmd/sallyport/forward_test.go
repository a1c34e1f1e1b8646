package main

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// answering is an origin server that reads one request of each connection, gives
// the answer of the moment and closes.
type answering struct {
	at     string // its address
	port   uint16
	heard  chan string // what it has read
	answer atomic.Pointer[string]
}

func serveAnswer(t *testing.T, answer string) *answering {
	t.Helper()
	o := &answering{heard: make(chan string, 64)}
	o.answer.Store(&answer)
	o.port = serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		o.heard <- readMessage(bufio.NewReader(c))
		io.WriteString(c, *o.answer.Load())
		c.CloseWrite()
		io.Copy(io.Discard, c)
	})
	o.at = fmt.Sprintf("127.0.0.1:%d", o.port)
	return o
}

// readMessage reads a head, and a body whose length is announced.
func readMessage(r *bufio.Reader) string {
	var text strings.Builder
	until := func(end string) {
		for !strings.HasSuffix(text.String(), end) {
			line, err := r.ReadString('\n')
			text.WriteString(line)
			if err != nil {
				return
			}
		}
	}
	until("\r\n\r\n")
	if _, length, ok := strings.Cut(text.String(), "\r\nContent-Length: "); ok {
		var n int64
		fmt.Sscan(length, &n)
		io.CopyN(&text, r, n)
	} else if strings.Contains(text.String(), "\r\nTransfer-Encoding: chunked\r\n") {
		until("\r\n0\r\n")
		until("\r\n\r\n")
	}
	return text.String()
}

const (
	date        = "Date: Mon, 01 Jan 2001 00:00:00 GMT\r\n"
	plainAnswer = "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 2\r\n\r\nok"
)

// What the origin server gets, byte for byte; AT stands for its address.
func TestForwardedRequests(t *testing.T) {
	t.Parallel()
	o := serveAnswer(t, plainAnswer)
	s := start(t, "--data", settings(t, loopback, o.port), "--data", usersFile(t, map[string]string{"ann": "right horse"}))
	basic := base64.StdEncoding.EncodeToString([]byte("ann:right horse"))
	const (
		host = "Host: AT\r\n"
		via  = "Via: 1.1 sallyport\r\n"
		get  = "GET / HTTP/1.1\r\n" + host
	)
	for _, c := range []struct{ send, want string }{
		// the target
		{"GET http://AT/ HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n", get + via + "\r\n"},
		{"GET http://AT HTTP/1.1\r\nHost:\r\n\r\n", get + via + "\r\n"},
		{"GET HTTP://AT?q=/a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?q=/a HTTP/1.1\r\n" + host + via + "\r\n"},
		{"GET http://AT/a/../%2e%2E/b%00?c=%0d%0a&d HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a/../%2e%2E/b%00?c=%0d%0a&d HTTP/1.1\r\n" + host + via + "\r\n"},
		{"GET http://0x7f.1:PORT/ HTTP/1.1\r\nHost: a\r\n\r\n", get + via + "\r\n"}, // in canonical form
		{"GET http://LOCALHOST.:PORT/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: localhost:PORT\r\n" + via + "\r\n"},
		{"OPTIONS http://AT HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\n" + host + via + "\r\n"},
		{"OPTIONS http://AT/ HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS / HTTP/1.1\r\n" + host + via + "\r\n"},
		{"M-SEARCH http://AT/ HTTP/1.1\r\nHost: a\r\n\r\n", "M-SEARCH / HTTP/1.1\r\n" + host + via + "\r\n"},
		// fields
		{"GET http://AT/ HTTP/1.1\r\nhOST: a\r\nUser-AGENT:  x \r\nCookie: a\r\nAuthorization: b\r\nVia: 1.0 fred\r\ncookie: c\r\n\r\n",
			get + "User-AGENT: x\r\nCookie: a\r\nAuthorization: b\r\nVia: 1.0 fred\r\ncookie: c\r\n" + via + "\r\n"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nConnection: \u212aeep-Alive, X-A\r\nKeep-Alive: 5\r\nX-A: 1\r\npRoXy-aUtHoRiZaTiOn:\tBasic " + basic + " \r\n\r\n", get + via + "\r\n"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: webSoc\u212aet\r\n\r\n", get + via + "\r\n"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic " + basic + "\r\nProxy-Connection: keep-alive\r\nProxy-Anything: x\r\nproxy-authenticate: y\r\n\r\n", get + via + "\r\n"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\n\r\n", get + "X-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\n" + via + "\r\n"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nConnection:\r\nX-One: 1\r\nConnection: keep-alive , X-ONE;q=1,,x-two\r\nX-Two: 2\r\nKeep-Alive: 5\r\nX-Three: 3\r\nTE: gzip\r\n\r\n",
			get + "X-Three: 3\r\n" + via + "\r\n"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nConnection: Host, Content-Length, Transfer-Encoding, Via\r\nVia: 1.0 x\r\n\r\n", get + via + "\r\n"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: deflate;q=0.5, trailers\r\n\r\n", get + via + "Connection: TE\r\nTE: trailers\r\n\r\n"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", get + via + "\r\n"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", get + via + "\r\n"}, // Connection does not name it
		{"POST http://AT/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "POST / HTTP/1.1\r\n" + host + via + "\r\n"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", get + "Max-Forwards: 0\r\n" + via + "\r\n"}, // is of OPTIONS and TRACE
		{"TRACE http://AT/ HTTP/1.1\r\nHost: a\r\nMax-Forwards: 10\r\n\r\n", "TRACE / HTTP/1.1\r\n" + host + "Max-Forwards: 9\r\n" + via + "\r\n"},
		// bodies
		{"POST http://AT/ HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\nhello", "POST / HTTP/1.1\r\n" + host + via + "Content-Length: 5\r\n\r\nhello"},
		{"POST http://AT/ HTTP/1.1\r\nHost: a\r\nContent-Length: 00005\r\n\r\nhello", "POST / HTTP/1.1\r\n" + host + via + "Content-Length: 5\r\n\r\nhello"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", get + via + "Content-Length: 0\r\n\r\n"},
		{"GET http://AT/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", get + via + "Content-Length: 2\r\n\r\nhi"},
		{"POST http://AT/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked \t\r\nProxy-Authorization: Basic " + basic + "\r\n\r\n5 \r\nhello\r\n000\r\nProxy-Authorization: Basic eA==\r\nproxy-AUTHORIZATION: Basic eQ==\r\nAuthorization: z\r\n\r\n",
			"POST / HTTP/1.1\r\n" + host + via + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"POST http://AT/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\nTrailer: X-Sum\r\n\r\n00005;a=b\r\nhello\r\n0;x\r\nX-Sum: 1\r\nHost: evil\r\nContent-Length: 5\r\nProxy-X: y\r\nCookie: z\r\n\r\n",
			"POST / HTTP/1.1\r\n" + host + "Trailer: X-Sum\r\n" + via + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"},
		{"POST http://AT/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", "POST / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\n" + via + "Content-Length: 5\r\n\r\nhello"},
		// old clients
		{"GET http://AT/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", get + "Via: 1.0 sallyport\r\n\r\n"},
		{"POST http://AT/ HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", "POST / HTTP/1.1\r\n" + host + "Via: 1.0 sallyport\r\nContent-Length: 5\r\n\r\nhello"},
	} {
		fill := strings.NewReplacer("AT", o.at, "PORT", fmt.Sprint(o.port)).Replace
		d := dialDoor(t, s.addr).say(fill(c.send))
		answer := plainAnswer[:strings.Index(plainAnswer, "Content-Length")] + via + plainAnswer[strings.Index(plainAnswer, "Content-Length"):]
		if strings.Contains(c.send, "HTTP/1.0") {
			answer = strings.Replace(answer, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
		}
		d.hear(answer).Close()
		if got := <-o.heard; got != fill(c.want) {
			t.Errorf("%q\nreaches the server as %q\nwant               %q", fill(c.send), got, fill(c.want))
		}
	}
}

// What two parsers could read differently reaches nobody.
func TestNothingIsSmuggled(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, target.port))
	to := fmt.Sprintf("http://127.0.0.1:%d", target.port)
	line := "POST " + to + "/ HTTP/1.1\r\n"
	head := line + "Host: a\r\n"
	const chunked = "Transfer-Encoding: chunked\r\n"
	behind := "0\r\n\r\nGET " + to + "/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, c := range []struct {
		send   string
		status int
	}{
		{head + "Content-Length: 5\r\n" + chunked + "\r\n" + behind, 400},
		{head + chunked + "Content-Length: 5\r\n\r\n" + behind, 400},
		{head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + behind, 400},
		{head + "Content-Length: 5, 5\r\n\r\n" + behind, 400},
		{head + "Content-Length: 5\r\ncontent-length: 05\r\n\r\n" + behind, 400},
		{head + "Content-Length: +5\r\n\r\n" + behind, 400},
		{head + "Content-Length: -5\r\n\r\n" + behind, 400},
		{head + "Content-Length: 5 \x0b\r\n\r\n" + behind, 400},
		{head + "Content-Length: 0x5\r\n\r\n" + behind, 400},
		{head + "Content-Length: 5.0\r\n\r\n" + behind, 400},
		{head + "Content-Length:\r\n\r\n" + behind, 400},
		{head + "Content-Length: 99999999999999999999\r\n\r\n" + behind, 400},
		{head + "Content-Length : 5\r\n\r\n" + behind, 400},
		{head + " Content-Length: 5\r\n\r\n" + behind, 400},
		{head + "A: b\r\n Content-Length: 5\r\n\r\n" + behind, 400},
		{head + "Transfer-Encoding: chunked, chunked\r\n\r\n" + behind, 501},
		{head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + behind, 501},
		{head + "Transfer-Encoding: identity, chunked\r\n\r\n" + behind, 501},
		{head + "Transfer-Encoding: xchunked\r\n\r\n" + behind, 501},
		{head + "Transfer-Encoding: \"chunked\"\r\n\r\n" + behind, 501},
		{head + "Transfer-Encoding: chun\u212aed\r\n\r\n" + behind, 501}, // the Kelvin sign
		{head + "Transfer-Encoding: chunked;q=1\r\n\r\n" + behind, 501},
		{head + "Transfer-Encoding: ,chunked\r\n\r\n" + behind, 501},
		{head + "Transfer-Encoding:\x0bchunked\r\n\r\n" + behind, 400},
		{head + "Transfer-Encoding\t: chunked\r\n\r\n" + behind, 400},
		{head + "Transfer-Encoding: chunked\n\r\n" + behind, 400},
		{head + "X: a\rTransfer-Encoding: chunked\r\n\r\n" + behind, 400},
		{head + "X: a\x00\r\n\r\n" + behind, 400},
		{head + "Tr\x00: a\r\n\r\n" + behind, 400},
		{"POST " + to + "/ HTTP/1.0\r\nHost: a\r\n" + chunked + "\r\n" + behind, 400},
		{line + "Host: a\r\nHost: b\r\n\r\n" + behind, 400},
		{line + "\r\n" + behind, 400},
		{line + "Host: a, b\r\n\r\n" + behind, 0}, // is no name, and plays no part
		{"GET " + to + "/ HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n" + behind, 400},
		{"GET " + to + "/\r HTTP/1.1\r\nHost: a\r\n\r\n" + behind, 400},
		{"GET " + to + "/\x00 HTTP/1.1\r\nHost: a\r\n\r\n" + behind, 400},
		{"GET " + to + "/#a HTTP/1.1\r\nHost: a\r\n\r\n" + behind, 400},
		{strings.Replace(head, "http://", "http://a@", 1) + "\r\n" + behind, 400},
		{strings.Replace(head, "http://", "http://a:b@", 1) + "\r\n" + behind, 400},
		{strings.Replace(head, "http://", "http://public.example\\@", 1) + "\r\n" + behind, 400},
		{strings.Replace(head, "http://", "https://", 1) + "Connection: close\r\n\r\n" + behind, 501},
		{strings.Replace(head, "http://", "ftp://", 1) + "Connection: close\r\n\r\n" + behind, 501},
		{strings.Replace(head, "http://", "http:/", 1) + "\r\n" + behind, 400},
		{strings.Replace(head, to, to[len("http:"):], 1) + "Connection: close\r\n\r\n", 400}, // a path, and no host
		{"GET / HTTP/1.1\r\nConnection: close\r\nHost: " + to[len("http://"):] + "\r\n\r\n", 400},
		{"TRACE " + to + "/ HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n", 405},
		{"OPTIONS " + to + "/ HTTP/1.1\r\nHost: a\r\nMax-Forwards: x\r\n\r\n" + behind, 400},
		{"OPTIONS " + to + "/ HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n", 200},
	} {
		before := target.came.Load()
		d := dialDoor(t, s.addr)
		io.WriteString(d, c.send)
		if c.status == 0 {
			d.Close()
			continue
		}
		got, _ := d.rest()
		if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || strings.Count(got, "HTTP/1.1 ") != 1 {
			t.Errorf("%q is answered by %q", c.send, got)
		}
		if target.came.Load() != before {
			t.Errorf("%q came to the target", c.send)
		}
	}
}

// Malformed chunks end a request that has begun: the server is never given an end
// to it, nor what follows.
func TestMalformedBodies(t *testing.T) {
	t.Parallel()
	o := serveAnswer(t, plainAnswer)
	s := start(t, "--data", settings(t, loopback, o.port))
	for _, body := range []string{
		"5\nhello\r\n0\r\n\r\n", "5\r\nhello0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhelloworld\r\n0\r\n\r\n", " 5\r\nhello\r\n0\r\n\r\n",
		"0x5\r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n", "g\r\nhello\r\n0\r\n\r\n", "\r\n0\r\n\r\n",
		"00000000000000000005\r\nhello\r\n0\r\n\r\n", "5;\x00\nx\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\nX: a\x00\r\n\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n", "5\r\r\nhello\r\n0\r\n\r\n", "5;\rx\r\nhello\r\n0\r\n\r\n",
		"5\r\nhello\r\n0\r\nbad trailer\r\n\r\n", "5\r\nhello\r\n0\r\n X: folded\r\n\r\n", "5\r\nhello\r\n0\r\nX: a\n\r\n",
		"5\r\nhello\r\n0\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 70) + "\r\n",
		"5;" + strings.Repeat("x", 5000) + "\r\nhello\r\n0\r\n\r\n",
	} {
		d := dialDoor(t, s.addr)
		io.WriteString(d, "POST http://"+o.at+"/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+body+"GET http://"+o.at+"/smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
		got, _ := d.rest()
		if !strings.HasPrefix(got, "HTTP/1.1 400 ") || strings.Count(got, "HTTP/1.1 ") != 1 {
			t.Errorf("%.60q is answered by %q", body, got)
		}
		if got := <-o.heard; strings.HasSuffix(got, "\r\n\r\n") && strings.Contains(got, "\r\n0\r\n") || strings.Contains(got, "smuggled") {
			t.Errorf("%.60q reaches the server as %q", body, got)
		}
	}
	// Less than was announced, and no more to come.
	d := dialDoor(t, s.addr).say("POST http://" + o.at + "/ HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhello")
	d.CloseWrite()
	if got, _ := d.rest(); got != "" {
		t.Errorf("half a body is answered by %q", got)
	}
	if got := <-o.heard; !strings.HasSuffix(got, "hello") {
		t.Errorf("half a body reaches the server as %q", got)
	}
}

// What the client gets of an answer, byte for byte. An empty want is a 502 of the
// type that is named; CUT at its end is an answer that is cut short.
func TestForwardedAnswers(t *testing.T) {
	t.Parallel()
	const via = "Via: 1.1 sallyport\r\n"
	const ok = "HTTP/1.1 200 OK\r\n" + date
	long := strings.Repeat("x", 100_000)
	o := serveAnswer(t, "")
	s := start(t, "--data", settings(t, loopback, o.port))
	for _, c := range []struct{ request, answer, want string }{
		{"GET 1.1", ok + "Content-Length: 5\r\n\r\nhello", ok + via + "Content-Length: 5\r\n\r\nhello"},
		{"GET 1.1", ok + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhellohello", ok + via + "Content-Length: 5\r\n\r\nhello"}, // what is beyond goes nowhere
		{"GET 1.1", ok + "Content-Length: 0\r\n\r\n", ok + via + "Content-Length: 0\r\n\r\n"},
		{"GET 1.1", "HTTP/1.1 404 Weg \xfc\r\n" + date + "Content-Length: 0\r\n\r\n", "HTTP/1.1 404 Weg \xfc\r\n" + date + via + "Content-Length: 0\r\n\r\n"},
		{"GET 1.1", "HTTP/1.1 200\r\n" + date + "Content-Length: 0\r\n\r\n", ok + via + "Content-Length: 0\r\n\r\n"},
		{"GET 1.1", ok + "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n005;x\r\nhello\r\n6\r\n world\r\n0\r\nX: y\r\nSet-Cookie: z\r\nContent-Length: 5\r\n\r\n",
			ok + "Trailer: X\r\n" + via + "Transfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\nX: y\r\n\r\n"},
		{"GET 1.1", ok + "\r\nuntil the end", ok + via + "Transfer-Encoding: chunked\r\n\r\nd\r\nuntil the end\r\n0\r\n\r\n"},
		{"GET 1.1", "HTTP/1.0 200 OK\r\n" + date + "\r\nold", ok + "Via: 1.0 sallyport\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nold\r\n0\r\n\r\n"},
		{"GET 1.0", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", ok + via + "Connection: close\r\n\r\nhello"},
		{"GET 1.0", ok + "\r\nuntil the end", ok + via + "Connection: close\r\n\r\nuntil the end"},
		{"GET 1.0", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + plainAnswer, ok + via + "Content-Length: 2\r\nConnection: close\r\n\r\nok"},
		{"GET 1.1", "HTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 5\r\nConnection: x-a\r\nX-A: b\r\n\r\nHTTP/1.1 100\r\n\r\n" + plainAnswer,
			"HTTP/1.1 103 Early Hints\r\nLink: x\r\n" + via + "\r\nHTTP/1.1 100 Continue\r\n" + via + "\r\n" + ok + via + "Content-Length: 2\r\n\r\nok"},
		{"HEAD 1.1", ok + "Content-Length: 500\r\n\r\n", ok + via + "Content-Length: 500\r\n\r\n"},
		{"HEAD 1.1", ok + "Transfer-Encoding: chunked\r\n\r\n", ok + via + "\r\n"},
		{"HEAD 1.1", ok + "Content-Length: 5\r\n\r\nhello", ok + via + "Content-Length: 5\r\n\r\n"},
		{"GET 1.1", "HTTP/1.1 304 Not Modified\r\n" + date + "\r\nhello", "HTTP/1.1 304 Not Modified\r\n" + date + via + "\r\n"},
		{"GET 1.1", "HTTP/1.1 304 Not Modified\r\n" + date + "Content-Length: 500\r\nETag: x\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n" + date + "ETag: x\r\n" + via + "Content-Length: 500\r\n\r\n"},
		{"GET 1.1", "HTTP/1.1 204 No Content\r\n" + date + "Content-Length: 5\r\n\r\nhello", "HTTP/1.1 204 No Content\r\n" + date + via + "\r\n"},
		{"GET 1.1", ok + "Connection: X-A, close\r\nX-A: b\r\nKeep-Alive: 5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nSet-Cookie: a\r\nset-cookie: b\r\nProxy-Status: x\r\nContent-Length: 0\r\n\r\n",
			ok + "Set-Cookie: a\r\nset-cookie: b\r\nProxy-Status: x\r\n" + via + "Content-Length: 0\r\n\r\n"},
		{"GET 1.1", ok + "Content-Length: 100000\r\n\r\n" + long, ok + via + "Content-Length: 100000\r\n\r\n" + long},
		// cut short
		{"GET 1.1", ok + "Content-Length: 50\r\n\r\nhello", "CUT"},
		{"GET 1.1", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "CUT"},
		{"GET 1.1", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n", "CUT"},
		{"GET 1.1", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", "CUT"},
		{"GET 1.1", ok + "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", "CUT"},
		// refused
		{"GET 1.1", "", "connection_terminated"},
		{"GET 1.1", "HTTP/1.1 200 OK\r\nX: ", "connection_terminated"},
		{"GET 1.1", "SSH-2.0-x\r\n", "http_protocol_error"},
		{"GET 1.1", "HTTP/2.0 200 OK\r\n\r\n", "http_protocol_error"},
		{"GET 1.1", "HTTP/1.1 200 O\rK\r\n\r\n", "http_protocol_error"},
		{"GET 1.1", "HTTP/1.1 2000 OK\r\n\r\n", "http_protocol_error"},
		{"GET 1.1", ok + "X : y\r\n\r\n", "http_protocol_error"},
		{"GET 1.1", ok + "X: y\r\n folded\r\n\r\n", "http_protocol_error"},
		{"GET 1.1", ok + "X: y\n\r\n", "http_protocol_error"},
		{"GET 1.1", ok + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "http_protocol_error"},
		{"GET 1.1", ok + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "http_protocol_error"},
		{"HEAD 1.1", ok + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "http_protocol_error"},
		{"GET 1.1", ok + "Content-Length: 5, 5\r\n\r\nhello", "http_protocol_error"},
		{"GET 1.1", ok + "Content-Length: +5\r\n\r\nhello", "http_protocol_error"},
		{"GET 1.1", "HTTP/1.1 200 OK\x00\r\nContent-Length: 5\r\n\r\nhello", "http_protocol_error"},
		{"GET 1.1", ok + "X: a\rSet-Cookie: b\r\n\r\nhello", "http_protocol_error"},
		{"GET 1.1", ok + "X: a\x00b\r\n\r\nhello", "http_protocol_error"},
		{"GET 1.1", ok + strings.Repeat("X: y\r\n", 1001) + "\r\nhello", "http_response_header_section_size"},
		{"GET 1.1", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "http_protocol_error"},
		{"GET 1.1", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "http_response_transfer_coding"},
		{"GET 1.1", ok + "X: " + long + "\r\n\r\n", "http_response_header_section_size"},
		{"GET 1.1", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nhello", "http_upgrade_failed"},
		{"GET 1.0", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello", "http_upgrade_failed"},
		{"GET 1.1", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello", "http_upgrade_failed"},
	} {
		o.answer.Store(&c.answer)
		method, version, _ := strings.Cut(c.request, " ")
		d := dialDoor(t, s.addr).say(fmt.Sprintf("%s http://%s/ HTTP/%s\r\nHost: a\r\n\r\n", method, o.at, version))
		<-o.heard
		switch {
		case strings.HasPrefix(c.want, "HTTP"):
			d.hear(c.want)
			d.CloseWrite()
			if got, err := d.rest(); got != "" || err != nil {
				t.Errorf("behind the answer to %.80q comes %q, %v", c.answer, got, err)
			}
		case c.want == "CUT":
			if got, err := d.rest(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%.80q, which is cut short, is passed on as %.200q, %v", c.answer, got, err)
			}
		default:
			d.CloseWrite()
			got, _ := d.rest()
			if !strings.HasPrefix(got, "HTTP/1.1 502 ") || !strings.Contains(got, "\r\nProxy-Status: sallyport; error="+c.want+"\r\n") ||
				strings.Contains(got, "hello") || strings.Count(got, "HTTP/1.1") != 1 || strings.HasSuffix(got, "}\n") == (method == "HEAD") {
				t.Errorf("%.80q is passed on as %q", c.answer, got)
			}
		}
	}
}

// Behind interim answers a server may fail as well, and the client is told.
func TestFailuresBehindInterimAnswers(t *testing.T) {
	t.Parallel()
	o := serveAnswer(t, "")
	s := start(t, "--data", settings(t, loopback, o.port))
	for _, c := range []struct{ answer, want string }{
		{"HTTP/1.1 100 Continue\r\n\r\n", "connection_terminated"},
		{"HTTP/1.1 100 Continue\r\n\r\nSSH-2.0-x\r\n", "http_protocol_error"},
		{strings.Repeat("HTTP/1.1 103 x\r\n\r\n", 5000) + plainAnswer, "http_response_header_section_size"},
	} {
		o.answer.Store(&c.answer)
		d := dialDoor(t, s.addr).say(fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: a\r\n\r\n", o.at))
		<-o.heard
		d.CloseWrite()
		got, err := d.rest()
		if !strings.HasPrefix(got, "HTTP/1.1 10") || strings.Count(got, "HTTP/1.1 502 ") != 1 || !strings.Contains(got, "error="+c.want+"\r\n") || err != nil {
			t.Errorf("%.80q is passed on as %.80q … %q, %v", c.answer, got, got[max(0, len(got)-300):], err)
		}
	}
}

// A client that hangs up within an answer is recorded as one that leaves a tunnel.
func TestClientsThatHangUpWithinAnAnswer(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(over)
		for piece := make([]byte, 64<<10); ; {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
	s := start(t, "--data", settings(t, loopback, port))
	d := dialDoor(t, s.addr).say("GET http://" + at + "/ HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, err := io.ReadFull(d, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	d.Close() // with bytes unread, so that it is a reset
	<-over
	if r := s.wait(t, 0, "session"); r["outcome"] != "ok" || r["cause"] != "client_reset" {
		t.Errorf("it is recorded as %v", r["raw"])
	}
}
