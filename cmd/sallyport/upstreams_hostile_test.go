package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What a misbehaving upstream does costs its session one clear reply, and no more.
func TestMisbehavingUpstreams(t *testing.T) {
	t.Parallel()
	const wrongVersion, socksOK = "\x04\x00", "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
	says := func(answers ...string) func(c *net.TCPConn) {
		return func(c *net.TCPConn) {
			for _, answer := range answers {
				if _, err := c.Read(make([]byte, 4096)); err != nil {
					return
				}
				io.WriteString(c, answer)
			}
			io.Copy(io.Discard, c)
		}
	}
	then := func(first, second func(c *net.TCPConn)) func(c *net.TCPConn) {
		return func(c *net.TCPConn) { first(c); second(c) }
	}
	one := func(answer string) func(c *net.TCPConn) {
		return func(c *net.TCPConn) { c.Read(make([]byte, 4096)); io.WriteString(c, answer) }
	}
	endless := func(text string) func(c *net.TCPConn) {
		return func(c *net.TCPConn) {
			c.Read(make([]byte, 4096))
			for {
				if _, err := io.WriteString(c, text); err != nil {
					return
				}
			}
		}
	}
	trickle := func(c *net.TCPConn) {
		c.Read(make([]byte, 4096))
		io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for {
			time.Sleep(20 * time.Millisecond) // slow is what it is
			if _, err := io.WriteString(c, "A: b\r\n"); err != nil {
				return
			}
		}
	}
	untrusted := httptest.NewUnstartedServer(nil)
	untrusted.Config.ErrorLog = nil
	untrusted.StartTLS()
	defer untrusted.Close()
	cases := []struct {
		name, url string // with a %d for the port of the script
		script    func(c *net.TCPConn)
		outcome   string
		reply     byte
		status    int
		error     string
	}{
		{"hangs up", "socks5h://127.0.0.1:%d", func(*net.TCPConn) {}, "upstream_closed", 1, 502, "connection_terminated"},
		{"resets", "socks5h://127.0.0.1:%d", then(one(""), func(c *net.TCPConn) { c.SetLinger(0) }), "upstream_closed", 1, 502, "connection_terminated"},
		{"hangs up in its answer", "socks5h://127.0.0.1:%d", then(one(chosen), one(socksOK[:5])), "upstream_closed", 1, 502, "connection_terminated"},
		{"hangs up in its headers", "http://127.0.0.1:%d", one("HTTP/1.1 200 OK\r\nA: "), "upstream_closed", 1, 502, "connection_terminated"},
		{"is another protocol", "socks5h://127.0.0.1:%d", says(wrongVersion), "upstream_malformed", 1, 502, "http_protocol_error"},
		{"is no HTTP", "http://127.0.0.1:%d", says("SSH-2.0-OpenSSH_9.2\r\n"), "upstream_malformed", 1, 502, "http_protocol_error"},
		{"is no SOCKS4", "socks4a://127.0.0.1:%d", says("\x05\x00\x00\x00\x00\x00\x00\x00"), "upstream_malformed", 1, 502, "http_protocol_error"},
		{"picks a method that was not offered", "socks5h://127.0.0.1:%d", says("\x05\x02"), "upstream_malformed", 1, 502, "http_protocol_error"},
		{"speaks before it is asked", "socks5h://127.0.0.1:%d", says("\x05\x00" + socksOK), "upstream_malformed", 1, 502, "http_protocol_error"},
		{"wants credentials", "socks5h://127.0.0.1:%d", says("\x05\xff"), "upstream_auth", 1, 502, "proxy_configuration_error"},
		{"refuses credentials", "socks5h://me:hunter2@127.0.0.1:%d", says("\x05\x02", "\x01\x01"), "upstream_auth", 1, 502, "proxy_configuration_error"},
		{"wants credentials by HTTP", "http://127.0.0.1:%d", says("HTTP/1.1 407 No\r\n\r\n"), "upstream_auth", 1, 502, "proxy_configuration_error"},
		{"wants identd", "socks4a://127.0.0.1:%d", says("\x00\x5d\x00\x00\x00\x00\x00\x00"), "upstream_auth", 1, 502, "proxy_configuration_error"},
		{"sends megabytes of headers", "http://127.0.0.1:%d", endless("HTTP/1.1 200 OK\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 1000)), "upstream_too_large", 1, 502, "http_response_header_section_size"},
		{"sends one endless line", "http://127.0.0.1:%d", endless("HTTP/1.1 200 " + strings.Repeat("b", 1<<20)), "upstream_too_large", 1, 502, "http_response_header_section_size"},
		{"sends endless interim answers", "http://127.0.0.1:%d", endless("HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"), "upstream_too_large", 1, 502, "http_response_header_section_size"},
		{"is silent", "socks5h://127.0.0.1:%d", says(), "upstream_timeout", 1, 504, "connection_timeout"},
		{"is slow", "http://127.0.0.1:%d", trickle, "upstream_timeout", 1, 504, "connection_timeout"},
		{"is silent where TLS is wanted", "https://127.0.0.1:%d", says(), "upstream_timeout", 1, 504, "connection_timeout"},
		{"speaks no TLS", "https://me:hunter2@127.0.0.1:%d", says("HTTP/1.1 200 OK\r\n\r\n"), "upstream_tls", 1, 502, "tls_protocol_error"},
		{"hangs up in the TLS handshake", "https://me:hunter2@127.0.0.1:%d", one(""), "upstream_closed", 1, 502, "connection_terminated"},
		{"is somebody else", "https://me:hunter2@" + untrusted.Listener.Addr().String(), nil, "upstream_certificate", 1, 502, "tls_certificate_error"},
		{"is not there", "socks5h://127.0.0.1:1", nil, "upstream_refused", 1, 502, "connection_refused"},
		{"has no address", "socks5h://nowhere.example", nil, "upstream_unresolved", 1, 502, "dns_error"},

		{"has a general failure", "socks5h://127.0.0.1:%d", says(chosen, replied(1)), "upstream_failed", 1, 502, "destination_unavailable"},
		{"denies", "socks5h://127.0.0.1:%d", says(chosen, replied(2)), "upstream_denied", 2, 403, "http_request_denied"},
		{"reaches no network", "socks5h://127.0.0.1:%d", says(chosen, replied(3)), "unreachable", 3, 502, "destination_ip_unroutable"},
		{"reaches no host", "socks5h://127.0.0.1:%d", says(chosen, replied(4)), "unreachable", 4, 504, "destination_ip_unroutable"},
		{"is refused", "socks5h://127.0.0.1:%d", says(chosen, replied(5)), "refused", 5, 502, "connection_refused"},
		{"waits for too long", "socks5h://127.0.0.1:%d", says(chosen, replied(6)), "timeout", 4, 504, "connection_timeout"},
		{"does not CONNECT", "socks5h://127.0.0.1:%d", says(chosen, replied(7)), "upstream_unsupported", 8, 502, "destination_unavailable"},
		{"knows no such address", "socks5h://127.0.0.1:%d", says(chosen, replied(8)), "upstream_unsupported", 8, 502, "destination_unavailable"},
		{"makes up a reply", "socks5h://127.0.0.1:%d", says(chosen, replied(0x77)), "upstream_failed", 1, 502, "destination_unavailable"},
		{"rejects", "socks4a://127.0.0.1:%d", says("\x00\x5b\x00\x00\x00\x00\x00\x00"), "upstream_failed", 1, 502, "destination_unavailable"},
		{"denies by HTTP", "http://127.0.0.1:%d", says("HTTP/1.1 403 No\r\n\r\n"), "upstream_denied", 2, 403, "http_request_denied"},
		{"fails by HTTP", "http://127.0.0.1:%d", says("HTTP/1.1 502 No\r\n\r\n"), "upstream_failed", 1, 502, "destination_unavailable"},
		{"waits for too long by HTTP", "http://127.0.0.1:%d", says("HTTP/1.1 504 No\r\n\r\n"), "timeout", 4, 504, "connection_timeout"},
		{"is refused and says so", "http://127.0.0.1:%d", says("HTTP/1.1 502 No\r\nProxy-Status: x; error=connection_refused\r\n\r\n"), "refused", 5, 502, "connection_refused"},
	}
	const rounds = 2 // by SOCKS5 and by HTTP, since a script is good for one
	urls, ways := map[string]string{}, map[string]any{}
	host := func(i, round int) string { return fmt.Sprintf("127.%d.0.%d", round+1, i+1) }
	heard := make(chan string, 100)
	for i, c := range cases {
		for round := range rounds {
			name := fmt.Sprintf("u%d-%d", i, round)
			urls[name], ways[host(i, round)] = c.url, []string{name}
			if c.script != nil {
				urls[name] = fmt.Sprintf(c.url, scripted(t, c.script))
			}
		}
	}
	// A password is not for one who has taken it away from what was agreed on.
	downgraded := scripted(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 100))
		io.WriteString(c, chosen)
		rest, _ := io.ReadAll(c)
		heard <- string(rest)
	})
	urls["downgraded"], ways["127.0.0.7"] = fmt.Sprintf("socks5h://me:hunter2@127.0.0.1:%d", downgraded), []string{"downgraded"}
	names := serveNames(t, nil).addr
	s := startVia(t, upstreamsFile(urls), ways, "--set", "dns.servers="+names)
	patient := s
	hurried := startVia(t, upstreamsFile(urls), ways, "--set", "dns.servers="+names, "--set", "limits.dial=400ms")
	for i, c := range cases {
		if s = patient; c.outcome == "upstream_timeout" {
			s = hurried
		}
		want := "\x05" + string([]byte{c.reply})
		dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo(host(i, 0), 80)).hear(want).Close()
		if r := s.sessionOf(t, host(i, 0)); r["outcome"] != c.outcome || !strings.Contains(fmt.Sprint(r["cause"]), fmt.Sprintf("upstream u%d-0", i)) {
			t.Errorf("an upstream that %s is recorded as %v: %v", c.name, r["outcome"], r["cause"])
		}
		answer := exchange(t, s.addr, fmt.Sprintf("CONNECT %s:80 HTTP/1.1\r\n\r\n", host(i, 1)))
		if !strings.HasPrefix(answer, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(answer, "error="+c.error+"\r\n") {
			t.Errorf("an upstream that %s is told of as %q", c.name, answer)
		}
		if strings.Contains(answer, fmt.Sprintf("u%d-", i)) {
			t.Errorf("a client is told an upstream's name: %q", answer)
		}
	}
	s = patient
	dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.0.7", 80)).hear("\x05\x01").Close()
	if text := <-heard; text != "" {
		t.Errorf("after a downgrade the upstream hears %q", text)
	}
	if r := s.sessionOf(t, "127.0.0.7"); r["outcome"] != "upstream_auth" {
		t.Errorf("a downgrade is recorded as %v", r)
	}
	if s.says("hunter2") {
		t.Error("a password is in the log")
	}
	for _, text := range []string{"OpenSSH", "Early Hints"} {
		if s.says(text) {
			t.Errorf("what an upstream sends is in the log: %s", text)
		}
	}
}

