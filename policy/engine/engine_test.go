package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"go.opentelemetry.io/otel/trace"

	"sallyport/policy"
)

// engineWith starts an engine that ends with the test.
func engineWith(t testing.TB, o Options) *Engine {
	t.Helper()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// compiled is the snapshot of some modules and data.
func compiled(t testing.TB, e *Engine, data map[string]any, modules ...string) *Snapshot {
	t.Helper()
	c := &Candidate{Revision: "r1"}
	for i, text := range modules {
		c.Modules = append(c.Modules, Module{Path: fmt.Sprintf("m%d.rego", i), Text: []byte(text)})
	}
	if data != nil {
		c.Documents = []Document{{Path: "data.json", Value: data}}
	}
	s, problems := e.Compile(c)
	if s == nil {
		t.Fatalf("compiling: %v\n%s", problems, strings.Join(modules, "\n"))
	}
	return s
}

// decider is an engine with one policy active. It is patient, since the
// machine that tests run on may be busy.
func decider(t testing.TB, o Options, data map[string]any, modules ...string) *Engine {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	e := engineWith(t, o)
	e.Activate(compiled(t, e, data, modules...))
	return e
}

func mustFault(t *testing.T, d policy.Decision, says string) {
	t.Helper()
	if d.Verdict != policy.Fault || d.Allowed() {
		t.Fatalf("verdict %v, want a fault (%v)", d.Verdict, d.Err)
	}
	if d.Err == nil || !strings.Contains(d.Err.Error(), says) {
		t.Fatalf("the fault says %q, want %q in it", d.Err, says)
	}
	if d.Allow || d.ID == "" {
		t.Fatalf("a fault with allow %v and id %q", d.Allow, d.ID)
	}
}

func TestEveryStageFaultsUntilOneIsActive(t *testing.T) {
	e := engineWith(t, Options{})
	for _, stage := range policy.Stages() {
		mustFault(t, e.Decide(t.Context(), stage, &policy.Facts{}), "no policy is active")
	}
	if e.Active() != nil {
		t.Error("a policy is active")
	}
	s := compiled(t, e, nil, `package sallyport.route
allow if input.target.port == 443`)
	if !s.Activated().IsZero() {
		t.Error("activated before it was")
	}
	e.Activate(s)
	if e.Active() != s || s.Activated().IsZero() {
		t.Error("not active")
	}
	mustFault(t, e.Decide(t.Context(), policy.Inspect, &policy.Facts{}), "does not answer this stage")
	for _, stage := range []policy.Stage{policy.Admit, policy.Authenticate, policy.Route, policy.Dial, policy.Manage} {
		if d := e.Decide(t.Context(), stage, &policy.Facts{}); d.Verdict == policy.Fault || d.Stage != stage || d.Revision != "r1" {
			t.Errorf("%+v", d)
		}
	}
	e.Close()
	mustFault(t, e.Decide(t.Context(), policy.Route, egressFacts()), "closed")
}

func TestARefusedCandidateChangesNothing(t *testing.T) {
	e := decider(t, Options{}, nil, `package sallyport.route
allow := true`)
	s, problems := e.Compile(&Candidate{Modules: []Module{{Path: "a.rego", Text: []byte("package sallyport.route\nallow := ")}}})
	if s != nil || !problems.Fatal() {
		t.Fatal("accepted")
	}
	if d := e.Decide(t.Context(), policy.Route, &policy.Facts{}); !d.Allowed() {
		t.Error(d.Err)
	}
}

func TestIDs(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for range 1000 {
		id := newID()
		if !form.MatchString(id) || seen[id] {
			t.Fatalf("%q; seen before: %v", id, seen[id])
		}
		seen[id] = true
	}
}

// TestVerdicts is the contract's rule for a verdict, with values that no
// compiler can see through.
func TestVerdicts(t *testing.T) {
	const yes = "default allow := false\nallow if input.target.port == 443\n"
	for _, c := range []struct {
		name, rules string
		data        map[string]any
		want        policy.Verdict
		says        string // of a fault
	}{
		{name: "allow", rules: yes, want: policy.Allowed},
		{name: "allow by a constant", rules: "allow := true", want: policy.Allowed},
		{name: "not allowed", rules: "default allow := false\nallow if input.target.port == 80", want: policy.Denied},
		{name: "undefined", rules: "allow if input.target.port == 80", want: policy.Denied},
		{name: "no allow at all", rules: `deny contains "x" if input.target.port == 80`, want: policy.Denied},
		{name: "empty deny", rules: yes + `deny contains "x" if input.target.port == 80`, want: policy.Allowed},
		{name: "denied", rules: yes + `deny contains "x" if input.target.port == 443`, want: policy.Denied},
		{name: "denied by a set", rules: yes + `deny := {x | some x in data.x}`, data: map[string]any{"x": []any{"a"}}, want: policy.Denied},
		{name: "an empty set", rules: yes + `deny := {x | some x in data.x}`, data: map[string]any{"x": []any{}}, want: policy.Allowed},
		{name: "deny undefined", rules: yes + `deny := {"x"} if input.target.port == 80`, want: policy.Fault, says: "deny has a rule but is undefined"},
		{name: "deny with a wrong member", rules: yes + `deny contains x if some x in data.x`, data: map[string]any{"x": []any{json.Number("1")}}, want: policy.Fault, says: "deny: its members: want a string, got number"},
		{name: "deny is no set", rules: yes + `deny := data.x`, data: map[string]any{"x": []any{"a"}}, want: policy.Fault, says: "deny: want a set of strings, got array"},
		{name: "allow is text", rules: `allow := data.x`, data: map[string]any{"x": "true"}, want: policy.Fault, says: "allow: want a boolean, got string"},
		{name: "allow is a number", rules: `allow := data.x`, data: map[string]any{"x": json.Number("1")}, want: policy.Fault, says: "allow: want a boolean"},
		{name: "a conflict", rules: "allow if input.target.port == 443\nallow := false if input.target.host == \"a.example\"", want: policy.Fault, says: "eval_conflict_error"},
		{name: "a built-in's error", rules: yes + "deny contains \"x\" if to_number(input.target.host) == 1", want: policy.Fault, says: "m0.rego:4"},
		{name: "a built-in's error under not", rules: yes + "deny contains \"x\" if not net.cidr_contains(data.x, \"1.2.3.4\")", data: map[string]any{"x": "nope"}, want: policy.Fault, says: "m0.rego:4"},
		{name: "another field is wrong", rules: yes + "warn contains x if some x in data.x", data: map[string]any{"x": []any{true}}, want: policy.Fault, says: "warn: its members: want a string, got boolean"},
		{name: "another field is wrong and it would be denied", rules: "default allow := false\nlabels := data.x", data: map[string]any{"x": "y"}, want: policy.Fault, says: "labels: want an object of strings, got string"},
		{name: "an unknown key", rules: yes + "session_limits := data.x", data: map[string]any{"x": map[string]any{"byts": json.Number("1")}}, want: policy.Fault, says: `session_limits: it has no key "byts"`},
		{name: "a wrong key's value", rules: yes + "session_limits := data.x", data: map[string]any{"x": map[string]any{"idle": "5 minutes"}}, want: policy.Fault, says: `session_limits.idle: "5 minutes" is not a duration`},
		{name: "a helper's fault that no field reads", rules: yes + `_unused := to_number(input.target.host)`, want: policy.Allowed},
		{name: "optional fields undefined", rules: yes + "session_limits := {\"idle\": 5} if input.target.port == 80\nreason := \"x\" if input.target.port == 80", want: policy.Allowed},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := decider(t, Options{}, c.data, "package sallyport.route\n"+c.rules)
			facts := policy.Facts{Target: policy.TargetName("a.example", 443)}
			for range 2 { // a second time from the memo, were a fault to get there
				d := e.Decide(t.Context(), policy.Route, &facts)
				if d.Verdict != c.want {
					t.Fatalf("%v, want %v (%v)", d.Verdict, c.want, d.Err)
				}
				if c.want == policy.Fault {
					mustFault(t, d, c.says)
					mustFault(t, d, "sallyport.route: ")
					if d.Memoised {
						t.Fatal("a fault was remembered")
					}
				} else if d.Err != nil {
					t.Fatal(d.Err)
				}
			}
		})
	}
}

