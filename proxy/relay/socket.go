package relay

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// batchSize is how many datagrams one system call takes.
	batchSize = 32
	// slot is the memory of one: as large as UDP has it, after a header's room.
	// What is not written to is not in memory.
	slot = 68 << 10
)

// batch is what it takes to receive some datagrams and to send them on. Nobody
// holds one who waits.
type batch struct {
	in     [batchSize]ipv4.Message
	out    [2]outbox
	memory []byte
}

var batches = sync.Pool{New: func() any {
	b := &batch{memory: make([]byte, batchSize*slot)}
	for i := range b.in {
		b.in[i].Buffers = [][]byte{b.memory[i*slot+Headroom : (i+1)*slot]}
	}
	return b
}}

// received is one of the datagrams that have come, and from whom.
func (b *batch) received(i int) ([]byte, netip.AddrPort) {
	m := &b.in[i]
	var from netip.AddrPort
	if a, ok := m.Addr.(*net.UDPAddr); ok {
		from = a.AddrPort()
		from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
	}
	return m.Buffers[0][:m.N], from
}

// headed is the last n bytes of one of the datagrams that have come, with a header
// before them.
func (b *batch) headed(i, n int, header []byte) []byte {
	end := i*slot + Headroom + b.in[i].N
	start := end - n - len(header)
	copy(b.memory[start:], header)
	return b.memory[start:end]
}

// socket is a UDP socket that is read and written in batches.
type socket struct {
	conn    *net.UDPConn
	packets *ipv4.PacketConn // its batches serve either family
	raw     syscall.RawConn
	six     bool
	more    bool        // the last batch was full
	single  atomic.Bool // datagrams are sent each for itself
	waited  bool        // by readable
	isIn    func(fd uintptr) bool
}

func newSocket(c *net.UDPConn) (*socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{conn: c, packets: ipv4.NewPacketConn(c), raw: raw}
	if at, ok := c.LocalAddr().(*net.UDPAddr); ok {
		s.six = at.AddrPort().Addr().Unmap().Is6()
	}
	s.isIn = s.readable
	return s, nil
}

func (s *socket) close() { s.conn.Close() }

// receive waits until there is something, holding nothing, and takes up to most
// datagrams. It returns false when the socket has been closed.
func (s *socket) receive(most int) (*batch, int, bool) {
	for {
		if !s.more {
			s.waited = false
			if err := s.raw.Read(s.isIn); err != nil {
				return nil, 0, false
			}
		}
		b := batches.Get().(*batch)
		n, err := s.packets.ReadBatch(b.in[:most], unix.MSG_DONTWAIT)
		s.more = n == most
		if err == nil && n > 0 {
			return b, n, true
		}
		batches.Put(b)
		// All else is about an earlier datagram, or passes.
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, 0, false
		}
	}
}

// readable is asked before and after the wait for a datagram: that is over when
// the socket says so, and costs no further look.
func (s *socket) readable(fd uintptr) bool {
	if s.waited {
		return true
	}
	s.waited = true
	polled := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(polled[:], 0)
	return n > 0 || err != nil
}

// connect makes the socket one that has a single peer.
func (s *socket) connect(to netip.AddrPort) error {
	var peer unix.Sockaddr
	if ip := to.Addr(); ip.Is4() {
		peer = &unix.SockaddrInet4{Addr: ip.As4(), Port: int(to.Port())}
	} else {
		zone := uint32(0)
		if at, ok := s.conn.LocalAddr().(*net.UDPAddr); ok && at.Zone != "" {
			if i, err := net.InterfaceByName(at.Zone); err == nil {
				zone = uint32(i.Index)
			}
		}
		peer = &unix.SockaddrInet6{Addr: ip.As16(), Port: int(to.Port()), ZoneId: zone}
	}
	var failed error
	err := s.raw.Control(func(fd uintptr) { failed = unix.Connect(int(fd), peer) })
	return errors.Join(err, failed)
}
