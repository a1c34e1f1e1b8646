package usage

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/policy"
)

// shelf is a store in memory.
type shelf struct {
	mu     sync.Mutex
	of     map[string]map[string][]byte
	writes int
	refuse error
	slow   time.Duration // how long a write takes
}

func (s *shelf) Each(kind string, visit func(string, []byte) error) error {
	s.mu.Lock()
	all := maps.Clone(s.of[kind])
	s.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if err := visit(key, all[key]); err != nil {
			return err
		}
	}
	return nil
}

func (s *shelf) Write(changes []Change) error {
	time.Sleep(s.slow)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	s.writes++
	if s.of == nil {
		s.of = map[string]map[string][]byte{}
	}
	for _, c := range changes {
		if s.of[c.Kind] == nil {
			s.of[c.Kind] = map[string][]byte{}
		}
		if s.of[c.Kind][c.Key] = c.Value; c.Value == nil {
			delete(s.of[c.Kind], c.Key)
		}
	}
	return nil
}

func (s *shelf) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for kind, all := range s.of {
		if strings.HasPrefix(kind, prefix) {
			n += len(all)
		}
	}
	return n
}

func open(t testing.TB, s *shelf, change ...func(*Options)) *Ledger {
	t.Helper()
	o := Options{Retention: 48 * time.Hour, Rows: 100, Identities: 100, Log: slog.New(slog.DiscardHandler)}
	if s != nil {
		o.Store = s
	}
	for _, f := range change {
		f(&o)
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// session is one that is granted.
type session struct {
	Meter
	account  *Account
	up, down atomic.Int64
}

func (l *Ledger) begin(who, to string) *session {
	s := &session{}
	of := Of{User: who, Target: to, Country: "NL", Upstream: "direct"}
	if who != "" {
		s.account = l.Enter(who, true)
	}
	l.Begin(&s.Meter, s.account, of, &s.up, &s.down)
	return s
}

func (s *session) move(up, down int64) {
	s.up.Add(up)
	s.down.Add(down)
}

func (l *Ledger) end(s *session) {
	l.End(&s.Meter)
	if s.account != nil {
		l.Leave(s.account)
	}
}

func report(t testing.TB, l *Ledger, by Kind, since time.Duration) *Report {
	t.Helper()
	r, err := l.Report(by, since)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *Report) row(name string) Counts {
	for _, row := range r.Rows {
		if row.Name == name {
			return row.Counts
		}
	}
	return Counts{}
}

// at lets the bubble's clock come to a time.
func at(t *testing.T, when string) {
	t.Helper()
	to, err := time.Parse(time.RFC3339, when)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(to))
}

// What moves in an hour, a day and a month of UTC is theirs, of sessions that are
// open meanwhile too; a quota begins anew with its period.
func TestHoursDaysAndMonthsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at(t, "2000-03-30T23:10:00Z")
		store := &shelf{}
		l := open(t, store)
		go l.Run(t.Context())
		s := l.begin("identity:ann", "a.test")
		if wait := s.account.Hold(policy.Quota{Bytes: 1000, Per: policy.PerDay}); wait != 0 {
			t.Errorf("refused for %v", wait)
		}
		if got := s.account.Take(700); got != 700 {
			t.Errorf("700 of 1000: %d", got)
		}
		s.move(600, 100)
		want := policy.Usage{Bytes: policy.Span{Day: 700, Month: 700}, Connections: policy.Span{Day: 1, Month: 1}}
		if got := s.account.Usage(); got != want {
			t.Errorf("used %+v, want %+v", got, want)
		}
		if got := s.account.Take(700); got != 300 {
			t.Errorf("what is left of the day: %d", got)
		}
		s.move(300, 0)
		if wait := s.account.Hold(policy.Quota{}); wait != 50*time.Minute {
			t.Errorf("over quota until %v from now", wait)
		}
		at(t, "2000-03-31T00:00:00Z")
		synctest.Wait()
		if got := s.account.Take(700); got != 700 {
			t.Errorf("700 of another day: %d", got)
		}
		s.move(0, 700)
		// In Europe the clocks go forward in the night of the 26th of March: days are UTC's.
		want = policy.Usage{Bytes: policy.Span{Day: 700, Month: 1700}, Connections: policy.Span{Day: 1, Month: 1}}
		if got := s.account.Usage(); got != want {
			t.Errorf("used on the next day %+v, want %+v", got, want)
		}
		if wait := s.account.Hold(policy.Quota{Bytes: 1500, Per: policy.PerMonth}); wait != 24*time.Hour {
			t.Errorf("over the month's quota until %v from now", wait)
		}
		if got := s.account.Take(1); got != 0 {
			t.Errorf("over the month's quota: %d", got)
		}
		at(t, "2000-04-01T00:30:00Z")
		want = policy.Usage{Connections: policy.Span{Day: 1, Month: 1}}
		if got := s.account.Usage(); got != want {
			t.Errorf("used in another month %+v, want %+v", got, want)
		}
		if got := s.account.Take(5000); got != 1000 {
			t.Errorf("what is left of the day, and of the month: %d", got)
		}
		l.end(s)
		for since, want := range map[time.Duration]int64{time.Minute: 0, 24 * time.Hour: 700, 25 * time.Hour: 1700} {
			if got := report(t, l, User, since).row("identity:ann").Bytes; got.Up+got.Down != want {
				t.Errorf("in the last %v: %+v, want %d", since, got, want)
			}
		}
	})
}

