package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// A new policy is asked about each forwarded request that goes on, and about none
// that is over.
func TestForwardedRequestsFollowThePolicy(t *testing.T) {
	t.Parallel()
	came, release := make(chan string, 1), make(chan struct{})
	_, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/silent":
			came <- r.Host
			<-release
		case "/long":
			io.WriteString(w, "part")
			http.NewResponseController(w).Flush()
			<-release
			io.WriteString(w, "rest")
		case "/socket":
			c, b, _ := http.NewResponseController(w).Hijack()
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(c, b)
		default:
			io.WriteString(w, "ok")
		}
	})
	w := startLive(t)
	get := func(host, path, fields string) string {
		return fmt.Sprintf("GET http://%s:%d%s HTTP/1.1\r\nHost: a\r\n%s\r\n", host, port, path, fields)
	}
	// long is an answer of which the first part has come.
	long := func(d *talk, host, fields string) (*talk, *http.Response) {
		t.Helper()
		res, err := http.ReadResponse(bufio.NewReader(d.say(get(host, "/long", fields))), nil)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: %v, %v", host, res, err)
		}
		if _, err := io.CopyN(io.Discard, res.Body, 4); err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		return d, res
	}
	shut, _ := long(dialDoor(t, w.addr), "shut.test", "")
	silent := dialDoor(t, w.addr).say(get("gone.test", "/silent", ""))
	<-came
	moved := dialDoor(t, w.addr).say(get("moved.test", "/socket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")).
		hear("HTTP/1.1 101 Switching Protocols\r\n")
	user, _ := long(dialDoor(t, w.addr), "user.test", "Proxy-Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("bob:b"))+"\r\n")
	limits, _ := long(dialDoor(t, w.addr), "limits.test", "")
	waiting, kept := dialDoor(t, w.addr), dialDoor(t, w.addr)
	for _, d := range []*talk{waiting, kept} {
		if res, body := d.ask(bufio.NewReader(d), "GET", get("shut.test", "/", "")); body != "ok" {
			t.Fatalf("%v %q", res, body)
		}
	}
	kept, goesOn := long(kept, "keep.test", "")

	w.set("shut", "shut.test", "a leak")
	delete(w.data["open"].(map[string]any), "gone.test")
	w.set("redirects", "moved.test", map[string]any{"host": "mirror.test"})
	w.set("users", "bob", with(w.data["users"], "bob", "disabled", true))
	w.set("limits", "limits.test", map[string]any{"bytes": 5})
	round := w.edited()
	if round["sessions"] != 6.0 || round["cut"] != 4.0 {
		t.Errorf("a round is told of as %v", round["raw"])
	}

	if got, err := shut.rest(); got != "" || err == nil {
		t.Errorf("an answer that is cut ends with %q, %v", got, err)
	}
	r := w.sessionOf(t, "shut.test")
	w.expect(r, "cut: policy REV denies (route): a leak")
	if fmt.Sprint(r["reasons"]) != "[a leak]" || r["policy.revision"] != round["policy.revision"] {
		t.Errorf("an answer that was cut is recorded as %v", r["raw"])
	}
	if got, err := silent.rest(); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "connection_terminated") || err != nil {
		t.Errorf("a request without an answer ends with %q, %v", got, err)
	}
	w.expect(w.sessionOf(t, "gone.test"), "cut: policy REV denies (route)")
	moved.rest()
	w.expect(w.sessionOf(t, "moved.test"), fmt.Sprintf("cut: policy REV leads to mirror.test:%d", port))
	user.rest()
	if r := w.sessionOf(t, "user.test"); r["outcome"] != "cut" || !strings.HasSuffix(fmt.Sprint(r["cause"]), ": the user is disabled") {
		t.Errorf("the request of a user that is disabled is recorded as %v", r["raw"])
	}
	cut := 0
	for i := range 6 { // two that were answered, the socket's, and three that were cut
		if w.wait(t, i, "request")["outcome"] == "cut" {
			cut++
		}
	}
	if cut != 3 {
		t.Errorf("%d requests are recorded as cut, want 3", cut)
	}

	close(release)
	if got, _ := limits.rest(); got != "" {
		t.Errorf("beyond its new limit an answer has %q", got)
	}
	if r := w.sessionOf(t, "limits.test"); r["outcome"] != "ok" || r["cause"] != "bytes_spent" {
		t.Errorf("an answer with a new limit is recorded as %v", r["raw"])
	}
	if rest, err := io.ReadAll(goesOn.Body); string(rest) != "rest" || err != nil {
		t.Errorf("one that may go on ends with %q, %v", rest, err)
	}
	for _, d := range []*talk{waiting, kept} {
		if res, body := d.ask(bufio.NewReader(d), "GET", get("shut.test", "/", "")); res.StatusCode != 403 {
			t.Errorf("after that %v %q", res, body)
		}
		if res, body := d.ask(bufio.NewReader(d), "GET", get("keep.test", "/", "")); body != "ok" {
			t.Errorf("at last %v %q", res, body)
		}
	}
}

// What requests have moved counts for the tunnel that follows them, and a cut
// between two of them is one.
func TestLimitsBehindForwarding(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			w.Write(make([]byte, 400))
			return
		}
		c, b, _ := http.NewResponseController(w).Hijack()
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(c, b)
	})
	target := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), `package sallyport.route
default allow := true
session_limits := {"bytes": 1500}
`), "--data", settings(t, loopback, port, target.port), "--set", "management.tokens.ops.token=0123456789abcdef")
	ask := func() *talk {
		d := dialDoor(t, s.addr)
		if res, body := d.ask(bufio.NewReader(d), "GET", "GET http://"+at+"/ HTTP/1.1\r\nHost: a\r\n\r\n"); len(body) != 400 {
			t.Fatalf("%v %q", res, body)
		}
		return d
	}
	for i, next := range []string{
		fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", target.port),
		"GET http://" + at + "/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
	} {
		d := ask().say(next).hear("HTTP/1.1 ")
		io.WriteString(d, strings.Repeat("x", 10_000))
		d.rest()
		if r := s.wait(t, i, "session"); r["cause"] != "bytes_spent" || r["bytes.up"].(float64)+r["bytes.down"].(float64) != 1500 {
			t.Errorf("%d: a tunnel beyond its bytes is recorded as %v", i, r["raw"])
		}
	}

	d := ask()
	s.wait(t, 3, "request")
	api := "http://" + s.wait(t, 0, "management")["address"].(string)
	if status, body := call(t, "DELETE", api+"/v1/sessions", "0123456789abcdef"); status != 200 || !strings.Contains(body, "1") {
		t.Errorf("%d %s", status, body)
	}
	if got, err := d.rest(); got != "" || err != nil {
		t.Errorf("a client between two requests hears %q, %v", got, err)
	}
	if r := s.wait(t, 2, "session"); r["outcome"] != "cut" || r["cause"] != "cut: by the management API, token ops" {
		t.Errorf("a cut between two requests is recorded as %v", r["raw"])
	}
}
