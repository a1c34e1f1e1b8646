package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"sallyport/proxy/wire/socks5"
)

const askAssociate = "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"

// falseRelay is an upstream whose datagrams are the test's to answer.
type falseRelay struct {
	*net.UDPConn
	t    *testing.T
	port uint16        // where it is asked
	hang chan struct{} // closed to have it hang up
}

// serveFalseRelay tells where it takes datagrams: at its own address and port,
// whatever of that a test wants to be told instead.
func serveFalseRelay(t *testing.T, told func(at netip.AddrPort) netip.AddrPort) *falseRelay {
	t.Helper()
	return serveFalseRelayAt(t, "127.0.0.1", told)
}

func serveFalseRelayAt(t *testing.T, ip string, told func(at netip.AddrPort) netip.AddrPort) *falseRelay {
	t.Helper()
	c, err := net.ListenPacket("udp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	f := &falseRelay{UDPConn: c.(*net.UDPConn), t: t, hang: make(chan struct{})}
	at := netip.MustParseAddrPort(c.LocalAddr().String())
	f.port = scripted(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 100))
		io.WriteString(c, chosen)
		c.Read(make([]byte, 100))
		c.Write(socks5.AppendReply(nil, socks5.Succeeded, told(at)))
		over := make(chan struct{})
		go func() { io.Copy(io.Discard, c); close(over) }()
		select {
		case <-f.hang:
		case <-over:
		}
	})
	return f
}

// hear is the next datagram that has come to the relay.
func (f *falseRelay) hear(want string) (d socks5.Datagram, from netip.AddrPort) {
	f.t.Helper()
	b := make([]byte, 64<<10)
	n, from, err := f.ReadFromUDPAddrPort(b)
	if err != nil {
		f.t.Fatal(err)
	}
	if d, err = socks5.ParseDatagram(b[:n]); err != nil || string(d.Data) != want {
		f.t.Fatalf("the relay hears % x: %v, want %q", b[:n], err, want)
	}
	return d, from
}

// An upstream that does not take datagrams costs the client one clear reply, and
// where there is another one that is asked.
func TestUpstreamsWithoutUDP(t *testing.T) {
	t.Parallel()
	answers := func(code byte) string {
		return fmt.Sprintf("socks5h://127.0.0.1:%d", scripted(t, func(c *net.TCPConn) {
			c.Read(make([]byte, 100))
			io.WriteString(c, chosen)
			c.Read(make([]byte, 100))
			io.WriteString(c, replied(code))
			io.Copy(io.Discard, c)
		}))
	}
	var asked atomic.Int32
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			c.Close()
		}
	}()
	relayAt := func(to string) string {
		return fmt.Sprintf("socks5h://127.0.0.1:%d", serveFalseRelay(t, func(netip.AddrPort) netip.AddrPort { return netip.MustParseAddrPort(to) }).port)
	}
	urls := map[string]string{
		"http": "http://" + l.Addr().String(), "socks4": "socks4a://" + l.Addr().String(), "micro": "socks5h://" + startMicrosocks(t).addr,
		"seven": answers(7), "again": answers(7), "two": answers(2), "one": answers(1), "eight": answers(8), "gone": "socks5h://127.0.0.1:1",
		"silent": fmt.Sprintf("socks5h://127.0.0.1:%d", scripted(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })),
		"beside": relayAt("127.0.0.2:53"), "inside": relayAt("169.254.169.254:53"), "six": relayAt("[::1]:53"), "portless": relayAt("127.0.0.1:0"),
		"dante": "socks5h://" + startDante(t).addr,
	}
	known := "{url: %q, udp_relays: [127.0.0.2, 192.0.2.0/24, \"::1\"]}\n"
	config := upstreamsFile(urls) + fmt.Sprintf("  believed: "+known+"  unknown: "+known+"  family: "+known,
		relayAt("127.0.0.2:53"), relayAt("127.0.0.3:53"), relayAt("[::1]:53"))
	for _, c := range []struct {
		via     string
		reply   byte
		outcome string
	}{
		{`["http"]`, 7, "upstream_no_udp"},
		{`["socks4"]`, 7, "upstream_no_udp"},
		{`["dante", "dante"]`, 7, "upstream_no_udp"},
		{`["micro"]`, 7, "upstream_no_udp"},
		{`["seven"]`, 7, "upstream_no_udp"},
		{`["eight"]`, 7, "upstream_no_udp"},
		{`["two"]`, 2, "upstream_denied"},
		{`["one"]`, 1, "upstream_failed"},
		{`["gone"]`, 1, "upstream_refused"},
		{`["silent"]`, 1, "upstream_timeout"},
		{`["beside"]`, 1, "upstream_malformed"},
		{`["inside"]`, 1, "upstream_malformed"},
		{`["six"]`, 1, "upstream_malformed"},
		{`["portless"]`, 1, "upstream_malformed"},
		{`["believed"]`, 0, "ok"},
		{`["unknown"]`, 1, "upstream_malformed"},
		{`["family"]`, 1, "upstream_malformed"},
		{`["nobody"]`, 1, "fault"},
		{`[{"any": []}]`, 1, "upstream_none"},
		{`[{"any": ["gone", "http", "again", "dante"], "by": "order"}]`, 0, "ok"},
	} {
		s, _ := startUDPVia(t, config, `{"denied": [], "via": `+c.via+`}`, "--set", "limits.dial=2s")
		d := dialDoor(t, s.addr).say(greeting).hear(chosen).say(askAssociate).hear("\x05" + string([]byte{c.reply}))
		d.Close()
		r := s.wait(t, 0, "session")
		want := "[dante]"
		if c.via == `["believed"]` {
			want = "[believed]"
		}
		if r["outcome"] != c.outcome || c.reply == 0 && fmt.Sprint(r["via"]) != want {
			t.Errorf("%s: %v: %v", c.via, r["outcome"], r["cause"])
		}
		s.terminate(t)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("upstreams that know no datagrams were asked %d times", n)
	}
}

