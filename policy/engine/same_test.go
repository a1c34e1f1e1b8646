package engine

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// Conditions, reasons and whole rules of which random policies are made: every
// form of reading a fact that a policy's author may think of.
var (
	conditions = []string{
		`input.target.port == 443`,
		`input.target.port in {1, 64, 443}`,
		`input.identity.name == "a"`,
		`"a" in input.identity.groups`,
		`some g in input.identity.groups; g in data.groups`,
		`some s in input.target.suffixes; data.names[s]`,
		`m := data.names; some s in input.target.suffixes; m[s]`,
		`n := data.networks; some p in input.source.prefixes; n[p]`,
		`net.cidr_contains("10.0.0.0/31", sprintf("10.0.0.%d", [count(input.identity.groups)]))`,
		`input.source.scope != "loopback"`,
		`not _helper`,
		`_helper`,
		`lib.trusted`,
		`lib.is(input.identity.name, "b")`,
		`lib.port_ok with input.target.port as 443`,
		`count([h | some h, _ in input.request.headers]) > 0`,
		`object.get(input.request.headers, "a", []) == ["b"]`,
		`object.get(input.identity, ["attributes", "a"], "none") == "none"`,
		`input.identity.attributes.a == "b"`,
		`is_null(input.identity.attributes.b)`,
		`every g in input.identity.groups { g != "ab" }`,
		`input.session.again`,
		`input.source.rate.minute > 0`,
		`sum([n | some n in input.identity.denials]) > 64`,
		`time.clock([input.time, "UTC"])[0] == 0`,
		`regex.match("^a", input.target.host)`,
		`startswith(input.session.listener, "a")`,
		`data.teams[input.identity.name].open > input.identity.open`,
		`x := {"k": input.target.kind}; x.k == "a"`,
		`walk(input.identity.attributes, [_, "a"])`,
		`input.identity[_] == "a"`,
		`key := ["name", "method"][_]; input.identity[key] == "b"`,
		`input.upstreams[_].healthy`,
		`some name in ["a", "b"]; u := input.upstreams[name]; u.open > 0`,
		`input.upstreams[input.identity.name].labels.a == "b"`,
		`min([u.latency_ms | some u in input.upstreams; u.healthy]) > 64`,
		`every u in input.upstreams { u.open < 65 }`,
		`json.marshal(input.target.geo) != "{}"`,
		`union({{input.session.id}, {input.session.protocol}}) == {"a", "b"}`,
	}
	wholeRules = []string{
		"_helper if input.target.kind == \"a\"\n\n_helper if input.source.port == 443",
		"reason := sprintf(\"%s %d\", [input.target.host, input.target.port])",
		"reason contains g if some g in input.identity.groups",
		"labels := {\"who\": input.identity.name, \"from\": input.session.listener}",
		"labels[k] := v if some k, v in data.labels",
		"warn contains input.session.protocol if input.session.again",
		"explain if input.source.failures.hour > 0",
		"session_limits := {\"bytes\": max([1, input.identity.open])} if input.identity.open > -2",
		"session_limits := data.limits[input.identity.name] if data.limits[input.identity.name]",
		"redirect := {\"host\": concat(\".\", [h | some h in input.target.suffixes])} if input.target.kind == \"b\"",
		"source_address := {\"a\": \"192.0.2.1\", \"b\": \"192.0.2.2\"}[input.identity.method]",
		"allow if input.identity.usage.bytes.day > 0\nelse := false if input.target.port == 1",
	}
)

const randomLib = `package sallyport.lib

trusted if input.source.family == "a"

trusted if {
	some n in data.groups
	n == input.identity.method
}

is(x, y) if x == y

is(x, _) if x == input.session.listener

port_ok if input.target.port == 443
`

func randomPolicy(rng *rand.Rand) string {
	var b strings.Builder
	b.WriteString("package sallyport.route\n\nimport data.sallyport.lib\n\n")
	if rng.IntN(2) == 0 {
		b.WriteString("default allow := false\n\n")
	}
	pick := func(from []string) string { return from[rng.IntN(len(from))] }
	for range 1 + rng.IntN(4) {
		fmt.Fprintf(&b, "allow if {\n\t%s\n}\n\n", strings.ReplaceAll(pick(conditions), "; ", "\n\t"))
	}
	for i := range rng.IntN(3) {
		fmt.Fprintf(&b, "deny contains \"r%d\" if {\n\t%s\n\t%s\n}\n\n", i, pick(conditions), pick(conditions))
	}
	b.WriteString("_helper if input.target.kind == \"ab\"\n\n")
	seen := map[string]bool{}
	for range rng.IntN(4) {
		rule := pick(wholeRules)
		name := strings.FieldsFunc(rule, func(r rune) bool { return r == ' ' || r == '[' })[0]
		if !seen[name] {
			seen[name] = true
			b.WriteString(rule + "\n\n")
		}
	}
	return b.String()
}