// TestWhatARefusalCarries: nothing that could be enforced by mistake.
func TestWhatARefusalCarries(t *testing.T) {
	e := decider(t, Options{}, nil, `package sallyport.route
allow := true
deny contains r if some r in {"b", "a"}
reason := "because"
warn contains "w"
explain := true
labels := {"team": "blue"}
redirect := {"host": "other.example", "port": 1}
session_limits := {"idle": "5s"}
source_address := "192.0.2.1"
`)
	d := e.Decide(t.Context(), policy.Route, &policy.Facts{})
	if !slices.Equal(d.Deny, policy.Set{"a", "b"}) || d.Reason[0] != "because" || d.Warn[0] != "w" || !d.Explain || d.Labels["team"] != "blue" {
		t.Errorf("%+v", d)
	}
	if d.Allow || d.Redirect != (policy.Redirect{}) || d.SessionLimits != (policy.SessionLimits{}) || d.SourceAddress.IsValid() {
		t.Errorf("a denial carries what an allowed request would be given: %+v", d)
	}
}

func TestAllowedCarriesEveryField(t *testing.T) {
	e := decider(t, Options{}, nil, `package sallyport.route
allow := true
redirect := {"host": "other.example", "port": 8443}
session_limits := {"idle": "5s", "duration": 90.5, "until": 1700000000000000000, "up": "1MiB/s", "down": 1000, "bytes": "1GB"}
source_address := "2001:db8::1"
reason contains "because"
`, `package sallyport.admit
allow := true
methods := ["password", "none"]
`, `package sallyport.authenticate
allow := true
identity := {"name": "x", "groups": {"b", "a"}, "attributes": {"n": [1, null, {"k": 1.5}]}}
`)
	d := e.Decide(t.Context(), policy.Route, &policy.Facts{})
	want := policy.SessionLimits{Idle: policy.Duration(5 * time.Second), Duration: policy.Duration(90500 * time.Millisecond),
		Until: 1700000000000000000, Up: 1 << 20, Down: 1000, Bytes: 1e9}
	if !d.Allowed() || d.Redirect != (policy.Redirect{Host: "other.example", Port: 8443}) || d.SessionLimits != want ||
		d.SourceAddress != netip.MustParseAddr("2001:db8::1") || d.Reason[0] != "because" {
		t.Errorf("%+v", d)
	}
	if d := e.Decide(t.Context(), policy.Admit, &policy.Facts{}); !slices.Equal(d.Methods, policy.Methods{"password", "none"}) {
		t.Errorf("%+v", d)
	}
	d = e.Decide(t.Context(), policy.Authenticate, &policy.Facts{})
	if *d.Identity.Name != "x" || !slices.Equal(*d.Identity.Groups, policy.Groups{"a", "b"}) ||
		fmt.Sprint(d.Identity.Attributes) != "map[n:[1 <nil> map[k:1.5]]]" {
		t.Errorf("%+v", d)
	}
}

