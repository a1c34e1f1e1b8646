package engine

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// reaching are the built-ins that reach out of the process or reveal what is
// in it.
var reaching = []string{"http.send", "net.lookup_ip_addr", "opa.runtime"}

func parseModule(m Module) (*ast.Module, error) {
	return ast.ParseModuleWithOpts(m.Path, string(m.Text), ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1})
}

// parse parses every module of the candidate; what cannot be parsed is a
// problem.
func (j *judging) parse() {
	for _, m := range j.candidate.Modules {
		parsed, err := parseModule(m)
		if err != nil {
			j.unparsed = true
			for _, p := range explainAll(err) {
				p.File = cmp.Or(p.File, m.Path)
				j.compiler = append(j.compiler, p)
			}
			continue
		}
		j.add(&module{key: m.Path, bundle: m.Bundle, parsed: parsed, test: isTest(packageOf(parsed))})
	}
}

// add gives a module a key of its own and takes it in.
func (j *judging) add(m *module) {
	for path, n := m.key, 2; j.keys[m.key]; n++ {
		m.key = fmt.Sprintf("%s#%d", path, n)
	}
	j.keys[m.key] = true
	j.modules = append(j.modules, m)
}

// compile compiles the modules and looks at what only a compiler sees.
func (j *judging) compile() *judged {
	live := newCompiler(j.options)
	live.Compile(j.parsed(func(m *module) bool { return !m.test }))
	j.compilerProblems(live)
	printing := live
	if slices.ContainsFunc(j.modules, func(m *module) bool { return !m.test && hasPrint(m.parsed) }) {
		printing = newCompiler(j.options).WithEnablePrintStatements(true)
		printing.Compile(j.parsed(func(m *module) bool { return !m.test }))
		j.compilerProblems(printing)
	}
	j.checkReaching(printing)

	if slices.ContainsFunc(j.modules, func(m *module) bool { return m.test }) {
		tests := newCompiler(j.options).WithEnablePrintStatements(true)
		tests.Compile(j.parsed(func(*module) bool { return true }))
		j.compilerProblems(tests)
	}
	if live.Failed() || printing.Failed() {
		return nil
	}

	if !j.candidate.Partial {
		j.checkUndefinedData(printing)
	}
	out := &judged{compiler: printing, data: j.data, stages: map[policy.Stage]stageJudged{}}
	for _, stage := range policy.Stages() {
		if s := j.stages[stage]; s != nil && len(s.fields) > 0 {
			found := j.judgeStage(live, stage, s)
			if printing != live && !s.byDefault {
				j.judgePrints(&found, stage, fieldRules(printing, stage, found.fields))
			}
			out.stages[stage] = found
			j.checkDefined(live, stage, s)
		}
	}
	return out
}

// checkDefined warns of a field that must be defined and may not be: wherever
// it is not, the decision is a fault.
func (j *judging) checkDefined(c *ast.Compiler, stage policy.Stage, s *stageRules) {
	for _, name := range mustBeDefined {
		rules := s.fields[name]
		if len(rules) == 0 || j.problems.Fatal() || isTotal(fieldRef(stage, name), c) || slices.ContainsFunc(rules, unconditional) {
			continue
		}
		write := "a default"
		if name == "deny" {
			write = "deny contains … if"
		}
		j.warn(rules[0].Location, "%s is undefined where this rule does not apply, and that is a fault: write %s", name, write)
	}
}

// unconditional tells whether a rule always has a value, as far as can be seen.
func unconditional(r *ast.Rule) bool {
	if len(r.Body) != 1 {
		return false
	}
	always, ok := r.Body[0].Terms.(*ast.Term)
	return ok && always.Equal(ast.InternedTerm(true))
}

func (j *judging) parsed(wanted func(*module) bool) map[string]*ast.Module {
	modules := map[string]*ast.Module{}
	for _, m := range j.modules {
		if wanted(m) {
			modules[m.key] = m.parsed
		}
	}
	return modules
}

// newCompiler is a compiler that finds every error and never loads a schema
// from elsewhere. Calls of print are erased, so that what it says of the facts
// that a stage reads is true of what the stage decides by (print.go).
func newCompiler(o Options) *ast.Compiler {
	capabilities := ast.CapabilitiesForThisVersion()
	if !slices.Contains(o.Capabilities, "http.send") {
		// Whom http.send may reach, json.match_schema may as well.
		capabilities.AllowNet = []string{}
	}
	return ast.NewCompiler().
		SetErrorLimit(0).
		WithDefaultRegoVersion(ast.RegoV1).
		WithCapabilities(capabilities)
}

