package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// announced_test.go comes through a load balancer, and as one.

// balanced is a sallyport that trusts 127.0.0.1 to speak for others, and admits
// nobody but from 192.0.2.0/24 and 127.0.0.0/24.
func balanced(t *testing.T, more ...string) (*process, *echo) {
	t.Helper()
	target := serveEcho(t, "127.0.0.1:0")
	admit := write(t, filepath.Join(t.TempDir(), "admit.rego"), `package sallyport.admit

default allow := false

allow if net.cidr_contains("192.0.2.0/24", input.source.ip)

allow if net.cidr_contains("2001:db8::/32", input.source.ip)

allow if net.cidr_contains("127.0.0.0/24", input.source.ip)
`)
	return listening(t, `[{address: "127.0.0.1:0", proxy_protocol: {trusted: [127.0.0.1]}}]`, append([]string{"--policy", admit, "--data", settings(t, loopback, target.port),
		"--data", write(t, filepath.Join(t.TempDir(), "anybody.json"), `{"settings": {"anonymous_from": ["192.0.2.0/24", "2001:db8::/32"]}}`)}, more...)...), target
}

// version2 is a PROXY header of version 2: command, family and what follows.
func version2(command, family byte, rest string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{0x20 | command, family}) + string(binary.BigEndian.AppendUint16(nil, uint16(len(rest)))) + rest
}

func addresses(source, local string) string {
	s, l := netip.MustParseAddrPort(source), netip.MustParseAddrPort(local)
	b := append(s.Addr().AsSlice(), l.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, s.Port())
	return string(binary.BigEndian.AppendUint16(b, l.Port()))
}

