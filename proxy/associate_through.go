package proxy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
	"sallyport/proxy/relay"
	"sallyport/proxy/wire/socks5"
)

// far is the association that an upstream has been asked for, so that the datagrams
// of one here leave from there. Neither outlives the other. Nil stands for none.
type far struct {
	control net.Conn
	relay   netip.AddrPort // where the upstream takes datagrams, and sends them from
	header  [relay.Headroom]byte
}

func (f *far) close() {
	if f != nil {
		f.control.Close()
	}
}

// associateThrough asks an upstream of the plan for an association.
func (l *life) associateThrough(ctx context.Context, plan *policy.Decision) (*far, error) {
	if err := l.proxy.Route.Check(plan.Via); err != nil {
		return nil, l.fault(fmt.Errorf("route: via: %w", err))
	}
	if len(plan.Via) > 1 {
		return nil, errOneHop
	}
	ctx, cancel := context.WithTimeout(ctx, l.proxy.Limits.Dial)
	defer cancel()
	led, err := l.proxy.Route.Reach(ctx, plan.Via, dial.Trip{
		To: []dial.Endpoint{{Packets: true}}, From: plan.SourceAddress, Watch: &hopWatcher{life: l, begun: true},
		Key: cmp.Or(l.identity, l.conn.Source.Addr().String()),
	})
	if err != nil {
		return nil, err
	}
	l.way = way{hops: led.Hops}
	l.session.SetVia(led.Hops)
	l.session.SetAddress(led.At)
	return &far{control: led.Conn, relay: led.Bound}, nil
}

// openThrough opens the socket towards the upstream, at the address by which that
// knows who has asked.
func (a *association) openThrough() error {
	local := a.far.control.LocalAddr().(*net.TCPAddr)
	c, err := dial.ListenPacket(local.AddrPort().Addr().Unmap().WithZone(""), local.Zone, dial.Ports{})
	if err != nil {
		return err
	}
	return a.packets.Open(c)
}

// watchUpstream ends the association with the upstream's. What the upstream sends
// there says nothing.
func (a *association) watchUpstream() {
	io.Copy(io.Discard, a.far.control)
	a.packets.Abandon(fmt.Errorf("upstream %s has ended its association", a.life.way.hops[0]))
}

// peerOf is where what is sent to a destination goes, once that is decided about.
func (a *association) peerOf(found *pin) *relay.Peer {
	if a.far == nil {
		return relay.NewPeer(found.at, nil)
	}
	to := socks5.Datagram{IP: found.at.Addr(), Port: found.at.Port()}
	if !to.IP.IsValid() {
		to.Name = []byte(found.host)
	}
	header, _ := socks5.AppendDatagram(nil, to) // a host that was parsed fits
	return relay.NewPeer(a.far.relay, header)
}

// fromUpstream is FromPeer where an upstream is between, which says who has sent
// what it relays. One goroutine calls it.
func (a *association) fromUpstream(from netip.AddrPort, datagram []byte, now time.Time) (header, data []byte) {
	if from.Port() != a.far.relay.Port() || from.Addr() != a.far.relay.Addr().WithZone("") {
		return a.withhold("unexpected")
	}
	d, err := socks5.ParseDatagram(datagram)
	switch {
	case err != nil:
		return a.withhold("malformed")
	case d.Fragment != 0:
		return a.withhold("fragment")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	by := a.table.answering(d.Name, d.IP.Unmap(), d.Port)
	if by == nil {
		return a.withhold("unexpected")
	}
	return a.deliver(by, a.tell(by, &d), d.Data, now)
}

// tell is the header with which the client is told of a datagram; nil: that of the
// destination. Of a name that was passed on it is the upstream's to say whose address
// this is, unless it says just the name.
func (a *association) tell(by *destination, d *socks5.Datagram) []byte {
	if by.name == "" || by.peer.at.Addr().IsValid() {
		return nil
	}
	if d.IP.IsValid() {
		return socks5.AppendDatagramHeader(a.far.header[:0], netip.AddrPortFrom(d.IP, d.Port))
	}
	header, _ := socks5.AppendDatagram(a.far.header[:0], socks5.Datagram{Name: []byte(by.name), Port: by.port})
	return header
}
