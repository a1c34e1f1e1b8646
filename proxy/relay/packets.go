package relay

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Headroom is how much memory is free before a datagram, for the header that it
// gets: a relay's with a name takes 262 bytes.
const Headroom = 288

// Switch says where the datagrams of one client go. It is asked by one
// goroutine for each socket. A datagram is the relay's memory: what is to
// outlive the call is to be copied.
type Switch interface {
	// FromClient is what the client's datagram carries, all of it from some byte on,
	// and to whom; nil: to nobody, at least not now.
	FromClient(from netip.AddrPort, datagram []byte, now time.Time) (data []byte, to *Peer)
	// FromPeer is what a peer's datagram carries, all of it from some byte on, and the
	// header, of at most Headroom bytes, that goes before that on its way to the
	// client; nil: it does not go.
	FromPeer(from netip.AddrPort, datagram []byte, now time.Time) (header, data []byte)
	// Lost is told of datagrams that the network would not take.
	Lost(n int)
}

// Peer is somebody whom datagrams are sent to.
type Peer struct {
	addr   *net.UDPAddr
	six    bool
	header []byte
}

// NewPeer returns the peer at an address. The header, of at most Headroom bytes,
// goes before all that is sent to it.
func NewPeer(at netip.AddrPort, header []byte) *Peer {
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	return &Peer{addr: net.UDPAddrFromAddrPort(at), six: at.Addr().Is6(), header: header}
}

// PacketCounters counts datagrams. They are live, like Counters.
type PacketCounters struct {
	Up      atomic.Int64 // client to peers
	Down    atomic.Int64 // peers to client
	Dropped atomic.Int64 // by whoever says where they go, or by the network on this machine
}

// Packets relays the datagrams of one client. The client's go through one
// socket, those of its peers through one for each family, whoever and however
// many they are: so a peer sees one address and port of the client's, and two
// peers see the same.
//
// What is counted, bounded and paced is what datagrams carry, without headers. A
// datagram is relayed whole or not at all: where a socket's buffer is full it is
// lost, and a sender that goes too fast loses what the kernel cannot hold.
type Packets struct {
	client   *socket
	out      [2]atomic.Pointer[socket] // IPv4 and IPv6; nil until Open
	route    Switch
	counters *Counters
	packets  *PacketCounters
	stopped  chan struct{}
	carrying sync.WaitGroup

	most     atomic.Int64 // Limits.Bytes
	spent    atomic.Int64 // of it; only where there is one
	budget   atomic.Pointer[Budget]
	up, down gait

	mu      sync.Mutex
	over    bool
	running bool
	cause   Cause
	err     error
	limits  Limits
	timer   *time.Timer
	moved   int64
	movedAt time.Time
}

// JoinPackets makes a relay of the client's socket. The socket is the relay's
// from then on, like those of Open.
func JoinPackets(client *net.UDPConn, route Switch, limits Limits, bytes *Counters, packets *PacketCounters) (*Packets, error) {
	s, err := newSocket(client)
	if err != nil {
		return nil, err
	}
	x := &Packets{client: s, route: route, counters: bytes, packets: packets, stopped: make(chan struct{})}
	x.Limit(limits)
	return x, nil
}

// Limit puts other limits in the place of those that the relay has. Bytes counts
// from its beginning.
func (x *Packets) Limit(l Limits) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return
	}
	if l.Budget != x.limits.Budget {
		x.budget.Store(&l.Budget)
	}
	x.limits = l
	if l.Bytes != x.most.Load() {
		x.spent.Store(x.counters.Up.Load() + x.counters.Down.Load())
		x.most.Store(l.Bytes)
	}
	x.up.set(l.Up)
	x.down.set(l.Down)
	if x.running {
		x.setTimer(time.Now())
	}
}

// Run relays until a limit is reached, Stop is called or ctx is cancelled, closes
// every socket, and says why it ended: as a Flow does.
func (x *Packets) Run(ctx context.Context) (Cause, error) {
	stop := context.AfterFunc(ctx, func() { x.halt(Cut, context.Cause(ctx)) })
	defer stop()
	x.mu.Lock()
	x.running = true
	x.movedAt = time.Now()
	if !x.over {
		x.setTimer(x.movedAt)
		x.carrying.Go(x.carryUp)
	}
	x.mu.Unlock()

	<-x.stopped
	x.Close()
	return x.cause, x.err
}

// Close closes every socket, and returns when nothing is relayed any more.
func (x *Packets) Close() {
	x.Stop()
	x.client.close()
	for i := range x.out {
		if s := x.out[i].Load(); s != nil {
			s.close()
		}
	}
	x.carrying.Wait()
}

// Stop ends the relay because the client has gone.
func (x *Packets) Stop() { x.halt(Finished, nil) }

// Abandon ends the relay because those have gone through whom all of the peers are
// reached; the error says who.
func (x *Packets) Abandon(err error) { x.halt(TargetReset, err) }

