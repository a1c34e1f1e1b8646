// Package guard counts: how many connections a source has open, how often it
// comes, and how often it has failed to authenticate or been denied; and the
// same of user names and identities. The policy names the numbers that matter,
// the guard only knows what they are. What a decision has said of a source it
// enforces without another: ban.go has the bans, limit.go the limits.
//
// All of it is bounded, since a stranger chooses how many sources and names
// there are. A source is an IPv4 address, an IPv6 /64, or a user of this machine
// who comes by a unix socket. Names, and sources too,
// are kept as hashes with a seed of this process, never as the strings that a
// stranger chose. When a table is full, a newcomer takes the place of the entry
// that was used longest ago; one with something open is never given up.
//
// The counts of past minutes, hours and days are close rather than exact: see
// [Window].
package guard

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Window is how often something happened in the last minute, hour and day. It
// is counted in whole periods: the present one exactly, and of the one before
// it the share that still lies in the window, as if what happened then had been
// spread evenly, rounded up.
type Window struct {
	Minute, Hour, Day int64
}

// Counts is what is known of a source when it connects.
type Counts struct {
	Open       int64  // connections it has open now, without this one
	RateSecond int64  // attempts in the last second, this one included
	RateMinute int64  // attempts in the last minute, this one included
	Failures   Window // failed authentications
	Denials    Window // denied requests
}

// Guard counts. All methods may be called at the same time.
type Guard struct {
	seed       maphash.Seed
	started    time.Time
	sources    *table
	prefixes   *table // those that limits bind as a whole
	usernames  *table
	identities *table
	bans       bans

	generation atomic.Uint32                  // of policies: limits of an earlier one are forgotten
	lengths    atomic.Pointer[[]netip.Prefix] // one prefix for each family and length that limits bind
	mu         sync.Mutex                     // held by who changes lengths
}

// Source is whom a connection comes from.
type Source struct {
	ip  netip.Addr // invalid: by a unix socket
	uid int64
}

// Address is the source that an address is.
func Address(ip netip.Addr) Source { return Source{ip: ip.Unmap().WithZone("")} }

// User is the source that a user of this machine is, by a unix socket.
func User(uid int64) Source { return Source{uid: uid} }

// New returns a guard that remembers at most size sources, and as many prefixes,
// user names, identities and bans, beside those that are open, whose number is
// the connection limit's matter.
func New(size int) *Guard {
	g := &Guard{
		seed:       maphash.MakeSeed(),
		started:    time.Now(),
		sources:    newTable(size),
		prefixes:   newTable(size),
		usernames:  newTable(size),
		identities: newTable(size),
		bans:       bans{size: size, of: map[Subject]*banned{}},
	}
	g.lengths.Store(&[]netip.Prefix{})
	return g
}

// Visit is a source's open connection. The zero value is none.
type Visit struct {
	Counts
	guard    *Guard
	source   Source
	under    uint32         // the generation when it came
	charged  bool           // against what is remembered of the source itself
	heard    bool           // what it wants is known
	prefixes []netip.Prefix // whose limits bind it too
}

// Enter counts a connection from a source and says what was known before it,
// but for the rates, in which it is counted already. Where it is over what is
// remembered of limits it is refused, and only its attempt counts; so it is where
// so many of the source have not been heard out yet, 0 being any number. Each visit
// needs a Leave.
func (g *Guard) Enter(source Source, handshakes int) (Visit, *Refusal) {
	v := Visit{guard: g, source: source, under: g.generation.Load()}
	now := g.now()
	var refused *Refusal
	g.sources.open(g.source(source), now, func(e *entry) {
		e.attemptsSecond.add()
		e.attemptsMinute.add()
		v.Counts = e.counts()
		v.charged = e.limit != nil && e.limit.under == v.under
		refused = e.charge(v.under, now, e.open-1)
		if e.unheard++; handshakes > 0 && e.unheard > uint32(handshakes) {
			refused = worse(refused, &Refusal{Cause: "limit", Retry: time.Second, Why: tooManyHandshakes})
		}
	})
	if source.ip.IsValid() {
		for _, like := range *g.lengths.Load() {
			if like.Addr().Is4() != source.ip.Is4() {
				continue
			}
			p, err := source.ip.Prefix(like.Bits())
			if err != nil {
				continue
			}
			if g.prefixes.openKnown(g.prefix(p), now, func(e *entry) {
				refused = worse(refused, e.charge(v.under, now, e.open-1))
			}) {
				v.prefixes = append(v.prefixes, p)
			}
		}
	}
	if refused != nil {
		v.Leave()
		return Visit{}, refused
	}
	return v, nil
}

// worse is the refusal that lasts longer.
func worse(a, b *Refusal) *Refusal {
	if a == nil || b != nil && b.Retry > a.Retry {
		return b
	}
	return a
}

// Hold takes in the limits of the latest decision about the visit's source, for
// those that come after it, and refuses the visit where it is over them itself.
// Those of a policy that is gone are not taken in.
func (v *Visit) Hold(l Limits) (refused *Refusal) {
	g := v.guard
	if g == nil || v.under != g.generation.Load() {
		return nil
	}
	now, whole := g.now(), l.Prefix.IsValid()
	g.sources.look(g.source(v.source), now, func(e *entry) {
		if whole {
			e.limit = nil
			return
		}
		e.remember(l, v.under, now)
		refused = e.hold(v.under, now, uint32(v.Open), v.charged)
	})
	if !whole || l.Connections == 0 && l.Rate == 0 {
		return refused
	}
	v.bind(l, now, &refused)
	return refused
}