// TestDeadline: an evaluation that goes on and on is a fault, and its
// evaluator comes back.
func TestDeadline(t *testing.T) {
	e := decider(t, Options{Timeout: 50 * time.Millisecond, Parallel: 1}, nil, `package sallyport.route
default allow := false
allow if {
	some i in numbers.range(1, 1000)
	some j in numbers.range(1, 1000)
	some k in numbers.range(1, 1000)
	i + j + k == input.target.port
	i == j + 1000
}`, `package sallyport.admit
allow := true`)
	facts := &policy.Facts{Target: policy.TargetName("a.example", 443)}
	d := e.Decide(t.Context(), policy.Route, facts)
	mustFault(t, d, "took longer than 50ms")
	if !errors.Is(d.Err, context.DeadlineExceeded) {
		t.Error(d.Err)
	}
	for d.Verdict != policy.Allowed { // ends with the test's own deadline, if it never comes back
		d = e.Decide(t.Context(), policy.Admit, facts)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the client has gone")
	cancel(gone)
	d = e.Decide(ctx, policy.Route, facts)
	mustFault(t, d, "the client has gone")
	if !errors.Is(d.Err, gone) {
		t.Error(d.Err)
	}
}

// TestAnswerAtTheDeadline: an answer counts that is there when the time is up.
func TestAnswerAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 64 { // either might be picked by chance
			j := &job{cancel: topdown.NewCancel(), deadline: time.NewTimer(time.Second), answer: &answered{}, done: make(chan struct{}, 1)}
			j.done <- struct{}{}
			time.Sleep(time.Second)
			if a, err := j.wait(t.Context(), time.Second); a != j.answer {
				t.Fatal(err)
			}
		}
	})
}

// TestNoEvaluatorFree: waiting for one ends, too.
func TestNoEvaluatorFree(t *testing.T) {
	s := compiled(t, engineWith(t, Options{}), nil, "package sallyport.route\nallow := true")
	e := &Engine{options: Options{Timeout: 10 * time.Millisecond}}
	e.start(0)
	defer e.Close()
	e.Activate(s)
	mustFault(t, e.Decide(t.Context(), policy.Route, &policy.Facts{}), "no evaluator was free within 10ms")
}

