package engine

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// What is kept of one evaluation is bounded however often its rules are tried:
// the rest is counted.
const (
	maxFrames   = 64 // of one rule
	maxClosures = 16 // of one expression's: the bodies of not, every and comprehensions
	maxSamples  = 3  // values of one name
)

// tracer records which rules were tried in an evaluation, what they gave, and
// where they failed. Values are rendered as they are seen, since OPA's bindings
// do not last.
type tracer struct {
	show    *renderer
	rewrite map[ast.Var]ast.Var // the compiler's names to the author's
	frames  map[uint64]*frame   // by query
	root    *frame
	tried   map[*ast.Rule]int
	byPath  map[string][]*frame // rules, by their path: what is cached is not tried again
}

// frame is one try of a rule, or of a body within one.
type frame struct {
	rule     *ast.Rule // nil for a body
	body     ast.Body
	steps    map[*ast.Expr]*step
	current  *ast.Expr
	held     int      // how often it succeeded
	values   []string // that it gave
	solution []bound  // what the names stood for when it first succeeded
	failed   *step    // the expression that was furthest when it failed
}

// step is an expression of a frame.
type step struct {
	expr     *ast.Expr
	fails    int
	names    []bound  // what its names stood for when it failed
	children []*frame // tried on its behalf
	closures int
}

// bound is a name with the values that it had.
type bound struct {
	name   string
	values []string
	more   bool
	at     *ast.Location
}

func newTracer(rewritten map[ast.Var]ast.Var, show *renderer) *tracer {
	return &tracer{
		show: show, rewrite: rewritten, frames: map[uint64]*frame{},
		tried: map[*ast.Rule]int{}, byPath: map[string][]*frame{},
	}
}

// Enabled, Config and TraceEvent make a tracer a [topdown.QueryTracer].
func (t *tracer) Enabled() bool { return true }

// Config asks for no local variables: plugging them all costs too much.
func (t *tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: false} }

// TraceEvent takes in one event.
func (t *tracer) TraceEvent(e topdown.Event) {
	if e.Op == topdown.EnterOp {
		t.enter(&e)
		return
	}
	f := t.frames[e.QueryID]
	if f == nil {
		return
	}
	switch e.Op {
	case topdown.EvalOp:
		f.current, _ = e.Node.(*ast.Expr)
	case topdown.FailOp:
		if expr, ok := e.Node.(*ast.Expr); ok {
			t.fail(f, expr, &e)
		}
	case topdown.ExitOp:
		t.exit(f, &e)
	}
}

func (t *tracer) enter(e *topdown.Event) {
	f := &frame{steps: map[*ast.Expr]*step{}}
	switch node := e.Node.(type) {
	case *ast.Rule:
		if t.tried[node]++; t.tried[node] > maxFrames {
			return
		}
		f.rule, f.body = node, node.Body
		path := node.Ref().GroundPrefix().String()
		t.byPath[path] = append(t.byPath[path], f)
	case ast.Body:
		f.body = node
	case *ast.Expr: // of `every`
		if every, ok := node.Terms.(*ast.Every); ok {
			f.body = every.Body
		}
	}
	if t.root == nil {
		t.root = f
		t.frames[e.QueryID] = f
		return
	}
	above := t.frames[e.ParentID]
	if above == nil || above.current == nil {
		return
	}
	s := above.step(above.current)
	if f.rule == nil {
		if s.closures++; s.closures > maxClosures {
			return
		}
	}
	s.children = append(s.children, f)
	t.frames[e.QueryID] = f
}

func (f *frame) step(expr *ast.Expr) *step {
	s := f.steps[expr]
	if s == nil {
		s = &step{expr: expr}
		f.steps[expr] = s
	}
	return s
}

func (t *tracer) fail(f *frame, expr *ast.Expr, e *topdown.Event) {
	s := f.step(expr)
	if s.fails++; s.fails <= maxSamples {
		for _, other := range statementOf(f.body, expr) {
			t.bind(&s.names, other, e)
		}
	}
	if f.failed == nil || expr.Index >= f.failed.expr.Index {
		f.failed = s
	}
}