// A way that leaves a choice goes on where one upstream fails, and never directly.
func TestFailOver(t *testing.T) {
	t.Parallel()
	silent := scripted(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	denies := scripted(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 100))
		io.WriteString(c, chosen)
		c.Read(make([]byte, 100))
		io.WriteString(c, replied(2))
	})
	asked := make(chan string, 2)
	refused := scripted(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 100))
		io.WriteString(c, chosen)
		c.Read(make([]byte, 100))
		io.WriteString(c, replied(5))
		asked <- "refused"
	})
	micro, squid := startMicrosocks(t), startSquid(t)
	config := upstreamsFile(map[string]string{
		"gone": "socks5h://127.0.0.1:1", "silent": fmt.Sprintf("socks5h://127.0.0.1:%d", silent),
		"denies": fmt.Sprintf("socks5h://127.0.0.1:%d", denies), "refused": fmt.Sprintf("socks5h://127.0.0.1:%d", refused),
		"micro": "socks5h://" + micro.addr, "squid": "http://" + squid.addr,
	})
	group := func(by string, names ...string) map[string]any {
		return map[string]any{"any": append([]string{}, names...), "by": by}
	}
	target := serveEcho(t, "0.0.0.0:0")
	s := startVia(t, config, map[string]any{
		"127.0.0.2": []any{group("order", "gone", "silent", "denies", "micro")},
		"127.0.0.3": []any{group("hash", "gone", "micro"), group("random", "gone", "squid")},
		"127.0.0.4": []any{group("latency", "micro"), "gone"},
		"127.0.0.5": []any{group("order", "refused", "micro")},
		"127.0.0.6": []any{group("order")},
		"127.0.0.7": []any{"nobody"},
		"127.0.0.8": []any{"gone"},
		"127.0.0.9": []any{},
	}, "--set", "limits.dial=4s")
	for host, want := range map[string]struct {
		reply    byte
		outcome  string
		via      string
		contains string
	}{
		"127.0.0.2": {0, "ok", "[micro]", ""},
		"127.0.0.3": {0, "ok", "[micro squid]", ""},
		"127.0.0.4": {1, "upstream_refused", "<nil>", "upstream gone"},
		"127.0.0.5": {5, "refused", "<nil>", "upstream refused"},
		"127.0.0.6": {1, "upstream_none", "<nil>", "no upstream to choose"},
		"127.0.0.7": {1, "fault", "<nil>", `there is no upstream "nobody"`},
		"127.0.0.8": {1, "upstream_refused", "<nil>", ""},
		"127.0.0.9": {0, "ok", "<nil>", ""},
	} {
		came := target.came.Load()
		c := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo(host, target.port)).hear("\x05" + string([]byte{want.reply}))
		if want.reply == 0 {
			io.ReadFull(c, make([]byte, 8))
			c.say("x").hear("x")
		} else if target.came.Load() != came {
			t.Errorf("%s: the target was reached", host)
		}
		c.Close()
		r := s.sessionOf(t, host)
		if r["outcome"] != want.outcome || fmt.Sprint(r["via"]) != want.via || !strings.Contains(fmt.Sprint(r["cause"]), want.contains) {
			t.Errorf("%s: %v", host, r)
		}
	}
	if len(asked) != 1 {
		t.Errorf("who says that the target refuses was asked %d times", len(asked))
	}
}

