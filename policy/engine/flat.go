package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// What follows finds look-ups whose time grows with the data: loops over a
// whole document of data whose entries are compared with a fact, and a few
// calls that loop inside. What is reached by a path that depends on the caller,
// such as data.rules[input.identity.name], is the caller's own and small; so
// are data.settings, which an operator writes by hand, and short lists of
// numbers, such as ports.

// numbersAreFew is how long a list of numbers may be without a word.
const numbersAreFew = 64

// manyHeads is how many heads of a function may have texts or numbers among
// their arguments without a word: OPA tries them one after another.
const manyHeads = 100

// maxCalls bounds how far a loop is followed into functions, and maxFollowed
// into how many of their definitions from one rule.
const (
	maxCalls    = 3
	maxFollowed = 1000
)

// matchers are built-ins that compare an entry with a fact.
var matchers = []string{
	"endswith", "startswith", "contains", "indexof", "glob.match", "regex.match", "regex.is_match",
	"net.cidr_contains", "net.cidr_intersects", "net.cidr_overlap",
}

// sweepers are built-ins that go through all of an argument.
var sweepers = []string{"strings.any_suffix_match", "strings.any_prefix_match", "net.cidr_contains_matches"}

// flatness looks at one rule.
type flatness struct {
	compiler *ast.Compiler
	data     map[string]any
	found    func(at *ast.Location, message string)
	told     map[string]bool // what the rule goes through, once each
	followed int             // definitions of functions, from one rule
}

// tell reports what a rule goes through.
func (f *flatness) tell(at *ast.Location, coll ast.Ref, format string, args ...any) {
	if name := coll.String(); !f.told[name] {
		f.told[name] = true
		f.found(at, fmt.Sprintf(format, args...))
	}
}

// scope is what is known of the variables in a body.
type scope struct {
	seen  map[ast.Var]bool    // in an earlier expression, which gave them a value
	alias map[ast.Var]ast.Ref // they stand for a path of data or input
	loops map[ast.Var]ast.Ref // they are, or are a part of, one entry after another of that path
	calls int
	at    *ast.Location // of the outermost call, where the loop is in the caller
}

func (s *scope) inner() *scope {
	return &scope{maps.Clone(s.seen), maps.Clone(s.alias), maps.Clone(s.loops), s.calls, s.at}
}

func (f *flatness) rule(rule *ast.Rule) {
	f.told, f.followed = map[string]bool{}, 0
	for r := rule; r != nil; r = r.Else {
		s := &scope{seen: map[ast.Var]bool{}, alias: map[ast.Var]ast.Ref{}, loops: map[ast.Var]ast.Ref{}}
		for _, argument := range r.Head.Args {
			s.see(argument)
		}
		f.body(r.Body, s)
	}
}

// heads looks for functions that are tables.
func (f *flatness) heads(rules []*ast.Rule) {
	count := map[string]int{}
	for _, rule := range rules {
		if !slices.ContainsFunc(rule.Head.Args, func(t *ast.Term) bool { return ast.IsScalar(t.Value) }) {
			continue
		}
		name := rule.Ref().String()
		if count[name]++; count[name] == manyHeads {
			f.found(rule.Location, fmt.Sprintf("%s has %d definitions and more, which are tried one after another: write them as data, and look them up by key",
				strings.TrimPrefix(name, "data."), manyHeads))
		}
	}
}

func (s *scope) see(x any) {
	ast.WalkVars(x, func(v ast.Var) bool { s.seen[v] = true; return false })
}

func (f *flatness) body(body ast.Body, s *scope) {
	for _, expr := range body {
		f.expr(expr, s)
		for _, below := range closuresOf(expr) {
			inner := s.inner()
			if every, ok := expr.Terms.(*ast.Every); ok {
				f.every(every, inner)
			}
			f.body(below, inner)
		}
		s.see(expr)
	}
}

// closuresOf are the bodies within an expression.
func closuresOf(expr *ast.Expr) []ast.Body {
	var out []ast.Body
	ast.WalkClosures(expr, func(x any) bool {
		switch x := x.(type) {
		case *ast.Every:
			out = append(out, x.Body)
		case *ast.Not:
			out = append(out, x.Body)
		case *ast.ArrayComprehension:
			out = append(out, x.Body)
		case *ast.SetComprehension:
			out = append(out, x.Body)
		case *ast.ObjectComprehension:
			out = append(out, x.Body)
		default:
			return false
		}
		return true // those within are seen to in their turn
	})
	return out
}

func (f *flatness) every(every *ast.Every, s *scope) {
	if domain := s.resolve(f, every.Domain); f.isLarge(domain) {
		for _, t := range []*ast.Term{every.Key, every.Value} {
			if t == nil {
				continue
			}
			if v, ok := t.Value.(ast.Var); ok {
				s.loops[v] = domain
			}
		}
	}
}

