package relay

import (
	"math"
	"time"
)

// unbounded is how many bytes a flow may deliver that may deliver any number.
const unbounded = math.MaxInt64

// Limit puts other limits in the place of those that the flow has. Bytes counts
// from the beginning of the counters, and idleness goes on from when bytes last moved. It
// may be called at any time.
func (f *Flow) Limit(l Limits) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || l == f.limits {
		return
	}
	before := f.limits
	f.limits = l
	if l.Bytes > 0 {
		f.most.Store(l.Bytes)
	} else {
		f.most.Store(unbounded)
	}
	if l.Budget != before.Budget {
		f.budget.Store(&l.Budget)
	}
	if f.stopped == nil && (l.Up > 0 || l.Down > 0) {
		f.stopped = make(chan struct{})
	}
	if l.Up != before.Up {
		f.up.pace.Store(newPace(l.Up))
	}
	if l.Down != before.Down {
		f.down.pace.Store(newPace(l.Down))
	}
	if f.running {
		f.setTimer(time.Now())
	}
}

// grant takes n bytes from what the flow may still deliver, or what is left of
// it. It is asked when the bytes are there, so that a flow of exactly
// Limits.Bytes still ends well, or one that leaves nothing of its budget.
func (d *direction) grant(n int) int {
	f := d.flow
	for {
		before, most := f.granted.Load(), f.most.Load()
		now := max(before, min(before+int64(n), most))
		if !f.granted.CompareAndSwap(before, now) {
			continue
		}
		n = int(now - before)
		if b := f.budget.Load(); b != nil && *b != nil && n > 0 {
			left := (*b).Take(n)
			f.granted.Add(int64(left - n))
			n = left
		}
		return n
	}
}

// spent ends the flow, to which less was granted than there is.
func (f *Flow) spent() {
	if f.granted.Load() < f.most.Load() {
		f.halt(QuotaSpent, nil)
	} else {
		f.halt(BytesSpent, nil)
	}
}

// allowance returns how many of at most so many bytes may be taken now, at
// least one. It waits as long as the pace asks for, holding nothing.
func (d *direction) allowance(most int) (int, error) {
	p := d.pace.Load()
	if p == nil {
		return most, nil
	}
	wait := p.wait(time.Now())
	if wait > 0 {
		d.tcp.release()
		d.task.Leave()
		p.timer.Reset(wait)
		select {
		case <-p.timer.C:
		case <-d.flow.stopped:
			p.timer.Stop()
			return 0, errOver
		}
	}
	return p.take(most), nil
}

// pace is a token bucket: one token, one byte. Its owner waits for a
// fiftieth of a second's worth at a time, so that it sleeps rather than counts
// bytes, and it holds a tenth of a second's worth, so that it stays smooth.
type pace struct {
	rate   float64 // tokens per nanosecond
	chunk  float64 // worth waking for
	depth  float64
	tokens float64
	at     time.Time // when tokens was right
	timer  *time.Timer
}

func newPace(rate int64) *pace {
	if rate <= 0 {
		return nil
	}
	p := &pace{
		rate:  float64(rate) / float64(time.Second),
		chunk: max(float64(rate)/50, 1),
		depth: max(float64(rate)/10, 1),
		at:    time.Now(),
		timer: time.NewTimer(time.Hour),
	}
	p.timer.Stop()
	p.tokens = p.depth
	return p
}

// wait brings the tokens to the present and returns how long it takes until
// there is a chunk's worth.
func (p *pace) wait(now time.Time) time.Duration {
	p.tokens = min(p.tokens+float64(now.Sub(p.at))*p.rate, p.depth)
	p.at = now
	if p.tokens >= p.chunk {
		return 0
	}
	return time.Duration((p.chunk-p.tokens)/p.rate) + 1
}

// take takes up to most tokens. Not all of them need be used: see giveBack.
func (p *pace) take(most int) int {
	now := time.Now()
	p.tokens = min(p.tokens+float64(now.Sub(p.at))*p.rate, p.depth)
	p.at = now
	n := min(most, max(int(p.tokens), 1))
	p.tokens -= float64(n)
	return n
}

// giveBack returns tokens that were taken for bytes that did not come.
func (p *pace) giveBack(n int) { p.tokens = min(p.tokens+float64(n), p.depth) }

// startTimer looks after Idle and Until. Nothing is set per chunk: the timer
// looks now and then whether the counters have moved, and so ends an idle flow
// up to an eighth late.
func (f *Flow) startTimer() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = true
	f.movedAt = time.Now()
	f.moved = f.counters.Up.Load() + f.counters.Down.Load()
	f.setTimer(f.movedAt)
}

// setTimer has the timer look when the limits ask for it. Called with f.mu held.
func (f *Flow) setTimer(now time.Time) {
	switch {
	case f.idle() <= 0 && f.limits.Until.IsZero():
		if f.timer != nil {
			f.timer.Stop()
		}
	case f.timer == nil:
		f.timer = time.AfterFunc(f.nextLook(now), f.look)
	default:
		f.timer.Reset(f.nextLook(now))
	}
}

func (f *Flow) look() {
	f.mu.Lock()
	now := time.Now()
	moved := f.counters.Up.Load() + f.counters.Down.Load()
	if moved != f.moved {
		f.moved, f.movedAt = moved, now
	}
	over := f.over
	expired := !f.limits.Until.IsZero() && !now.Before(f.limits.Until)
	idle := f.idle() > 0 && now.Sub(f.movedAt) >= f.limits.Idle
	if !over && !expired && !idle {
		f.setTimer(now)
	}
	f.mu.Unlock()
	switch {
	case over:
	case expired:
		f.halt(Expired, nil)
	case idle:
		f.halt(IdleTimeout, nil)
	}
}

// nextLook is how long the timer may sleep. Called with f.mu held.
func (f *Flow) nextLook(now time.Time) time.Duration {
	next := max(f.idle()/8, time.Millisecond)
	if f.idle() <= 0 {
		next = f.limits.Until.Sub(now)
	} else if !f.limits.Until.IsZero() {
		next = min(next, f.limits.Until.Sub(now))
	}
	return max(next, 0)
}

// idle is how long the flow may be idle now; 0: for any time. Called with f.mu
// held.
func (f *Flow) idle() time.Duration {
	if f.paused {
		return 0
	}
	return f.limits.Idle
}
