package engine

import (
	"fmt"
	"strings"
	"testing"
)

const flatData = `{
	"hosts": ["a"], "domains": ["b"], "nets": ["10.0.0.0/8"], "entries": [{"host": "a", "port": 1}],
	"rules": {"alice": ["x"]}, "blocked": {"a": 1}, "ports": [80, 443], "patterns": ["*"], "names": {"a": "b"},
	"settings": {"hosts": ["a"]}
}`

func TestFlat(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`input.target.host in data.hosts`, "data.hosts[input.target.host]"},
		{`not input.target.host in data.hosts`, "data.hosts[input.target.host]"},
		{`h := input.target.host; list := data.hosts; h in list`, "data.hosts[input.target.host]"},
		{`some s in input.target.suffixes; s in data.domains`, "data.domains[…]"},
		{`some d in data.domains; endswith(input.target.host, d)`, "`m := data.domains; some s in input.target.suffixes; m[s]`"},
		{`some d in data.rules.alice; endswith(input.target.host, d)`, "`m := data.rules.alice; some s in"},
		{`some n in data.nets; net.cidr_contains(n, input.source.ip)`, "`m := data.nets; some p in input.source.prefixes; m[p]`"},
		{`some n in _nets; _within(n)`, "`m := data.nets; some p in input.target.prefixes; m[p]`"},
		{`some i; net.cidr_contains(data.nets[i], input.target.ip)`, "is tried on all of data.nets"},
		{`l := data.patterns; glob.match(l[_], ["."], input.target.host)`, "glob.match is tried on all of data.patterns"},
		{`every p in data.patterns { not regex.match(p, input.target.host) }`, "regex.match is tried on all of data.patterns"},
		{`count([1 | some name, _ in data.blocked; startswith(input.target.host, name)]) > 0`, "startswith is tried on all of data.blocked"},
		{`every e in data.entries { e.host == input.target.host }`, "data.entries[input.target.host]"},
		{`count([1 | some h in data.hosts; h == input.target.host]) > 0`, "data.hosts[input.target.host]"},
		{`strings.any_suffix_match(input.target.host, data.domains)`, "strings.any_suffix_match is tried on all of data.domains"},
		{`some e in data.entries; e.host == input.target.host; e.port == input.target.port`, "data.entries[input.target.host]"},
		{`data.entries[_].host == input.target.host`, "data.entries[input.target.host]"},
		{`some g in input.identity.groups; g == "dev"`, `write "dev" in input.identity.groups`},
		{`input.identity.groups[_] == "dev"`, `write "dev" in input.identity.groups`},

		{`"dev" in input.identity.groups`, ""},
		{`data.blocked[input.target.host]`, ""},
		{`m := data.blocked; some s in input.target.suffixes; m[s]`, ""},
		{`some p in input.target.prefixes; data.blocked[p]`, ""},
		{`some s in data.rules[input.identity.name]; endswith(input.target.host, s)`, ""},
		{`some g in input.identity.groups; some s in data.rules[g]; endswith(input.target.host, s)`, ""},
		{`input.target.host in data.rules[input.identity.name]`, ""},
		{`mine := data.rules[input.identity.name]; some s in mine; glob.match(s, ["."], input.target.host)`, ""},
		{`input.target.port in data.ports`, ""},
		{`input.target.port in {80, 443}`, ""},
		{`input.target.host in data.settings.hosts`, ""},
		{`input.target.host in _hosts`, ""},
		{`some s in input.target.suffixes; endswith(s, "example.com")`, ""},
		{`data.names[input.identity.name] == input.target.host`, ""},
		{`net.cidr_contains("10.0.0.0/8", input.target.ip)`, ""},

		// Loops that are not seen, as the guide says.
		{`every h in data.hosts { h != input.target.host }`, ""},
		{`some h in data.hosts; h > input.target.host`, ""},
		{`input.target.host in [h | some h in data.hosts]`, ""},
		{`input.target.host in object.keys(data.names)`, ""},
	} {
		got := advice(t, files(t, map[string]string{
			"route.rego": "package sallyport.route\n\nallow if { " + c.body + " }\n\n_nets := data.nets\n\n" +
				"_within(n) if net.cidr_contains(n, input.target.ip)\n\n_hosts contains h if some h, _ in data.names",
			"data.json": flatData,
		}))
		switch {
		case c.want == "" && len(got) > 0:
			t.Errorf("%s: %q", c.body, got)
		case c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], "route.rego:3:") || !strings.Contains(got[0], c.want)):
			t.Errorf("%s: %q, want %q in it", c.body, got, c.want)
		}
	}
}

func TestFunctionsThatAreTables(t *testing.T) {
	table := func(n int) map[string]string {
		rules := []string{"allow if _known(input.target.host)", "_known(host) if host == input.identity.name"}
		for i := range n {
			rules = append(rules, fmt.Sprintf("_known(\"host%d.example\") := true", i))
		}
		return route(rules...)
	}
	if got := advice(t, files(t, table(manyHeads-1))); len(got) != 0 {
		t.Error(got)
	}
	got := advice(t, files(t, table(2*manyHeads)))
	if len(got) != 1 || !strings.HasPrefix(got[0], "route.rego:103:1: advice: sallyport.route._known has 100 definitions and more") {
		t.Error(got)
	}
}
