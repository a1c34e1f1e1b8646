package bundles_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"sallyport/bundles"
	"sallyport/policy"
	"sallyport/policy/distribute"
	"sallyport/policy/engine"
)

func newEngine(t *testing.T) *engine.Engine {
	t.Helper()
	e, err := engine.New(engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func load(t *testing.T, paths ...string) *engine.Candidate {
	t.Helper()
	c, err := distribute.Load(paths, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// activate refuses even what is only warned of.
func activate(t *testing.T, e *engine.Engine, c *engine.Candidate) *engine.Snapshot {
	t.Helper()
	s, problems := e.Compile(c)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	e.Activate(s)
	return s
}

func TestDefaultAnswersEveryStage(t *testing.T) {
	var want []string
	for _, stage := range policy.Stages() {
		if stage != policy.Inspect {
			want = append(want, "bundles/default/"+string(stage)+".rego")
		}
	}
	var got []string
	for _, f := range bundles.Default() {
		got = append(got, f.Path)
		if len(f.Text) == 0 {
			t.Errorf("%s is empty", f.Path)
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the default policy is %v, want %v", got, want)
	}
	s := activate(t, newEngine(t), &engine.Candidate{Revision: "default"})
	for _, stage := range policy.Stages() {
		if s.Defines(stage) != (stage != policy.Inspect) {
			t.Errorf("%s is answered: %v", stage, s.Defines(stage))
		}
	}
}

// The Rego tests, with built-in errors as strict as they are in the proxy.
func TestRego(t *testing.T) {
	for _, x := range append(examples(), example{name: "default"}) {
		t.Run(x.name, func(t *testing.T) {
			c := load(t, x.paths()...)
			modules := map[string]*ast.Module{}
			for _, m := range c.Modules {
				parsed, err := ast.ParseModule(m.Path, string(m.Text))
				if err != nil {
					t.Fatal(err)
				}
				modules[m.Path] = parsed
			}
			store := inmem.New()
			// Several documents may write below one key: the snapshot has them merged.
			s, problems := withRoots(t, x.roots).Compile(c)
			if problems.Fatal() {
				t.Fatal(problems)
			}
			for _, d := range c.Documents {
				for key := range d.Value {
					if err := storage.WriteOne(t.Context(), store, storage.AddOp, storage.Path{key}, s.Data(key)); err != nil {
						t.Fatal(err)
					}
				}
			}
			txn, err := store.NewTransaction(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer store.Abort(t.Context(), txn)
			results, err := tester.NewRunner().
				SetModules(modules).SetStore(store).RaiseBuiltinErrors(true).CapturePrintOutput(true).
				RunTests(t.Context(), txn)
			if err != nil {
				t.Fatal(err)
			}
			passed := 0
			for r := range results {
				if !r.Pass() {
					t.Errorf("%s: %s.%s: failed, error %v", r.Location, r.Package, r.Name, r.Error)
				}
				passed++
			}
			if passed == 0 {
				t.Error("no tests")
			}
		})
	}
}

// What the default policy says to facts that the proxy itself has gathered.
func TestDefaultDecides(t *testing.T) {
	client := func(address string) policy.Facts {
		return policy.Facts{Source: policy.SourceOf(netip.AddrPortFrom(netip.MustParseAddr(address), 4000))}
	}
	anonymous := func(address string) policy.Facts {
		f := client(address)
		f.Credentials.Method = string(policy.MethodNone)
		return f
	}
	asked := func(command string, port uint16) policy.Facts {
		f := client("192.0.2.7")
		f.Request.Command, f.Target = command, policy.TargetName("example.com", port)
		return f
	}
	dialled := func(address string) policy.Facts {
		f := asked("connect", 443)
		f.Address = policy.AddressOf(netip.MustParseAddr(address))
		return f
	}
	verified := anonymous("198.51.100.7")
	verified.Credentials = policy.Credentials{Method: "password", Known: true, Verified: true}
	wrong := anonymous("127.0.0.1")
	wrong.Credentials = policy.Credentials{Method: "password", Known: true}
	call := func(method, address string, path ...string) policy.Facts {
		return policy.Facts{API: policy.API{
			Method: method, Path: path, Source: policy.APISourceOf(netip.AddrPortFrom(netip.MustParseAddr(address), 4000)),
		}}
	}
	byToken := call("DELETE", "192.0.2.7", "v1", "sessions")
	byToken.API.Token = policy.APIToken{Name: "ops"}

	settings := map[string]any{
		"anonymous_from": []any{"10.1.0.0/16", "fd00::/8"}, "allow_ports": []any{22}, "allow_private": []any{"10.1.0.0/16"},
	}

	for _, test := range []struct {
		name     string
		settings map[string]any
		stage    policy.Stage
		facts    policy.Facts
		want     policy.Verdict
		reason   string // part of it
	}{
		{"anybody connects", nil, policy.Admit, client("203.0.113.9"), policy.Allowed, ""},
		{"verified", nil, policy.Authenticate, verified, policy.Allowed, ""},
		{"a wrong password from loopback", nil, policy.Authenticate, wrong, policy.Denied, "the password is wrong"},
		{"anonymous from loopback", nil, policy.Authenticate, anonymous("127.8.0.1"), policy.Allowed, ""},
		{"anonymous from mapped loopback", nil, policy.Authenticate, anonymous("::ffff:127.0.0.1"), policy.Allowed, ""},
		{"anonymous from elsewhere", nil, policy.Authenticate, anonymous("10.1.2.3"), policy.Denied, "10.1.2.3"},
		{"anonymous from a network of the settings", settings, policy.Authenticate, anonymous("10.1.2.3"), policy.Allowed, ""},
		{"anonymous from an IPv6 network of the settings", settings, policy.Authenticate, anonymous("fd12::1"), policy.Allowed, ""},
		{"anonymous from another network", settings, policy.Authenticate, anonymous("10.2.2.3"), policy.Denied, "anonymous_from"},
		{"anonymous without an address", settings, policy.Authenticate, policy.Facts{Credentials: policy.Credentials{Method: "none"}}, policy.Denied, "no credentials"},
		{"to the web", nil, policy.Route, asked("connect", 443), policy.Allowed, ""},
		{"to mail", nil, policy.Route, asked("connect", 25), policy.Denied, "port 25"},
		{"to a port of the settings", settings, policy.Route, asked("connect", 22), policy.Allowed, ""},
		{"not to be connected to", nil, policy.Route, asked("bind", 443), policy.Denied, "command bind"},
		{"a public address", nil, policy.Dial, dialled("1.1.1.1"), policy.Allowed, ""},
		{"a private address", nil, policy.Dial, dialled("10.1.2.3"), policy.Denied, "private"},
		{"the metadata service", nil, policy.Dial, dialled("169.254.169.254"), policy.Denied, "metadata"},
		{"a private address of the settings", settings, policy.Dial, dialled("10.1.2.3"), policy.Allowed, ""},
		{"one that embeds it", settings, policy.Dial, dialled("64:ff9b::10.1.2.3"), policy.Denied, "64:ff9b::a01:203"},
		{"a token", nil, policy.Manage, byToken, policy.Allowed, ""},
		{"a stranger", nil, policy.Manage, call("GET", "127.0.0.1", "v1", "sessions"), policy.Denied, "neither a valid token"},
		{"metrics from loopback", nil, policy.Manage, call("GET", "::1", "metrics"), policy.Allowed, ""},
		{"metrics from elsewhere", nil, policy.Manage, call("GET", "10.0.0.1", "metrics"), policy.Denied, "neither"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEngine(t)
			c := &engine.Candidate{Revision: "default"}
			if test.settings != nil {
				c.Documents = []engine.Document{{Path: "settings.json", Value: map[string]any{"settings": test.settings}}}
			}
			activate(t, e, c)
			d := e.Decide(t.Context(), test.stage, &test.facts)
			if d.Verdict != test.want || !strings.Contains(strings.Join(d.Reasons(), "\n"), test.reason) {
				t.Errorf("%v, reasons %q, error %v; want %v, %q", d.Verdict, d.Reasons(), d.Err, test.want, test.reason)
			}
			if test.want == policy.Allowed && len(d.Reasons()) > 0 {
				t.Errorf("allowed, with the reasons %q", d.Reasons())
			}
		})
	}
}
