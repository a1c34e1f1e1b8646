package engine

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/dependencies"

	"sallyport/bundles"
	"sallyport/policy"
)

// judged is a candidate in which nothing fatal was found.
type judged struct {
	compiler *ast.Compiler
	data     map[string]any
	fields   map[policy.Stage][]policy.Field // the rules that exist
}

// judge finds what is wrong with a candidate. What could open the door unseen
// is refused: a misspelt rule or fact, a field that nothing enforces, data
// that would be read as a decision.
func judge(c *Candidate, o Options) (*judged, Problems) {
	var problems Problems
	report := func(at *ast.Location, format string, args ...any) {
		p := Problem{Message: fmt.Sprintf(format, args...)}
		if at != nil {
			p.File, p.Row, p.Column = at.File, at.Row, at.Col
		}
		problems = append(problems, p)
	}
	defer func() {
		slices.SortStableFunc(problems, func(a, b Problem) int {
			return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Row, b.Row))
		})
	}()

	modules := map[string]*ast.Module{}
	defined := map[policy.Stage]map[string]bool{}
	for _, m := range c.Modules {
		parsed, err := ast.ParseModuleWithOpts(m.Path, string(m.Text), ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			problems = append(problems, opaProblems(err)...)
			continue
		}
		if parsed == nil || strings.HasSuffix(lastName(parsed.Package.Path), "_test") {
			continue
		}
		judgeNames(parsed, defined, report)
		modules[m.Path] = parsed
	}
	for stage, names := range defined {
		if len(names) == 0 {
			report(nil, "%s has no decision field: a stage that is written must decide", stage.Package())
		}
	}
	for _, stage := range o.Required {
		if len(defined[stage]) == 0 {
			report(nil, "%s must be defined (policy.stages) and is not", stage.Package())
		}
	}
	for path, text := range bundles.Default() {
		parsed := ast.MustParseModuleWithOpts(string(text), ast.ParserOptions{RegoVersion: ast.RegoV1})
		stage := policy.Stage(lastName(parsed.Package.Path))
		if defined[stage] == nil {
			defined[stage] = map[string]bool{}
			judgeNames(parsed, defined, report)
			modules[path] = parsed
		}
	}

	data := map[string]any{}
	for _, d := range c.Documents {
		for _, key := range slices.Sorted(maps.Keys(d.Value)) {
			_, twice := data[key]
			switch {
			case key == "sallyport":
				problems = append(problems, Problem{File: d.Path, Message: "data below data.sallyport would be read as a decision"})
			case key == "system":
				problems = append(problems, Problem{File: d.Path, Message: "data.system is not enforced by this release"})
			case twice:
				problems = append(problems, Problem{File: d.Path, Message: fmt.Sprintf("data.%s is given by another document too", key)})
			default:
				data[key] = d.Value[key]
			}
		}
	}
	if problems.Fatal() {
		return nil, problems
	}

	compiler := ast.NewCompiler().WithCapabilities(capabilities(o.Capabilities)).
		WithPathConflictsCheck(func(path []string) (bool, error) { return exists(data, path), nil })
	if compiler.Compile(modules); compiler.Failed() {
		return nil, append(problems, opaProblems(compiler.Errors)...)
	}
	j := &judged{compiler: compiler, data: data, fields: map[policy.Stage][]policy.Field{}}
	for stage, names := range defined {
		for _, f := range policy.Fields() {
			if names[f.Name] {
				j.fields[stage] = append(j.fields[stage], f)
				judgeFacts(compiler, stage, f, report)
			}
		}
	}
	if problems.Fatal() {
		return nil, problems
	}
	return j, problems
}

type reporter func(at *ast.Location, format string, args ...any)

