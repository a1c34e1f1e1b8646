// Package engine embeds OPA: it judges a candidate policy, prepares it whole
// as an immutable snapshot, and answers the stages' questions from the active
// one. A swap is one atomic store; decisions in flight finish on the snapshot
// with which they began.
package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"

	"sallyport/policy"
)

// Engine answers questions. All methods may be called at the same time.
type Engine struct {
	options Options
	slots   chan struct{} // one for each evaluation that may run at once
	active  atomic.Pointer[Snapshot]
}

// Snapshot is a policy that was judged and prepared. It never changes.
type Snapshot struct {
	revision string
	data     map[string]any
	stages   map[policy.Stage]*prepared
}

type prepared struct {
	fields []policy.Field
	deny   bool // a deny rule exists
	query  rego.PreparedEvalQuery
}

// New returns an engine without a policy: every question is a fault until
// Activate.
func New(o Options) *Engine {
	if o.Timeout == 0 {
		o.Timeout = 500 * time.Millisecond
	}
	if o.Parallel == 0 {
		o.Parallel = max(2, runtime.GOMAXPROCS(0))
	}
	return &Engine{options: o, slots: make(chan struct{}, o.Parallel)}
}

// Compile judges a candidate and prepares it. It activates nothing. The
// snapshot is nil where a problem is fatal.
func (e *Engine) Compile(c *Candidate) (s *Snapshot, problems Problems) {
	defer func() {
		if r := recover(); r != nil {
			s, problems = nil, Problems{{Message: fmt.Sprintf("the policy compiler failed: %v", r)}}
		}
	}()
	j, problems := judge(c, e.options)
	if problems.Fatal() {
		return nil, problems
	}
	s = &Snapshot{revision: c.Revision, data: j.data, stages: map[policy.Stage]*prepared{}}
	store := inmem.NewFromObjectWithOpts(j.data, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	for stage, fields := range j.fields {
		p := &prepared{fields: fields}
		// One comprehension a field: an undefined field is an empty array, where
		// a bare reference would make the whole query undefined.
		query := ""
		for i, f := range fields {
			p.deny = p.deny || f.Name == "deny"
			if i > 0 {
				query += "; "
			}
			query += fmt.Sprintf("f%d := [v | v := data.%s.%s]", i, stage.Package(), f.Name)
		}
		var err error
		p.query, err = rego.New(rego.Query(query), rego.Compiler(j.compiler), rego.Store(store),
			rego.StrictBuiltinErrors(true), rego.GenerateJSON(func(t *ast.Term, _ *rego.EvalContext) (any, error) {
				return t.Value, nil
			})).PrepareForEval(context.Background())
		if err != nil {
			return nil, append(problems, Problem{Message: fmt.Sprintf("%s: %v", stage, err)})
		}
		s.stages[stage] = p
	}
	return s, problems
}

// Activate makes the snapshot the one that answers.
func (e *Engine) Activate(s *Snapshot) { e.active.Store(s) }

// Revision names the policy that the snapshot was made of.
func (s *Snapshot) Revision() string { return s.revision }

// Data is base data below the root, as JSON Go values. It must not be changed.
func (s *Snapshot) Data(name string) any { return s.data[name] }

var (
	errNoPolicy = errors.New("no policy is active")
	errStage    = errors.New("the policy does not define the stage")
	errBusy     = errors.New("no evaluation could begin in time")
	errTimeout  = errors.New("the evaluation took too long")
)

// Decide answers one question. What cannot be answered is a fault, which
// refuses.
func (e *Engine) Decide(ctx context.Context, stage policy.Stage, facts *policy.Facts) policy.Decision {
	d := policy.Decision{ID: newID(), Stage: stage}
	s := e.active.Load()
	if s == nil {
		return fault(d, errNoPolicy)
	}
	d.Revision = s.revision
	p := s.stages[stage]
	if p == nil {
		return fault(d, errStage)
	}
	deadline := time.NewTimer(e.options.Timeout)
	defer deadline.Stop()
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-deadline.C:
		return fault(d, errBusy)
	case <-ctx.Done():
		return fault(d, context.Cause(ctx))
	}
	return e.evaluate(ctx, p, d, inputOf(stage, facts))
}

func (e *Engine) evaluate(ctx context.Context, p *prepared, d policy.Decision, input ast.Value) (out policy.Decision) {
	defer func() {
		if r := recover(); r != nil {
			out = fault(d, fmt.Errorf("the evaluation failed: %v", r))
		}
	}()
	cancel := topdown.NewCancel()
	timer := time.AfterFunc(e.options.Timeout, cancel.Cancel)
	defer timer.Stop()
	results, err := p.query.Eval(ctx, rego.EvalParsedInput(input), rego.EvalMetrics(metrics.NoOp()), rego.EvalExternalCancel(cancel))
	switch {
	case err != nil && cancel.Cancelled():
		return fault(d, errTimeout)
	case err != nil:
		return fault(d, err)
	case len(results) != 1:
		return fault(d, errStage)
	}
	for i, f := range p.fields {
		values, ok := results[0].Bindings[fmt.Sprintf("f%d", i)].(*ast.Array)
		if !ok {
			return fault(d, fmt.Errorf("%s: no value came back", f.Name))
		}
		if values.Len() == 0 {
			if f.Name == "deny" {
				return fault(d, errors.New("deny is written but undefined"))
			}
			continue
		}
		if err := read(&d, f, values.Elem(0).Value); err != nil {
			return fault(d, fmt.Errorf("%s: %w", f.Name, err))
		}
	}
	if d.Allow && len(d.Deny) == 0 {
		d.Verdict = policy.Allowed
	}
	return d
}

// fault is a decision of nothing but its cause.
func fault(d policy.Decision, err error) policy.Decision {
	return policy.Decision{
		ID: d.ID, Stage: d.Stage, Revision: d.Revision,
		Verdict: policy.Fault, Err: fmt.Errorf("%s: %w", d.Stage, err),
	}
}

// newID is a random UUID (RFC 9562 §5.4).
func newID() string {
	a, b := rand.Uint64(), rand.Uint64()
	a = a&^0xf000 | 0x4000
	b = b&^(3<<62) | 1<<63
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", a>>32, a>>16&0xffff, a&0xffff, b>>48, b&0xffffffffffff)
}
