package engine

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/dependencies"

	"sallyport/policy"
)

// clockReaders are built-ins whose results change with the clock although OPA
// does not say that they are non-deterministic.
var clockReaders = []string{
	"crypto.x509.parse_and_verify_certificates",
	"crypto.x509.parse_and_verify_certificates_with_options",
}

// judgeStage looks at what a stage reads and at what type its fields have.
func (j *judging) judgeStage(live *ast.Compiler, stage policy.Stage, s *stageRules) stageJudged {
	out := stageJudged{byDefault: s.byDefault, pure: true}
	for _, name := range fieldsOf(stage) {
		if s.fields[name] != nil {
			out.fields = append(out.fields, name)
		}
	}

	asked := fieldRules(live, stage, out.fields)
	out.reads = inputReads(asked)
	out.all = len(out.reads) > 0 && len(out.reads[0]) == 1
	for rule := range asked {
		out.pure = out.pure && isPure(rule)
	}
	if s.byDefault {
		return out
	}

	// Helpers of the stage's own package are judged even where nobody uses them.
	reached := map[*ast.Rule]bool{}
	reach(live, live.GetRulesWithPrefix(stageRef(stage)), reached)
	before := len(j.problems) + len(j.compiler)
	root := policy.Input(stage)
	for rule := range reached {
		j.checkFacts(stage, root, rule)
		j.checkValues(root, rule)
	}
	j.checkPassedFacts(live, stage, root, reached)
	typed := j.compileWithSchema(stage, reached)
	j.compilerProblems(typed)
	j.checkTypes(typed, stage, s)
	if len(j.problems)+len(j.compiler) == before {
		// What the two above cannot see, such as `input[k]`.
		for _, r := range out.reads {
			j.checkFact(stage, root, r, s.fields[out.fields[0]][0].Location)
		}
	}
	return out
}

func stageRef(stage policy.Stage) ast.Ref {
	return ast.Ref{ast.DefaultRootDocument, ast.StringTerm(namespace), ast.StringTerm(string(stage))}
}

func fieldRef(stage policy.Stage, field string) ast.Ref {
	return stageRef(stage).Append(ast.StringTerm(field))
}

// inputReads are the paths of input that rules read, as far as they are
// constant, sorted. It is what [dependencies.Base] does, which takes quadratic
// time over many rules of one name.
func inputReads(rules map[*ast.Rule]bool) []ast.Ref {
	var out []ast.Ref
	for rule := range rules {
		refs, err := dependencies.All(rule)
		if err != nil {
			panic(err) // a rule is an element that it takes
		}
		for _, r := range refs {
			if r[0].Equal(ast.InputRootDocument) {
				out = append(out, r.ConstantPrefix())
			}
		}
	}
	slices.SortFunc(out, ast.RefCompare)
	return slices.CompactFunc(out, ast.RefEqual)
}

// fieldRules are the rules that the fields of a stage may ask, their own among
// them.
func fieldRules(c *ast.Compiler, stage policy.Stage, fields []string) map[*ast.Rule]bool {
	rules := map[*ast.Rule]bool{}
	for _, name := range fields {
		reach(c, c.GetRulesWithPrefix(fieldRef(stage, name)), rules)
	}
	return rules
}

// reach adds to reached the rules and every rule that they may ask.
func reach(c *ast.Compiler, rules []*ast.Rule, reached map[*ast.Rule]bool) {
	for len(rules) > 0 {
		rule := rules[len(rules)-1]
		rules = rules[:len(rules)-1]
		if reached[rule] {
			continue
		}
		reached[rule] = true
		walkRule(rule, func(t *ast.Term, _ *ast.Location, _ bool) {
			if r, ok := t.Value.(ast.Ref); ok && r[0].Equal(ast.DefaultRootDocument) {
				rules = append(rules, c.GetRulesDynamicWithOpts(r, ast.RulesOptions{IncludeHiddenModules: true})...)
			}
		})
	}
}

// isPure tells whether a rule names no built-in whose result depends on more
// than its arguments.
func isPure(rule *ast.Rule) bool {
	pure := true
	walkRule(rule, func(t *ast.Term, _ *ast.Location, _ bool) {
		if name := builtinName(t); name != "" && (ast.BuiltinMap[name].IsNondeterministic() || slices.Contains(clockReaders, name)) {
			pure = false
		}
	})
	return pure
}

