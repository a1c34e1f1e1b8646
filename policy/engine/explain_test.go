package engine

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"sallyport/policy"
)

// evaluated is a decision on a policy, explained.
func evaluated(t *testing.T, stage policy.Stage, facts *policy.Facts, data map[string]any, modules ...string) *Evaluation {
	t.Helper()
	e := engineWith(t, Options{Timeout: explainTimeout})
	return e.Evaluate(t.Context(), compiled(t, e, data, modules...), stage, facts, true)
}

// told are the rules and statements of an explanation, a line each.
func told(e *Explanation) string {
	var b strings.Builder
	var rules func(list []RuleReason, indent string)
	rules = func(list []RuleReason, indent string) {
		for _, r := range list {
			fmt.Fprintf(&b, "%s%s:%d %s %v %v\n", indent, r.File, r.Line, r.Name, r.Holds, r.Values)
			for _, s := range r.Statements {
				fmt.Fprintf(&b, "%s  :%d %s %v %v\n", indent, s.Line, s.Text, s.Holds, s.Values)
				rules(s.Because, indent+"    ")
			}
		}
	}
	for _, f := range e.Fields {
		fmt.Fprintf(&b, "%s = %s\n", f.Field, f.Value)
		rules(f.Rules, "  ")
	}
	return b.String()
}

