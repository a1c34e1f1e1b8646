package dial

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// counting is a resolver whose questions are answered by a function, and counted.
type counting struct {
	*Resolver
	mu    sync.Mutex
	asked map[question]int
}

func counted(t testing.TB, o ResolverOptions, reply func(ctx context.Context, q question) *answer) *counting {
	c := &counting{Resolver: NewResolver(o), asked: map[question]int{}}
	c.hosts = func() map[string][]netip.Addr { return nil }
	c.ask = func(ctx context.Context, q question) *answer {
		c.mu.Lock()
		c.asked[q]++
		c.mu.Unlock()
		return reply(ctx, q)
	}
	t.Cleanup(c.Close)
	return c
}

func (c *counting) times(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[question{name, dns.TypeA}]
}

// replying reads an answer as if a server had sent those records.
func replying(rcode int, authority string, records ...string) func(context.Context, question) *answer {
	return func(_ context.Context, q question) *answer {
		m := new(dns.Msg)
		m.SetQuestion(q.name, q.kind)
		m.Rcode = rcode
		if authority != "" {
			m.Ns = append(m.Ns, record(m, authority))
		}
		return readAnswer(q, of(records...)(m, ""))
	}
}

func TestCache(t *testing.T) {
	const soa = "example. 300 SOA ns.example. host.example. 1 1 1 1 "
	for _, test := range []struct {
		name     string
		min, max time.Duration
		reply    func(context.Context, question) *answer
		kept     time.Duration // 0: not at all
	}{
		{"an answer", 0, time.Hour, replying(0, "", "$ 60 A 127.0.0.1"), time.Minute},
		{"the shortest record", 0, time.Hour, replying(0, "", "$ 60 A 127.0.0.1", "$ 30 A 127.0.0.2"), 30 * time.Second},
		{"the shortest of the chain", 0, time.Hour, replying(0, "", "$ 20 CNAME one.example.", "one.example. 60 A 127.0.0.1"), 20 * time.Second},
		{"not that of other records", 0, time.Hour, replying(0, "", "$ 60 A 127.0.0.1", "other.example. 1 A 127.0.0.2"), time.Minute},
		{"at most", 0, 10 * time.Second, replying(0, "", "$ 60 A 127.0.0.1"), 10 * time.Second},
		{"at least", 90 * time.Second, time.Hour, replying(0, "", "$ 60 A 127.0.0.1"), 90 * time.Second},
		{"once only", 0, time.Hour, replying(0, "", "$ 0 A 127.0.0.1"), 0},
		{"a time that is none", 0, time.Hour, replying(0, "", "$ 2147483648 A 127.0.0.1"), 0},
		{"no such name", 0, time.Hour, replying(dns.RcodeNameError, soa+"40"), 40 * time.Second},
		{"no address", 0, time.Hour, replying(0, soa+"40"), 40 * time.Second},
		{"no address for very long", 0, time.Hour, replying(0, "example. 99999 SOA ns.example. host.example. 1 1 1 1 99999"), time.Minute},
		{"the SOA's own time", 0, time.Hour, replying(0, "example. 7 SOA ns.example. host.example. 1 1 1 1 40"), 7 * time.Second},
		{"no address, and nobody says for how long", 0, time.Hour, replying(0, ""), 0},
		{"the SOA of another zone", 0, time.Hour, replying(0, "other. 300 SOA ns.other. host.other. 1 1 1 1 40"), 0},
		{"a failure", 0, time.Hour, replying(dns.RcodeServerFailure, ""), failureKept},
		{"a loop", 0, time.Hour, replying(0, "", "$ 1000 CNAME $"), failureKept},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := counted(t, ResolverOptions{Family: IPv4, Entries: 10, MinTTL: test.min, MaxTTL: test.max, NegativeTTL: time.Minute}, test.reply)
				defer c.Close()
				first, err := c.Lookup(t.Context(), "name.example")
				if first.Cached {
					t.Error("the first is cached")
				}
				ask := func(after time.Duration, want int) {
					t.Helper()
					time.Sleep(after)
					found, again := c.Lookup(t.Context(), "name.example")
					if got := c.times("name.example."); got != want {
						t.Errorf("asked %d times, want %d", got, want)
					}
					if fmt.Sprint(again) != fmt.Sprint(err) || len(found.Addresses) != len(first.Addresses) {
						t.Errorf("at first %v, %v, then %v, %v", first, err, found, again)
					}
				}
				if test.kept == 0 {
					ask(0, 2)
					return
				}
				ask(test.kept-1, 1)
				ask(1, 2)
				c.Forget()
				ask(0, 3)
			})
		})
	}
}

// However many names are asked about, the cache has a bound; and what was used
// last stays.
func TestCacheIsBounded(t *testing.T) {
	c := counted(t, ResolverOptions{Family: IPv4, Entries: 10, MaxTTL: time.Hour}, replying(0, "", "$ 60 A 127.0.0.1"))
	for i := range 1000 {
		c.Lookup(t.Context(), fmt.Sprintf("n%d.example", i))
		c.Lookup(t.Context(), "often.example")
	}
	if n := c.kept.Len(); n != 10 {
		t.Errorf("%d entries", n)
	}
	if n := c.times("often.example."); n != 1 {
		t.Errorf("a name in use was asked about %d times", n)
	}
	if c.Lookup(t.Context(), "n0.example"); c.times("n0.example.") != 2 {
		t.Error("the oldest was kept")
	}
}