// A clock that is set back neither ends a quota nor loses an hour. That of a bubble
// goes forward only, so the ledger is what is set forward.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, &shelf{})
		s := l.begin("identity:ann", "a.test")
		s.account.Hold(policy.Quota{Bytes: 100, Per: policy.PerDay})
		s.move(100, 0)
		l.sum()
		ahead := time.Now().Add(100 * time.Hour)
		l.turn(ahead)
		l.setPeriods(ahead)
		s.account.roll()
		s.move(40, 0)
		l.fold(&s.Meter)
		if l.periods[day] == time.Now().Format(dayText) {
			t.Fatal("the ledger is not ahead")
		}
		s.move(20, 0)
		if got := s.account.Usage().Bytes.Day; got != 60 {
			t.Errorf("%d bytes, once the clock is set back, want the 60 of the day ahead", got)
		}
		if wait := s.account.Hold(policy.Quota{Bytes: 60, Per: policy.PerDay}); wait == 0 {
			t.Error("a quota is forgotten when the clock is set back")
		}
		if got := report(t, l, Target, time.Hour).row("a.test").Bytes.Up; got != 160 {
			t.Errorf("%d bytes in the hour that was begun before and in the one ahead, want 160", got)
		}
	})
}

// All kinds add up to what was moved, whoever does it at the same time and whatever
// is too small for a row.
func TestAllKindsAddUp(t *testing.T) {
	store := &shelf{}
	l := open(t, store, func(o *Options) { o.Rows = 7; o.Identities = 10 })
	const workers, each = 8, 300
	var moved, denied, granted atomic.Int64
	var working sync.WaitGroup
	for w := range workers {
		working.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 7))
			for range each {
				of := Of{
					User: fmt.Sprint("identity:", random.IntN(40)), Target: fmt.Sprint(random.IntN(50), ".test"),
					Country: fmt.Sprint(random.IntN(9)), Upstream: fmt.Sprint(random.IntN(3)),
				}
				s := &session{account: l.Enter(of[User], random.IntN(2) == 0)}
				l.Begin(&s.Meter, s.account, of, &s.up, &s.down)
				granted.Add(1)
				for range random.IntN(4) {
					up, down := random.Int64N(1000), random.Int64N(1000)
					s.move(up, down)
					moved.Add(up + down)
					switch random.IntN(20) {
					case 0:
						l.write()
					case 1:
						s.account.Usage()
					case 2:
						l.Label(&s.Meter, "team=blue")
					case 3:
						l.Denied(of)
						denied.Add(1)
					}
				}
				l.end(s)
			}
		})
	}
	working.Wait()
	l.write()
	for _, from := range []*Ledger{l, open(t, store, func(o *Options) { o.Rows = 7 })} {
		for k := range kinds {
			r := report(t, from, k, time.Minute)
			if got := r.Total.Bytes.Up + r.Total.Bytes.Down; got != moved.Load() || r.Total.Denials != denied.Load() || r.Total.Connections != granted.Load() {
				t.Errorf("by %s: %+v, want %d bytes, %d denials, %d connections", k, r.Total, moved.Load(), denied.Load(), granted.Load())
			}
			if len(r.Rows) > 7 || k == Target && r.Other.Connections == 0 {
				t.Errorf("by %s: %d rows, and others %+v", k, len(r.Rows), r.Other)
			}
		}
	}
	if l.live = nil; len(l.accounts) > 20 {
		t.Errorf("%d accounts", len(l.accounts))
	}
}