// checkFacts holds every path of input that a rule names against the facts of
// the stage.
func (j *judging) checkFacts(stage policy.Stage, root policy.Fact, rule *ast.Rule) {
	walkRule(rule, func(t *ast.Term, at *ast.Location, target bool) {
		r, ok := t.Value.(ast.Ref)
		if !ok || !r[0].Equal(ast.InputRootDocument) {
			return
		}
		if target && len(r) == 1 {
			j.whole(at, "`with input as` replaces all facts, so that nothing can be said of those that are read")
			return
		}
		j.checkFact(stage, root, r, at)
	})
}

// checkFact holds one path of input against the facts of the stage.
func (j *judging) checkFact(stage policy.Stage, root policy.Fact, r ast.Ref, at *ast.Location) {
	path, dynamic := names(r)
	if len(path) == 0 && dynamic {
		j.whole(at, "input is indexed by a variable, so that a misspelt fact could not be seen: write the fact's name")
		return
	}
	if len(path) == 0 {
		j.whole(at, "input is passed on as a whole, so that a misspelt fact could not be seen: pass the facts that are needed")
		return
	}
	fact, n := root.At(path...)
	switch {
	case n < len(path) && fact.Fields != nil:
		j.refuse(at, "%s", unknownFact(stage, fact, path, n))
	case dynamic && n == len(path) && fact.Fields != nil:
		j.whole(at, "%s is indexed by a variable, so that a misspelt fact could not be seen: write the fact's name", pathText("input", path))
	case headerNever(path) != "":
		j.warn(at, "%s", headerNever(path))
	case j.options.Missing != nil:
		if why := j.options.Missing(path[:n]...); why != "" {
			j.warn(at, "%s is always empty: %s", pathText("input", path[:n]), why)
		}
	}
}

// whole reports what hides the facts that are read.
func (j *judging) whole(at *ast.Location, format string, args ...any) {
	if j.options.Lenient {
		j.warn(at, format, args...)
		return
	}
	j.refuse(at, format+" (policy.strict: false turns this into a warning)", args...)
}

func unknownFact(stage policy.Stage, above *policy.Fact, path []string, n int) string {
	text := pathText("input", path[:n+1])
	var having []policy.Stage
	for _, other := range policy.Stages() {
		root := policy.Input(other)
		if _, m := root.At(path[:n+1]...); m == n+1 {
			having = append(having, other)
		}
	}
	if len(having) > 0 {
		return fmt.Sprintf("%s has no %s: only %s can read it", stage.Package(), text, list(having))
	}
	var known []string
	for _, f := range above.Fields {
		known = append(known, f.Name)
	}
	suggestion := ""
	if near := nearest(path[n], known); near != "" {
		suggestion = ": did you mean " + pathText("input", append(path[:n:n], near)) + "?"
	}
	return fmt.Sprintf("%s is not a fact of %s%s", text, stage.Package(), suggestion)
}

// compileWithSchema compiles the rules that a stage reaches with the stage's
// schema, so that the type checker sees facts through variables and compares
// their types.
func (j *judging) compileWithSchema(stage policy.Stage, reached map[*ast.Rule]bool) *ast.Compiler {
	var schema any
	if err := json.Unmarshal(policy.Schema(stage), &schema); err != nil {
		panic(err)
	}
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, schema)

	// A compiled rule keeps the location, as a pointer, of the one that was parsed.
	wanted := map[*ast.Location]bool{}
	for rule := range reached {
		wanted[rule.Location] = true
	}
	modules := map[string]*ast.Module{}
	for _, m := range j.modules {
		part := *m.parsed
		part.Annotations = nil
		part.Rules = slices.DeleteFunc(slices.Clone(m.parsed.Rules), func(r *ast.Rule) bool { return !wanted[r.Location] })
		if !m.test && len(part.Rules) > 0 {
			modules[m.key] = &part
		}
	}
	c := newCompiler(j.options).WithSchemas(schemas).WithOnlyStagesUpTo(ast.StageCheckTypes)
	c.Compile(modules)
	return c
}

// checkTypes holds the inferred type of each field against its kind.
func (j *judging) checkTypes(c *ast.Compiler, stage policy.Stage, s *stageRules) {
	if c.TypeEnv == nil {
		return
	}
	for _, name := range fieldsOf(stage) {
		rules := s.fields[name]
		if len(rules) == 0 || s.mistyped[name] {
			continue
		}
		field := findField(name)
		why := kindIn(stage, field).checkType(name, c.TypeEnv.GetByRef(fieldRef(stage, name)))
		if why == "" {
			continue
		}
		// Values that are written out have been looked at: it is another one.
		at := rules[0].Location
		for _, r := range rules {
			if r.Head.Value != nil && !r.Head.Value.IsGround() || r.Head.Key != nil && !r.Head.Key.IsGround() {
				at = r.Location
				break
			}
		}
		j.refuse(at, "%s", why)
	}
}
