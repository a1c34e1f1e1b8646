package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// webOrigin is a real server whose answers tell what it was asked.
func webOrigin(t *testing.T, handle http.HandlerFunc) (at string, port uint16) {
	t.Helper()
	o := httptest.NewServer(handle)
	t.Cleanup(o.Close)
	u, err := url.Parse(o.URL)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Sscan(u.Port(), &port)
	return u.Host, port
}

// ask sends a request and reads its answer.
func (c *talk) ask(r *bufio.Reader, method, text string) (*http.Response, string) {
	c.t.Helper()
	c.say(text)
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("%q is answered by %v", text, err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("the answer to %q ends with %v", text, err)
	}
	return res, string(body)
}

// Each request on a connection is authenticated and decided upon by itself, and a
// refusal leaves the connection to those that follow.
func TestEachForwardedRequestIsDecided(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d %q", r.Method, r.URL.Path, len(body), r.Header.Get("Proxy-Authorization"))
	})
	other := serveEcho(t, "127.0.0.1:0")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "authenticate.rego"), `package sallyport.authenticate
default allow := false
allow if input.credentials.verified
allow if input.request.path == "/open"
labels := {"as": input.credentials.username}
`)
	write(t, filepath.Join(dir, "route.rego"), `package sallyport.route
default allow := false
explain := true
allow if {
	input.request.command == "forward"
	input.request.method in {"GET", "POST", "HEAD"}
}
deny contains sprintf("not for %s", [input.identity.name]) if input.request.path == "/secret"
deny contains "cookies are seen" if input.request.headers.cookie
deny contains "a session of alice has no place here" if {
	input.request.path == "/bob"
	input.identity.name != "bob"
}
deny contains "no agent" if not "x" in input.request.headers["user-agent"]
labels := {"path": input.request.path, "denials": sprintf("%d", [input.source.denials.minute])}
`)
	s := start(t, "--policy", dir, "--data", settings(t, loopback, port, other.port),
		"--data", usersFile(t, map[string]string{"alice": "right horse", "bob": "wrong horse"}))
	credentials := func(name, password string) string {
		if name == "" {
			return ""
		}
		return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password)) + "\r\n"
	}
	d := dialDoor(t, s.addr)
	r := bufio.NewReader(d)
	for i, c := range []struct {
		method, target, fields string
		status                 int
		body                   string // a part of it
	}{
		{"GET", at + "/a", "", 407, `"decision_id":"`},
		{"GET", at + "/a", credentials("alice", "right horse"), 200, `GET /a 0 ""`},
		{"GET", at + "/a", "", 407, `"decision_id":"`},
		{"POST", at + "/a", "Content-Length: 5\r\n\r\nhello", 407, `"decision_id":"`},
		{"POST", at + "/a", credentials("alice", "right horse") + "Content-Length: 5\r\n\r\nhello", 200, `POST /a 5 ""`},
		{"GET", at + "/open", "", 200, `GET /open 0 ""`},
		{"GET", at + "/bob", credentials("alice", "right horse"), 403, "a session of alice"},
		{"GET", at + "/bob", credentials("bob", "wrong horse"), 200, "GET /bob 0"},
		{"GET", at + "/secret?to=/a", credentials("bob", "wrong horse"), 403, "not for bob"},
		{"HEAD", at + "/secret", credentials("bob", "wrong horse"), 403, ""},
		{"PUT", at + "/a", credentials("bob", "wrong horse") + "Content-Length: 5\r\n\r\nhello", 403, `"decision_id":"`},
		{"GET", at + "/a", "Cookie: c\r\n" + credentials("bob", "wrong horse"), 200, "GET /a 0"},
		{"GET", "10.0.0.1/", credentials("bob", "wrong horse"), 403, `"decision_id":"`},
		{"GET", fmt.Sprintf("127.0.0.1:%d/", other.port), credentials("bob", "wrong horse"), 502, ""},
		{"POST", at + "/b", credentials("alice", "right horse") + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "POST /b 5"},
		{"GET", at + "/a", "Proxy-Connection: close\r\n" + credentials("bob", "wrong horse"), 200, "GET /a 0"},
	} {
		if !strings.Contains(c.fields, "\r\n\r\n") {
			c.fields += "\r\n"
		}
		res, body := d.ask(r, c.method, fmt.Sprintf("%s http://%s HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n%s", c.method, c.target, c.fields))
		if res.StatusCode != c.status || !strings.Contains(body, c.body) || res.Close != strings.Contains(c.fields, "close") {
			t.Errorf("%d: %s %s is answered by %v %q", i, c.method, c.target, res, body)
		}
		if id := s.wait(t, i, "request"); id["http.response.status_code"] != float64(c.status) || id["http.request.method"] != c.method {
			t.Errorf("%d: %s %s is recorded as %v", i, c.method, c.target, id["raw"])
		}
	}
	if got, _ := d.rest(); got != "" {
		t.Errorf("at last comes %q", got)
	}

	// What is logged of each.
	request := func(i int) map[string]any { return s.wait(t, i, "request") }
	session := s.wait(t, 0, "session")
	if session["requests"] != 16.0 || session["outcome"] != "ok" || session["user.name"] != "bob" || session["url.path"] != nil {
		t.Errorf("the session is recorded as %v", session["raw"])
	}
	first, second, bob, secret := request(0), request(1), request(7), request(8)
	if first["outcome"] != "denied" || first["user.name"] != nil || first["decision.route"] != nil || first["session.id"] != session["session.id"] {
		t.Errorf("a request without credentials is recorded as %v", first["raw"])
	}
	if second["user.name"] != "alice" || second["url.path"] != "/a" || second["decision.authenticate"] == first["decision.authenticate"] ||
		second["network.peer.port"] != float64(port) || fmt.Sprint(second["labels"]) != "map[as:alice denials:1 path:/a]" || second["cause"] != "finished" {
		t.Errorf("alice's request is recorded as %v", second["raw"])
	}
	if bob["user.name"] != "bob" || fmt.Sprint(bob["labels"]) != "map[as:bob denials:4 path:/bob]" {
		t.Errorf("bob's request is recorded as %v", bob["raw"])
	}
	if secret["outcome"] != "denied" || secret["decision.dial"] != nil || secret["network.peer.address"] != nil || fmt.Sprint(secret["reasons"]) != "[not for bob]" || secret["bytes.up"] != 0.0 {
		t.Errorf("a denied request is recorded as %v", secret["raw"])
	}
	up := 0.0
	for i := range 16 {
		up += request(i)["bytes.up"].(float64)
	}
	if up != session["bytes.up"] || up == 0 {
		t.Errorf("the requests have %v bytes, the session %v", up, session["bytes.up"])
	}
}

