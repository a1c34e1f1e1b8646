package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bruteForce bans a source after three failed logins.
const bruteForce = `package sallyport.authenticate

default allow := false

allow if input.credentials.verified

ban := {"for": "15m"} if {
	not input.credentials.verified
	input.source.failures.hour >= 2
}
`

// A source that has failed too often is refused by every protocol, and told so;
// others don't notice.
func TestBan(t *testing.T) {
	t.Parallel()
	e := serveEcho(t, "127.0.0.1:0")
	dir := t.TempDir()
	s := start(t, "--data", settings(t, loopback, e.port), "--data", usersFile(t, map[string]string{"ann": "right"}),
		"--policy", write(t, filepath.Join(dir, "authenticate.rego"), bruteForce))
	for range 3 {
		dialFrom(t, "127.0.0.7", s.addr).say("\x05\x01\x02" + login("ann", "wrong")).hear("\x05\x02\x01\x01")
	}
	s.sessionWhere(t, func(r map[string]any) bool { return r["outcome"] == "banned" })
	good := "\x05\x01\x02" + login("ann", "right") + connectTo("127.0.0.1", e.port)
	for name, c := range map[string]struct{ say, want string }{
		"socks5": {"\x05\x01\x00" + connectTo("127.0.0.1", e.port), "\x05\x00" + replied(2)},
		"login":  {good, "\x05\xff"},
		"socks4": {connect4("ann", "127.0.0.1", e.port), "\x00\x5b"},
		"http":   {"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", "HTTP/1.1 429 "},
		"get":    {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "HTTP/1.1 429 "},
	} {
		got, _ := dialFrom(t, "127.0.0.7", s.addr).say(c.say).rest()
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if c.want[0] == 'H' && !strings.Contains(got, "\r\nRetry-After: 900\r\n") && !strings.Contains(got, "\r\nRetry-After: 89") {
			t.Errorf("%s is not told when to come again: %q", name, got)
		}
	}
	dialFrom(t, "127.0.0.8", s.addr).say(good).hear("\x05\x02\x01\x00\x05\x00\x00\x01")

	_, page := call(t, "GET", "http://"+s.wait(t, 0, "management")["address"].(string)+"/metrics", "")
	for _, line := range []string{`sallyport_refusals_total{cause="ban"} 6`, `sallyport_bans_active 1`} {
		if !strings.Contains(page, line) {
			t.Errorf("the metrics have no %s", line)
		}
	}
}

// A ban is of the prefix or the identity that is named, and route may ban too;
// what is kept of a connection is refused as well.
func TestBanWhom(t *testing.T) {
	t.Parallel()
	_, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	dir := t.TempDir()
	s := start(t, "--data", settings(t, loopback, port), "--data", usersFile(t, map[string]string{"ann": "right", "bob": "right"}),
		"--policy", write(t, filepath.Join(dir, "route.rego"), `package sallyport.route

default allow := true

ban := {"for": 60, "prefix": "127.0.9.0/24"} if input.target.host == "prefix.test"

ban := {"for": 60, "identity": true} if input.target.host == "identity.test"
`))
	ask := func(from, who, host string) string {
		auth := ""
		if who != "" {
			auth = "\x05\x01\x02" + login(who, "right")
		}
		got, _ := dialFrom(t, from, s.addr).say(auth + connectTo(host, port)).rest()
		return got
	}
	if got := ask("127.0.0.7", "ann", "identity.test"); !strings.HasSuffix(got, replied(2)) {
		t.Errorf("the request that bans the identity: %q", got)
	}
	if got := ask("127.0.0.8", "ann", "other.test"); !strings.HasSuffix(got, replied(2)) {
		t.Errorf("another of the identity: %q", got)
	}
	other := dialFrom(t, "127.0.0.7", s.addr)
	other.say("\x05\x01\x02" + login("bob", "right") + connectTo("127.0.0.1", port)).hear("\x05\x02\x01\x00\x05\x00")
	other.Close()

	kept := dialFrom(t, "127.0.9.1", s.addr)
	get := fmt.Sprintf("GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", port, port)
	kept.say(get).hear("HTTP/1.1 200 OK")
	got, _ := dialFrom(t, "127.0.9.2", s.addr).say("GET http://prefix.test/ HTTP/1.1\r\nHost: prefix.test\r\n\r\n").rest()
	if !strings.HasPrefix(got, "HTTP/1.1 429 ") {
		t.Errorf("the request that bans the prefix: %q", got)
	}
	if got, _ := kept.say(get).rest(); !strings.Contains(got, "HTTP/1.1 429 ") {
		t.Errorf("another request on a connection of the prefix: %q", got)
	}
	if got, _ := dialFrom(t, "127.0.9.3", s.addr).say(greeting + connectTo("127.0.0.1", port)).rest(); got != chosen+replied(2) {
		t.Errorf("another of the prefix: %q", got)
	}
	// A prefix that is not the source's is a fault, and bans nobody.
	strange := dialFrom(t, "127.0.10.1", s.addr).say("GET http://prefix.test/ HTTP/1.1\r\nHost: prefix.test\r\n\r\n")
	strange.CloseWrite()
	if got, _ := strange.rest(); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("a prefix of others: %q", got)
	}
}