func (x *Packets) halt(cause Cause, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return
	}
	x.over, x.cause, x.err = true, cause, err
	if x.timer != nil {
		x.timer.Stop()
	}
	close(x.stopped)
}

// Open takes a socket for the peers of its family. It is closed where there is
// one already.
func (x *Packets) Open(c *net.UDPConn) error {
	s, err := newSocket(c)
	if err != nil {
		c.Close()
		return err
	}
	family := &x.out[0]
	if s.six {
		family = &x.out[1]
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over || family.Load() != nil {
		s.close()
		return nil
	}
	family.Store(s)
	x.carrying.Go(func() { x.carryDown(s) })
	return nil
}

// Opened tells whether there is a socket for the family of an address.
func (x *Packets) Opened(ip netip.Addr) bool { return x.socketOf(ip.Unmap().Is6()) != nil }

func (x *Packets) socketOf(six bool) *socket {
	if six {
		return x.out[1].Load()
	}
	return x.out[0].Load()
}

// Meet tells the relay the client's address, once and for all. Until then
// nothing is relayed to it, and whatever else arrives there goes to the Switch
// as well, even what comes from others later.
func (x *Packets) Meet(client netip.AddrPort) error { return x.client.connect(client) }

// Send relays what the Switch has kept back.
func (x *Packets) Send(data []byte, to *Peer) {
	b := batches.Get().(*batch)
	defer batches.Put(b)
	whole := data
	if len(to.header) > 0 {
		whole = append(append(b.memory[:0], to.header...), data...)
	}
	b.out[0].add(whole, len(data), to.addr)
	x.flush(x.socketOf(to.six), &b.out[0], &x.counters.Up, &x.packets.Up)
	x.up.spend(len(data))
}

// Return relays to the client what the Switch has kept back.
func (x *Packets) Return(header, data []byte) {
	b := batches.Get().(*batch)
	defer batches.Put(b)
	whole := append(append(b.memory[:0], header...), data...)
	b.out[0].add(whole, len(data), nil)
	x.flush(x.client, &b.out[0], &x.counters.Down, &x.packets.Down)
	x.down.spend(len(data))
}

// carryUp carries what the client sends.
func (x *Packets) carryUp() {
	for {
		room, ok := x.up.wait(x.stopped)
		if !ok {
			return
		}
		b, n, ok := x.client.receive(room)
		if !ok {
			return
		}
		now, size := time.Now(), 0
		for i := range n {
			datagram, from := b.received(i)
			data, to := x.route.FromClient(from, datagram, now)
			if to == nil {
				continue
			}
			family := 0
			if to.six {
				family = 1
			}
			b.out[family].add(b.headed(i, len(data), to.header), len(data), to.addr)
			size += len(data)
		}
		for i := range b.out {
			x.flush(x.out[i].Load(), &b.out[i], &x.counters.Up, &x.packets.Up)
		}
		batches.Put(b)
		x.up.spend(size)
	}
}

// carryDown carries what peers send to one of the sockets.
func (x *Packets) carryDown(s *socket) {
	for {
		room, ok := x.down.wait(x.stopped)
		if !ok {
			return
		}
		b, n, ok := s.receive(room)
		if !ok {
			return
		}
		now, size := time.Now(), 0
		for i := range n {
			datagram, from := b.received(i)
			if header, data := x.route.FromPeer(from, datagram, now); header != nil {
				b.out[0].add(b.headed(i, len(data), header), len(data), nil)
				size += len(data)
			}
		}
		x.flush(x.client, &b.out[0], &x.counters.Down, &x.packets.Down)
		batches.Put(b)
		x.down.spend(size)
	}
}

// flush sends what was gathered, as far as the limits go.
func (x *Packets) flush(to *socket, o *outbox, bytes, packets *atomic.Int64) {
	defer o.clear()
	if o.n == 0 {
		return
	}
	allowed, spent := x.grant(o)
	sent, size, lost := 0, int64(0), o.n
	if to != nil {
		sent, size = to.send(o, allowed)
		lost = allowed - sent
	}
	bytes.Add(size)
	packets.Add(int64(sent))
	if lost > 0 {
		x.route.Lost(lost)
	}
	if spent != 0 {
		x.halt(spent, nil)
	}
}

// grant is how many of the datagrams may go, and what has been spent where that is
// not all of them.
func (x *Packets) grant(o *outbox) (int, Cause) {
	most, budget := x.most.Load(), x.budget.Load()
	bounded := budget != nil && *budget != nil
	if most <= 0 && !bounded {
		return o.n, 0
	}
	for i := range o.n {
		size := o.sizes[i]
		switch {
		case most > 0 && x.spent.Add(int64(size)) > most:
			return i, BytesSpent
		case bounded && (*budget).Take(size) < size:
			return i, QuotaSpent
		}
	}
	return o.n, 0
}
