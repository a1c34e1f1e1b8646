package engine

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"sallyport/policy"
)

// Snapshot is a policy that has been judged and prepared. It never changes,
// and it shares nothing with what it was made from.
type Snapshot struct {
	revision  string
	bundles   []Bundle
	compiler  *ast.Compiler
	data      ast.Object
	store     storage.Store
	txn       storage.Transaction // one read transaction for the snapshot's life: nothing ever writes
	stages    map[policy.Stage]*stage
	memo      *memo // nil: nothing is remembered
	activated atomic.Int64
}

// StageInfo tells who answers a stage, and with which rules.
type StageInfo struct {
	Stage     policy.Stage
	ByDefault bool     // the embedded default policy answers
	Fields    []string // the decision fields that exist, in the order of [policy.Fields]
}

// stage is what a decision needs to know of a stage.
type stage struct {
	name      policy.Stage
	byDefault bool
	pure      bool // equal facts give equal decisions
	secret    bool // it reads a fact that must not be told
	prints    bool // it calls print, and so is asked each time
	withheld  bool // what it prints may hold a secret
	fields    []field
	query     ast.Body
	compiler  ast.QueryCompiler
	read      plan // the facts that the rules read
	located   located
	logged    plan // those, and the ones that every log has, but no secret one
}

// Compile judges a candidate and prepares it for its first decision. It
// activates nothing. The snapshot is nil where a problem is fatal; there may be
// warnings beside a snapshot.
func (e *Engine) Compile(c *Candidate) (*Snapshot, Problems) {
	j, problems := judge(c, e.options, e.defaults)
	if j == nil || problems.Fatal() {
		return nil, problems
	}
	s, err := prepare(c, j, e.options.MemoSize)
	if err != nil {
		return nil, append(problems, Problem{Message: err.Error()})
	}
	return s, problems
}

func prepare(c *Candidate, j *judged, memoSize int) (*Snapshot, error) {
	value, err := ast.InterfaceToValue(j.data)
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	data, ok := value.(ast.Object)
	if !ok { // no document at all
		data = ast.NewObject()
	}
	s := &Snapshot{
		revision: c.Revision, bundles: slices.Clone(c.Bundles), compiler: j.compiler,
		data: data, store: inmem.NewFromASTObject(data), stages: map[policy.Stage]*stage{},
	}
	s.txn, err = s.store.NewTransaction(context.Background())
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	if memoSize > 0 {
		s.memo = newMemo(memoSize)
	}
	for name, found := range j.stages {
		st, err := prepareStage(name, &found, j.compiler)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name.Package(), err)
		}
		s.stages[name] = st
	}
	return s, nil
}

func prepareStage(name policy.Stage, found *stageJudged, compiler *ast.Compiler) (*stage, error) {
	read := paths(found.reads)
	if found.all {
		read = append(read, nil)
	}
	st := &stage{
		name: name, byDefault: found.byDefault, pure: found.pure, prints: found.prints,
		read:   planOf(name, read, true),
		logged: planOf(name, append(slices.Clip(read), alwaysLogged()...), false),
	}
	st.secret = st.read.secret()
	st.withheld = st.secret || found.hashes
	if st.prints {
		// A secret is not gathered for the sake of being printed.
		st.read = planOf(name, append(slices.Clip(read), paths(found.printed)...), st.secret)
	}
	st.located = locatedBy(&st.read)
	var err error
	if st.fields, err = queriedFields(name, found.fields, compiler); err != nil {
		return nil, err
	}
	st.compiler = compiler.QueryCompiler()
	if st.query, err = st.compiler.Compile(queryOf(st.fields)); err != nil {
		return nil, err
	}
	return st, nil
}

// queryOf asks for each field in a variable of its own. A field that may be
// undefined is asked for as a list of none or one, since an undefined
// expression would end the whole query.
func queryOf(fields []field) ast.Body {
	var body ast.Body
	for _, f := range fields {
		value := ast.NewTerm(f.path)
		if !f.total {
			one := ast.VarTerm("value_of_" + f.name)
			value = ast.ArrayComprehensionTerm(one, ast.NewBody(ast.Equality.Expr(one, value)))
		}
		body.Append(ast.Equality.Expr(ast.NewTerm(f.variable), value))
	}
	return body
}

// Revision is the candidate's.
func (s *Snapshot) Revision() string { return s.revision }

// Activated is when the snapshot was first activated, zero before that.
func (s *Snapshot) Activated() time.Time {
	if at := s.activated.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Stages lists the stages that are answered, in the order in which a
// connection meets them.
func (s *Snapshot) Stages() []StageInfo {
	var out []StageInfo
	for _, name := range policy.Stages() {
		st := s.stages[name]
		if st == nil {
			continue
		}
		info := StageInfo{Stage: name, ByDefault: st.byDefault}
		for _, f := range st.fields {
			info.Fields = append(info.Fields, f.name)
		}
		out = append(out, info)
	}
	return out
}

// Defines tells whether the stage is answered, be it by the default policy.
func (s *Snapshot) Defines(stage policy.Stage) bool { return s.stages[stage] != nil }

// Reads tells whether the stage's rules read the fact at that path of
// `input`, or a part of it, so that costly facts need not be gathered in vain.
func (s *Snapshot) Reads(stage policy.Stage, path ...string) bool {
	st := s.stages[stage]
	return st != nil && st.read.has(path)
}

// OPA is what OPA's own plugins evaluate on: the compiler, the base data, and a
// transaction to read it in, which stays open. Nothing of it may be changed.
func (s *Snapshot) OPA() (*ast.Compiler, storage.Store, storage.Transaction) {
	return s.compiler, s.store, s.txn
}

// Data is the base data at a path as Go values (map[string]any, []any, string,
// json.Number, bool, nil), a copy of the caller's own; nil where there is none.
func (s *Snapshot) Data(path ...string) any {
	var value ast.Value = s.data
	for _, name := range path {
		object, ok := value.(ast.Object)
		if !ok {
			return nil
		}
		term := object.Get(ast.StringTerm(name))
		if term == nil {
			return nil
		}
		value = term.Value
	}
	out, err := ast.JSON(value)
	if err != nil {
		return nil // the data came from JSON
	}
	return out
}
