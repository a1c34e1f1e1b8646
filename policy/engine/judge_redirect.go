package engine

import "github.com/open-policy-agent/opa/v1/ast"

// checkRedirects holds the hosts that a rule `redirect` writes out, or a rule of
// the same file that it names, against what the proxy can reach. One that is
// worked out is a fault of the request that meets it. below are the keys in the
// rule's head.
func (j *judging) checkRedirects(rule *ast.Rule, below ast.Ref) {
	if j.options.IsHost == nil {
		return
	}
	for r := rule; r != nil; r = r.Else {
		for _, value := range written(rule.Module, r.Head.Value) {
			switch object, isObject := value.Value.(ast.Object); {
			case len(below) == 1 && below[0].Equal(ast.StringTerm("host")):
				j.checkRedirect(value)
			case len(below) == 0 && isObject:
				for _, host := range written(rule.Module, object.Get(ast.StringTerm("host"))) {
					j.checkRedirect(host)
				}
			}
		}
	}
}

func (j *judging) checkRedirect(host *ast.Term) {
	text, ok := host.Value.(ast.String)
	if !ok || text == "" { // empty: the host stays
		return
	}
	if !j.options.IsHost(string(text)) {
		j.refuse(host.Location, "redirect.host has to be a name or an address without scheme or port, not %v (the port goes into redirect.port)", text)
	}
}

// written are the values that a term stands for, as they are written: its own, and
// of the name of a rule of the module those of the rule.
func written(m *ast.Module, t *ast.Term) []*ast.Term {
	if t == nil {
		return nil
	}
	if name, ok := t.Value.(ast.Var); ok {
		return valuesOf(m, name)
	}
	return []*ast.Term{t}
}
