// Package guard counts: how many connections a source has open, how often it
// comes, and how often it has failed to authenticate or been denied; and the
// same of user names and identities. The policy names the numbers that matter,
// the guard only knows what they are.
//
// All of it is bounded, since a stranger chooses how many sources and names
// there are. A source is an IPv4 address or an IPv6 /64. Names, and sources too,
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
	usernames  *table
	identities *table
}

// New returns a guard that remembers at most size sources, as many user names
// and as many identities, beside those that are open, whose number is the
// connection limit's matter.
func New(size int) *Guard {
	return &Guard{
		seed:       maphash.MakeSeed(),
		started:    time.Now(),
		sources:    newTable(size),
		usernames:  newTable(size),
		identities: newTable(size),
	}
}

// Enter counts a connection from a source and says what was known before it,
// but for the rates, in which it is counted already. Each Enter needs a Leave.
func (g *Guard) Enter(ip netip.Addr) Counts {
	var counts Counts
	g.sources.open(g.source(ip), g.now(), func(e *entry) {
		e.attemptsSecond.add()
		e.attemptsMinute.add()
		counts = e.counts()
	})
	return counts
}

// Again says what is known now of a source that has entered, as Enter did.
func (g *Guard) Again(ip netip.Addr) Counts {
	var counts Counts
	g.sources.look(g.source(ip), g.now(), func(e *entry) { counts = e.counts() })
	return counts
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

// Leave takes back an Enter's open connection.
func (g *Guard) Leave(ip netip.Addr) { g.sources.close(g.source(ip), g.now()) }

// Failed counts a failed authentication, of the source and of the user name.
func (g *Guard) Failed(ip netip.Addr, username string) {
	now := g.now()
	g.sources.touch(g.source(ip), now, func(e *entry) { e.failures.add() })
	if username != "" {
		g.usernames.touch(g.name(username), now, func(e *entry) { e.failures.add() })
	}
}

// Denied counts a denied request, of the source and of the identity; "" where
// there is none yet.
func (g *Guard) Denied(ip netip.Addr, identity string) {
	now := g.now()
	g.sources.touch(g.source(ip), now, func(e *entry) { e.denials.add() })
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

// Release takes back an Identify's open session.
func (g *Guard) Release(name string) {
	if name != "" {
		g.identities.close(g.name(name), g.now())
	}
}

// now is the time since the guard was made: it never goes back.
func (g *Guard) now() time.Duration { return time.Since(g.started) }

func (g *Guard) source(ip netip.Addr) uint64 {
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		// A host of IPv6 has a /64 of addresses to itself, at the least.
		if prefix, err := ip.Prefix(64); err == nil {
			ip = prefix.Addr()
		}
	}
	return maphash.Comparable(g.seed, ip)
}

func (g *Guard) name(name string) uint64 { return maphash.String(g.seed, name) }
