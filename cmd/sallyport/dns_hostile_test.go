package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/miekg/dns"
)

// lyingNames is a name server on loopback that says whatever a function makes of
// the reply; nil: nothing. It keeps what it was asked.
func lyingNames(t *testing.T, answer func(m *dns.Msg) *dns.Msg) *names {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{addr: c.LocalAddr().String()}
	server := &dns.Server{PacketConn: c, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		n.mu.Lock()
		n.asked = append(n.asked, strings.ToLower(query.Question[0].Name))
		n.mu.Unlock()
		if reply := answer(new(dns.Msg).SetReply(query)); reply != nil {
			w.WriteMsg(reply)
		}
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	t.Cleanup(func() { c.Close(); <-ended })
	return n
}

// records answers with those of a zone that belong to the question; $ is its name.
func records(m *dns.Msg, zone ...string) *dns.Msg {
	for _, text := range zone {
		rr, err := dns.NewRR(strings.ReplaceAll(text, "$", m.Question[0].Name))
		if err != nil {
			panic(err)
		}
		if kind := rr.Header().Rrtype; kind == m.Question[0].Qtype || kind == dns.TypeCNAME {
			m.Answer = append(m.Answer, rr)
		}
	}
	return m
}

// A name that route denies is not looked up, by whatever the client asks.
func TestNoDeniedNameIsLookedUp(t *testing.T) {
	t.Parallel()
	names := lyingNames(t, func(m *dns.Msg) *dns.Msg { return records(m, "$ 0 A 127.0.0.1") })
	target, packets := serveEcho(t, "127.0.0.1:0"), servePackets(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(packets.at)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "route.rego"), `package sallyport.route
default allow := false
allow if input.request.command == "associate"
allow if "open.example" in input.target.suffixes
deny contains "moved" if input.target.host == "denied.open.example"
redirect := {"host": "there.open.example"} if input.target.host == "redirected.open.example"
`)
	write(t, filepath.Join(dir, "dial.rego"), "package sallyport.dial\ndefault allow := false\nallow if input.address.scope == \"loopback\"\n")
	s := start(t, "--policy", dir, "--set", "dns.servers="+names.addr)
	bind := func(host string) string {
		return "\x05\x02\x00\x03" + string(rune(len(host))) + host + "\x00\x63"
	}
	for _, host := range []string{"denied.example", "denied.open.example", "DENIED.Open.Example.", "denied.xn--bcher-kva.example", "open.example.denied"} {
		for _, text := range []string{
			greeting + connectTo(host, target.port), greeting + bind(host),
			fmt.Sprintf("CONNECT %s:%d HTTP/1.1\r\n\r\n", host, target.port),
			fmt.Sprintf("GET http://%s:%d/ HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host, target.port, host),
		} {
			exchange(t, s.addr, text)
		}
	}
	a := associate(t, s.addr)
	for range 3 {
		a.send("denied.example:"+port, "no").send("denied.open.example:"+port, "no")
	}
	a.send("udp.open.example:"+port, "yes").want("yes", packets.at)
	for _, host := range []string{"tcp.open.example", "redirected.open.example"} {
		dialDoor(t, s.addr).say(greeting + connectTo(host, target.port)).hear(chosen + "\x05\x00\x00\x01").Close()
	}
	asked := names.questions()
	slices.Sort(asked)
	if want := []string{"tcp.open.example.", "there.open.example.", "udp.open.example."}; !slices.Equal(slices.Compact(asked), want) {
		t.Errorf("the name server was asked about %q, want %q", asked, want)
	}
}

// What a name server says, and what becomes of it: for the client, the log and
// the metrics.
func TestNameServersThatFail(t *testing.T) {
	t.Parallel()
	code := func(rcode int) func(m *dns.Msg) *dns.Msg {
		return func(m *dns.Msg) *dns.Msg { m.Rcode = rcode; return m }
	}
	zone := func(texts ...string) func(m *dns.Msg) *dns.Msg {
		return func(m *dns.Msg) *dns.Msg { return records(m, texts...) }
	}
	cases := []struct {
		name             string
		answer           func(m *dns.Msg) *dns.Msg
		status           int
		proxyStatus      string
		outcome, counted string
		cause            string
	}{
		{"nxdomain", code(dns.RcodeNameError), 502, `error=dns_error; rcode="NXDOMAIN"`, "unresolved", "nxdomain", "it does not exist (NXDOMAIN)"},
		{"nodata", zone(), 502, `error=dns_error; rcode="NOERROR"`, "unresolved", "nodata", "no address"},
		{"servfail", func(m *dns.Msg) *dns.Msg {
			m.Rcode = dns.RcodeServerFailure
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus, ExtraText: "forged\nline"})
			return m
		}, 502, `error=dns_error; rcode="SERVFAIL"`, "resolver", "servfail", "SERVFAIL: DNSSEC Bogus"},
		{"refused", code(dns.RcodeRefused), 502, `error=dns_error; rcode="REFUSED"`, "resolver", "refused", "REFUSED"},
		{"loop", zone("$ CNAME one.example.", "one.example. CNAME $"), 502, "error=dns_error", "resolver", "malformed", "loop"},
		{"silent", func(*dns.Msg) *dns.Msg { return nil }, 504, "error=dns_timeout", "timeout", "timeout", "timed out"},
		{"forged", func(m *dns.Msg) *dns.Msg { m.Id++; return records(m, "$ A 127.0.0.1", "$ AAAA ::1") }, 504, "error=dns_timeout", "timeout", "timeout", "timed out"},
		{"poisoned", zone("other.example. A 127.0.0.1", "other.example. AAAA ::1"), 502, "error=dns_error", "unresolved", "nodata", "no address"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			names := lyingNames(t, c.answer)
			s := start(t, "--set", "dns.servers="+names.addr, "--set", "dns.timeout=100ms")
			if got := exchange(t, s.addr, "CONNECT a.name.example:80 HTTP/1.1\r\n\r\n"); !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(got, c.proxyStatus) {
				t.Errorf("by HTTP: %q", got)
			}
			if got := exchange(t, s.addr, greeting+connectTo("a.name.example", 80)); got != chosen+replied(4) {
				t.Errorf("by SOCKS5: % x", got)
			}
			_, line := s.ended(t, 0)
			if cause := fmt.Sprint(line["cause"]); line["outcome"] != c.outcome || !strings.Contains(cause, c.cause) || strings.Contains(cause, "forged") {
				t.Errorf("the log has %v", line["raw"])
			}
			if text := scrape(t, s, ""); !regexp.MustCompile(`(?m)^sallyport_dns_lookups_total\{[^}]*outcome="` + c.counted + `"`).MatchString(text) {
				t.Errorf("the metrics are %s", text)
			}
		})
	}
}