// What an upstream's relay sends gets to the client as from whom it says, where
// something was sent there, and nothing else does.
func TestFalseRelay(t *testing.T) {
	t.Parallel()
	f := serveFalseRelay(t, func(at netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()) // which is its own
	})
	stranger := servePackets(t, "127.0.0.1:0")
	s, _ := startUDPVia(t, fmt.Sprintf("upstreams:\n  u: {url: \"socks5h://127.0.0.1:%d\"}\n", f.port), `{"denied": [9], "via": ["u"]}`)
	a := associate(t, s.addr)

	a.send("127.0.0.1:53", "one")
	d, here := f.hear("one")
	if d.IP.String() != "127.0.0.1" || d.Port != 53 {
		t.Errorf("the header says %v", d)
	}
	answer := func(raw []byte) { f.WriteToUDPAddrPort(raw, here) }
	answer(datagram(t, "127.0.0.1:53", "good"))
	a.want("good", "127.0.0.1:53")

	dropped := 0
	for name, raw := range map[string][]byte{
		"is from another port":    datagram(t, "127.0.0.1:54", "bad"),
		"is from another address": datagram(t, "127.0.0.2:53", "bad"),
		"is by a name":            datagram(t, "a.example:53", "bad"),
		"is short":                []byte("\x00\x00\x00\x01\x7f"),
		"is empty":                {},
		"is a fragment":           []byte("\x00\x00\x01\x01\x7f\x00\x00\x01\x00\x35bad"),
		"is of an unknown type":   []byte("\x00\x00\x00\x09\x7f\x00\x00\x01\x00\x35bad"),
		"has an empty name":       []byte("\x00\x00\x00\x03\x00\x00\x35bad"),
	} {
		dropped++
		answer(raw)
		answer(datagram(t, "127.0.0.1:53", "good"))
		if got, from := a.hear(); got != "good" {
			t.Errorf("what %s is passed on: %q from %s", name, got, from)
		}
	}
	stranger.WriteToUDPAddrPort(datagram(t, "127.0.0.1:53", "bad"), here)
	a.send("127.0.0.1:9", "denied")
	dropped += 2

	// Of a name it is the upstream's to say where it leads.
	a.send("A.example:1053", "by name")
	if d, _ = f.hear("by name"); string(d.Name) != "a.example" {
		t.Errorf("the header says %v", d)
	}
	a.send("b.example:1053", "by another name")
	f.hear("by another name")
	answer(datagram(t, "192.0.2.7:1053", "good"))
	a.want("good", "192.0.2.7:1053")
	answer(datagram(t, "b.example:1053", "good"))
	if raw := a.hearRaw(); string(raw) != string(datagram(t, "b.example:1053", "good")) {
		t.Errorf("an answer by name comes as % x", raw)
	}
	answer(datagram(t, "c.example:1053", "bad"))
	answer(datagram(t, "192.0.2.7:1054", "bad"))
	long := strings.Repeat(strings.Repeat("n", 60)+".", 4) + "example"
	a.send(long+":1053", "long")
	if d, _ = f.hear("long"); string(d.Name) != long {
		t.Errorf("the header says %s", d.Name)
	}
	answer(datagram(t, long+":1053", "good"))
	if raw := a.hearRaw(); string(raw) != string(datagram(t, long+":1053", "good")) {
		t.Errorf("an answer by a long name comes as % x", raw)
	}
	dropped += 2

	close(f.hang) // and the association ends with its own
	if rest, err := a.control.rest(); rest != "" || err != nil {
		t.Errorf("the connection ends with %q, %v", rest, err)
	}
	r := s.wait(t, 0, "session")
	if r["cause"] != "upstream u has ended its association" || r["datagrams.dropped"] != float64(dropped) {
		t.Errorf("%d were dropped, and the record says %v", dropped, r)
	}
}

