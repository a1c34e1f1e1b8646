package usage

import (
	"container/list"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"sallyport/policy"
)

// The periods that an account counts by.
const (
	day = iota
	month
)

// The classes of accounts. A stranger chooses how many others there are, and so they
// give way only to one another.
const (
	proved = iota
	others // of claimed names, and of addresses
)

// fewSessions are looked at whenever it is asked what their identity has used, more of
// them only once in a while.
const fewSessions = 64

// unbounded is what is left where there is no quota.
const unbounded = math.MaxInt64

// Account is what one identity has used, open sessions included. Its sessions draw
// their bytes from it.
type Account struct {
	ledger *Ledger
	key    string
	class  int // index of Ledger.idle
	left   [2]atomic.Int64

	// Guarded by ledger.mu.
	open    int // how many use it
	at      *list.Element
	live    []*Meter
	summed  time.Time // when those were looked at last
	periods [2]period
	quotas  [2]int64 // 0: none
	under   uint32   // the generation of policies that has said so
	marks   [2]int64 // what was left when that was last worked out
	marked  bool
	written bool // the store has it
}

// period is what was used in one.
type period struct {
	of          string
	bytes       int64
	connections int64
}

// idle are the accounts of a class that nobody uses, the one that was used last first.
type idle struct {
	accounts list.List
	count    int // of the class, those in use included
}

// Enter returns the account of an identity, for a session. Proof says that it is one
// that is proved. Each Enter needs a Leave.
func (l *Ledger) Enter(key string, proof bool) *Account {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance()
	a := l.accounts[key]
	if a == nil {
		a = l.add(key, proof)
	}
	if a.at != nil {
		l.idle[a.class].accounts.Remove(a.at)
		a.at = nil
	}
	a.open++
	a.roll()
	return a
}

// Leave gives an account back.
func (l *Ledger) Leave(a *Account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.open--; a.open == 0 {
		a.at = l.idle[a.class].accounts.PushFront(a)
		l.makeRoom(a.class, 0)
	}
}

// add makes an account that nobody uses yet. Called with l.mu held.
func (l *Ledger) add(key string, proof bool) *Account {
	a := &Account{ledger: l, key: strings.Clone(key), class: others}
	if proof {
		a.class = proved
	}
	for p := range a.periods {
		a.periods[p].of = l.periods[p]
		a.left[p].Store(unbounded)
	}
	l.makeRoom(a.class, 1)
	l.accounts[a.key] = a
	l.idle[a.class].count++
	return a
}

// makeRoom gives up accounts that nobody uses until there is room for so many more.
// Called with l.mu held.
func (l *Ledger) makeRoom(class, more int) {
	c, most := &l.idle[class], l.options.Identities
	if class == others {
		most /= 4
	}
	for c.count+more > most {
		last := c.accounts.Back()
		if last == nil {
			return // those in use are bounded by the connections
		}
		a := c.accounts.Remove(last).(*Account)
		c.count--
		delete(l.accounts, a.key)
		delete(l.changed, a)
		if a.written {
			l.dropped = append(l.dropped, a.key)
		}
	}
}

// Usage is what the identity has used so far. Of many open sessions it is as of a
// moment ago.
func (a *Account) Usage() policy.Usage {
	l := a.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.advance()
	a.roll()
	if a.stale(now) {
		a.sum(now)
	}
	d, m := &a.periods[day], &a.periods[month]
	return policy.Usage{
		Bytes:       policy.Span{Day: d.bytes, Month: m.bytes},
		Connections: policy.Span{Day: d.connections, Month: m.connections},
	}
}

// Hold takes in the quota of a decision about the identity, and says for how long the
// identity is over what was said: 0 where it is not. With many open sessions that is
// as of a moment ago, and what is left is bound all the same. A decision that has none leaves
// those of others of the same policy as they are, and each period has its own.
func (a *Account) Hold(q policy.Quota) time.Duration {
	l := a.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.advance()
	a.roll()
	before := a.quotas
	if a.under != l.generation {
		a.quotas, a.under = [2]int64{}, l.generation
	}
	switch q.Per {
	case policy.PerDay:
		a.quotas[day] = int64(q.Bytes)
	case policy.PerMonth:
		a.quotas[month] = int64(q.Bytes)
	}
	if a.quotas != before || a.bound() && a.stale(now) {
		a.mark()
		a.sum(now)
		a.settle()
	}
	var wait time.Duration
	for p := range a.quotas {
		if a.quotas[p] > 0 && a.periods[p].bytes >= a.quotas[p] {
			wait = max(wait, l.ends[p].Sub(now))
		}
	}
	return wait
}

// Take takes n bytes from what is left of the quotas, or what there is. What one
// period gives and another does not is back when it is next worked out.
func (a *Account) Take(n int) int {
	for p := range a.left {
		n = take(&a.left[p], n)
	}
	return n
}

func take(left *atomic.Int64, n int) int {
	for {
		before := left.Load()
		if before == unbounded {
			return n
		}
		got := min(int64(n), max(before, 0))
		if left.CompareAndSwap(before, before-got) {
			return int(got)
		}
	}
}

// roll begins a new day and month where that is due. Sessions that are open count in
// each. A period that lies before the account's is no new one: the clock was set
// back. Called with l.mu held.
func (a *Account) roll() {
	rolled := false
	for p := range a.periods {
		now := a.ledger.periods[p]
		if a.periods[p].of == now {
			continue
		}
		if now > a.periods[p].of {
			a.periods[p] = period{connections: int64(len(a.live))}
			rolled = true
		}
		a.periods[p].of = now
	}
	if rolled {
		a.mark()
		a.settle()
	}
}

// stale tells whether the open sessions are to be looked at. Called with l.mu held.
func (a *Account) stale(now time.Time) bool {
	many := len(a.live)
	return many <= fewSessions || now.Sub(a.summed).Abs() >= time.Duration(many)*10*time.Microsecond
}

// sum looks at the open sessions. Called with l.mu held.
func (a *Account) sum(now time.Time) {
	for _, m := range a.live {
		a.ledger.fold(m)
	}
	a.summed = now
}

// mark notes what is left of the quotas, before it is looked at what was used. Called
// with l.mu held.
func (a *Account) mark() {
	for p := range a.left {
		a.marks[p] = a.left[p].Load()
	}
	a.marked = true
}

// settle works out what is left of the quotas, from what was used in fact by the time
// after mark. What is taken since then stays taken, twice where it was seen to be used
// already, until the next time. What was taken before and is still on its way, a piece
// for each direction of each session at the most, goes beyond. Called with l.mu held.
func (a *Account) settle() {
	if !a.marked {
		return
	}
	a.marked = false
	for p := range a.quotas {
		switch left := a.quotas[p] - a.periods[p].bytes; {
		case a.quotas[p] == 0:
			a.left[p].Store(unbounded)
		case a.marks[p] == unbounded:
			a.left[p].Store(left)
		default:
			a.left[p].Add(left - a.marks[p])
		}
	}
}

// bound tells whether there is a quota. Called with l.mu held.
func (a *Account) bound() bool { return a.quotas != [2]int64{} }
