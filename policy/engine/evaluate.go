package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"sallyport/policy"
)

// evaluators are a fixed set of goroutines that evaluate. Their stacks have
// grown once and for all, those of the connections stay small, and no more
// evaluations than they are can use memory at a time.
type evaluators struct {
	jobs    chan *job // unbuffered: a job that has been sent is being evaluated
	quit    chan struct{}
	closing sync.Once
	running sync.WaitGroup
	idle    sync.Pool // of *job
}

// job is one evaluation. Its asker owns it, lends it to an evaluator, and has
// it back when done receives; an asker that cannot wait for that leaves it to
// the garbage collector.
type job struct {
	ctx      context.Context
	snapshot *Snapshot
	stage    *stage
	input    ast.Value
	secrets  secrets // in the input
	cancel   topdown.Cancel
	deadline *time.Timer
	builtins builtins.NDBCache // nil unless they are logged
	logged   bool              // the values are kept for the log
	session  string            // for what the rules print
	print    func(*Printed)    // nil: nobody listens
	tracer   *tracer           // nil unless the decision is to be explained
	indexed  bool              // with a tracer: rules that an index rules out are not tried
	answer   *answered
	done     chan struct{} // room for one, so that the evaluator never waits
}

func (e *evaluators) start(n int) {
	e.jobs, e.quit = make(chan *job), make(chan struct{})
	e.idle.New = func() any {
		deadline := time.NewTimer(time.Hour)
		deadline.Stop()
		return &job{cancel: topdown.NewCancel(), deadline: deadline, done: make(chan struct{}, 1)}
	}
	for range n {
		e.running.Go(func() {
			for {
				select {
				case j := <-e.jobs:
					j.answer = j.evaluate()
					j.done <- struct{}{}
				case <-e.quit:
					return
				}
			}
		})
	}
}

func (e *evaluators) stop() {
	e.closing.Do(func() { close(e.quit) })
	e.running.Wait()
}

// evaluate has a stage's fields evaluated for these facts. Waiting for an
// evaluator counts against the time-out.
func (e *Engine) evaluate(ctx context.Context, s *Snapshot, st *stage, facts *policy.Facts) *answered {
	input, err := st.read.input(facts)
	if err != nil {
		return fault(st.name, s, err)
	}
	j := e.idle.Get().(*job)
	j.ctx, j.snapshot, j.stage, j.input = ctx, s, st, input
	if st.secret {
		j.secrets = secretsOf(facts.Credentials.Token)
	}
	j.logged = e.options.Record != nil
	if st.prints && e.options.Print != nil {
		j.print, j.session = e.options.Print, facts.Session.ID
	}
	if j.logged && !st.pure && !st.secret {
		j.builtins = builtins.NDBCache{}
	}
	answer, err := e.await(ctx, j, e.options.Timeout)
	if err != nil { // the evaluator may hold the job still
		return fault(st.name, s, err)
	}
	*j = job{cancel: j.cancel, deadline: j.deadline, done: j.done}
	e.idle.Put(j)
	return answer
}

// await lends a job to an evaluator for as long as the time-out and the asker's
// context allow. After an error the job is not the asker's any more.
func (e *Engine) await(ctx context.Context, j *job, timeout time.Duration) (*answered, error) {
	j.deadline.Reset(timeout)
	defer j.deadline.Stop()
	select {
	case e.jobs <- j:
	case <-e.quit:
		return nil, errClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-j.deadline.C:
		return nil, fmt.Errorf("no evaluator was free within %v: %w", timeout, context.DeadlineExceeded)
	}
	return j.wait(ctx, timeout)
}

// wait waits for the answer to a job that an evaluator has. One that is there counts
// though the time is up: where the whole process stood still, both come at once.
func (j *job) wait(ctx context.Context, timeout time.Duration) (*answered, error) {
	select {
	case <-j.done:
		return j.answer, nil
	case <-ctx.Done():
		j.cancel.Cancel()
		return nil, context.Cause(ctx)
	case <-j.deadline.C:
		select {
		case <-j.done:
			return j.answer, nil
		default:
		}
		j.cancel.Cancel()
		return nil, fmt.Errorf("the evaluation took longer than %v: %w", timeout, context.DeadlineExceeded)
	}
}

// evaluate runs on an evaluator. A panic of OPA's is a fault of this one
// decision.
func (j *job) evaluate() (a *answered) {
	defer func() {
		if p := recover(); p != nil {
			a = fault(j.stage.name, j.snapshot, j.stage.explained(fmt.Errorf("the evaluation panicked: %v", p)))
		}
	}()
	s, st := j.snapshot, j.stage
	var found topdown.QueryResult
	query := topdown.NewQuery(st.query).
		WithQueryCompiler(st.compiler).
		WithCompiler(s.compiler).
		WithStore(s.store).
		WithTransaction(s.txn).
		WithStrictBuiltinErrors(true).
		WithMetrics(metrics.NoOp()).
		WithCancel(j.cancel).
		WithInput(ast.NewTerm(j.input))
	if j.builtins != nil {
		query = query.WithNDBuiltinCache(j.builtins)
	}
	if j.print != nil {
		query = query.WithPrintHook(&printHook{j.stage, j.session, j.print})
	}
	if j.tracer != nil {
		query = query.WithQueryTracer(j.tracer).WithIndexing(j.indexed)
	}
	err := query.Iter(j.ctx, func(r topdown.QueryResult) error {
		found = r
		return nil
	})
	if err != nil {
		return fault(st.name, s, st.explained(err))
	}
	// What the rules have copied of a secret ends here: nobody after this is to
	// know it, neither logs nor the stages that see what this one has answered.
	if len(j.secrets) > 0 {
		for name, term := range found {
			found[name] = ast.NewTerm(j.secrets.outOf(term.Value))
		}
	}
	decision, err := st.decide(found)
	if err != nil {
		return fault(st.name, s, err)
	}
	decision.Stage, decision.Revision = st.name, s.revision
	a = &answered{decision: decision}
	if j.logged {
		a.result = st.result(found)
		if a.logged = appendValue(nil, a.result); holdsHash(string(a.logged)) { // of a user's password
			a.logged = []byte("{}")
		}
		if len(j.builtins) > 0 {
			a.builtins = appendValue(nil, j.builtins.AsValue())
		}
	}
	return a
}

// explained is an error of OPA's as it may be told: its messages may quote the
// values that they are about, which is not for a log where one of them may be
// a secret.
func (st *stage) explained(err error) error {
	why := st.withholds(err.Error())
	if why == "" {
		return err
	}
	var e *topdown.Error
	if !errors.As(err, &e) {
		return errors.New("the evaluation failed; the message is withheld, since " + why)
	}
	return &topdown.Error{Code: e.Code, Location: e.Location, Message: "the message is withheld, since " + why}
}

// withholds says why a message that quotes values may not be told; empty where
// it may.
func (st *stage) withholds(message string) string {
	switch {
	case st.secret:
		return "the stage reads a secret fact"
	case holdsHash(message):
		return "it quotes the hash of a password"
	}
	return ""
}
