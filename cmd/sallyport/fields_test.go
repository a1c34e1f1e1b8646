package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fields_test.go has policies decide each field that they may, well and badly.

// fields is a policy whose first label of the target's name chooses the case.
const fields = `package sallyport.route

default allow := true

_case := split(input.target.host, ".")[0]

default redirect := {"host": "127.0.0.1"}
redirect := {"host": "127.0.0.1", "port": data.settings.port} if _case == "both"
redirect := {"port": data.settings.port} if _case == "127"
redirect := {"host": "Here.Example."} if _case == "named"
redirect := {"host": "there.example"} if _case == "trap"
redirect := {"host": "10.0.0.1"} if _case == "inside"
redirect := {"host": concat("/", ["127.0.0.1", "x"])} if _case == "malformed"
redirect := {"port": 70000 + data.settings.port} if _case == "port"
redirect := data.settings.keys if _case == "key"

session_limits := {"idle": "100ms"} if _case == "idle"
session_limits := {"duration": "100ms"} if _case == "duration"
session_limits := {"until": time.now_ns()} if _case == "until"
session_limits := {"bytes": 10} if _case == "bytes"
session_limits := {"up": "64KiB/s", "down": 65536} if _case == "pace"
session_limits := {"bytes": data.settings.odd} if _case == "size"

source_address := "127.0.0.9" if _case == "source"
source_address := data.settings.odd if _case == "oddsource"
source_address := "::1" if _case == "family"

deny := set() if not _case in {"denied", "undefined", "quiet", "text"}
deny := {"go \"away\"", "\u00fcber"} if _case in {"denied", "quiet"}
deny := data.settings.odd if _case == "text"

explain := _case != "quiet"

allow := false if _case == "reason"
reason := {"closed", "today"} if _case == "reason"
reason := "one" if _case == "conflict"
reason := "two" if _case == "conflict"
reason := sprintf("%d", [1 / (data.settings.port - data.settings.port)]) if _case == "error"

warn contains "watched" if _case == "warn"
labels := {"team": "blue", "case": _case}
allow := count([1 | some a in numbers.range(1, 4000); some b in numbers.range(1, 4000); a + b < 0]) > 0 if _case == "slow"
`