// A name goes to the upstream, unless the policy says that it is looked up here.
func TestWhoLooksNamesUp(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	known := map[string][]string{"inside.example.": {"127.0.0.1"}, "beyond.example.": {"127.0.0.5"}}
	farNames, nearNames := serveNames(t, known), serveNames(t, map[string][]string{"inside.example.": {"127.0.0.1"}})
	far := start(t, "--data", settings(t, loopback, target.port), "--set", "dns.servers="+farNames.addr)
	config := upstreamsFile(map[string]string{
		"s5": "socks5://" + far.addr, "s5h": "socks5h://" + far.addr, "http": "http://" + far.addr,
	})
	for _, c := range []struct {
		upstream, resolve string
		remote            bool
	}{
		{"s5", "", true}, {"s5h", "", true}, {"http", "", true},
		{"s5", "local", false}, {"s5", "remote", true}, {"s5h", "local", false}, {"http", "local", false},
	} {
		data := write(t, t.TempDir()+"/resolve.json", fmt.Sprintf(`{"resolve": %q}`, c.resolve))
		more := []string{"--set", "dns.servers=" + nearNames.addr}
		if c.resolve != "" {
			more = append(more, "--data", data)
		}
		s := startVia(t, config, map[string]any{"*": []string{c.upstream}}, more...)
		before, beyond := len(nearNames.questions()), len(farNames.questions())
		d := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("inside.example", target.port)).hear("\x05\x00")
		d.Close()
		r := s.sessionOf(t, "inside.example")
		here, there := len(nearNames.questions())-before, len(farNames.questions())-beyond
		if (here == 0) != c.remote || (there == 0) == c.remote {
			t.Errorf("%s, resolve %q: %d questions here, %d there", c.upstream, c.resolve, here, there)
		}
		if asked := r["decision.dial"] != nil; asked == c.remote {
			t.Errorf("%s, resolve %q: dial was asked: %v", c.upstream, c.resolve, asked)
		}
		s.terminate(t)
	}
}