// Whoever asks what is being asked already waits for that answer.
func TestOneFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := counted(t, ResolverOptions{Family: IPv4, Entries: 10, MaxTTL: time.Hour}, func(ctx context.Context, q question) *answer {
			select {
			case <-time.After(time.Second):
				return replying(0, "", "$ 60 A 127.0.0.1")(ctx, q)
			case <-ctx.Done():
				return failed("timeout", "called off", ErrResolveTimeout)
			}
		})
		defer c.Close()
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if found, err := c.Lookup(t.Context(), "name.example"); err != nil || len(found.Addresses) != 1 {
					t.Errorf("got %v, %v", found, err)
				}
			})
		}
		gone, leave := context.WithCancel(t.Context())
		all.Go(func() { // who leaves does not disturb the others
			if _, err := c.Lookup(gone, "name.example"); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		leave()
		all.Wait()
		if n := c.times("name.example."); n != 1 {
			t.Errorf("asked %d times", n)
		}

		// The last who leaves calls the question off, and that is not remembered.
		gone, leave = context.WithCancel(t.Context())
		all.Go(func() { c.Lookup(gone, "other.example") })
		synctest.Wait()
		leave()
		all.Wait()
		synctest.Wait()
		if len(c.flights) != 0 || len(c.slots) != 0 {
			t.Errorf("%d questions go on", len(c.flights))
		}
		if found, err := c.Lookup(t.Context(), "other.example"); err != nil || c.times("other.example.") != 2 {
			t.Errorf("got %v, %v", found, err)
		}
	})
}

func TestQuestionsAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		c := counted(t, ResolverOptions{Entries: 10_000, MaxTTL: time.Hour}, func(ctx context.Context, q question) *answer {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return replying(0, "", "$ 60 A 127.0.0.1", "$ 60 AAAA ::1")(ctx, q)
		})
		defer c.Close()
		var all sync.WaitGroup
		for i := range 2000 {
			all.Go(func() {
				if _, err := c.Lookup(t.Context(), fmt.Sprintf("n%d.example", i)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		mu.Lock()
		defer mu.Unlock()
		if most != maxQuestions {
			t.Errorf("%d at once", most)
		}
	})
}

// One family's addresses do not wait long for the other's, which are remembered
// when they come.
func TestResolutionDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := counted(t, ResolverOptions{Entries: 10, MaxTTL: time.Hour}, func(ctx context.Context, q question) *answer {
			if q.kind == dns.TypeAAAA {
				time.Sleep(3 * time.Second)
			}
			return replying(0, "", "$ 60 A 127.0.0.1", "$ 60 AAAA ::1")(ctx, q)
		})
		defer c.Close()
		for i, want := range []int{1, 1, 2} {
			begun := time.Now()
			found, err := c.Lookup(t.Context(), "name.example")
			if took := time.Since(begun); err != nil || took > resolutionDelay || len(found.Addresses) != want {
				t.Errorf("%d: got %v, %v after %v", i, found, err, took)
			}
			if i == 1 {
				time.Sleep(3 * time.Second)
			}
		}
	})
}

func TestClosedResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := counted(t, ResolverOptions{Entries: 10, MaxTTL: time.Hour}, func(ctx context.Context, q question) *answer {
			<-ctx.Done()
			return failed("timeout", "called off", ErrResolveTimeout)
		})
		var err error
		var waiting sync.WaitGroup
		waiting.Go(func() { _, err = c.Lookup(t.Context(), "name.example") })
		synctest.Wait()
		c.Close()
		waiting.Wait()
		if !errors.Is(err, ErrResolveTimeout) {
			t.Errorf("got %v", err)
		}
	})
}

func BenchmarkLookupCached(b *testing.B) {
	c := counted(b, ResolverOptions{Entries: 10, MaxTTL: time.Hour}, replying(0, "", "$ 3600 A 127.0.0.1", "$ 3600 AAAA ::1"))
	c.options.Family = PreferIPv6
	b.ReportAllocs()
	for b.Loop() {
		if found, err := c.Lookup(b.Context(), "name.example"); err != nil || len(found.Addresses) != 2 {
			b.Fatal(found, err)
		}
	}
}

func BenchmarkLookupUncached(b *testing.B) {
	s := serveNames(b, of("$ A 127.0.0.1", "$ AAAA ::1"))
	r := resolving(b, ResolverOptions{Servers: []Server{s.over(UDP)}, Timeout: time.Second, Family: PreferIPv6})
	b.ReportAllocs()
	for b.Loop() {
		r.Forget()
		if _, err := r.Lookup(b.Context(), "name.example"); err != nil {
			b.Fatal(err)
		}
	}
}
