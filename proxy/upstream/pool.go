package upstream

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"sallyport/proxy/dial"
)

// Pool says how many connections to an upstream are kept open ahead of the
// sessions that will use them.
type Pool struct {
	Idle   int           // connections; 0: none
	MaxAge time.Duration // after which one that was not used is closed, and another one opened
}

// pool is the connections to one upstream that were opened ahead. Each is watched
// by the goroutine that has opened it: a server that closes an idle connection,
// or says something on it, is found out at once.
type pool struct {
	most   int
	maxAge time.Duration

	mu   sync.Mutex
	idle []*dial.Ahead // the youngest last
}

func newPool(p Pool) *pool { return &pool{most: p.Idle, maxAge: p.MaxAge} }

func (p *pool) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// take is a connection that still waits for a request, and leaves from the local
// address from; nil where there is none. It is the caller's.
func (p *pool) take(from netip.Addr) *dial.Ahead {
	for {
		p.mu.Lock()
		at := len(p.idle) - 1
		for at >= 0 && !p.idle[at].Leaves(from) {
			at--
		}
		if at < 0 {
			p.mu.Unlock()
			return nil
		}
		ahead := p.idle[at]
		p.idle = slices.Delete(p.idle, at, at+1)
		p.mu.Unlock()
		if ahead.Claim() {
			return ahead
		}
	}
}

func (p *pool) offer(ahead *dial.Ahead) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, ahead)
}

// withdraw takes a connection back, and returns false where somebody has taken it.
func (p *pool) withdraw(ahead *dial.Ahead) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.Index(p.idle, ahead)
	if at >= 0 {
		p.idle = slices.Delete(p.idle, at, at+1)
	}
	return at >= 0
}

const (
	// openTimeout bounds the opening of one connection ahead.
	openTimeout = 10 * time.Second
	// firstPause and lastPause bound the pause after a connection that could not be
	// opened, or that did not last. It doubles.
	firstPause = 500 * time.Millisecond
	lastPause  = 30 * time.Second
)

// keepOne keeps one connection to an upstream open until ctx ends, while the
// upstream is healthy. What fails here is no mark against it: a probe or a session
// will tell.
func (s *Set) keepOne(ctx context.Context, m *member) {
	pause := firstPause
	for ctx.Err() == nil {
		healthy, changed := m.state()
		if !healthy {
			wait(ctx, forever, changed)
			continue
		}
		if s.openOne(ctx, m) {
			pause = firstPause
			continue
		}
		if !wait(ctx, time.Duration((0.5+rand.Float64()/2)*float64(pause)), nil) {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// openOne opens a connection ahead and watches it until it is used or closed. It
// returns whether the next one is to follow at once.
func (s *Set) openOne(ctx context.Context, m *member) bool {
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	ahead, took, err := s.dialer.Prepare(opening, s.names, m.hop)
	cancel()
	if err != nil {
		return false
	}
	m.ready(took)
	age := time.Duration((0.8 + rand.Float64()/5) * float64(m.pool.maxAge)) // not all of them at once
	m.pool.offer(ahead)
	outcome := ahead.Watch(ctx, age)
	if m.pool.withdraw(ahead) {
		ahead.Close()
	}
	return outcome != dial.Broken
}
