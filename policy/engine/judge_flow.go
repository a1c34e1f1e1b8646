package engine

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// passed are the objects of facts that a variable may stand for, such as the
// input.target of `f(input.target)` in the body of f. Only variables that the
// compiler has named are followed: each name occurs once in all modules.
type passed map[ast.Var][]ast.Ref

// checkPassedFacts looks for misspelt facts where neither the path nor the type
// checker tells: in functions to which an object of facts is passed, and in
// object.get. A name is refused when none of the objects that may come has it.
func (j *judging) checkPassedFacts(c *ast.Compiler, stage policy.Stage, root policy.Fact, reached map[*ast.Rule]bool) {
	known := passed{}
	for again := true; again; {
		again = false
		for rule := range reached {
			ast.WalkExprs(rule, func(e *ast.Expr) bool {
				for v, refs := range known.bound(c, e) {
					for _, r := range refs {
						path, dynamic := names(r)
						fact, n := root.At(path...)
						followed := fact.Fields != nil || fact.Name == "headers"
						if !dynamic && n == len(path) && followed && !slices.ContainsFunc(known[v], func(o ast.Ref) bool { return o.Equal(r) }) {
							known[v] = append(known[v], r)
							again = true
						}
					}
				}
				return false
			})
		}
	}
	for rule := range reached {
		walkRule(rule, func(t *ast.Term, at *ast.Location, _ bool) {
			if r, ok := t.Value.(ast.Ref); ok && !ast.RootDocumentNames.Contains(r[0]) {
				j.checkPassedFact(stage, root, known.resolve(r), at)
			}
		})
		ast.WalkExprs(rule, func(e *ast.Expr) bool {
			if e.IsCall() && e.Operator().String() == ast.ObjectGet.Name && len(e.Operands()) > 2 {
				var refs []ast.Ref
				for _, r := range known.resolve(e.Operand(0).Value) {
					refs = append(refs, r.Concat(keysOf(e.Operand(1))))
				}
				j.checkPassedFact(stage, root, refs, e.Location)
			}
			return false
		})
	}
}

// bound are the variables to which an expression gives something: `v = ref`,
// and the arguments of the functions that are called.
func (known passed) bound(c *ast.Compiler, e *ast.Expr) map[ast.Var][]ast.Ref {
	if !e.IsCall() {
		return nil
	}
	out := map[ast.Var][]ast.Ref{}
	give := func(to *ast.Term, what *ast.Term) {
		if v, ok := to.Value.(ast.Var); ok && v.IsGenerated() {
			out[v] = append(out[v], known.resolve(what.Value)...)
		}
	}
	if operands := e.Operands(); e.IsEquality() {
		give(operands[0], operands[1])
		give(operands[1], operands[0])
	} else if operator := e.Operator(); operator[0].Equal(ast.DefaultRootDocument) {
		// Else branches have the variables of the first.
		for _, f := range c.GetRulesExact(operator) {
			for i, argument := range f.Head.Args[:min(len(f.Head.Args), len(operands))] {
				give(argument, operands[i])
			}
		}
	}
	return out
}

// resolve are the paths of input that a value may stand for.
func (known passed) resolve(v ast.Value) []ast.Ref {
	switch v := v.(type) {
	case ast.Var:
		return known[v]
	case ast.Ref:
		if v[0].Equal(ast.InputRootDocument) {
			return []ast.Ref{v}
		}
		head, ok := v[0].Value.(ast.Var)
		if !ok {
			return nil
		}
		var out []ast.Ref
		for _, r := range known[head] {
			out = append(out, r.Concat(v[1:]))
		}
		return out
	}
	return nil
}

// keysOf are the keys that object.get is given, so far as they are written out.
func keysOf(t *ast.Term) []*ast.Term {
	list, ok := t.Value.(*ast.Array)
	if !ok {
		return []*ast.Term{t}
	}
	var out []*ast.Term
	list.Foreach(func(t *ast.Term) { out = append(out, t) })
	return out
}

// checkPassedFact refuses a name that none of the paths has.
func (j *judging) checkPassedFact(stage policy.Stage, root policy.Fact, refs []ast.Ref, at *ast.Location) {
	why := ""
	for _, r := range refs {
		path, _ := names(r)
		fact, n := root.At(path...)
		if why := headerNever(path); why != "" {
			j.warn(at, "%s", why)
			return
		}
		if n == len(path) || fact.Fields == nil {
			return
		}
		why = unknownFact(stage, fact, path, n)
	}
	if why != "" {
		j.refuse(at, "%s", why)
	}
}
