package engine

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// checkUpstreams holds the names of upstreams that are written out, in a rule `via`
// or in a rule of the same file that it names, against those that there are. Of a
// name that is worked out only a request will show that nobody has it.
func (j *judging) checkUpstreams() {
	s := j.stages[policy.Route]
	if j.options.Upstreams == nil || s == nil {
		return
	}
	for _, rule := range s.fields["via"] {
		for r := rule; r != nil; r = r.Else {
			j.checkWay(rule.Module, r.Head.Value)
		}
	}
}

func (j *judging) checkWay(m *ast.Module, way *ast.Term) {
	if way == nil {
		return
	}
	switch v := way.Value.(type) {
	case *ast.Array:
		v.Foreach(func(hop *ast.Term) { j.checkHop(m, hop) })
	case ast.Var:
		for _, value := range valuesOf(m, v) {
			if list, ok := value.Value.(*ast.Array); ok {
				list.Foreach(func(hop *ast.Term) { j.checkHop(m, hop) })
			}
		}
	}
}

func (j *judging) checkHop(m *ast.Module, hop *ast.Term) {
	switch v := hop.Value.(type) {
	case ast.String, ast.Object:
		j.checkChoice(v, hop.Location)
	case ast.Var:
		for _, value := range valuesOf(m, v) {
			j.checkChoice(value.Value, value.Location)
		}
	}
}

// checkChoice looks at a hop that is written out.
func (j *judging) checkChoice(hop ast.Value, at *ast.Location) {
	switch v := hop.(type) {
	case ast.String:
		if !slices.Contains(j.options.Upstreams, string(v)) {
			j.warn(at, "the configuration has no upstream %q%s", string(v), didYouMean(string(v), j.options.Upstreams))
		}
	case ast.Object:
		names := v.Get(ast.StringTerm("any"))
		if names == nil {
			return
		}
		if list, ok := names.Value.(*ast.Array); ok {
			list.Foreach(func(name *ast.Term) {
				if text, ok := name.Value.(ast.String); ok {
					j.checkChoice(text, name.Location)
				}
			})
		}
	}
}

// valuesOf are those that rules of a module give a name, as they are written.
func valuesOf(m *ast.Module, name ast.Var) []*ast.Term {
	var values []*ast.Term
	for _, rule := range m.Rules {
		if !rule.Head.Ref().Equal(ast.Ref{ast.VarTerm(string(name))}) || len(rule.Head.Args) > 0 {
			continue
		}
		for r := rule; r != nil; r = r.Else {
			if r.Head.Value != nil {
				values = append(values, r.Head.Value)
			}
		}
	}
	return values
}
