package policy

import (
	"reflect"
	"slices"
	"testing"
)

// eachTag walks the struct fields that declare facts, with the stages that
// they are in.
func eachTag(t reflect.Type, path string, stages []Stage, visit func(field reflect.StructField, path string, above, stages []Stage)) {
	if t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for i := range t.NumField() {
		field := t.Field(i)
		name, ok := field.Tag.Lookup("fact")
		if !ok {
			continue
		}
		own := stages
		if tag, ok := field.Tag.Lookup("stages"); ok {
			own = stagesOf(tag)
		}
		visit(field, path+"."+name, stages, own)
		eachTag(field.Type, path+"."+name, own, visit)
	}
}

func TestEveryFactIsDeclaredWell(t *testing.T) {
	seen := map[string]bool{}
	eachTag(reflect.TypeFor[Facts](), "input", Stages(), func(field reflect.StructField, path string, above, stages []Stage) {
		if field.Tag.Get("doc") == "" {
			t.Errorf("%s has no doc", path)
		}
		for _, stage := range stages {
			if !slices.Contains(above, stage) {
				t.Errorf("%s is in %s, but what encloses it is not: it would never be seen", path, stage)
			}
		}
		if seen[path] {
			t.Errorf("%s is declared twice", path)
		}
		seen[path] = true
	})
	if len(seen) < 80 {
		t.Errorf("%d facts seen: the walk misses some", len(seen))
	}
}

func TestEveryDecisionFieldIsDeclaredWell(t *testing.T) {
	names := map[string]bool{}
	for _, f := range Fields() {
		if f.Doc == "" || len(f.Stages) == 0 || names[f.Name] {
			t.Errorf("field %q: doc %q, stages %v, declared before: %v", f.Name, f.Doc, f.Stages, names[f.Name])
		}
		names[f.Name] = true
		if got := reflect.TypeFor[Decision]().Field(f.Index).Type; got != f.Type {
			t.Errorf("field %s is of type %v, its index has %v", f.Name, f.Type, got)
		}
	}
	for _, stage := range Stages() {
		for _, name := range []string{"allow", "deny", "reason", "warn"} {
			if !slices.ContainsFunc(Fields(), func(f Field) bool { return f.Name == name && f.In(stage) }) {
				t.Errorf("%s lacks %s", stage, name)
			}
		}
	}
}

// TestStagesOfFacts is the contract's table, where it is easy to get wrong.
func TestStagesOfFacts(t *testing.T) {
	all := "admit authenticate route dial inspect manage"
	for _, c := range []struct {
		path   []string
		stages string
	}{
		{[]string{"time"}, all},
		{[]string{"session", "id"}, "admit authenticate route dial inspect"},
		{[]string{"session", "protocol"}, "authenticate route dial inspect"},
		{[]string{"source", "prefixes"}, "admit authenticate route dial inspect"},
		{[]string{"source", "certificate", "subject", "common_name"}, "authenticate route dial inspect"},
		{[]string{"credentials", "token"}, "authenticate"},
		{[]string{"identity", "name"}, "route dial inspect"},
		{[]string{"request", "headers"}, "authenticate route dial inspect"},
		{[]string{"target", "suffixes"}, "route dial inspect"},
		{[]string{"asked", "port"}, "dial inspect"},
		{[]string{"address", "names"}, "dial"},
		{[]string{"flow", "alpn"}, "inspect"},
		{[]string{"upstreams"}, "route"},
		{[]string{"api", "certificate", "subject", "common_name"}, "manage"},
	} {
		for _, stage := range Stages() {
			input := Input(stage)
			_, n := input.At(c.path...)
			if want := slices.Contains(stagesOf(c.stages), stage); want != (n == len(c.path)) {
				t.Errorf("%v in %s: %v, want %v", c.path, stage, n == len(c.path), want)
			}
		}
	}
}

func TestAt(t *testing.T) {
	input := Input(Route)
	for _, c := range []struct {
		path []string
		name string
		n    int
	}{
		{nil, "input", 0},
		{[]string{"identity"}, "identity", 1},
		{[]string{"identity", "usage", "bytes", "day"}, "day", 4},
		{[]string{"identity", "nmae"}, "identity", 1},                 // unknown
		{[]string{"identity", "attributes", "team"}, "attributes", 2}, // below a leaf
		{[]string{"address"}, "input", 0},                             // of another stage
	} {
		f, n := input.At(c.path...)
		if f.Name != c.name || n != c.n {
			t.Errorf("At(%v) = %s, %d; want %s, %d", c.path, f.Name, n, c.name, c.n)
		}
	}
	if f, _ := input.At("upstreams"); len(f.Each) != 4 {
		t.Errorf("an upstream has %d facts, want 4", len(f.Each))
	}
}

func TestSecret(t *testing.T) {
	authenticate := Input(Authenticate)
	if f, _ := authenticate.At("credentials", "token"); !f.Secret {
		t.Error("a token is not secret")
	}
	if f, _ := authenticate.At("source", "ip"); f.Secret {
		t.Error("the source's address is secret")
	}
}

// TestZeroDenies: nothing that is forgotten may open the door.
func TestZeroDenies(t *testing.T) {
	var d Decision
	if d.Allowed() || d.Verdict.String() != "deny" {
		t.Errorf("the zero decision is %v", d.Verdict)
	}
	d = Decision{Deny: Set{"a"}, Reason: Texts{"b"}}
	if got := d.Reasons(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("reasons %v", got)
	}
	d.Deny = nil
	if got := d.Reasons(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("reasons %v", got)
	}
}
