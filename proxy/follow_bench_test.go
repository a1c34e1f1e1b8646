package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/policy"
	"sallyport/policy/distribute"
	"sallyport/policy/engine"
	"sallyport/proxy/identity"
	"sallyport/proxy/session"
)

// BenchmarkReask asks about ten thousand live sessions again under the egress
// example with 100,000 names, once where they lead to a hundred targets, and once
// where each has one of its own, so that no answer is remembered: how long that
// takes, and what the slowest in a hundred of new decisions, which are never
// remembered, takes meanwhile and at rest.
func BenchmarkReask(b *testing.B) {
	b.Run("100-targets", func(b *testing.B) { benchmarkReask(b, 100) })
	b.Run("10000-targets", func(b *testing.B) { benchmarkReask(b, 10_000) })
}

func benchmarkReask(b *testing.B, targets int) {
	const n = 10_000
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as the program does
	e, snapshot := egressEngine(b)
	f := newFollowing(n)
	f.Proxy.Decide = e
	reasked := make(chan session.Round, 1)
	f.Proxy.Observe = &roundObserver{&f.observer, reasked}
	f.set("billing", identity.Standing{Groups: []string{"services"}})
	e.Activate(snapshot())
	for i := range n {
		l := f.grant(b, "billing", fmt.Sprintf("service-%d.example.com", i%targets))
		l.request = policy.Request{Command: "connect"}
		l.session.SetAddress(netip.AddrPortFrom(netip.AddrFrom4([4]byte{93, 184, byte(i % targets >> 8), byte(i % targets)}), 443))
	}
	defer f.begin()()

	var asked atomic.Int64
	ask := func(until <-chan session.Round) (session.Round, []time.Duration) {
		var took []time.Duration
		next := time.NewTicker(time.Millisecond)
		defer next.Stop()
		for {
			select {
			case r := <-until:
				return r, took
			case <-next.C:
			}
			facts := policy.Facts{
				Identity: policy.Identity{Name: "billing", Groups: []string{"services"}},
				Request:  policy.Request{Command: "connect"},
				Target:   policy.TargetName(fmt.Sprintf("service-%d.example.com", n+asked.Add(1)%(100_000-n)), 443),
			}
			begun := time.Now()
			if d := e.Decide(context.Background(), policy.Route, &facts); !d.Allowed() {
				b.Fatalf("%+v", d)
			}
			took = append(took, time.Since(begun))
		}
	}
	idle := make(chan session.Round)
	time.AfterFunc(500*time.Millisecond, func() { idle <- session.Round{} })
	_, rest := ask(idle)
	var rounds, cpu time.Duration
	var meanwhile []time.Duration
	for b.Loop() {
		b.StopTimer()
		e.Activate(snapshot())
		b.StartTimer()
		before := processor(b)
		f.Reask("next")
		r, took := ask(reasked)
		cpu += processor(b) - before
		if r.Asked != n || r.Cut+r.Faults > 0 {
			b.Fatalf("%+v", r)
		}
		rounds += r.Took
		meanwhile = append(meanwhile, took...)
	}
	b.ReportMetric(rounds.Seconds()*1e3/float64(b.N), "ms/10000-sessions")
	b.ReportMetric(cpu.Seconds()*1e3/float64(b.N), "cpu-ms/10000-sessions")
	b.ReportMetric(p99(rest), "µs-p99-rest")
	b.ReportMetric(p99(meanwhile), "µs-p99-meanwhile")
}

// processor is the time that this process has used of it: what else the machine
// does is not in it.
func processor(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// p99 is in µs.
func p99(took []time.Duration) float64 {
	slices.Sort(took)
	return took[len(took)*99/100].Seconds() * 1e6
}

// roundObserver hands the rounds over.
type roundObserver struct {
	*observer
	rounds chan<- session.Round
}

func (o *roundObserver) Reasked(r *session.Round) { o.rounds <- *r }

// egressEngine is an engine, and what makes snapshots for it that remember
// nothing yet.
func egressEngine(b *testing.B) (*engine.Engine, func() *engine.Snapshot) {
	b.Helper()
	dir := b.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../bundles/egress")); err != nil {
		b.Fatal(err)
	}
	domains := map[string]any{}
	for i := range 100_000 {
		domains[fmt.Sprintf("service-%d.example.com", i)] = map[string]any{}
	}
	data, err := json.Marshal(map[string]any{
		"ports": []int{443}, "blocked": map[string]any{},
		"session_limits": map[string]any{"idle": "5m", "duration": "4h"},
		"groups":         map[string]any{},
		"identities":     map[string]any{"billing": map[string]any{"domains": domains, "labels": map[string]any{"team": "finance"}}},
	})
	if err == nil {
		err = os.Remove(filepath.Join(dir, "egress", "data.yaml"))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "egress", "data.json"), data, 0o600)
	}
	if err != nil {
		b.Fatal(err)
	}
	candidate, err := distribute.Load([]string{dir}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	e, err := engine.New(engine.Options{Timeout: time.Minute}) // the machine may be shared
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(e.Close)
	return e, func() *engine.Snapshot {
		s, problems := e.Compile(candidate)
		if s == nil {
			b.Fatal(problems)
		}
		return s
	}
}
