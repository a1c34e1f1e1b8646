package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"sallyport/proxy/dial"
)

// Probe is how an upstream is asked again and again whether it works. The zero
// value asks never.
type Probe struct {
	To       dial.Endpoint // where it is asked to connect to; Port 0: there is no probe
	Via      []string      // the upstreams before it, which are known; none: it is connected to directly
	Interval time.Duration // from one probe to the next, give or take a tenth
	Timeout  time.Duration // of each
	Rise     int           // successes in a row that make it healthy
	Fall     int           // failures in a row that make it not
}

const (
	// fall is how many failures in a row an upstream without a probe is allowed.
	fall = 3
	// rest is how long such a one is let alone before it is tried again.
	rest = 30 * time.Second
)

// Run looks after the upstreams until ctx ends: it probes those that have a
// probe, takes the others for healthy again after a while, and opens connections
// ahead. It returns once no goroutine and no connection of all that is left.
func (s *Set) Run(ctx context.Context) {
	var tending sync.WaitGroup
	defer tending.Wait()
	for _, m := range s.known {
		if m.probe.To.Port != 0 {
			tending.Go(func() { s.probe(ctx, m) })
		} else {
			tending.Go(func() { s.revive(ctx, m) })
		}
		for range m.pool.most {
			tending.Go(func() { s.keepOne(ctx, m) })
		}
	}
}

// probe asks an upstream for its target, again and again.
func (s *Set) probe(ctx context.Context, m *member) {
	next := time.Duration(rand.Float64() * float64(m.probe.Interval) / 10) // not all of them at once
	for wait(ctx, next, nil) {
		next = time.Duration((0.9 + rand.Float64()/5) * float64(m.probe.Interval))
		attempt, cancel := context.WithTimeout(ctx, m.probe.Timeout)
		err := s.try(attempt, m)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !of(err, m): // of one before it, and so nothing is known
		case err != nil:
			s.note(m, reasonOf(err))
		default:
			s.note(m, "")
		}
	}
}

// of tells whether an error speaks of an upstream, and not of one before it.
func of(err error, m *member) bool {
	var failed *dial.HopError
	return !errors.As(err, &failed) || failed.Hop == m.hop.Name
}

// connect is one probe: the whole way into the upstream and, through it, to the
// target. Nothing is said there.
func (s *Set) connect(ctx context.Context, m *member) error {
	hops := make([]*dial.Hop, 0, len(m.probe.Via)+1)
	for _, before := range m.probe.Via {
		hops = append(hops, s.known[before].hop)
	}
	way, err := s.dialer.Through(ctx, s.names, append(hops, m.hop), m.probe.To, netip.Addr{}, &stopwatch{m})
	if err != nil {
		return err
	}
	return way.Conn.Close()
}

// stopwatch measures a probe as a session's set-up is.
type stopwatch struct{ m *member }

func (*stopwatch) Began(string)                                      {}
func (*stopwatch) Done(string, netip.AddrPort, time.Duration, error) {}

func (w *stopwatch) Ready(hop string, took time.Duration) {
	if hop == w.m.hop.Name {
		w.m.ready(took)
	}
}

// revive takes an upstream that nobody probes for healthy again after a while.
func (s *Set) revive(ctx context.Context, m *member) {
	for {
		healthy, changed := m.state()
		if healthy {
			if !wait(ctx, forever, changed) {
				return
			}
			continue
		}
		if !wait(ctx, rest, nil) {
			return
		}
		m.mu.Lock()
		tried := !m.health.healthy // no session has found out meanwhile
		if tried {
			m.health.trial(time.Now())
		}
		told := m.told(tried)
		m.mu.Unlock()
		s.tell(m, told)
	}
}

// state is whether an upstream is healthy, and is told when that changes.
func (m *member) state() (healthy bool, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health.healthy, m.changed
}

const forever = time.Duration(1<<63 - 1)

// wait waits for some time, or until early is closed, and returns false where ctx
// ends first.
func wait(ctx context.Context, how time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(how)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-early:
	}
	return true
}
