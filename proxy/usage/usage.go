// Package usage keeps account of what is used: by whom, where to, and by which
// way. The policy names the quotas, the ledger counts.
//
// Two things are kept of every session. An account (account.go) has what one
// identity has used in this UTC day and month: it answers a policy that reads
// that, and is the budget that all of the identity's sessions draw from where it
// has a quota. The hours (hour.go) have what was used in each hour by user,
// target, country, upstream and labels, for reports (report.go). All of them are
// told the same, so that each adds up to the same.
//
// A session is metered (meter.go) by the counters that its relay has anyway: they
// are looked at every few seconds, when somebody asks, and at the end. Nothing is
// done for each byte, but where there is a quota.
//
// What is counted is in memory and goes to the store every few seconds, and when
// the ledger is closed (write.go). A process that is killed loses what was used
// since: of that neither a report nor a quota knows.
//
// All of it is bounded. In an hour the largest rows of each kind are kept and the
// others are added up in one. Accounts are bounded by number, those of proved
// identities and of others each: where there are too many, the one that was used
// longest ago is given up, and its quota begins anew.
package usage

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	// writeEvery is how much of what was used may be lost when the process is killed.
	writeEvery = 5 * time.Second

	// retryEvery is how often a store that has taken nothing is tried again.
	retryEvery = time.Minute

	hourText  = "2006-01-02T15"
	dayText   = "2006-01-02"
	monthText = "2006-01"
)

// Options are how much is kept, and where.
type Options struct {
	Retention  time.Duration // how long hours are kept
	Rows       int           // of each kind in an hour
	Identities int           // accounts of proved identities, and a quarter as many of others
	Store      Store         // nil: all is forgotten with the process
	Log        *slog.Logger  // required with a store
}

// Ledger keeps account. All methods may be called at the same time.
type Ledger struct {
	options Options

	reporting sync.Mutex // held by who reports
	writing   sync.Mutex // held by who writes
	failing   bool       // the store has taken nothing of late
	encoder   encoder

	mu         sync.Mutex
	accounts   map[string]*Account
	idle       [2]idle // accounts without sessions, by their class
	live       []*Meter
	generation uint32 // of policies: quotas of an earlier one are forgotten
	periods    [2]string
	ends       [2]time.Time
	hour       *hour
	finished   []*hour        // hours before it that are yet to be written
	stored     map[string]int // hours that the store has, and their bytes there
	changed    map[*Account]struct{}
	dropped    []string // accounts that the store is to forget
	lost       int      // hours that the store has not taken in time
	written    time.Time
	prune      bool // there may be hours that the store is to forget
}

// Open returns a ledger that goes on from what the store has. An error says which
// of its records is wrong.
func Open(o Options) (*Ledger, error) {
	l := &Ledger{
		options: o, accounts: map[string]*Account{}, changed: map[*Account]struct{}{}, stored: map[string]int{}, prune: true,
	}
	now := time.Now().UTC()
	l.setPeriods(now)
	l.hour = newHour(hourOf(now), o.Rows)
	if o.Store == nil {
		return l, nil
	}
	if err := l.load(); err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	return l, nil
}

// Run writes what has changed every few seconds, and sees to it that an hour ends
// in time. It returns when ctx ends.
func (l *Ledger) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		wait := writeEvery
		if !l.write() {
			wait = retryEvery
		}
		now := time.Now()
		timer.Reset(min(wait, now.Truncate(time.Hour).Add(time.Hour).Sub(now)))
	}
}

// Close writes all that there is.
func (l *Ledger) Close() { l.write() }

// Forget forgets the quotas: there is another policy. Sessions that go on keep
// theirs until their identity is decided about again. What was used stays.
func (l *Ledger) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
}

// advance ends the hour, the day and the month where that is due: what was used
// until now is theirs. A clock that was set back has what is used from now on
// counted in an hour that was before, and leaves the accounts as they are.
// Called with l.mu held.
func (l *Ledger) advance() time.Time {
	now := time.Now().UTC()
	if l.hour.holds(now) {
		return now
	}
	for _, m := range l.live {
		l.fold(m)
	}
	l.turn(now)
	l.setPeriods(now)
	for _, m := range l.live {
		if m.account != nil {
			m.account.roll()
		}
	}
	return now
}

// sum looks at all open sessions. Called with l.mu held.
func (l *Ledger) sum() {
	l.advance()
	for _, m := range l.live {
		l.fold(m)
	}
}

func (l *Ledger) setPeriods(now time.Time) {
	l.periods = [2]string{now.Format(dayText), now.Format(monthText)}
	year, month, day := now.Date()
	l.ends = [2]time.Time{
		time.Date(year, month, day+1, 0, 0, 0, 0, time.UTC), time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC),
	}
}
