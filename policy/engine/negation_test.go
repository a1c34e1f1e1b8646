package engine

import (
	"strings"
	"testing"
	"time"

	"sallyport/policy"
)

// Each statement is to deny a caller of whom nothing is known. The advice is
// right where it comes with those that do not.
func TestNegations(t *testing.T) {
	for _, statement := range []string{
		`not input.target.port in data.teams[input.identity.name].ports`,
		`not startswith(input.target.host, data.teams[input.identity.name].prefix)`,
		`not input.target.port < data.teams[input.identity.name].port`,
		`not input.target.port != data.teams[input.identity.name].port`,
		`not data.teams[input.identity.name].port + 1 == 2`,
		`not startswith(input.target.host, _prefix)`,
		`not input.target.port in _ports`,
		`not input.target.port in _team.ports`,
		`x := {1 | not input.target.port in _ports}; x == {1}`,
		`not input.target.port == data.teams[input.identity.name].port`,
		`not data.teams[input.identity.name].open`,
		`not input.target.port == _port`,
		`not input.target.port in _always`,
		`not input.target.port in _several`,
		`not _listed`,
		`not _within(input.target.port)`,
		`not input.target.port in data.ports`,
		`not input.target.port in {443}`,
		`not "dev" in input.identity.groups`,
		`not input.identity.attributes.role in {"admin", "dev"}`,
		`not startswith(input.identity.attributes.mail, "a@")`,
		`not input.identity.attributes.level >= 3`,
		`not input.identity.attributes.level == 3`,
		`not input.identity.attributes.level == _port`,
		`not input.identity.attributes.level != 3`,
		`not input.identity.attributes.admin`,
		`not input.identity.attributes.admin == true`,
		`not input.identity.attributes[input.target.host] in {1, 2}`,
		`not contains(input.request.headers["user-agent"][0], "curl")`,
		`not "1" in input.request.headers["x-ok"]`,
		`not input.request.headers["x-ok"]`,
		`not input.request.headers["x-ok"][0] == "1"`,
		`not lower(input.request.headers["x-ok"][0]) == "1"`,
		`not _within(input.identity.attributes.port)`,
		`not object.get(input.identity.attributes, "role", "") in {"admin"}`,
		`not count(input.identity.attributes) > 0`,
		`role := object.get(input.identity.attributes, "role", ""); not role in {"admin"}`,
		`not "admin" in object.get(input.identity.attributes, ["roles"], [])`,
		`not input.identity.name in {"x"}`,
		`not count([1 | some p in data.teams[input.identity.name].ports; p == 22]) > 0`,
	} {
		c := files(t, map[string]string{
			"route.rego": `package sallyport.route

allow := true

deny contains "no" if { ` + statement + ` }

_listed if input.target.port in data.teams[input.identity.name].ports
_within(port) if port in data.teams[input.identity.name].ports
_prefix := "a" if input.identity.name == "x"
_ports := [1] if input.identity.name == "x"
_port := 1 if input.identity.name == "x"
_team := data.teams[input.identity.name]
_several contains 1 if input.identity.name == "x"
default _always := []
_always := [1] if input.identity.name == "x"
`,
			"data.json": `{"teams": {"x": {"ports": [1], "port": 1, "prefix": "a", "open": true}}, "ports": [1]}`,
		})
		var advised bool
		for _, a := range advice(t, c) {
			advised = advised || strings.Contains(a, "route.rego:5:") && strings.Contains(a, "in spite of its `not`")
		}
		e := engineWith(t, Options{Timeout: time.Minute})
		s, problems := e.Compile(c)
		if s == nil {
			t.Fatal(problems)
		}
		e.Activate(s)
		d := e.Decide(t.Context(), policy.Route, &policy.Facts{Target: policy.TargetName("b.example", 22)})
		if d.Allowed() != advised {
			t.Errorf("%s: it lets in: %t; advised: %t", statement, d.Allowed(), advised)
		}
	}
}
