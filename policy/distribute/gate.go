package distribute

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins/bundle"

	"sallyport/policy/engine"
)

const (
	maxVerdicts  = 64               // refused candidates that are remembered
	testsTimeout = 30 * time.Second // of all tests of a candidate
	testTimeout  = 5 * time.Second  // of one
	maxTold      = 10               // failed tests that a refusal names
)

// errUnsettled wraps a refusal that another attempt may not meet with.
var errUnsettled = errors.New("they will be tried again")

// pass is the gate: it lets a transaction of OPA's be committed whose bundles,
// together with all other sources, may decide. What it returns is what OPA tells
// of the bundle.
//
// A transaction that activates nothing takes bundles away. Refusing that would
// leave OPA in a state that it does not know, so it is committed, and the policy
// that is in force stays until another takes its place.
func (m *Manager) pass(ctx context.Context, c *commit) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	bundles, err := readBundles(ctx, c.store, c.txn)
	if err == nil && c.compiler != nil && len(bundles) > 0 {
		return m.passBundles(ctx, c, bundles)
	}
	if err != nil && c.compiler != nil {
		c.abort(ctx)
		return err
	}
	if err := c.apply(ctx); err != nil {
		return err
	}
	m.hold(bundles)
	return nil
}

func (m *Manager) passBundles(ctx context.Context, c *commit, bundles []*stored) error {
	trigger := "bundle"
	for _, b := range bundles {
		m.describe(b)
		if m.held[b.Name] != b.Digest {
			trigger += " " + b.Name
			if !m.o.Deltas && c.compiler == m.opa.GetCompiler() {
				b.refuse("patch.json", "makes this a delta bundle, which policy.deltas does not allow")
				b.sum()
			}
			m.checkFile(b)
		}
	}
	verdict := m.judge(ctx, m.assemble(bundles), trigger)
	if verdict.Err != nil {
		c.abort(ctx)
		m.refuse(verdict)
		return verdict.Err
	}
	if err := c.apply(ctx); err != nil {
		return err
	}
	m.hold(bundles)
	m.arrived(verdict.candidate.changed)
	m.publish(verdict)
	return nil
}

// hold notes what the store has.
func (m *Manager) hold(bundles []*stored) {
	gone := maps.Clone(m.held)
	m.held = map[string]string{}
	for _, b := range bundles {
		m.held[b.Name] = b.Digest
		delete(gone, b.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		m.o.Log.Error("a bundle is taken away", "bundle", name)
		m.takenAway.Store(true)
		m.signal() // to have it told
	}
}

// gone is a bundle that is in force and not in the store any more, while nothing
// is awaited in its place.
func (m *Manager) gone(c *candidate) string {
	for _, name := range slices.Sorted(maps.Keys(m.inForce)) {
		if !c.Partial && !slices.ContainsFunc(c.arrived, func(b Arrived) bool { return b.Name == name }) {
			return name
		}
	}
	return ""
}

// reconsider judges all sources as they are, with other files where they are not
// nil, and puts them in force.
func (m *Manager) reconsider(ctx context.Context, files *engine.Candidate, trigger string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.engine == nil {
		return nil // the start will see to it
	}
	txn, err := m.store.NewTransaction(ctx)
	if err != nil {
		return err
	}
	defer m.store.Abort(ctx, txn)
	bundles, err := readBundles(ctx, m.store, txn)
	if err != nil {
		return err
	}
	for _, b := range bundles {
		m.describe(b)
	}
	before := m.files
	if files != nil {
		m.files = files
	}
	verdict := m.judge(ctx, m.assemble(bundles), trigger)
	if verdict.Err != nil {
		m.files = before
		m.refuse(verdict)
		return verdict.Err
	}
	m.publish(verdict)
	return nil
}

func (m *Manager) assemble(bundles []*stored) *candidate {
	c := assemble(m.files, len(m.o.Paths)+len(m.o.Data) > 0, bundles)
	c.awaited = m.missing(bundles)
	c.Partial = len(c.awaited) > 0
	for _, b := range bundles {
		c.problems = append(c.problems, b.problems...)
		if !m.configured(b.Name) {
			c.problems = append(c.problems, engine.Problem{File: b.path("data.json"), Message: "data.system.bundles is OPA's own"})
		}
		if m.inForce[b.Name] != b.Digest {
			c.changed = append(c.changed, b.Arrived)
		}
	}
	return c
}

// verdict is what the gate says of a candidate. With neither an error nor a
// snapshot there is nothing to do: it is in force already, or more is awaited.
type verdict struct {
	Outcome
	candidate *candidate
	again     bool // it has been refused before
}

// judge finds out whether a candidate may decide. It never panics.
func (m *Manager) judge(ctx context.Context, c *candidate, trigger string) (v *verdict) {
	v = &verdict{candidate: c, Outcome: Outcome{
		Time: time.Now(), Trigger: trigger, Revision: c.Revision, Digest: c.Digest, Bundles: c.arrived,
	}}
	if m.active != nil && m.active.Digest == c.Digest && !c.Partial {
		return v
	}
	if gone := m.gone(c); gone != "" && len(c.changed) == 0 {
		// The default policy, or what is left, may allow what the bundle did not.
		v.Err = fmt.Errorf("the bundle %s has been taken away: the policy that it was part of stays until another bundle comes, or the program starts anew", gone)
		v.again = m.lost == gone
		m.lost = gone
		return v
	}
	m.lost = ""
	key := fmt.Sprint(c.Digest, c.Partial)
	if known := m.refused.get(key); known != nil {
		v.Err, v.again = known, true
		return v
	}
	defer func() {
		if cause := recover(); cause != nil {
			v.Snapshot, v.Err = nil, fmt.Errorf("the policy cannot be judged: %v", cause)
		}
		if v.Err != nil && !errors.Is(v.Err, errUnsettled) {
			m.refused.put(key, v.Err)
		}
	}()
	if m.o.Check != nil {
		for _, b := range c.changed {
			if err := m.o.Check(b); err != nil {
				v.Err = fmt.Errorf("bundle %s: %w", b.Name, err)
				return v
			}
		}
	}
	if v.Problems = c.problems; len(v.Problems) > 0 {
		v.Err = v.Problems
		return v
	}
	snapshot, problems := m.engine.Compile(&c.Candidate)
	if v.Problems = problems; snapshot == nil {
		v.Err = fatal(problems)
		return v
	}
	if c.Partial {
		return v
	}
	if m.o.RunTests {
		if v.Err = Test(ctx, m.engine, snapshot, &c.Candidate); v.Err != nil {
			return v
		}
	}
	v.Snapshot = snapshot
	return v
}

// fatal is the problems that refuse a candidate: a warning beside them is not why.
func fatal(problems engine.Problems) engine.Problems {
	return slices.DeleteFunc(slices.Clone(problems), func(p engine.Problem) bool { return p.Warning || p.Advice })
}

// Test runs the tests of a candidate that e has compiled to s, those of files and
// of bundles alike: they may be of one another's rules. An error names the tests
// that do not pass.
func Test(ctx context.Context, e *engine.Engine, s *engine.Snapshot, c *engine.Candidate) error {
	ctx, cancel := context.WithTimeout(ctx, testsTimeout)
	defer cancel()
	report, err := e.TestSnapshot(ctx, s, c, engine.TestOptions{Timeout: testTimeout})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the tests take longer than %v: %w", testsTimeout, errUnsettled)
	}
	if err != nil {
		return fmt.Errorf("tests: %w", err)
	}
	var failed engine.Problems
	for _, t := range report.Tests {
		if t.Outcome == engine.Failed || t.Outcome == engine.Errored {
			message := "the test " + t.Name + " fails, and policy.run_tests wants it to pass"
			if t.Error != "" {
				message += ": " + t.Error
			}
			failed = append(failed, engine.Problem{File: t.File, Row: t.Line, Message: message})
		}
	}
	if len(failed) == 0 {
		return nil
	}
	if more := len(failed) - maxTold; more > 0 {
		failed = append(failed[:maxTold], engine.Problem{Message: fmt.Sprintf("and %d more tests fail", more)})
	}
	return failed
}

