package engine

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"sallyport/bundles"
)

func tested(t *testing.T, o TestOptions, byPath map[string]string) *TestReport {
	t.Helper()
	report, problems, err := engineWith(t, Options{}).Test(t.Context(), files(t, byPath), o)
	if err != nil || report == nil {
		t.Fatal(err, problems)
	}
	return report
}

func outcomes(r *TestReport) string {
	var out []string
	for i := range r.Tests {
		name := r.Tests[i].Name
		out = append(out, name[strings.LastIndex(name, ".")+1:]+" "+string(r.Tests[i].Outcome))
	}
	return strings.Join(out, ", ")
}

func TestTests(t *testing.T) {
	r := tested(t, TestOptions{}, map[string]string{
		"route.rego": `package sallyport.route
allow if input.target.host in data.hosts
deny contains "x" if net.cidr_contains(input.target.host, "10.0.0.1")`,
		"data.json": `{"hosts": ["a.example"]}`,
		"route_test.rego": `package sallyport.route_test
import data.sallyport.route
import data.sallyport.dial

test_data if route.allow with input.target.host as "a.example"

test_false if { print("seen"); route.allow with input.target.host as "b.example" }

test_lax if route.deny == set() with input.target.host as "nope"

todo_test_later if false

test_no_default_policy if not dial.allow with input.address.scope as "public"

test_cases[name] if { some name, ok in {"one": true, "two": false}; ok }

not_a_test if false`,
	})
	want := "test_data pass, test_false fail, test_lax error, todo_test_later skip, test_no_default_policy pass, test_cases fail"
	if got := outcomes(r); got != want || r.Found != 6 {
		t.Errorf("%s; %d found", got, r.Found)
	}
	failed := r.Tests[1]
	if failed.Printed != "seen" || failed.File != "route_test.rego" || failed.Line != 7 {
		t.Errorf("%+v", failed)
	}
	if failed.Why == nil || failed.Why.Statements[0].Text != `route.allow with input.target.host as "b.example"` {
		t.Fatalf("%+v", failed.Why)
	}
	because := failed.Why.Statements[0].Because
	if len(because) != 1 || because[0].Line != 2 || because[0].Statements[0].Values[0].Values[0] != `"b.example"` {
		t.Errorf("%+v", because)
	}
	if !strings.Contains(r.Tests[2].Error, "net.cidr_contains") {
		t.Error(r.Tests[2].Error)
	}
	if cases := r.Tests[5].Cases; len(cases) != 2 || cases[0] != (TestCase{"one", true}) || cases[1] != (TestCase{"two", false}) {
		t.Errorf("cases: %+v", cases)
	}
}

func TestTestsByName(t *testing.T) {
	of := map[string]string{"a_test.rego": "package a_test\n\ntest_one := true\n\ntest_two := true"}
	if r := tested(t, TestOptions{Run: "_one$"}, of); outcomes(r) != "test_one pass" || r.Found != 2 {
		t.Errorf("%+v", r)
	}
	if r := tested(t, TestOptions{Run: "three"}, of); len(r.Tests) != 0 || r.Found != 2 {
		t.Errorf("%+v", r)
	}
	if r := tested(t, TestOptions{}, map[string]string{"x.rego": "package teams.x\n\ntest_one := true"}); outcomes(r) != "test_one pass" {
		t.Errorf("in a package of another name: %+v", r)
	}
	if r := tested(t, TestOptions{}, route("allow := true")); len(r.Tests) != 0 || r.Found != 0 {
		t.Errorf("%+v", r)
	}
}

func TestARefusedPolicyIsNotTested(t *testing.T) {
	r, problems, err := engineWith(t, Options{}).Test(t.Context(), files(t, route("denny := true")), TestOptions{})
	if r != nil || !problems.Fatal() || err != nil {
		t.Errorf("%v, %v, %v", r, problems, err)
	}
}

func TestCoverage(t *testing.T) {
	r := tested(t, TestOptions{Coverage: true}, map[string]string{
		"route.rego": `package sallyport.route

allow if input.target.port == 443

allow if {
	input.target.port == 22
	input.identity.name == "ops"
}

deny contains "x" if input.target.port == 1`,
		"route_test.rego": `package sallyport.route_test
import data.sallyport.route
test_https if route.allow with input.target.port as 443`,
	})
	if len(r.Coverage.Files) != 1 {
		t.Fatalf("%+v", r.Coverage)
	}
	f := r.Coverage.Files[0]
	if f.File != "route.rego" || len(f.Covered) != 1 || f.Covered[0] != (Lines{3, 3}) ||
		len(f.NotCovered) != 2 || f.NotCovered[0] != (Lines{5, 7}) || f.NotCovered[1] != (Lines{10, 10}) ||
		f.Percent != 20 || r.Coverage.Percent != 20 || r.Coverage.NotCovered != 4 {
		t.Errorf("%+v", r.Coverage)
	}
}

