package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
	"sallyport/proxy/guard"
	"sallyport/proxy/relay"
)

// Door is where clients or peers are let in beside a listener: for datagrams, or
// for the connection that a BIND waits for. The zero value is the address that
// the client has connected to, and any port.
type Door struct {
	Advertise []netip.Addr // told instead of the local address of the same family, where there is NAT between
	Ports     dial.Ports
}

// told is what is said of a socket at a local address.
func (d *Door) told(at netip.AddrPort) netip.AddrPort {
	for _, ip := range d.Advertise {
		if ip.Is4() == at.Addr().Is4() {
			return netip.AddrPortFrom(ip, at.Port())
		}
	}
	return at
}

// association is the UDP relay of one client (RFC 1928 section 7). It lives as
// long as the connection that has asked for it.
//
// One goroutine for each socket says where datagrams go, from the destinations
// that are known (destinations.go). A new destination is decided by a goroutine
// of its own, since names have to be looked up, while what is sent there is kept
// back for a moment. An upstream that they go through (associate_through.go) takes
// them at one place, whomever they are for.
type association struct {
	life    *life
	packets *relay.Packets
	counted relay.PacketCounters
	source  netip.Addr // the local address to send from; invalid: any
	far     *far       // nil: datagrams go directly
	client  netip.Addr
	met     netip.AddrPort // the client's own address and port, once they are known

	ctx     context.Context // of what is decided; ends with the association
	end     context.CancelFunc
	asking  sync.Mutex // held by whoever asks the policy, or tells the observer
	facts   policy.Facts
	who     policy.Identity // when it was granted
	name    guard.Subject   // whom a ban of the identity is of
	decided sync.WaitGroup

	since atomic.Int64 // the epoch from which on the user is as he is now

	mu       sync.Mutex
	table    destinations
	deciding int // destinations
	held     int // bytes
}

// associate opens the relay of a client that may have one, and tells it where.
func (l *life) associate(ctx context.Context, plan *policy.Decision) error {
	local, ok := l.conn.Plain().LocalAddr().(*net.TCPAddr)
	if !ok || !l.conn.Source.IsValid() {
		return errCommand // nobody could be told by its address
	}
	door := l.proxy.Associate[l.session.Listener]
	here := local.AddrPort().Addr().Unmap().WithZone("")
	if here.Is4() != l.conn.Source.Addr().Is4() {
		return errCommand // a balancer has come by another family than its client, who could not
	}
	var up *far
	if len(plan.Via) > 0 {
		var err error
		if up, err = l.associateThrough(ctx, plan); err != nil {
			return err
		}
	}
	socket, err := dial.ListenPacket(here, local.Zone, door.Ports)
	if err != nil {
		up.close()
		return fmt.Errorf("associate: %w", err)
	}
	a := &association{
		far: up, life: l, facts: l.facts, who: l.facts.Identity, name: l.subject(), source: plan.SourceAddress.Unmap(), client: l.conn.Source.Addr(),
		table: newDestinations(l.proxy.Limits.Flows, &l.proxy.flows, l.proxy.Limits.FlowsTotal),
	}
	a.facts.Request.Command = "datagram"
	if l.account != nil {
		a.facts.Account = l.account // as it is when it is asked about
	}
	a.ctx, a.end = context.WithCancel(ctx)
	a.packets, err = relay.JoinPackets(socket, a, l.limits, &l.session.Bytes, &a.counted)
	if err != nil {
		socket.Close()
		up.close()
		return fmt.Errorf("associate: %w", err)
	}
	if err := a.prepare(l.stated); err != nil {
		a.close()
		return err
	}
	bound := netip.AddrPortFrom(here, socket.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	l.session.CountPackets(&a.counted)
	l.meterOn()
	if err := l.grant(door.told(bound)); err != nil {
		a.close()
		return err
	}
	l.association = a
	return nil
}

// prepare gets it ready for datagrams of either side.
func (a *association) prepare(stated netip.AddrPort) error {
	if a.far != nil {
		if err := a.openThrough(); err != nil {
			return fmt.Errorf("associate: %w", err)
		}
	}
	return a.expect(stated)
}

// expect takes in what a client has said of where it will send from. A port that
// it states, with its own address or none, is the one. One that it states with
// another address is behind NAT, and whatever it says is not seen here.
func (a *association) expect(stated netip.AddrPort) error {
	ip := stated.Addr().Unmap()
	if stated.Port() == 0 || (ip != a.client && (!ip.IsValid() || !ip.IsUnspecified())) {
		return nil
	}
	return a.meet(netip.AddrPortFrom(a.client, stated.Port()))
}

func (a *association) meet(client netip.AddrPort) error {
	a.met = client
	if err := a.packets.Meet(client); err != nil {
		return fmt.Errorf("associate: %w", err)
	}
	return nil
}

// run relays until the association ends. It returns when nothing of it is left.
func (a *association) run(ctx context.Context) (relay.Cause, error) {
	defer a.close()
	var watching sync.WaitGroup
	watching.Go(a.watch)
	if a.far != nil {
		watching.Go(a.watchUpstream)
	}
	over := make(chan struct{})
	watching.Go(func() { a.sweep(over) })
	cause, err := a.packets.Run(ctx)
	close(over)
	a.life.conn.SetReadDeadline(time.Unix(1, 0))
	a.far.close()
	watching.Wait()
	return cause, err
}

// watch ends the association with the connection that has asked for it. What the
// client sends there says nothing.
func (a *association) watch() {
	io.Copy(io.Discard, a.life.conn)
	a.packets.Stop()
}

// sweep forgets destinations that nothing has been heard of for long.
func (a *association) sweep(over <-chan struct{}) {
	idle := a.life.proxy.Limits.FlowIdle
	ticker := time.NewTicker(max(idle/4, time.Second))
	defer ticker.Stop()
	for {
		select {
		case <-over:
			return
		case now := <-ticker.C:
			a.mu.Lock()
			a.table.forgetIdle(now.Add(-idle))
			a.mu.Unlock()
		}
	}
}

func (a *association) close() {
	a.end()
	a.packets.Close()
	a.far.close()
	a.decided.Wait()
	a.table.forgetAll()
}

// open sees to it that there is a socket for an address's family.
func (a *association) open(ip netip.Addr) error {
	if a.packets.Opened(ip) {
		return nil
	}
	from := a.source
	if !from.IsValid() {
		from = netip.IPv4Unspecified()
		if ip.Is6() {
			from = netip.IPv6Unspecified()
		}
	}
	if from.Is4() != ip.Is4() {
		return fmt.Errorf("%w: %s is not of the family of %s", dial.ErrSource, from, ip)
	}
	c, err := dial.ListenPacket(from, "", dial.Ports{})
	if err != nil {
		return err
	}
	return a.packets.Open(c)
}