// A refusal that leaves a body unread ends the connection, and is still read.
func TestRefusedBodies(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, c := range []struct {
		fields, body string
		stays        bool
	}{
		{"Content-Length: 65536\r\n", strings.Repeat("x", 65536), true},
		{"Content-Length: 65537\r\n", strings.Repeat("x", 65537), false},
		{"Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", false},
		{"Content-Length: 5\r\nExpect: 100-continue\r\n", "", false},
		{"Content-Length: 500000000\r\n", "hello", false},
	} {
		d := dialDoor(t, s.addr)
		r := bufio.NewReader(d)
		head := "POST http://127.0.0.1:25/ HTTP/1.1\r\nHost: a\r\n"
		res, _ := d.ask(r, "POST", head+c.fields+"\r\n"+c.body)
		if res.StatusCode != 403 || res.Close == c.stays {
			t.Errorf("a body by %q is refused by %v", c.fields, res)
		}
		if c.stays {
			if res, _ := d.ask(r, "POST", head+"\r\n"); res.StatusCode != 403 {
				t.Errorf("behind a body by %q comes %v", c.fields, res)
			}
		} else if got, err := io.ReadAll(r); len(got) > 0 || err != nil {
			t.Errorf("behind a refusal comes %q, %v", got, err)
		}
		d.Close()
	}
}