func TestPolicyFields(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	names := serveNames(t, map[string][]string{"here.example.": {"127.0.0.1"}, "there.example.": {"10.0.0.1"}})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "route.rego"), fields)
	write(t, filepath.Join(dir, "data.json"), fmt.Sprintf(`{"settings": {"port": %d, "odd": "x", "keys": {"hots": "127.0.0.1"}, "allow_private": ["127.0.0.0/8"]}}`, target.port))
	write(t, filepath.Join(dir, "authenticate.rego"), `package sallyport.authenticate
default allow := true
identity := {"name": sprintf("%s of the test", [input.credentials.username]), "groups": ["g"]} if input.credentials.method == "password"
labels := {"team": "red", "method": input.credentials.method}
`)
	s := start(t, "--policy", dir, "--set", "dns.servers="+names.addr, "--set", "management.tokens.ops.token=0123456789abcdef", "--set", "policy.timeout=1s")
	api := "http://" + s.wait(t, 0, "management")["address"].(string)

	const (
		denied, fault = 2, 1
		failed        = 1 // by both protocols' most general answer
	)
	for _, c := range []struct {
		host    string
		reply   byte
		status  int
		parts   []string // of the answer by HTTP
		outcome string
		cause   string // a part of it
	}{
		{"denied.test", denied, 403, []string{
			`Proxy-Status: sallyport; error=http_request_denied; details="go \"away\"; ?ber"`, `"reasons":["go \"away\"","über"]`, `"decision_id":"`}, "denied", "route denies"},
		{"quiet.test", denied, 403, []string{"error=http_request_denied\r\n", `"decision_id":"`}, "denied", ""},
		{"reason.test", denied, 403, []string{`details="closed; today"`, `"reasons":["closed","today"]`}, "denied", "route denies"},
		{"inside.test", denied, 403, []string{"error=destination_ip_prohibited"}, "denied", "dial denies"},
		{"malformed.test", fault, 503, []string{"error=proxy_internal_error", `"decision_id":"`}, "fault", "redirect.host"},
		{"port.test", fault, 503, []string{"error=proxy_internal_error"}, "fault", "redirect"},
		{"key.test", fault, 503, []string{"error=proxy_internal_error"}, "fault", "hots"},
		{"size.test", fault, 503, []string{"error=proxy_internal_error"}, "fault", "session_limits"},
		{"oddsource.test", fault, 503, []string{"error=proxy_internal_error"}, "fault", "source_address"},
		{"undefined.test", fault, 503, []string{"error=proxy_internal_error"}, "fault", "deny"},
		{"text.test", fault, 503, []string{"error=proxy_internal_error"}, "fault", "deny"},
		{"conflict.test", fault, 503, []string{"error=proxy_internal_error"}, "fault", "conflict"},
		{"error.test", fault, 503, []string{"error=proxy_internal_error"}, "fault", "divide"},
		{"slow.test", fault, 503, []string{"error=proxy_internal_error"}, "fault", "took longer than 1s"},
		{"family.test", failed, 502, []string{"error="}, "failed", "local address"},
	} {
		if got := exchange(t, s.addr, greeting+connectTo(c.host, target.port)+"early"); got != chosen+replied(c.reply) {
			t.Errorf("%s is answered by % x", c.host, got)
		}
		if r := s.sessionOf(t, c.host); r["outcome"] != c.outcome || !strings.Contains(fmt.Sprint(r["cause"]), c.cause) {
			t.Errorf("%s is recorded as %v", c.host, r["raw"])
		}
		got := exchange(t, s.addr, fmt.Sprintf("CONNECT %s:%d HTTP/1.1\r\n\r\nearly", c.host, target.port))
		if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", c.status)) {
			t.Errorf("%s is answered by %q", c.host, got)
		}
		for _, part := range c.parts {
			if !strings.Contains(got, part) {
				t.Errorf("the answer to %s has no %q: %q", c.host, part, got)
			}
		}
		if c.host == "quiet.test" && strings.Contains(got, "away") {
			t.Errorf("a policy that does not explain itself is explained: %q", got)
		}
	}
	if n := target.came.Load(); n != 0 {
		t.Fatalf("%d came to the target all the same", n)
	}
	if got := names.questions(); len(got) != 0 {
		t.Errorf("%q were looked up, though all are redirected or refused", got)
	}

	tunnel := func(host string, port uint16) *talk {
		d := dialDoor(t, s.addr).say("\x05\x01\x02" + login("ann", "x") + connectTo(host, port))
		d.hear("\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00")
		io.CopyN(io.Discard, d, 3)
		return d
	}
	for _, c := range []struct{ host, cause string }{
		{"idle.test", "idle_timeout"}, {"duration.test", "expired"}, {"until.test", "expired"},
	} {
		tunnel(c.host, target.port).rest()
		if r := s.sessionOf(t, c.host); r["outcome"] != "ok" || r["cause"] != c.cause {
			t.Errorf("%s is recorded as %v", c.host, r["raw"])
		}
	}
	if got, _ := tunnel("bytes.test", target.port).say("0123456789").rest(); got != "" {
		t.Errorf("beyond its bytes a session carries %q", got)
	}
	if r := s.sessionOf(t, "bytes.test"); r["cause"] != "bytes_spent" || r["bytes.up"] != 10.0 || r["bytes.down"] != 0.0 {
		t.Errorf("bytes.test is recorded as %v", r["raw"])
	}
	began, half := time.Now(), strings.Repeat("x", 32<<10)
	paced := tunnel("pace.test", target.port)
	go func() { io.WriteString(paced, half); paced.CloseWrite() }()
	// A tenth of a second's worth may go at once; never less than the rate asks.
	if got, err := paced.rest(); got != half || err != nil || time.Since(began) < 300*time.Millisecond {
		t.Errorf("%d bytes at 64 KiB/s took %v, %v", len(got), time.Since(began), err)
	}

	// Redirect, labels, warn, identity, source address.
	tunnel("both.test", 1).say("hello").hear("hello").Close()
	r := s.sessionOf(t, "both.test")
	labels, _ := r["labels"].(map[string]any)
	if r["server.address"] != "127.0.0.1" || r["server.port"] != float64(target.port) || r["asked.port"] != 1.0 ||
		r["network.peer.address"] != "127.0.0.1" || r["user.name"] != "ann of the test" ||
		labels["team"] != "blue" || labels["case"] != "both" || labels["method"] != "password" {
		t.Errorf("a redirected session is recorded as %v", r["raw"])
	}
	tunnel("127.0.0.1", 1).say("hello").hear("hello").Close()
	tunnel("named.test", target.port).say("hello").hear("hello").Close()
	if r := s.sessionOf(t, "named.test"); r["server.address"] != "here.example" {
		t.Errorf("a session redirected to a name is recorded as %v", r["raw"])
	}
	if got := exchange(t, s.addr, greeting+connectTo("trap.test", target.port)); got != chosen+replied(denied) {
		t.Errorf("a redirect to a name within is answered by % x", got)
	}
	tunnel("warn.test", target.port).say("hello").hear("hello").Close()
	if r := s.sessionOf(t, "warn.test"); fmt.Sprint(r["warnings"]) != "[watched]" {
		t.Errorf("a warning is recorded as %v", r["raw"])
	}
	for len(target.peers) > 0 {
		<-target.peers
	}
	cut := tunnel("source.test", target.port).say("hello").hear("hello")
	if peer := <-target.peers; !strings.HasPrefix(peer.String(), "127.0.0.9:") {
		t.Errorf("the target sees %v", peer)
	}

	// The operator cuts it.
	_, list := call(t, "GET", api+"/v1/sessions", "0123456789abcdef")
	_, id, _ := strings.Cut(list, `"id":"`)
	id, _, _ = strings.Cut(id, `"`)
	if status, body := call(t, "DELETE", api+"/v1/sessions/"+id, "0123456789abcdef"); status != 204 {
		t.Fatalf("%d %s of %s", status, body, list)
	}
	cut.rest()
	if r := s.sessionOf(t, "source.test"); r["outcome"] != "cut" || r["cause"] != "cut: by the management API, token ops" {
		t.Errorf("a cut session is recorded as %v", r["raw"])
	}

	// So is one that has not asked yet.
	waiting := dialDoor(t, s.addr).say("\x05")
	for id = ""; id == ""; {
		_, list = call(t, "GET", api+"/v1/sessions", "0123456789abcdef")
		_, id, _ = strings.Cut(list, `"id":"`)
		id, _, _ = strings.Cut(id, `"`)
	}
	if status, body := call(t, "DELETE", api+"/v1/sessions/"+id, "0123456789abcdef"); status != 204 {
		t.Fatalf("%d %s of %s", status, body, list)
	}
	waiting.rest()
	for skip := 0; ; skip++ {
		if r := s.wait(t, skip, "session"); r["session.id"] == id {
			if r["outcome"] != "cut" || r["cause"] != "cut: by the management API, token ops" {
				t.Errorf("one that was cut early is recorded as %v", r["raw"])
			}
			break
		}
	}
}

