package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/proxy/wire/socks5"
)

func noneDenied(t *testing.T) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "denied.json"), `{"denied": []}`)
}

// openRelay starts a program whose associations may reach loopback.
func openRelay(t *testing.T, args ...string) *process {
	t.Helper()
	return start(t, append([]string{"--policy", udpPolicy(t, ""), "--policy", dialPolicy(t), "--data", noneDenied(t)}, args...)...)
}

// nothing else has come to a target.
func (e *packetEcho) nothing(t *testing.T) {
	t.Helper()
	select {
	case p := <-e.came:
		t.Errorf("%q came to the target", p.data)
	default:
	}
}

// Only the client's own address may use its association, from the first
// datagram on, and only one of its ports.
func TestDatagramsOfStrangers(t *testing.T) {
	t.Parallel()
	target := servePackets(t, "127.0.0.1:0")
	s := openRelay(t)
	send := func(from string, to netip.AddrPort) *net.UDPConn {
		c, err := net.ListenPacket("udp", from)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.(*net.UDPConn).WriteToUDPAddrPort(datagram(t, target.at, "stranger"), to)
		return c.(*net.UDPConn)
	}
	a := associate(t, s.addr)
	send("127.0.0.9:0", a.relay)
	a.send(target.at, "mine").want("mine", target.at)
	if p := <-target.came; p.data != "mine" {
		t.Errorf("%q came first", p.data)
	}
	send("127.0.0.9:0", a.relay)
	send("127.0.0.1:0", a.relay) // the same host, another port
	a.send(target.at, "again").want("again", target.at)
	if p := <-target.came; p.data != "again" {
		t.Errorf("%q came from another port", p.data)
	}

	// A port that is stated is the one, even before it has sent anything.
	for _, ip := range []string{"127.0.0.1", "0.0.0.0", "::"} {
		local := netip.MustParseAddrPort("127.0.0.1:" + freePort(t))
		b := associateFrom(t, s.addr, local.String(), netip.AddrPortFrom(netip.MustParseAddr(ip), local.Port()))
		send("127.0.0.1:0", b.relay)
		b.send(target.at, "stated").want("stated", target.at)
		if p := <-target.came; p.data != "stated" {
			t.Errorf("%s: %q came first", ip, p.data)
		}
	}
	// One that is stated with another address is behind NAT, and not what is seen.
	b := associateFrom(t, s.addr, "127.0.0.1:0", netip.MustParseAddrPort("192.168.7.7:7"))
	b.send(target.at, "nat").want("nat", target.at)
	<-target.came

	// What comes to the relay's own socket towards targets is nobody's reply.
	a.send(target.at, "where").want("where", target.at)
	outside := (<-target.came).from
	for _, from := range []string{"127.0.0.1:0", "127.0.0.9:0"} {
		send(from, outside)
	}
	a.send(target.at, "after").want("after", target.at)
	<-target.came
	target.nothing(t)
	// Of strangers those are counted that come before the client's address is
	// known: others the kernel keeps from the relay.
	metrics := scrape(t, s, "")
	for _, want := range []string{
		`sallyport_datagrams_dropped_total{cause="stranger"} 1`,
		`sallyport_datagrams_dropped_total{cause="unexpected"} 2`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// What is no datagram of RFC 1928 section 7, or goes nowhere, is dropped.
func TestDatagramsMalformed(t *testing.T) {
	t.Parallel()
	target := servePackets(t, "127.0.0.1:0")
	s := openRelay(t)
	a := associate(t, s.addr)
	a.send(target.at, "first").want("first", target.at)
	<-target.came
	good := datagram(t, target.at, "bad")
	to := netip.MustParseAddrPort(target.at)
	port := string([]byte{byte(to.Port() >> 8), byte(to.Port())})
	for _, raw := range []string{
		"", "\x00", "\x00\x00\x00", "\x00\x00\x00\x01", "\x00\x00\x00\x01\x7f\x00\x00\x01", string(good[:9]),
		"\x00\x00\x00\x00\x7f\x00\x00\x01" + port + "bad", "\x00\x00\x00\x02\x7f\x00\x00\x01" + port + "bad", "\x00\x00\x00\xff",
		"\x00\x00\x00\x03\x00" + port + "bad", "\x00\x00\x00\x03\xff127.0.0.1" + port,
		"\x00\x00\x01" + string(good[3:]), "\x00\x00\x80" + string(good[3:]), "\x00\x00\xff" + string(good[3:]), "\x00\x00\x7f" + string(good[3:]),
		"\x00\x00\x00\x01\x7f\x00\x00\x01\x00\x00bad", "\x00\x00\x00\x01\x00\x00\x00\x00" + port + "bad",
		"\x00\x00\x00\x04" + strings.Repeat("\x00", 16) + port + "bad",
		"\x00\x00\x00\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x00\x00\x00\x00" + port + "bad",
		"\x00\x00\x00\x03\x09127.0.0.1\x00\x00bad", "\x00\x00\x00\x03\x0ba\x00b.example" + port + "bad", "\x00\x00\x00\x03\x0ba\r\n.example" + port + "bad",
	} {
		a.sendRaw([]byte(raw))
	}
	a.send(target.at, "").want("", target.at) // an empty one is one
	if p := <-target.came; p.data != "" {
		t.Errorf("%q came to the target", p.data)
	}
	large := strings.Repeat("x", 65507-10)
	a.send(target.at, large).want(large, target.at)
	if p := <-target.came; p.data != large {
		t.Errorf("%d bytes came to the target", len(p.data))
	}
	target.nothing(t)
	metrics := scrape(t, s, "")
	for _, want := range []string{
		`sallyport_datagrams_dropped_total{cause="malformed"} 18`,
		`sallyport_datagrams_dropped_total{cause="fragment"} 4`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	// A reserved byte that is set means nothing.
	a.sendRaw(append([]byte{0xff, 0xff}, datagram(t, target.at, "reserved")[2:]...)).want("reserved", target.at)
}

// Both families, whichever the client has come by; and names, which are looked
// up where route allows, and whose addresses dial is asked about.
func TestDatagramsBothFamiliesAndNames(t *testing.T) {
	t.Parallel()
	four, six := servePackets(t, "127.0.0.1:0"), servePackets(t, "[::1]:0")
	_, port4, _ := net.SplitHostPort(four.at)
	_, port6, _ := net.SplitHostPort(six.at)
	shut := servePackets(t, "127.0.0.3:0") // which dial denies
	_, portShut, _ := net.SplitHostPort(shut.at)
	names := serveNames(t, map[string][]string{
		"four.example.": {"127.0.0.1"}, "six.example.": {"::1"}, "mixed.example.": {"10.0.0.1", "127.0.0.1"},
		"private.example.": {"10.0.0.1"}, "shut.example.": {"127.0.0.3"}, "denied.example.": {"127.0.0.1"},
	})
	denied := write(t, filepath.Join(t.TempDir(), "denied.json"), `{"denied": [9]}`)
	s := start(t, "--listen", "[::1]:0", "--policy", udpPolicy(t, "deny contains \"that name\" if input.target.host == \"denied.example\"\n"),
		"--policy", write(t, filepath.Join(t.TempDir(), "dial.rego"), `package sallyport.dial
default allow := false
allow if input.address.scope == "loopback"
deny contains "shut" if input.address.ip == "127.0.0.3"
`), "--data", denied, "--set", "dns.servers="+names.addr)
	by6 := s.wait(t, 1, "listening")["address"].(string)
	zero6 := netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	for _, a := range []*association{associate(t, s.addr), associateFrom(t, by6, "[::1]:0", zero6)} {
		a.send(four.at, "4").want("4", four.at)
		a.send(six.at, "6").want("6", six.at)
		a.send("four.example:"+port4, "by name").want("by name", four.at)
		a.send("Six.Example.:"+port6, "by name").want("by name", six.at)
		a.send("mixed.example:"+port4, "allowed one").want("allowed one", four.at)
		a.send("denied.example:"+port4, "no").send("private.example:"+port4, "no").send("gone.example:"+port4, "no")
		a.send("127.0.0.1:"+port4, "literal").want("literal", four.at)
		a.send("[::ffff:127.0.0.1]:"+port4, "mapped").want("mapped", four.at)
		a.send("10.0.0.1:"+port4, "no").send(shut.at, "no").send("shut.example:"+portShut, "no").send("0x7f.1:"+port4, "spelled").want("spelled", four.at)
	}
	shut.nothing(t)
	if slices.Contains(names.questions(), "denied.example.") {
		t.Error("a name that route denies was looked up")
	}
}

// A reply is told as from where the client has sent to, wherever that has led.
func TestDatagramsRedirected(t *testing.T) {
	t.Parallel()
	target := servePackets(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(target.at)
	s := start(t, "--data", noneDenied(t), "--policy", dialPolicy(t), "--policy", udpPolicy(t, fmt.Sprintf(
		"redirect := {\"host\": \"127.0.0.1\", \"port\": %s} if input.request.command == \"datagram\"\n", port)))
	a := associate(t, s.addr)
	a.send("192.0.2.1:53", "one").want("one", "192.0.2.1:53")
	a.send("192.0.2.2:54", "two").want("two", "192.0.2.2:54")
	a.send("192.0.2.1:53", "three").want("three", "192.0.2.1:53")
	a.send("a.example:1", "four").want("four", target.at)
}

// An association ends with the connection that has asked for it, and its port
// closes; and so it does by the limits of the policy.
func TestDatagramsEnd(t *testing.T) {
	t.Parallel()
	target := servePackets(t, "127.0.0.1:0")
	closed := func(a *association) {
		t.Helper()
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(a.relay))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the relay's port is still open: %v", err)
		}
	}
	s := openRelay(t)
	for i, hangUp := range []func(*talk){
		func(c *talk) { c.Close() },
		func(c *talk) { c.CloseWrite() },
		func(c *talk) { c.SetLinger(0); c.Close() },
		func(c *talk) { c.say("chatter"); c.Close() },
	} {
		a := associate(t, s.addr)
		a.send(target.at, "12345").want("12345", target.at)
		a.sendRaw([]byte("x")).send(target.at, "67").want("67", target.at)
		hangUp(a.control)
		_, r := s.ended(t, i)
		closed(a)
		for key, want := range map[string]any{
			"outcome": "ok", "cause": "finished", "command": "associate", "bytes.up": 7.0, "bytes.down": 7.0,
			"datagrams.up": 2.0, "datagrams.down": 2.0, "datagrams.dropped": 1.0,
		} {
			if r[key] != want {
				t.Errorf("%d: %s is %v, want %v", i, key, r[key], want)
			}
		}
	}
	for limit, cause := range map[string]string{
		`"idle": "300ms"`: "idle_timeout", `"duration": "1s"`: "expired", `"bytes": 12`: "bytes_spent",
	} {
		s := start(t, "--policy", udpPolicy(t, "session_limits := {"+limit+"} if input.request.command == \"associate\"\n"),
			"--policy", dialPolicy(t), "--data", noneDenied(t))
		a := associate(t, s.addr)
		a.send(target.at, "12345").want("12345", target.at)
		if cause == "bytes_spent" {
			a.send(target.at, "678")
		}
		if rest, err := a.control.rest(); rest != "" || err != nil {
			t.Errorf("%s: the connection ends with %q, %v", cause, rest, err)
		}
		closed(a)
		if _, r := s.ended(t, 0); r["cause"] != cause {
			t.Errorf("%s: %v", cause, r)
		}
	}
}

// The rate of an association is held, by what goes too fast being lost.
func TestDatagramsPaced(t *testing.T) {
	t.Parallel()
	target := servePackets(t, "127.0.0.1:0")
	s := start(t, "--policy", udpPolicy(t, "session_limits := {\"up\": \"100KiB/s\"} if input.request.command == \"associate\"\n"),
		"--policy", dialPolicy(t), "--data", noneDenied(t))
	a := associate(t, s.addr)
	a.send(target.at, "first").want("first", target.at)
	begun := time.Now()
	data := strings.Repeat("x", 1024)
	for range 50 { // as many as the kernel holds for sure
		a.send(target.at, data)
	}
	for range 50 {
		a.want(data, target.at)
	}
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("50 KiB took %v at 100 KiB/s", took)
	}
}

// So many destinations are remembered and no more: whoever is forgotten can't
// answer any more.
func TestDatagramsBounded(t *testing.T) {
	t.Parallel()
	one, two, three := servePackets(t, "127.0.0.1:0"), servePackets(t, "127.0.0.1:0"), servePackets(t, "127.0.0.1:0")
	for _, settings := range [][]string{
		{"--set", "limits.flows=2"},
		{"--set", "limits.flows=2", "--set", "limits.flows_total=2"},
	} {
		s := openRelay(t, settings...)
		a := associate(t, s.addr)
		for _, target := range []*packetEcho{one, two, one, three} {
			a.send(target.at, "hello").want("hello", target.at)
		}
		from := (<-two.came).from
		two.WriteToUDPAddrPort([]byte("late"), from)
		one.WriteToUDPAddrPort([]byte("known"), from)
		a.want("known", one.at)
		if len(settings) > 2 { // the other association has nothing of its own to forget
			b := associate(t, s.addr)
			b.send(two.at, "no")
			for full := `sallyport_datagrams_dropped_total{cause="full"} 1`; !strings.Contains(scrape(t, s, ""), full); {
				if t.Context().Err() != nil { // it has no order with what another association does
					t.Fatal("it is not dropped")
				}
			}
			a.send(one.at, "yes").want("yes", one.at)
			a.control.Close()
			s.ended(t, 0)
			b.send(two.at, "yes").want("yes", two.at)
		}
		for _, e := range []*packetEcho{one, two, three} {
			for len(e.came) > 0 {
				<-e.came
			}
		}
	}
}

func TestDatagramsAdvertised(t *testing.T) {
	t.Parallel()
	target := servePackets(t, "127.0.0.1:0")
	port := netip.MustParseAddrPort("127.0.0.1:" + freePort(t)).Port()
	config := write(t, filepath.Join(t.TempDir(), "c.yaml"), fmt.Sprintf(`
listeners:
  - address: "127.0.0.1:0"
    udp: {advertise: ["2001:db8::7", 192.0.2.7], ports: %d}
    bind: {advertise: 192.0.2.8, ports: %d}
`, port, port))
	rules := "allow if input.request.command == \"bind\"\n"
	s := follow(t, program("run", "--config", config, "--management", "127.0.0.1:0", "--set", "state.path="+filepath.Join(t.TempDir(), "s.db"),
		"--policy", udpPolicy(t, rules), "--policy", dialPolicy(t), "--data", noneDenied(t)))
	a := associate(t, s.addr)
	if want := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), port); a.relay != want {
		t.Errorf("told %s, want %s", a.relay, want)
	}
	a.relay = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	a.send(target.at, "hello").want("hello", target.at)
	if got := exchange(t, s.addr, greeting+"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"); got != chosen+replied(1) {
		t.Errorf("with no port left: % x", got)
	}
	_, _, at := bindFor(t, s.addr, netip.MustParseAddrPort("127.0.0.1:1"))
	if want := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.8"), port); at != want {
		t.Errorf("told %s, want %s", at, want)
	}
}

