package guard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// shelf is a keeper in memory, which can be full.
type shelf struct {
	mu     sync.Mutex
	kept   map[string]string
	full   error
	writes int
	during func() // called while a write is under way
}

func (s *shelf) Each(visit func(of string, ban []byte) error) error {
	for of, text := range s.kept {
		if err := visit(of, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

func (s *shelf) Keep(changes map[string][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.during != nil {
		s.during()
	}
	if s.full != nil {
		return s.full
	}
	for of, text := range changes {
		if s.kept[of] = string(text); text == nil {
			delete(s.kept, of)
		}
	}
	return nil
}

func restored(t *testing.T, size int, s *shelf) *Guard {
	t.Helper()
	g := New(size)
	if err := g.Restore(s); err != nil {
		t.Fatal(err)
	}
	return g
}

func newShelf() *shelf { return &shelf{kept: map[string]string{}} }

func net24(n int) Subject {
	return Of(netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", n>>8, n&255)))
}

func inForce(g *Guard) map[string]time.Time {
	list := map[string]time.Time{}
	for _, b := range g.Bans() {
		list[b.Of.String()] = b.Until
	}
	return list
}

// What an operator sets or lifts is kept when the call returns; where it cannot
// be kept, nothing has changed.
func TestWhatAnOperatorSetsIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		g := restored(t, 10, s)
		until := time.Now().Add(time.Hour)
		if err := g.Set(Ban{Of: net24(1), Until: until, Cause: "one"}, Ban{Of: Identity("ann", false)}); err != nil {
			t.Fatal(err)
		}
		again := restored(t, 10, s)
		for _, b := range again.Bans() {
			if b.Of == net24(1) && (!b.Until.Equal(until) || b.Cause != "one" || !b.Since.Equal(time.Now())) {
				t.Errorf("%+v", b)
			}
		}
		if got := inForce(again); len(got) != 2 || !got["identity:ann"].IsZero() {
			t.Errorf("%v", got)
		}

		s.full = errors.New("no space")
		before := maps.Clone(s.kept)
		err := g.Set(Ban{Of: net24(1), Until: until.Add(time.Hour)}, Ban{Of: net24(2)})
		if !errors.As(err, new(*NotKeptError)) || !errors.Is(err, s.full) {
			t.Errorf("set: %v", err)
		}
		if _, err := g.Lift(net24(1), Identity("ann", false)); !errors.As(err, new(*NotKeptError)) {
			t.Errorf("lift: %v", err)
		}
		if got := inForce(g); len(got) != 2 || !got["10.0.1.0/24"].Equal(until) || !maps.Equal(before, s.kept) {
			t.Errorf("what was refused has changed something: %v", got)
		}

		s.full = nil
		if n, err := g.Lift(net24(1), net24(7)); n != 1 || err != nil {
			t.Errorf("lift: %d %v", n, err)
		}
		if got := inForce(restored(t, 10, s)); len(got) != 1 {
			t.Errorf("a lifted ban is back: %v", got)
		}
	})
}

// What policies decide is in force at once, is kept together, and is kept at the
// latest when the program ends.
func TestWhatAPolicyDecidesIsKeptBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		g := restored(t, 1000, s)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { g.Keep(ctx, func(err error) { t.Error(err) }); close(done) }()
		for i := range 500 {
			if err := g.Ban(net24(i), time.Hour, "policy"); err != nil {
				t.Fatal(err)
			}
		}
		if s.writes != 0 || g.ActiveBans() != 500 {
			t.Errorf("%d writes, %d bans", s.writes, g.ActiveBans())
		}
		time.Sleep(gather)
		synctest.Wait()
		if s.writes != 1 || len(s.kept) != 500 {
			t.Errorf("%d writes of %d bans", s.writes, len(s.kept))
		}
		// While a write is under way, connections go on.
		s.during = func() {
			if g.Banned(Address(netip.MustParseAddr("10.0.0.1"))) == nil || g.Ban(net24(601), time.Hour, "policy") != nil {
				t.Error("nobody can be banned")
			}
			s.during = nil
		}
		g.Ban(net24(600), time.Hour, "policy")
		time.Sleep(gather)
		synctest.Wait()
		stop()
		<-done
		if len(s.kept) != 502 {
			t.Errorf("%d bans are kept after the end", len(s.kept))
		}
	})
}

// A ban that is over is put in force no more, nor kept for ever.
func TestBansThatAreOverAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		g := restored(t, 10, s)
		now := time.Now()
		if err := g.Set(Ban{Of: net24(1), Until: now.Add(time.Minute)}, Ban{Of: net24(2), Until: now.Add(time.Hour)}, Ban{Of: net24(3)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if g = restored(t, 10, s); g.ActiveBans() != 2 || g.Banned(Address(netip.MustParseAddr("10.0.1.1"))) != nil {
			t.Errorf("%v", inForce(g))
		}
		ended, end := context.WithCancel(t.Context())
		end()
		g.Keep(ended, func(err error) { t.Error(err) })
		if len(s.kept) != 2 {
			t.Errorf("%v", s.kept)
		}
		time.Sleep(time.Hour)
		g.Keep(ended, func(err error) { t.Error(err) }) // without a restart
		if len(s.kept) != 1 {
			t.Errorf("%v", s.kept)
		}
	})
}

