package relay

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// straight sends everything to one peer and back, with a header of one byte.
type straight struct {
	packets *Packets
	peer    *Peer
	at      netip.AddrPort
	met     bool
	lost    atomic.Int64
}

func (s *straight) FromClient(from netip.AddrPort, datagram []byte, _ time.Time) ([]byte, *Peer) {
	if !s.met {
		s.met = true
		if err := s.packets.Meet(from); err != nil {
			panic(err)
		}
	}
	return datagram[1:], s.peer
}

func (s *straight) FromPeer(from netip.AddrPort, _ []byte, _ time.Time) []byte {
	if from != s.at {
		return nil
	}
	return []byte{'h'}
}

func (s *straight) Lost(n int) { s.lost.Add(int64(n)) }

func udp(t testing.TB, address string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

func local(c *net.UDPConn) netip.AddrPort {
	at := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// join starts a relay to an echo server, and returns a client of it.
func join(t testing.TB, limits Limits) (client *net.UDPConn, x *Packets, s *straight, counted *PacketCounters) {
	echo, socket, out := udp(t, "127.0.0.1:0"), udp(t, "127.0.0.1:0"), udp(t, "127.0.0.1:0")
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := echo.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			echo.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	s = &straight{peer: NewPeer(local(echo)), at: local(echo)}
	counted = new(PacketCounters)
	x, err := JoinPackets(socket, s, limits, new(Counters), counted)
	if err != nil {
		t.Fatal(err)
	}
	s.packets = x
	if err := x.Open(out); err != nil {
		t.Fatal(err)
	}
	client, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(local(socket)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, x, s, counted
}

func BenchmarkPackets(b *testing.B) {
	client, x, _, _ := join(b, Limits{})
	done := make(chan struct{})
	go func() { x.Run(context.Background()); close(done) }()
	message := make([]byte, 65)
	for range 16 {
		client.Write(message)
	}
	b.ReportAllocs()
	for range b.N {
		client.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := client.Read(message); err != nil {
			b.Fatal(err)
		}
		client.Write(message)
	}
	x.Stop()
	<-done
}
