package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
)

func TestHealth(t *testing.T) {
	const up, down = "", "it hangs up"
	for name, c := range map[string]struct {
		marks string // + for a success, - for a failure
		want  string // the state after each
	}{
		"dies after three":         {"---", "++-"},
		"one failure is nothing":   {"--+--+--", "++++++++"},
		"returns after two":        {"---++", "++--+"},
		"one success is nothing":   {"---+-+-+", "++------"},
		"flaps at every turn":      {"-+-+-+-+", "++++++++"},
		"is told so for long":      {"------++++", "++-----+++"},
		"dies again after a while": {"---++--+---", "++--+++++" + "+-"},
	} {
		h := health{rise: 2, fall: 3, healthy: true}
		got, changes := "", 0
		for _, mark := range c.marks {
			reason := up
			if mark == '-' {
				reason = down
			}
			if h.mark(reason, time.Now()) {
				changes++
			}
			if h.healthy {
				got += "+"
			} else {
				got += "-"
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if want := turns("+" + c.want); changes != want {
			t.Errorf("%s: it tells of %d changes, not %d", name, changes, want)
		}
	}
}

func turns(states string) int {
	n := 0
	for i := 1; i < len(states); i++ {
		if states[i] != states[i-1] {
			n++
		}
	}
	return n
}

// What a client can bring about by its choice of a target speaks against nobody.
func TestAgainst(t *testing.T) {
	for _, c := range []struct {
		failure dial.Failure
		target  bool
		ready   bool
		took    time.Duration
		want    bool
	}{
		{dial.HopRefused, false, false, 0, true},
		{dial.HopUnreachable, false, false, 0, true},
		{dial.HopCertificate, false, false, 0, true},
		{dial.HopAuth, false, true, 0, true},
		{dial.HopMalformed, false, true, 0, true},
		{dial.HopTimeout, false, false, time.Second, true},
		{dial.HopTimeout, false, false, time.Second - 1, false}, // it had no time
		{dial.HopTimeout, false, true, time.Minute, false},      // it may wait for the target
		{dial.HopClosed, false, false, 0, true},
		{dial.HopClosed, false, true, 0, false},
		{dial.HopSource, false, false, 0, false},
		{dial.HopDenied, false, true, 0, false},
		{dial.HopRefused, true, true, 0, false},
		{dial.HopTimeout, true, true, time.Minute, false},
	} {
		if got := against(&dial.HopError{Failure: c.failure, Target: c.target}, c.ready, c.took); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// An upstream without a probe is let alone for a while, and then out at the first
// failure or in for good.
func TestRevival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := setOf("a", "b")
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		a := s.known["a"]
		refused := func() { s.note(a, "refused") }
		healthy := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if got := s.Upstreams()["a"].Healthy; got != want {
				t.Errorf("%s: healthy is %v", when, got)
			}
		}
		byOrder := policy.Hop{Any: []string{"a", "b"}}
		refused()
		refused()
		healthy("after two failures", true)
		refused()
		healthy("after three failures", false)
		if got := s.order(byOrder, ""); !slices.Equal(got, []string{"b", "a"}) {
			t.Errorf("who is not healthy is tried in the order %v", got)
		}
		s.known["b"].failed(time.Now())
		if got := s.order(byOrder, ""); !slices.Equal(got, []string{"b", "a"}) {
			t.Errorf("who has just failed is tried after who is not healthy: %v", got)
		}
		time.Sleep(rest - 1)
		healthy("before the while is over", false)
		time.Sleep(time.Nanosecond)
		healthy("after a while", true)
		refused()
		healthy("after it has failed again", false)
		time.Sleep(rest)
		s.note(a, "")
		refused()
		refused()
		healthy("after it has worked once", true)
		refused()
		healthy("after three failures more", false)
		s.note(a, "")
		healthy("after a session has gone through it", true)
		end()
		<-ended
	})
}

func TestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Upstreams: []Upstream{{
			Hop: &dial.Hop{Name: "a"}, Probe: Probe{To: dial.Endpoint{Name: "x", Port: 443}, Interval: 10 * time.Second, Timeout: 4 * time.Second, Rise: 2, Fall: 3},
		}}, Open: func(string) int64 { return 0 }, Log: setOf().log})
		var mu sync.Mutex
		var at []time.Duration
		start := time.Now()
		hangs := false
		s.try = func(ctx context.Context, m *member) error {
			mu.Lock()
			at = append(at, time.Since(start))
			hung := hangs
			mu.Unlock()
			if hung {
				<-ctx.Done()
				return &dial.HopError{Hop: "a", Failure: dial.HopTimeout}
			}
			return nil
		}
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		time.Sleep(100 * time.Second)
		synctest.Wait()
		mu.Lock()
		if len(at) < 9 || len(at) > 12 || at[0] > time.Second {
			t.Errorf("in 100 s it is probed at %v", at)
		}
		for i := 1; i < len(at); i++ {
			if pause := at[i] - at[i-1]; pause < 9*time.Second || pause > 11*time.Second {
				t.Errorf("probes follow after %v", pause)
			}
		}
		if len(at) > 2 && at[2]-at[1] == at[1]-at[0] {
			t.Error("there is no jitter")
		}
		hangs = true
		mu.Unlock()
		time.Sleep(3*15*time.Second + time.Second)
		synctest.Wait()
		if one := s.List()[0]; one.Healthy || one.Reason != "timeout" || one.Since.IsZero() {
			t.Errorf("after it has hung it is %+v", one)
		}
		end() // in the middle of a probe, perhaps
		<-ended
	})
}

// A probe that fails at an upstream before the one that it is of says nothing of it.
func TestProbesThroughOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Upstreams: []Upstream{{Hop: &dial.Hop{Name: "before"}}, {
			Hop: &dial.Hop{Name: "a"}, Probe: Probe{To: dial.Endpoint{Name: "x", Port: 443}, Via: []string{"before"}, Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1},
		}}, Open: func(string) int64 { return 0 }, Log: setOf().log})
		var failing atomic.Pointer[string]
		fails := func(hop string) { failing.Store(&hop); time.Sleep(10 * time.Second); synctest.Wait() }
		s.try = func(ctx context.Context, m *member) error {
			if hop := *failing.Load(); hop != "" {
				return &dial.HopError{Hop: hop, Failure: dial.HopRefused}
			}
			return nil
		}
		failing.Store(new(string))
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		for _, step := range []struct {
			hop     string
			healthy bool
		}{{"before", true}, {"a", false}, {"before", false}, {"", true}} {
			if fails(step.hop); s.List()[0].Healthy != step.healthy {
				t.Errorf("while %q fails it is %+v", step.hop, s.List()[0])
			}
		}
		if before := s.List()[1]; !before.Healthy {
			t.Errorf("the one before, which nobody probes, is %+v", before)
		}
		end()
		<-ended
	})
}

func TestCoarse(t *testing.T) {
	for latency, want := range map[time.Duration]int64{
		0: 0, time.Microsecond: 1, 400 * time.Microsecond: 1, 1499 * time.Microsecond: 1, 12 * time.Millisecond: 12, 99 * time.Millisecond: 99,
		104 * time.Millisecond: 100, 105 * time.Millisecond: 110, 994 * time.Millisecond: 990, 995 * time.Millisecond: 1000,
		1234 * time.Millisecond: 1200, 14999 * time.Millisecond: 15000,
	} {
		if got := Coarse(latency); got != want {
			t.Errorf("%v: %d, want %d", latency, got, want)
		}
	}
}

func TestReasons(t *testing.T) {
	for want, err := range map[string]error{
		"refused":        &dial.HopError{Hop: "a", Failure: dial.HopRefused},
		"timeout: no":    &dial.HopError{Hop: "a", Failure: dial.HopTimeout, Detail: "no"},
		"something else": errors.New("something else"),
		"it does not reach the probe's target: refused": &dial.HopError{Hop: "a", Failure: dial.HopRefused, Target: true},
	} {
		if got := reasonOf(fmt.Errorf("%w", err)); got != want {
			t.Errorf("%v: %q", err, got)
		}
	}
}