func randomData() map[string]any {
	return map[string]any{
		"groups":   []any{"a", "1"},
		"names":    map[string]any{"b": true, "a.b.c": true},
		"networks": map[string]any{"10.0.0.0/31": true, "2001:db8::/64": true},
		"teams":    map[string]any{"a": map[string]any{"open": 3.0}, "b": map[string]any{"open": 70.0}},
		"labels":   map[string]any{"x": "y"},
		"limits":   map[string]any{"a": map[string]any{"idle": "5m"}, "b": map[string]any{"oops": true}},
	}
}

// TestRememberedIsFresh guards the memo and the plan: over random policies and
// random facts, an answer from the memo, and one from nothing but the facts
// that the policy is said to read, equal the fresh answer to all facts.
func TestRememberedIsFresh(t *testing.T) {
	seen, differ := compareAll(t, 50, 80, nil)
	if differ != "" {
		t.Fatal(differ)
	}
	t.Logf("%+v", seen)
	few := seen.questions / 60
	if seen.remembered < seen.questions/5 || seen.questions-seen.remembered < few || min(seen.allowed, seen.denied, seen.faults) < few {
		t.Errorf("%+v: too few to tell", seen)
	}
}

// TestRememberedIsFreshCanFail: the comparison sees a key that lacks a fact,
// and an input that lacks one.
func TestRememberedIsFreshCanFail(t *testing.T) {
	for name, spoil := range map[string]func(p *plan){
		"key": func(p *plan) {
			leaf := *p.leaf
			leaf.key = func(b []byte, _ reflect.Value) []byte { return b }
			p.leaf = &leaf
		},
		"input": func(p *plan) {
			leaf := *p.leaf
			leaf.value = func(reflect.Value) (ast.Value, error) { return ast.NullValue, nil }
			p.leaf = &leaf
		},
	} {
		_, differ := compareAll(t, 50, 80, func(st *stage) {
			for p := &st.read; ; p = &p.fields[0] {
				if p.leaf != nil {
					spoil(p)
					return
				}
				if len(p.fields) == 0 {
					return
				}
			}
		})
		if differ == "" {
			t.Errorf("a %s that lacks a fact goes unnoticed", name)
		}
	}
}

// compared counts what was seen.
type compared struct{ questions, remembered, allowed, denied, faults int }

// compareAll asks each of many random policies about many facts, once with the
// memo and the plan and once with neither. It ends at the first difference.
func compareAll(t *testing.T, policies, facts int, spoil func(*stage)) (seen compared, differ string) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 4))
	remembering := engineWith(t, Options{Timeout: time.Minute, Lenient: true})
	fresh := engineWith(t, Options{Timeout: time.Minute, Lenient: true, MemoSize: -1})
	for range policies {
		text := randomPolicy(rng)
		c := &Candidate{Revision: "r", Modules: []Module{{Path: "a.rego", Text: []byte(text)}, {Path: "lib.rego", Text: []byte(randomLib)}},
			Documents: []Document{{Path: "d.json", Value: randomData()}}}
		s, problems := remembering.Compile(c)
		if s == nil {
			t.Fatalf("%v\n%s", problems, text)
		}
		all, _ := fresh.Compile(c)
		st := all.stages[policy.Route]
		st.read = planOf(policy.Route, [][]string{nil}, true)
		if spoil != nil {
			spoil(s.stages[policy.Route])
		}
		remembering.Activate(s)
		fresh.Activate(all)
		var f policy.Facts
		fill(reflect.ValueOf(&f).Elem(), rng)
		for range facts {
			mutate(reflect.ValueOf(&f).Elem(), rng, 20)
			got := remembering.Decide(t.Context(), policy.Route, &f)
			want := fresh.Decide(t.Context(), policy.Route, &f)
			seen.questions++
			if got.Memoised {
				seen.remembered++
			}
			switch got.Verdict {
			case policy.Allowed:
				seen.allowed++
			case policy.Denied:
				seen.denied++
			default:
				seen.faults++
			}
			if !same(got, want) {
				return seen, fmt.Sprintf("memoised %v\n%+v\n%+v\n%s\n%+v", got.Memoised, got, want, text, f)
			}
		}
	}
	return seen, ""
}

// same compares what two decisions say, field by field.
func same(a, b policy.Decision) bool {
	a.ID, b.ID, a.Memoised, b.Memoised = "", "", false, false
	if (a.Err == nil) != (b.Err == nil) {
		return false
	}
	a.Err, b.Err = nil, nil
	return reflect.DeepEqual(a, b)
}