// A source's limits bind it by the next connection, an identity's at once; both
// are told, and forgotten with the policy.
func TestLimits(t *testing.T) {
	t.Parallel()
	e := serveEcho(t, "127.0.0.1:0")
	dir := t.TempDir()
	s := start(t, "--data", settings(t, loopback, e.port), "--data", usersFile(t, map[string]string{"ann": "right", "bob": "right"}),
		"--policy", write(t, filepath.Join(dir, "admit.rego"), `package sallyport.admit

default allow := true

limits := {"connections": 2} if input.source.ip == "127.0.0.7"

limits := {"rate": "2/h", "prefix": "127.0.9.0/24"} if startswith(input.source.ip, "127.0.9.")
`), "--policy", write(t, filepath.Join(dir, "authenticate.rego"), `package sallyport.authenticate

default allow := true

limits := {"connections": 1} if input.credentials.username == "ann"
`))
	plain := greeting + connectTo("127.0.0.1", e.port)
	granted := chosen + "\x05\x00\x00\x01"
	one := dialFrom(t, "127.0.0.7", s.addr).say(plain).hear(granted)
	dialFrom(t, "127.0.0.7", s.addr).say(plain).hear(granted)
	if got, _ := dialFrom(t, "127.0.0.7", s.addr).say(plain).rest(); got != chosen+replied(2) {
		t.Errorf("the third connection: %q", got)
	}
	got, _ := dialFrom(t, "127.0.0.7", s.addr).say("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n").rest()
	if !strings.HasPrefix(got, "HTTP/1.1 429 ") || !strings.Contains(got, "\r\nRetry-After: 1\r\n") {
		t.Errorf("the same by HTTP: %q", got)
	}
	one.Close()
	s.wait(t, 2, "session")
	dialFrom(t, "127.0.0.7", s.addr).say(plain).hear(granted)

	for i, want := range []string{granted, granted, chosen + replied(2)} {
		dialFrom(t, fmt.Sprintf("127.0.9.%d", i+1), s.addr).say(plain).hear(want)
	}

	ann := "\x05\x01\x02" + login("ann", "right") + connectTo("127.0.0.1", e.port)
	dialFrom(t, "127.0.0.20", s.addr).say(ann).hear("\x05\x02\x01\x00\x05\x00\x00\x01")
	dialFrom(t, "127.0.0.21", s.addr).say(ann).hear("\x05\x02\x01\x00" + replied(2))
	dialFrom(t, "127.0.0.21", s.addr).say(strings.Replace(ann, "ann", "bob", 1)).hear("\x05\x02\x01\x00\x05\x00\x00\x01")
}

