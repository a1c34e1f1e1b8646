package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/proxy/wire/socks5"
)

// doors_test.go comes by each kind of listener for more than CONNECT.

// asks is a request of SOCKS5.
func asks(t *testing.T, command socks5.Command, of string) string {
	t.Helper()
	at := netip.MustParseAddrPort(of)
	request, err := socks5.AppendRequest(nil, socks5.Request{Command: command, Address: socks5.Address{IP: at.Addr(), Port: at.Port()}})
	if err != nil {
		t.Fatal(err)
	}
	return string(request)
}

// replies reads a reply that grants, and returns where.
func replies(t *testing.T, c io.Reader) netip.AddrPort {
	t.Helper()
	reply, bound, err := socks5.ReadReply(bufio.NewReaderSize(c, 16))
	if err != nil || reply != socks5.Succeeded {
		t.Fatalf("the reply is %v, %v", reply, err)
	}
	return netip.AddrPortFrom(bound.IP, bound.Port)
}

const bothCommands = `package sallyport.route

default allow := false

allow if input.request.command in {"associate", "datagram", "bind"}
`

func TestAssociateAndBindOverTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	target := servePackets(t, "127.0.0.1:0")
	s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key),
		"--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), bothCommands), "--policy", dialPolicy(t))
	enter := func() *tls.Conn {
		c := overTLS(t, s.addr, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost"})
		io.WriteString(c, greeting)
		hears(t, c, chosen)
		return c
	}
	c := enter()
	io.WriteString(c, asks(t, socks5.Associate, "0.0.0.0:0"))
	relay := replies(t, c)
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	a := &association{socket.(*net.UDPConn), t, nil, relay}
	a.send(target.at, "hello").want("hello", target.at)
	c.Close() // which ends it
	if r := s.wait(t, 0, "session"); r["outcome"] != "ok" || r["command"] != "associate" {
		t.Errorf("it ends %v", r["raw"])
	}

	c = enter()
	io.WriteString(c, asks(t, socks5.Bind, "0.0.0.0:0"))
	at := replies(t, c)
	peer := connectFrom(t, "127.0.0.1", at)
	if got := replies(t, c); got.String() != peer.LocalAddr().String() {
		t.Errorf("the peer is %s, told as %s", peer.LocalAddr(), got)
	}
	io.WriteString(peer, "220 ready")
	hears(t, c, "220 ready")
	io.WriteString(c, "well")
	hears(t, peer, "well")
}

// Who has no IP address cannot be sent datagrams, and is told that there are none.
func TestAssociateAndBindByUnixSocket(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	door := filepath.Join(dir, "door")
	s := listening(t, fmt.Sprintf(`[{address: "unix:%s"}]`, door), "--policy", ownUser(t),
		"--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), bothCommands), "--policy", dialPolicy(t))
	enter := func() net.Conn {
		c, err := net.Dial("unix", door)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, greeting)
		hears(t, c, chosen)
		return c
	}
	for _, request := range []string{asks(t, socks5.Associate, "0.0.0.0:0"), asks(t, socks5.Bind, "0.0.0.0:0")} {
		c := enter()
		io.WriteString(c, request)
		hears(t, c, replied(7))
		if r := s.wait(t, 0, "session"); r["outcome"] != "unsupported" {
			t.Errorf("it ends %v", r["raw"])
		}
		s.forget("session")
	}
	// A peer that is named leads to an address to wait at.
	c := enter()
	io.WriteString(c, asks(t, socks5.Bind, "127.0.0.1:9"))
	peer := connectFrom(t, "127.0.0.1", replies(t, c))
	replies(t, c)
	io.WriteString(peer, "220 ready")
	hears(t, c, "220 ready")
}

// The datagrams of a client that a balancer speaks for come from the client.
func TestAnnouncedAssociate(t *testing.T) {
	t.Parallel()
	target := servePackets(t, "127.0.0.1:0")
	s, _ := balanced(t, "--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), bothCommands), "--policy", dialPolicy(t))
	d := dialFrom(t, "127.0.0.1", s.addr).say("PROXY TCP4 127.0.0.7 198.51.100.1 4242 1080\r\n" + greeting).hear(chosen)
	d.say(asks(t, socks5.Associate, "0.0.0.0:0"))
	relay := replies(t, d)
	for _, from := range []string{"127.0.0.1:0", "127.0.0.7:0"} { // the balancer, then the client
		socket, err := net.ListenPacket("udp", from)
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		a := &association{socket.(*net.UDPConn), t, nil, relay}
		a.send(target.at, from)
		if strings.HasPrefix(from, "127.0.0.7") {
			a.want(from, target.at)
		}
	}
	if first := <-target.came; first.data != "127.0.0.7:0" {
		t.Errorf("the target hears first of %s", first.data)
	}
	// Nothing of another family than the balancer's own could arrive.
	dialFrom(t, "127.0.0.1", s.addr).say("PROXY TCP6 2001:db8::7 2001:db8::1 4242 1080\r\n" + greeting).hear(chosen).
		say(asks(t, socks5.Associate, "0.0.0.0:0")).hear(replied(7))
}

// A session by certificate outlives a new policy, which knows the certificate
// still, and the user directory, which does not know its holder. It ends with the
// certificate.
func TestLiveSessionsByCertificate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	target := serveEcho(t, "127.0.0.1:0")
	dir := t.TempDir()
	rule := func(revision string) string {
		return fmt.Sprintf(`package sallyport.route

default allow := false

allow if {
	input.source.certificate.subject.common_name == input.identity.name
	input.session.tls.version == "1.3"
	input.source.process.pid > 0
}

deny contains "not this one" if %q == input.identity.name
`, revision)
	}
	write(t, filepath.Join(dir, "route.rego"), rule("nobody"))
	s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q, client_ca: %q}}]`, cert, key, ca.file),
		"--data", settings(t, loopback, target.port), "--data", usersFile(t, map[string]string{"alice": "right horse"}), "--policy", dir)
	enter := func(name string, until time.Time) *tls.Conn {
		cert, key := ca.issue(t, name, func(c *x509.Certificate) { c.NotAfter = until })
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		c := overTLS(t, s.addr, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost", Certificates: []tls.Certificate{pair}})
		io.WriteString(c, greeting+connectTo("127.0.0.1", target.port)+"hello")
		hears(t, c, granted)
		io.CopyN(io.Discard, c, 2)
		hears(t, c, "hello")
		return c
	}
	stays, goes := enter("stays", time.Now().Add(time.Hour)), enter("goes", time.Now().Add(time.Hour))
	write(t, filepath.Join(dir, "route.rego"), rule("goes"))
	if got, _ := io.ReadAll(goes); len(got) > 0 {
		t.Errorf("heard %q", got)
	}
	if r := s.wait(t, 0, "session"); r["outcome"] != "cut" || !strings.HasSuffix(fmt.Sprint(r["cause"]), "denies (route): not this one") {
		t.Errorf("it ends %v", r["raw"])
	}
	s.wait(t, 0, askedAgain)
	io.WriteString(stays, "still")
	hears(t, stays, "still")
	s.forget("session")
	soon := enter("soon", time.Now().Add(3*time.Second))
	if got, _ := io.ReadAll(soon); len(got) > 0 {
		t.Errorf("heard %q", got)
	}
	if r := s.wait(t, 0, "session"); r["outcome"] != "cut" || !strings.HasSuffix(fmt.Sprint(r["cause"]), "the client's certificate has expired") {
		t.Errorf("it ends %v", r["raw"])
	}
	io.WriteString(stays, "still")
	hears(t, stays, "still")
}