// TestPanic: a panic below us is a fault of one decision.
func TestPanic(t *testing.T) {
	e := decider(t, Options{Parallel: 1}, map[string]any{"x": "y"}, `package sallyport.route
allow if data.x == input.target.host`, "package sallyport.admit\nallow := true")
	e.Active().store = nil
	mustFault(t, e.Decide(t.Context(), policy.Route, &policy.Facts{}), "panicked")
	if d := e.Decide(t.Context(), policy.Admit, &policy.Facts{}); !d.Allowed() {
		t.Error(d.Err)
	}
}

// TestSwap: each decision is wholly of one snapshot, while others replace it.
func TestSwap(t *testing.T) {
	e := engineWith(t, Options{Timeout: time.Minute})
	var snapshots []*Snapshot
	for _, revision := range []string{"one", "two", "three"} {
		s, problems := e.Compile(&Candidate{
			Revision: revision,
			Modules: []Module{{Path: "a.rego", Text: []byte(`package sallyport.route
allow := true
labels := {"revision": data.revision, "host": input.target.host}`)}},
			Documents: []Document{{Path: "d.json", Value: map[string]any{"revision": revision}}},
		})
		if s == nil {
			t.Fatal(problems)
		}
		snapshots = append(snapshots, s)
	}
	e.Activate(snapshots[0])
	var wg sync.WaitGroup
	var stop atomic.Bool
	for g := range 4 {
		wg.Go(func() {
			for i := 0; i < 400; i++ {
				host := fmt.Sprintf("h%d.example", (i*7+g)%20)
				d := e.Decide(t.Context(), policy.Route, &policy.Facts{Target: policy.TargetName(host, 1)})
				if !d.Allowed() || d.Labels["revision"] != d.Revision || d.Labels["host"] != host {
					t.Errorf("%+v", d)
					return
				}
			}
		})
	}
	swaps := make(chan struct{})
	go func() {
		defer close(swaps)
		for i := 0; !stop.Load(); i++ {
			e.Activate(snapshots[i%len(snapshots)])
		}
	}()
	wg.Wait()
	stop.Store(true)
	<-swaps
}

// TestMemoHit: cheap, with an id of its own.
func TestMemoHit(t *testing.T) {
	e := decider(t, Options{}, egressData(10), egress)
	facts := egressFacts()
	first := e.Decide(t.Context(), policy.Route, facts)
	facts.Session.ID = "another" // which the policy does not read
	second := e.Decide(t.Context(), policy.Route, facts)
	if first.Memoised || !second.Memoised || first.ID == second.ID || !second.Allowed() {
		t.Errorf("%+v\n%+v", first, second)
	}
	facts.Identity.Open = 100
	if third := e.Decide(t.Context(), policy.Route, facts); third.Memoised || third.Allowed() {
		t.Errorf("%+v", third)
	}
	facts.Identity.Open = 3
	if n := testing.AllocsPerRun(1000, func() { e.Decide(t.Context(), policy.Route, facts) }); n > 3 {
		t.Errorf("a decision from the memo allocates %v times", n)
	}
}

// TestMemoTellsStagesApart: two stages may read the same facts.
func TestMemoTellsStagesApart(t *testing.T) {
	e := decider(t, Options{}, nil, "package sallyport.route\nallow if input.source.port == 1", "package sallyport.dial\nallow if input.source.port == 2")
	facts := &policy.Facts{Source: policy.Source{Port: 1}}
	for _, stage := range []policy.Stage{policy.Route, policy.Dial, policy.Route, policy.Dial} {
		if d := e.Decide(t.Context(), stage, facts); d.Stage != stage || d.Allowed() != (stage == policy.Route) {
			t.Errorf("%s: %+v", stage, d)
		}
	}
}

// TestImpureIsAskedAgain: what reads a clock is never remembered.
func TestImpureIsAskedAgain(t *testing.T) {
	e := decider(t, Options{}, nil, `package sallyport.route
allow if time.now_ns() > 0`)
	for range 3 {
		if d := e.Decide(t.Context(), policy.Route, egressFacts()); d.Memoised || !d.Allowed() {
			t.Errorf("%+v", d)
		}
	}
}