// publish puts in force what was found good, if it is complete.
func (m *Manager) publish(v *verdict) {
	m.setAwaited(v.candidate.awaited)
	if v.Snapshot == nil {
		if !v.candidate.Partial {
			m.clearRefusal(v.Bundles)
		}
		return
	}
	m.checkAge() // a copy that was kept may be too old already
	if m.o.Decided != nil {
		m.o.Decided(&v.Outcome)
	}
	kept := v.Outcome
	kept.Snapshot = nil // the engine has it
	m.active = &kept
	m.inForce = map[string]string{}
	for _, b := range v.Bundles {
		m.inForce[b.Name] = b.Digest
	}
	m.activated(v)
}

// refuse tells of a refusal, unless it has been told before and stands since.
func (m *Manager) refuse(v *verdict) {
	known := m.noteRefusal(v)
	if !(v.again && known) && m.o.Decided != nil {
		m.o.Decided(&v.Outcome)
	}
}

// missing are the configured sources that have not come yet.
func (m *Manager) missing(bundles []*stored) []string {
	var missing []string
	if m.discovers && !m.discovered.Load() {
		missing = append(missing, "discovery")
	}
	for _, name := range m.bundleNames() {
		if !slices.ContainsFunc(bundles, func(b *stored) bool { return b.Name == name }) {
			missing = append(missing, "bundle "+name)
		}
	}
	return missing
}

func (m *Manager) bundleNames() []string {
	p := bundle.Lookup(m.opa)
	if p == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(p.Config().Bundles))
}

func (m *Manager) configured(name string) bool { return slices.Contains(m.bundleNames(), name) }

// describe says where a bundle comes from.
func (m *Manager) describe(b *stored) {
	p := bundle.Lookup(m.opa)
	if p == nil {
		return
	}
	source := p.Config().Bundles[b.Name]
	if source == nil {
		return
	}
	b.Source = m.sourceOf(source)
	if source.Signing != nil {
		b.KeyID = m.signers.of(source.Signing, &b.Arrived)
	}
}

// verdicts are the refusals of the latest candidates.
type verdicts struct {
	of    map[string]error
	order []string
}

func (v *verdicts) get(digest string) error { return v.of[digest] }

func (v *verdicts) put(digest string, err error) {
	if v.of == nil {
		v.of = map[string]error{}
	}
	if len(v.order) == maxVerdicts {
		delete(v.of, v.order[0])
		v.order = v.order[1:]
	}
	v.of[digest] = err
	v.order = append(v.order, digest)
}
