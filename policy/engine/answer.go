package engine

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"sallyport/policy"
)

// field is a decision field that a stage's package has.
type field struct {
	name     string
	path     ast.Ref // data.sallyport.STAGE.NAME
	variable ast.Var // which has its value in the query's result
	total    bool    // it can't be undefined
	index    int     // its place in [policy.Decision]
	read     reader
}

// mustBeDefined are the fields whose absence would open the door or leave by
// another way than the policy's author wrote, though a rule for them exists.
var mustBeDefined = []string{"deny", "via"}

func queriedFields(stage policy.Stage, names []string, compiler *ast.Compiler) ([]field, error) {
	var out []field
	for _, declared := range policy.Fields() {
		if !slices.Contains(names, declared.Name) {
			continue
		}
		if !declared.In(stage) {
			return nil, fmt.Errorf("the stage has no field %s", declared.Name)
		}
		path := fieldRef(stage, declared.Name)
		out = append(out, field{
			name: declared.Name, path: path, variable: ast.Var("value_" + declared.Name),
			total: isTotal(path, compiler), index: declared.Index, read: readerOf(declared.Type),
		})
	}
	return out, nil
}

// isTotal tells whether a rule can't be undefined: it has a default, or it is
// a set, which may be empty.
func isTotal(path ast.Ref, compiler *ast.Compiler) bool {
	rules := compiler.GetRulesExact(path)
	return slices.ContainsFunc(rules, func(r *ast.Rule) bool { return r.Default }) ||
		len(rules) > 0 && !slices.ContainsFunc(rules, func(r *ast.Rule) bool {
			return r.Head.RuleKind() != ast.MultiValue || !r.Ref().Equal(path)
		})
}

// value is the field's value in a result; nil where it is undefined.
func (f *field) value(found topdown.QueryResult) *ast.Term {
	term := found[f.variable]
	if term == nil || f.total {
		return term
	}
	if list, ok := term.Value.(*ast.Array); ok && list.Len() == 1 {
		return list.Elem(0)
	}
	return nil
}

// decide reads the fields, and says what they come to.
func (st *stage) decide(found topdown.QueryResult) (policy.Decision, error) {
	var d policy.Decision
	into := reflect.ValueOf(&d).Elem()
	if found == nil {
		return d, errors.New("the evaluation has no result")
	}
	for i := range st.fields {
		f := &st.fields[i]
		term := f.value(found)
		if term == nil {
			if slices.Contains(mustBeDefined, f.name) {
				return policy.Decision{}, fmt.Errorf("%s has a rule but is undefined", f.name)
			}
			continue
		}
		if err := f.read(term.Value, into.Field(f.index)); err != nil {
			return policy.Decision{}, st.described(f.name, err)
		}
	}
	if err := whole(st.name, &d); err != nil {
		return policy.Decision{}, err
	}
	if d.Allow && len(d.Deny) == 0 {
		d.Verdict = policy.Allowed
		return d, nil
	}
	// What would be enforced is of no use to a request that is refused; what is
	// told of it is, and what the guard does about who has made it.
	return policy.Decision{
		Verdict: policy.Denied,
		Deny:    d.Deny, Reason: d.Reason, Warn: d.Warn, Explain: d.Explain, Labels: d.Labels, Trace: d.Trace,
		Ban: d.Ban, Delay: d.Delay, Limits: d.Limits,
	}, nil
}

// described says which field is wrong. What it quotes of a value is not for a
// log where the stage reads a secret.
func (st *stage) described(name string, err error) error {
	if w := (*misread)(nil); errors.As(err, &w) {
		if w.key != "" {
			name += "." + w.key
		}
		if why := st.withholds(name + w.what); why != "" {
			return fmt.Errorf("%s: its value is wrong; it is withheld, since %s", strings.Split(name, ".")[0], why)
		}
		return fmt.Errorf("%s: %s", name, w.what)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// result is the fields' values as an object, for the log.
func (st *stage) result(found topdown.QueryResult) ast.Value {
	var pairs [][2]*ast.Term
	for i := range st.fields {
		if term := st.fields[i].value(found); term != nil {
			pairs = append(pairs, [2]*ast.Term{ast.StringTerm(st.fields[i].name), term})
		}
	}
	return ast.NewObject(pairs...)
}
