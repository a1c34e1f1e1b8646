package relay

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
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

func (s *straight) FromPeer(from netip.AddrPort, datagram []byte, _ time.Time) (header, data []byte) {
	if from != s.at {
		return nil, nil
	}
	return []byte{'h'}, datagram
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
	s = &straight{peer: NewPeer(local(echo), nil), at: local(echo)}
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

// A burst of datagrams of many sizes comes back whole, each for itself, however
// they were joined on the way.
func TestPacketsBurst(t *testing.T) {
	client, x, s, counted := join(t, Limits{})
	running := make(chan struct{})
	for round, sizes := range [][]int{
		{100, 100, 100, 100, 100, 100, 100, 100},
		{100, 100, 99, 100, 100, 101, 100, 7, 7, 7, 0, 0, 100, 0, 100},
		{1, 2, 3, 4, 5, 4, 3, 2, 1, 1, 1, 1},
		{20000, 20000, 20000, 20000, 20000},
		{65506, 65506},
		{0, 0, 0},
	} {
		want := map[string]int{}
		for i, size := range sizes {
			message := bytes.Repeat([]byte{byte('a' + i)}, size+1)
			want[string(message[1:])]++
			if _, err := client.Write(message); err != nil { // all of them before anything is relayed
				t.Fatal(err)
			}
		}
		if round == 0 {
			go func() { x.Run(context.Background()); close(running) }()
			t.Cleanup(func() { x.Stop(); <-running })
		}
		client.SetReadDeadline(time.Now().Add(10 * time.Second))
		got := make([]byte, 64<<10)
		for range sizes {
			n, err := client.Read(got)
			if err != nil {
				t.Fatalf("%v: %v, %d lost", sizes, err, s.lost.Load())
			}
			if got[0] != 'h' || want[string(got[1:n])] == 0 {
				t.Errorf("%v: %d bytes that nobody has sent", sizes, n)
			}
			want[string(got[1:n])]--
		}
	}
	x.Stop() // what has been sent is counted a moment later
	<-running
	if up, down := counted.Up.Load(), counted.Down.Load(); up != 45 || down != 45 {
		t.Errorf("%d up, %d down", up, down)
	}
}

// Datagrams are joined where they have one size and one peer; the last may be
// shorter.
func TestJoin(t *testing.T) {
	one, two := NewPeer(netip.MustParseAddrPort("192.0.2.1:1"), nil).addr, NewPeer(netip.MustParseAddrPort("192.0.2.2:1"), nil).addr
	for _, c := range []struct {
		sizes []int // negative: to the second peer
		want  string
	}{
		{[]int{5}, "[1]"},
		{[]int{5, 5, 5}, "[3]"},
		{[]int{5, 5, 3, 5, 5}, "[3 2]"},
		{[]int{5, 6, 6, 5}, "[1 3]"},
		{[]int{5, -5, 5, -5, -5}, "[1 1 1 2]"},
		{[]int{0, 0, 5, 0}, "[1 1 1 1]"},
		{[]int{30000, 30000, 30000}, "[2 1]"},
		{[]int{65507, 65507}, "[1 1]"},
		{slices.Repeat([]int{9}, batchSize), "[32]"},
	} {
		var o outbox
		for _, size := range c.sizes {
			if size < 0 {
				o.add(make([]byte, -size), 0, two)
			} else {
				o.add(make([]byte, size), 0, one)
			}
		}
		var got []int
		for i := range o.join(o.n) {
			got = append(got, o.first[i+1]-o.first[i])
			if n := len(o.joined[i].Buffers); n != got[i] || (len(o.joined[i].OOB) > 0) != (n > 1) {
				t.Errorf("%v: %d buffers, OOB % x", c.sizes, n, o.joined[i].OOB)
			}
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%v: joined as %v, want %s", c.sizes, got, c.want)
		}
		o.clear()
	}
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
