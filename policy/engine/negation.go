package engine

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// What follows finds negations that do not mean what they seem to. What a call
// is given is looked up before it, outside of the `not`:
//
//	not input.target.port in data.teams[input.identity.name].ports
//
// does not hold for somebody who has no team, whose ports nobody would find. Nor
// does `not startswith(input.identity.attributes.mail, "a@")` for somebody without
// mail. In a deny, that lets in whom it was to keep out.

const negateHelper = "where a look-up in this is undefined, the statement does not hold in spite of its `not`: " +
	"move what follows the `not` to a helper rule, and negate that"

// negations looks at one rule.
type negations struct {
	compiler *ast.Compiler
	data     map[string]any
	found    func(at *ast.Location, message string)
}

func (n *negations) rule(rule *ast.Rule) {
	for r := rule; r != nil; r = r.Else {
		n.body(r.Body)
	}
}

// body looks at a compiled body, in which the look-ups are expressions of their
// own that precede the call and give it their variables.
func (n *negations) body(body ast.Body) {
	open := map[ast.Var]bool{} // those that may have no value
	for _, expr := range body {
		uses := func(v ast.Var) bool { return open[v] }
		switch variables := variablesOf(expr); {
		case expr.Negated && slices.ContainsFunc(variables, uses):
			n.found(expr.Location, negateHelper)
		case expr.Generated && (n.looksUp(expr) || slices.ContainsFunc(variables, uses)):
			for _, v := range variables {
				open[v] = true
			}
		}
		for _, below := range closuresOf(expr) {
			n.body(below)
		}
	}
}

// looksUp tells whether an expression gives a variable what may be undefined.
func (n *negations) looksUp(expr *ast.Expr) bool {
	return expr.IsEquality() && slices.ContainsFunc(expr.Operands(), func(t *ast.Term) bool {
		ref, ok := t.Value.(ast.Ref)
		return ok && n.maybeUndefined(ref)
	})
}

// variablesOf are the variables of an expression, but of none within a
// comprehension.
func variablesOf(expr *ast.Expr) []ast.Var {
	visitor := ast.NewVarVisitor().WithParams(ast.VarVisitorParams{SkipClosures: true})
	visitor.Walk(expr)
	return slices.Collect(func(yield func(ast.Var) bool) {
		for v := range visitor.Vars() {
			if !yield(v) {
				return
			}
		}
	})
}

// openFacts are those whose keys nobody declares.
var openFacts = []ast.Ref{
	ast.MustParseRef("input.identity.attributes"),
	ast.MustParseRef("input.credentials.attributes"),
	ast.MustParseRef("input.request.headers"),
}

// maybeUndefined tells whether a path of facts, of data or of rules may lead
// nowhere. Declared facts are always there, and of base data it is known.
func (n *negations) maybeUndefined(ref ast.Ref) bool {
	if slices.ContainsFunc(openFacts, func(open ast.Ref) bool { return len(ref) > len(open) && ref.HasPrefix(open) }) {
		return true
	}
	if !ref.HasPrefix(ast.DefaultRootRef) {
		return false
	}
	if !ref.IsGround() {
		return true
	}
	if len(n.compiler.GetRulesExact(ref)) > 0 {
		return !isTotal(ref, n.compiler)
	}
	path, _ := names(ref)
	_, known := walkData(n.data, path)
	return known < len(path) && len(n.compiler.GetRules(ref)) > 0
}