const noTests = "advice: there are no tests: want rules named test_… in a package whose name ends in _test"

// advice is what is advised of a candidate, but that there are no tests.
func advice(t *testing.T, c *Candidate) []string {
	t.Helper()
	return slices.DeleteFunc(allAdvice(t, c), func(a string) bool { return a == noTests })
}

func allAdvice(t *testing.T, c *Candidate) []string {
	t.Helper()
	e := engineWith(t, Options{})
	s, problems := e.Compile(c)
	if s == nil {
		t.Fatal(problems)
	}
	found, err := e.Advise(t.Context(), c, s)
	if err != nil {
		t.Fatal(err)
	}
	return printed(found)
}

func TestRulesThatNoTestReaches(t *testing.T) {
	of := map[string]string{
		"route.rego": `package sallyport.route

default allow := false

allow if input.target.port == 443

allow if _helper(input.target.port)

explain := true

_helper(port) if port == 22
_helper(port) if port == 23

deny contains "a" if input.target.port == 1`,
		"route_test.rego": `package sallyport.route_test
import data.sallyport.route
test_https if route.allow with input.target.port as 443
test_ssh if route.allow with input.target.port as 22
test_denied if route.deny == {"a"} with input.target.port as 1`,
	}
	want := []string{
		"route.rego:12:1: advice: no test sees this rule of sallyport.route._helper hold",
	}
	if got := advice(t, files(t, of)); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	delete(of, "route_test.rego")
	if got := allAdvice(t, files(t, of)); len(got) != 1 || got[0] != noTests {
		t.Errorf("without any test: %q", got)
	}
	partial := files(t, of)
	partial.Partial = true
	if got := allAdvice(t, partial); len(got) != 0 {
		t.Errorf("the tests may be in bundles that are to come: %q", got)
	}
	if got := allAdvice(t, files(t, map[string]string{"route.rego": "package sallyport.route\n\ndefault allow := false"})); len(got) != 0 {
		t.Errorf("with nothing to test: %q", got)
	}
}

// TestTheDefaultPolicyNeedsNoAdvice holds it to its tests, which are not
// embedded, elsewhere.
func TestTheDefaultPolicyNeedsNoAdvice(t *testing.T) {
	c := &Candidate{}
	for _, f := range bundles.Default() {
		c.Modules = append(c.Modules, Module{Path: f.Path, Text: f.Text})
	}
	if got := advice(t, c); len(got) != 0 {
		t.Error(strings.Join(got, "\n"))
	}
}

// TestVerdictsAreThoseOfOPA: OPA's tester as `opa test` sets it up comes to the
// same, but where a built-in function fails.
func TestVerdictsAreThoseOfOPA(t *testing.T) {
	of := map[string]string{
		"route.rego": "package sallyport.route\n\ndefault allow := false\n\nallow if input.target.host in data.hosts\n\n" +
			"allow if _inner(input.target.port)\n\n_inner(p) if p == 443\n\nreason contains g if some g in input.identity.groups",
		"data.json": `{"hosts": ["a.example"], "n": 7}`,
		"all_test.rego": `package all_test

import data.sallyport.route

test_allow if route.allow with input.target.host as "a.example"
test_not if not route.allow with input as {}
test_same if route.allow with input.target.port as 443
test_same if route.allow with input.target.port as 444
test_value := "text"
test_false := false
test_number := data.n
test_true := true
todo_test_x := true
test_with_data if route.allow with input.target.host as "b" with data.hosts as ["b"]
test_with_function if route.allow with route._inner as true with input.target.port as 1
test_function(x) := x
test_cases[i] := x if some i, x in {"a": true, "b": true}
test_more_cases[i] if { some i, x in {"a": 1, "b": 2}; x > 1 }
test_set contains 1
test_other_stage if data.sallyport.admit.allow
test_print if { print("x", input.nothing); true }
test_every if { every p in [1, 2] { p < 2 } }
test_failing_builtin_in_a_not if not net.cidr_contains("nope", "1.1.1.1")
`,
		"helper.rego": "package helper\n\ntest_in_a_package_of_another_name if true",
	}
	c := files(t, of)
	modules := map[string]*ast.Module{}
	for _, m := range c.Modules {
		modules[m.Path] = ast.MustParseModuleWithOpts(string(m.Text), ast.ParserOptions{ProcessAnnotation: true})
	}
	ctx := t.Context()
	store := inmem.NewFromObject(c.Documents[0].Value)
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		t.Fatal(err)
	}
	results, err := tester.NewRunner().SetStore(store).SetModules(modules).RunTests(ctx, txn)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Outcome{}
	for r := range results {
		want[r.Package+"."+r.Name] = testOf(r).Outcome
	}
	want["data.all_test.test_failing_builtin_in_a_not"] = Errored
	got := map[string]Outcome{}
	for _, one := range tested(t, TestOptions{}, of).Tests {
		got[one.Name] = one.Outcome
	}
	if len(got) < 18 || !maps.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}