func (t *tracer) exit(f *frame, e *topdown.Event) {
	if f.held++; f.held > maxSamples {
		return
	}
	if f.held == 1 {
		for _, expr := range f.body {
			t.bind(&f.solution, expr, e)
		}
	}
	if f.rule == nil {
		return
	}
	term := f.rule.Head.Value
	if f.rule.Head.RuleKind() == ast.MultiValue {
		term = f.rule.Head.Key
	}
	if term != nil {
		f.values = append(f.values, t.show.text(e.Plug(term).Value))
	}
}

// statementOf are the expressions that the compiler made of the statement to
// which one of them belongs: `input.x in data.y` are three.
func statementOf(body ast.Body, expr *ast.Expr) []*ast.Expr {
	whole := sourceOf(body, expr)
	var out []*ast.Expr
	for _, other := range body {
		if encloses(whole, other.Location) {
			out = append(out, other)
		}
	}
	return out
}

// sourceOf is where the statement stands to which an expression belongs.
func sourceOf(body ast.Body, expr *ast.Expr) *ast.Location {
	whole := expr.Location
	for _, other := range body {
		if encloses(other.Location, whole) {
			whole = other.Location
		}
	}
	return whole
}

func encloses(outer, inner *ast.Location) bool {
	return outer != nil && inner != nil && outer.File == inner.File && outer.Offset <= inner.Offset &&
		outer.Offset+len(outer.Text) >= inner.Offset+len(inner.Text)
}

// bind notes what the names in an expression stand for: facts, base data, and
// the author's own variables.
func (t *tracer) bind(into *[]bound, expr *ast.Expr, e *topdown.Event) {
	note := func(term *ast.Term, text string) {
		name := t.nameOf(term, e)
		if name == "" {
			return
		}
		at := slices.IndexFunc(*into, func(b bound) bool { return b.name == name })
		if at < 0 {
			at = len(*into)
			*into = append(*into, bound{name: name, at: expr.Location})
		}
		b := &(*into)[at]
		switch {
		case slices.Contains(b.values, text):
		case len(b.values) == maxSamples:
			b.more = true
		default:
			b.values = append(b.values, text)
		}
	}
	visitor := ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every, *ast.Not, *ast.With:
			return true // their variables are not of this body
		case *ast.Term:
			switch v := x.Value.(type) {
			case ast.Var:
				if value := e.Plug(x).Value; value.IsGround() {
					note(x, t.show.text(value))
				}
			case ast.Ref:
				if text := t.show.lookUp(v, e); text != "" {
					note(x, text)
				}
			}
		}
		return false
	})
	visitor.Walk(expr)
}

// nameOf is how the author wrote a variable or a path; empty for what only the
// compiler named, and for the members that a `some` goes through, which have
// names of their own. In a path such a variable gives way to its value, and
// where it has none the path ends.
func (t *tracer) nameOf(term *ast.Term, e *topdown.Event) string {
	named := func(v ast.Var) (ast.Var, bool) {
		if v.IsWildcard() {
			return "", false
		}
		if v.IsGenerated() {
			v = t.rewrite[v]
		}
		return v, v != "" && !v.IsGenerated() && !v.IsWildcard()
	}
	switch v := term.Value.(type) {
	case ast.Var:
		if name, ok := named(v); ok && !ast.RootDocumentNames.Contains(term) {
			return string(name)
		}
	case ast.Ref:
		plain := slices.Clone(v)
		for i, part := range plain[1:] {
			variable, ok := part.Value.(ast.Var)
			if !ok {
				continue
			}
			name, ok := named(variable)
			value := e.Plug(part)
			switch {
			case ok:
				plain[i+1] = ast.VarTerm(string(name))
			case value.IsGround() && name != "":
				return ""
			case value.IsGround():
				if s, ok := value.Value.(ast.String); ok && t.show.isSecret(string(s)) {
					value = ast.VarTerm(redacted)
				}
				plain[i+1] = value
			default:
				return plain[:i+1].String()
			}
		}
		return clippedTo(plain.String(), shownBytes)
	}
	return ""
}