// What is seen of an association: the sessions API, and a decision for each
// destination, asked once.
func TestDatagramsSeen(t *testing.T) {
	t.Parallel()
	good, bad := servePackets(t, "127.0.0.1:0"), servePackets(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(bad.at)
	denied := write(t, filepath.Join(t.TempDir(), "denied.json"), `{"denied": [`+port+`]}`)
	s := start(t, "--policy", udpPolicy(t, "labels := {\"kind\": \"udp\"} if input.request.command == \"datagram\"\n"), "--policy", dialPolicy(t),
		"--data", denied, "--set", "policy.opa.decision_logs.console=true", "--set", "management.tokens={t: {token: 0123456789abcdef, roles: [admin]}}")
	a := associate(t, s.addr)
	for range 3 {
		a.send(bad.at, "no").send(good.at, "yes").want("yes", good.at)
	}
	api := "http://" + s.wait(t, 0, "management")["address"].(string) + "/v1/sessions"
	want := "associate map[down:3 dropped:3 up:3] map[kind:udp] map[down:9 up:9]"
	got := ""
	for end := time.Now().Add(10 * time.Second); got != want && time.Now().Before(end); { // what is sent is counted then
		_, body := call(t, "GET", api, "0123456789abcdef")
		var listed struct {
			Sessions []map[string]any `json:"sessions"`
		}
		if err := json.Unmarshal([]byte(body), &listed); err != nil || len(listed.Sessions) != 1 {
			t.Fatalf("%s: %v", body, err)
		}
		seen := listed.Sessions[0]
		got = fmt.Sprintf("%v %v %v %v", seen["command"], seen["datagrams"], seen["labels"], seen["bytes"])
	}
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
	a.control.Close()
	s.ended(t, 0)
	s.cmd.Process.Signal(syscall.SIGTERM)
	asked := map[string]int{}
	events := json.NewDecoder(s.stdout)
	for {
		var e struct {
			Path  string `json:"path"`
			Input struct {
				Request struct{ Command string }
				Target  struct{ Port int }
			}
		}
		if events.Decode(&e) != nil {
			break
		}
		if strings.Contains(e.Path, "route") || strings.Contains(e.Path, "dial") {
			asked[fmt.Sprint(filepath.Base(e.Path), " ", e.Input.Request.Command, " ", e.Input.Target.Port)]++
		}
	}
	_, goodPort, _ := net.SplitHostPort(good.at)
	wanted := map[string]int{"route associate 0": 1, "route datagram " + port: 1, "route datagram " + goodPort: 1, "dial datagram " + goodPort: 1}
	if fmt.Sprint(asked) != fmt.Sprint(wanted) {
		t.Errorf("asked %v, want %v", asked, wanted)
	}
}

// Many clients at once, with many destinations each, and everything comes back
// to whom it belongs. It is for the race detector.
func TestDatagramsStress(t *testing.T) {
	t.Parallel()
	var targets []*packetEcho
	for range 8 {
		targets = append(targets, servePackets(t, "127.0.0.1:0"))
	}
	s := openRelay(t, "--set", "limits.flows=5") // so that destinations come and go
	var clients sync.WaitGroup
	for i := range 16 {
		a := associate(t, s.addr)
		clients.Go(func() {
			for n := range 100 {
				to := targets[(n*7+i)%len(targets)]
				data := fmt.Sprintf("%d of %d", n, i)
				a.SetReadDeadline(time.Now().Add(time.Second))
				a.WriteToUDPAddrPort(datagram(t, to.at, data), a.relay)
				got := make([]byte, 1500)
				k, _, err := a.ReadFromUDPAddrPort(got)
				if err != nil {
					continue // lost, as datagrams may be
				}
				d, err := socks5.ParseDatagram(got[:k])
				if !strings.HasSuffix(string(d.Data), fmt.Sprintf(" of %d", i)) || err != nil {
					t.Errorf("%q came to client %d: %v", got[:k], i, err)
				}
			}
			a.control.Close()
		})
	}
	clients.Wait()
	for i := range 16 {
		if _, r := s.ended(t, i); r["outcome"] != "ok" || r["datagrams.down"].(float64) < 75 {
			t.Errorf("%v", r)
		}
	}
}