func TestCheckOfAuthorities(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for ca, want := range map[string]string{
		"missing.pem": "c.yaml:3: dns.ca: cannot be read: no such file or directory",
		"c.yaml":      "c.yaml:3: dns.ca: the file has no certificate in PEM form",
	} {
		config := write(t, filepath.Join(dir, "c.yaml"), "dns:\n  servers: [tls://192.0.2.1]\n  ca: "+filepath.Join(dir, ca)+"\n")
		for _, command := range []string{"check", "run"} {
			out, err := program(command, "--config", config, "--set", "state.path="+filepath.Join(dir, "state.db")).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), want) {
				t.Errorf("%s: %v, %s", command, err, out)
			}
		}
	}
}

// A name that leads elsewhere a moment later is decided about anew, and one that
// is remembered leads to where it was decided.
func TestNamesThatRebind(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	var n, ttl atomic.Int64
	names := lyingNames(t, func(m *dns.Msg) *dns.Msg {
		if m.Question[0].Qtype != dns.TypeA {
			return m
		}
		if n.Add(1)%2 == 1 {
			return records(m, fmt.Sprintf("$ %d A 127.0.0.1", ttl.Load()))
		}
		return records(m, fmt.Sprintf("$ %d A 127.0.0.2", ttl.Load()))
	})
	data := settings(t, []string{"127.0.0.1/32"}, target.port)
	s := start(t, "--data", data, "--set", "dns.servers="+names.addr)
	for i := range 6 {
		want := byte(0)
		if i%2 == 1 {
			want = 2
		}
		head := make([]byte, 4)
		d := dialDoor(t, s.addr).say(greeting + connectTo("name.example", target.port)).hear(chosen)
		if _, err := io.ReadFull(d, head); err != nil || head[1] != want {
			t.Errorf("%d: % x, %v", i, head, err)
		}
		d.Close()
	}
	if n.Load() != 6 {
		t.Errorf("asked %d times", n.Load())
	}

	// Remembered, until HUP.
	n.Store(0)
	ttl.Store(300)
	s = start(t, "--data", data, "--set", "dns.servers="+names.addr)
	for range 5 {
		dialDoor(t, s.addr).say(greeting + connectTo("name.example", target.port)).hear(chosen + "\x05\x00\x00\x01").Close()
	}
	if n.Load() != 1 {
		t.Errorf("asked %d times", n.Load())
	}
	s.cmd.Process.Signal(syscall.SIGHUP)
	s.wait(t, 0, "reloaded")
	if got := exchange(t, s.addr, greeting+connectTo("name.example", target.port)); got != chosen+replied(2) || n.Load() != 2 {
		t.Errorf("after HUP the answer is % x, asked %d times", got, n.Load())
	}
}