// A server may answer before it has the body, and a client may wait for leave to
// send it.
func TestBodiesAndAnswersCross(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/early":
			w.Header().Set("Connection", "close")
			w.WriteHeader(413)
			io.WriteString(w, "too much")
		case "/echo":
			c := http.NewResponseController(w)
			c.EnableFullDuplex()
			c.Flush()
			io.Copy(flushing{w, c}, r.Body)
			w.Header().Set("Trailer:X-End", "yes")
		default:
			body, _ := io.ReadAll(r.Body)
			fmt.Fprint(w, len(body))
		}
	})
	s := start(t, "--data", settings(t, loopback, port))

	d := dialDoor(t, s.addr)
	r := bufio.NewReader(d)
	d.say("POST http://" + at + "/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	d.hear("HTTP/1.1 100 Continue\r\nVia: 1.1 sallyport\r\n\r\n")
	if res, body := d.ask(r, "POST", "hello"); res.StatusCode != 200 || body != "5" || res.Close {
		t.Errorf("what was waited for is answered by %v %q", res, body)
	}
	res, body := d.ask(r, "POST", "POST http://"+at+"/early HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 500000000\r\n\r\n")
	if res.StatusCode != 413 || body != "too much" || !res.Close {
		t.Errorf("what is refused at once is answered by %v %q", res, body)
	}
	if got, err := io.ReadAll(r); len(got) > 0 || err != nil {
		t.Errorf("at last comes %q, %v", got, err)
	}

	// Both at once, for as long as they like.
	d = dialDoor(t, s.addr)
	d.say("POST http://" + at + "/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	r = bufio.NewReader(d)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		d.say(fmt.Sprintf("5\r\n%05d\r\n", i))
		got := make([]byte, 5)
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != fmt.Sprintf("%05d", i) {
			t.Fatalf("%05d comes back as %q, %v", i, got, err)
		}
	}
	d.say("0\r\n\r\n")
	if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil || res.Trailer.Get("X-End") != "yes" {
		t.Errorf("the end is %q, %v, %v", rest, err, res.Trailer)
	}
}

type flushing struct {
	io.Writer
	c *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	f.c.Flush()
	return n, err
}

// The connection to a server is used again where that risks nothing, and only by
// the session that has opened it.
func TestOriginConnections(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang-up" {
			c, _, _ := http.NewResponseController(w).Hijack()
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			c.Close() // without a word of it
			return
		}
		io.WriteString(w, r.RemoteAddr)
	})
	s := start(t, "--data", settings(t, loopback, port))
	ask := func(d *talk, r *bufio.Reader, method, path string) string {
		t.Helper()
		res, body := d.ask(r, method, method+" http://"+at+path+" HTTP/1.1\r\nHost: a\r\n\r\n")
		if res.StatusCode != 200 {
			t.Errorf("%s %s is answered by %v", method, path, res)
		}
		return body
	}
	d := dialDoor(t, s.addr)
	r := bufio.NewReader(d)
	one, two, post, three := ask(d, r, "GET", "/"), ask(d, r, "GET", "/"), ask(d, r, "POST", "/"), ask(d, r, "GET", "/")
	if one != two || two == post || three != post {
		t.Errorf("the server is called from %s, %s, %s, %s", one, two, post, three)
	}
	for range 20 {
		ask(d, r, "GET", "/hang-up")
		ask(d, r, "GET", "/")
	}
	other := dialDoor(t, s.addr)
	if got := ask(other, bufio.NewReader(other), "GET", "/"); got == three {
		t.Errorf("two clients share the connection from %s", got)
	}
}

