package guard

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// enter and leave are a connection without a life of its own.
func enter(g *Guard, ip netip.Addr) Counts {
	v, _ := g.Enter(Address(ip), 0)
	return v.Counts
}

func leave(g *Guard, ip netip.Addr) { (&Visit{guard: g, source: Address(ip)}).Leave() }

func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(100)
		ip := netip.MustParseAddr("192.0.2.1")
		if got := enter(g, ip); got != (Counts{RateSecond: 1, RateMinute: 1}) {
			t.Errorf("the first connection finds %+v", got)
		}
		g.Failed(Address(ip), "alice")
		g.Failed(Address(ip), "alice")
		g.Failed(Address(ip), "bob")
		g.Denied(Address(ip), "")
		g.Denied(Address(ip), "carol")
		one, two, three := Window{1, 1, 1}, Window{2, 2, 2}, Window{3, 3, 3}
		if got := enter(g, ip); got != (Counts{Open: 1, RateSecond: 2, RateMinute: 2, Failures: three, Denials: two}) {
			t.Errorf("the second finds %+v", got)
		}
		if got := enter(g, netip.MustParseAddr("192.0.2.2")); got != (Counts{RateSecond: 1, RateMinute: 1}) {
			t.Errorf("another source finds %+v", got)
		}
		leave(g, ip)
		leave(g, ip)
		leave(g, ip) // one too many does no harm
		if got := enter(g, ip); got.Open != 0 || got.RateMinute != 3 {
			t.Errorf("after they have left, one finds %+v", got)
		}
		for name, want := range map[string]Window{"alice": two, "bob": one, "": {}, "Alice": {}, "alice\x00": {}} {
			if got := g.Username(name); got != want {
				t.Errorf("failures of %q: %+v, want %+v", name, got, want)
			}
		}
		if open, denials := g.Identify("carol"); open != 0 || denials != one {
			t.Errorf("carol: %d open, %+v", open, denials)
		}
		if open, _ := g.Identify("carol"); open != 1 {
			t.Errorf("carol again: %d open", open)
		}
		g.Release("carol")
		g.Release("carol")
		g.Release("carol")
		if open, _ := g.Identify("carol"); open != 0 {
			t.Errorf("carol after that: %d open", open)
		}
		if open, denials := g.Identify(""); open != 0 || denials != (Window{}) {
			t.Error("nobody was counted")
		}
		if open, _ := g.Identify(""); open != 0 {
			t.Error("nobody was counted")
		}
	})
}

// One source: an IPv4 address however it is written, a /64 of IPv6.
func TestSource(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
		{"::192.0.2.1", "192.0.2.1", false},
	} {
		g := New(10)
		enter(g, netip.MustParseAddr(c.a))
		if got := enter(g, netip.MustParseAddr(c.b)).Open == 1; got != c.same {
			t.Errorf("%s and %s are one source: %v", c.a, c.b, got)
		}
	}
}

func TestWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(100)
		ip := netip.MustParseAddr("192.0.2.1")
		start := time.Now()
		at := func(d time.Duration) { time.Sleep(d - time.Since(start)) }
		look := func() Counts { defer leave(g, ip); return enter(g, ip) }
		for range 5 {
			g.Failed(Address(ip), "x")
		}
		for _, step := range []struct {
			at   time.Duration
			want Window
		}{
			{59 * time.Second, Window{5, 5, 5}},
			{61 * time.Second, Window{5, 5, 5}}, // 59/60 of five, rounded up
			{90 * time.Second, Window{3, 5, 5}},
			{119 * time.Second, Window{1, 5, 5}},
			{2 * time.Minute, Window{0, 5, 5}},
			{90 * time.Minute, Window{0, 3, 5}},
			{2 * time.Hour, Window{0, 0, 5}},
			{36 * time.Hour, Window{0, 0, 3}},
			{48 * time.Hour, Window{0, 0, 0}},
		} {
			at(step.at)
			if got := look().Failures; got != step.want {
				t.Errorf("after %v: %+v, want %+v", step.at, got, step.want)
			}
			if got := g.Username("x"); got != step.want {
				t.Errorf("after %v, by name: %+v, want %+v", step.at, got, step.want)
			}
		}
	})
}