// Ten thousand targets leave the largest their rows, and memory and store bounded.
func TestTargetsAreBounded(t *testing.T) {
	store := &shelf{}
	l := open(t, store)
	total := int64(0)
	for i := range 10_000 {
		s := l.begin("identity:ann", fmt.Sprintf("%d.test", i))
		n := int64(1)
		if i%1000 == 999 {
			n = 1_000_000 + int64(i)
		}
		s.move(0, n)
		total += n
		l.end(s)
		l.Denied(Of{Target: fmt.Sprintf("denied-%d.test", i)})
		if rows := len(l.hour.tables[Target].all); rows > 200 {
			t.Fatalf("%d rows", rows)
		}
	}
	l.write()
	for _, from := range []*Ledger{l, open(t, store)} {
		r := report(t, from, Target, time.Hour)
		if len(r.Rows) != 100 || r.Total.Bytes.Down != total || r.Total.Connections != 10_000 || r.Total.Denials != 10_000 {
			t.Errorf("%d rows, and in all %+v", len(r.Rows), r.Total)
		}
		for i := range 10 {
			if want := fmt.Sprintf("%d.test", 9999-1000*i); r.Rows[i].Name != want {
				t.Errorf("row %d is %s, want %s", i, r.Rows[i].Name, want)
			}
		}
	}
}

// What was written is there after a restart, and counted on; no account of a month
// before is.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at(t, "2000-01-31T22:00:00Z")
		store := &shelf{}
		l := open(t, store)
		s := l.begin("identity:ann", "a.test")
		s.move(70, 30)
		l.Close()
		s.move(1, 0) // the process is killed

		l = open(t, store)
		s = l.begin("identity:ann", "b.test")
		want := policy.Usage{Bytes: policy.Span{Day: 100, Month: 100}, Connections: policy.Span{Day: 2, Month: 2}}
		if got := s.account.Usage(); got != want {
			t.Errorf("used %+v, want %+v", got, want)
		}
		if wait := s.account.Hold(policy.Quota{Bytes: 100, Per: policy.PerMonth}); wait != 2*time.Hour {
			t.Errorf("over the quota until %v from now", wait)
		}
		l.end(s)
		l.Close()
		writes := store.writes
		l.Close()
		if store.writes != writes {
			t.Error("what has not changed is written")
		}
		at(t, "2000-02-01T05:00:00Z")
		l = open(t, store)
		l.Close()
		if n := store.count(kindAccount); n != 0 {
			t.Errorf("%d accounts of the month before", n)
		}
		if r := report(t, l, Target, 7*time.Hour); r.row("a.test") != (Counts{1, Bytes{70, 30}, 0}) || len(r.Rows) != 2 {
			t.Errorf("the hour before: %+v", r.Rows)
		}
		if r := report(t, l, Target, 6*time.Hour); len(r.Rows) != 0 {
			t.Errorf("in an hour since: %+v", r.Rows)
		}
	})
}