// An answer that can't be recorded is a fault, and says why.
func TestWhatIsNotRecordedIsAFault(t *testing.T) {
	full := errors.New("no room")
	var events []*Event
	e := decider(t, Options{Timeout: time.Minute, Record: func(e *Event) error {
		events = append(events, e)
		return full
	}}, nil, `package sallyport.route
allow if input.target.port == 443`)
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	for range 2 {
		d := e.Decide(trace.ContextWithSpanContext(t.Context(), span), policy.Route, egressFacts())
		last := events[len(events)-1]
		if d.Verdict != policy.Fault || !errors.Is(d.Err, full) || d.ID != last.Decision.ID || d.Revision != last.Decision.Revision || d.Stage != policy.Route || d.Allowed() {
			t.Errorf("%+v", d)
		}
		if last.Decision.Verdict != policy.Allowed || last.TraceID != span.TraceID() || last.SpanID != span.SpanID() {
			t.Errorf("recorded: %+v", last)
		}
	}
	full = nil
	if d := e.Decide(t.Context(), policy.Route, egressFacts()); !d.Allowed() || !d.Memoised {
		t.Errorf("%+v", d)
	}
}

// What a policy copies from a secret is not in the log.
func TestNoSecretInAResult(t *testing.T) {
	const hash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo"
	var events []*Event
	e := decider(t, Options{Record: func(e *Event) error { e.Complete(); events = append(events, e); return nil }},
		map[string]any{"users": map[string]any{"u": map[string]any{"password": hash}}}, `package sallyport.authenticate
default allow := false
reason contains sprintf("<%v>", [input.credentials.token])`, `package sallyport.route
default allow := false
reason contains data.users[input.identity.name].password`)
	facts := egressFacts()
	facts.Credentials.Token, facts.Identity.Name = "eyJh.eyJz.c2VjcmV0", "u"
	for range 2 {
		e.Decide(t.Context(), policy.Authenticate, facts)
		e.Decide(t.Context(), policy.Route, facts)
	}
	for i, event := range events {
		want := []string{`{"allow":false,"reason":["<[redacted]>"]}`, `{}`}[i%2]
		if string(event.Result) != want {
			t.Errorf("result %s, want %s", event.Result, want)
		}
	}
}

func TestRecord(t *testing.T) {
	var events []*Event
	e := engineWith(t, Options{Timeout: time.Minute, Record: func(e *Event) error { e.Complete(); events = append(events, e); return nil }})
	facts := egressFacts()
	facts.Credentials = policy.Credentials{Username: "u", Token: "eyJh.eyJz.c2VjcmV0"}
	facts.Request.Headers = map[string][]string{"user-agent": {"curl"}}
	e.Decide(t.Context(), policy.Route, facts) // a fault: none is active
	c := &Candidate{Revision: "r1", Bundles: []Bundle{{Name: "b", Revision: "7"}}, Modules: []Module{{Path: "a.rego", Text: []byte(`package sallyport.route
allow if input.identity.groups[_] == "dev"
labels := {"team": input.identity.name}
`)}, {Path: "b.rego", Text: []byte(`package sallyport.authenticate
allow if startswith(input.credentials.token, "eyJ")
`)}, {Path: "c.rego", Text: []byte(`package sallyport.dial
allow if time.now_ns() > 0
`)}}}
	s, problems := e.Compile(c)
	if s == nil {
		t.Fatal(problems)
	}
	e.Activate(s)
	d := e.Decide(t.Context(), policy.Route, facts)
	e.Decide(t.Context(), policy.Route, facts)
	if a := e.Decide(t.Context(), policy.Authenticate, facts); !a.Allowed() {
		t.Error(a.Err)
	}
	e.Decide(t.Context(), policy.Dial, facts)

	if len(events) != 5 {
		t.Fatalf("%d events", len(events))
	}
	none, fresh, again, authenticate, dial := events[0], events[1], events[2], events[3], events[4]
	if none.Decision.Verdict != policy.Fault || none.Result != nil || none.Session != "s1" {
		t.Errorf("%+v", none)
	}
	if fresh.Decision.ID != d.ID || fresh.Time.IsZero() || fresh.Bundles[0].Revision != "7" || fresh.Builtins != nil {
		t.Errorf("%+v", fresh)
	}
	if got, want := string(fresh.Result), `{"allow":true,"labels":{"team":"blue"}}`; got != want {
		t.Errorf("result %s, want %s", got, want)
	}
	if !again.Decision.Memoised || again.Decision.ID == d.ID || string(again.Result) != string(fresh.Result) || string(again.Input) != string(fresh.Input) {
		t.Errorf("%+v", again)
	}
	for _, event := range []*Event{none, fresh} {
		for _, path := range []string{"session.id", "source.ip", "source.port", "identity.name", "request.command", "target.host", "target.suffixes"} {
			if !holds(event.Input, path) {
				t.Errorf("the logged input lacks %s: %s", path, event.Input)
			}
		}
	}
	if !holds(fresh.Input, "identity.groups") || holds(fresh.Input, "request.headers") || holds(fresh.Input, "identity.attributes") {
		t.Errorf("logged: %s", fresh.Input)
	}
	if s := string(authenticate.Input); strings.Contains(s, "eyJ") || strings.Contains(s, "token") {
		t.Errorf("a secret in the log: %s", s)
	}
	if dial.Builtins == nil || !strings.Contains(string(dial.Builtins), "time.now_ns") {
		t.Errorf("built-ins: %s", dial.Builtins)
	}
}