// Limits are the session's, whatever it is that goes on.
func TestForwardingLimits(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang", "/hang.idle", "/hang.cut", "/hang.duration":
			<-release
		case "/part.duration":
			io.WriteString(w, "part")
			http.NewResponseController(w).Flush()
			<-release
		case "/pace":
			w.Write(make([]byte, 32<<10))
		default:
			io.WriteString(w, "0123456789")
		}
	})
	t.Cleanup(func() { close(release) })
	policy := write(t, filepath.Join(t.TempDir(), "route.rego"), `package sallyport.route
default allow := true
session_limits := {"idle": "200ms"} if endswith(input.request.path, ".idle")
session_limits := {"duration": "300ms"} if endswith(input.request.path, ".duration")
session_limits := {"bytes": 1000} if endswith(input.request.path, ".bytes")
session_limits := {"down": "64KiB/s"} if input.request.path == "/pace"
`)
	s := start(t, "--policy", policy, "--data", settings(t, loopback, port), "--set", "management.tokens.ops.token=0123456789abcdef")
	api := "http://" + s.wait(t, 0, "management")["address"].(string)
	get := func(path string) string { return "GET http://" + at + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }
	record := func(n int) map[string]any { return s.wait(t, n, "session") }

	d := dialDoor(t, s.addr)
	if res, body := d.ask(bufio.NewReader(d), "GET", get("/hang.idle")); res.StatusCode != 504 || !strings.Contains(res.Header.Get("Proxy-Status"), "http_response_timeout") {
		t.Errorf("a server that is silent is answered for by %v %q", res, body)
	}
	if r := record(0); r["outcome"] != "timeout" {
		t.Errorf("it is recorded as %v", r["raw"])
	}

	d = dialDoor(t, s.addr)
	r := bufio.NewReader(d)
	d.ask(r, "GET", get("/a.idle"))
	if got, err := io.ReadAll(r); len(got) > 0 || err != nil {
		t.Errorf("to an idle client comes %q, %v", got, err)
	}
	if r := record(1); r["outcome"] != "ok" || r["cause"] != "idle_timeout" {
		t.Errorf("it is recorded as %v", r["raw"])
	}

	d = dialDoor(t, s.addr).say(get("/part.duration"))
	if got, err := d.rest(); !strings.HasSuffix(got, "4\r\npart\r\n") || err == nil {
		t.Errorf("an answer beyond its time is %q, %v", got, err)
	}
	if r := record(2); r["outcome"] != "ok" || r["cause"] != "expired" {
		t.Errorf("it is recorded as %v", r["raw"])
	}

	d = dialDoor(t, s.addr)
	r = bufio.NewReader(d)
	for range 4 { // of some 210 bytes each
		d.ask(r, "GET", get("/a.bytes"))
	}
	d.say(get("/a.bytes"))
	d.rest()
	if r := record(3); r["cause"] != "bytes_spent" || r["bytes.up"].(float64)+r["bytes.down"].(float64) != 1000 {
		t.Errorf("a session beyond its bytes is recorded as %v", r["raw"])
	}

	d = dialDoor(t, s.addr)
	r = bufio.NewReader(d)
	began := time.Now()
	for range 2 {
		d.ask(r, "GET", get("/pace"))
	}
	if time.Since(began) < 700*time.Millisecond { // a tenth of a second's worth may go at once
		t.Errorf("64 KiB at 64 KiB/s took %v", time.Since(began))
	}
	d.Close()
	record(4)

	d = dialDoor(t, s.addr).say(get("/hang.cut"))
	id := ""
	for id == "" {
		if _, list := call(t, "GET", api+"/v1/sessions", "0123456789abcdef"); strings.Contains(list, `"state":"live"`) {
			_, id, _ = strings.Cut(list, `"id":"`)
			id, _, _ = strings.Cut(id, `"`)
		}
	}
	if status, body := call(t, "DELETE", api+"/v1/sessions/"+id, "0123456789abcdef"); status != 204 {
		t.Fatalf("%d %s", status, body)
	}
	if got, _ := d.rest(); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("a session that is cut is answered by %q", got)
	}
	if r := record(5); r["cause"] != "cut: by the management API, token ops" {
		t.Errorf("a session that is cut is recorded as %v", r["raw"])
	}

	d = dialDoor(t, s.addr)
	if res, body := d.ask(bufio.NewReader(d), "GET", get("/hang.duration")); res.StatusCode != 503 || !res.Close {
		t.Errorf("a server that is silent beyond the session's time is answered for by %v %q", res, body)
	}
	if r := record(6); r["outcome"] != "ok" || r["cause"] != "expired" {
		t.Errorf("it is recorded as %v", r["raw"])
	}
}