func (f *flatness) expr(expr *ast.Expr, s *scope) {
	at := expr.Location
	if s.at != nil {
		at = s.at
	}
	terms, isCall := expr.Terms.([]*ast.Term)
	if !isCall {
		return
	}
	operands := terms[1:]
	switch operator := terms[0].Value.String(); {
	case expr.IsEquality(), operator == "equal":
		f.equality(operands[0], operands[1], at, s)
	case operator == ast.Member.Name, operator == ast.MemberWithKey.Name:
		coll := s.resolve(f, operands[len(operands)-1])
		if operator == ast.Member.Name && f.isLarge(coll) {
			f.tell(at, coll, "`in` goes through all of %s: make it an object with those keys, and write %s", coll, entry(coll, s.resolve(f, operands[0])))
		}
	case slices.Contains(sweepers, operator):
		for _, o := range operands {
			if coll := s.resolve(f, o); f.isLarge(coll) {
				f.matched(operator, coll, operands, at, s)
			}
		}
	case slices.Contains(matchers, operator):
		for _, o := range operands {
			if coll := f.loopOf(o, s); coll != nil {
				f.matched(operator, coll, operands, at, s)
				return
			}
		}
	case terms[0].Value.(ast.Ref)[0].Equal(ast.DefaultRootDocument):
		f.call(terms[0].Value.(ast.Ref), operands, at, s)
	}
}

// equality notes what a variable stands for, and looks for an entry that is
// compared with a fact or with a text.
func (f *flatness) equality(a, b *ast.Term, at *ast.Location, s *scope) {
	for _, pair := range [][2]*ast.Term{{a, b}, {b, a}} {
		one, other := pair[0], pair[1]
		if coll := f.loopOf(one, s); coll != nil {
			fact := s.resolve(f, other)
			_, literal := other.Value.(ast.String)
			switch {
			case isPath(fact, ast.InputRootDocument) && coll[0].Equal(ast.DefaultRootDocument):
				f.tell(at, coll, "this goes through all of %s: make it an object with that as the key, and write %s", coll, entry(coll, fact))
				return
			case literal && coll[0].Equal(ast.InputRootDocument):
				f.tell(at, coll, "write %s in %s, which is looked up and can be indexed", other, coll)
				return
			}
		}
		v, ok := one.Value.(ast.Var)
		if !ok || s.seen[v] {
			continue
		}
		if coll := f.loopOf(other, s); coll != nil {
			s.loops[v] = coll
		} else if path := s.resolve(f, other); path != nil {
			s.alias[v] = path
		}
	}
	// The key of a loop is one of its entries as well.
	for _, t := range []*ast.Term{a, b} {
		if r, ok := t.Value.(ast.Ref); ok {
			if coll, key := f.loop(s.expand(r), s); coll != nil {
				s.loops[key] = coll
			}
		}
	}
}

// matched tells of a built-in that compares one entry after another.
func (f *flatness) matched(operator string, coll ast.Ref, operands []*ast.Term, at *ast.Location, s *scope) {
	if !coll[0].Equal(ast.DefaultRootDocument) {
		return // a fact's list is short
	}
	var fact ast.Ref
	for _, o := range operands {
		if path := s.resolve(f, o); isPath(path, ast.InputRootDocument) {
			fact = path
		}
	}
	list := func(name, otherwise string) string {
		if len(fact) > 2 {
			return fact[:len(fact)-1].Append(ast.StringTerm(name)).String()
		}
		return otherwise
	}
	switch operator {
	case "endswith", "strings.any_suffix_match":
		f.tell(at, coll, "%s is tried on all of %s: make it an object of names, and write `m := %s; some s in %s; m[s]`",
			operator, coll, coll, list("suffixes", "input.target.suffixes"))
	case "net.cidr_contains", "net.cidr_intersects", "net.cidr_overlap", "net.cidr_contains_matches":
		f.tell(at, coll, "%s is tried on all of %s: make it an object of CIDRs, and write `m := %s; some p in %s; m[p]`",
			operator, coll, coll, list("prefixes", "input.address.prefixes"))
	default:
		f.tell(at, coll, "%s is tried on all of %s: look up a name, a suffix or a prefix as a key instead, or keep a short list for each caller, as in %s",
			operator, coll, entry(coll, ast.MustParseRef("input.identity.name")))
	}
}