func holds(input json.RawMessage, path string) bool {
	value, err := ast.ValueFromReader(bytes.NewReader(input))
	for name := range strings.SplitSeq(path, ".") {
		object, ok := value.(ast.Object)
		if err != nil || !ok {
			return false
		}
		term := object.Get(ast.StringTerm(name))
		if term == nil {
			return false
		}
		value = term.Value
	}
	return true
}

// TestSecretsStayOutOfFaults: OPA's messages quote values.
func TestSecretsStayOutOfFaults(t *testing.T) {
	const token = "eyJhbGciOi.eyJzdWIiOi.c2VjcmV0"
	for _, rules := range []string{
		`allow if units.parse(input.credentials.token) > 1`,
		`allow if to_number(split(input.credentials.token, ".")[2]) > 1`,
		"allow := true\nidentity := {input.credentials.token: 1}",
		"allow := true\nidentity := json.unmarshal(sprintf(`{\"name\": {%q: 1}}`, [input.credentials.token]))",
		"allow := true\nlabels := {input.credentials.token: data.seven}",
	} {
		e := decider(t, Options{}, map[string]any{"seven": json.Number("7")}, "package sallyport.authenticate\n"+rules)
		d := e.Decide(t.Context(), policy.Authenticate, &policy.Facts{Credentials: policy.Credentials{Token: token}})
		mustFault(t, d, "withheld")
		for part := range strings.SplitSeq(token, ".") {
			if strings.Contains(d.Err.Error(), part) {
				t.Errorf("%s: %v", rules, d.Err)
			}
		}
	}
}

func TestSnapshotTells(t *testing.T) {
	e := engineWith(t, Options{})
	s := compiled(t, e, map[string]any{
		"users": map[string]any{"a": map[string]any{"groups": []any{"x"}, "n": json.Number("1.0")}},
		"teams": map[string]any{"blue": true},
	}, `package sallyport.route
default allow := false
allow if lib.allowed
deny contains "x" if input.source.scope == "loopback"
`+"import data.sallyport.lib", `package sallyport.lib
allowed if data.teams[input.identity.name]
`)
	if s.Revision() != "r1" || !s.Defines(policy.Route) || !s.Defines(policy.Dial) || s.Defines(policy.Inspect) {
		t.Error("stages")
	}
	stages := s.Stages()
	if len(stages) != 5 || stages[0].Stage != policy.Admit || !stages[0].ByDefault || stages[2].Stage != policy.Route || stages[2].ByDefault ||
		!slices.Equal(stages[2].Fields, []string{"allow", "deny"}) {
		t.Errorf("%+v", stages)
	}
	if got := fmt.Sprintf("%#v", s.Data("users")); got != `map[string]interface {}{"a":map[string]interface {}{"groups":[]interface {}{"x"}, "n":"1.0"}}` {
		t.Error(got)
	}
	if s.Data("nobody") != nil || s.Data("users", "a", "groups", "x") != nil || s.Data("teams", "blue") != true {
		t.Error("data")
	}
	for path, want := range map[string]bool{
		"identity.name": true, "identity": true, "source.scope": true, "source.prefixes": false,
		"identity.groups": false, "target": false, "nothing": false, "session.id": false,
	} {
		if got := s.Reads(policy.Route, strings.Split(path, ".")...); got != want {
			t.Errorf("route reads %s: %v", path, got)
		}
	}
	if s.Reads(policy.Inspect, "source") {
		t.Error("inspect reads")
	}
}
