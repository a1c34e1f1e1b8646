package proxy

import (
	"net/netip"
	"sync/atomic"
	"time"

	"sallyport/proxy/relay"
)

// destination is what a client sends datagrams to: as it has named it, and what
// has been decided about that.
type destination struct {
	name string     // as the client spells it; empty where it gave an address
	ip   netip.Addr // what it gave instead
	port uint16

	state    state
	cause    string    // of a refusal, for the metric
	until    time.Time // the answer holds
	epoch    *epoch    // and under which policy
	host     string    // where it leads, once it was redirected
	names    []string  // by which its address was found
	used     time.Time // by either side
	answered bool      // the peer has sent something since it was last decided about

	peer   *peer       // nil until decided
	to     *relay.Peer // where its datagrams are sent
	header []byte      // what the client is told of datagrams from there

	held []held
}

// peer is where destinations lead: several may to one.
type peer struct {
	at   netip.AddrPort // without an address: wherever an upstream finds names, by this port
	last *destination   // that was sent to: what comes back is told as from there
	uses int
}

// state is what is known of a destination.
type state uint8

const (
	unknown state = iota // nobody has asked
	deciding
	open
	refused
)

// held is a datagram that waits for a decision.
type held struct {
	data   []byte
	down   bool
	header []byte // of one that comes down; nil: the destination's
}

// room is what it takes in memory, more or less.
func (h held) room() int { return heldRoom + len(h.data) }

// nameKey finds a destination by name.
type nameKey struct {
	name string
	port uint16
}

// destinations are those of one association, at most so many; and so many of all
// associations together.
type destinations struct {
	most   int
	all    *atomic.Int64
	allMay int64

	byAddress map[netip.AddrPort]*destination
	byName    map[nameKey]*destination
	peers     map[netip.AddrPort]*peer
}

func newDestinations(most int, all *atomic.Int64, allMay int) destinations {
	return destinations{
		most: most, all: all, allMay: int64(allMay),
		byAddress: map[netip.AddrPort]*destination{},
		byName:    map[nameKey]*destination{},
		peers:     map[netip.AddrPort]*peer{},
	}
}

func (t *destinations) len() int { return len(t.byAddress) + len(t.byName) }

// find looks for one. The name is not kept.
func (t *destinations) find(name []byte, ip netip.Addr, port uint16) *destination {
	if len(name) > 0 {
		return t.byName[nameKey{string(name), port}]
	}
	return t.byAddress[netip.AddrPortFrom(ip, port)]
}

// add makes room for another one, and returns nil where there is none.
func (t *destinations) add(name []byte, ip netip.Addr, port uint16, now time.Time) *destination {
	full := t.len() >= t.most
	if !full && t.all.Add(1) > t.allMay {
		t.all.Add(-1)
		full = true
	}
	if full {
		oldest := t.oldest()
		if oldest == nil {
			return nil
		}
		t.remove(oldest)
		t.all.Add(1)
	}
	d := &destination{name: string(name), ip: ip, port: port, used: now}
	if d.name != "" {
		t.byName[nameKey{d.name, port}] = d
	} else {
		t.byAddress[netip.AddrPortFrom(ip, port)] = d
	}
	return d
}

// each calls f with every destination.
func (t *destinations) each(f func(*destination)) {
	for _, d := range t.byAddress {
		f(d)
	}
	for _, d := range t.byName {
		f(d)
	}
}

// oldest is the one that has not been used for the longest time, of those that
// are not being decided about.
func (t *destinations) oldest() *destination {
	var oldest *destination
	t.each(func(d *destination) {
		if d.state != deciding && (oldest == nil || d.used.Before(oldest.used)) {
			oldest = d
		}
	})
	return oldest
}

func (t *destinations) remove(d *destination) {
	if d.name != "" {
		delete(t.byName, nameKey{d.name, d.port})
	} else {
		delete(t.byAddress, netip.AddrPortFrom(d.ip, d.port))
	}
	t.leave(d)
	t.all.Add(-1)
}

// lead says where a destination leads.
func (t *destinations) lead(d *destination, at netip.AddrPort) {
	if d.peer != nil && d.peer.at == at {
		return
	}
	t.leave(d)
	p := t.peers[at]
	if p == nil {
		p = &peer{at: at}
		t.peers[at] = p
	}
	p.uses++
	d.peer, p.last = p, d
}

// answering is the destination that somebody answers for whom an upstream names; nil:
// nothing was sent there. What an upstream has found for a name is known to it
// alone, so that any address will do whose port a name was sent to.
func (t *destinations) answering(name []byte, ip netip.Addr, port uint16) *destination {
	at := netip.AddrPortFrom(ip, port)
	if p := t.peers[at]; p != nil && len(name) == 0 {
		return p.last
	}
	named := t.peers[netip.AddrPortFrom(netip.Addr{}, port)]
	switch {
	case named == nil, len(name) == 0 && t.byAddress[at] != nil: // which leads elsewhere, or nowhere
		return nil
	case len(name) == 0 || named.last.host == string(name):
		return named.last
	}
	if d := t.byName[nameKey{string(name), port}]; d != nil && d.peer == named {
		return d
	}
	return nil
}

func (t *destinations) leave(d *destination) {
	p := d.peer
	if d.peer = nil; p == nil {
		return
	}
	if p.uses--; p.uses == 0 {
		delete(t.peers, p.at)
	} else if p.last == d {
		t.each(func(other *destination) {
			if other.peer == p {
				p.last = other
			}
		})
	}
}

// forgetIdle forgets those that were last used before then.
func (t *destinations) forgetIdle(then time.Time) {
	t.each(func(d *destination) {
		if d.state != deciding && d.used.Before(then) {
			t.remove(d)
		}
	})
}

func (t *destinations) forgetAll() { t.each(t.remove) }
