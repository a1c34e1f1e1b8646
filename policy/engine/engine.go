// Package engine answers the proxy's questions from a policy.
//
// A policy comes in as a [Candidate]: files as they were loaded. Compile judges
// it whole (judge.go) and prepares everything that a decision needs, so that
// nothing is left to be found out by a request: the result is an immutable
// [Snapshot] (snapshot.go). Activate swaps it in with one atomic store;
// decisions in flight finish on the snapshot that they began with, and none
// waits while another is built.
//
// A decision takes four steps. The plan of the stage (plan.go) says which facts
// its rules read, and so which addresses have to be located (locate.go); from just those a key is made, and where an equal question
// was answered before, the answer is remembered (memo.go). Otherwise the same
// plan turns the facts into OPA's own values, one of a fixed set of goroutines
// evaluates the stage's fields, and answer.go and read.go read the values strictly
// into a [policy.Decision].
//
// For the policy's author the same snapshot is asked by Evaluate (evaluation.go),
// which explains its answer: trace.go watches an evaluation, explain.go says what
// led to it. Test runs the policy's tests (tests.go, coverage.go), and Advise tells
// what works but could be better (flat.go, coverage.go).
//
// Nothing here knows who may do what. Whatever goes wrong on the way, be it a
// conflict, a value of the wrong type, or a deadline, is a fault, and a fault
// refuses.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"go.opentelemetry.io/otel/trace"

	"sallyport/bundles"
	"sallyport/policy"
)

// Why a question could not even be put to a policy. Evaluations that run out
// of time wrap [context.DeadlineExceeded], those whose caller has gone wrap
// the context's cause.
var (
	errNoPolicy = errors.New("no policy is active")
	errNoStage  = errors.New("the active policy does not answer this stage")
	errClosed   = errors.New("the engine is closed")
)

// Engine answers the questions from one active immutable snapshot. Until the
// first is activated every question is a fault.
type Engine struct {
	options  Options
	defaults []Module
	active   atomic.Pointer[Snapshot]
	halted   atomic.Pointer[error] // why no question is answered
	copies   sync.Pool             // of *policy.Facts, whose geo has been filled in

	evaluators
}

// New starts the evaluators. Close ends them.
func New(o Options) (*Engine, error) {
	if o.Timeout < 0 || o.Parallel < 0 {
		return nil, fmt.Errorf("a time-out of %v with %d evaluations at once is not possible", o.Timeout, o.Parallel)
	}
	if o.Timeout == 0 {
		o.Timeout = 500 * time.Millisecond
	}
	if o.Parallel == 0 {
		o.Parallel = max(2, runtime.GOMAXPROCS(0))
	}
	if o.MemoSize == 0 {
		o.MemoSize = 65536
	}
	e := &Engine{options: o}
	for _, f := range bundles.Default() {
		e.defaults = append(e.defaults, Module{Path: f.Path, Text: f.Text})
	}
	e.copies.New = func() any { return new(policy.Facts) }
	e.start(o.Parallel)
	return e, nil
}

// Close ends the evaluators and waits for them. Every later question is a
// fault.
func (e *Engine) Close() { e.stop() }

// Activate makes s answer every question that is asked from now on.
func (e *Engine) Activate(s *Snapshot) {
	s.activated.CompareAndSwap(0, time.Now().UnixNano())
	e.active.Store(s)
}

// Active is the snapshot that answers, nil before the first.
func (e *Engine) Active() *Snapshot { return e.active.Load() }

// Suspend makes every question a fault for that reason, until it is called with
// nil.
func (e *Engine) Suspend(why error) {
	if why == nil {
		e.halted.Store(nil)
		return
	}
	e.halted.Store(&why)
}

// Suspended is why every question is a fault, or nil.
func (e *Engine) Suspended() error {
	if why := e.halted.Load(); why != nil {
		return *why
	}
	return nil
}

// Asks tells whether the active policy answers the stage.
func (e *Engine) Asks(stage policy.Stage) bool {
	s := e.active.Load()
	return s != nil && s.Defines(stage)
}

// Decide answers one question. It never fails: what goes wrong is a decision
// with the verdict [policy.Fault]. The facts must not change until it returns; of
// those that are logged, lists and maps must not change any more. The lists and
// maps of the decision are shared with other decisions and must not be written to.
func (e *Engine) Decide(ctx context.Context, stage policy.Stage, facts *policy.Facts) policy.Decision {
	d, _ := e.decide(ctx, stage, facts, true)
	return d
}

// Recall is Decide for who cannot wait: it answers what is remembered, or what needs
// no evaluation, and otherwise nothing.
func (e *Engine) Recall(ctx context.Context, stage policy.Stage, facts *policy.Facts) (policy.Decision, bool) {
	return e.decide(ctx, stage, facts, false)
}

