package engine

import (
	"cmp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// What an explanation may hold.
const (
	maxRules = 8 // for one name
	maxDepth = 6 // rules that led to rules

	maxStatement = 200 // bytes of its text
)

// Explanation is why a decision came out as it did, for the author of the
// policy.
type Explanation struct {
	Fields []FieldReason `json:"fields"` // in the order of [policy.Fields]; allow and deny always, where they have a rule
}

// FieldReason is why a decision field has its value.
type FieldReason struct {
	Field   string       `json:"field"`
	Value   string       `json:"value,omitempty"` // as Rego would have it, cut short; empty: undefined
	Rules   []RuleReason `json:"rules"`           // those that gave the value; where none did, those that failed
	More    int          `json:"more,omitempty"`  // rules that are left out
	Default bool         `json:"default,omitempty"`
}

// RuleReason is what became of a rule.
type RuleReason struct {
	Name       string            `json:"rule"` // as its package calls it
	File       string            `json:"file"`
	Line       int               `json:"line"`
	Holds      bool              `json:"holds"`
	Values     []string          `json:"values,omitempty"`     // what it gave, unless that is just true
	Statements []StatementReason `json:"statements,omitempty"` // of one that holds, all; of one that fails, the one that failed last
	Told       bool              `json:"told,omitempty"`       // its statements have been listed before
}

// StatementReason is what became of a statement in a rule's body.
type StatementReason struct {
	File    string       `json:"file"`
	Line    int          `json:"line"`
	Text    string       `json:"text"` // as it is written, in one line
	Holds   bool         `json:"holds"`
	Tried   int          `json:"tried,omitempty"` // how often it failed, where that is more than once
	Values  []Binding    `json:"values,omitempty"`
	Because []RuleReason `json:"because,omitempty"` // the rules that it asked
	More    int          `json:"more,omitempty"`    // of them that are left out
}

// Binding is what a name in a statement stood for, in one try after another.
type Binding struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
	More   bool     `json:"more,omitempty"` // there were others
}

// explaining turns what a tracer saw into an explanation.
type explaining struct {
	*tracer
	home string // the package whose rules are called by their short names
	told map[*ast.Rule]bool
}

// explanation says of each field of a stage where its value comes from: at
// length for what made the verdict, and in a line for the rest.
func (t *tracer) explanation(st *stage, values map[string]ast.Value) *Explanation {
	x := &explaining{tracer: t, home: stageRef(st.name).String(), told: map[*ast.Rule]bool{}}
	out := &Explanation{Fields: []FieldReason{}}
	against, _ := values["deny"].(ast.Set)
	for _, f := range st.fields {
		value, defined := values[f.name]
		set, isSet := value.(ast.Set)
		none := !defined || isSet && set.Len() == 0
		if none && f.name != "allow" && f.name != "deny" {
			continue
		}
		r := FieldReason{Field: f.name, Rules: []RuleReason{}}
		if defined {
			r.Value = t.show.text(value)
		}
		frames := t.framesOf(f.path)
		held := slices.DeleteFunc(slices.Clone(frames), func(f *frame) bool { return f.held == 0 || f.rule.Default })
		switch {
		case len(held) > 0:
			r.Rules, r.More = x.rules(held, 1)
		case defined && !isSet:
			r.Default = true
			fallthrough
		default:
			if f.name == "allow" {
				r.Rules, r.More = x.rules(frames, 1)
			}
		}
		beside := f.name != "allow" && f.name != "deny"
		if beside || f.name == "allow" && len(held) > 0 && against != nil && against.Len() > 0 {
			for i := range r.Rules {
				r.Rules[i].Statements, r.Rules[i].Told = nil, false
			}
		}
		if beside && len(r.Rules) == 0 {
			continue // by default
		}
		out.Fields = append(out.Fields, r)
	}
	return out
}

// framesOf are the tries of the rules at a path and below it.
func (t *tracer) framesOf(path ast.Ref) []*frame {
	text := path.String()
	var out []*frame
	for at, frames := range t.byPath {
		if at == text || strings.HasPrefix(at, text+".") || strings.HasPrefix(at, text+"[") {
			out = append(out, frames...)
		}
	}
	return out
}

// rules says what became of rules: the nearest to success first where none
// holds, and of several tries of a rule the best.
func (x *explaining) rules(frames []*frame, depth int) (out []RuleReason, more int) {
	best := map[*ast.Rule]*frame{}
	var order []*frame
	for _, f := range frames {
		if f.rule.Default && len(frames) > 1 {
			continue
		}
		before := best[f.rule]
		if before == nil || f.progress() > before.progress() {
			best[f.rule] = f
		}
	}
	for _, f := range best {
		order = append(order, f)
	}
	nearest := func(a, b *frame) int { return cmp.Compare(b.progress(), a.progress()) }
	written := func(a, b *frame) int {
		x, y := a.rule.Location, b.rule.Location
		return cmp.Or(cmp.Compare(x.File, y.File), cmp.Compare(x.Offset, y.Offset))
	}
	slices.SortFunc(order, func(a, b *frame) int { return cmp.Or(nearest(a, b), written(a, b)) })
	if len(order) > maxRules {
		more = len(order) - maxRules
		order = order[:maxRules]
	}
	slices.SortFunc(order, written)
	for _, f := range order {
		out = append(out, x.rule(f, depth))
	}
	return out, more
}