// call follows an entry into a function that it is passed to.
func (f *flatness) call(function ast.Ref, operands []*ast.Term, at *ast.Location, s *scope) {
	if s.calls == maxCalls || !slices.ContainsFunc(operands, func(o *ast.Term) bool { return f.loopOf(o, s) != nil }) {
		return
	}
	for _, rule := range f.compiler.GetRulesExact(function) {
		if f.followed++; f.followed > maxFollowed {
			return
		}
		inner := &scope{map[ast.Var]bool{}, map[ast.Var]ast.Ref{}, map[ast.Var]ast.Ref{}, s.calls + 1, at}
		for i, argument := range rule.Head.Args[:min(len(rule.Head.Args), len(operands))] {
			inner.see(argument)
			v, ok := argument.Value.(ast.Var)
			if !ok {
				continue
			}
			if coll := f.loopOf(operands[i], s); coll != nil {
				inner.loops[v] = coll
			} else if path := s.resolve(f, operands[i]); path != nil {
				inner.alias[v] = path
			}
		}
		f.body(rule.Body, inner)
	}
}

// loopOf is the path whose entries a term goes through; nil where it doesn't.
func (f *flatness) loopOf(t *ast.Term, s *scope) ast.Ref {
	switch v := t.Value.(type) {
	case ast.Var:
		return s.loops[v]
	case ast.Ref:
		if head, ok := v[0].Value.(ast.Var); ok && s.loops[head] != nil {
			return s.loops[head]
		}
		coll, _ := f.loop(s.expand(v), s)
		return coll
	}
	return nil
}

// loop is the large document that a path goes through, with the variable that
// stands for the key.
func (f *flatness) loop(r ast.Ref, s *scope) (coll ast.Ref, key ast.Var) {
	for i, part := range r[1:] {
		v, isVar := part.Value.(ast.Var)
		switch {
		case isVar && s.seen[v]:
			return nil, "" // a look-up, or the caller's own
		case isVar:
			coll = f.base(r[:i+1])
			if isPath(coll, ast.InputRootDocument) || f.isLarge(coll) {
				return coll, v
			}
			return nil, ""
		}
	}
	return nil, ""
}

// expand puts the path that the head of a reference stands for in its place.
func (s *scope) expand(r ast.Ref) ast.Ref {
	if head, ok := r[0].Value.(ast.Var); ok && s.alias[head] != nil {
		return s.alias[head].Concat(r[1:])
	}
	return r
}

// resolve is the path of data or input that a term stands for, as far as its
// names are written out; nil for everything else.
func (s *scope) resolve(f *flatness, t *ast.Term) ast.Ref {
	var r ast.Ref
	switch v := t.Value.(type) {
	case ast.Var:
		r = s.alias[v]
	case ast.Ref:
		r = s.expand(v)
	}
	if len(r) > 1 && ast.RootDocumentNames.Contains(r[0]) && len(r.ConstantPrefix()) == len(r) {
		return f.base(r)
	}
	return nil
}

// base sees through a rule that is another name of a path.
func (f *flatness) base(r ast.Ref) ast.Ref {
	if !r[0].Equal(ast.DefaultRootDocument) {
		return r
	}
	rules := f.compiler.GetRulesExact(r)
	if len(rules) != 1 || rules[0].Head.Value == nil || len(rules[0].Body) != 1 {
		return r
	}
	terms, ok := rules[0].Body[0].Terms.([]*ast.Term)
	if !ok || !rules[0].Body[0].IsEquality() || !terms[1].Equal(rules[0].Head.Value) {
		return r
	}
	if path, ok := terms[2].Value.(ast.Ref); ok && isPath(path, ast.DefaultRootDocument) {
		return path
	}
	return r
}

func isPath(r ast.Ref, root *ast.Term) bool {
	return len(r) > 1 && r[0].Equal(root) && len(r.ConstantPrefix()) == len(r)
}

// isLarge tells whether a path is one of base data that may grow.
func (f *flatness) isLarge(r ast.Ref) bool {
	if !isPath(r, ast.DefaultRootDocument) || len(f.compiler.GetRules(r)) > 0 {
		return false
	}
	path, _ := names(r)
	if path[0] == "settings" {
		return false
	}
	value, n := walkData(f.data, path)
	if list, ok := value.([]any); ok && n == len(path) && len(list) <= numbersAreFew {
		return slices.ContainsFunc(list, func(v any) bool { return !isNumber(v) })
	}
	return true
}

func isNumber(v any) bool {
	_, isText := v.(string)
	switch v.(type) {
	case nil, bool, []any, map[string]any:
		return false
	}
	return !isText
}

// entry is how a key is looked up.
func entry(coll, key ast.Ref) string {
	if key == nil {
		return coll.String() + "[…]"
	}
	return fmt.Sprintf("%s[%s]", coll, strings.TrimSpace(key.String()))
}
