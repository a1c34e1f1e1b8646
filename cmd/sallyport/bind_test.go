package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/proxy/wire/socks5"
)

// bindFor asks for a port for a peer, and returns where it is.
func bindFor(t *testing.T, door string, peer netip.AddrPort) (*talk, *bufio.Reader, netip.AddrPort) {
	t.Helper()
	d := dialDoor(t, door).say(greeting).hear(chosen)
	request, err := socks5.AppendRequest(nil, socks5.Request{
		Command: socks5.Bind, Address: socks5.Address{IP: peer.Addr(), Port: peer.Port()},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.say(string(request))
	r := bufio.NewReader(d)
	reply, bound, err := socks5.ReadReply(r)
	if err != nil || reply != socks5.Succeeded || bound.Port == 0 {
		t.Fatalf("bind: %v, %v, %v", reply, bound, err)
	}
	return d, r, netip.AddrPortFrom(bound.IP, bound.Port)
}

// connectFrom connects from an address of this machine.
func connectFrom(t *testing.T, from string, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)), net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func bindPolicy(t *testing.T) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "bind.rego"), `package sallyport.route
default allow := false
allow if {
	input.request.command == "bind"
	input.target.port != 99
}
`)
}

// denying127x3 allows loopback, but for one address.
func denying127x3(t *testing.T) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "dial.rego"), `package sallyport.dial
default allow := false
allow if {
	input.request.command == "bind"
	input.address.scope == "loopback"
	input.address.ip != "127.0.0.3"
}
`)
}

func TestBind(t *testing.T) {
	t.Parallel()
	s := start(t, "--policy", bindPolicy(t), "--policy", denying127x3(t))

	// The peer that is expected, after a stranger; from whatever port.
	client, r, at := bindFor(t, s.addr, netip.MustParseAddrPort("127.0.0.2:21"))
	stranger := connectFrom(t, "127.0.0.9", at)
	if _, err := io.ReadAll(stranger); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the stranger: %v", err)
	}
	peer := connectFrom(t, "127.0.0.2", at)
	reply, by, err := socks5.ReadReply(r)
	if want := peer.LocalAddr().String(); err != nil || reply != socks5.Succeeded || netip.AddrPortFrom(by.IP, by.Port).String() != want {
		t.Fatalf("second reply: %v, %v, %v; want %s", reply, by, err, want)
	}
	if c, err := net.DialTimeout("tcp", at.String(), time.Second); err == nil {
		c.Close()
		t.Error("the port is open after the peer has come")
	}
	io.WriteString(peer, "from the peer")
	got := make([]byte, 13)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "from the peer" {
		t.Errorf("the client has %q, %v", got, err)
	}
	io.WriteString(client, "from the client")
	client.CloseWrite()
	if got, err := io.ReadAll(peer); err != nil || string(got) != "from the client" {
		t.Errorf("the peer has %q, %v", got, err)
	}
	peer.Close()

	// What the client sends before the peer has come reaches it.
	client, r, at = bindFor(t, s.addr, netip.MustParseAddrPort("127.0.0.2:21"))
	client.say("early")
	peer = connectFrom(t, "127.0.0.2", at)
	if reply, _, err := socks5.ReadReply(r); err != nil || reply != socks5.Succeeded {
		t.Fatalf("second reply: %v, %v", reply, err)
	}
	if _, err := io.ReadFull(peer, got[:5]); err != nil || string(got[:5]) != "early" {
		t.Errorf("the peer has %q, %v", got[:5], err)
	}
	peer.Close()

	// Whoever comes, as long as dial allows it.
	_, r, at = bindFor(t, s.addr, netip.MustParseAddrPort("0.0.0.0:0"))
	denied := connectFrom(t, "127.0.0.3", at)
	io.ReadAll(denied)
	peer = connectFrom(t, "127.0.0.8", at)
	if reply, by, err := socks5.ReadReply(r); err != nil || reply != socks5.Succeeded || by.IP.String() != "127.0.0.8" {
		t.Fatalf("second reply: %v, %v, %v", reply, by, err)
	}
	peer.Close()

	// The only one that is expected is not allowed.
	_, r, at = bindFor(t, s.addr, netip.MustParseAddrPort("127.0.0.3:21"))
	connectFrom(t, "127.0.0.3", at)
	if reply, _, err := socks5.ReadReply(r); err != nil || reply != socks5.NotAllowed {
		t.Errorf("of one that is denied: %v, %v", reply, err)
	}

	// Nobody comes.
	hasty := start(t, "--policy", bindPolicy(t), "--policy", denying127x3(t), "--set", "limits.bind=200ms")
	_, r, _ = bindFor(t, hasty.addr, netip.MustParseAddrPort("127.0.0.2:21"))
	if reply, _, err := socks5.ReadReply(r); err != nil || reply != socks5.HostUnreachable {
		t.Errorf("of nobody: %v, %v", reply, err)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after that: %v", err)
	}

	// Route denies.
	if got := exchange(t, s.addr, greeting+"\x05\x02\x00\x01\x7f\x00\x00\x02\x00\x63"); got != chosen+replied(2) {
		t.Errorf("denied by route: % x", got)
	}
}

