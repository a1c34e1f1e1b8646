package engine

import (
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// namespace is the package below which the stages live.
const namespace = "sallyport"

// names are the constant names of a ref below its head, and whether more
// follows that is not constant.
func names(r ast.Ref) (names []string, dynamic bool) {
	for _, t := range r[1:] {
		switch v := t.Value.(type) {
		case ast.String:
			names = append(names, string(v))
		case ast.Number, ast.Boolean, ast.Null:
			names = append(names, v.String())
		default:
			return names, true
		}
	}
	return names, false
}

// packageOf is the name of a module's package, segment by segment.
func packageOf(m *ast.Module) []string {
	pkg, _ := names(m.Package.Path)
	return pkg
}

func isTest(pkg []string) bool {
	return len(pkg) > 0 && strings.HasSuffix(pkg[len(pkg)-1], "_test")
}

// checkNames holds a module's package and the full path of each of its rules
// against the stages and their fields. A name that nobody asks for is refused,
// since its author believes that it decides.
func (j *judging) checkNames(m *module) {
	pkg, at := packageOf(m.parsed), m.parsed.Package.Location
	name := strings.Join(pkg, ".")
	switch {
	case name == "system.log":
		j.checkLogRules(m)
	case pkg[0] == "system":
		j.refuse(at, "package %s is not enforced by this release: system packages are OPA's own", name)
	case pkg[0] != namespace:
		j.checkForeign(at, name)
	case len(pkg) == 1:
		j.checkRules(m, nil)
	case pkg[1] == "lib":
		// Helpers.
	case slices.Contains(policy.Stages(), policy.Stage(pkg[1])) && len(pkg) == 2:
		stage := policy.Stage(pkg[1])
		if j.stage(stage).pkg == nil {
			j.stage(stage).pkg = at
		}
		j.checkRules(m, &stage)
	case slices.Contains(policy.Stages(), policy.Stage(pkg[1])):
		j.refuse(at, "package %s lies below a stage: its rules belong into package %s", name, policy.Stage(pkg[1]).Package())
	default:
		j.refuse(at, "package %s is not a stage%s (helpers live in package sallyport.lib… or outside sallyport)", name, didYouMean(name, stagePackages()))
	}
}

// checkLogRules looks at the rules that OPA's decision log asks for what is to be
// left out. One that is misspelt would leave it in.
func (j *judging) checkLogRules(m *module) {
	asked := []string{"mask", "drop"}
	for _, rule := range m.parsed.Rules {
		name := string(rule.Head.Ref()[0].Value.(ast.Var))
		helps := strings.HasPrefix(name, "_") || len(rule.Head.Args) > 0
		if near := nearest(name, asked); near != "" && near != name && !helps {
			j.refuse(rule.Location, "system.log.%s is never asked: did you mean %s?", name, near)
		}
	}
}

// checkForeign looks at a package outside sallyport: is it a stage's, misspelt?
func (j *judging) checkForeign(at *ast.Location, name string) {
	plain := func(s string) string {
		return strings.Map(func(r rune) rune {
			if strings.ContainsRune("._-", r) {
				return -1
			}
			return unicode.ToLower(r)
		}, s)
	}
	var plains []string
	for _, pkg := range stagePackages() {
		plains = append(plains, plain(pkg))
	}
	if near := nearest(plain(name), plains); near != "" {
		j.refuse(at, "package %s is never asked: did you mean %s?", name, stagePackages()[slices.Index(plains, near)])
		return
	}
	if slices.Contains(policy.Stages(), policy.Stage(name)) {
		j.warn(at, "package %s is never asked: did you mean %s?", name, policy.Stage(name).Package())
	}
}

func stagePackages() []string {
	var out []string
	for _, s := range policy.Stages() {
		out = append(out, s.Package())
	}
	return out
}

// checkRules looks at the rules of a module of package sallyport (stage nil) or
// of a stage's.
func (j *judging) checkRules(m *module, stage *policy.Stage) {
	for _, rule := range m.parsed.Rules {
		path := m.parsed.Package.Path.Extend(rule.Head.Ref())[2:]
		if stage != nil {
			j.checkRule(rule, *stage, path[1:])
			continue
		}
		name, constant := path[0].Value.(ast.String)
		of := policy.Stage(name)
		switch {
		case !constant:
			j.refuse(rule.Location, "the name of a rule in package sallyport must be written out")
		case name == "lib" && len(path) > 1:
		case !slices.Contains(policy.Stages(), of):
			j.refuse(rule.Location, "%s is not a stage%s (helpers live in package sallyport.lib… or outside sallyport)",
				namespace+"."+string(name), didYouMean(namespace+"."+string(name), stagePackages()))
		case len(path) == 1:
			j.stage(of) // so that the default policy stays out of it
			j.refuse(rule.Location, "%s is a stage, not a rule: write a rule for each of its fields in package %s", of, of.Package())
		default:
			j.checkRule(rule, of, path[1:])
		}
	}
}

// checkRule looks at a rule of a stage; path is what follows the stage's
// package, so that path[0] names the field.
func (j *judging) checkRule(rule *ast.Rule, stage policy.Stage, path ast.Ref) {
	first, constant := path[0].Value.(ast.String)
	name := string(first)
	if !constant {
		j.refuse(rule.Location, "the name of a rule in package %s must be written out", stage.Package())
		return
	}
	if strings.HasPrefix(name, "_") {
		return
	}
	field := findField(name)
	function := len(rule.Head.Args) > 0
	switch {
	case function && field != nil:
		j.refuse(rule.Location, "%s is a field of a decision and cannot be a function", name)
		return
	case function:
		return
	case strings.HasPrefix(name, "test_"), strings.HasPrefix(name, "todo_test_"):
		j.refuse(rule.Location, "%s is not a field of %s: tests belong into package %s_test", name, stage.Package(), stage.Package())
		return
	case field == nil:
		j.refuse(rule.Location, "%s is not a field of %s%s (the name of a helper starts with _)", name, stage.Package(), didYouMean(name, fieldsOf(stage)))
		return
	case !field.In(stage):
		j.refuse(rule.Location, "%s is not a field of %s: only %s can decide it", name, stage.Package(), list(field.Stages))
		return
	}
	s := j.stage(stage)
	s.fields[name] = append(s.fields[name], rule)
	for _, w := range checkHead(stage, rule, field, path) {
		at := w.at
		if at == nil {
			at = rule.Location
		}
		s.mistyped[name] = true
		j.refuse(at, "%s", w.why)
	}
	if field.Type == reflect.TypeFor[policy.Redirect]() {
		j.checkRedirects(rule, path[1:])
	}
	// A default, or a branch before others, may say so that nobody is banned.
	if bans := len(path) == 1 && field.Type == reflect.TypeFor[policy.Ban](); bans && !rule.Default && rule.Else == nil {
		if o, ok := rule.Head.Value.Value.(ast.Object); ok && o.Len() == 0 {
			j.warn(rule.Head.Value.Location, `%s is empty and bans nobody: give it "for", or leave the rule out`, name)
		}
	}
}

// checkHead holds the head of a field's rule against the kind of the field: the
// path below the field, and the values as they are written, of else branches
// too.
func checkHead(stage policy.Stage, rule *ast.Rule, field *policy.Field, path ast.Ref) []wrong {
	k, name := kindIn(stage, field), field.Name
	hint := ""
	if field.Type == reflect.TypeFor[policy.Set]() {
		hint = ": write `" + name + " contains reason if …`"
	}
	for i, t := range path[1:] {
		if !k.object() {
			if k.any {
				return nil
			}
			return []wrong{{t.Location, name + " has to be " + k.name + ", not an object" + hint}}
		}
		key, constant := t.Value.(ast.String)
		if !constant {
			if ast.IsScalar(t.Value) {
				return []wrong{{t.Location, "a key of " + name + " has to be a string"}}
			}
			if k.value == nil {
				return nil // any key: seen when the answer is read
			}
			key = "…"
		}
		below := k.key(string(key))
		if below == nil {
			return []wrong{{t.Location, k.unknownKey(name, string(key))}}
		}
		k, name = below, path[:i+2].String()
		name = strings.NewReplacer(`"`, "").Replace(name)
	}
	var out []wrong
	for r := rule; r != nil; r = r.Else {
		if r.Head.RuleKind() == ast.MultiValue {
			switch {
			case k.any:
			case !k.set:
				out = append(out, wrong{r.Location, name + " has to be " + k.name + ", not a set"})
			default:
				out = append(out, k.member.checkTerm("a member of "+name, r.Head.Key)...)
			}
			continue
		}
		for _, w := range k.checkTerm(name, r.Head.Value) {
			// Of the value itself, not of a member.
			if strings.HasPrefix(w.why, name+" has to be ") {
				w.why += hint
			}
			out = append(out, w)
		}
	}
	return out
}

func findField(name string) *policy.Field {
	fields := policy.Fields()
	at := slices.IndexFunc(fields, func(f policy.Field) bool { return f.Name == name })
	if at < 0 {
		return nil
	}
	return &fields[at]
}

func fieldsOf(stage policy.Stage) []string {
	var out []string
	for _, f := range policy.Fields() {
		if f.In(stage) {
			out = append(out, f.Name)
		}
	}
	return out
}

func (j *judging) stage(stage policy.Stage) *stageRules {
	s := j.stages[stage]
	if s == nil {
		s = &stageRules{fields: map[string][]*ast.Rule{}, mistyped: map[string]bool{}}
		j.stages[stage] = s
	}
	return s
}

// checkStages looks for stages that are begun but decide nothing, and for those
// that must be there.
func (j *judging) checkStages() {
	for _, stage := range policy.Stages() {
		s := j.stages[stage]
		if s != nil && s.pkg != nil && len(s.fields) == 0 {
			j.refuse(s.pkg, "package %s decides nothing: it has no rule for any of %s", stage.Package(), list(fieldsOf(stage)))
		}
		if s != nil {
			j.checkAllow(stage, s)
		}
		if s == nil && slices.Contains(j.options.Required, stage) && !j.unparsed && !j.candidate.Partial {
			j.refuse(nil, "the stage %s must be defined (policy.stages), but no policy has package %s", stage, stage.Package())
		}
	}
}

// checkAllow looks for a stage that allows everything although its author writes
// what it allows, and for one that allows nothing.
func (j *judging) checkAllow(stage policy.Stage, s *stageRules) {
	rules := s.fields["allow"]
	if denies := s.fields["deny"]; len(rules) == 0 && len(denies) > 0 && !j.unparsed && !j.candidate.Partial {
		j.warn(denies[0].Location, "%s allows nothing: where all but what is denied is allowed, write allow := true beside deny", stage.Package())
	}
	if open := slices.IndexFunc(rules, func(r *ast.Rule) bool { return r.Default && allows(r) }); open >= 0 {
		for _, r := range rules {
			if !r.Default && !unconditional(r) && allows(r) {
				j.refuse(r.Location, "this rule decides nothing: `default allow := true` allows everything already: write default allow := false, or allow := true alone where only deny decides")
				return
			}
		}
	}
}

// allows tells whether a rule says true in each of its branches.
func allows(rule *ast.Rule) bool {
	for r := rule; r != nil; r = r.Else {
		if r.Head.Value == nil || !r.Head.Value.Equal(ast.InternedTerm(true)) {
			return false
		}
	}
	return true
}

// addDefaults brings in the default policy for the stages that the user leaves
// out, and its helpers with it.
func (j *judging) addDefaults(defaults []Module) {
	used := false
	var helpers []*module
	for _, m := range defaults {
		parsed, err := parseModule(m)
		if err != nil {
			panic(err) // it is embedded
		}
		pkg := packageOf(parsed)
		d := &module{key: m.Path, parsed: parsed, byDefault: true}
		switch {
		case isTest(pkg):
		case len(pkg) == 2 && pkg[0] == namespace && slices.Contains(policy.Stages(), policy.Stage(pkg[1])):
			stage := policy.Stage(pkg[1])
			if s := j.stages[stage]; s != nil && !s.byDefault {
				continue
			}
			s := j.stage(stage)
			s.byDefault, used = true, true
			for _, rule := range parsed.Rules {
				if name := string(rule.Head.Ref()[0].Value.(ast.Var)); findField(name) != nil {
					s.fields[name] = append(s.fields[name], rule)
				}
			}
			j.add(d)
		default:
			helpers = append(helpers, d)
		}
	}
	for _, h := range helpers {
		if used {
			j.add(h)
		}
	}
}
