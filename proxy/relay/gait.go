package relay

import (
	"sync"
	"time"
)

// gait is a pace for datagrams, which come whole: what goes over is owed, and
// waited for by whoever comes next.
type gait struct {
	mu   sync.Mutex
	pace *pace // nil: none
}

func (g *gait) set(rate int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if rate <= 0 {
		g.pace = nil
	} else if g.pace == nil || g.pace.rate != float64(rate)/float64(time.Second) {
		g.pace = newPace(rate)
	}
}

// wait waits until something may be relayed, and says how many datagrams may be
// taken at once: no more than are paid for soon. False: it was stopped.
func (g *gait) wait(stopped <-chan struct{}) (int, bool) {
	for {
		g.mu.Lock()
		p := g.pace
		if p == nil {
			g.mu.Unlock()
			return batchSize, true
		}
		pause := p.wait(time.Now())
		room := min(max(int(p.tokens/1500), 1), batchSize)
		g.mu.Unlock()
		if pause <= 0 {
			return room, true
		}
		select {
		case <-time.After(pause):
		case <-stopped:
			return 0, false
		}
	}
}

func (g *gait) spend(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pace != nil {
		g.pace.tokens -= float64(n)
	}
}

// setTimer has the timer look when the limits ask for it. Called with x.mu held.
func (x *Packets) setTimer(now time.Time) {
	if x.timer != nil {
		x.timer.Stop()
	}
	if x.limits.Idle <= 0 && x.limits.Until.IsZero() {
		return
	}
	next := max(x.limits.Idle/8, time.Millisecond)
	if until := x.limits.Until; !until.IsZero() {
		left := max(until.Sub(now), 0)
		if x.limits.Idle <= 0 {
			next = left
		}
		next = min(next, left)
	}
	x.timer = time.AfterFunc(next, x.look)
}

// look ends the relay where it has been idle for too long or its time is up.
func (x *Packets) look() {
	x.mu.Lock()
	now := time.Now()
	if moved := x.packets.Up.Load() + x.packets.Down.Load(); moved != x.moved {
		x.moved, x.movedAt = moved, now
	}
	over := x.over
	expired := !x.limits.Until.IsZero() && !now.Before(x.limits.Until)
	idle := x.limits.Idle > 0 && now.Sub(x.movedAt) >= x.limits.Idle
	if !over && !expired && !idle {
		x.setTimer(now)
	}
	x.mu.Unlock()
	switch {
	case over:
	case expired:
		x.halt(Expired, nil)
	case idle:
		x.halt(IdleTimeout, nil)
	}
}
