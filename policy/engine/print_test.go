package engine

import (
	"strings"
	"sync"
	"testing"

	"sallyport/policy"
)

// printer collects what rules print.
type printer struct {
	mu    sync.Mutex
	lines []Printed
}

func (p *printer) take(line *Printed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, *line)
}

const secretToken = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"

func presentedFacts() *policy.Facts {
	f := egressFacts()
	f.Credentials = policy.Credentials{Method: "password", Username: "alice", Token: secretToken}
	return f
}

func TestPrint(t *testing.T) {
	users := map[string]any{"users": map[string]any{"alice": map[string]any{"password": "$argon2id$hash", "groups": []any{"dev"}}}}
	for _, c := range []struct {
		name, policy string
		stage        policy.Stage
		want         []string // texts; "-" stands for one that is withheld
	}{
		{"a fact that is read for nothing else", `package sallyport.route
allow if { print("port", input.target.port); true }`, policy.Route, []string{"port 443"}},
		{"all facts", `package sallyport.route
allow if { print(input); true }`, policy.Route, []string{`"name": "blue"`}},
		{"what is undefined", `package sallyport.route
allow if { print(data.nothing.here); true }`, policy.Route, []string{"<undefined>"}},
		{"each turn of a loop", `package sallyport.route
allow if { some x in [1, 2]; print("x", x); x == 2 }`, policy.Route, []string{"x 1", "x 2"}},
		{"by a helper", `package sallyport.route
allow if _ok
_ok if { print("in the helper"); true }`, policy.Route, []string{"in the helper"}},
		{"all facts of a stage that has a secret one, which is not gathered for it", `package sallyport.authenticate
allow if { print(input); true }`, policy.Authenticate, []string{`"username": "alice"`}},
		{"a secret that nothing else reads", `package sallyport.authenticate
allow if { print("token", input.credentials.token); true }`, policy.Authenticate, []string{"token <undefined>"}},
		{"by way of a helper that only print asks", `package sallyport.authenticate
allow if { print("token", _token); true }
_token := upper(input.credentials.token)`, policy.Authenticate, []string{"token <undefined>"}},
		{"a secret that is read", `package sallyport.authenticate
allow if { t := input.credentials.token; print("token", t); true }`, policy.Authenticate, []string{"-"}},
		{"beside a secret that is read", `package sallyport.authenticate
allow if { print("user", input.credentials.username); io.jwt.decode(input.credentials.token)[1].sub == "alice" }`, policy.Authenticate, []string{"-"}},
		{"the users with their hashes", `package sallyport.route
allow if { print(data.users); true }`, policy.Route, []string{"-"}},
		{"a user with its hash", `package sallyport.route
allow if { u := data["users"].alice; print("user", u); true }`, policy.Route, []string{"-"}},
		{"a user's groups", `package sallyport.route
allow if { print(data.users.alice.groups); true }`, policy.Route, []string{`["dev"]`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p printer
			e := decider(t, Options{Print: p.take}, users, c.policy)
			facts := presentedFacts()
			for range 2 { // nothing is remembered: each decision prints
				p.lines = nil
				if d := e.Decide(t.Context(), c.stage, facts); !d.Allowed() || d.Memoised {
					t.Fatalf("%v, %v; memoised: %v", d.Verdict, d.Err, d.Memoised)
				}
				if len(p.lines) != len(c.want) {
					t.Fatalf("printed %+v, want %q", p.lines, c.want)
				}
				for i, line := range p.lines {
					if c.want[i] == "-" && (!line.Withheld || line.Text != "") || c.want[i] != "-" && !strings.Contains(line.Text, c.want[i]) {
						t.Errorf("printed %+v, want %q", line, c.want[i])
					}
					if strings.Contains(line.Text, secretToken) || strings.Contains(line.Text, strings.ToUpper(secretToken)) {
						t.Errorf("the token is printed: %s", line.Text)
					}
					if line.File != "m0.rego" || line.Line < 2 || line.Stage != c.stage || line.Session != facts.Session.ID {
						t.Errorf("printed by %+v", line)
					}
				}
			}
		})
	}
}

func TestPrintIsBounded(t *testing.T) {
	var p printer
	e := decider(t, Options{Print: p.take}, nil, `package sallyport.route
allow if { print(sprintf("%05000d", [1])); true }`)
	e.Decide(t.Context(), policy.Route, egressFacts())
	if len(p.lines) != 1 || len(p.lines[0].Text) > maxPrinted+len("…") {
		t.Errorf("printed %d bytes", len(p.lines[0].Text))
	}
}

// TestPrintCostsNothingElsewhere: a policy without print is remembered, and
// one whose prints nobody hears decides the same.
func TestPrintCostsNothingElsewhere(t *testing.T) {
	e := decider(t, Options{}, nil, `package sallyport.route
allow if { print("x"); true }`, `package sallyport.dial
allow if input.address.scope == "public"`)
	facts := egressFacts()
	if d := e.Decide(t.Context(), policy.Route, facts); !d.Allowed() {
		t.Error(d.Err)
	}
	e.Decide(t.Context(), policy.Dial, facts)
	if d := e.Decide(t.Context(), policy.Dial, facts); !d.Memoised {
		t.Error("a stage that does not print is not remembered")
	}
}

func TestJudgePrint(t *testing.T) {
	for _, c := range []judgeCase{
		{name: "facts that are only printed are spelt right, too", files: route("allow := true if { print(input.identity.nmae); true }"),
			want: []string{"route.rego:2:26: input.identity.nmae is not a fact of sallyport.route: did you mean input.identity.name?"}},
		{name: "what reaches out does so when printed", files: route(`allow := true if { print(http.send({"url": "http://x"})); true }`),
			want: []string{"route.rego:2:26: http.send reaches out of the policy or reveals the process: it is refused unless policy.capabilities names it"}},
		{name: "variables that do not exist", files: route("allow := true if { print(x); true }"),
			want: []string{"route.rego:2:26: var x is undeclared"}},
		{name: "print(input) is fine", files: route("allow := true if { print(input); true }")},
		{name: "data that is only printed", files: route("allow := true if { print(data.nothing); true }"),
			want: []string{"route.rego:2:26: warning: nothing defines data.nothing"}},
	} {
		t.Run(c.name, c.run)
	}
}