func TestDialIsAskedThroughUpstreams(t *testing.T) {
	t.Parallel()
	micro := startMicrosocks(t)
	near := serveNames(t, map[string][]string{"public.example.": {"192.0.2.1"}})
	s := startVia(t, upstreamsFile(map[string]string{"u": "socks5://" + micro.addr}), map[string]any{"*": []string{"u"}},
		"--set", "dns.servers="+near.addr, "--data", write(t, t.TempDir()+"/resolve.json", `{"resolve": "local"}`))
	for _, host := range []string{"192.0.2.1", "public.example"} { // of which the policy wants only loopback
		dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo(host, 80)).hear("\x05\x02").Close()
		if r := s.sessionOf(t, host); r["outcome"] != "denied" || r["via"] != nil {
			t.Errorf("%s: %v", host, r)
		}
	}
	// Nothing but CONNECT goes through upstreams, and so nothing else goes at all.
	associate := write(t, t.TempDir()+"/route.rego", "package sallyport.route\nallow := true\nvia := [\"u\"]")
	s = start(t, "--config", write(t, t.TempDir()+"/c.yaml", upstreamsFile(map[string]string{"u": "socks5://" + micro.addr})), "--policy", associate)
	for _, request := range []string{"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x00"} {
		dialDoor(t, s.addr).say(greeting).hear(chosen).say(request).hear("\x05\x07").Close()
	}
}