// Another way, or another answer, is for associations through upstreams too.
func TestDatagramsThroughUpstreamsFollowThePolicy(t *testing.T) {
	t.Parallel()
	one, two := serveFalseRelay(t, func(at netip.AddrPort) netip.AddrPort { return at }), startDante(t)
	config := fmt.Sprintf("upstreams:\n  one: {url: \"socks5h://127.0.0.1:%d\"}\n  two: {url: \"socks5h://%s\"}\n", one.port, two.addr)
	s, file := startUDPVia(t, config, `{"denied": [], "via": ["one"]}`)
	s.wait(t, 0, "policy active")
	policies := 1
	follow := func(data string) {
		t.Helper()
		write(t, file, data)
		s.wait(t, policies, "policy active")
		s.wait(t, policies-1, "live sessions asked again")
		policies++
	}
	a := associate(t, s.addr)
	a.send("127.0.0.1:53", "x").send("a.example:54", "y").send("b.example:54", "z")
	var here netip.AddrPort
	for range 3 { // decided about side by side
		b := make([]byte, 100)
		_, here, _ = one.ReadFromUDPAddrPort(b)
	}
	answer := func(from, data string) { one.WriteToUDPAddrPort(datagram(t, from, data), here) }
	answer("127.0.0.1:53", "before")
	a.want("before", "127.0.0.1:53")

	follow(`{"denied": [54], "via": [{"any": ["two", "one"]}]}`)
	answer("192.0.2.1:54", "denied now")
	answer("a.example:54", "denied now")
	answer("127.0.0.1:53", "after")
	a.want("after", "127.0.0.1:53")

	follow(`{"denied": [], "via": ["two"]}`)
	if rest, _ := a.control.rest(); rest != "" {
		t.Errorf("the connection ends with %q", rest)
	}
	r := s.wait(t, 0, "session")
	if want := fmt.Sprintf("cut: policy %v leads through two", r["policy.revision"]); r["outcome"] != "cut" || r["cause"] != want {
		t.Errorf("%v: %v", r["outcome"], r["cause"])
	}
}

// A relay at another address than the upstream's takes datagrams where the
// configuration knows of it, and nobody else answers for it.
func TestRelayAtAnotherAddress(t *testing.T) {
	t.Parallel()
	f := serveFalseRelayAt(t, "127.0.0.2", func(at netip.AddrPort) netip.AddrPort { return at })
	s, _ := startUDPVia(t, fmt.Sprintf("upstreams:\n  far: {url: \"socks5h://127.0.0.1:%d\", udp_relays: [127.0.0.2]}\n", f.port), `{"denied": [], "via": ["far"]}`)
	a := associate(t, s.addr)
	a.send("127.0.0.1:53", "there")
	_, from := f.hear("there")
	own, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", netip.MustParseAddrPort(f.LocalAddr().String()).Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	own.(*net.UDPConn).WriteToUDPAddrPort(datagram(t, "127.0.0.1:53", "from the upstream's own address"), from)
	f.WriteToUDPAddrPort(datagram(t, "127.0.0.1:53", "and back"), from)
	a.want("and back", "127.0.0.1:53")
}