func TestExplain(t *testing.T) {
	data := map[string]any{"blocked": map[string]any{"example.com": "bad"}, "ports": []any{json.Number("80")}}
	for _, c := range []struct{ name, rules, want string }{
		{"a rule that an index rules out fails in the open", "allow if input.target.port == 22", `
allow = 
  m0.rego:2 allow false []
    :2 input.target.port == 22 false [{input.target.port [443] false}]
`},
		{"why a helper is asked for in vain, once told", `allow if { input.request.command == "connect"; _port }
_port if input.target.port in data.ports
reason := "no" if not _port`, `
allow = 
  m0.rego:2 allow false []
    :2 _port false []
      m0.rego:3 _port false []
        :3 input.target.port in data.ports false [{input.target.port [443] false} {data.ports [[80]] false}]
reason = "no"
  m0.rego:4 reason true ["no"]
`},
		{"a denial is told before all else", `allow := true
deny contains sprintf("%s: %s", [s, why]) if { some s in input.target.suffixes; why := data.blocked[s] }`, `
allow = true
  m0.rego:2 allow true []
deny = {"example.com: bad"}
  m0.rego:3 deny true ["example.com: bad"]
    :3 sprintf("%s: %s", [s, why]) true []
    :3 some s in input.target.suffixes true [{s ["example.com"] false}]
    :3 why := data.blocked[s] true [{why ["bad"] false} {data.blocked[s] ["bad"] false}]
`},
		{"what a negation found", `default allow := false
allow if not _blocked
_blocked if data.blocked["example.com"]`, `
allow = false
  m0.rego:3 allow false []
    :3 not _blocked false []
      m0.rego:4 _blocked true []
        :4 data.blocked["example.com"] true [{data.blocked["example.com"] ["bad"] false}]
`},
		{"which member every stumbled over", `allow if every g in input.identity.groups { startswith(g, "ops") }`, `
allow = 
  m0.rego:2 allow false []
    :2 every g in input.identity.groups { startswith(g, "ops") } false [{input.identity.groups [["dev"]] false}]
    :2 startswith(g, "ops") false [{g ["dev"] false}]
`},
		{"a negation within every", `allow if every s in ["x", "example.com"] { not data.blocked[s] }`, `
allow = 
  m0.rego:2 allow false []
    :2 every s in ["x", "example.com"] { not data.blocked[s] } false []
    :2 not data.blocked[s] false [{data.blocked[s] ["bad"] false} {s ["example.com"] false}]
`},
		{"functions, and arguments that do not fit", `allow if _in(input.target.port, "web")
_in(p, "web") if p == 80
_in(_, "mail") := true`, `
allow = 
  m0.rego:2 allow false []
    :2 _in(input.target.port, "web") false [{input.target.port [443] false}]
      m0.rego:3 _in false []
        :3 p == 80 false [{p [443] false}]
      m0.rego:4 _in false []
`},
		{"else", `allow := false if input.target.port == 1
else := true if input.target.port == 443`, `
allow = true
  m0.rego:3 allow true []
    :3 input.target.port == 443 true [{input.target.port [443] false}]
`},
		{"what is not there", `allow if data.ports[input.identity.attributes.level] == 1`, `
allow = 
  m0.rego:2 allow false []
    :2 data.ports[input.identity.attributes.level] == 1 false [{input.identity.attributes.level [undefined] false}]
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := evaluated(t, policy.Route, egressFacts(), data, "package sallyport.route\n"+c.rules)
			if found.Explanation == nil {
				t.Fatal(found.Decision.Err)
			}
			if got := "\n" + told(found.Explanation); got != c.want {
				t.Errorf("got:%s\nwant:%s", got, c.want)
			}
		})
	}
}

func TestExplanationsTellNoSecret(t *testing.T) {
	const hash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo"
	data := map[string]any{"users": map[string]any{"alice": map[string]any{"password": hash}}}
	found := evaluated(t, policy.Authenticate, presentedFacts(), data, `package sallyport.authenticate
allow if { print(input.credentials.token); t := input.credentials.token; u := data.users[input.credentials.username]; u.password == t }
allow if concat("", ["Bearer ", input.credentials.token]) == "x"
allow if data.users[_].password == "y"
allow if data.tokens[input.credentials.token].ok
allow if data.owner[data.users.alice.password] == "z"`)
	text, err := json.Marshal(found)
	if err != nil || found.Explanation == nil {
		t.Fatal(err, found.Decision.Err)
	}
	for _, secret := range []string{secretToken, hash, "aGFzaGhhc2hoYXNo"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("the explanation tells %q: %s", secret, text)
		}
	}
	if !strings.Contains(string(text), redacted) {
		t.Error("the test has no secret to tell")
	}
}

// A fault quotes the value that it is about.
func TestFaultsTellNoHash(t *testing.T) {
	const hash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo"
	data := map[string]any{"users": map[string]any{"blue": map[string]any{"password": hash}}}
	for _, rule := range []string{
		`allow if bits.and(to_number(data.users[input.identity.name].password), 1) == 1`,
		`session_limits := {"idle": data.users[input.identity.name].password}`,
		`redirect := {data.users[input.identity.name].password: 1}`,
	} {
		d := evaluated(t, policy.Route, egressFacts(), data, "package sallyport.route\n"+rule).Decision
		if d.Verdict != policy.Fault || !strings.Contains(d.Err.Error(), "withheld, since it quotes the hash of a password") || strings.Contains(d.Err.Error(), "$argon") {
			t.Errorf("%s: %v, %v", rule, d.Verdict, d.Err)
		}
	}
}

func TestExplanationsAreBounded(t *testing.T) {
	entries := map[string]any{}
	for i := range 20_000 {
		entries[fmt.Sprintf("host%d.example", i)] = map[string]any{"n": json.Number("1")}
	}
	var rules strings.Builder
	rules.WriteString("package sallyport.route\n")
	for i := range 500 {
		fmt.Fprintf(&rules, "allow if { input.target.host == \"h%d\"; input.target.port == 443 }\n", i)
	}
	rules.WriteString(`allow if { some h, e in data.entries; _same(h, e) }
_same(h, e) if { e.n == 1; h == input.target.host }
deny contains h if { some h, _ in data.entries; endswith(h, "9.example") }
`)
	found := evaluated(t, policy.Route, egressFacts(), map[string]any{"entries": entries}, rules.String())
	if found.Explanation == nil {
		t.Fatal(found.Decision.Err)
	}
	text, _ := json.Marshal(found.Explanation)
	if len(text) > 16<<10 {
		t.Errorf("%d bytes: %.2000s", len(text), text)
	}
	if got := told(found.Explanation); !strings.Contains(got, `h == input.target.host false`) || !strings.Contains(got, "9.example") {
		t.Error(got)
	}
	if v := found.Explanation.Fields[1].Value; v != "{… 2000 members}" {
		t.Error(v)
	}
	if f := found.Explanation.Fields[0]; len(f.Rules) != maxRules || f.More != 501-maxRules {
		t.Errorf("%d rules and %d more", len(f.Rules), f.More)
	}
}

// TestTracesAreBounded: a function that is called for each of many entries is
// remembered a few times.
func TestTracesAreBounded(t *testing.T) {
	e := engineWith(t, Options{})
	s := compiled(t, e, nil, `package sallyport.route
allow if { some i in numbers.range(1, 3000); _is(i); not i == 3; count([j | some j in [i]; j > 0]) == 0 }
_is(i) if { i > 0; every x in [i] { x > 0 } }`)
	j := e.idle.Get().(*job)
	j.tracer = newTracer(s.compiler.RewrittenVars, rendererFor(s, egressFacts()))
	if a, ended := e.watched(t.Context(), s, s.stages[policy.Route], egressFacts(), j, explainTimeout); !ended {
		t.Fatal(a.decision.Err)
	}
	if n := len(j.tracer.frames); n > 4*maxFrames || n < maxFrames {
		t.Errorf("%d tries are remembered", n)
	}
}

func TestEvaluate(t *testing.T) {
	found := evaluated(t, policy.Route, egressFacts(), nil, `package sallyport.route
allow if { print("hello", input.target.port); true }
labels := {"n": "1"}`)
	if !found.Decision.Allowed() || found.Fields["allow"] != true || len(found.Fields) != 2 {
		t.Errorf("%+v", found)
	}
	if len(found.Printed) != 1 || found.Printed[0].Text != "hello 443" || found.Printed[0].Line != 2 {
		t.Errorf("%+v", found.Printed)
	}
	fault := evaluated(t, policy.Route, egressFacts(), nil, `package sallyport.route
allow if { print("before"); net.cidr_contains(input.target.host, "10.0.0.1") }`)
	mustFault(t, withID(fault.Decision), "m0.rego:2")
	if fault.Explanation != nil || fault.Fields != nil || len(fault.Printed) != 1 {
		t.Errorf("%+v", fault)
	}
}

// TestEvaluateIsWhatDecideDoes: an index may rule out a rule that would fail.
func TestEvaluateIsWhatDecideDoes(t *testing.T) {
	found := evaluated(t, policy.Route, egressFacts(), nil, `package sallyport.route
allow if input.target.port == 443
deny contains "x" if { net.cidr_contains(input.target.host, "10.0.0.1"); input.target.port == 22 }`)
	if !found.Decision.Allowed() {
		t.Error(found.Decision.Err)
	}
	if found.Explanation == nil || !found.Explanation.Fields[0].Rules[0].Holds {
		t.Errorf("%+v", found.Explanation)
	}
}

func withID(d policy.Decision) policy.Decision {
	d.ID = "none"
	return d
}
