package guard

import (
	"runtime"
	"testing"
	"time"
)

// What it costs to keep one ban that a policy has decided, among as many as there
// may be.
func BenchmarkKeepOne(b *testing.B) {
	const bans = 65_536
	g := New(bans)
	if err := g.Restore(newShelf()); err != nil {
		b.Fatal(err)
	}
	for i := range bans {
		g.Ban(Address(nth(i)).Subject(), time.Hour, "x")
	}
	if err := g.bans.flush(); err != nil {
		b.Fatal(err)
	}
	of := Address(nth(7)).Subject()
	b.ReportAllocs()
	for b.Loop() {
		g.Ban(of, 2*time.Hour, "x")
		if err := g.bans.flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// What a million sources cost that come once each and are denied: where 65,536 are
// kept, as they are, and where all of them are.
func BenchmarkMillionSources(b *testing.B) {
	const sources = 1_000_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for name, size := range map[string]int{"kept=65536": 65_536, "kept=all": sources} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				before := heap()
				g := New(size)
				for i := range sources {
					source := Address(nth(i))
					v, _ := g.Enter(source, 0)
					g.Denied(source, "")
					v.Leave()
				}
				taken := heap() - before
				runtime.KeepAlive(g)
				b.ReportMetric(float64(taken)/(1<<20), "MiB")
				b.ReportMetric(float64(taken)/float64(size), "B/kept")
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/sources, "ns/source")
		})
	}
}
