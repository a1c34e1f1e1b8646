package guard

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Refusal is that a client is refused without asking the policy.
type Refusal struct {
	Cause string        // "ban" or "limit"
	Of    Subject       // whose ban
	Retry time.Duration // after which to come again
	Tell  bool          // whether to hear the client out, so that it can be told; else hang up
	Why   string        // of a limit that is not the policy's
}

const tooManyHandshakes = "the source has as many handshakes going on as limits.handshakes says"

func (r *Refusal) Error() string {
	if r.Cause == "ban" {
		return "banned: " + r.Of.String()
	}
	if r.Why != "" {
		return r.Why
	}
	return "over a limit of the policy"
}

// budget bounds how many clients of one source are told that they are refused:
// so many in a second, the others are hung up on at once.
type budget struct{ spent atomic.Int64 }

const tellings = 8

// spend takes one of this second's tellings, if one is left.
func (b *budget) spend(now time.Time) bool {
	present := now.Unix() << 8
	for {
		spent := b.spent.Load()
		next := present + 1
		if spent&^0xff == present {
			if spent&0xff >= tellings {
				return false
			}
			next = spent + 1
		}
		if b.spent.CompareAndSwap(spent, next) {
			return true
		}
	}
}

// Limits are what a decision says that a source, a prefix or an identity may do.
// The zero value of each is no bound.
type Limits struct {
	Connections int64        // open at once
	Rate        float64      // attempts a second
	Burst       float64      // attempts at once; at least 1 where there is a rate
	Prefix      netip.Prefix // of the source: bound as a whole, instead of the address
}

// limit is what is remembered of limits for one entry: the numbers, and how much
// of them is left.
type limit struct {
	under       uint32 // the generation of policies that has said so
	connections uint32
	rate, burst float64
	tokens      float64
	filled      time.Duration // when tokens was worked out
	told        budget
}

// remember takes in new numbers. What is left of the rate stays, so that nobody
// gains by being decided about again.
func (e *entry) remember(l Limits, under uint32, now time.Duration) {
	if l.Connections == 0 && l.Rate == 0 {
		e.limit = nil
		return
	}
	old := e.limit
	if old == nil || old.under != under {
		old = &limit{tokens: l.Burst, filled: now}
	}
	if old.rate == 0 {
		old.tokens, old.filled = l.Burst, now
	}
	old.under, old.connections = under, uint32(l.Connections)
	old.rate, old.burst = l.Rate, l.Burst
	e.limit = old
}

// charge counts an attempt against what is remembered, and refuses it where that
// is used up; others is how many it has open beside this one.
func (e *entry) charge(under uint32, now time.Duration, others uint32) *Refusal {
	m := e.limit
	if m == nil || m.under != under {
		return nil
	}
	var wait time.Duration
	if m.rate > 0 {
		m.tokens = min(m.burst, m.tokens+m.rate*(now-m.filled).Seconds())
		m.filled = now
		if m.tokens < 1 {
			wait = max(time.Duration((1-m.tokens)/m.rate*float64(time.Second)), time.Second)
		}
		m.tokens = max(m.tokens-1, 0)
	}
	if m.connections > 0 && others >= m.connections {
		wait = max(wait, time.Second)
	}
	if wait == 0 {
		return nil
	}
	return &Refusal{Cause: "limit", Retry: min(wait, day), Tell: m.told.spend(time.Now())}
}

// hold is charge of an attempt that may have been charged before, and is then
// only held against how many may be open.
func (e *entry) hold(under uint32, now time.Duration, others uint32, charged bool) *Refusal {
	if !charged {
		return e.charge(under, now, others)
	}
	if m := e.limit; m != nil && m.connections > 0 && others >= m.connections {
		return &Refusal{Cause: "limit", Retry: time.Second, Tell: true}
	}
	return nil
}
