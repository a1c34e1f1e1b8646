package proxy

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
	"sallyport/proxy/guard"
	"sallyport/proxy/relay"
	"sallyport/proxy/wire/socks5"
	"sallyport/proxy/wire/target"
)

const (
	// answered is how long a decision is kept for a destination, and failed how
	// long it is not tried again where there was none.
	answerKept = time.Minute
	failKept   = time.Second

	// How many destinations one association, and all of them, have decided about
	// at once, each of which may have the sockets of a look-up open; and what they
	// keep back meanwhile. A datagram that carries nothing takes heldRoom as well.
	maxDeciding    = 64
	maxDecidingAll = 1024
	maxHeldEach    = 64 << 10
	maxHeldAll     = 16 << 20
	heldRoom       = 64
)

// FromClient says where a datagram of the client's goes.
func (a *association) FromClient(from netip.AddrPort, datagram []byte, now time.Time) ([]byte, *relay.Peer) {
	if from.Addr() != a.client || (a.met.IsValid() && from != a.met) {
		return a.drop("stranger")
	}
	d, err := socks5.ParseDatagram(datagram)
	ip := d.IP.Unmap()
	switch {
	case err != nil, d.Port == 0, ip.IsValid() && ip.IsUnspecified():
		return a.drop("malformed")
	case d.Fragment != 0:
		return a.drop("fragment")
	}
	if !a.met.IsValid() {
		if err := a.meet(from); err != nil {
			return a.drop("failed")
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	to := a.table.find(d.Name, ip, d.Port)
	if to == nil {
		if to = a.table.add(d.Name, ip, d.Port, now); to == nil {
			return a.drop("full")
		}
	}
	to.used = now
	if !a.holds(to, now) && !a.decide(to) {
		return a.drop("busy")
	}
	switch to.state {
	case open:
		to.peer.last = to
		return d.Data, to.to
	case refused:
		return a.drop(to.cause)
	}
	if !a.keep(to, held{data: d.Data}) {
		return a.drop("busy")
	}
	return nil, nil
}

// FromPeer says whether the client gets what somebody has sent, and as from
// whom: only from those whom it has sent something to.
func (a *association) FromPeer(from netip.AddrPort, datagram []byte, now time.Time) (header, data []byte) {
	if a.far != nil {
		return a.fromUpstream(from, datagram, now)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.table.peers[from]
	if p == nil {
		return a.withhold("unexpected")
	}
	return a.deliver(p.last, nil, datagram, now)
}

// deliver says whether the client gets what has come from a destination, with a
// header or else the destination's own. Called with a.mu held.
func (a *association) deliver(by *destination, header, data []byte, now time.Time) ([]byte, []byte) {
	by.used, by.answered = now, true
	if !a.holds(by, now) && !a.decide(by) {
		return a.withhold("busy")
	}
	switch by.state {
	case open:
		if header == nil {
			header = by.header
		}
		return header, data
	case refused:
		return a.withhold(by.cause)
	}
	if !a.keep(by, held{data: data, down: true, header: header}) {
		return a.withhold("busy")
	}
	return nil, nil
}

// Lost counts what the network of this machine would not take.
func (a *association) Lost(n int) { a.count("unsent", n) }

// drop counts a datagram that goes nowhere.
func (a *association) drop(cause string) ([]byte, *relay.Peer) {
	a.count(cause, 1)
	return nil, nil
}

// withhold is drop for what does not get to the client.
func (a *association) withhold(cause string) (header, data []byte) {
	a.count(cause, 1)
	return nil, nil
}

func (a *association) count(cause string, n int) {
	a.counted.Dropped.Add(int64(n))
	a.life.proxy.Observe.Dropped(cause, n)
}

// holds tells whether a decision still counts, or is about to be made: it is
// kept for a while, and dies with its policy and with what is said of the user.
func (a *association) holds(d *destination, now time.Time) bool {
	return d.state == deciding || d.state != unknown && now.Before(d.until) &&
		d.epoch.samePolicy(a.life.proxy.live.epoch.Load()) && (d.epoch == nil || d.epoch.number >= a.since.Load())
}

// keep copies a datagram until its destination is decided about.
func (a *association) keep(d *destination, h held) bool {
	all := &a.life.proxy.held
	if a.held+h.room() > maxHeldEach || all.Load()+int64(h.room()) > maxHeldAll {
		return false
	}
	a.held += h.room()
	all.Add(int64(h.room()))
	h.data, h.header = slices.Clone(h.data), slices.Clone(h.header)
	d.held = append(d.held, h)
	return true
}

// decide begins to decide about a destination, unless that is done about too
// many already. Called with a.mu held.
func (a *association) decide(d *destination) bool {
	all := &a.life.proxy.deciding
	if a.deciding >= maxDeciding || a.ctx.Err() != nil {
		return false
	}
	if all.Add(1) > maxDecidingAll {
		all.Add(-1)
		return false
	}
	a.deciding++
	d.state = deciding
	a.decided.Go(func() { a.settle(d) })
	return true
}

// settle decides about a destination, and relays what was kept back if it may.
func (a *association) settle(d *destination) {
	epoch := a.life.proxy.live.epoch.Load() // before the question: an answer may be of a later one
	a.mu.Lock()
	before := d.peer
	var pinned pin
	if before != nil && d.answered { // a name is looked up again where nobody has
		pinned = pin{d.host, before.at, d.names}
	}
	d.answered = false
	a.mu.Unlock()
	found, err := a.resolve(d, pinned)

	a.mu.Lock()
	defer a.mu.Unlock()
	a.deciding--
	a.life.proxy.deciding.Add(-1)
	d.epoch, d.until = epoch, time.Now().Add(answerKept)
	var r *refusal
	var barred *guard.Refusal // which ends by itself, or is lifted
	switch denied := errors.As(err, &r) && r.Verdict == policy.Denied && !errors.As(err, &barred); {
	case err == nil:
		d.state, d.host, d.names = open, found.host, found.names
		a.table.lead(d, found.at)
		d.to, d.header = a.peerOf(&found), header(d, found.at)
	case denied:
		a.table.leave(d)
		d.state, d.cause = refused, "denied"
	default:
		d.state, d.cause = refused, endingOf(err).name
		d.until = time.Now().Add(failKept)
	}
	for _, h := range d.held {
		a.held -= h.room()
		a.life.proxy.held.Add(-int64(h.room()))
		switch {
		case err != nil:
			a.drop(d.cause)
		case !h.down:
			a.packets.Send(h.data, d.to)
		case d.peer != before:
			a.drop("unexpected")
		case h.header != nil:
			a.packets.Return(h.header, h.data)
		default:
			a.packets.Return(d.header, h.data)
		}
	}
	d.held = nil
}

// header is what goes before what a destination's peer sends: the address that
// the client has given, whatever that was redirected to, or else the peer's.
func header(d *destination, at netip.AddrPort) []byte {
	if d.name == "" {
		at = netip.AddrPortFrom(d.ip, d.port)
	}
	return socks5.AppendDatagramHeader(nil, at)
}

// pin is the address that is in use for a host.
type pin struct {
	host  string
	at    netip.AddrPort // without an address where an upstream looks the host up
	names []string       // by which it was found
}

// resolve asks route about a destination, looks its name up if it has one, and
// asks dial about the addresses; or only about the one that is pinned, where it
// still leads there.
func (a *association) resolve(d *destination, pinned pin) (pin, error) {
	asked, err := asTarget(d)
	if err != nil {
		return pin{}, err
	}
	to, passed, err := a.route(asked)
	if err != nil {
		return pin{}, err
	}
	port := uint16(to.Port)
	if passed {
		return pin{host: to.Host, at: netip.AddrPortFrom(netip.Addr{}, port)}, nil
	}
	var addrs []dial.Address
	switch {
	case to.Kind != "domain":
		addrs = []dial.Address{{IP: to.IP.Addr}}
	case pinned.host == to.Host && pinned.at.Port() == port:
		addrs = []dial.Address{{IP: pinned.at.Addr(), Names: pinned.names}}
	default:
		if addrs, err = a.lookup(to.Host); err != nil {
			return pin{}, err
		}
	}
	ip, err := a.choose(asked, to, addrs)
	if err != nil {
		return pin{}, err
	}
	return pin{to.Host, netip.AddrPortFrom(ip, port), namesOf(addrs, ip)}, nil
}

func asTarget(d *destination) (policy.Target, error) {
	if d.name == "" {
		return policy.TargetAddress(d.ip, d.port), nil
	}
	host, err := target.Parse(d.name)
	if err != nil {
		return policy.Target{}, err
	}
	return targetFacts(host, d.port), nil
}

// route asks about a destination, and returns where it leads, and whether that is a
// name which is passed on to an upstream.
func (a *association) route(asked policy.Target) (to policy.Target, passed bool, err error) {
	a.asking.Lock()
	defer a.asking.Unlock()
	if err := a.life.bannedSince(a.name); err != nil {
		return policy.Target{}, false, a.refuse(err)
	}
	a.facts.Identity = a.identity()
	a.facts.Target, a.facts.Address = asked, policy.Address{}
	a.facts.Asked = policy.Asked{Host: asked.Host, Port: asked.Port}
	answer := a.ask(policy.Route)
	if err := a.life.banned(answer, a.name); err != nil {
		return policy.Target{}, false, a.refuse(err)
	}
	if !answer.Allowed() {
		return policy.Target{}, false, a.refuse(&refusal{*answer})
	}
	to, err = redirected(asked, answer.Redirect)
	if named := to.Kind == "domain"; err == nil && a.far != nil {
		passed = named && remote(answer)
	} else if err == nil && named && answer.Resolve == policy.ResolveRemote {
		err = errNoUpstream
	}
	if err != nil {
		answer.Verdict, answer.Err = policy.Fault, err
		a.life.proxy.Observe.Decided(context.Background(), answer, 0)
		return policy.Target{}, false, &refusal{*answer}
	}
	return to, passed, nil
}

// choose asks dial about each address until one may be sent to, and can be.
func (a *association) choose(asked, to policy.Target, addrs []dial.Address) (netip.Addr, error) {
	a.asking.Lock()
	defer a.asking.Unlock()
	a.facts.Target = to
	a.facts.Asked = policy.Asked{Host: asked.Host, Port: asked.Port}
	var worst error
	for _, one := range addrs {
		ip := one.IP
		a.facts.Address = addressFacts(one)
		answer := a.ask(policy.Dial)
		if !answer.Allowed() {
			err := a.refuse(&refusal{*answer})
			var was *refusal
			if worst == nil || (answer.Verdict == policy.Fault && errors.As(worst, &was)) {
				worst = err
			}
			continue
		}
		if a.far != nil { // which has its own way there
			return ip, nil
		}
		if len(addrs) > 1 { // another may be within reach
			if _, err := dial.LocalFor(ip); err != nil {
				worst = err
				continue
			}
		}
		if err := a.open(ip); err != nil {
			worst = err
			continue
		}
		return ip, nil
	}
	return netip.Addr{}, worst
}

// ask asks one question about a datagram. It is held by a.asking.
func (a *association) ask(stage policy.Stage) *policy.Decision {
	l, start := a.life, time.Now()
	a.facts.Time = policy.MinuteOf(start)
	answer := l.proxy.Decide.Decide(l.observed, stage, &a.facts)
	took := time.Since(start)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proxy.Observe.Decided(l.observed, &answer, took)
	if stage == policy.Dial {
		l.proxy.Observe.AddressDecided(l.observed, a.facts.Address.IP.Addr, &answer)
	}
	l.note(&answer)
	return &answer
}

// identity is who the client is by now: what is said of a user may have changed.
func (a *association) identity() policy.Identity {
	who, u := a.who, &a.life.user
	if u.name == "" {
		return who
	}
	now := a.life.proxy.Verify.Lookup(u.name)
	if u.groups {
		who.Groups = now.Groups
	}
	if u.attributes {
		who.Attributes = now.Attributes
	}
	return who
}

// refuse counts that a destination was refused, as settle of a session does.
func (a *association) refuse(err error) error {
	var held *guard.Refusal
	if errors.As(err, &held) {
		a.life.proxy.Observe.Refused(held.Cause)
	}
	var r *refusal
	if errors.As(err, &r) && r.Verdict == policy.Denied {
		at := a.facts.Address.IP
		if !at.IsValid() {
			at = a.facts.Target.IP
		}
		a.life.denied(a.facts.Target.Host, at.Addr)
	}
	return err
}
