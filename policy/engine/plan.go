package engine

import (
	"reflect"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// plan is a part of a stage's input: an object of some of its facts, or one
// fact. Everything that is made of the facts is made by walking a plan over
// them, so that what goes into an evaluation, into a memo key and into a log
// can't differ in what they hold.
type plan struct {
	name   string
	term   *ast.Term // the name
	index  int       // the field's place in the Go struct that encloses it
	hidden bool      // a secret fact
	fields []plan    // of an object
	leaf   *leaf     // of a fact
}

// paths are the facts that references to input name: each path goes as far as
// its names are known before an evaluation.
func paths(refs []ast.Ref) [][]string {
	var out [][]string
	for _, ref := range refs {
		if len(ref) == 0 || !ref.HasPrefix(ast.InputRootRef) {
			continue
		}
		var path []string
		for _, part := range ref[1:] {
			name, ok := part.Value.(ast.String)
			if !ok && !(len(path) == 1 && path[0] == "upstreams") { // where any name will do: see belowNames
				break
			}
			path = append(path, string(name))
		}
		out = append(out, path)
	}
	return out
}

// alwaysLogged are the facts that let a log be replayed and learnt from,
// whatever a stage reads. An address's geo is none of them: it is known only
// where it is read.
func alwaysLogged() [][]string {
	return [][]string{
		{"session"}, {"source", "ip"}, {"source", "port"}, {"identity", "name"},
		{"request", "command"}, {"request", "method"}, {"request", "path"},
		{"target", "host"}, {"target", "port"}, {"target", "kind"}, {"target", "suffixes"},
		{"target", "ip"}, {"target", "prefixes"}, {"target", "scope"}, {"asked"},
		{"address", "ip"}, {"address", "family"}, {"address", "prefixes"}, {"address", "scope"}, {"address", "names"},
		{"api", "method"}, {"api", "path"}, {"api", "query"}, {"api", "body"}, {"api", "token"}, {"api", "peer"},
		{"api", "source", "ip"}, {"api", "source", "port"},
	}
}

// planOf is the part of a stage's input that lies on the paths, at their ends,
// or below. Names that the stage does not have are left out, as they are
// absent from every input.
func planOf(stage policy.Stage, paths [][]string, secrets bool) plan {
	input := policy.Input(stage)
	p, _ := planFact(&input, paths, secrets)
	return p
}

func planFact(f *policy.Fact, paths [][]string, secrets bool) (plan, bool) {
	if len(paths) == 0 || f.Secret && !secrets {
		return plan{}, false
	}
	p := plan{name: f.Name, term: ast.StringTerm(f.Name), index: f.Index, hidden: f.Secret}
	if f.Fields == nil {
		p.leaf = leafOf(f)
		if f.Each != nil {
			p.leaf = upstreams(f.Each, belowNames(paths))
		}
		return p, true
	}
	whole := slices.ContainsFunc(paths, func(path []string) bool { return len(path) == 0 })
	for i := range f.Fields {
		below := [][]string{}
		for _, path := range paths {
			switch {
			case whole:
				below = [][]string{nil}
			case path[0] == f.Fields[i].Name:
				below = append(below, path[1:])
			}
		}
		if field, ok := planFact(&f.Fields[i], below, secrets); ok {
			p.fields = append(p.fields, field)
		}
	}
	return p, true
}

// belowNames is what paths read of each of the objects that a fact maps names to:
// all of it, where one of them does not say.
func belowNames(paths [][]string) [][]string {
	var below [][]string
	for _, path := range paths {
		if len(path) < 2 {
			return [][]string{nil}
		}
		below = append(below, path[1:])
	}
	return below
}

// planOfLog is what is logged of a stage that nobody answers.
func planOfLog(stage policy.Stage) *plan {
	p := planOf(stage, alwaysLogged(), false)
	return &p
}

// has tells whether the plan holds the fact at a path, or a part of it.
func (p *plan) has(path []string) bool {
	if len(path) == 0 || p.leaf != nil {
		return p.leaf != nil || len(p.fields) > 0
	}
	for i := range p.fields {
		if p.fields[i].name == path[0] {
			return p.fields[i].has(path[1:])
		}
	}
	return false
}

// secret tells whether the plan holds a secret fact.
func (p *plan) secret() bool {
	return p.hidden || slices.ContainsFunc(p.fields, func(f plan) bool { return f.secret() })
}

// input is the plan's part of the facts as OPA's own values. It fails where an
// attribute is not JSON.
func (p *plan) input(facts *policy.Facts) (ast.Value, error) {
	return p.value(reflect.ValueOf(facts).Elem())
}

func (p *plan) value(of reflect.Value) (ast.Value, error) {
	if p.leaf != nil {
		return p.leaf.value(of)
	}
	var room [16][2]*ast.Term
	pairs := room[:0]
	terms := make([]ast.Term, len(p.fields))
	for i := range p.fields {
		f := &p.fields[i]
		value, err := f.value(of.Field(f.index))
		if err != nil {
			return nil, err
		}
		terms[i].Value = value
		pairs = append(pairs, [2]*ast.Term{f.term, &terms[i]})
	}
	return ast.NewObject(pairs...), nil
}

// key appends what identifies the question: the stage and the plan's part of
// the facts. Two questions have the same key if and only if all those facts
// are equal: each fact says where it ends, and their order is the plan's.
func (st *stage) key(b []byte, facts *policy.Facts) []byte {
	b = appendText(b, string(st.name))
	return st.read.key(b, reflect.ValueOf(facts).Elem())
}

func (p *plan) key(b []byte, of reflect.Value) []byte {
	if p.leaf != nil {
		return p.leaf.key(b, of)
	}
	for i := range p.fields {
		f := &p.fields[i]
		b = f.key(b, of.Field(f.index))
	}
	return b
}