// A keeper that takes nothing costs no ban, and gets all of it when it does again.
func TestKeeperThatIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		g := restored(t, 20, s)
		if err := g.Set(Ban{Of: net24(999), Until: time.Now().Add(time.Minute)}); err != nil { // the first to give way
			t.Fatal(err)
		}
		s.full = errors.New("no space")
		var told []error
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { g.Keep(ctx, func(err error) { told = append(told, err) }); close(done) }()
		for i := range 100 { // more than there may be bans, and than are remembered one by one
			g.Ban(net24(i), time.Hour+time.Duration(i)*time.Second, "policy")
		}
		time.Sleep(gather + 2*keepAgain)
		synctest.Wait()
		if len(told) != 3 || !errors.Is(told[0], s.full) || g.ActiveBans() != 20 {
			t.Errorf("told %v, %d bans", told, g.ActiveBans())
		}
		g.bans.mu.Lock()
		if n := len(g.bans.stale); n > 2*20 {
			t.Errorf("%d subjects wait", n)
		}
		g.bans.mu.Unlock()
		s.mu.Lock()
		s.full = nil
		s.mu.Unlock()
		time.Sleep(keepAgain)
		synctest.Wait()
		if len(told) != 4 || told[3] != nil {
			t.Errorf("told %v", told)
		}
		stop()
		<-done
		if got, want := inForce(restored(t, 20, s)), inForce(g); len(s.kept) != 20 || !maps.EqualFunc(got, want, time.Time.Equal) {
			t.Errorf("kept %v\nwant %v", got, want)
		}
	})
}

// Whatever changes while something is being kept is kept the next time.
func TestBansThatChangeWhileTheyAreKept(t *testing.T) {
	s := newShelf()
	g := restored(t, 50, s)
	until := time.Now().Add(time.Hour)
	var all sync.WaitGroup
	for who := range 4 {
		all.Go(func() {
			for i := range 300 {
				of := net24(who*20 + i%20)
				g.Ban(of, time.Hour+time.Duration(i)*time.Second, "policy")
				g.Banned(Address(of.prefix.Addr()))
				switch {
				case i%7 == 0:
					g.Lift(of)
				case i%11 == 0:
					g.Set(Ban{Of: of, Until: until})
				}
			}
		})
	}
	changing := make(chan struct{})
	go func() { all.Wait(); close(changing) }()
	for i := 0; ; i++ {
		s.mu.Lock()
		if s.full = nil; i%3 == 0 {
			s.full = errors.New("no space")
		}
		s.mu.Unlock()
		g.bans.flush()
		select {
		case <-changing:
		default:
			continue
		}
		break
	}
	s.full = nil
	if err := g.bans.flush(); err != nil {
		t.Fatal(err)
	}
	if got, want := inForce(restored(t, 50, s)), inForce(g); len(got) != 50 || !maps.EqualFunc(got, want, time.Time.Equal) {
		t.Errorf("kept %v\nwant %v", got, want)
	}
}

// A list is set as a whole or not at all.
func TestSetWhenFull(t *testing.T) {
	s := newShelf()
	g := restored(t, 10, s)
	hour := time.Now().Add(time.Hour)
	var list []Ban
	for i := range 8 {
		list = append(list, Ban{Of: net24(i), Until: hour})
	}
	if err := g.Set(list...); err != nil {
		t.Fatal(err)
	}
	if err := g.Set(Ban{Of: net24(8)}, Ban{Of: net24(9)}, Ban{Of: net24(10)}, Ban{Of: net24(1)}); !errors.Is(err, ErrBansFull) || len(s.kept) != 8 {
		t.Errorf("%v, %d are kept", err, len(s.kept))
	}
	if err := g.Set(Ban{Of: net24(8)}, Ban{Of: net24(9)}, Ban{Of: net24(1)}, Ban{Of: net24(1), Until: hour}); err != nil {
		t.Error(err)
	}
	// One more, and one gives way; unless it is that one.
	if err := g.Set(Ban{Of: net24(10), Until: time.Now().Add(time.Minute)}); !errors.Is(err, ErrBansFull) {
		t.Error(err)
	}
	if err := g.Set(Ban{Of: net24(10)}); err != nil || g.ActiveBans() != 10 {
		t.Error(err, g.ActiveBans())
	}
	if err := g.bans.flush(); err != nil || len(s.kept) != 10 || s.kept["10.0.10.0/24"] == "" {
		t.Error(err, s.kept)
	}
}

func TestRestoreWhatIsNoBan(t *testing.T) {
	for of, text := range map[string]string{"192.0.2.0/24": "x", "nobody": `{"since":"2026-01-01T00:00:00Z","cause":""}`} {
		if err := New(10).Restore(&shelf{kept: map[string]string{of: text}}); err == nil || !strings.Contains(err.Error(), of) {
			t.Errorf("%v", err)
		}
	}
}