// progress is how far a try came: a success further than any failure.
func (f *frame) progress() float64 {
	switch {
	case f.held > 0:
		return 2
	case f.failed == nil || len(f.body) == 0:
		return 0 // the arguments did not fit
	}
	return float64(1+f.failed.expr.Index) / float64(1+len(f.body))
}

func (x *explaining) rule(f *frame, depth int) RuleReason {
	r := RuleReason{
		Name: x.name(f.rule), File: f.rule.Location.File, Line: f.rule.Location.Row, Holds: f.held > 0,
	}
	if len(f.values) != 1 || f.values[0] != "true" {
		r.Values = f.values
	}
	switch {
	case x.told[f.rule]:
		r.Told = true
	case depth > maxDepth:
	case f.held > 0:
		x.told[f.rule] = true
		r.Statements = x.statements(f, depth)
	case f.failed != nil:
		x.told[f.rule] = true
		r.Statements = x.failure(f, depth)
	}
	return r
}

func (x *explaining) name(rule *ast.Rule) string {
	full := rule.Ref().GroundPrefix().String()
	if short, ok := strings.CutPrefix(full, x.home+"."); ok {
		return short
	}
	return full
}

// statements are those of a rule that holds, as they are written. What is
// always so is left out.
func (x *explaining) statements(f *frame, depth int) []StatementReason {
	byPlace := map[int]*StatementReason{}
	var places []int
	for _, expr := range f.body {
		at := sourceOf(f.body, expr)
		if at == nil || at.Row == 0 {
			continue
		}
		s := byPlace[at.Offset]
		if s == nil {
			s = &StatementReason{File: at.File, Line: at.Row, Text: flat(at), Holds: true}
			byPlace[at.Offset] = s
			places = append(places, at.Offset)
			for _, b := range f.solution {
				if encloses(at, b.at) {
					s.Values = append(s.Values, Binding{b.name, b.values, b.more})
				}
			}
		}
		var asked []*frame
		if step := f.steps[expr]; step != nil {
			asked = rulesBelow(step.children)
		}
		because, more := x.rules(x.asked(expr, asked, !isNegated(expr)), depth+1)
		s.Because, s.More = append(s.Because, because...), s.More+more
	}
	slices.Sort(places)
	var out []StatementReason
	for _, at := range places {
		if s := byPlace[at]; s.Text != "true" && s.Text != "default" {
			out = append(out, *s)
		}
	}
	return out
}

// flat is the text of a statement in one line. OPA places the statement of
// `else := x if statement` at the beginning of the branch.
func flat(at *ast.Location) string {
	text := strings.Join(strings.Fields(string(at.Text)), " ")
	if strings.HasPrefix(text, "else ") {
		if _, after, ok := strings.Cut(text, " if "); ok {
			text = after
		}
	}
	return clippedTo(text, maxStatement)
}

// failure is the statement at which a rule failed; of a body within it, such
// as that of `every`, also the one that failed there.
func (x *explaining) failure(f *frame, depth int) []StatementReason {
	step := f.failed
	at := sourceOf(f.body, step.expr)
	s := StatementReason{File: at.File, Line: at.Row, Text: flat(at)}
	if step.fails > 1 {
		s.Tried = step.fails
	}
	for _, b := range step.names {
		s.Values = append(s.Values, Binding{b.name, b.values, b.more})
	}
	asked := rulesBelow(step.children)
	s.Because, s.More = x.rules(x.asked(step.expr, asked, isNegated(step.expr)), depth+1)
	out := []StatementReason{s}
	if isNegated(step.expr) {
		return out
	}
	for _, child := range bodiesBelow(step.children) {
		if child.held == 0 && child.failed != nil && child.failed.expr.Location.Row > 0 {
			return append(out, x.failure(child, depth)...)
		}
	}
	return out
}

func isNegated(expr *ast.Expr) bool {
	_, not := expr.Terms.(*ast.Not)
	return not || expr.Negated
}

// asked are the rules that an expression asked: those that were tried on its
// behalf, and those that had been tried before and are remembered. Where only
// the ones that held matter, the others are left out.
func (x *explaining) asked(expr *ast.Expr, tried []*frame, held bool) []*frame {
	if len(tried) == 0 && len(expr.With) == 0 {
		ast.WalkRefs(expr, func(r ast.Ref) bool {
			if !r[0].Equal(ast.DefaultRootDocument) {
				return false
			}
			for n := len(r); n > 1; n-- {
				if frames := x.byPath[r[:n].String()]; len(frames) > 0 && len(frames[0].rule.Head.Args) == 0 {
					tried = append(tried, frames...)
					return false
				}
			}
			return false
		})
	}
	if held && slices.ContainsFunc(tried, func(f *frame) bool { return f.held > 0 }) {
		tried = slices.DeleteFunc(slices.Clone(tried), func(f *frame) bool { return f.held == 0 })
	}
	return tried
}

// rulesBelow are the rules that were tried, through the bodies between.
func rulesBelow(frames []*frame) []*frame {
	var out []*frame
	for _, f := range frames {
		if f.rule != nil {
			out = append(out, f)
			continue
		}
		for _, s := range f.steps {
			out = append(out, rulesBelow(s.children)...)
		}
	}
	return out
}

// bodiesBelow are the bodies that were tried and should have held, the innermost
// first.
func bodiesBelow(frames []*frame) []*frame {
	var out []*frame
	for _, f := range frames {
		if f.rule != nil {
			continue
		}
		for _, s := range f.steps {
			if !isNegated(s.expr) {
				out = append(out, bodiesBelow(s.children)...)
			}
		}
		out = append(out, f)
	}
	return out
}
