package engine

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"sallyport/bundles"
	"sallyport/policy"
)

// files makes a candidate of Rego and of JSON documents, by path.
func files(t testing.TB, byPath map[string]string) *Candidate {
	t.Helper()
	c := &Candidate{Revision: "test"}
	for _, path := range slices.Sorted(maps.Keys(byPath)) {
		if strings.HasSuffix(path, ".rego") {
			c.Modules = append(c.Modules, Module{Path: path, Text: []byte(byPath[path])})
			continue
		}
		d := Document{Path: path}
		decoder := json.NewDecoder(strings.NewReader(byPath[path]))
		decoder.UseNumber()
		if err := decoder.Decode(&d.Value); err != nil {
			t.Fatal(err)
		}
		c.Documents = append(c.Documents, d)
	}
	return c
}

func defaultModules() []Module {
	var out []Module
	for _, f := range bundles.Default() {
		out = append(out, Module{Path: f.Path, Text: f.Text})
	}
	return out
}

func printed(problems Problems) []string {
	var out []string
	for _, p := range problems {
		out = append(out, p.String())
	}
	return out
}

func missingGeo(path ...string) string {
	if slices.Contains(path, "geo") {
		return "nobody knows"
	}
	return ""
}

func isHost(text string) bool { return !strings.ContainsAny(text, ":/*") }

const strictly = " (policy.strict: false turns this into a warning)"

// judgeCase is a candidate and every problem that it has.
type judgeCase struct {
	name    string
	files   map[string]string
	options Options
	want    []string
}

func (c judgeCase) run(t *testing.T) {
	verdict, problems := judge(files(t, c.files), c.options, defaultModules())
	if got := printed(problems); !slices.Equal(got, c.want) {
		t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
	}
	if (verdict == nil) != problems.Fatal() {
		t.Errorf("verdict %v beside problems that are fatal: %v", verdict, problems.Fatal())
	}
}

// route is a policy of one file whose first line is `package sallyport.route`.
func route(rules ...string) map[string]string {
	return map[string]string{"route.rego": "package sallyport.route\n" + strings.Join(rules, "\n")}
}

func admit(rules ...string) map[string]string {
	return map[string]string{"admit.rego": "package sallyport.admit\n" + strings.Join(rules, "\n")}
}

func authenticate(rules ...string) map[string]string {
	return map[string]string{"authenticate.rego": "package sallyport.authenticate\n" + strings.Join(rules, "\n")}
}