// Hours go when they are too old.
func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &shelf{}
		l := open(t, store)
		go l.Run(t.Context())
		s := l.begin("identity:ann", "a.test")
		time.Sleep(30 * time.Minute)
		for range 24 * 4 {
			s.move(1, 0)
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		if n := store.count("usage.target"); n < 48 || n > 50 {
			t.Errorf("the store has %d hours", n)
		}
		if got := report(t, l, Target, 1000*time.Hour).Total.Bytes.Up; got < 48 || got > 50 {
			t.Errorf("a report has %d", got)
		}
		if n := store.count(""); n > 5*50+1 {
			t.Errorf("the store has %d entries", n)
		}
	})
}

// A store that takes nothing is tried again, and what it missed is bounded.
func TestStoreRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &shelf{refuse: errors.New("disk full")}
		var log bytes.Buffer
		l := open(t, store, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)); o.Retention = 1000 * time.Hour })
		go l.Run(t.Context())
		s := l.begin("identity:ann", "a.test")
		for range 10 {
			s.move(1, 0)
			time.Sleep(time.Hour)
		}
		if got := report(t, l, User, 24*time.Hour).Total.Bytes.Up; got != 10 {
			t.Errorf("%d bytes before the store takes them", got)
		}
		store.mu.Lock()
		store.refuse = nil
		store.mu.Unlock()
		time.Sleep(retryEvery)
		synctest.Wait()
		if got := report(t, open(t, store), User, 24*time.Hour).Total.Bytes.Up; got != 10 {
			t.Errorf("%d bytes are written", got)
		}
		store.mu.Lock()
		store.refuse = errors.New("disk full")
		store.mu.Unlock()
		for range 60 {
			s.move(1, 0)
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		if len(l.finished) != mostFinished {
			t.Errorf("%d hours wait", len(l.finished))
		}
		if text := log.String(); strings.Count(text, "tried again") != 2 || !strings.Contains(text, "written again") || !strings.Contains(text, "hours are lost") {
			t.Errorf("the log: %s", text)
		}
	})
}

// Others never displace proved identities, and those that are open stay.
func TestAccountsAreBounded(t *testing.T) {
	store := &shelf{}
	l := open(t, store, func(o *Options) { o.Identities = 40 })
	ann := l.begin("identity:ann", "a.test")
	ann.move(1, 0)
	l.end(ann)
	bob := l.Enter("claimed:bob", false)
	for i := range 1000 {
		l.Leave(l.Enter(fmt.Sprint("claimed:", i), false))
		if i%100 == 0 {
			l.write()
		}
	}
	if len(l.accounts) != 1+10 || l.accounts["claimed:bob"] != bob {
		t.Errorf("%d accounts", len(l.accounts))
	}
	if got := l.begin("identity:ann", "a.test").account.Usage().Bytes.Day; got != 1 {
		t.Errorf("ann has used %d", got)
	}
	for i := range 100 {
		s := l.begin(fmt.Sprint("identity:", i), "a.test")
		l.end(s)
		l.write()
	}
	if n := store.count(kindAccount); n > 40 {
		t.Errorf("the store has %d accounts", n)
	}
}

// A new policy forgets the numbers, not what was used; sessions keep theirs until
// their identity is decided about.
func TestNewPolicy(t *testing.T) {
	l := open(t, nil)
	s := l.begin("identity:ann", "a.test")
	s.account.Hold(policy.Quota{Bytes: 100, Per: policy.PerDay})
	s.account.Hold(policy.Quota{Bytes: 70, Per: policy.PerMonth}) // both hold
	s.move(60, 0)
	s.account.Hold(policy.Quota{})
	if got := s.account.Take(50); got != 10 {
		t.Errorf("of the strictest %d are left", got)
	}
	l.Forget()
	if got := s.account.Take(50); got != 0 {
		t.Errorf("the session has %d more", got)
	}
	s.account.Hold(policy.Quota{})
	if got := s.account.Take(5000); got != 5000 {
		t.Errorf("without a quota %d", got)
	}
	if wait := s.account.Hold(policy.Quota{Bytes: 60, Per: policy.PerDay}); wait == 0 {
		t.Error("what was used is forgotten")
	}
}

