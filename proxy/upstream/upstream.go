// Package upstream knows the proxies that sessions can be led through, by the
// names that the configuration gives them, and finds a way through those that a
// policy has chosen.
//
// Where the policy leaves a choice, the upstreams are tried in the order that it
// asks for, each for a share of the time that is left: one that fails costs the
// client a moment and not its session. Nothing of the client's has been sent by
// then. What an upstream says of the target itself is believed, unless another
// one might know better.
//
// upstream.go has the table, order.go who is tried first, and reach.go the search
// for a way.
package upstream

import (
	"fmt"
	"sync"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
)

// Set is the upstreams by name. It is safe for use by several goroutines.
type Set struct {
	names  dial.Lookup
	dialer *dial.Dialer
	known  map[string]*member
}

// member is an upstream, and what is known of it.
type member struct {
	hop *dial.Hop

	mu      sync.Mutex
	latency time.Duration // moving average of how long it took to be ready; 0: never yet
	shunned time.Time     // until then it is tried last, since it has failed
}

const (
	// weight is that of the latest set-up in the average.
	weight = 0.2
	// shunFor is how long an upstream that has failed is tried last.
	shunFor = 10 * time.Second
)

// New returns the set of hops, whose names differ. Names of theirs that are no
// addresses are looked up by names.
func New(hops []*dial.Hop, names dial.Lookup, dialer *dial.Dialer) *Set {
	s := &Set{names: names, dialer: dialer, known: make(map[string]*member, len(hops))}
	for _, hop := range hops {
		s.known[hop.Name] = &member{hop: hop}
	}
	return s
}

// Check returns an error that names the first upstream of a way that there is
// not.
func (s *Set) Check(via policy.Via) error {
	for _, hop := range via {
		for _, name := range hop.Any {
			if s.known[name] == nil {
				return fmt.Errorf("there is no upstream %q", name)
			}
		}
	}
	return nil
}

func (m *member) ready(took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shunned = time.Time{}
	if m.latency == 0 {
		m.latency = took
		return
	}
	m.latency += time.Duration(weight * float64(took-m.latency))
}

func (m *member) failed(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shunned = now.Add(shunFor)
}