func TestJudgeNames(t *testing.T) {
	for _, c := range []judgeCase{
		{name: "nothing at all", files: map[string]string{}},
		{name: "every field of route", files: route(
			`allow := true`, `deny contains "x" if input.target.port == 25`, `reason := "y"`, `warn contains "z"`, `explain := true`,
			`session_limits := {"idle": "5m", "up": "1MiB/s", "bytes": 10, "until": 1.8e18}`, `redirect := {"host": "a.test", "port": 443}`,
			`source_address := "192.0.2.1"`, `labels := {"team": input.identity.name}`)},
		{name: "a misspelt field", files: route(`allow := true`, `denny contains "x" if input.target.port == 25`), want: []string{
			"route.rego:3:1: denny is not a field of sallyport.route: did you mean deny? (the name of a helper starts with _)"}},
		{name: "a misspelt field from above", files: map[string]string{"a.rego": "package sallyport\nroute.allow := true\nroute.denny if input.target.port == 25"}, want: []string{
			"a.rego:3:1: denny is not a field of sallyport.route: did you mean deny? (the name of a helper starts with _)"}},
		{name: "a field from above", files: map[string]string{"a.rego": "package sallyport\nroute.allow := true\nlib.x := 1"}},
		{name: "a stage from above", files: map[string]string{"a.rego": "package sallyport\nroute := {\"allow\": true}"}, want: []string{
			"a.rego:2:1: route is a stage, not a rule: write a rule for each of its fields in package sallyport.route"}},
		{name: "any stage from above", files: map[string]string{"a.rego": "package sallyport\nroute[x] := true if x := \"allow\""}, want: []string{
			"a.rego:2:1: the name of a rule in package sallyport.route must be written out"}},
		{name: "a helper in sallyport itself", files: map[string]string{"a.rego": "package sallyport\nrout.allow := true\nhelper := 1"}, want: []string{
			"a.rego:2:1: sallyport.rout is not a stage: did you mean sallyport.route? (helpers live in package sallyport.lib… or outside sallyport)",
			"a.rego:3:1: sallyport.helper is not a stage (helpers live in package sallyport.lib… or outside sallyport)"}},
		{name: "brackets in the package", files: map[string]string{"a.rego": "package sallyport[\"route\"]\nallow := true\nalow := true"}, want: []string{
			"a.rego:3:1: alow is not a field of sallyport.route: did you mean allow? (the name of a helper starts with _)"}},
		{name: "a package below a stage", files: map[string]string{"a.rego": "package sallyport.route.deny\nx := true"}, want: []string{
			"a.rego:1:1: package sallyport.route.deny lies below a stage: its rules belong into package sallyport.route"}},
		{name: "a field of another stage", files: route(`allow := true`, `methods := ["none"]`), want: []string{
			"route.rego:3:1: methods is not a field of sallyport.route: only admit can decide it"}},
		{name: "helpers", files: map[string]string{
			"route.rego":  "package sallyport.route\nimport data.sallyport.lib.ports\nimport data.corp\nallow if _web\n_web if ports.web(input.target.port)\nallow if is_corp(input.target.host)\nis_corp(h) if endswith(h, corp.suffix)",
			"lib.rego":    "package sallyport.lib.ports\nweb(p) if p in {80, 443}\nanything := 1",
			"corp.rego":   "package corp\nsuffix := \".corp\"",
			"system.json": `{"settings": {}}`}},
		{name: "only helpers", files: route(`_x := 1`, `f(x) := x`), want: []string{
			"route.rego:1:1: package sallyport.route decides nothing: it has no rule for any of allow, deny, reason, warn, explain, ban, session_limits, redirect, via, resolve, source_address, labels and trace"}},
		{name: "a function that bears a field's name", files: route(`allow := true`, `deny(x) if x`, `deny.x(y) := y`), want: []string{
			"route.rego:3:1: deny is a field of a decision and cannot be a function",
			"route.rego:4:1: deny is a field of a decision and cannot be a function"}},
		{name: "tests beside", files: map[string]string{
			"a.rego": "package sallyport.route\nallow := true",
			"t.rego": "package sallyport.route_test\nimport data.sallyport.route\ntest_x if route.allow with input as {}\nroute_denny := 1\ntest_y if http.send({}) with http.send as 1"}},
		{name: "a test that does not compile", files: map[string]string{
			"a.rego": "package sallyport.route\nallow := true",
			"t.rego": "package sallyport.route_test\ntest_x if data.sallyport.route.f(1)\ntest_y if g(1)"}, want: []string{
			"t.rego:2:11: undefined function data.sallyport.route.f", "t.rego:3:11: undefined function g"}},
		{name: "tests define nothing", files: map[string]string{
			"a.rego": "package sallyport.route\nallow if data.sallyport.route_test.x",
			"t.rego": "package sallyport.route_test\nx := true"}, want: []string{
			"a.rego:2:10: warning: nothing defines data.sallyport.route_test"}},
		{name: "a test in the stage", files: route(`allow := true`, `test_x if allow`, `todo_test_x if allow`), want: []string{
			"route.rego:3:1: test_x is not a field of sallyport.route: tests belong into package sallyport.route_test",
			"route.rego:4:1: todo_test_x is not a field of sallyport.route: tests belong into package sallyport.route_test"}},
		{name: "packages near a stage's", files: map[string]string{
			"a.rego": "package salyport.route\nallow := true", "b.rego": "package Sallyport.route\nallow := true",
			"c.rego": "package sallyport_route\nallow := true", "d.rego": "package sallyport.rout\nallow := true",
			"e.rego": "package sallyport.helpers\nx := 1", "f.rego": "package route\nallow := true"}, want: []string{
			"a.rego:1:1: package salyport.route is never asked: did you mean sallyport.route?",
			"b.rego:1:1: package Sallyport.route is never asked: did you mean sallyport.route?",
			"c.rego:1:1: package sallyport_route is never asked: did you mean sallyport.route?",
			"d.rego:1:1: package sallyport.rout is not a stage: did you mean sallyport.route? (helpers live in package sallyport.lib… or outside sallyport)",
			"e.rego:1:1: package sallyport.helpers is not a stage (helpers live in package sallyport.lib… or outside sallyport)",
			"f.rego:1:1: warning: package route is never asked: did you mean sallyport.route?"}},
		{name: "not enforced, or not there", files: map[string]string{
			"a.rego": "package sallyport.admit\nallow := true\nlimits.quota := {}\nban.from := 1",
			"b.rego": "package sallyport.authenticate\nallow := true\nlimits := {\"quota\": {\"bytes\": 0, \"per\": \"week\"}, \"prefix\": \"10.0.0.0/8\"}",
			"c.rego": "package sallyport.route\nallow := true\nban := {\"for\": 60, \"identity\": true}",
			"d.rego": "package system.authz\nallow := true"}, want: []string{
			"a.rego:3:17: limits.quota is for authenticate, not for admit",
			`a.rego:4:5: ban has no key "from": did you mean for?`,
			"b.rego:3:31: limits.quota.bytes: 0 would be no bound at all: leave the key out, or deny",
			`b.rego:3:41: "week" is not day or month`,
			"b.rego:3:60: limits.prefix is for admit, not for authenticate",
			"d.rego:1:1: package system.authz is not enforced by this release: system packages are OPA's own"}},
		{name: "what the decision log leaves out", files: map[string]string{
			"r.rego": "package sallyport.route\nallow := true",
			"m.rego": "package system.log\nimport data.lib\nmask contains \"/input/source/ip\"\ndrop if input.path == lib.path\n_masks := 1\nother := 2\nmasky(x) := x",
			"n.rego": "package system.log\nmasks contains \"/input\"\ndropp := true",
			"l.rego": "package lib\npath := \"sallyport/admit\""}, want: []string{
			"n.rego:2:1: system.log.masks is never asked: did you mean mask?",
			"n.rego:3:1: system.log.dropp is never asked: did you mean drop?"}},
		{name: "an open default", files: map[string]string{
			"a.rego": "package sallyport.admit\ndefault allow := true\nallow if input.source.port == 1\nallow if input.source.port == 2",
			"b.rego": "package sallyport.route\ndefault allow := true", "c.rego": "package sallyport.route\nallow := true if input.target.port == 1 else := true if input.target.port == 2",
			"d.rego": "package sallyport.dial\ndefault allow := true\nallow := false if input.target.port == 25",
			"e.rego": "package sallyport.inspect\ndefault allow := true\nallow := true\ndeny contains \"x\" if input.target.port == 25",
			"f.rego": "package sallyport.authenticate\ndefault allow := true\nallow := true if input.credentials.verified else := false"}, want: []string{
			"a.rego:3:1: this rule decides nothing: `default allow := true` allows everything already: write default allow := false, or allow := true alone where only deny decides",
			"c.rego:2:1: this rule decides nothing: `default allow := true` allows everything already: write default allow := false, or allow := true alone where only deny decides"}},
		{name: "a stage that only denies", files: map[string]string{
			"a.rego": "package sallyport.route\ndeny contains \"x\" if input.target.port == 25",
			"b.rego": "package sallyport.dial\ndeny contains \"x\" if input.target.port == 25", "c.rego": "package sallyport.dial\nallow := true"}, want: []string{
			"a.rego:2:1: warning: sallyport.route allows nothing: where all but what is denied is allowed, write allow := true beside deny"}},
		{name: "a required stage", files: route(`allow := true`), options: Options{Required: []policy.Stage{policy.Route, policy.Dial}}, want: []string{
			"the stage dial must be defined (policy.stages), but no policy has package sallyport.dial"}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestJudgeFields(t *testing.T) {
	const useContains = ": write `deny contains reason if …`"
	for _, c := range []judgeCase{
		{name: "sets that are sets", files: route(`allow := true`, `deny := {"x" | input.target.port == 1}`,
			`warn := {w | some w in ["a"]}`, `reason contains $"no {input.target.host}"`)},
		{name: "a set with a default", files: route(`allow := true`, `default deny := set()`, `deny := {"x"} if input.target.port == 1`)},
		{name: "a set through a helper", files: route(`allow := true`, `deny := _reasons`, `_reasons contains "x" if input.target.port == 25`)},
		{name: "deny with brackets", files: route(`allow := true`, `deny["x"] if input.target.port == 25`), want: []string{
			`route.rego:3:6: deny has to be a set of strings, not an object` + useContains}},
		{name: "deny with a variable in brackets", files: route(`allow := true`, `deny[m] if { input.target.port == 25; m := "x" }`), want: []string{
			`route.rego:3:6: deny has to be a set of strings, not an object` + useContains}},
		{name: "deny that contains below", files: route(`allow := true`, `deny.x contains "y" if input.target.port == 25`), want: []string{
			`route.rego:3:6: deny has to be a set of strings, not an object` + useContains}},
		{name: "deny as a condition", files: route(`allow := true`, `deny if input.target.port == 25`), want: []string{
			`route.rego:3:1: deny has to be a set of strings, not a boolean` + useContains}},
		{name: "deny as a string", files: route(`allow := true`, `deny := "x" if input.target.port == 25`), want: []string{
			`route.rego:3:9: deny has to be a set of strings, not a string` + useContains}},
		{name: "a default that is no set", files: route(`allow := true`, `default deny := false`), want: []string{
			`route.rego:3:17: deny has to be a set of strings, not a boolean` + useContains}},
		{name: "deny of numbers", files: route(`allow := true`, `deny contains 7 if input.target.port == 25`, `warn contains input.target.port`), want: []string{
			`route.rego:3:15: a member of deny has to be a string, not a number`, `route.rego:4:1: a member of warn has to be a string, not a number`}},
		{name: "an object as a reason", files: route(`allow := true`, `deny contains {"msg": "x"} if input.target.port == 25`), want: []string{
			`route.rego:3:15: a member of deny has to be a string, not an object`}},
		{name: "allow as text", files: route(`default allow := "no"`, `allow := "yes" if input.target.port == 25`, `else := 1`), want: []string{
			`route.rego:2:18: allow has to be a boolean, not a string`, `route.rego:3:10: allow has to be a boolean, not a string`, `route.rego:4:9: allow has to be a boolean, not a number`}},
		{name: "allow as a set", files: route(`allow contains "x"`), want: []string{`route.rego:2:1: allow has to be a boolean, not a set`}},
		{name: "allow inferred", files: route(`allow := input.target.host`), want: []string{`route.rego:2:1: allow has to be a boolean, not a string`}},
		{name: "allow inferred through helpers", files: route(`allow := _x`, `_x := y if y := count(input.target.suffixes)`), want: []string{
			`route.rego:2:1: allow has to be a boolean, not a number`}},
		{name: "allow inferred of one branch", files: route(`allow := true if input.target.port == 1`, `else := input.target.host`), want: []string{
			`route.rego:2:1: allow has to be a boolean, not a string`}},
		{name: "what cannot be inferred", files: route(`allow := input.identity.attributes.admin`)},
		{name: "reason", files: route(`allow := true`, `reason := 7`), want: []string{`route.rego:3:11: reason has to be a string or a set of strings, not a number`}},
		{name: "an unknown key", files: route(`allow := true`, `session_limits := {"byts": 1, "idle": "5m"}`), want: []string{
			`route.rego:3:20: session_limits has no key "byts": did you mean bytes?`}},
		{name: "an unknown key in the head", files: route(`allow := true`, `session_limits.byts := 1`), want: []string{
			`route.rego:3:16: session_limits has no key "byts": did you mean bytes?`}},
		{name: "an unknown key through a helper", files: route(`allow := true`, `session_limits := x if x := {"byts": input.target.port}`), want: []string{
			`route.rego:3:1: session_limits has no key "byts": did you mean bytes?`}},
		{name: "known keys in the head", files: route(`allow := true`, `session_limits.idle := "5m"`, `session_limits.bytes := 1`, `labels.team := "x"`, `labels[k] := "y" if k := input.identity.name`)},
		{name: "values that do not parse", files: route(`allow := true`, `session_limits := {"idle": "5 minuts", "up": "10MiB", "bytes": "x", "until": "now"}`, `source_address := "localhost"`), want: []string{
			`route.rego:3:28: session_limits.idle has to be a duration such as "1m30s" or a number of seconds, not "5 minuts"`,
			`route.rego:3:46: session_limits.up has to be a speed such as "10MiB/s" or a number of bytes per second, not "10MiB"`,
			`route.rego:3:64: session_limits.bytes has to be a size such as "10MiB" or a number of bytes, not "x"`,
			`route.rego:3:78: session_limits.until has to be a number, not a string`,
			`route.rego:4:19: source_address has to be an IP address as a string, not "localhost"`}},
		{name: "a value below the head", files: route(`allow := true`, `session_limits.idle := "x"`, `labels.port := 1`, `labels[input.target.host] := 7`, `redirect.port := "443"`, `redirect.host.x := 1`), want: []string{
			`route.rego:3:24: session_limits.idle has to be a duration such as "1m30s" or a number of seconds, not "x"`,
			`route.rego:4:16: labels.port has to be a string, not a number`,
			`route.rego:5:30: labels[input.target.host] has to be a string, not a number`,
			`route.rego:6:18: redirect.port has to be a number, not a string`,
			`route.rego:7:15: redirect.host has to be a string, not an object`}},
		{name: "labels of numbers", files: route(`allow := true`, `labels := {"port": input.target.port}`), want: []string{
			`route.rego:3:1: labels.port has to be a string, not a number`}},
		{name: "labels of numbers under any name", files: route(`allow := true`, `labels := {input.target.host: input.target.port}`), want: []string{
			`route.rego:3:1: a value of labels has to be a string, not a number`}},
		{name: "methods", files: admit(`allow := true`, `methods := ["pasword", "none"]`), want: []string{
			`admit.rego:3:13: "pasword" is not an authentication method (certificate+password, certificate, password and none): did you mean password?`}},
		{name: "methods as a set", files: admit(`allow := true`, `methods contains "none" if input.source.scope == "loopback"`, `methods contains "pass"`), want: []string{
			`admit.rego:4:18: "pass" is not an authentication method (certificate+password, certificate, password and none)`}},
		{name: "identity", files: authenticate(`allow := true`, `identity := {"name": "x", "groups": {"a"}, "attributes": {"any": [1]}}`)},
		{name: "identity in parts", files: authenticate(`allow := true`, `identity.name := "x"`, `identity.groups contains "a"`, `identity.attributes.team := {"any": 1}`)},
		{name: "a wrong identity", files: authenticate(`allow := true`, `identity := {"nmae": "x", "groups": "a", "attributes": []}`), want: []string{
			`authenticate.rego:3:14: identity has no key "nmae": did you mean name?`,
			`authenticate.rego:3:37: identity.groups has to be an array or a set of strings, not a string`,
			`authenticate.rego:3:56: identity.attributes has to be an object, not an array`}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestJudgeFacts(t *testing.T) {
	const alone = "route.rego:2:10: input is passed on as a whole, so that a misspelt fact could not be seen: pass the facts that are needed"
	for _, c := range []judgeCase{
		{name: "a misspelt fact", files: route(`allow if input.identity.nmae == "x"`), want: []string{
			"route.rego:2:10: input.identity.nmae is not a fact of sallyport.route: did you mean input.identity.name?"}},
		{name: "a misspelt fact in brackets", files: route(`allow if input["identity"]["nmae"] == "x"`), want: []string{
			"route.rego:2:10: input.identity.nmae is not a fact of sallyport.route: did you mean input.identity.name?"}},
		{name: "a misspelt fact behind a variable", files: route(`allow if {`, `t := input.target`, `t.hsot == "x"`, `}`), want: []string{
			"route.rego:4:1: input.target.hsot is not a fact of sallyport.route: did you mean input.target.host?"}},
		{name: "a variable of one name in two rules", files: route(`allow if { t = input.target; t.port == 443 }`, `_x if { t = data.sallyport.lib.z; t.hsot == 443 }`, `_y if { t = input.identity; t.nmae == "x" }`), want: []string{
			"route.rego:3:13: warning: nothing defines data.sallyport.lib", "route.rego:4:29: undefined: t.nmae: did you mean t.name?"}},
		{name: "a misspelt fact behind an import", files: map[string]string{"route.rego": "package sallyport.route\nimport input.target as t\nallow if t.hsot == \"x\""}, want: []string{
			"route.rego:3:10: input.target.hsot is not a fact of sallyport.route: did you mean input.target.host?"}},
		{name: "a misspelt fact in an unused helper", files: route(`allow := true`, `_x := input.tagret.host`), want: []string{
			"route.rego:3:7: input.tagret is not a fact of sallyport.route: did you mean input.target?"}},
		{name: "a fact of another stage", files: admit(`allow if input.identity.name == "x"`), want: []string{
			"admit.rego:2:10: sallyport.admit has no input.identity: only route, dial and inspect can read it"}},
		{name: "in a helper, for one of two stages", files: map[string]string{
			"admit.rego": "package sallyport.admit\nimport data.sallyport.lib.x\nallow if x.ok",
			"route.rego": "package sallyport.route\nimport data.sallyport.lib.x\nallow if x.named",
			"x.rego":     "package sallyport.lib.x\nok if _ok\n_ok if input.target.port == 443\nnamed if input.identity.nmae\nunused if input.nothing"}, want: []string{
			"x.rego:3:8: sallyport.admit has no input.target: only route, dial and inspect can read it",
			"x.rego:4:10: input.identity.nmae is not a fact of sallyport.route: did you mean input.identity.name?"}},
		{name: "in else, with, every, comprehensions and heads", files: route(`allow if input.a`, `else := false if input.b`,
			`deny contains input.c`, `warn contains x if { some x in [y | y := input.d] }`, `_w if allow with data.x as input.e`,
			`_v if { every z in input.f { z } }`, `_h[input.g] := 1`, `f(x) := input.h if x`, `_s := $"{input.i}"`, `_t if allow with input.j as 1`), want: []string{
			"route.rego:2:10: input.a is not a fact of sallyport.route", "route.rego:3:1: input.b is not a fact of sallyport.route",
			"route.rego:4:15: input.c is not a fact of sallyport.route", "route.rego:5:42: input.d is not a fact of sallyport.route",
			"route.rego:6:28: input.e is not a fact of sallyport.route", "route.rego:7:20: input.f is not a fact of sallyport.route",
			"route.rego:8:4: input.g is not a fact of sallyport.route", "route.rego:9:9: input.h is not a fact of sallyport.route",
			"route.rego:10:10: input.i is not a fact of sallyport.route", "route.rego:11:18: input.j is not a fact of sallyport.route"}},
		{name: "a misspelt fact in a function", files: route(`allow if f(input.target)`, `f(t) if g(t, input.source)`, `g(a, b) if { a.hsot == "x"; b.ip == "y" }`), want: []string{
			"route.rego:4:14: input.target.hsot is not a fact of sallyport.route: did you mean input.target.host?"}},
		{name: "a misspelt fact in a function's other branch", files: route(`allow if f(input.target, 1)`, `f(t, 1) if t.port == 443`, `else := true if t.hsot == "x"`), want: []string{
			"route.rego:4:1: input.target.hsot is not a fact of sallyport.route: did you mean input.target.host?"}},
		{name: "a fact that one of two callers has", files: route(`allow if { f(input.target); f(input.source) }`, `f(x) if count(x.suffixes) == 1`)},
		{name: "a misspelt fact in object.get", files: route(`allow if object.get(input.identity, "nmae", "") == "x"`, `warn contains "x" if object.get(input.source, ["geo", "contry"], "") == "x"`, `_ok := object.get(input.identity.attributes, "x", 1)`), want: []string{
			"route.rego:2:10: input.identity.nmae is not a fact of sallyport.route: did you mean input.identity.name?",
			"route.rego:3:22: input.source.geo.contry is not a fact of sallyport.route: did you mean input.source.geo.country?"}},
		{name: "a fact of another type", files: route(`allow if input.target.port == "443"`), want: []string{
			"route.rego:2:10: match error: left: number, right: string"}},
		{name: "a fact in the order of another type", files: route(`allow if input.target.port <= "1024"`, `allow if { p := input.target.port; "80" > p }`,
			`deny contains "a" if input.target.port != "443"`, `deny contains "b" if not input.target.port in {"443", 80}`, `deny contains "c" if input.source.ip >= 10`,
			`deny contains "d" if { some s in input.target.suffixes; s != 7 }`, `deny contains "e" if input.target.port in ["25"]`, `deny contains "f" if input.session.again != null`,
			`allow if _low(input.target.port)`, `_low(port) if port < "1024"`, `allow if { input.target.port < 1024; input.target.host < "b"; input.identity.attributes.level < 3 }`,
			`allow if count({p | some p in {80, 443}; p < input.target.port}) > 1`, `allow if { input.identity.attributes.level in {1, "high"}; input.target.port != input.source.port }`), want: []string{
			`route.rego:2:10: match error: input.target.port is a number, "1024" a string: <= compares the types, whatever the values are`,
			`route.rego:3:36: match error: input.target.port is a number, "80" a string: > compares the types, whatever the values are`,
			`route.rego:4:22: match error: input.target.port is a number, "443" a string: they are never equal`,
			`route.rego:5:22: match error: input.target.port is a number, "443" a string: it is never among them`,
			`route.rego:6:22: match error: input.source.ip is a string, 10 a number: >= compares the types, whatever the values are`,
			`route.rego:7:57: match error: a member of input.target.suffixes is a string, 7 a number: they are never equal`,
			`route.rego:8:22: match error: input.target.port is a number, "25" a string: it is never among them`,
			`route.rego:9:22: match error: input.session.again is a boolean, null a value of its own: they are never equal`}},
		{name: "maps by a variable", files: route(`allow if { k := "team"; input.identity.attributes[k] == "x" }`, `_k contains k if some k, v in input.request.headers`, `_s contains s if some s in input.target.suffixes`, `_f := input.target.prefixes[0]`)},
		{name: "print", files: route(`allow if { print(input); input.target.port == 443 }`)},
		{name: "input as an argument", files: route(`allow if f(input)`, `f(x) if x.target.port == 443`), want: []string{strings.Replace(alone, ":10:", ":12:", 1) + strictly}},
		{name: "input indexed", files: route(`allow if { some k in ["target"]; input[k].port == 443 }`), want: []string{
			"route.rego:2:34: input is indexed by a variable, so that a misspelt fact could not be seen: write the fact's name" + strictly}},
		{name: "input walked", files: route(`allow if { walk(input, [["target", "port"], 443]) }`), want: []string{strings.Replace(alone, ":10:", ":17:", 1) + strictly}},
		{name: "input assigned", files: route(`allow if { x := input; x.target.port == 443 }`), want: []string{strings.Replace(alone, ":10:", ":17:", 1) + strictly}},
		{name: "input in json.filter", files: route(`allow if json.filter(input, ["target/port"]).target.port == 443`), want: []string{strings.Replace(alone, ":10:", ":22:", 1) + strictly}},
		{name: "input in object.get", files: route(`allow if object.get(input, ["target", "prt"], 443) == 443`), want: []string{
			"route.rego:2:10: input.target.prt is not a fact of sallyport.route: did you mean input.target.port?", strings.Replace(alone, ":10:", ":21:", 1) + strictly}},
		{name: "input in a comprehension", files: route(`allow if { count({x | some x in input}) > 1 }`), want: []string{
			"route.rego:2:23: input is indexed by a variable, so that a misspelt fact could not be seen: write the fact's name" + strictly}},
		{name: "input replaced", files: route(`allow if _x with input as {"target": {"port": 443}}`, `_x if input.target.port == 443`), want: []string{
			"route.rego:2:18: `with input as` replaces all facts, so that nothing can be said of those that are read" + strictly}},
		{name: "input in with", files: route(`allow if _x with data.x as input`, `_x if data.x.target.port == 443`), want: []string{
			strings.Replace(alone, ":10:", ":28:", 1) + strictly, "route.rego:3:7: warning: nothing defines data.x"}},
		{name: "an object of facts indexed", files: route(`allow if { some k in ["port"]; input.target[k] == 443 }`), want: []string{
			"route.rego:2:32: input.target is indexed by a variable, so that a misspelt fact could not be seen: write the fact's name" + strictly}},
		{name: "leniently", files: route(`allow if f(input)`, `f(x) if x.target.port == 443`), options: Options{Lenient: true}, want: []string{
			"route.rego:2:12: warning: input is passed on as a whole, so that a misspelt fact could not be seen: pass the facts that are needed"}},
		{name: "leniently is not spelling", files: route(`allow if input.identity.nmae == "x"`), options: Options{Lenient: true}, want: []string{
			"route.rego:2:10: input.identity.nmae is not a fact of sallyport.route: did you mean input.identity.name?"}},
		{name: "gathered", files: route(`allow if input.identity.usage.bytes.day < 7`, `deny contains "x" if count(input.identity.usage) > 9`, `warn contains "x" if input.upstreams.x.healthy`)},
		{name: "missing as configured", files: route(`allow if input.source.geo.country == "NL"`, `deny contains "x" if f(input.target.geo)`, `f(x) if x.asn == 1`, `_x := input.source`), options: Options{Missing: missingGeo}, want: []string{
			"route.rego:2:10: warning: input.source.geo.country is always empty: nobody knows",
			"route.rego:3:24: warning: input.target.geo is always empty: nobody knows"}},
		{name: "schemas in METADATA", files: map[string]string{"route.rego": "# METADATA\n# schemas:\n#   - input: schema.route\npackage sallyport.route\n\n# METADATA\n# schemas:\n#   - input: schema[\"sallyport.nowhere\"]\nallow if input.target.port == 443"}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestJudgeData(t *testing.T) {
	with := func(files map[string]string, more map[string]string) map[string]string {
		maps.Copy(files, more)
		return files
	}
	for _, c := range []judgeCase{
		{name: "undefined", files: with(route(`allow if data.sets.x[input.target.host]`, `deny contains "x" if data.settings.nothing`, `warn contains "x" if data.sets.list[0]`,
			`_a if data.sets[input.target.host].z`, `_b := object.get(data.sets, ["no"], 1)`, `_c if data.corp.y`, `_d if data.corp.f(1)`),
			map[string]string{"data.json": `{"sets": {"list": [1], "null": null}}`, "corp.rego": "package corp\nf(x) := data.sets.null\ng := data.sets.nil.x"}), want: []string{
			"corp.rego:3:6: warning: nothing defines data.sets.nil",
			"route.rego:2:10: warning: nothing defines data.sets.x",
			"route.rego:3:22: warning: nothing defines data.settings",
			"route.rego:7:7: warning: nothing defines data.corp.y"}},
		{name: "data as a decision", files: with(route(`allow if input.target.port == 443`), map[string]string{"a.json": `{"sallyport": {"route": {"allow": true}}}`, "b.json": `{"sallyport": {}, "system": {"x": 1}}`}), want: []string{
			"a.json: data.sallyport cannot be given as data: it would be read as a decision",
			"b.json: data.sallyport cannot be given as data: it would be read as a decision",
			"b.json: data.system is not enforced by this release: it is OPA's own"}},
		{name: "two documents", files: map[string]string{"a.json": `{"x": {"y": 1, "z": [1]}, "e": 1}`, "b.json": `{"x": {"y": 2, "z": [1]}, "e": {}}`, "c.json": `{"x": {"y": 1, "w": {}}}`}, want: []string{
			"b.json: data.e has another value in a.json", "b.json: data.x.y has another value in a.json"}},
		{name: "data and rules", files: map[string]string{"a.json": `{"corp": {"x": 1, "m": {"k": 1}, "s": 1}, "flat": 1}`,
			"corp.rego": "package corp\nx := 1\nm[k] := 1 if k := \"j\"\nok := 1\ns.t := 1", "flat.rego": "package flat.a\nb := 1"}, want: []string{
			"corp.rego:2:1: the rule data.corp.x conflicts with the data at data.corp.x in a.json",
			"corp.rego:3:1: the rule data.corp.m conflicts with the data at data.corp.m in a.json",
			"corp.rego:5:1: the rule data.corp.s.t conflicts with the data at data.corp.s in a.json",
			"flat.rego:1:1: package flat.a conflicts with the data at data.flat in a.json"}},
		{name: "settings of the default policy", files: map[string]string{"s.json": `{"settings": {"allow_ports": ["8080"], "allow_private": "10.0.0.0/8", "anonymous_from": ["10.0.0.1"], "mine": 1}}`}, want: []string{
			"s.json: a member of data.settings.allow_ports has to be a number, not a string",
			"s.json: a member of data.settings.anonymous_from has to be a network such as \"10.0.0.0/8\", not \"10.0.0.1\"",
			"s.json: data.settings.allow_private has to be an array of networks such as \"10.0.0.0/8\", not a string"}},
		{name: "a misspelt setting", files: map[string]string{"s.json": `{"settings": {"allow_port": [8080]}}`}, want: []string{
			"s.json: warning: the default policy does not read data.settings.allow_port: did you mean allow_ports?"}},
		{name: "settings that a copy of the default policy does without", files: route(`allow if input.target.port in data.settings.allow_ports`,
			`_a if data.settings["allow_private"][_] == "x"`, `_b := object.get(data.settings, "mine", 1)`)},
		{name: "settings of which some are given", files: with(route(`allow if input.target.port in data.settings.allow_ports`, `_a if data.settings.anonymous_from`,
			`_b if data.settings.mine`), map[string]string{"data.json": `{"settings": {"allow_port": [1]}}`}), want: []string{
			"route.rego:2:31: warning: nothing defines data.settings.allow_ports",
			"route.rego:4:7: warning: nothing defines data.settings.mine"}},
		{name: "settings that are none", files: map[string]string{"s.json": `{"settings": [8080]}`}, want: []string{"s.json: data.settings is not an object"}},
		{name: "settings of the user's own stage", files: map[string]string{"s.json": `{"settings": {"allow_ports": {"8080": true}, "allow_port": 1}}`,
			"route.rego": "package sallyport.route\nallow if data.settings.allow_ports[format_int(input.target.port, 10)]"}},
		{name: "data that Go reads", files: map[string]string{"a.json": `{"users": 1}`}, options: Options{CheckData: func(data map[string]any) []error {
			if _, ok := data["users"].(map[string]any); ok {
				return nil
			}
			return []error{errors.New("data.users is not an object")}
		}}, want: []string{"data.users is not an object"}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestJudgeValues(t *testing.T) {
	const kinds = " (it is domain, ipv4 and ipv6)"
	for _, c := range []judgeCase{
		{name: "what a fact never is", files: route(`allow := true`, `deny contains "a" if input.target.scope == "metdata"`,
			`deny contains "b" if "host" == input.target.kind`, `deny contains "c" if not input.request.command == "CONNECT"`,
			`deny contains "d" if { k := input.target.kind; k in {"names", "domain"} }`, `deny contains "e" if input.session.protocol != "socks"`), want: []string{
			`route.rego:3:22: warning: input.target.scope is never "metdata": did you mean metadata? (it is metadata, loopback, link_local, private, shared, unspecified, multicast, reserved and public)`,
			`route.rego:4:22: warning: input.target.kind is never "host"` + kinds,
			`route.rego:5:22: warning: input.request.command is never "CONNECT": did you mean connect? (it is connect, bind, associate, datagram and forward)`,
			`route.rego:6:48: warning: input.target.kind is never "names"` + kinds,
			`route.rego:7:22: warning: input.session.protocol is never "socks": did you mean socks5? (it is socks5, socks4 and http)`}},
		{name: "what a fact may be", files: route(`allow if input.target.kind in ["ipv4", ""]`, `allow if input.identity.name == "domain"`,
			`allow if { some k in ["a", "domain"]; input.target.kind == k }`, `allow if input.target.kind == data.x.kind`)},
		{name: "a ban without its time", files: route(`allow := true`, `ban := {"identity": true} if input.target.port == 25`,
			`ban := {"identity": true, data.key: "1m"} if input.target.port == 26`, `ban := {} if input.target.port == 27`), want: []string{
			`route.rego:3:8: ban needs "for" beside its other keys`, "route.rego:4:27: warning: nothing defines data.key",
			`route.rego:5:8: warning: ban is empty and bans nobody: give it "for", or leave the rule out`}},
		{name: "a ban of nobody that others make way for", files: route(`allow := true`, `default ban := {}`,
			`ban := {} if input.target.port == 27 else := {"for": "1m"} if input.target.port == 28`)},
		{name: "limits that need another", files: map[string]string{
			"admit.rego": "package sallyport.admit\nallow := true\nlimits := {\"burst\": 5}",
			"authenticate.rego": "package sallyport.authenticate\nallow := true\n" +
				`limits := {"burst": 5, data.key: 1, "quota": {"bytes": "1GiB"}} if input.source.port == 1` + "\n" +
				`limits := {"burst": 5, "rate": "1/s", "quota": {"bytes": "1GiB", "per": "day"}} if input.source.port == 2`}, want: []string{
			`admit.rego:3:11: limits.burst needs "rate" beside it`,
			`authenticate.rego:3:24: warning: nothing defines data.key`,
			`authenticate.rego:3:46: limits.quota needs "per" beside its other keys`}},
		{name: "how a fact is never spelt", files: route(`allow := true`,
			`deny contains "a" if input.target.host == "Example.COM"`, `deny contains "b" if input.target.host in {"example.com.", "ok.example"}`,
			`deny contains "c" if ".example.com" in input.target.suffixes`, `deny contains "d" if "10.0.0.1/8" in input.source.prefixes`,
			`deny contains "e" if { some p in input.source.prefixes; p == "10.0.0.1" }`, `deny contains "f" if input.source.ip == "::ffff:10.0.0.1"`,
			`deny contains "g" if input.identity.method == "passwd"`, `deny contains "h" if input.request.headers["User-Agent"]`,
			`deny contains "i" if object.get(input.request.headers, "Cookie", []) == ["x"]`, `deny contains "j" if input.target.host == "*.example.com"`,
			`deny contains "k" if input.session.listener == "ofice"`, `deny contains "l" if input.target.suffixes[_] == "COM"`,
			`deny contains "m" if "2001:db8::/96" in input.source.prefixes`, `deny contains "n" if { h := input.target.host; "EXAMPLE.com" == h }`,
			`deny contains "o" if input.target.host == "münchen.example"`), want: []string{
			`route.rego:3:22: warning: input.target.host is never "Example.COM": want "example.com"`,
			`route.rego:4:22: warning: input.target.host is never "example.com.": want "example.com"`,
			`route.rego:5:22: warning: input.target.suffixes never has ".example.com": want "example.com"`,
			`route.rego:6:22: warning: input.source.prefixes never has "10.0.0.1/8": want "10.0.0.0/8"`,
			`route.rego:7:57: warning: input.source.prefixes never has "10.0.0.1": want "10.0.0.1/32"`,
			`route.rego:8:22: warning: input.source.ip is never "::ffff:10.0.0.1": want "10.0.0.1"`,
			`route.rego:9:22: warning: input.identity.method is never "passwd": did you mean password? (it is password, none, certificate and certificate+password)`,
			`route.rego:10:22: warning: input.request.headers never has "User-Agent": names are in lower case, want "user-agent"`,
			`route.rego:11:22: warning: input.request.headers never has "Cookie": what clients authenticate by is kept from policies`,
			`route.rego:12:22: warning: input.target.host is never "*.example.com"`,
			`route.rego:13:22: warning: input.session.listener is never "ofice": did you mean office? (it is main and office)`,
			`route.rego:14:22: warning: input.target.suffixes never has "COM": want "com"`,
			`route.rego:15:22: warning: input.source.prefixes never has "2001:db8::/96"`,
			`route.rego:16:48: warning: input.target.host is never "EXAMPLE.com": want "example.com"`,
			`route.rego:17:22: warning: input.target.host is never "münchen.example"`,
		}, options: Options{Listeners: []string{"main", "office"}}},
		{name: "what no place is", files: map[string]string{"dial.rego": "package sallyport.dial\nallow := true\n" + strings.Join([]string{
			`deny contains "a" if input.address.geo.country == "de"`, `deny contains "b" if not input.source.geo.country in {"DE", "Germany", ""}`,
			`deny contains "c" if input.target.geo.country == "UK"`, `deny contains "d" if input.address.geo.continent == "Europe"`,
			`deny contains "e" if input.address.geo.continent in {"EU", "AN", ""}`, `deny contains "f" if _geo.country == "XK"`,
			`deny contains "g" if _geo.city == "Berlin"`, `_geo := input.address.geo`}, "\n")}, want: []string{
			`dial.rego:3:22: warning: input.address.geo.country is never "de": want "DE"`,
			`dial.rego:4:22: warning: input.source.geo.country is never "Germany"`,
			`dial.rego:5:22: warning: input.target.geo.country is never "UK": want "GB"`,
			`dial.rego:6:22: warning: input.address.geo.continent is never "Europe" (it is AF, AN, AS, EU, NA, OC and SA)`}},
		{name: "where no redirect leads", files: route(`allow := true`, `redirect := {"host": "http://localhost/"} if input.target.port == 1`,
			`redirect := {"host": "ok.example", "port": 1} if input.target.port == 2`, `else := {"host": "localhost:31000"} if input.target.port == 3`,
			`redirect := {"host": _host} if input.target.port == 4`, `redirect := _other if input.target.port == 5`, `redirect := {"host": ""} if input.target.port == 6`,
			`redirect := {"host": concat("", [input.target.host, ":1"])} if input.target.port == 7`, `_host := "*.example"`, `_other := {"host": "a:1"}`), want: []string{
			`route.rego:3:22: redirect.host has to be a name or an address without scheme or port, not "http://localhost/" (the port goes into redirect.port)`,
			`route.rego:5:18: redirect.host has to be a name or an address without scheme or port, not "localhost:31000" (the port goes into redirect.port)`,
			`route.rego:10:10: redirect.host has to be a name or an address without scheme or port, not "*.example" (the port goes into redirect.port)`,
			`route.rego:11:20: redirect.host has to be a name or an address without scheme or port, not "a:1" (the port goes into redirect.port)`,
		}, options: Options{IsHost: isHost}},
		{name: "where no redirect leads, by the key", files: route(`allow := true`, `redirect.host := "a:1"`, `redirect.port := 443`), want: []string{
			`route.rego:3:18: redirect.host has to be a name or an address without scheme or port, not "a:1" (the port goes into redirect.port)`,
		}, options: Options{IsHost: isHost}},
		{name: "how a fact may be spelt", files: route(`allow if input.target.host in {"example.com", "_srv.example", "192.0.2.1", "2001:db8::1", ""}`,
			`allow if "com" in input.target.suffixes`, `allow if "10.0.0.0/8" in input.source.prefixes`, `allow if "2001:db8::/32" in input.source.prefixes`,
			`allow if input.source.ip == "2001:db8::1"`, `allow if input.request.headers["user-agent"]`, `allow if input.session.listener == "office"`,
			`allow if endswith(input.target.host, ".Example")`), options: Options{Listeners: []string{"main", "office"}}},
	} {
		if c.name == "what a fact may be" {
			c.files["data.json"] = `{"x": {"kind": "a"}}`
		}
		t.Run(c.name, c.run)
	}
}

func TestJudgeWhatMustBeDefined(t *testing.T) {
	for _, c := range []judgeCase{
		{name: "values out of range", files: route(`allow := true`, `session_limits := {"until": 1700000000, "bytes": 0, "idle": "0s"}`, `redirect := {"port": 99999}`), want: []string{
			"route.rego:3:29: session_limits.until: 1700000000 is not a whole number from 1000000000000000000 to 9223372036854775807: nanoseconds since 1970",
			"route.rego:3:50: session_limits.bytes: 0 would be no bound at all: leave the key out, or deny",
			"route.rego:3:61: session_limits.idle: 0 would be no bound at all: leave the key out, or deny",
			"route.rego:4:22: redirect.port: 99999 is not a whole number from 1 to 65535"}},
		{name: "a complete rule that may not apply", files: route(`allow := true`, `deny := {"x"} if input.target.port == 25`), want: []string{
			"route.rego:3:1: warning: deny is undefined where this rule does not apply, and that is a fault: write deny contains … if"}},
		{name: "a complete rule that always applies", files: route(`allow := true`, `deny := {"x" | input.target.port == 25}`)},
		{name: "a default", files: route(`allow := true`, `default deny := set()`, `deny := {"x"} if input.target.port == 25`)},
		{name: "a partial set", files: route(`allow := true`, `deny contains "x" if input.target.port == 25`)},
	} {
		t.Run(c.name, c.run)
	}
}

func TestJudgeCompilerErrors(t *testing.T) {
	const reaches = " reaches out of the policy or reveals the process: it is refused unless policy.capabilities names it"
	for _, c := range []judgeCase{
		{name: "every file that cannot be parsed", files: map[string]string{"a.rego": "package a\nx := ", "b.rego": "package b\ny = }", "c.rego": "", "route.rego": "package sallyport.route\ndenny := true\nallow if data.a.f(1)"}, want: []string{
			"a.rego:2:5: unexpected eof token: x :=",
			"b.rego:2:5: unexpected } token: y = }",
			"c.rego: empty module",
			"route.rego:2:1: denny is not a field of sallyport.route: did you mean deny? (the name of a helper starts with _)"}},
		{name: "reaching out", files: route(`allow if http.send({"url": "http://x", "method": "get"}).status_code == 200`, `warn contains "x" if opa.runtime().env.HOME`,
			`_x if net.lookup_ip_addr("x")`, `_y if upper("x") with upper as opa.runtime`, `_z if { http := {"send": 1}; http.send }`, `_w contains opa.runtime().x`), options: Options{Capabilities: []string{"net.lookup_ip_addr"}}, want: []string{
			"route.rego:2:10: http.send" + reaches, "route.rego:3:22: opa.runtime" + reaches, "route.rego:5:32: opa.runtime" + reaches, "route.rego:7:13: opa.runtime" + reaches}},
		{name: "reaching out, replaced", files: route(`allow if _x with http.send as data.sallyport.route._f`, `_f(_) := 1`, `_x if input.target.port == 443`)},
		{name: "reaching out, allowed", files: route(`allow if http.send({"url": "http://x", "method": "get"}).status_code == 200`), options: Options{Capabilities: []string{"http.send"}}},
		{name: "two defaults", files: map[string]string{"a.rego": "package sallyport.route\ndefault allow := false", "b.rego": "package sallyport.route\ndefault allow := false"}, want: []string{
			`a.rego:1:1: multiple default rules data.sallyport.route.allow found at a.rego:2, b.rego:2 (one rule has one default: keep one of them)`}},
		{name: "an object twice", files: route(`allow := true`, `session_limits := {"idle": 1}`, `session_limits.bytes := 1`), want: []string{
			`route.rego:3:1: rule data.sallyport.route.session_limits conflicts with: rule data.sallyport.route.session_limits.bytes at route.rego:4 (a name is either one rule or the parent of others: write all of an object in one rule, or a rule for each of its keys)`}},
		{name: "kinds of one name", files: route(`allow := true`, `deny := {"x"}`, `deny contains "y"`), want: []string{
			"route.rego:3:1: conflicting rules data.sallyport.route.deny found (rules of one name must be of one kind: values, a set with `contains`, or functions with one number of arguments)"}},
		{name: "unsafe", files: route(`allow if x == 1`), want: []string{
			`route.rego:2:10: var x is unsafe (nothing gives it a value)`}},
		{name: "recursion", files: route(`allow if _x`, `_x if allow`), want: []string{
			`route.rego:2:1: rule data.sallyport.route.allow is recursive: data.sallyport.route.allow -> data.sallyport.route._x -> data.sallyport.route.allow`,
			`route.rego:3:1: rule data.sallyport.route._x is recursive: data.sallyport.route._x -> data.sallyport.route.allow -> data.sallyport.route._x`}},
		{name: "an unknown function", files: route(`allow if startwith(input.target.host, "x")`), want: []string{
			`route.rego:2:10: undefined function startwith: did you mean startswith?`}},
		{name: "old Rego", files: route(`allow { true }`), want: []string{
			"route.rego:2:1: `if` keyword is required before rule body"}},
		{name: "package METADATA twice", files: map[string]string{"a.rego": "# METADATA\n# title: a\npackage sallyport.route\nallow := true", "b.rego": "# METADATA\n# title: b\npackage sallyport.route\nexplain := true"}, want: []string{
			`b.rego:1:1: package annotation redeclared: a.rego:1 (a package or a document is described in one file only)`}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestJudgeBundles(t *testing.T) {
	const notIts = "data.settings is read only from files and from the bundle that owns sallyport, not from the bundle "
	bundle := func(name string, roots ...string) Bundle {
		return Bundle{Name: name, Path: name + ".tar.gz", Roots: roots}
	}
	for _, c := range []struct {
		name    string
		bundles []Bundle
		roots   map[string][]string
		modules []Module
		data    []Document
		want    []string
	}{
		{name: "one, without roots", bundles: []Bundle{bundle("main")},
			modules: []Module{{Path: "main.tar.gz:/a.rego", Bundle: "main", Text: []byte("package sallyport.route\nallow := true")}},
			data:    []Document{{Path: "main.tar.gz:/data.json", Bundle: "main", Value: map[string]any{"settings": map[string]any{"x": true}}}}},
		{name: "two, without policy.roots", bundles: []Bundle{bundle("a", "sallyport"), bundle("b", "teams/x")}, want: []string{
			"a.tar.gz: policy.roots gives no root to the bundle a", "b.tar.gz: policy.roots gives no root to the bundle b"}},
		{name: "two that keep to theirs", bundles: []Bundle{bundle("a", "sallyport", "settings"), bundle("b", "teams/x")},
			roots:   map[string][]string{"a": {"sallyport", "settings"}, "b": {"/teams/"}},
			modules: []Module{{Path: "b.rego", Bundle: "b", Text: []byte("package teams.x.y\nz := 1")}},
			data: []Document{{Path: "a.json", Bundle: "a", Value: map[string]any{"settings": map[string]any{}}},
				{Path: "b.json", Bundle: "b", Value: map[string]any{"teams": map[string]any{"x": json.Number("1")}}}},
			want: []string{"b.rego:1:1: package teams.x.y conflicts with the data at data.teams.x in b.json"}},
		{name: "roots that are not given", bundles: []Bundle{bundle("a", "sallyport", "teams/xy"), bundle("b")},
			roots: map[string][]string{"a": {"sallyport", "teams/x"}, "b": {"teams"}}, want: []string{
				`a.tar.gz: the bundle a claims the root "teams/xy", which policy.roots does not give it ("sallyport" and "teams/x")`,
				`b.tar.gz: the bundle b claims the root "", which policy.roots does not give it ("teams")`,
				`b.tar.gz: the bundles a and b both claim the root "sallyport"`, `b.tar.gz: the bundles a and b both claim the root "teams/xy"`}},
		{name: "content outside the roots", bundles: []Bundle{bundle("b", "teams/x", "settings")},
			modules: []Module{{Path: "b.rego", Bundle: "b", Text: []byte("package teams.xy\nz := 1")},
				{Path: "c.rego", Bundle: "b", Text: []byte("package sallyport\nroute.allow := true")},
				{Path: "d.rego", Bundle: "b", Text: []byte("package settings\nanonymous_from := [\"0.0.0.0/0\"]")}},
			data: []Document{{Path: "b.json", Bundle: "b", Value: map[string]any{"users": map[string]any{}, "settings": map[string]any{"y": true},
				"teams": map[string]any{"x": true, "y": true}}}},
			want: []string{
				`b.json: ` + notIts + "b", `b.json: data.teams.y is outside the roots of the bundle b ("teams/x" and "settings")`, `b.json: data.users is outside the roots of the bundle b ("teams/x" and "settings")`,
				`b.json: data.users is read only from files and from the bundle that owns sallyport, not from the bundle b`,
				`b.rego:1:1: package teams.xy is outside the roots of the bundle b ("teams/x" and "settings")`,
				`c.rego:1:1: package sallyport is outside the roots of the bundle b ("teams/x" and "settings")`,
				`d.rego:1:1: ` + notIts + "b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, problems := judge(&Candidate{Bundles: c.bundles, Modules: c.modules, Documents: c.data}, Options{Roots: c.roots}, defaultModules())
			if got := printed(problems); !slices.Equal(got, c.want) {
				t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// What judging finds out about a stage: who answers, which fields there are,
// what they read, and whether that is all that they depend on.
func TestJudgedStages(t *testing.T) {
	candidate := files(t, map[string]string{
		"admit.rego": "package sallyport.admit\nallow := true",
		"authenticate.rego": `package sallyport.authenticate
			allow if crypto.x509.parse_and_verify_certificates(input.credentials.token)`,
		"route.rego": `package sallyport.route
			import data.sallyport.lib.hosts
			warn contains "x" if hosts.known(input.target)
			allow if input.identity.name == "x"
			_unused if time.now_ns() > input.time`,
		"dial.rego": `package sallyport.dial
			allow if _x with data.sallyport.lib.hosts.constant as time.now_ns() - 1
			_x if data.sallyport.lib.hosts.constant > input.time`,
		"lib.rego": `package sallyport.lib.hosts
			known(t) if t.host in data.known
			constant := 1`,
		"data.json": `{"known": ["a.test"]}`,
	})
	verdict, problems := judge(candidate, Options{}, defaultModules())
	if problems.Fatal() {
		t.Fatal(problems)
	}
	for stage, want := range map[policy.Stage]struct {
		byDefault, pure bool
		fields, reads   string
	}{
		policy.Admit:        {false, true, "allow", ""},
		policy.Authenticate: {false, false, "allow", "input.credentials.token"},
		policy.Route:        {false, true, "allow warn", "input.identity.name input.target"},
		policy.Dial:         {false, false, "allow", "input.time"},
		policy.Manage: {true, true, "allow reason",
			"input.api.certificate.fingerprint_sha256 input.api.method input.api.path input.api.peer.same_user input.api.source.scope input.api.token.name"},
	} {
		got, ok := verdict.stages[stage]
		var reads []string
		for _, r := range got.reads {
			reads = append(reads, r.String())
		}
		if !ok || got.all || got.byDefault != want.byDefault || got.pure != want.pure ||
			strings.Join(got.fields, " ") != want.fields || strings.Join(reads, " ") != want.reads {
			t.Errorf("%s: %+v, want %+v", stage, got, want)
		}
	}
	if verdict.compiler.Capabilities().AllowNet == nil {
		t.Error("json.match_schema may load a schema from anywhere")
	}
	if _, ok := verdict.stages[policy.Inspect]; ok {
		t.Error("inspect is asked, but nobody defines it")
	}

	lenient, problems := judge(files(t, route(`allow if f(input)`, `f(x) if x.target.port == 443`)), Options{Lenient: true}, defaultModules())
	if problems.Fatal() {
		t.Fatal(problems)
	}
	if !lenient.stages[policy.Route].all {
		t.Error("a stage that passes input on does not read all of it")
	}
}

// A document is shared with the candidate and must not change.
func TestJudgeLeavesDocumentsAlone(t *testing.T) {
	candidate := files(t, map[string]string{"a.json": `{"x": {"y": {"z": 1}}}`, "b.json": `{"x": {"y": {"w": 2}}}`, "c.json": `{"x": {"y": {"v": 3}, "u": 4}}`})
	verdict, problems := judge(candidate, Options{}, defaultModules())
	if problems.Fatal() {
		t.Fatal(problems)
	}
	merged, _ := json.Marshal(verdict.data)
	first, _ := json.Marshal(candidate.Documents[0].Value)
	if string(merged) != `{"x":{"u":4,"y":{"v":3,"w":2,"z":1}}}` || string(first) != `{"x":{"y":{"z":1}}}` {
		t.Errorf("merged to %s, and the first is %s", merged, first)
	}
}

// Whatever judge accepts reads only what is declared, however it is combined.
func TestJudgeAcceptsOnlyDeclaredReads(t *testing.T) {
	parts := []string{
		`input.target.host`, `input.target.hsot`, `input.target`, `input`, `input.identity.attributes.x`, `input["target"]["port"]`,
		`input.identity[data.k]`, `input.request.headers[data.k]`, `data.sallyport.lib.x.f(input.target)`, `data.sallyport.lib.x.f(input)`,
		`object.get(input, ["target", "x"], 1)`, `[y | some y in input.target.suffixes]`, `{k: v | some k, v in input.identity}`, `input.api`, `input.upstreams.eu.labels.x`,
		`data.sallyport.lib.x.g`, `data.sallyport.lib.x[data.k]`, `union({input.asked.host})`, `input.source.geo.country`,
	}
	forms := []string{`_a = A; _a == B`, `A == B`, `not A == B`, `A == B with input.target.host as A`, `some x in [A]; x == B`, `every x in [A, B] { x != A }`, `f(A) == B`, `x := A; x[B] == 1`}
	accepted := 0
	for i, a := range parts {
		for k, form := range forms {
			b := parts[(i*7+k*5)%len(parts)]
			body := strings.NewReplacer("A", a, "B", b, "_a", "z").Replace(form)
			verdict, problems := judge(files(t, map[string]string{
				"route.rego": "package sallyport.route\nallow if { " + body + " }\nf(x) := x",
				"lib.rego":   "package sallyport.lib.x\nf(t) := t.host\ng := input.session.id",
				"data.json":  `{"k": "x"}`,
			}), Options{}, nil)
			if problems.Fatal() {
				continue
			}
			accepted++
			root := policy.Input(policy.Route)
			for _, r := range verdict.stages[policy.Route].reads {
				path, _ := names(r)
				if fact, n := root.At(path...); n == 0 || n < len(path) && fact.Fields != nil {
					t.Errorf("%s reads %s", body, r)
				}
			}
		}
	}
	if accepted < 20 {
		t.Errorf("only %d policies were accepted", accepted)
	}
}

func FuzzJudge(f *testing.F) {
	for _, c := range []map[string]string{
		route(`allow if input.target.port == 443`, `deny contains "x"`, `session_limits.idle := "5m"`, `labels[k] := "x" if k := input.identity.name`),
		admit(`methods := ["none"] if { x := input; x[y] }`, `else := {"a"}`), {"x": "package sallyport\nroute.allow := true\n[x] := 1"},
		{"x": "package sallyport.lib\nf(x) := x.y if object.get(x, [\"a\"], 1)\ng := f(input.target)"}, {"x": "package system.log\nmask[x] if x"}, {"x": "package a\nimport data.b as c\np.q[r].s contains t if c[r][t] with input as 1"},
		{"x": "# METADATA\n# schemas:\n#   - input: {\"$ref\": \"http://127.0.0.1:1/x\"}\npackage sallyport.route\nallow if f(input.target, 1)\nf(a, _) if a.b"},
		{"x": strings.Repeat("[", 1000)}, {"x": "package sallyport.route\nallow := $\"{input.x}\""},
	} {
		for _, text := range c {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		verdict, problems := judge(&Candidate{Modules: []Module{{Path: "a.rego", Text: []byte(text)}}}, Options{}, nil)
		if (verdict == nil) != problems.Fatal() {
			t.Errorf("verdict %v beside %v", verdict, problems)
		}
		for _, p := range problems {
			if p.Message == "" || strings.Contains(p.Message, "\n") || strings.HasPrefix(p.Message, "the policy cannot be compiled: ") {
				t.Errorf("problem %q", p)
			}
		}
	})
}
