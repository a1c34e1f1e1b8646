package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// TestOptions say which tests are run, and how.
type TestOptions struct {
	Run      string        // a regular expression that the full name matches; empty: all
	Timeout  time.Duration // of one test; 0: 5 s
	Coverage bool          // what they reach is reported
}

// NoTests says what would be a test.
const NoTests = "want rules named test_… in a package whose name ends in _test"

// TestReport is what came of a candidate's tests.
type TestReport struct {
	Tests    []Test    // by file and line
	Found    int       // tests, with those that Run left out
	Coverage *Coverage // nil unless it was asked for
}

// Outcome is what came of a test.
type Outcome string

// A test errs where it runs out of time, or where a built-in function fails:
// plain OPA takes that for undefined and may let it pass, the proxy would take
// it for a fault.
const (
	Passed  Outcome = "pass"
	Failed  Outcome = "fail"
	Errored Outcome = "error"
	Skipped Outcome = "skip" // its name begins with todo_test_
)

// Test is what came of one test.
type Test struct {
	Name     string        `json:"name"` // data.sallyport.route_test.test_x
	File     string        `json:"file"`
	Line     int           `json:"line"`
	Outcome  Outcome       `json:"outcome"`
	Error    string        `json:"error,omitempty"`
	Printed  string        `json:"printed,omitempty"` // by print
	Cases    []TestCase    `json:"cases,omitempty"`   // of a test whose rule has several
	Why      *RuleReason   `json:"why,omitempty"`     // where it failed
	Duration time.Duration `json:"duration"`          // in nanoseconds
}

// TestCase is one case of a test, `test_x[case] if …`.
type TestCase struct {
	Name   string `json:"name"` // cases within cases are joined by slashes
	Passed bool   `json:"passed"`
}

// Test runs the tests of a candidate as `opa test` does, in parallel, on the
// candidate's data and on its modules alone: the default policy does not answer
// for stages that it leaves out. The report is nil where a problem is fatal.
func (e *Engine) Test(ctx context.Context, c *Candidate, o TestOptions) (*TestReport, Problems, error) {
	s, problems := e.Compile(c)
	if s == nil {
		return nil, problems, nil
	}
	report, err := e.TestSnapshot(ctx, s, c, o)
	return report, problems, err
}

// TestSnapshot is Test for a candidate that has been compiled to s.
func (e *Engine) TestSnapshot(ctx context.Context, s *Snapshot, c *Candidate, o TestOptions) (*TestReport, error) {
	run := e.testRun(s)
	report, err := run.run(ctx, c, o)
	if err == nil {
		run.explain(ctx, report)
	}
	return report, err
}

func (e *Engine) testRun(s *Snapshot) *testRun {
	return &testRun{
		engine: e, snapshot: s, modules: map[string]*ast.Module{},
		reached: &reached{cover: cover.New(), held: map[place]bool{}},
	}
}

// testRun is one run of a candidate's tests.
type testRun struct {
	engine   *Engine
	snapshot *Snapshot
	modules  map[string]*ast.Module
	compiler *ast.Compiler
	reached  *reached
}

