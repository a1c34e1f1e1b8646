package engine

import (
	"reflect"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// checkValues looks for comparisons of a fact with what it never is. The type
// checker sees two strings, and a deny that waits for
// `input.address.scope == "metdata"` never denies. Of two types it refuses `==`
// alone, though `input.target.port < "1024"` is true of every port.
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
		operator := terms[0].Value.String()
		switch {
		case expr.IsEquality(), operator == "equal", operator == "neq":
			j.checkValue(root, fact(a), b, expr.Location)
			j.checkValue(root, fact(b), a, expr.Location)
		case operator == ast.Member.Name:
			j.checkValue(root, fact(a), b, expr.Location)
			j.checkMember(root, fact(b), a, expr.Location)
			each(b, func(member *ast.Term) { j.checkScalar(root, fact(a), member, "", expr.Location) })
		}
		switch operator {
		case "lt", "lte", "gt", "gte", "neq":
			sign := ast.BuiltinMap[operator].Infix
			j.checkScalar(root, fact(a), b, sign, expr.Location)
			j.checkScalar(root, fact(b), a, sign, expr.Location)
		}
		return false
	})
}

// comparison is one of a fact with something that is written out.
type comparison struct {
	at       *ast.Location
	path     []string
	declared *policy.Fact
	dynamic  bool // a member of the fact is compared
}

// comparedFact finds the fact that a term is, if it is one.
func comparedFact(root policy.Fact, fact *ast.Term, at *ast.Location) *comparison {
	r, ok := fact.Value.(ast.Ref)
	if !ok || !r[0].Equal(ast.InputRootDocument) || len(r) == 1 {
		return nil
	}
	path, dynamic := names(r)
	declared, n := root.At(path...)
	if n < len(path) {
		return nil
	}
	return &comparison{at, path, declared, dynamic}
}

// checkValue holds what a fact is compared with, a text or a list of them,
// against what the fact may be.
func (j *judging) checkValue(root policy.Fact, fact, with *ast.Term, at *ast.Location) {
	c := comparedFact(root, fact, at)
	if c == nil {
		return
	}
	values := c.declared.Values
	if slices.Equal(c.path, []string{"session", "listener"}) {
		values = j.options.Listeners
	}
	how, isList := spellingOf(c.declared)
	eachText(with, func(text string) {
		switch {
		case text != "" && values != nil && !c.dynamic && !slices.Contains(values, text):
			j.warn(at, "%s is never %q%s (it is %s)", pathText("input", c.path), text, didYouMean(text, values), list(values))
		case how != nil && isList == c.dynamic:
			verb := "is never"
			if isList {
				verb = "never has"
			}
			j.checkSpelling(c, how, verb, text)
		}
	})
}

// checkMember holds a text that is looked for in a fact against what its members
// may be.
func (j *judging) checkMember(root policy.Fact, fact, text *ast.Term, at *ast.Location) {
	c := comparedFact(root, fact, at)
	if c == nil || c.dynamic {
		return
	}
	if how, isList := spellingOf(c.declared); how != nil && isList {
		if text, ok := text.Value.(ast.String); ok {
			j.checkSpelling(c, how, "never has", string(text))
		}
	}
}

// checkScalar refuses to hold a fact against a number, a text or the like of
// another type: such an operator says nothing of the fact. Without one, the fact
// is looked for in a list.
func (j *judging) checkScalar(root policy.Fact, fact, with *ast.Term, operator string, at *ast.Location) {
	c := comparedFact(root, fact, at)
	if c == nil {
		return
	}
	is, other := scalarOf(c), ""
	switch with.Value.(type) {
	case ast.Null:
		other = "value of its own"
	case ast.Boolean:
		other = "boolean"
	case ast.Number:
		other = "number"
	case ast.String:
		other = "string"
	}
	name := pathText("input", c.path)
	if c.dynamic {
		name = "a member of " + name
	}
	if is == "" || other == "" || is == other {
		return
	}
	why := "it is never among them"
	switch operator {
	case "":
	case "!=":
		why = "they are never equal"
	default:
		why = operator + " compares the types, whatever the values are"
	}
	j.refuse(at, "match error: %s is a %s, %v a %s: %s", name, is, with, other, why)
}

// scalarOf is what OPA calls the type of a fact, or of a member of a list; empty
// where that is no scalar, or may be several.
func scalarOf(c *comparison) string {
	t := c.declared.Type
	switch {
	case t == reflect.TypeFor[policy.Prefixes](), t == reflect.TypeFor[policy.Suffixes](), t == reflect.TypeFor[[]string]():
		if c.dynamic {
			return "string"
		}
	case c.dynamic:
	case t == reflect.TypeFor[policy.IP](), t.Kind() == reflect.String:
		return "string"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.Int64:
		return "number"
	}
	return ""
}

// eachText calls f with a text, or with those in a list.
func eachText(t *ast.Term, f func(text string)) {
	text := func(t *ast.Term) {
		if text, ok := t.Value.(ast.String); ok {
			f(string(text))
		}
	}
	text(t)
	each(t, text)
}

// each calls f with the members of a list that is written out.
func each(t *ast.Term, f func(member *ast.Term)) {
	switch v := t.Value.(type) {
	case ast.Set:
		v.Foreach(f)
	case *ast.Array:
		v.Foreach(f)
	}
}
