package bundles_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/loader"

	"sallyport/policy"
	"sallyport/policy/engine"
	"sallyport/proxy/identity"
)

// example is a folder below bundles/ that is there to be copied.
type example struct {
	name      string
	bundles   []string            // folders of it; none: it is one bundle itself
	roots     map[string][]string // as policy.roots gives them
	passwords map[string]string   // that its users/data.yaml tells
}

func examples() []example {
	return []example{
		{name: "bruteforce"},
		{name: "egress", passwords: map[string]string{"research-agent": "reads-papers-all-day", "billing": "pays-bills-on-time"}},
		{name: "flood"},
		{name: "geofence"},
		{name: "office", passwords: map[string]string{"ann": "sells-until-six", "ben": "builds-day-and-night"}},
		{name: "rules", passwords: map[string]string{"pat": "reads-the-mail", "omi": "patrols-the-list"}},
		{
			name: "teams", bundles: []string{"central", "payments", "search"}, roots: teamRoots(),
			passwords: map[string]string{"till": "charges-every-card", "crawler": "finds-every-page", "newcomer": "has-no-team-yet"},
		},
		{name: "tokens"},
	}
}

// teamRoots are those of teams/sallyport.yaml.
func teamRoots() map[string][]string {
	return map[string][]string{
		"central": {"sallyport", "central", "users"}, "payments": {"teams/payments"}, "search": {"teams/search"},
	}
}

func (x *example) paths() []string {
	if x.bundles == nil {
		return []string{x.name}
	}
	var paths []string
	for _, b := range x.bundles {
		paths = append(paths, filepath.Join(x.name, b))
	}
	return paths
}

