package main

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"sallyport/policy"
	"sallyport/policy/distribute"
	"sallyport/policy/engine"
	"sallyport/proxy/guard"
)

// What it costs to refuse a source that is banned, or over what is remembered of
// limits, beside one evaluation of the shortest stage of the example bruteforce. They
// take turns, so that whatever else the machine does slows all down alike. A ban
// has to cost a tenth at most.
func BenchmarkRefusal(b *testing.B) {
	c, err := distribute.Load([]string{filepath.Join("..", "..", "bundles", "bruteforce")}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	e, err := engine.New(engine.Options{MemoSize: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	s, problems := e.Compile(c)
	if problems.Fatal() {
		b.Fatal(problems)
	}
	e.Activate(s)
	g := guard.New(guarded)
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range guarded { // as many as may be, of a dozen lengths
		p, err := address(i << 4).Prefix(21 + i%12)
		if err != nil {
			b.Fatal(err)
		}
		g.Ban(guard.Of(p), time.Hour, "x")
	}
	banned, limited := netip.MustParseAddr("192.0.2.1"), guard.Address(netip.MustParseAddr("192.0.2.2"))
	g.Ban(guard.Address(banned).Subject(), 2*time.Hour, "x")
	v, _ := g.Enter(limited, 0)
	v.Hold(guard.Limits{Rate: 1e-6, Burst: 1})
	facts := policy.Facts{Source: policy.SourceOf(netip.AddrPortFrom(banned, 4000))}
	const turns = 100
	var evaluating, banning, limiting time.Duration
	for b.Loop() {
		begun := time.Now()
		for range turns {
			if d := e.Decide(b.Context(), policy.Admit, &facts); !d.Allowed() {
				b.Fatal(d.Err)
			}
		}
		evaluated := time.Now()
		for range turns {
			if g.Banned(guard.Address(banned)) == nil {
				b.Fatal("not banned")
			}
		}
		refused := time.Now()
		for range turns {
			if _, refused := g.Enter(limited, 0); refused == nil {
				b.Fatal("not over its limits")
			}
		}
		evaluating += evaluated.Sub(begun)
		banning += refused.Sub(evaluated)
		limiting += time.Since(refused)
	}
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(b.N) / turns }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(each(evaluating), "ns/evaluation")
	b.ReportMetric(each(banning), "ns/ban")
	b.ReportMetric(each(limiting), "ns/limit")
	ratio := float64(banning) / float64(evaluating)
	b.ReportMetric(ratio, "ban/evaluation")
	if ratio > 0.1 {
		b.Errorf("to refuse a banned source costs %.2f of an evaluation", ratio)
	}
}