// bind takes in limits of a prefix.
func (v *Visit) bind(l Limits, now time.Duration, refused **Refusal) {
	g, key := v.guard, v.guard.prefix(l.Prefix)
	if slices.Contains(v.prefixes, l.Prefix) {
		g.prefixes.look(key, now, func(e *entry) { e.remember(l, v.under, now) })
		return
	}
	v.prefixes = append(v.prefixes, l.Prefix)
	g.prefixes.open(key, now, func(e *entry) {
		e.remember(l, v.under, now)
		*refused = e.hold(v.under, now, e.open-1, false)
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	known := *g.lengths.Load()
	if !slices.ContainsFunc(known, func(p netip.Prefix) bool {
		return p.Bits() == l.Prefix.Bits() && p.Addr().Is4() == l.Prefix.Addr().Is4()
	}) {
		more := append(slices.Clone(known), l.Prefix)
		g.lengths.Store(&more)
	}
}

// Again says what is known now of the visit's source, as Enter did.
func (v *Visit) Again() {
	g := v.guard
	if g == nil {
		return
	}
	g.sources.look(g.source(v.source), g.now(), func(e *entry) { v.Counts = e.counts() })
}

// Heard says that what the client wants is known. Saying so again does nothing.
func (v *Visit) Heard() {
	g := v.guard
	if g == nil || v.heard {
		return
	}
	v.heard = true
	g.sources.look(g.source(v.source), g.now(), func(e *entry) { e.unheard -= min(e.unheard, 1) })
}

// Leave ends the visit. Leaving again does nothing.
func (v *Visit) Leave() {
	g := v.guard
	if g == nil {
		return
	}
	v.Heard()
	now := g.now()
	g.sources.close(g.source(v.source), now)
	for _, p := range v.prefixes {
		g.prefixes.close(g.prefix(p), now)
	}
	*v = Visit{}
}

// Forget forgets what was remembered of limits: there is another policy.
func (g *Guard) Forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.generation.Add(1)
	g.lengths.Store(&[]netip.Prefix{})
}

func (e *entry) counts() Counts {
	return Counts{
		Open:       int64(e.open) - 1,
		RateSecond: e.attemptsSecond.count(e.seen, second),
		RateMinute: e.attemptsMinute.count(e.seen, minute),
		Failures:   e.failures.window(e.seen),
		Denials:    e.denials.window(e.seen),
	}
}

// Failed counts a failed authentication, of the source and of the user name.
func (g *Guard) Failed(source Source, username string) {
	now := g.now()
	g.sources.touch(g.source(source), now, func(e *entry) { e.failures.add() })
	if username != "" {
		g.usernames.touch(g.name(username), now, func(e *entry) { e.failures.add() })
	}
}

// Denied counts a denied request, of the source and of the identity; "" where
// there is none yet.
func (g *Guard) Denied(source Source, identity string) {
	now := g.now()
	g.sources.touch(g.source(source), now, func(e *entry) { e.denials.add() })
	if identity != "" {
		g.identities.touch(g.name(identity), now, func(e *entry) { e.denials.add() })
	}
}

// Username returns the failed authentications of a user name.
func (g *Guard) Username(name string) Window {
	var failures Window
	g.usernames.look(g.name(name), g.now(), func(e *entry) { failures = e.failures.window(e.seen) })
	return failures
}

// Identify counts a session of an identity, and returns how many others it has
// open and how often it was denied. Each Identify needs a Release. The empty
// name is nobody's and is not counted.
func (g *Guard) Identify(name string) (open int64, denials Window) {
	if name == "" {
		return 0, Window{}
	}
	g.identities.open(g.name(name), g.now(), func(e *entry) {
		open, denials = int64(e.open)-1, e.denials.window(e.seen)
	})
	return open, denials
}

// HoldIdentity counts an attempt of an identity that has been identified against
// the limits of the decision about it, and refuses it where it is over them.
// Others is how many it had open before.
func (g *Guard) HoldIdentity(name string, l Limits, others int64) (refused *Refusal) {
	now, under := g.now(), g.generation.Load()
	g.identities.look(g.name(name), now, func(e *entry) {
		e.remember(l, under, now)
		refused = e.hold(under, now, uint32(others), false)
	})
	return refused
}

// Release takes back an Identify's open session.
func (g *Guard) Release(name string) {
	if name != "" {
		g.identities.close(g.name(name), g.now())
	}
}

// now is the time since the guard was made: it never goes back.
func (g *Guard) now() time.Duration { return time.Since(g.started) }

func (g *Guard) source(s Source) uint64 {
	if s.ip.Is6() {
		// A host of IPv6 has a /64 of addresses to itself, at the least.
		if prefix, err := s.ip.Prefix(64); err == nil {
			s.ip = prefix.Addr()
		}
	}
	return maphash.Comparable(g.seed, s)
}

func (g *Guard) prefix(p netip.Prefix) uint64 { return maphash.Comparable(g.seed, p) }

func (g *Guard) name(name string) uint64 { return maphash.String(g.seed, name) }