func TestAnnouncedClients(t *testing.T) {
	t.Parallel()
	s, target := balanced(t)
	ask := greeting + connectTo("127.0.0.1", target.port) + "early"
	four := addresses("192.0.2.9:4242", "198.51.100.1:1080")
	six := addresses("[2001:db8::9]:4242", "[2001:db8::1]:1080")
	for _, c := range []struct{ name, header, source string }{
		{"version 1", "PROXY TCP4 192.0.2.7 198.51.100.1 4242 1080\r\n", "192.0.2.7"},
		{"version 1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 4242 1080\r\n", "2001:db8::7"},
		{"version 1, unknown", "PROXY UNKNOWN\r\n", "127.0.0.1"},
		{"version 2", version2(1, 0x11, four), "192.0.2.9"},
		{"version 2, IPv6", version2(1, 0x21, six), "2001:db8::9"},
		{"version 2, mapped", version2(1, 0x21, addresses("[::ffff:192.0.2.8]:4242", "[::ffff:192.0.2.1]:1080")), "192.0.2.8"},
		{"version 2 and more", version2(1, 0x11, four+"\x04\x03\xe8"+strings.Repeat("x", 1000)), "192.0.2.9"},
		{"local", version2(0, 0, ""), "127.0.0.1"},
		{"local with an address", version2(0, 0x11, four), "127.0.0.1"},
	} {
		for _, parts := range [][]string{{c.header + ask}, {c.header, ask}} {
			d := dialFrom(t, "127.0.0.1", s.addr)
			for _, part := range parts {
				d.say(part)
			}
			d.hear(chosen + "\x05\x00\x00\x01\x7f\x00\x00\x01")
			io.CopyN(io.Discard, d, 2) // the port
			d.hear("early").Close()
		}
		for skip := range 2 {
			if r := s.wait(t, skip, "session"); r["client.address"] != c.source {
				t.Errorf("%s: the client is %v, want %s", c.name, r["client.address"], c.source)
			}
		}
		s.forget("session")
	}
	// Its header counts for admit too.
	dialFrom(t, "127.0.0.1", s.addr).say("PROXY TCP4 198.51.100.7 198.51.100.1 4242 1080\r\n" + greeting + connectTo("127.0.0.1", target.port)).
		hear(chosen + replied(2))
	for _, c := range []struct{ name, from, send string }{
		{"a trusted peer without a header", "127.0.0.1", ask},
		{"a trusted peer, HTTP", "127.0.0.1", fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", target.port)},
		{"version 1 of 108 bytes", "127.0.0.1", "PROXY UNKNOWN" + strings.Repeat(" ", 93) + "\r\n" + ask},
		{"version 1 without an end", "127.0.0.1", "PROXY TCP4 " + strings.Repeat("1", 5000)},
		{"version 1, a name", "127.0.0.1", "PROXY TCP4 localhost 198.51.100.1 4242 1080\r\n" + ask},
		{"version 1, a port", "127.0.0.1", "PROXY TCP4 192.0.2.7 198.51.100.1 65536 1080\r\n" + ask},
		{"version 1, a line feed", "127.0.0.1", "PROXY TCP4 192.0.2.7 198.51.100.1 4242 1080\n" + ask},
		{"version 2, a unix socket", "127.0.0.1", version2(1, 0x31, strings.Repeat("a", 216)) + ask},
		{"version 2, a datagram", "127.0.0.1", version2(1, 0x12, four) + ask},
		{"version 2, unspecified", "127.0.0.1", version2(1, 0, "") + ask},
		{"version 2, a command", "127.0.0.1", version2(2, 0x11, four) + ask},
		{"version 2, short", "127.0.0.1", version2(1, 0x21, four) + ask},
		{"version 2, 64 KiB", "127.0.0.1", version2(1, 0x11, four+strings.Repeat("x", 65000)) + ask},
		{"version 3", "127.0.0.1", strings.Replace(version2(1, 0x11, four), "\n!", "\n1", 1) + ask},
		{"two headers", "127.0.0.1", "PROXY TCP4 192.0.2.7 198.51.100.1 4242 1080\r\nPROXY TCP4 192.0.2.8 198.51.100.1 4242 1080\r\n" + ask},
		{"a stranger", "127.0.0.2", "PROXY TCP4 192.0.2.7 198.51.100.1 4242 1080\r\n" + ask},
		{"a stranger, version 2", "127.0.0.2", version2(1, 0x11, four) + ask},
		{"a stranger who is local", "127.0.0.2", version2(0, 0, "") + ask},
	} {
		before := target.came.Load()
		d := dialFrom(t, c.from, s.addr)
		io.WriteString(d, c.send)
		if got, _ := d.rest(); got != "" || target.came.Load() != before {
			t.Errorf("%s: answered with %q", c.name, got)
		}
	}
	// A stranger who claims nothing is who it is.
	dialFrom(t, "127.0.0.2", s.addr).say(ask).hear(chosen + "\x05\x00\x00\x01\x7f\x00\x00\x01")
}

// A balancer that connects and says nothing, or half of it, holds up nobody, and
// is gone when its time is up.
func TestSilentBalancers(t *testing.T) {
	t.Parallel()
	s, target := balanced(t, "--set", "limits.handshake=1s", "--set", "limits.connections=20")
	var stalled []*talk
	for i := range 19 {
		d := dialFrom(t, "127.0.0.1", s.addr)
		io.WriteString(d, []string{"", "P", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", "PROXY"}[i%4])
		stalled = append(stalled, d)
	}
	good := "PROXY TCP4 192.0.2.7 198.51.100.1 4242 1080\r\n" + greeting + connectTo("127.0.0.1", target.port)
	dialFrom(t, "127.0.0.1", s.addr).say(good).hear(chosen + "\x05\x00\x00\x01\x7f\x00\x00\x01").Close()
	for _, d := range stalled {
		if got, _ := d.rest(); got != "" {
			t.Errorf("heard %q", got)
		}
	}
}

// Balancers look whether somebody listens by connecting and going away again, one
// way or the other. That is nobody's failure.
func TestHealthChecks(t *testing.T) {
	t.Parallel()
	balanced, _ := balanced(t)
	open := start(t)
	for _, c := range []struct {
		name, send string
		s          *process
		outcome    string
	}{
		{"without a byte", "", open, "incomplete"},
		{"local", version2(0, 0, ""), balanced, "incomplete"},
		{"unknown", "PROXY UNKNOWN\r\n", balanced, "incomplete"},
		{"half a greeting", "\x05\x03\x00", open, "incomplete"},
		{"half a head", "GET http://127.0.0.1/ HTTP/1.1\r\n", open, "incomplete"},
		{"no protocol", "\x16\x03\x01", open, "malformed"},
	} {
		for _, linger := range []int{-1, 0} { // an end, a reset
			if c.outcome == "malformed" && linger == 0 {
				continue // it may come before what was sent is read
			}
			d := dialFrom(t, "127.0.0.1", c.s.addr)
			d.say(c.send)
			d.SetLinger(linger)
			d.Close()
			r := c.s.wait(t, 0, "session")
			if r["outcome"] != c.outcome || r["level"] != "INFO" {
				t.Errorf("%s, linger %d: recorded as %v", c.name, linger, r["raw"])
			}
			c.s.forget("session")
		}
	}
	// Before its header it is not even a session.
	d := dialFrom(t, "127.0.0.1", balanced.addr)
	d.SetLinger(0)
	d.Close()
	dialFrom(t, "127.0.0.1", balanced.addr).say(version2(0, 0, "")).Close()
	balanced.wait(t, 0, "session")
	balanced.mu.Lock()
	defer balanced.mu.Unlock()
	for _, e := range balanced.log {
		if e["level"] != "INFO" {
			t.Errorf("logged: %v", e["raw"])
		}
	}
}

// haproxy is what most people have before a proxy.
func TestBehindHAProxy(t *testing.T) {
	t.Parallel()
	path := installed(t, "haproxy")
	for _, version := range []string{"send-proxy", "send-proxy-v2"} {
		t.Run(version, func(t *testing.T) {
			s, target := balanced(t)
			front, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer front.Close()
			inherited, err := front.(*net.TCPListener).File()
			if err != nil {
				t.Fatal(err)
			}
			defer inherited.Close()
			config := write(t, filepath.Join(t.TempDir(), "haproxy.cfg"), fmt.Sprintf(`
defaults
  mode tcp
  timeout connect 5s
  timeout client 20s
  timeout server 20s
listen door
  bind fd@3
  server sallyport %s %s source 127.0.0.1 check inter 100ms
`, s.addr, version))
			cmd := exec.Command(path, "-db", "-f", config)
			cmd.ExtraFiles = []*os.File{inherited}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()

			d := dialFrom(t, "127.0.0.9", front.Addr().String()).say(greeting + connectTo("127.0.0.1", target.port) + "early")
			d.hear(chosen + "\x05\x00\x00\x01\x7f\x00\x00\x01")
			io.CopyN(io.Discard, d, 2)
			d.hear("early").Close()
			if r := s.sessionOf(t, "127.0.0.1"); r["client.address"] != "127.0.0.9" {
				t.Errorf("the client is %v", r["client.address"])
			}
		})
	}
}

func TestCurlAsBalancer(t *testing.T) {
	t.Parallel()
	s, _ := balanced(t)
	if out, code := curl(t, "--haproxy-protocol", "-x", "socks5h://"+s.addr, "http://192.0.2.1:9"); code != 97 {
		t.Errorf("curl exits %d: %s", code, out)
	}
}