// The names that a target is an alias of are facts of dial: for a request, for a
// datagram, and when a live session is asked again.
func TestAliases(t *testing.T) {
	t.Parallel()
	target, packets := serveEcho(t, "127.0.0.1:0"), servePackets(t, "127.0.0.1:0")
	names := lyingNames(t, func(m *dns.Msg) *dns.Msg {
		if strings.EqualFold(m.Question[0].Name, "plain.example.") {
			return records(m, "$ 300 A 127.0.0.1")
		}
		return records(m, "$ 300 CNAME CDN.example.", "cdn.example. 300 CNAME tracker.example.", "tracker.example. 300 A 127.0.0.1")
	})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "route.rego"), "package sallyport.route\nallow := true\n")
	write(t, filepath.Join(dir, "dial.rego"), `package sallyport.dial
default allow := false
allow if input.address.scope == "loopback"
deny contains concat(" ", input.address.names) if {
	some name in input.address.names
	name in data.blocked
}
explain := true
`)
	file := write(t, filepath.Join(t.TempDir(), "data.json"), `{"blocked": []}`)
	s := start(t, "--policy", dir, "--data", file, "--set", "dns.servers="+names.addr, "--set", "policy.opa.decision_logs.console=true")
	s.wait(t, 0, "policy active")
	_, port, _ := net.SplitHostPort(packets.at)
	open := func(host string) *talk {
		d := dialDoor(t, s.addr).say(greeting + connectTo(host, target.port)).hear(chosen + "\x05\x00\x00\x01\x7f\x00\x00\x01")
		io.CopyN(io.Discard, d, 2)
		return d.say("hello").hear("hello")
	}
	plain, alias := open("plain.example"), open("alias.example")
	a := associate(t, s.addr)
	a.send("alias.example:"+port, "one").want("one", packets.at)
	<-packets.came

	write(t, file, `{"blocked": ["tracker.example"]}`)
	s.wait(t, 0, "live sessions asked again")
	if rest, err := alias.rest(); rest != "" {
		t.Errorf("the alias goes on: %q, %v", rest, err)
	}
	plain.say("still").hear("still")
	r := s.sessionOf(t, "alias.example")
	if r["outcome"] != "cut" || fmt.Sprint(r["reasons"]) != "[cdn.example tracker.example]" {
		t.Errorf("%v", r["raw"])
	}
	a.send("alias.example:"+port, "no").send("plain.example:"+port, "yes").want("yes", packets.at)
	if got := (<-packets.came).data; got != "yes" {
		t.Errorf("%q came", got)
	}
	if got := exchange(t, s.addr, fmt.Sprintf("CONNECT alias.example:%d HTTP/1.1\r\n\r\n", target.port)); !strings.Contains(got, "cdn.example tracker.example") {
		t.Errorf("%q", got)
	}
}