// decide answers, where it may not wait perhaps nothing.
func (e *Engine) decide(ctx context.Context, stage policy.Stage, facts *policy.Facts, wait bool) (policy.Decision, bool) {
	var begun time.Time
	if e.options.Record != nil {
		begun = time.Now()
	}
	if !wait && e.options.RecordWaits {
		return policy.Decision{}, false
	}
	s := e.active.Load()
	if s == nil {
		return e.done(ctx, fault(stage, nil, errNoPolicy), nil, facts, begun), true
	}
	if why := e.halted.Load(); why != nil {
		return e.done(ctx, fault(stage, s, *why), s, facts, begun), true
	}
	st := s.stages[stage]
	if st == nil {
		return e.done(ctx, fault(stage, s, errNoStage), s, facts, begun), true
	}
	if !wait && (s.memo == nil || !st.pure || st.prints || st.located.process && facts.Client != nil) {
		return policy.Decision{}, false // and the client's process is looked for all over this machine
	}
	located := e.locate(st, facts)
	defer e.release(located, facts)
	a := e.answer(ctx, s, st, located, wait)
	if a == nil {
		return policy.Decision{}, false
	}
	if err := own(&a.decision, located); err != nil {
		a = fault(stage, s, err)
	}
	return e.done(ctx, a, s, located, begun), true
}

// answered is a decision with the values that it was read from, for the log.
type answered struct {
	decision policy.Decision
	result   ast.Value
	logged   json.RawMessage // the result
	builtins json.RawMessage
}

// answer remembers or evaluates; where it may not wait for that it is nil.
func (e *Engine) answer(ctx context.Context, s *Snapshot, st *stage, facts *policy.Facts, wait bool) *answered {
	if s.memo == nil || !st.pure || st.prints {
		return e.evaluate(ctx, s, st, facts)
	}
	buffer := keys.Get().(*[]byte)
	defer keys.Put(buffer)
	key := st.key((*buffer)[:0], facts)
	*buffer = key
	if found := s.memo.get(key); found != nil || !wait {
		return found
	}
	a := e.evaluate(ctx, s, st, facts)
	if a.decision.Verdict != policy.Fault {
		s.memo.put(key, a)
	}
	return a
}

// keys are the buffers that memo keys and logged facts are written into.
var keys = sync.Pool{New: func() any { return new(make([]byte, 0, 512)) }}

// done gives an answer its own id and tells the record of it. An answer that
// cannot be recorded is none.
func (e *Engine) done(ctx context.Context, a *answered, s *Snapshot, facts *policy.Facts, begun time.Time) policy.Decision {
	d := a.decision
	d.ID = newID()
	if e.options.Record == nil {
		return d
	}
	if err := e.record(ctx, &d, a, s, facts, begun); err != nil && d.Verdict != policy.Fault {
		id := d.ID
		d = fault(d.Stage, s, err).decision
		d.ID = id
	}
	return d
}

// record is apart from done so that a decision lands on the heap only where
// somebody keeps it.
func (e *Engine) record(ctx context.Context, d *policy.Decision, a *answered, s *Snapshot, facts *policy.Facts, begun time.Time) error {
	r := &recorded{decision: *d, facts: gathered.Get().(*policy.Facts)}
	*r.facts = *facts
	r.facts.Credentials.Token = ""
	span := trace.SpanContextFromContext(ctx)
	r.Event = Event{
		Decision: &r.decision, Time: begun, Result: a.logged, Builtins: a.builtins,
		Session: facts.Session.ID, Duration: time.Since(begun), TraceID: span.TraceID(), SpanID: span.SpanID(), of: r,
	}
	if s != nil {
		r.Bundles = s.bundles
		if st := s.stages[d.Stage]; st != nil {
			r.logged = &st.logged
		}
	}
	if r.logged == nil {
		r.logged = planOfLog(d.Stage)
	}
	return e.options.Record(&r.Event)
}

// fault is the answer where there is none.
func fault(stage policy.Stage, s *Snapshot, err error) *answered {
	a := &answered{decision: policy.Decision{
		Stage: stage, Verdict: policy.Fault, Err: fmt.Errorf("%s: %w", stage.Package(), err),
	}}
	if s != nil {
		a.decision.Revision = s.revision
	}
	return a
}

// newID is a version 4 UUID (RFC 9562 §5.4) from the runtime's ChaCha8.
func newID() string {
	const hex = "0123456789abcdef"
	high, low := rand.Uint64(), rand.Uint64()
	high = high&^0xf000 | 0x4000 // version 4
	low = low&^(3<<62) | 2<<62   // the variant of RFC 9562
	var id [36]byte
	at := 0
	for i := range 32 {
		if i == 8 || i == 12 || i == 16 || i == 20 {
			id[at] = '-'
			at++
		}
		if i == 16 {
			high = low
		}
		id[at] = hex[high>>60]
		high <<= 4
		at++
	}
	return string(id[:])
}