// Who has been answered counts among the open sessions of an identity no more, though
// it does not hang up: a client that tries again and again is not in its own way.
func TestRefusedSessionsAreNotOpen(t *testing.T) {
	t.Parallel()
	at, web := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {})
	e := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, e.port, web), "--data", usersFile(t, map[string]string{"ann": "right"}),
		"--policy", write(t, filepath.Join(t.TempDir(), "authenticate.rego"), `package sallyport.authenticate

default allow := false

allow if input.credentials.verified

limits := {"connections": 1}
`))
	in, let := "\x05\x01\x02"+login("ann", "right"), "\x05\x02\x01\x00"
	granted := let + "\x05\x00\x00\x01"
	basic := "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("ann:right")) + "\r\n"
	connect := "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n" + basic + "\r\n"
	get := "GET http://" + at + "/ HTTP/1.1\r\nHost: " + at + "\r\n" + basic
	for _, c := range []struct {
		name, say, hear string
		beside          bool // a tunnel that is all that the limit lets in
	}{
		{"refused by SOCKS5", in + connectTo("127.0.0.1", e.port), let + replied(2), true},
		{"refused, and has not asked yet", in, let, true},
		{"refused by CONNECT", connect, "HTTP/1.1 429 ", true},
		{"refused, and the connection is kept", get + "\r\n", "HTTP/1.1 429 ", true},
		{"denied by route", in + connectTo("127.0.0.1", 1), let + replied(2), false},
		{"denied, and the connection is kept", "GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: a\r\n" + basic + "\r\n", "HTTP/1.1 403 ", false},
		{"done, and the connection is not kept", get + "Connection: close\r\n\r\n", "", false},
	} {
		tunnel := func() *talk {
			return dialDoor(t, s.addr).say(in + connectTo("127.0.0.1", e.port))
		}
		over := func(tunnel *talk) {
			tunnel.Close()
			s.sessionWhere(t, func(r map[string]any) bool {
				return fmt.Sprintf("%v:%v", r["client.address"], r["client.port"]) == tunnel.LocalAddr().String()
			})
		}
		var first *talk
		if c.beside {
			first = tunnel().hear(granted)
		}
		stays := dialDoor(t, s.addr).say(c.say).hear(c.hear)
		if c.hear == "" {
			if got, _ := stays.rest(); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
				t.Fatalf("%s: %q", c.name, got)
			}
		}
		if c.beside {
			over(first)
		}
		next := tunnel()
		got := make([]byte, len(granted))
		if _, err := io.ReadFull(next, got); string(got) != granted {
			t.Errorf("beside a session that is %s another is told %q (%v)", c.name, got, err)
		}
		over(next)
		stays.Close()
	}
}

// A delay keeps a client waiting, which ends with the client, and with the
// server.
func TestDelay(t *testing.T) {
	t.Parallel()
	e := serveEcho(t, "127.0.0.1:0")
	dir := t.TempDir()
	s := start(t, "--set", "limits.handshake=30s", "--data", settings(t, loopback, e.port), "--policy",
		write(t, filepath.Join(dir, "admit.rego"), `package sallyport.admit

default allow := true

delay := "300ms" if input.source.ip == "127.0.0.7"

delay := "1h" if input.source.ip in {"127.0.0.8", "127.0.0.9"}
`))
	begun := time.Now()
	late := dialFrom(t, "127.0.0.7", s.addr)
	late.say(greeting + connectTo("127.0.0.1", e.port) + "hello").hear(chosen + "\x05\x00\x00\x01")
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	late.Close()
	gone := dialFrom(t, "127.0.0.8", s.addr).say(greeting)
	stays := dialFrom(t, "127.0.0.9", s.addr).say(greeting)
	gone.Close()
	for i := 0; ; i++ {
		if r := s.wait(t, i, "session"); strings.HasPrefix(fmt.Sprint(r["client.address"]), "127.0.0.8") {
			break
		}
	}
	s.terminate(t)
	if got, _ := stays.rest(); got != "" {
		t.Errorf("it was told %q", got)
	}
}

