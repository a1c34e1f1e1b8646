package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// guard_later_test.go has clients that are in already when they are banned: what
// runs goes on, and whatever they ask for next is refused.

// setBan sets or lifts a ban as an operator does.
func (s *process) setBan(t *testing.T, method, whom string) {
	t.Helper()
	token := strings.TrimSpace(readFile(t, s.wait(t, 0, "management token")["file"].(string)))
	at := "http://" + s.wait(t, 0, "management")["address"].(string) + "/v1/bans/" + strings.ReplaceAll(whom, "/", "%2F")
	if status, body := call(t, method, at, token); status != 200 && status != 204 {
		t.Fatalf("%s of a ban of %s: %d %s", method, whom, status, body)
	}
}

func (s *process) metrics(t *testing.T) string {
	t.Helper()
	_, page := call(t, "GET", "http://"+s.wait(t, 0, "management")["address"].(string)+"/metrics", "")
	return page
}

// A datagram to a destination that is not known yet is a request: it may earn a
// ban, and is refused by one. What has been granted goes on.
func TestBanOfDatagrams(t *testing.T) {
	known, trap := servePackets(t, "127.0.0.1:0"), servePackets(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(trap.at)
	data := write(t, filepath.Join(t.TempDir(), "denied.json"), `{"denied": [], "trap": `+port+`}`)
	s := start(t, "--policy", udpPolicy(t, "allow if input.request.command == \"connect\"\nban := {\"for\": \"1h\"} if input.target.port == data.trap\n"),
		"--policy", dialPolicy(t), "--data", data)
	a := associate(t, s.addr)
	tunnel := serveEcho(t, "127.0.0.1:0")
	open := dialDoor(t, s.addr).say(greeting + connectTo("127.0.0.1", tunnel.port)).hear(chosen + "\x05\x00\x00\x01\x7f\x00\x00\x01")
	io.CopyN(io.Discard, open, 2)
	a.send(known.at, "before").want("before", known.at)

	a.send(trap.at, "caught")
	s.wait(t, 0, "connection refused")
	if page := s.metrics(t); !strings.Contains(page, "sallyport_bans_active 1\n") || !strings.Contains(page, `sallyport_datagrams_dropped_total{cause="banned"} 1`) {
		t.Errorf("after the trap: %s", page)
	}
	others := servePackets(t, "127.0.0.1:0")
	a.send(others.at, "more").send(known.at, "still").want("still", known.at)
	open.say("runs").hear("runs")
	if got, _ := dialDoor(t, s.addr).say(greeting + "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00").rest(); got != chosen+replied(2) {
		t.Errorf("another association: %q", got)
	}
	trap.nothing(t)
	others.nothing(t)

	s.setBan(t, "DELETE", "127.0.0.1")
	lifted := servePackets(t, "127.0.0.1:0")
	a.send(lifted.at, "free").want("free", lifted.at)
	others.nothing(t)
}

// Whom an operator bans is refused with the next thing that he asks for, however
// far he has come: with an association, between login and request, and on a
// connection that is kept for more requests.
func TestBanOfWhoIsIn(t *testing.T) {
	_, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	packets := servePackets(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, port), "--data", usersFile(t, map[string]string{"ann": "right", "bob": "right"}),
		"--policy", udpPolicy(t, "allow if input.request.command in {\"connect\", \"forward\"}\n"), "--policy", dialPolicy(t),
		"--data", write(t, filepath.Join(t.TempDir(), "denied.json"), `{"denied": []}`))
	get := fmt.Sprintf("GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nProxy-Authorization: Basic YW5uOnJpZ2h0\r\n\r\n", port, port)
	loggedIn := func() *talk {
		return dialDoor(t, s.addr).say("\x05\x01\x02" + login("ann", "right")).hear("\x05\x02\x01\x00")
	}
	for _, whom := range []string{"127.0.0.1", "127.0.0.0/8", "identity:ann"} {
		a := associateAs(t, s.addr, "ann", "right")
		a.send(packets.at, "before").want("before", packets.at)
		kept := dialDoor(t, s.addr).say(get).hear("HTTP/1.1 200 OK")
		asks := loggedIn()
		s.setBan(t, "PUT", whom)

		if got, _ := asks.say(connectTo("127.0.0.1", port)).rest(); got != replied(2) {
			t.Errorf("with %s banned, a request after the login: %q", whom, got)
		}
		if got, _ := kept.say(get).rest(); !strings.Contains(got, "HTTP/1.1 429 ") || strings.Contains(got, "200 OK") {
			t.Errorf("with %s banned, a second request: %q", whom, got)
		}
		unheard := servePackets(t, "127.0.0.1:0")
		a.send(unheard.at, "no").send(packets.at, "still").want("still", packets.at)
		s.setBan(t, "DELETE", whom)
		other := servePackets(t, "127.0.0.1:0")
		a.send(other.at, "lifted").want("lifted", other.at)
		unheard.nothing(t)
	}
	// Others are not meant by a ban of an identity.
	s.setBan(t, "PUT", "identity:bob")
	loggedIn().say(connectTo("127.0.0.1", port)).hear("\x05\x00\x00\x01")
}