// checkReaching looks for the built-ins that the configuration does not allow,
// wherever they are named but as the target of a `with`. Without them in its
// capabilities the compiler would stop at the first. Tests are free to name
// them: they decide nothing, and replace them.
func (j *judging) checkReaching(c *ast.Compiler) {
	for _, m := range j.modules {
		if m.test {
			continue
		}
		walkRules(c.Modules[m.key], func(t *ast.Term, at *ast.Location, target bool) {
			name := builtinName(t)
			if !target && slices.Contains(reaching, name) && !slices.Contains(j.options.Capabilities, name) {
				j.refuse(at, "%s reaches out of the policy or reveals the process: it is refused unless policy.capabilities names it", name)
			}
		})
	}
}

// builtinName is the name of a built-in function as it is called, or "".
func builtinName(t *ast.Term) string {
	r, ok := t.Value.(ast.Ref)
	if !ok || len(r) == 0 {
		return ""
	}
	head, ok := r[0].Value.(ast.Var)
	if !ok || ast.RootDocumentNames.Contains(r[0]) || head.IsGenerated() {
		return ""
	}
	name := r.String()
	if _, ok := ast.BuiltinMap[name]; !ok {
		return ""
	}
	return name
}

// walkRules calls f for each term of a module's rules, with the place where it
// is written; target tells the target of a `with`.
func walkRules(m *ast.Module, f func(t *ast.Term, at *ast.Location, target bool)) {
	if m == nil {
		return
	}
	for _, rule := range m.Rules {
		walkRule(rule, f)
	}
}

func walkRule(rule *ast.Rule, f func(t *ast.Term, at *ast.Location, target bool)) {
	at := rule.Location
	place := func(t *ast.Term) *ast.Location {
		if t.Location != nil && t.Location.Row > 0 {
			return t.Location
		}
		return at
	}
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Rule:
			at = x.Location
		case *ast.Expr:
			if x.Location != nil && x.Location.Row > 0 {
				at = x.Location
			}
		case *ast.With:
			f(x.Target, place(x.Target), true)
			visitor.Walk(x.Value)
			return true
		case *ast.Term:
			f(x, place(x), false)
		}
		return false
	})
	visitor.Walk(rule)
}

// compilerProblems takes over a compiler's errors.
func (j *judging) compilerProblems(c *ast.Compiler) {
	for _, e := range c.Errors {
		j.compiler = append(j.compiler, explain(e))
	}
}

// explainAll explains what the parser returns: one error or several.
func explainAll(err error) Problems {
	var several ast.Errors
	var one *ast.Error
	switch {
	case errors.As(err, &several):
		var out Problems
		for _, e := range several {
			out = append(out, explain(e))
		}
		return out
	case errors.As(err, &one):
		return Problems{explain(one)}
	default:
		return Problems{{Message: oneLine(err.Error())}}
	}
}

// explain is one of OPA's errors in one line, with what OPA leaves to be known.
func explain(e *ast.Error) Problem {
	if d, ok := e.Details.(*ast.RefErrInvalidDetail); ok {
		return problemAt(e.Location, explainRef(d))
	}
	message := oneLine(e.Message)
	if e.Details != nil {
		var lines []string
		for _, line := range e.Details.Lines() {
			if strings.Trim(line, " ^") != "" {
				line, _, _ = strings.Cut(oneLine(line), " (see https://")
				line = line[:min(len(line), 200)] // of a source line
				lines = append(lines, strings.Replace(line, " : ", ": ", 1))
			}
		}
		message += ": " + strings.Join(lines, ", ")
	}
	for _, h := range hints {
		if strings.Contains(e.Message, h.of) {
			message += h.say
		}
	}
	if name, ok := strings.CutPrefix(e.Message, "undefined function "); ok {
		message += didYouMean(name, sortedKeys(maps.Clone(ast.BuiltinMap)))
	}
	return problemAt(e.Location, message)
}

// hints say what OPA's messages mean. OPA tells its errors apart by their text
// alone.
var hints = []struct{ of, say string }{
	{"multiple default rules", " (one rule has one default: keep one of them)"},
	{"conflicting rules", " (rules of one name must be of one kind: values, a set with `contains`, or functions with one number of arguments)"},
	{"conflicts with", " (a name is either one rule or the parent of others: write all of an object in one rule, or a rule for each of its keys)"},
	{" is unsafe", " (nothing gives it a value)"},
	{"annotation redeclared", " (a package or a document is described in one file only)"},
}

func explainRef(d *ast.RefErrInvalidDetail) string {
	message := "undefined: " + d.Ref[:d.Pos+1].String()
	if have, ok := d.Ref[d.Pos].Value.(ast.String); ok {
		var known []string
		for _, v := range d.OneOf {
			if s, ok := v.(ast.String); ok {
				known = append(known, string(s))
			}
		}
		if near := nearest(string(have), known); near != "" {
			return message + ": did you mean " + d.Ref[:d.Pos].Append(ast.StringTerm(near)).String() + "?"
		}
	}
	return message
}

func oneLine(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.ReplaceAll(strings.Join(lines, ", "), ":, ", ": ")
}