// Bans are set, seen and lifted by the command and by the API, of whomever.
func TestBanCommand(t *testing.T) {
	t.Parallel()
	e := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, e.port), "--data", usersFile(t, map[string]string{"ann": "right"}))
	at := s.wait(t, 0, "management")["address"].(string)
	file := s.wait(t, 0, "management token")["file"].(string)
	ban := func(args ...string) (string, int) {
		c := program(append([]string{"ban", "--management", at, "--token-file", file}, args...)...)
		out, _ := c.CombinedOutput()
		return string(out), c.ProcessState.ExitCode()
	}
	asks := func(from, text, want string) {
		t.Helper()
		c := dialFrom(t, from, s.addr)
		defer c.Close()
		c.say(text).hear(want)
	}
	plain := greeting + connectTo("127.0.0.1", e.port)
	granted, refused := chosen+"\x05\x00\x00\x01", chosen+replied(2)
	asks("127.0.7.1", plain, granted)
	for _, step := range []struct {
		args []string
		says string
		exit int
	}{
		{[]string{"add", "127.0.7.0/24", "--for", "1h", "--reason", "scans"}, "banned 127.0.7.0/24\n", 0},
		{[]string{"add", "identity:ann"}, "banned identity:ann\n", 0},
		{[]string{"add", "127.0.7.0/33"}, "want an address, a prefix", 1},
		{[]string{"add", "127.0.8.1", "--for", "-1h"}, "for is a duration of more than 0s", 1},
		{[]string{"add", "127.0.8.1", "--for", "0s"}, "for is a duration of more than 0s", 1},
		{[]string{"add", "127.0.8.1", "--for", "1ns"}, "for is a duration of at least 1s", 1},
		{[]string{"remove", "127.0.8.1"}, "there is no such ban", 1},
		{[]string{"list"}, `"the management API, token generated: scans"`, 0},
	} {
		if out, exit := ban(step.args...); !strings.Contains(out, step.says) || exit != step.exit {
			t.Errorf("%v: %d %q, want %d and %q", step.args, exit, out, step.exit, step.says)
		}
	}
	asks("127.0.7.1", plain, refused)
	asks("127.0.8.1", "\x05\x01\x02"+login("ann", "right")+connectTo("127.0.0.1", e.port), "\x05\x02\x01\x00"+replied(2))
	token := strings.TrimSpace(readFile(t, file))
	if status, body := call(t, "GET", "http://"+at+"/v1/bans/127.0.7.0%2F24", token); status != 200 || !strings.Contains(body, `"refused":1`) {
		t.Errorf("the ban is %d %s", status, body)
	}
	for _, c := range []struct {
		method, path, token string
		status              int
	}{
		{"GET", "/v1/bans", "", 401},
		{"DELETE", "/v1/bans/identity:ann", "wrong", 401},
		{"POST", "/v1/bans", token, 405},
		{"DELETE", "/v1/bans/identity:ann", token, 204},
		{"GET", "/v1/bans/identity:ann", token, 404},
		{"PUT", "/v1/bans/uid:1000", token, 200},
		{"PUT", "/v1/bans/uid:x", token, 400},
	} {
		if status, body := call(t, c.method, "http://"+at+c.path, c.token); status != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
	}
	if out, exit := ban("remove", "127.0.7.0/24"); exit != 0 {
		t.Errorf("lifting: %s", out)
	}
	asks("127.0.7.1", plain, granted)
}

