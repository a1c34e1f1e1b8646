package engine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/sdk"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/util"
	"golang.org/x/sys/unix"

	"sallyport/policy"
	"sallyport/policy/distribute"
	"sallyport/policy/engine"
)

// asked are the four decisions of a connection, in its order.
var asked = []policy.Stage{policy.Admit, policy.Authenticate, policy.Route, policy.Dial}

// example is the egress example with that many entries in its lists.
type example struct {
	dir   string
	facts policy.Facts
}

func newExample(t testing.TB, entries int) *example {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../bundles/egress")); err != nil {
		t.Fatal(err)
	}
	domains, networks, blocked := map[string]any{"payments.example.com": map[string]any{}}, map[string]any{}, map[string]any{}
	for i := range entries / 3 {
		domains[fmt.Sprintf("service-%d.example.com", i)] = map[string]any{}
		networks[fmt.Sprintf("10.%d.%d.0/24", i>>8&255, i&255)] = map[string]any{"ports": []any{1024 + i}}
		blocked[fmt.Sprintf("bad-%d.example.net", i)] = "known to be bad"
	}
	data, err := json.Marshal(map[string]any{
		"ports":          []any{443},
		"blocked":        blocked,
		"session_limits": map[string]any{"idle": "5m", "duration": "4h"},
		"groups":         map[string]any{"services": map[string]any{"networks": networks}},
		"identities": map[string]any{"billing": map[string]any{
			"domains": domains, "labels": map[string]any{"team": "finance", "kind": "service"},
		}},
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "egress", "data.json"), data, 0o600)
	}
	if err == nil {
		err = os.Remove(filepath.Join(dir, "egress", "data.yaml"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return &example{dir: dir, facts: policy.Facts{
		Time:        policy.MinuteOf(time.Now()),
		Source:      policy.SourceOf(netip.MustParseAddrPort("192.0.2.7:50000")),
		Session:     policy.Session{ID: "s1", Listener: "main", Protocol: "socks5"},
		Credentials: policy.Credentials{Method: "password", Username: "billing", Known: true, Verified: true, Groups: []string{"services"}},
		Identity:    policy.Identity{Name: "billing", Method: "password", Groups: []string{"services"}, Open: 3},
		Request:     policy.Request{Command: "connect"},
		Target:      policy.TargetName("www.payments.example.com", 443),
		Asked:       policy.Asked{Host: "www.payments.example.com", Port: 443},
		Address:     policy.AddressOf(netip.MustParseAddr("93.184.216.34")),
	}}
}

// engine is the example in an engine of ours.
func (x *example) engine(t testing.TB, o engine.Options) *engine.Engine {
	t.Helper()
	candidate, err := distribute.Load([]string{x.dir}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	o.Timeout = time.Minute
	e, err := engine.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	s, problems := e.Compile(candidate)
	if s == nil {
		t.Fatal(problems)
	}
	e.Activate(s)
	return e
}

// decide asks one question, whose answer has to be yes.
func (x *example) decide(t testing.TB, e *engine.Engine, stage policy.Stage) {
	if d := e.Decide(context.Background(), stage, &x.facts); !d.Allowed() {
		t.Fatal(stage, d.Err, d.Reasons())
	}
}

// connection asks the four of them.
func (x *example) connection(t testing.TB, e *engine.Engine) {
	for _, stage := range asked {
		x.decide(t, e, stage)
	}
}

// opa is the example in OPA's own SDK. What it returns decides the route. Its
// store keeps AST values: as it comes, the SDK converts each list that a policy
// binds to a variable, and a decision costs the more the longer the lists are.
func (x *example) opa(t testing.TB) (decide func()) {
	t.Helper()
	ctx := context.Background()
	o, err := sdk.New(ctx, sdk.Options{
		Config: strings.NewReader(fmt.Sprintf(`{"bundles": {"egress": {"resource": "file://%s"}}}`, x.dir)),
		Store:  inmem.NewWithOpts(inmem.OptReturnASTValuesOnRead(true)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Stop(ctx) })
	input := x.routeInput(t)
	return func() {
		r, err := o.Decision(ctx, sdk.DecisionOptions{Path: "sallyport/route", Input: input})
		if err != nil || r.Result.(map[string]any)["allow"] != true {
			t.Fatal(err, r.Result)
		}
	}
}

// routeInput is the facts of route as our engine gathers and logs them.
func (x *example) routeInput(t testing.TB) (input any) {
	e := x.engine(t, engine.Options{Record: func(e *engine.Event) error {
		e.Complete()
		if err := util.UnmarshalJSON(e.Input, &input); err != nil {
			t.Error(err)
		}
		return nil
	}})
	x.decide(t, e, policy.Route)
	return input
}

var (
	sizes   = []int{10, 1000, 100_000}
	written = []string{"10", "1,000", "100,000"}
)

// BenchmarkDecide is each stage's decision, evaluated anew.
func BenchmarkDecide(b *testing.B) {
	x := newExample(b, 1000)
	e := x.engine(b, engine.Options{MemoSize: -1})
	for _, stage := range asked {
		b.Run(string(stage), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x.decide(b, e, stage)
			}
		})
	}
}

// BenchmarkConnection is the four decisions of a connection, and one of OPA's
// SDK on the same route policy.
func BenchmarkConnection(b *testing.B) {
	for _, entries := range sizes {
		x := newExample(b, entries)
		run := func(name string, f func()) {
			b.Run(fmt.Sprintf("%d/%s", entries, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
			})
		}
		cold, memoised := x.engine(b, engine.Options{MemoSize: -1}), x.engine(b, engine.Options{})
		run("cold", func() { x.connection(b, cold) })
		run("memoised", func() { x.connection(b, memoised) })
		logged := x.engine(b, engine.Options{Record: func(*engine.Event) error { return nil }})
		run("logged", func() { x.connection(b, logged) }) // memoised, with an event for each decision
		run("sdk.Decision", x.opa(b))
	}
}

// BenchmarkRatios compares: cold and memoised decisions with one of OPA's SDK,
// and those about long lists with those about short ones. All take turns, so
// that whatever else the machine does slows all down alike, and what is compared
// is the processor's time: the medians of all turns. It prints them as the table of
// docs/performance.md, with the allocations.
func BenchmarkRatios(b *testing.B) {
	type compared struct{ cold, memoised, sdk *way }
	var all []compared
	var ways []*way
	for _, entries := range sizes {
		x := newExample(b, entries)
		anew, remembered := x.engine(b, engine.Options{MemoSize: -1}), x.engine(b, engine.Options{})
		c := compared{
			cold:     &way{run: func() { x.connection(b, anew) }},
			memoised: &way{run: func() { x.connection(b, remembered) }},
			sdk:      &way{run: x.opa(b)},
		}
		all, ways = append(all, c), append(ways, c.cold, c.memoised, c.sdk)
	}
	takeTurns(b, ways)
	table := "\n| entries | four decisions, evaluated | four, remembered | one `sdk.Decision` | evaluated / SDK | remembered / SDK |\n|---|---|---|---|---|---|\n"
	var toSDK, memoisedToSDK float64 // the worst
	for i, c := range all {
		cold, memoised, sdk := c.cold.microseconds(), c.memoised.microseconds(), c.sdk.microseconds()
		toSDK, memoisedToSDK = max(toSDK, cold/sdk), max(memoisedToSDK, memoised/sdk)
		table += fmt.Sprintf("| %s | %.0f µs, %.0f allocations | %.1f µs, %.0f | %.0f µs, %.0f | %.2f | %.3f |\n", written[i],
			cold, c.cold.allocations(), memoised, c.memoised.allocations(), sdk, c.sdk.allocations(), cold/sdk, memoised/sdk)
	}
	few, many := all[0], all[len(all)-1]
	longer, longerMemoised := many.cold.microseconds()/few.cold.microseconds(), many.memoised.microseconds()/few.memoised.microseconds()
	met := func(value, most float64) string {
		if value > most {
			return fmt.Sprintf("≤ %v: missed", most)
		}
		return fmt.Sprintf("≤ %v: met", most)
	}
	table += fmt.Sprintf("| target | | | | %s | %s |\n\n", met(toSDK, 2), met(memoisedToSDK, 0.1))
	table += fmt.Sprintf("%s entries against %s: evaluated %.2f, remembered %.2f (target %s).",
		written[len(written)-1], written[0], longer, longerMemoised, met(max(longer, longerMemoised), 1.3))
	b.ReportMetric(toSDK, "cold/sdk")
	b.ReportMetric(memoisedToSDK, "memoised/sdk")
	b.ReportMetric(longer, "cold-long/short")
	b.ReportMetric(longerMemoised, "memoised-long/short")
	b.Log(table)
}

// way is one of several that are compared.
type way struct {
	run  func()
	took []time.Duration // by turn
}

const (
	turns       = 50
	runsInATurn = 50
)

func takeTurns(b *testing.B, ways []*way) {
	for _, w := range ways {
		w.run() // so that what there is to remember is remembered
	}
	for b.Loop() {
		for range turns {
			for _, w := range ways {
				before := processor(b)
				for range runsInATurn {
					w.run()
				}
				w.took = append(w.took, processor(b)-before)
			}
		}
	}
	b.ReportMetric(0, "ns/op") // of no use: it is all of them together
}

// microseconds is the median of one run.
func (w *way) microseconds() float64 {
	sorted := slices.Sorted(slices.Values(w.took))
	return float64(sorted[len(sorted)/2].Nanoseconds()) / runsInATurn / 1e3
}

func (w *way) allocations() float64 { return testing.AllocsPerRun(runsInATurn, w.run) }

// processor is what this process has used of it so far.
func processor(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestDecisionsStayFlat: a decision about long lists allocates what one about
// short lists does.
func TestDecisionsStayFlat(t *testing.T) {
	var allocations []float64
	for _, entries := range []int{10, 10_000} {
		x := newExample(t, entries)
		e := x.engine(t, engine.Options{MemoSize: -1})
		allocations = append(allocations, testing.AllocsPerRun(50, func() { x.connection(t, e) }))
	}
	if few, many := allocations[0], allocations[1]; many > few*1.02 {
		t.Errorf("%v allocations about 10 entries, %v about 10,000", few, many)
	}
}

// TestRememberedDecisionsAllocateLittle: one for the decision's id, and where it
// is logged three for the event; under -race a pool now and then has nothing.
func TestRememberedDecisionsAllocateLittle(t *testing.T) {
	x := newExample(t, 10)
	for _, c := range []struct {
		options engine.Options
		most    float64
	}{
		{engine.Options{}, 2},
		{engine.Options{Record: func(*engine.Event) error { return nil }}, 8},
	} {
		e := x.engine(t, c.options)
		x.connection(t, e)
		if n := testing.AllocsPerRun(100, func() { x.connection(t, e) }) / float64(len(asked)); n > c.most {
			t.Errorf("logged %v: %v allocations for a decision", c.options.Record != nil, n)
		}
	}
}
