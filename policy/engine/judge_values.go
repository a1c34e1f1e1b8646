package engine

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// checkValues looks for comparisons of a fact with a text that it never is. The
// type checker sees two strings, and a deny that waits for
// `input.address.scope == "metdata"` never denies.
func (j *judging) checkValues(root policy.Fact, rule *ast.Rule) {
	facts := map[ast.Var]*ast.Term{} // what variables stand for: the compiler has made them unique
	ast.WalkExprs(rule, func(expr *ast.Expr) bool {
		terms, isCall := expr.Terms.([]*ast.Term)
		if !isCall || len(terms) < 3 {
			return false
		}
		a, b := terms[1], terms[2]
		for _, pair := range [][2]*ast.Term{{a, b}, {b, a}} {
			v, isVar := pair[0].Value.(ast.Var)
			if _, isRef := pair[1].Value.(ast.Ref); isVar && isRef && expr.IsEquality() {
				facts[v] = pair[1]
			}
		}
		fact := func(t *ast.Term) *ast.Term {
			if v, ok := t.Value.(ast.Var); ok && facts[v] != nil {
				return facts[v]
			}
			return t
		}
		switch operator := terms[0].Value.String(); {
		case expr.IsEquality(), operator == "equal", operator == "neq":
			j.checkValue(root, fact(a), b, expr.Location)
			j.checkValue(root, fact(b), a, expr.Location)
		case operator == ast.Member.Name:
			j.checkValue(root, fact(a), b, expr.Location)
		}
		return false
	})
}

// checkValue holds what a fact is compared with, a text or a list of them,
// against what the fact may be.
func (j *judging) checkValue(root policy.Fact, fact, with *ast.Term, at *ast.Location) {
	r, ok := fact.Value.(ast.Ref)
	if !ok || !r[0].Equal(ast.InputRootDocument) || len(r) == 1 {
		return
	}
	path, dynamic := names(r)
	declared, n := root.At(path...)
	if dynamic || n < len(path) || declared.Values == nil {
		return
	}
	check := func(t *ast.Term) {
		text, ok := t.Value.(ast.String)
		if ok && text != "" && !slices.Contains(declared.Values, string(text)) {
			j.warn(at, "%s is never %q%s (it is %s)", pathText("input", path), string(text),
				didYouMean(string(text), declared.Values), list(declared.Values))
		}
	}
	switch v := with.Value.(type) {
	case ast.String:
		check(with)
	case ast.Set:
		v.Foreach(check)
	case *ast.Array:
		v.Foreach(check)
	}
}