// Sessions that draw at the same time get no more than there is.
func TestTakenTogether(t *testing.T) {
	l := open(t, nil)
	a := l.Enter("identity:ann", true)
	a.Hold(policy.Quota{Bytes: 1 << 20, Per: policy.PerDay})
	var taken atomic.Int64
	var taking sync.WaitGroup
	for range 8 {
		s := &session{account: a}
		l.Begin(&s.Meter, a, Of{}, &s.up, &s.down)
		taking.Go(func() {
			for i := range 10_000 {
				n := a.Take(1 + i%999)
				s.move(int64(n), 0) // at once, so that nothing is on its way
				taken.Add(int64(n))
				if i%1000 == 0 {
					l.write()
				}
			}
		})
	}
	taking.Wait()
	// What one of them has just taken and not yet moved is worked out as left.
	if got := taken.Load(); got < 1<<20 || got > 1<<20+8*999 {
		t.Errorf("%d of %d", got, 1<<20)
	}
	if got := a.Usage().Bytes.Day; got != taken.Load() {
		t.Errorf("used %d, taken %d", got, taken.Load())
	}
}

func TestLoadRefuses(t *testing.T) {
	for want, s := range map[string]*shelf{
		`the account of "identity:ann": it is no account`:        {of: map[string]map[string][]byte{kindAccount: {"identity:ann": []byte("x")}}},
		`the account of "identity:ann": a number in it`:          {of: map[string]map[string][]byte{kindAccount: {"identity:ann": []byte(`{"day": {"bytes": -1}}`)}}},
		`usage.target.05 has "yesterday", which is no hour`:      {of: map[string]map[string][]byte{"usage.target.05": {"yesterday": nil}}},
		"usage.user." + time.Now().UTC().Format("02") + " of 20": {of: map[string]map[string][]byte{"usage.user." + time.Now().UTC().Format("02"): {time.Now().UTC().Format(hourText): []byte("x")}}},
	} {
		if _, err := Open(Options{Rows: 10, Identities: 10, Store: s}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func FuzzRows(f *testing.F) {
	t := newTable(10)
	t.add("a.test", Counts{1, Bytes{2, 3}, 4})
	t.add("\xff", Counts{})
	t.other = Counts{5, Bytes{6, 7}, 8}
	r := t.copy().top()
	var e encoder
	f.Add(e.encode(r))
	f.Add(e.encode(rows{}))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decodeRows(value)
		if err != nil {
			return
		}
		again, err := decodeRows(new(encoder).encode(r))
		if err != nil || !slices.Equal(again.rows, r.rows) || again.other != r.other {
			t.Errorf("%+v, %v; want %+v", again, err, r)
		}
	})
}

func FuzzAccount(f *testing.F) {
	f.Add([]byte(`{"other": true, "day": {"of": "2026-11-28", "bytes": 1, "connections": 2}, "month": {"of": "2026-11", "bytes": 3, "connections": 4}}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decodeAccount(value)
		if err != nil {
			return
		}
		if again, err := decodeAccount(r.encode()); err != nil || *again != *r {
			t.Errorf("%+v, %v; want %+v", again, err, r)
		}
	})
}

func BenchmarkSession(b *testing.B) {
	l := open(b, nil)
	var up, down atomic.Int64
	var m Meter
	of := Of{"identity:ann", "a.test", "NL", "direct", ""}
	b.ReportAllocs()
	for b.Loop() {
		a := l.Enter("identity:ann", true)
		a.Hold(policy.Quota{})
		l.Begin(&m, a, of, &up, &down)
		up.Add(100)
		l.End(&m)
		l.Leave(a)
	}
}

func BenchmarkSum(b *testing.B) {
	l := open(b, nil)
	sessions := make([]*session, 10_000)
	for i := range sessions {
		sessions[i] = l.begin(fmt.Sprint("identity:", i%50), fmt.Sprint(i%80, ".test"))
	}
	for b.Loop() {
		for _, s := range sessions {
			s.move(1, 1)
		}
		l.write()
	}
}

// What keeps sessions waiting while an hour of as many rows as there may be is
// written: what is taken of it, and neither to put it in order nor to write it.
func BenchmarkSnapshot(b *testing.B) {
	l, err := Open(Options{Rows: 1000, Identities: 1000, Store: new(shelf), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 2000 {
		name := fmt.Sprint(i * 7919 % 2000)
		l.hour.add(&Of{name, name, name, name, name}, Counts{Bytes: Bytes{Up: int64(i)}})
	}
	b.ReportAllocs()
	for b.Loop() {
		l.hour.dirty = true
		l.snapshot()
	}
}

// What moved before midnight, and nobody has looked at, is the day's before.
func TestWhatMovedBeforeMidnight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at(t, "2000-03-30T23:59:58Z")
		l := open(t, nil)
		s := l.begin("identity:ann", "a.test")
		s.move(50, 0)
		at(t, "2000-03-31T00:00:01Z")
		if got := s.account.Usage().Bytes; got != (policy.Span{Day: 0, Month: 50}) {
			t.Errorf("used %+v", got)
		}
	})
}

// An hour that ends while the store is about to refuse it is written by the next.
func TestHourEndsWhileItIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at(t, "2000-03-30T23:59:59Z")
		store := &shelf{refuse: errors.New("disk full"), slow: 10 * time.Second}
		l := open(t, store)
		s := l.begin("identity:ann", "a.test")
		s.move(7, 0)
		l.end(s)
		go l.write()
		at(t, "2000-03-31T00:00:05Z")
		l.Denied(Of{Target: "b.test"})
		if got := report(t, l, Target, 2*time.Hour).Total; got.Bytes.Up != 7 || got.Denials != 1 {
			t.Errorf("while it is written: %+v", got)
		}
		at(t, "2000-03-31T00:01:00Z")
		store.mu.Lock()
		store.refuse = nil
		store.mu.Unlock()
		l.Close()
		if got := report(t, open(t, store), Target, 2*time.Hour).Total; got.Bytes.Up != 7 || got.Denials != 1 {
			t.Errorf("what is written in the end: %+v", got)
		}
	})
}

// Who has many sessions open does not have them all looked at for each one more, with
// a quota or none; they draw from what is left of it all the same.
func TestManySessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, nil)
		all := make([]*session, 1000)
		for i := range all {
			all[i] = l.begin("identity:ann", "a.test")
		}
		a := all[0].account
		for _, q := range []policy.Quota{{}, {Bytes: 5000, Per: policy.PerDay}} {
			a.Hold(q)
			looked := a.summed
			time.Sleep(time.Millisecond)
			if a.Hold(q); a.summed != looked {
				t.Errorf("%v: all sessions are looked at for one more", q)
			}
		}
		if got := a.Take(1000); got != 1000 {
			t.Errorf("%d of 1000", got)
		}
		all[7].move(1000, 0)
		a.Hold(policy.Quota{Bytes: 5000, Per: policy.PerDay})
		if got := a.Take(5000); got != 4000 {
			t.Errorf("%d of the 4000 that are left", got)
		}
		all[8].move(0, 4000)
		time.Sleep(time.Second)
		if a.Hold(policy.Quota{Bytes: 5000, Per: policy.PerDay}) == 0 {
			t.Error("it is not seen a moment later that the quota is used up")
		}
		if a.Hold(policy.Quota{Bytes: 9000, Per: policy.PerDay}) != 0 || a.Take(9000) != 4000 {
			t.Error("another quota does not count at once")
		}
		if l.Forget(); a.Hold(policy.Quota{}) != 0 || a.Take(9000) != 9000 {
			t.Error("a quota outlives its policy")
		}
	})
}