func (r *testRun) run(ctx context.Context, c *Candidate, o TestOptions) (*TestReport, error) {
	report := &TestReport{}
	for _, m := range c.Modules {
		parsed, err := parseModule(m)
		if err != nil {
			return nil, err // judged before
		}
		key := m.Path
		for n := 2; r.modules[key] != nil; n++ {
			key = fmt.Sprintf("%s#%d", m.Path, n)
		}
		r.modules[key] = parsed
		report.Found += testsIn(parsed)
	}
	if report.Found == 0 {
		if o.Coverage {
			report.Coverage = r.coverage()
			report.Coverage.Percent = 0
		}
		return report, nil
	}
	r.compiler = newCompiler(r.engine.options).WithEnablePrintStatements(true)
	runner := tester.NewRunner().
		SetCompiler(r.compiler).SetModules(r.modules).SetStore(r.snapshot.store).
		RaiseBuiltinErrors(true).CapturePrintOutput(true).
		SetTimeout(cmp.Or(o.Timeout, 5*time.Second)).Filter(o.Run)
	if o.Coverage {
		runner = runner.SetCoverageQueryTracer(r.reached)
	}
	results, err := runner.RunTests(ctx, r.snapshot.txn)
	if err != nil {
		return nil, err
	}
	for result := range results {
		report.Tests = append(report.Tests, testOf(result))
	}
	slices.SortFunc(report.Tests, func(a, b Test) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
	if o.Coverage {
		report.Coverage = r.coverage()
	}
	return report, context.Cause(ctx)
}

func testOf(r *tester.Result) Test {
	t := Test{
		Name: r.Package + "." + r.Name, Outcome: Passed,
		Printed: strings.TrimRight(string(r.Output), "\n"), Duration: r.Duration,
	}
	if r.Location != nil {
		t.File, t.Line = r.Location.File, r.Location.Row
	}
	switch {
	case r.Skip:
		t.Outcome = Skipped
	case r.Error != nil:
		t.Outcome, t.Error = Errored, r.Error.Error()
		if errors.Is(r.Error, context.DeadlineExceeded) || topdown.IsCancel(r.Error) {
			t.Error = "it took too long"
		}
	case r.Fail:
		t.Outcome = Failed
	}
	for name, sub := range r.SubResults.Iter {
		if len(sub.SubResults) == 0 {
			t.Cases = append(t.Cases, TestCase{strings.Join(name, "/"), !sub.Fail})
		}
	}
	return t
}

// testsIn counts the tests in a module: OPA runs them in any package.
func testsIn(m *ast.Module) (n int) {
	for _, rule := range m.Rules {
		for _, t := range rule.Head.Ref() {
			name := strings.Trim(t.Value.String(), `"`)
			if strings.HasPrefix(name, tester.TestPrefix) || strings.HasPrefix(name, tester.SkipTestPrefix) {
				n++
				break
			}
		}
	}
	return n
}

// maxExplained bounds the failed tests that are run again to see why.
const maxExplained = 20

// explain says of the first failed tests why they failed.
func (r *testRun) explain(ctx context.Context, report *TestReport) {
	explained := 0
	for i := range report.Tests {
		if t := &report.Tests[i]; t.Outcome == Failed && explained < maxExplained {
			explained++
			t.Why = r.why(ctx, t)
		}
	}
}

// why runs a failed test again, watched; nil where that shows nothing.
func (r *testRun) why(ctx context.Context, t *Test) *RuleReason {
	var rule *ast.Rule
	for _, m := range r.compiler.Modules {
		for _, one := range m.Rules {
			if one.Location != nil && one.Location.File == t.File && one.Location.Row == t.Line {
				rule = one
			}
		}
	}
	if rule == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	stop := topdown.NewCancel()
	defer context.AfterFunc(ctx, stop.Cancel)()
	query := r.compiler.QueryCompiler()
	body, err := query.Compile(ast.NewBody(ast.NewExpr(ast.NewTerm(rule.Ref().GroundPrefix()))))
	if err != nil {
		return nil
	}
	// A test replaces data by `with`, so that what is loaded is no news of it.
	trace := newTracer(r.compiler.RewrittenVars, &renderer{})
	var errs []topdown.Error
	err = topdown.NewQuery(body).WithQueryCompiler(query).WithCompiler(r.compiler).
		WithStore(r.snapshot.store).WithTransaction(r.snapshot.txn).WithCancel(stop).
		WithBuiltinErrorList(&errs).WithIndexing(false).WithQueryTracer(trace).
		Iter(ctx, func(topdown.QueryResult) error { return nil })
	if err != nil {
		return nil
	}
	x := &explaining{tracer: trace, home: rule.Module.Package.Path.String(), told: map[*ast.Rule]bool{}}
	reasons, _ := x.rules(trace.framesOf(rule.Ref().GroundPrefix()), 1)
	for i := range reasons {
		if reasons[i].Line == t.Line && !reasons[i].Holds && len(reasons[i].Statements) > 0 {
			return &reasons[i]
		}
	}
	return nil
}

// reached is what tests reached: a [topdown.QueryTracer], of several tests at
// once.
type reached struct {
	cover *cover.Cover
	mu    sync.Mutex
	held  map[place]bool // rules, by where their head is
}

type place struct {
	file   string
	offset int
}

// Enabled, Config and TraceEvent make it a [topdown.QueryTracer].
func (r *reached) Enabled() bool { return true }

// Config asks for nothing.
func (r *reached) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent takes in one event.
func (r *reached) TraceEvent(e topdown.Event) {
	r.cover.TraceEvent(e)
	if rule, ok := e.Node.(*ast.Rule); ok && e.Op == topdown.ExitOp && rule.Head.Location != nil {
		r.mu.Lock()
		r.held[place{rule.Head.Location.File, rule.Head.Location.Offset}] = true
		r.mu.Unlock()
	}
}