// A client that is not admitted is told so in its own protocol, whatever it
// asks for and presents; methods binds what may be presented.
func TestAdmit(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	connect := fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n", target.port)
	request := connectTo("127.0.0.1", target.port)
	type try struct{ send, want string }
	for _, c := range []struct {
		policy string
		tries  []try
	}{
		{"default allow := false", []try{
			{greeting + request, chosen + replied(2)},
			{greeting + "\x05\x02" + request[2:], chosen + replied(2)},
			{"\x05\x01\x02" + login("a", "b") + request, "\x05\xff"},
			{connect4("ann", "127.0.0.1", target.port), rejected4},
			{connect + "\r\n", "HTTP/1.1 403 "},
			{connect + "Proxy-Authorization: Basic YTpi\r\n\r\n", "HTTP/1.1 403 "},
			{"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 403 "},
			{"CONNECT nonsense HTTP/1.1\r\n\r\n", "HTTP/1.1 403 "},
		}},
		{"allow := 1 / (data.settings.allow_ports[0] - data.settings.allow_ports[0]) == 1", []try{
			{greeting + request, chosen + replied(1)},
			{connect + "\r\n", "HTTP/1.1 503 "},
			{"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 503 "},
		}},
		{"allow := true\nmethods := {\"password\"}", []try{
			{greeting + request, "\x05\xff"},
			{connect4("", "127.0.0.1", target.port), rejected4},
			{connect4("alice", "127.0.0.1", target.port), notYou4},
			{connect + "\r\n", "HTTP/1.1 407 "},
			{"\x05\x02\x00\x02" + login("alice", "wrong") + request, "\x05\x02\x01\x01"},
			{"\x05\x02\x00\x02" + login("alice", "right horse") + request[:8] + "\x00\x01", "\x05\x02\x01\x00" + replied(2)},
		}},
		{"allow := true\nmethods := [\"none\"]", []try{
			{"\x05\x01\x02" + login("alice", "right horse") + request, "\x05\xff"},
			{"\x05\x02\x00\x02" + request[:8] + "\x00\x01", chosen + replied(2)},
		}},
		{"allow := true\nmethods := []", []try{
			{"\x05\x02\x00\x02" + login("alice", "right horse") + request, "\x05\xff"},
			{connect + "Proxy-Authorization: Basic YTpi\r\n\r\n", "HTTP/1.1 407 "},
		}},
	} {
		policy := write(t, filepath.Join(t.TempDir(), "admit.rego"), "package sallyport.admit\n"+c.policy+"\n")
		s := start(t, "--policy", policy, "--data", settings(t, loopback, target.port), "--data", usersFile(t, map[string]string{"alice": "right horse"}))
		for _, try := range c.tries {
			got := exchange(t, s.addr, try.send)
			if http := strings.HasPrefix(try.want, "HTTP"); got != try.want && !(http && strings.HasPrefix(got, try.want)) {
				t.Errorf("%s: %q is answered by %q", c.policy, try.send, got)
			}
		}
	}
	if n := target.came.Load(); n != 0 {
		t.Errorf("%d came to the target", n)
	}
}
