package engine

import (
	"context"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"

	"sallyport/policy"
)

// Evaluation is one decision, taken for the author of the policy.
type Evaluation struct {
	Decision    policy.Decision
	Fields      map[string]any // what the stage's rules gave, as JSON; nil after a fault
	Input       any            // the facts that the stage reads, as JSON, but no secret one
	Printed     []Printed
	Explanation *Explanation // nil unless it was asked for, and after a fault
}

// explainTimeout is for a second evaluation, which is watched and so is slow.
const explainTimeout = 30 * time.Second

// Evaluate takes one decision on a snapshot, active or not, and tells more of
// it than a decision has. Nothing is remembered, recorded or counted.
func (e *Engine) Evaluate(ctx context.Context, s *Snapshot, stage policy.Stage, facts *policy.Facts, explain bool) *Evaluation {
	out := &Evaluation{}
	st := s.stages[stage]
	if st == nil {
		out.Decision = fault(stage, s, errNoStage).decision
		return out
	}
	if input, err := st.logged.input(facts); err == nil {
		out.Input, _ = ast.JSON(input)
	}
	j := e.idle.Get().(*job)
	var printed []Printed
	j.print = func(p *Printed) {
		if len(printed) < maxKept {
			printed = append(printed, *p)
		}
	}
	a, ended := e.watched(ctx, s, st, facts, j, e.options.Timeout)
	out.Decision = a.decision
	if ended {
		out.Printed = printed
	}
	values, isObject := a.result.(ast.Object)
	if a.decision.Verdict == policy.Fault || !isObject {
		return out
	}
	out.Fields = map[string]any{}
	given := map[string]ast.Value{}
	values.Foreach(func(k, v *ast.Term) {
		name := string(k.Value.(ast.String)) // of a field
		given[name] = v.Value
		var plain any
		if err := util.UnmarshalJSON(appendValue(nil, v.Value), &plain); err == nil { // it is JSON
			out.Fields[name] = plain
		}
	})
	// Rules that an index rules out would not show where they fail, but one of
	// them may be a fault that the index avoids.
	for _, indexed := range []bool{false, true} {
		if !explain || out.Explanation != nil {
			break
		}
		j := e.idle.Get().(*job)
		j.tracer, j.indexed = newTracer(s.compiler.RewrittenVars, rendererFor(s, facts)), indexed
		if w, _ := e.watched(ctx, s, st, facts, j, explainTimeout); w.decision.Verdict != policy.Fault {
			out.Explanation = j.tracer.explanation(st, given)
		}
	}
	return out
}

// maxKept bounds what is kept of one evaluation's prints.
const maxKept = 100

// watched has a prepared job done, and tells whether it has ended: what watched
// it may be looked at only then. The job is not given back.
func (e *Engine) watched(ctx context.Context, s *Snapshot, st *stage, facts *policy.Facts, j *job, timeout time.Duration) (a *answered, ended bool) {
	input, err := st.read.input(facts)
	if err != nil {
		return fault(st.name, s, err), false
	}
	j.ctx, j.snapshot, j.stage, j.input, j.logged = ctx, s, st, input, true
	if st.secret {
		j.secrets = secretsOf(facts.Credentials.Token)
	}
	if a, err = e.await(ctx, j, timeout); err != nil {
		return fault(st.name, s, err), false
	}
	return a, true
}