// Users of a unix socket are sources by their number.
func TestBanOfAUnixUser(t *testing.T) {
	t.Parallel()
	e := serveEcho(t, "127.0.0.1:0")
	path := filepath.Join(t.TempDir(), "door.sock")
	s := listening(t, fmt.Sprintf(`[{name: main, address: "unix:%s"}]`, path), "--data", settings(t, loopback, e.port), "--policy",
		write(t, filepath.Join(t.TempDir(), "authenticate.rego"), "package sallyport.authenticate\n\ndefault allow := true\n"))
	ask := func() string {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, greeting+connectTo("127.0.0.1", e.port))
		got := make([]byte, 4)
		io.ReadFull(c, got)
		return string(got)
	}
	if got := ask(); got != chosen+"\x05\x00" {
		t.Errorf("before: %q", got)
	}
	at := "http://" + s.wait(t, 0, "management")["address"].(string) + "/v1/bans/uid:"
	token := strings.TrimSpace(readFile(t, s.wait(t, 0, "management token")["file"].(string)))
	for _, c := range []struct {
		method, uid string
		want        string
	}{{"PUT", fmt.Sprint(os.Getuid() + 1), "\x00"}, {"PUT", fmt.Sprint(os.Getuid()), "\x02"}, {"DELETE", fmt.Sprint(os.Getuid()), "\x00"}} {
		call(t, c.method, at+c.uid, token)
		if got := ask(); got != chosen+"\x05"+c.want {
			t.Errorf("after %s of %s: %q", c.method, c.uid, got)
		}
	}
}

// A flood from two thousand sources bans each of them, and nobody else; what a
// banned one still sends costs no decision.
func TestBannedFlood(t *testing.T) {
	e := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, e.port), "--policy",
		write(t, filepath.Join(t.TempDir(), "admit.rego"), `package sallyport.admit

default allow := false

allow if not startswith(input.source.ip, "127.9.")

ban := {"for": "1h"} if startswith(input.source.ip, "127.9.")
`))
	const sources = 2000
	metrics := func(line string) bool {
		_, page := call(t, "GET", "http://"+s.wait(t, 0, "management")["address"].(string)+"/metrics", "")
		return strings.Contains(page, line)
	}
	for round := range 3 {
		for i := range sources {
			c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 9, byte(i>>8), byte(i))}}).Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			c.(*net.TCPConn).SetLinger(0)
			if round == 0 {
				io.WriteString(c, greeting)
				io.ReadFull(c, make([]byte, 2)) // then it has been decided about
			}
			c.Close()
		}
	}
	dialFrom(t, "127.0.0.7", s.addr).say(greeting + connectTo("127.0.0.1", e.port)).hear(chosen + "\x05\x00\x00\x01")
	if !metrics(fmt.Sprintf("sallyport_bans_active %d\n", sources)) {
		t.Error("not all of them are banned")
	}
	if !metrics(fmt.Sprintf(`sallyport_decisions_total{stage="admit",verdict="deny"} %d`+"\n", sources)) {
		t.Error("the banned were decided about again")
	}
}

// A guesser with a real tool finds the password where nobody stops it, and not
// where the third failure bans.
func TestBruteForce(t *testing.T) {
	t.Parallel()
	nmap := installed(t, "nmap")
	dir := t.TempDir()
	names := write(t, filepath.Join(dir, "names"), "ann\n")
	var wrongs strings.Builder // more than it tries at the same time
	for i := range 60 {
		fmt.Fprintln(&wrongs, "guess", i)
	}
	words := write(t, filepath.Join(dir, "words"), wrongs.String()+"right\n")
	users := usersFile(t, map[string]string{"ann": "right"})
	locked := write(t, filepath.Join(dir, "locked.rego"), "package sallyport.authenticate\n\ndefault allow := false\n\nallow if input.credentials.verified\n")
	bans := write(t, filepath.Join(dir, "bans.rego"), bruteForce)
	for policy, finds := range map[string]bool{locked: true, bans: false} {
		s := start(t, "--data", users, "--policy", policy)
		_, door, _ := net.SplitHostPort(s.addr)
		out, err := client(t, "", nil, nmap, "-Pn", "-p", door, "--script", "+socks-brute", "--script-timeout", "20s", // it never gives up on who hangs up
			"--script-args", "brute.threads=1,brute.retries=1,userdb="+names+",passdb="+words, "127.0.0.1")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if found := strings.Contains(out, "Valid credentials"); found != finds {
			t.Errorf("with %s it finds the password: %v\n%s", filepath.Base(policy), found, out)
		}
	}
}
