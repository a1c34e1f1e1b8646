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
// Which upstreams work is known from the sessions themselves and, where the
// configuration has one, from a probe. It decides who is tried first, and is a
// fact for policies.
//
// upstream.go has the table, order.go who is tried first, reach.go the search for
// a way, health.go whether an upstream works, tend.go the probes, pool.go the
// connections that are opened ahead, and facts.go what policies and operators see.
package upstream

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
)

// Upstream is one as it is configured.
type Upstream struct {
	Hop    *dial.Hop
	Labels map[string]string // for policies
	Probe  Probe
	Pool   Pool
}

// Options are what a Set needs. All but Upstreams are required.
type Options struct {
	Upstreams []Upstream  // whose names differ
	Names     dial.Lookup // of those that are no addresses
	Dialer    *dial.Dialer
	Open      func(name string) int64 // sessions that go through an upstream now
	Log       *slog.Logger
}

// Set is the upstreams by name. It is safe for use by several goroutines.
type Set struct {
	names  dial.Lookup
	dialer *dial.Dialer
	open   func(name string) int64
	log    *slog.Logger
	known  map[string]*member
	try    func(ctx context.Context, m *member) error // one probe
}

// member is an upstream, and what is known of it.
type member struct {
	hop    *dial.Hop
	labels map[string]string
	probe  Probe
	pool   *pool

	mu      sync.Mutex
	health  health
	changed chan struct{} // closed when it turns healthy, or not
	latency time.Duration // moving average of how long it took to be ready; 0: never yet
	shunned time.Time     // until then it is tried last, since it has failed
}

const (
	// weight is that of the latest set-up in the average.
	weight = 0.2
	// shunFor is how long an upstream that has failed is tried after the others that
	// are healthy.
	shunFor = 10 * time.Second
)

// New returns the set of the upstreams, all of which are taken for healthy until
// something else is known. Run looks after them.
func New(o Options) *Set {
	s := &Set{names: o.Names, dialer: o.Dialer, open: o.Open, log: o.Log, known: make(map[string]*member, len(o.Upstreams))}
	s.try = s.connect
	now := time.Now()
	for _, u := range o.Upstreams {
		m := &member{hop: u.Hop, labels: u.Labels, probe: u.Probe, pool: newPool(u.Pool), changed: make(chan struct{})}
		m.health = health{rise: 1, fall: fall, healthy: true, since: now}
		if u.Probe.To.Port != 0 {
			m.health.rise, m.health.fall = u.Probe.Rise, u.Probe.Fall
		}
		if m.labels == nil {
			m.labels = map[string]string{}
		}
		s.known[u.Hop.Name] = m
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

// ready notes how long an upstream took until it would take a request.
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

// failed has a session's other choices tried before this one for a moment.
func (m *member) failed(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shunned = now.Add(shunFor)
}