// SOCKS4 has BIND as well, with two replies of its own.
func TestBindOfSOCKS4(t *testing.T) {
	t.Parallel()
	s := start(t, "--policy", bindPolicy(t), "--policy", denying127x3(t))
	bind := func(peer string, port uint16) (*talk, netip.AddrPort) {
		t.Helper()
		d := dialDoor(t, s.addr).say("\x04\x02" + connect4("ann", peer, port)[2:])
		return d, d.reply4(granted4)
	}
	client, at := bind("127.0.0.2", 21)
	client.say("early")
	connectFrom(t, "127.0.0.9", at) // a stranger
	peer := connectFrom(t, "127.0.0.2", at)
	if by := client.reply4(granted4); by.String() != peer.LocalAddr().String() {
		t.Errorf("the peer %v is told of as %v", peer.LocalAddr(), by)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(peer, got); err != nil || string(got) != "early" {
		t.Errorf("the peer has %q, %v", got, err)
	}
	io.WriteString(peer, "late")
	client.hear("late").Close()
	peer.Close()
	if _, r := s.ended(t, 0); r["outcome"] != "ok" || r["command"] != "bind" || r["network.protocol.name"] != "socks4" {
		t.Errorf("recorded as %v", r["raw"])
	}

	client, at = bind("127.0.0.3", 21) // whom dial does not allow
	connectFrom(t, "127.0.0.3", at)
	client.reply4(rejected4[:2])
	if got := exchange(t, s.addr, "\x04\x02"+connect4("ann", "127.0.0.2", 99)[2:]); got != rejected4 {
		t.Errorf("denied by route: % x", got)
	}
}

// reply4 reads a reply of SOCKS4, and returns its address.
func (c *talk) reply4(head string) netip.AddrPort {
	c.t.Helper()
	c.hear(head)
	var rest [6]byte
	if _, err := io.ReadFull(c, rest[:]); err != nil {
		c.t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest[2:])), binary.BigEndian.Uint16(rest[:]))
}

// The port closes with the connection that has asked for it.
func TestBindEndsWithItsClient(t *testing.T) {
	t.Parallel()
	s := start(t, "--policy", bindPolicy(t), "--policy", denying127x3(t), "--set", "limits.bind=10m")
	n := 0
	for how, hangUp := range map[string]func(*talk){
		"close": func(c *talk) { c.Close() },
		"reset": func(c *talk) { c.SetLinger(0); c.Close() },
		"after data": func(c *talk) {
			c.say(strings.Repeat("x", 100))
			c.Close()
		},
	} {
		client, _, at := bindFor(t, s.addr, netip.MustParseAddrPort("127.0.0.2:21"))
		hangUp(client)
		_, ended := s.ended(t, n)
		n++
		if ended["outcome"] != "incomplete" || ended["command"] != "bind" {
			t.Errorf("%s: %v", how, ended)
		}
		if c, err := net.DialTimeout("tcp", at.String(), time.Second); err == nil {
			c.Close()
			t.Errorf("%s: the port is still open", how)
		}
	}
}
