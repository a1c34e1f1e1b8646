package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
)

// Where packets are lost on the way to upstreams, a session through a choice of them
// gets one reply and in time, health does not follow every packet, and what has
// recovered is taken for healthy again.
func TestUpstreamsUnderLoss(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.in(func() {
		bad, fair, good := startMicrosocks(t), startMicrosocks(t), startSquid(t)
		target := serveEcho(t, "0.0.0.0:0")
		probe := fmt.Sprintf(`probe: {address: "127.0.0.1:%d", interval: 1s, timeout: 3s, rise: 2, fall: 3}`, target.port)
		s := startVia(t, fmt.Sprintf(`upstreams:
  bad: {url: "socks5h://%[1]s", %[4]s}
  fair: {url: "socks5h://%[2]s", %[4]s, pool: {idle: 2}}
  good: {url: "http://%[3]s"}
`, bad.addr, fair.addr, good.addr, probe), map[string]any{
			"127.0.1.1": []string{"bad"}, "127.0.1.2": []any{map[string]any{"any": []string{"bad", "good"}, "by": "order"}},
			"127.0.1.3": []any{map[string]any{"any": []string{"bad", "fair", "good"}, "by": "random"}},
		}, "--set", "limits.dial=6s")
		if got := s.through(t, "127.0.1.1", target); got != "[bad]" { // both are there
			t.Fatalf("without loss by %s", got)
		}
		to := func(o *outsider) string { return "tcp dport " + o.addr[strings.LastIndex(o.addr, ":")+1:] }
		n.lose(to(bad)+" numgen random mod 100 < 99", to(fair)+" numgen random mod 100 < 10")

		var sessions sync.WaitGroup
		replies := make(chan string, 100)
		for i := range 45 {
			host := fmt.Sprintf("127.0.1.%d", i%3+1)
			c := dialDoor(t, s.addr).say(greeting + connectTo(host, target.port))
			sessions.Go(func() { replies <- host + " " + outcome(c) })
		}
		sessions.Wait()
		close(replies)
		for reply := range replies {
			host, said, _ := strings.Cut(reply, " ")
			// Of a choice with one that nothing is lost on the way to, all succeed; and the
			// others are told, once, that the upstream does not answer.
			if said != "ok" && (host != "127.0.1.1" || said != "refused with 1") {
				t.Errorf("a session to %s %s", host, said)
			}
		}
		s.waitFor(t, "bad is not healthy", func(line map[string]any) bool {
			return line["msg"] == "upstream is not healthy" && line["upstream"] == "bad"
		})
		n.loseNothing()
		s.waitFor(t, "bad is healthy", func(line map[string]any) bool {
			return line["msg"] == "upstream is healthy" && line["upstream"] == "bad"
		})
		if got := s.through(t, "127.0.1.1", target); got != "[bad]" {
			t.Errorf("after the loss by %s", got)
		}
		turns := map[string]int{}
		s.mu.Lock()
		for _, line := range s.log {
			if line["msg"] == "upstream is not healthy" || line["msg"] == "upstream is healthy" {
				turns[fmt.Sprint(line["upstream"])]++
			}
		}
		s.mu.Unlock()
		if turns["bad"] != 2 || turns["fair"] != 0 || turns["good"] != 0 {
			t.Errorf("upstreams turn so often: %v", turns)
		}
	})
}

// outcome of a session is what it says to its client: how it was refused, or that
// its tunnel carries what it should.
func outcome(c *talk) string {
	answer := make([]byte, 12)
	if n, err := io.ReadFull(c, answer); err != nil {
		return fmt.Sprintf("hears %q, %v", answer[:n], err)
	}
	if answer[3] != 0 {
		rest, err := c.rest()
		if rest != "" || err != nil {
			return fmt.Sprintf("is refused, and then hears %q, %v", rest, err)
		}
		return fmt.Sprintf("refused with %d", answer[3])
	}
	fmt.Fprint(c, "hello")
	if n, err := io.ReadFull(c, answer[:5]); string(answer[:n]) != "hello" {
		return fmt.Sprintf("has %q echoed, %v", answer[:n], err)
	}
	c.CloseWrite()
	return "ok"
}

// Names are found though packets are lost on the way to the name servers: datagrams
// are sent again, there is another server, TCP carries what is too large, and what
// is remembered needs no server at all.
func TestNamesUnderLoss(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	n.in(func() {
		silent, lossy := serveUnbound(t), serveUnbound(t)
		target := serveEcho(t, "0.0.0.0:0")
		s := start(t, "--data", settings(t, loopback, target.port), "--set", "dns.family=ipv4", "--set", "dns.timeout=1500ms",
			"--set", "dns.servers="+silent.plain+","+lossy.plain)
		port := func(u *unbound) string { return u.plain[strings.LastIndex(u.plain, ":")+1:] }
		n.lose("udp dport "+port(silent), "tcp dport "+port(silent),
			"udp dport "+port(lossy)+" numgen inc mod 2 0", // every other one, and the first
			"tcp dport "+port(lossy)+" numgen inc mod 3 0")
		reach := func(name string) {
			t.Helper()
			dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo(name+".corp.example", target.port)).hear("\x05\x00").Close()
			if r := s.sessionOf(t, name+".corp.example"); r["outcome"] != "ok" {
				t.Errorf("%s: %v", name, r["raw"])
			}
			s.forget("session")
		}
		for _, name := range []string{"here", "alias", "large"} {
			reach(name)
			if said := strings.ToLower(lossy.said()); !strings.Contains(said, " "+name+".corp.example. a in") {
				t.Errorf("the one that answers was not asked for %s", name)
			}
		}
		dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("unknown.corp.example", target.port)).hear("\x05\x04").Close()
		if r := s.sessionOf(t, "unknown.corp.example"); r["outcome"] != "unresolved" {
			t.Errorf("of a name that there is not: %v", r["raw"])
		}
		if said := silent.said(); strings.Contains(said, "corp.example. A IN") {
			t.Errorf("what is lost has arrived:\n%s", said)
		}
		n.lose("udp dport "+port(lossy), "tcp dport "+port(lossy)) // as well
		before := len(lossy.said())
		for _, name := range []string{"here", "alias", "large"} { // which are remembered
			reach(name)
		}
		dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("unknown.corp.example", target.port)).hear("\x05\x04").Close()
		dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("private.corp.example", target.port)).hear("\x05\x04").Close()
		if r := s.sessionOf(t, "private.corp.example"); r["outcome"] != "timeout" {
			t.Errorf("with no server left: %v", r["raw"])
		}
		if more := lossy.said()[before:]; strings.Contains(more, "corp.example") {
			t.Errorf("a name that is remembered was asked for:\n%s", more)
		}
	})
}