// archive packs a folder as OPA itself does, and returns the archive.
func archive(t *testing.T, folder, in string) string {
	t.Helper()
	b, err := loader.NewFileLoader().AsBundle(folder)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(in, filepath.Base(folder)+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := bundle.NewWriter(f).Write(*b); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func withRoots(t *testing.T, roots map[string][]string) *engine.Engine {
	t.Helper()
	e, err := engine.New(engine.Options{Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// Every example is one of the table, and loads without a warning, as folders
// and as archives.
func TestExamplesLoad(t *testing.T) {
	var folders, known []string
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.IsDir() && entry.Name() != "default" && !strings.HasPrefix(entry.Name(), ".") {
			folders = append(folders, entry.Name())
		}
	}
	for _, x := range examples() {
		known = append(known, x.name)
		t.Run(x.name, func(t *testing.T) {
			var archives []string
			dir := t.TempDir()
			for _, path := range x.paths() {
				archives = append(archives, archive(t, path, dir))
			}
			for _, paths := range [][]string{x.paths(), archives} {
				e := withRoots(t, x.roots)
				s, problems := e.Compile(load(t, paths...))
				// Without a database, what reads one is warned of.
				problems = slices.DeleteFunc(problems, func(p engine.Problem) bool {
					return p.Warning && strings.Contains(p.Message, ".geo") && strings.Contains(p.Message, "always empty")
				})
				if len(problems) > 0 {
					t.Fatalf("%v: %v", paths, problems)
				}
				if want := x.name + "-1"; x.bundles == nil && s.Revision() != want {
					t.Errorf("%v: revision %q, want %q", paths, s.Revision(), want)
				}
			}
		})
	}
	if !slices.Equal(folders, known) {
		t.Errorf("the folders are %v, the table has %v", folders, known)
	}
}

// A copy of the default policy needs no settings either.
func TestDefaultLoads(t *testing.T) {
	s, problems := newEngine(t).Compile(load(t, "default"))
	if len(problems) > 0 || !s.Defines(policy.Route) {
		t.Errorf("problems: %v", problems)
	}
}

// The passwords that users/data.yaml tells are those of the hashes, and nobody
// else is in there.
func TestExampleUsersLogIn(t *testing.T) {
	for _, x := range examples() {
		s, problems := withRoots(t, x.roots).Compile(load(t, x.paths()...))
		if problems.Fatal() {
			t.Fatal(problems)
		}
		data := s.Data("users")
		users, errs := identity.Parse(data)
		if len(errs) > 0 {
			t.Fatal(x.name, errs)
		}
		names, _ := data.(map[string]any)
		if got, want := slices.Sorted(maps.Keys(names)), slices.Sorted(maps.Keys(x.passwords)); !slices.Equal(got, want) {
			t.Errorf("%s: the users are %v, want %v", x.name, got, want)
		}
		v := identity.NewVerifier(1)
		v.SetUsers(users)
		for name, password := range x.passwords {
			if r, err := v.Verify(t.Context(), name, password); err != nil || !r.Verified {
				t.Errorf("%s: %s: %+v, %v", x.name, name, r, err)
			}
		}
	}
}

// asTeam is a request of somebody of a team.
func asTeam(team, host string) *policy.Facts {
	return &policy.Facts{
		Identity: policy.Identity{Name: "mia", Attributes: policy.Attributes{"team": team}},
		Request:  policy.Request{Command: "connect"}, Target: policy.TargetName(host, 443),
	}
}

// What one team does to its bundle is felt by its own callers alone, and it
// cannot reach beyond its roots.
func TestTeamsKeepToThemselves(t *testing.T) {
	change := func(t *testing.T, files map[string]string) *engine.Candidate {
		t.Helper()
		dir := t.TempDir()
		paths := []string{"teams/central", "teams/payments", filepath.Join(dir, "search")}
		if err := os.CopyFS(paths[2], os.DirFS("teams/search")); err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			path := filepath.Join(paths[2], filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return load(t, paths...)
	}
	const index = "index.search.example"
	for _, test := range []struct {
		name  string
		file  string // in the search team's bundle
		text  string
		facts *policy.Facts
		want  policy.Verdict
	}{
		{"nothing is changed", "teams/search/README.md", "", asTeam("search", index), policy.Allowed},
		{"a conflict, for its own", "x.rego", "package teams.search\ndomains[name] := 1 if data.teams.search.indexes[name]", asTeam("search", index), policy.Fault},
		{"a conflict, for others", "x.rego", "package teams.search\ndomains[name] := 1 if data.teams.search.indexes[name]", asTeam("payments", "api.payments.example"), policy.Allowed},
		{"an error, for its own", "x.rego", "package teams.search\ndomains[name] := 1 / 0 if name := \"" + index + "\"", asTeam("search", index), policy.Fault},
		{"an error, for others", "x.rego", "package teams.search\ndomains[name] := 1 / 0 if name := \"" + index + "\"", asTeam("payments", "api.payments.example"), policy.Allowed},
		{"more for itself", "x.rego", "package teams.search\ndomains[\"more.example\"] := {\"ports\": [443]}", asTeam("search", "more.example"), policy.Allowed},
		{"the guard rails", "x.rego", "package teams.search\ndomains[\"paste.example\"] := {\"ports\": [443]}", asTeam("search", "paste.example"), policy.Denied},
		{"not for others", "x.rego", "package teams.search\ndomains[\"more.example\"] := {\"ports\": [443]}", asTeam("payments", "more.example"), policy.Denied},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := withRoots(t, teamRoots())
			activate(t, e, change(t, map[string]string{test.file: test.text}))
			if d := e.Decide(t.Context(), policy.Route, test.facts); d.Verdict != test.want {
				t.Errorf("%v, reasons %q, error %v; want %v", d.Verdict, d.Reasons(), d.Err, test.want)
			}
		})
	}

	for _, test := range []struct {
		name  string
		roots map[string][]string
		files map[string]string
		want  string
	}{
		{"another's data", teamRoots(), map[string]string{"users/data.yaml": "mallory: {}"}, "data.users is outside the roots of the bundle search"},
		{"a stage", teamRoots(), map[string]string{"x.rego": "package sallyport.admit\nallow := true"}, "package sallyport.admit is outside the roots"},
		{"another root", teamRoots(), map[string]string{".manifest": `{"roots": ["teams/search", "sallyport/admit"]}`}, `claims the root "sallyport/admit", which policy.roots does not give it`},
		{"every root", teamRoots(), map[string]string{".manifest": `{}`}, `claims the root "", which policy.roots does not give it`},
		{"no policy.roots", nil, nil, "policy.roots gives no root to the bundle search"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, problems := withRoots(t, test.roots).Compile(change(t, test.files))
			if s != nil || !strings.Contains(fmt.Sprint(problems), test.want) {
				t.Errorf("%v; want %q", problems, test.want)
			}
		})
	}
}

// A decision costs the same however much data there is: what it allocates is
// counted, which no busy machine disturbs.
func TestDecisionsStayFlat(t *testing.T) {
	fill := func(n int, key string, value any, path ...string) engine.Document {
		object := make(map[string]any, n)
		for i := range n {
			object[fmt.Sprintf(key, i)] = value
		}
		d := engine.Document{Path: "many.json", Value: object}
		for _, name := range slices.Backward(path) {
			d.Value = map[string]any{name: d.Value}
		}
		return d
	}
	const domain, network = "n%d.flat.example", "2001:db8:%x::/48"
	asked := func(who policy.Identity) *policy.Facts {
		return &policy.Facts{
			Identity: who, Request: policy.Request{Command: "connect"},
			Target: policy.TargetName("www.n3.flat.example", 443), Address: policy.AddressOf(netip.MustParseAddr("2001:db8:3::7")),
		}
	}
	allow := map[string]any{"action": "allow"}
	for _, test := range []struct {
		name  string
		paths []string
		many  func(n int) []engine.Document
		facts *policy.Facts
		stage policy.Stage
	}{
		{"rules", []string{"rules"}, func(n int) []engine.Document {
			return []engine.Document{fill(n, domain, allow, "rules", "domains")}
		}, asked(policy.Identity{Name: "pat"}), policy.Route},
		{"rules", []string{"rules"}, func(n int) []engine.Document {
			return []engine.Document{fill(n, network, allow, "rules", "networks"), fill(n, network, "here", "rules", "internal")}
		}, asked(policy.Identity{Name: "pat"}), policy.Dial},
		{"office", []string{"office"}, func(n int) []engine.Document {
			return []engine.Document{fill(n, domain, "work", "office", "groups", "engineering", "domains")}
		}, asked(policy.Identity{Name: "ben", Groups: []string{"engineering"}}), policy.Route},
		{"geofence", []string{"geofence"}, func(n int) []engine.Document {
			return []engine.Document{fill(n, network, "here", "geofence", "internal", "targets")}
		}, asked(policy.Identity{}), policy.Dial},
		{"teams, by data", []string{"teams/central", "teams/payments"}, func(n int) []engine.Document {
			return []engine.Document{fill(n, domain, map[string]any{"ports": []any{json.Number("443")}}, "teams", "payments", "domains")}
		}, asked(policy.Identity{Name: "till", Attributes: policy.Attributes{"team": "payments"}}), policy.Route},
		{"teams, by rules", []string{"teams/central", "teams/search"}, func(n int) []engine.Document {
			return []engine.Document{fill(n, domain, "the index", "teams", "search", "indexes")}
		}, asked(policy.Identity{Name: "crawler", Attributes: policy.Attributes{"team": "search"}}), policy.Route},
	} {
		t.Run(test.name+", "+string(test.stage), func(t *testing.T) {
			allocations := func(n int) float64 {
				e, err := engine.New(engine.Options{Roots: teamRoots(), MemoSize: -1})
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				c := load(t, test.paths...)
				c.Bundles = nil // as if they were files, so that no root is asked for
				for i := range c.Modules {
					c.Modules[i].Bundle = ""
				}
				for i := range c.Documents {
					c.Documents[i].Bundle = ""
				}
				c.Documents = append(c.Documents, test.many(n)...)
				s, problems := e.Compile(c)
				if problems.Fatal() {
					t.Fatal(problems)
				}
				e.Activate(s)
				return testing.AllocsPerRun(5, func() {
					if d := e.Decide(t.Context(), test.stage, test.facts); !d.Allowed() {
						t.Fatal(d.Verdict, d.Reasons(), d.Err)
					}
				})
			}
			few, many := allocations(10), allocations(10_000)
			t.Logf("%.0f allocations with 10 entries, %.0f with 10,000", few, many)
			if many > few*1.1+5 {
				t.Errorf("%.0f allocations with 10 entries, %.0f with 10,000", few, many)
			}
		})
	}
}