// At a steady rate the counts are right at any time.
func TestSteadyRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(100)
		ip := netip.MustParseAddr("192.0.2.1")
		time.Sleep(12345678 * time.Microsecond)
		for i := range 3000 {
			time.Sleep(50 * time.Millisecond)
			got := enter(g, ip)
			leave(g, ip)
			if i > 2200 && (got.RateSecond < 19 || got.RateSecond > 22 || got.RateMinute < 1199 || got.RateMinute > 1202) {
				t.Fatalf("20 a second are counted as %+v", got)
			}
		}
	})
}

func TestCounterStaysAtTheGreatest(t *testing.T) {
	s := sliding{present: ^uint32(0)}
	if s.add(); s.present != ^uint32(0) {
		t.Errorf("it went on to %d", s.present)
	}
}

func nth(i int) netip.Addr {
	var b [16]byte
	b[0] = 0x20
	binary.BigEndian.PutUint32(b[4:], uint32(i))
	return netip.AddrFrom16(b)
}

func size(t *table) (n int) {
	for i := range t.shards {
		n += len(t.shards[i].entries)
	}
	return n
}

// A full table gives up what was used longest ago, and never what is open.
func TestEviction(t *testing.T) {
	g := New(3)
	enter(g, nth(0)) // stays open
	for i := 1; i <= 3; i++ {
		g.Failed(Address(nth(i)), "") // the third takes the place of the first
	}
	g.Failed(Address(nth(2)), "")
	g.Failed(Address(nth(4)), "") // takes the place of 3, as 2 was used since
	failures := func(i int) int64 {
		s := g.sources.shard(g.source(Address(nth(i))))
		if e := s.entries[g.source(Address(nth(i)))]; e != nil {
			return int64(e.failures.day.present)
		}
		return -1
	}
	for i, want := range []int64{0, -1, 2, -1, 1} {
		if got := failures(i); got != want {
			t.Errorf("source %d has %d failures, want %d", i, got, want)
		}
	}
	if open := enter(g, nth(0)).Open; open != 1 {
		t.Errorf("the open source has %d open", open)
	}

	// Open ones go beyond the size, and it shrinks when they leave.
	for i := 10; i < 20; i++ {
		enter(g, nth(i))
	}
	g.Failed(Address(nth(30)), "")
	if n := size(g.sources); n != 11 || failures(30) != -1 {
		t.Errorf("%d entries, all 11 of them open; a stranger's failure is counted: %v", n, failures(30) != -1)
	}
	for i := 10; i < 20; i++ {
		if open := enter(g, nth(i)).Open; open != 1 {
			t.Errorf("source %d has %d open", i, open)
		}
		leave(g, nth(i))
		leave(g, nth(i))
	}
	if n := size(g.sources); n != 3 {
		t.Errorf("%d entries are left", n)
	}
}

// 20,000 hostile sources, each from its own /64 and with names of its own, cost
// a bounded and small amount of memory, however many there are.
func TestHostileSources(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const limit = 20000
	g := New(limit)
	for i := range 3 * limit {
		name := fmt.Sprintf("user-%d-%0200d", i, i)
		enter(g, nth(i))
		g.Failed(Address(nth(i)), name)
		g.Denied(Address(nth(i)), name)
		if i >= 100 {
			leave(g, nth(i))
		}
	}
	used := heap() - before
	for _, table := range []*table{g.sources, g.usernames, g.identities} {
		if n := size(table); n > limit+100 || n < limit*9/10 {
			t.Errorf("%d entries", n)
		}
	}
	if each := used / (3 * limit); each > 200 {
		t.Errorf("%d bytes an entry, %d MiB in all", each, used>>20)
	}
	for i := range 100 {
		if open := enter(g, nth(i)).Open; open != 1 {
			t.Fatalf("an open source was given up")
		}
	}
}

func TestConcurrent(t *testing.T) {
	g := New(64)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 2000 {
				ip, name := nth(rand.IntN(200)), fmt.Sprint(rand.IntN(200))
				enter(g, ip)
				g.Failed(Address(ip), name)
				g.Denied(Address(ip), name)
				g.Username(name)
				g.Identify(name)
				g.Release(name)
				leave(g, ip)
			}
		})
	}
	all.Wait()
	for i := range 200 {
		if open := enter(g, nth(i)).Open; open != 0 {
			t.Errorf("source %d has %d open", i, open)
		}
		leave(g, nth(i))
	}
	if n := size(g.sources); n > 64 {
		t.Errorf("%d entries", n)
	}
}

func BenchmarkEnterLeave(b *testing.B) {
	g := New(20000)
	b.ReportAllocs()
	for i := range b.N {
		ip := nth(i % 1000)
		enter(g, ip)
		leave(g, ip)
	}
}