// What follows a WebSocket's handshake is a tunnel.
func TestWebSocket(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		c, b, _ := http.NewResponseController(w).Hijack()
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: %s\r\n\r\nahead",
			base64.StdEncoding.EncodeToString(sum[:]))
		io.Copy(c, b)
		c.(*net.TCPConn).CloseWrite()
	})
	policy := write(t, filepath.Join(t.TempDir(), "route.rego"), `package sallyport.route
default allow := true
session_limits := {"bytes": 1000} if input.request.path == "/bytes"
session_limits := {"idle": "200ms"} if input.request.path == "/idle"
`)
	s := start(t, "--policy", policy, "--data", settings(t, loopback, port))
	open := func(path string) *talk {
		return dialDoor(t, s.addr).say("GET http://" + at + path + " HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly").
			hear("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nVia: 1.1 sallyport\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nahead").hear("early")
	}
	d := open("/")
	big := strings.Repeat("x", 1<<20)
	go func() { io.WriteString(d, big); d.CloseWrite() }()
	if got, err := d.rest(); got != big || err != nil {
		t.Errorf("%d bytes come back, %v", len(got), err)
	}
	r := s.wait(t, 0, "session")
	if r["outcome"] != "ok" || r["cause"] != "finished" || r["bytes.up"].(float64) < 1<<20 || r["requests"] != 1.0 {
		t.Errorf("a WebSocket is recorded as %v", r["raw"])
	}
	if r := s.wait(t, 0, "request"); r["http.response.status_code"] != 101.0 || r["outcome"] != "ok" {
		t.Errorf("its request is recorded as %v", r["raw"])
	}
	open("/idle").rest()
	if r := s.wait(t, 1, "session"); r["cause"] != "idle_timeout" {
		t.Errorf("an idle WebSocket is recorded as %v", r["raw"])
	}
	d = open("/bytes")
	io.WriteString(d, big)
	d.rest()
	if r := s.wait(t, 2, "session"); r["cause"] != "bytes_spent" || r["bytes.up"].(float64)+r["bytes.down"].(float64) != 1000 {
		t.Errorf("a WebSocket beyond its bytes is recorded as %v", r["raw"])
	}
}

// A tunnel may follow requests on one connection, and is decided upon like them.
func TestConnectBehindForwarding(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	echo := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, port, echo.port))
	d := dialDoor(t, s.addr)
	r := bufio.NewReader(d)
	d.ask(r, "GET", "GET http://"+at+"/ HTTP/1.1\r\nHost: a\r\n\r\n")
	d.ask(r, "GET", "GET http://127.0.0.1:25/ HTTP/1.1\r\nHost: a\r\n\r\n")
	d.say(fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\nearly", echo.port)).
		hear("HTTP/1.1 200 Connection established\r\n\r\nearly").say("late").hear("late").Close()
	record := s.wait(t, 0, "session")
	if record["requests"] != 2.0 || record["server.port"] != float64(echo.port) || record["outcome"] != "ok" {
		t.Errorf("the session is recorded as %v", record["raw"])
	}
	if got := exchange(t, s.addr, "GET http://"+at+"/ HTTP/1.1\r\nHost: a\r\n\r\n\x05\x01\x00\r\n"); strings.Count(got, "HTTP/1.1 ") != 2 || !strings.Contains(got, "HTTP/1.1 400 ") {
		t.Errorf("SOCKS behind HTTP is answered by %q", got)
	}
}
