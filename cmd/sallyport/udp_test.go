package main

import (
	"bufio"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"sallyport/proxy/wire/socks5"
)

// association is a client's end of a UDP relay.
type association struct {
	*net.UDPConn
	t       *testing.T
	control *talk
	relay   netip.AddrPort
}

// associate asks for one from a socket whose address it does not tell.
func associate(t *testing.T, door string) *association {
	t.Helper()
	return associateFrom(t, door, "127.0.0.1:0", netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
}

func associateFrom(t *testing.T, door, local string, stated netip.AddrPort) *association {
	t.Helper()
	return associateBy(t, dialDoor(t, door).say(greeting).hear(chosen), local, stated)
}

// associateAs is associate of a user.
func associateAs(t *testing.T, door, user, password string) *association {
	t.Helper()
	d := dialDoor(t, door).say("\x05\x01\x02" + login(user, password)).hear("\x05\x02\x01\x00")
	return associateBy(t, d, "127.0.0.1:0", netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
}

func associateBy(t *testing.T, d *talk, local string, stated netip.AddrPort) *association {
	t.Helper()
	request, err := socks5.AppendRequest(nil, socks5.Request{
		Command: socks5.Associate, Address: socks5.Address{IP: stated.Addr(), Port: stated.Port()},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.say(string(request))
	reply, bound, err := socks5.ReadReply(bufio.NewReader(d))
	if err != nil || reply != socks5.Succeeded || bound.Port == 0 {
		t.Fatalf("associate: %v, %v, %v", reply, bound, err)
	}
	c, err := net.ListenPacket("udp", local)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &association{c.(*net.UDPConn), t, d, netip.AddrPortFrom(bound.IP, bound.Port)}
}

// send has data sent to a destination: an address, or else a name.
func (a *association) send(to string, data string) *association {
	a.t.Helper()
	return a.sendRaw(datagram(a.t, to, data))
}

func (a *association) sendRaw(raw []byte) *association {
	a.t.Helper()
	if _, err := a.WriteToUDPAddrPort(raw, a.relay); err != nil {
		a.t.Fatal(err)
	}
	return a
}

func datagram(t *testing.T, to, data string) []byte {
	t.Helper()
	host, port, err := net.SplitHostPort(to)
	if err != nil {
		t.Fatal(err)
	}
	number, err := net.LookupPort("udp", port)
	if err != nil {
		t.Fatal(err)
	}
	d := socks5.Datagram{Port: uint16(number), Data: []byte(data)}
	if d.IP, err = netip.ParseAddr(host); err != nil {
		d.Name = []byte(host)
	}
	raw, err := socks5.AppendDatagram(nil, d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// hear is the next datagram, and from whom.
func (a *association) hear() (data string, from netip.AddrPort) {
	a.t.Helper()
	got := a.hearRaw()
	d, err := socks5.ParseDatagram(got)
	if err != nil || d.Fragment != 0 {
		a.t.Fatalf("heard % x: %v", got, err)
	}
	return string(d.Data), netip.AddrPortFrom(d.IP, d.Port)
}

// hearRaw is hear with the header.
func (a *association) hearRaw() []byte {
	a.t.Helper()
	a.SetReadDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, 64<<10)
	n, by, err := a.ReadFromUDPAddrPort(got)
	if err != nil {
		a.t.Fatal(err)
	}
	if by.Addr().Unmap() != a.relay.Addr() || by.Port() != a.relay.Port() {
		a.t.Fatalf("heard from %s, want the relay %s", by, a.relay)
	}
	return got[:n]
}

// want wants this as the next datagram.
func (a *association) want(data, from string) *association {
	a.t.Helper()
	if got, by := a.hear(); got != data || by.String() != from {
		a.t.Fatalf("heard %q from %s, want %q from %s", got, by, data, from)
	}
	return a
}

// packetEcho is a server that sends datagrams back, and keeps who has sent what.
type packetEcho struct {
	*net.UDPConn
	at   string
	came chan packet
}

type packet struct {
	data string
	from netip.AddrPort
}

func servePackets(t *testing.T, address string) *packetEcho {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	e := &packetEcho{c.(*net.UDPConn), c.LocalAddr().String(), make(chan packet, 1024)}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			n, from, err := e.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			select {
			case e.came <- packet{string(b[:n]), from}:
			default:
			}
			e.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	return e
}

// udpPolicy allows associations, and datagrams to loopback but for denied ports.
func udpPolicy(t *testing.T, rules string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "udp.rego"), `package sallyport.route
default allow := false
allow if input.request.command == "associate"
allow if {
	input.request.command == "datagram"
	not input.target.port in data.denied
}
`+rules)
}

func dialPolicy(t *testing.T) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "dial.rego"), `package sallyport.dial
default allow := false
allow if input.address.scope == "loopback"
`)
}

func TestDatagrams(t *testing.T) {
	t.Parallel()
	good, bad := servePackets(t, "127.0.0.1:0"), servePackets(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(bad.at)
	denied := write(t, filepath.Join(t.TempDir(), "denied.json"), `{"denied": [`+port+`]}`)
	s := start(t, "--policy", udpPolicy(t, ""), "--policy", dialPolicy(t), "--data", denied)
	a := associate(t, s.addr)
	a.send(good.at, "one").want("one", good.at)
	a.send(bad.at, "no").send(good.at, "two").want("two", good.at)
	a.send(bad.at, "no").send(good.at, "three").want("three", good.at)
	select {
	case p := <-bad.came:
		t.Errorf("%q came to the denied target", p.data)
	default:
	}
}
