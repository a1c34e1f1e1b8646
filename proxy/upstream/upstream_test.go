package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
)

func setOf(names ...string) *Set {
	var known []Upstream
	for _, name := range names {
		known = append(known, Upstream{Hop: &dial.Hop{Name: name, Local: name == "local"}})
	}
	return New(Options{Upstreams: known, Dialer: &dial.Dialer{}, Open: func(string) int64 { return 0 }, Log: slog.New(slog.DiscardHandler)})
}

func (s *Set) order(hop policy.Hop, key string) []string {
	var names []string
	for _, m := range s.choices(hop, key, time.Now()) {
		names = append(names, m.hop.Name)
	}
	return names
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := setOf("a", "b", "c")
		all := []string{"c", "a", "b"}
		if got := s.order(policy.Hop{Any: []string{"c", "a", "c", "b"}}, ""); !slices.Equal(got, all) {
			t.Errorf("by order: %v", got)
		}
		byLatency := policy.Hop{Any: all, By: policy.ByLatency}
		s.known["c"].ready(30 * time.Millisecond)
		s.known["a"].ready(10 * time.Millisecond)
		if got := s.order(byLatency, ""); !slices.Equal(got, []string{"b", "a", "c"}) {
			t.Errorf("who was never tried is not measured first: %v", got)
		}
		s.known["b"].ready(20 * time.Millisecond)
		if got := s.order(byLatency, ""); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("by latency: %v", got)
		}
		for range 20 {
			s.known["a"].ready(time.Second)
		}
		if got := s.order(byLatency, ""); !slices.Equal(got, []string{"b", "c", "a"}) {
			t.Errorf("after it has become slow: %v", got)
		}
		s.known["b"].failed(time.Now())
		if got := s.order(byLatency, ""); !slices.Equal(got, []string{"c", "a", "b"}) {
			t.Errorf("after it has failed: %v", got)
		}
		time.Sleep(shunFor)
		if got := s.order(byLatency, ""); !slices.Equal(got, []string{"b", "c", "a"}) {
			t.Errorf("a while after it has failed: %v", got)
		}
	})
}

func TestHash(t *testing.T) {
	s := setOf("a", "b", "c")
	all, fewer := policy.Hop{Any: []string{"a", "b", "c"}, By: policy.ByHash}, policy.Hop{Any: []string{"c", "a"}, By: policy.ByHash}
	first := map[string]int{}
	for i := range 3000 {
		key := fmt.Sprint("user-", i)
		order := s.order(all, key)
		first[order[0]]++
		if again := s.order(all, key); !slices.Equal(order, again) {
			t.Fatalf("%v, then %v", order, again)
		}
		without := slices.DeleteFunc(slices.Clone(order), func(name string) bool { return name == "b" })
		if got := s.order(fewer, key); !slices.Equal(got, without) {
			t.Fatalf("without b %v becomes %v", order, got)
		}
		named := all
		named.Key = key
		if got := s.order(named, "another"); !slices.Equal(got, order) {
			t.Fatalf("the policy's key leads to %v, not %v", got, order)
		}
	}
	for name, n := range first {
		if n < 900 || n > 1100 {
			t.Errorf("%s is first for %d of 3000", name, n)
		}
	}
	if random := (policy.Hop{Any: all.Any, By: policy.ByRandom}); true {
		first := map[string]bool{}
		for range 200 {
			first[s.order(random, "")[0]] = true
		}
		if len(first) != 3 {
			t.Errorf("by random only %v come first", first)
		}
	}
}

type nobody struct{}

func (nobody) Began(string)                                      {}
func (nobody) Ready(string, time.Duration)                       {}
func (nobody) Done(string, netip.AddrPort, time.Duration, error) {}

func TestReachNeedsAChoice(t *testing.T) {
	s := setOf("a")
	if err := s.Check(policy.Via{{Any: []string{"a"}}, {Any: []string{"b"}}}); err == nil || err.Error() != `there is no upstream "b"` {
		t.Error(err)
	}
	_, err := s.Reach(context.Background(), policy.Via{{Any: []string{"a"}}, {}}, dial.Trip{Watch: nobody{}})
	if !errors.Is(err, dial.ErrNoHop) {
		t.Error(err)
	}
}