// judgeNames holds each rule's full path, whatever package and head it is made
// of, against the fields of the stages.
func judgeNames(m *ast.Module, defined map[policy.Stage]map[string]bool, report reporter) {
	pkg := names(m.Package.Path)[1:]
	if len(pkg) == 0 || pkg[0] != "sallyport" {
		if len(pkg) > 0 && (pkg[0] == "system" || levenshtein.ComputeDistance(strings.ToLower(pkg[0]), "sallyport") <= 2) {
			report(m.Package.Location, "package %s: is not enforced by this release; did you mean sallyport?", strings.Join(pkg, "."))
		}
		return
	}
	if len(pkg) > 1 && pkg[1] == "lib" {
		return
	}
	if len(pkg) > 1 {
		stage, ok := stageNamed(pkg[1])
		if !ok {
			report(m.Package.Location, "package %s is no stage; did you mean sallyport.%s?", strings.Join(pkg, "."), nearest(pkg[1], stageNames()))
			return
		}
		if defined[stage] == nil {
			defined[stage] = map[string]bool{}
		}
	}
	for _, rule := range m.Rules {
		path := append(slices.Clone(pkg), names(rule.Head.Ref())...)
		if len(path) < 3 {
			report(rule.Location, "data.%s is no decision field: helpers belong in sallyport.lib", strings.Join(path, "."))
			continue
		}
		stage, ok := stageNamed(path[1])
		name := path[2]
		if !ok {
			report(rule.Location, "data.%s is in no stage; did you mean sallyport.%s?", strings.Join(path, "."), nearest(path[1], stageNames()))
			continue
		}
		if !stage.Enforced() {
			report(rule.Location, "stage %s is not enforced by this release", stage)
			continue
		}
		all := policy.Fields()
		at := slices.IndexFunc(all, func(f policy.Field) bool { return f.Name == name })
		function := len(rule.Head.Args) > 0
		switch {
		case at < 0 && (function || strings.HasPrefix(name, "_")):
			continue
		case at < 0:
			report(rule.Location, "%s is no field of %s; did you mean %s? (helpers start with _)", name, stage.Package(), nearest(name, fieldNames(stage)))
			continue
		case function:
			report(rule.Location, "%s is a decision field and cannot be a function", name)
		case !all[at].In(stage):
			report(rule.Location, "%s has no field %s; the stages that have it: %v", stage.Package(), name, all[at].Stages)
		case all[at].Pending:
			report(rule.Location, "field %s is not enforced by this release", name)
		case (name == "deny" || name == "warn") && rule.Head.RuleKind() != ast.MultiValue:
			report(rule.Location, "%s must be a set: write `%s contains \"…\" if { … }`", name, name)
		}
		if defined[stage] == nil {
			defined[stage] = map[string]bool{}
		}
		defined[stage][name] = true
	}
}

// judgeFacts holds every path of input that a field reads, through helpers
// too, against the facts of the stage.
func judgeFacts(c *ast.Compiler, stage policy.Stage, f policy.Field, report reporter) {
	refs, err := dependencies.Base(c, ast.MustParseBody(fmt.Sprintf("x := data.%s.%s", stage.Package(), f.Name)))
	if err != nil {
		report(nil, "%s.%s: %v", stage.Package(), f.Name, err)
		return
	}
	root := policy.Input(stage)
	for _, ref := range refs {
		if !ref.HasPrefix(ast.InputRootRef) {
			continue
		}
		at := ref[0].Location
		path := names(ref)[1:]
		if len(path) == 0 {
			report(at, "%s.%s uses input as a whole, so that a misspelt fact could not be seen: name the facts", stage.Package(), f.Name)
			continue
		}
		fact, n := root.At(path...)
		if n < len(path) && fact.Fields != nil {
			var have []string
			for _, c := range fact.Fields {
				have = append(have, c.Name)
			}
			report(at, "%s.%s reads input.%s, which the stage does not have; did you mean %s?", stage.Package(), f.Name, strings.Join(path, "."), nearest(path[n], have))
		}
	}
}

// names are a reference's leading constant names.
func names(ref ast.Ref) []string {
	var out []string
	for i, t := range ref {
		switch v := t.Value.(type) {
		case ast.Var:
			if i > 0 {
				return out
			}
			out = append(out, string(v))
		case ast.String:
			out = append(out, string(v))
		default:
			return out
		}
	}
	return out
}

func lastName(ref ast.Ref) string {
	all := names(ref)
	return all[len(all)-1]
}

func stageNamed(name string) (policy.Stage, bool) {
	return policy.Stage(name), slices.Contains(policy.Stages(), policy.Stage(name))
}

func stageNames() (out []string) {
	for _, s := range policy.Stages() {
		out = append(out, string(s))
	}
	return out
}

func fieldNames(stage policy.Stage) (out []string) {
	for _, f := range policy.Fields() {
		if f.In(stage) {
			out = append(out, f.Name)
		}
	}
	return out
}

func nearest(name string, among []string) string {
	return slices.MinFunc(among, func(a, b string) int {
		return cmp.Compare(levenshtein.ComputeDistance(name, a), levenshtein.ComputeDistance(name, b))
	})
}

// capabilities are OPA's without the built-ins that reach out or reveal.
func capabilities(allowed []string) *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		switch b.Name {
		case "http.send", "net.lookup_ip_addr", "opa.runtime":
			return !slices.Contains(allowed, b.Name)
		}
		return false
	})
	return c
}

func exists(data map[string]any, path []string) bool {
	var at any = data
	for _, name := range path {
		o, ok := at.(map[string]any)
		if !ok {
			return false
		}
		if at, ok = o[name]; !ok {
			return false
		}
	}
	return true
}

func opaProblems(err error) Problems {
	var out Problems
	if list, ok := err.(ast.Errors); ok {
		for _, e := range list {
			p := Problem{Message: e.Message}
			if e.Location != nil {
				p.File, p.Row, p.Column = e.Location.File, e.Location.Row, e.Location.Col
			}
			out = append(out, p)
		}
		return out
	}
	return Problems{{Message: err.Error()}}
}