// What the target sends with the upstream's answer is not lost, nor what the
// client sends with its request.
func TestEarlyBytesThroughUpstreams(t *testing.T) {
	t.Parallel()
	answers := map[string]string{
		"socks5h": "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
		"socks4a": "\x00\x5a\x00\x00\x00\x00\x00\x00",
		"http":    "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
	}
	urls, ways := map[string]string{}, map[string]any{}
	hosts := map[string]string{"socks5h": "127.0.0.2", "socks4a": "127.0.0.3", "http": "127.0.0.4"}
	for scheme, answer := range answers {
		port := scripted(t, func(c *net.TCPConn) {
			r := bufio.NewReader(c)
			if scheme == "socks5h" {
				io.ReadFull(r, make([]byte, 3))
				io.WriteString(c, chosen)
				io.ReadFull(r, make([]byte, 10))
			} else if scheme == "http" {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
			} else {
				io.ReadFull(r, make([]byte, 9))
			}
			io.WriteString(c, answer+"banner\n")
			io.Copy(c, r)
		})
		urls[scheme], ways[hosts[scheme]] = fmt.Sprintf("%s://127.0.0.1:%d", scheme, port), []string{scheme}
	}
	s := startVia(t, upstreamsFile(urls), ways)
	for scheme, host := range hosts {
		c := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo(host, 80) + "early").hear("\x05\x00")
		io.ReadFull(c, make([]byte, 8))
		c.hear("banner\nearly").say("more").hear("more").Close()
		if r := s.sessionOf(t, host); r["bytes.up"] != 9.0 || r["bytes.down"] != 16.0 {
			t.Errorf("%s: %v bytes up, %v down", scheme, r["bytes.up"], r["bytes.down"])
		}
	}
}
