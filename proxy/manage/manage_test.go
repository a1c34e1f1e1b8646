package manage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/policy"
	"sallyport/proxy/guard"
	"sallyport/proxy/secret"
	"sallyport/proxy/session"
)

const (
	opsToken   = "ops-token-0123456789abcdef"
	viewToken  = "view-token-0123456789abcde"
	wrongToken = "wrong-token-0123456789abcd"
)

// decider answers with what its function says, and remembers what it was asked.
type decider struct {
	mu     sync.Mutex
	answer func(policy.API) policy.Decision
	asked  []policy.Facts
}

func (d *decider) Decide(_ context.Context, stage policy.Stage, facts *policy.Facts) policy.Decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, *facts)
	answer := d.answer(facts.API)
	answer.ID, answer.Stage = fmt.Sprint("decision-", len(d.asked)), stage
	return answer
}

func (d *decider) last(t *testing.T) policy.Facts {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.asked) == 0 {
		t.Fatal("the policy was not asked")
	}
	return d.asked[len(d.asked)-1]
}

func (d *decider) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.asked)
}

// byToken allows whoever has a valid token.
func byToken(api policy.API) policy.Decision {
	if api.Token.Name == "" {
		return policy.Decision{Deny: policy.Set{"no token"}}
	}
	return policy.Decision{Verdict: policy.Allowed, Allow: true}
}

func everyone(policy.API) policy.Decision {
	return policy.Decision{Verdict: policy.Allowed, Allow: true}
}

type observer struct{ stages chan policy.Stage }

func (o observer) Decided(_ context.Context, d *policy.Decision, _ time.Duration) {
	o.stages <- d.Stage
}

// output is a log that can be read while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

type bench struct {
	decider  *decider
	observer observer
	sessions *session.Table
	log      *output
	address  string
}

// start serves on a real listener until the test ends.
func start(t *testing.T, answer func(policy.API) policy.Decision, change ...func(*Options)) *bench {
	t.Helper()
	b := &bench{
		decider: &decider{answer: answer}, observer: observer{make(chan policy.Stage, 1000)},
		sessions: session.NewTable(10), log: &output{},
	}
	options := Options{
		Address: "gate.example.net:9080",
		Decide:  b.decider, Observe: b.observer, Sessions: b.sessions,
		Tokens: map[string]Token{
			"ops":   {Secret: secret.New(opsToken), Roles: []string{"admin"}},
			"view":  {Secret: secret.New(viewToken)},
			"unset": {},
		},
		Policy:    func() any { return map[string]string{"revision": "r9"} },
		Upstreams: func() any { return []string{"u7"} },
		Ready:     func() error { return nil },
		Reload:    func(context.Context, string) error { return nil },
		Metrics:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "up 1\n") }),
		Log:       slog.New(slog.NewJSONHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&options)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.address = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- New(options).Serve(ctx, l) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		stop()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
		for _, token := range []string{opsToken, viewToken, wrongToken} {
			if strings.Contains(b.log.String(), token) {
				t.Errorf("the log shows a token: %s", b.log)
			}
		}
	})
	return b
}

type answered struct {
	status int
	header http.Header
	body   string
}

// do makes one call. Headers are "Name: value"; Host is one of them.
func (b *bench) do(t *testing.T, method, path string, headers ...string) answered {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+b.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{opsToken, viewToken, wrongToken} {
		if strings.Contains(string(body)+fmt.Sprint(response.Header), token) {
			t.Errorf("%s %s shows a token", method, path)
		}
	}
	return answered{response.StatusCode, response.Header, string(body)}
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// raw sends bytes as they are and returns all that comes back.
func (b *bench) raw(t *testing.T, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", b.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.Status + " " + string(body)
}

func TestProbesNeedNoCredentials(t *testing.T) {
	var problem error
	b := start(t, byToken, func(o *Options) { o.Ready = func() error { return problem } })
	for _, path := range []string{"/livez", "/readyz"} {
		if got := b.do(t, "GET", path); got.status != 200 || got.body != "ok\n" {
			t.Errorf("%s: %d %q", path, got.status, got.body)
		}
		if got := b.do(t, "POST", path); got.status != 405 || got.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s: %d, Allow %q", path, got.status, got.header.Get("Allow"))
		}
	}
	problem = errors.New("the policy is not active yet")
	if got := b.do(t, "GET", "/readyz"); got.status != 503 || got.body != "the policy is not active yet\n" {
		t.Errorf("not ready: %d %q", got.status, got.body)
	}
	if got := b.do(t, "GET", "/livez"); got.status != 200 {
		t.Errorf("not ready, yet alive: %d", got.status)
	}
	if n := b.decider.count(); n != 0 {
		t.Errorf("the policy was asked %d times", n)
	}
}

func TestWhoIsTold(t *testing.T) {
	refuse := func(policy.API) policy.Decision { return policy.Decision{Deny: policy.Set{"hidden reason"}} }
	fault := func(policy.API) policy.Decision {
		return policy.Decision{Verdict: policy.Fault, Err: errors.New("hidden cause")}
	}
	unsure := func(policy.API) policy.Decision { return policy.Decision{Allow: true} } // the verdict counts alone
	for _, test := range []struct {
		name         string
		answer       func(policy.API) policy.Decision
		headers      []string
		status       int
		authenticate string
	}{
		{"no token", byToken, nil, 401, "Bearer"},
		{"wrong token", byToken, []string{bearer(wrongToken)}, 401, `Bearer error="invalid_token"`},
		{"part of a token", byToken, []string{bearer(opsToken[:16])}, 401, `Bearer error="invalid_token"`},
		{"longer than a token", byToken, []string{bearer(opsToken + "0")}, 401, `Bearer error="invalid_token"`},
		{"empty token", byToken, []string{"Authorization: Bearer "}, 401, `Bearer error="invalid_token"`},
		{"other scheme", byToken, []string{"Authorization: Basic " + opsToken}, 401, `Bearer error="invalid_token"`},
		{"two tokens", byToken, []string{bearer(opsToken), bearer(viewToken)}, 401, `Bearer error="invalid_token"`},
		{"valid token", byToken, []string{bearer(opsToken)}, 200, ""},
		{"scheme in another case", byToken, []string{"Authorization: bEARER  " + opsToken}, 200, ""},
		{"denied with a valid token", refuse, []string{bearer(opsToken)}, 403, ""},
		{"denied without", refuse, nil, 401, "Bearer"},
		{"fault with a valid token", fault, []string{bearer(opsToken)}, 503, ""},
		{"fault without", fault, nil, 503, ""},
		{"no verdict", unsure, []string{bearer(opsToken)}, 403, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := start(t, test.answer)
			got := b.do(t, "GET", "/v1/policy", test.headers...)
			if got.status != test.status || got.header.Get("WWW-Authenticate") != test.authenticate {
				t.Errorf("%d %q, want %d %q", got.status, got.header.Get("WWW-Authenticate"), test.status, test.authenticate)
			}
			if got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("Cache-Control") != "no-store" ||
				got.header.Get("Content-Type") != "application/json" {
				t.Errorf("headers %v", got.header)
			}
			if strings.Contains(got.body, "hidden") {
				t.Errorf("the caller is told %s", got.body)
			}
			if stage := <-b.observer.stages; stage != policy.Manage {
				t.Errorf("observed %q", stage)
			}
			if test.status == 200 {
				if got.body != `{"revision":"r9"}`+"\n" {
					t.Errorf("body %q", got.body)
				}
				return
			}
			var body map[string]string
			if err := json.Unmarshal([]byte(got.body), &body); err != nil || body["error"] == "" || body["decision_id"] != "decision-1" {
				t.Errorf("body %q: %v", got.body, err)
			}
		})
	}
}

func TestFactsOfACall(t *testing.T) {
	b := start(t, byToken)
	b.do(t, "PUT", "/v1/a%2Fb/c%20d/?x=1&x=2&y=", bearer(opsToken))
	facts := b.decider.last(t)
	api := facts.API
	if api.Method != "PUT" || !slices.Equal(api.Path, []string{"v1", "a/b", "c d", ""}) {
		t.Errorf("method %q, path %q", api.Method, api.Path)
	}
	if !slices.Equal(api.Query["x"], []string{"1", "2"}) || !slices.Equal(api.Query["y"], []string{""}) || len(api.Query) != 2 {
		t.Errorf("query %v", api.Query)
	}
	if api.Token.Name != "ops" || !slices.Equal(api.Token.Roles, []string{"admin"}) {
		t.Errorf("token %+v", api.Token)
	}
	if api.Source.IP.Text() != "127.0.0.1" || api.Source.Port == 0 || api.Source.Scope != policy.ScopeLoopback || !api.Source.Prefixes.IsValid() {
		t.Errorf("source %+v", api.Source)
	}
	if facts.Time == 0 || int64(facts.Time)%int64(time.Minute) != 0 {
		t.Errorf("time %d", facts.Time)
	}

	b.do(t, "GET", "/", bearer(wrongToken))
	if api := b.decider.last(t).API; len(api.Path) != 0 || api.Token.Name != "" || api.Token.Roles != nil {
		t.Errorf("root with a wrong token: %+v", api)
	}
}

func TestEveryOtherPathAsks(t *testing.T) {
	b := start(t, byToken)
	for i, path := range []string{
		"/metrics", "/", "/v1", "/v1/sessions", "/v1/sessions/", "/v1/sessions/x", "/v1/policy", "/v1/upstreams", "/v1/reload",
		"/nowhere", "/livez/", "//livez", "/livez/../v1/policy", "/%6Cive%7A/x", "/v1//policy", "/debug/pprof/",
	} {
		if got := b.do(t, "GET", path); got.status != 401 {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
		if n := b.decider.count(); n != i+1 {
			t.Fatalf("%s: asked %d times, want %d", path, n, i+1)
		}
	}
	for _, request := range []string{"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n"} {
		if got := b.raw(t, request); !strings.HasPrefix(got, "401 ") {
			t.Errorf("%q: %s", request, got)
		}
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	b := start(t, byToken)
	for _, test := range []struct {
		method, path, allow string
		status              int
	}{
		{"GET", "/nowhere", "", 404},
		{"GET", "/v1//policy", "", 404},
		{"GET", "/v1/policy/", "", 404},
		{"GET", "/v1/sessions/none", "", 404},
		{"DELETE", "/v1/sessions/none", "", 404},
		{"GET", "/v1/sessions/", "", 404},
		{"DELETE", "/v1/sessions/", "", 404}, // and not all of them
		{"DELETE", "/v1/policy", "GET, HEAD", 405},
		{"DELETE", "/v1/upstreams", "GET, HEAD", 405},
		{"GET", "/v1/upstreams", "", 200},
		{"POST", "/metrics", "GET, HEAD", 405},
		{"GET", "/v1/reload", "POST", 405},
		{"PUT", "/v1/sessions", "GET, HEAD, DELETE", 405},
		{"PATCH", "/v1/sessions/none", "GET, HEAD, DELETE", 405},
		{"GET", "/v1/policy?a=%zz", "", 400},
		{"HEAD", "/v1/policy", "", 200},
		{"GET", "/metrics", "", 200},
	} {
		got := b.do(t, test.method, test.path, bearer(opsToken))
		if got.status != test.status || got.header.Get("Allow") != test.allow {
			t.Errorf("%s %s: %d, Allow %q, want %d, %q", test.method, test.path, got.status, got.header.Get("Allow"), test.status, test.allow)
		}
	}
	if got := b.do(t, "GET", "/metrics", bearer(opsToken)); got.body != "up 1\n" {
		t.Errorf("metrics: %q", got.body)
	}
}

func TestSessionsAreListedAndCut(t *testing.T) {
	b := start(t, byToken)
	if got := b.do(t, "GET", "/v1/sessions", bearer(viewToken)); got.body != `{"sessions":[]}`+"\n" {
		t.Errorf("none: %s", got.body)
	}
	open := func() *session.Session {
		s, err := b.sessions.Open(t.Context(), "main", netip.MustParseAddrPort("192.0.2.1:5000"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, second, third := open(), open(), open()

	var list struct {
		Sessions []struct{ ID, Listener string }
	}
	got := b.do(t, "GET", "/v1/sessions", bearer(viewToken))
	if err := json.Unmarshal([]byte(got.body), &list); err != nil || len(list.Sessions) != 3 || list.Sessions[0].ID != first.ID || list.Sessions[0].Listener != "main" {
		t.Errorf("list: %s: %v", got.body, err)
	}
	got = b.do(t, "GET", "/v1/sessions/"+second.ID, bearer(viewToken))
	var one struct{ ID string }
	if err := json.Unmarshal([]byte(got.body), &one); err != nil || one.ID != second.ID {
		t.Errorf("one: %s: %v", got.body, err)
	}

	if got := b.do(t, "DELETE", "/v1/sessions/"+second.ID, bearer(opsToken)); got.status != 204 || got.body != "" {
		t.Errorf("cut: %d %q", got.status, got.body)
	}
	var cut session.ErrCut
	if err := context.Cause(second.Context()); !errors.As(err, &cut) || cut.Reason != "by the management API, token ops" {
		t.Errorf("cause %v", err)
	}
	if first.Context().Err() != nil || third.Context().Err() != nil {
		t.Error("others were cut as well")
	}
	second.Close()

	if got := b.do(t, "DELETE", "/v1/sessions", bearer(opsToken)); got.status != 200 || got.body != `{"cut":2}`+"\n" {
		t.Errorf("cut all: %d %s", got.status, got.body)
	}
	if first.Context().Err() == nil || third.Context().Err() == nil {
		t.Error("a session was left")
	}
}

func TestADeniedCallDoesNothing(t *testing.T) {
	reloaded := false
	b := start(t, byToken, func(o *Options) {
		o.Reload = func(context.Context, string) error { reloaded = true; return nil }
	})
	s, err := b.sessions.Open(t.Context(), "main", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	b.do(t, "DELETE", "/v1/sessions")
	b.do(t, "DELETE", "/v1/sessions/"+s.ID, bearer(wrongToken))
	b.do(t, "POST", "/v1/reload")
	if s.Context().Err() != nil || reloaded {
		t.Errorf("cut %v, reloaded %v", s.Context().Err(), reloaded)
	}
}

func TestReload(t *testing.T) {
	var problem error
	var by string
	b := start(t, byToken, func(o *Options) {
		o.Reload = func(_ context.Context, caller string) error { by = caller; return problem }
	})
	if got := b.do(t, "POST", "/v1/reload", bearer(opsToken)); got.status != 204 || by != "the management API, token ops" {
		t.Errorf("%d %s, by %s", got.status, got.body, by)
	}
	problem = errors.New("a.rego:3: did you mean deny?")
	if got := b.do(t, "POST", "/v1/reload", bearer(opsToken)); got.status != 422 || got.body != `{"error":"a.rego:3: did you mean deny?"}`+"\n" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestHostHeader(t *testing.T) {
	b := start(t, everyone)
	for _, test := range []struct {
		host string
		ok   bool
	}{
		{"127.0.0.1:9080", true}, {"10.1.2.3", true}, {"[::1]:9080", true}, {"[::1]", true}, {"localhost", true},
		{"LOCALHOST:80", true}, {"gate.example.net:9080", true}, {"Gate.Example.Net", true},
		{"evil.example", false}, {"evil.example:9080", false}, {"localhost.evil.example", false},
		{"127.0.0.1.nip.io", false}, {"127.0.0.1.", false}, {"0x7f.1", false}, {":9080", false},
		{"gate.example.net.evil.example", false},
	} {
		for _, path := range []string{"/v1/policy", "/livez"} {
			got := b.do(t, "GET", path, "Host: "+test.host)
			if want := map[bool]int{true: 200, false: 421}[test.ok]; got.status != want {
				t.Errorf("Host %q: %d, want %d", test.host, got.status, want)
			}
		}
	}
	if got := b.raw(t, "GET /livez HTTP/1.0\r\n\r\n"); !strings.HasPrefix(got, "200 ") {
		t.Errorf("a probe without Host: %s", got)
	}
}

// A parameter that a call does not know would be a mistake without a trace, or a
// call that does more than is meant.
func TestQueriesThatAreNotKnown(t *testing.T) {
	d, g := new(directory), guard.New(10)
	b := start(t, byToken, func(o *Options) { o.Users, o.Bans = d, g })
	for _, c := range []struct {
		method, path string
		says         string
	}{
		{"GET", "/v1/users?limt=2", `the query has after and limit, each once, and no \"limt\"`},
		{"HEAD", "/v1/users?limt=2", ""},
		{"GET", "/v1/users?limit=2&limit=3", `the query has after and limit, each once, and \"limit\" is there twice`},
		{"GET", "/v1/users?after=a&after=b", `the query has after and limit, each once, and \"after\" is there twice`},
		{"PUT", "/v1/users?existing=update", `this call takes no query, and so no \"existing\"`},
		{"GET", "/v1/users/ann?limit=1", `this call takes no query, and so no \"limit\"`},
		{"DELETE", "/v1/users/ann?match=t1", `this call takes no query, and so no \"match\"`},
		{"DELETE", "/v1/bans?of=192.0.2.1", `this call takes no query, and so no \"of\"`},
		{"DELETE", "/v1/sessions?identity=ann", `this call takes no query, and so no \"identity\"`},
		{"POST", "/v1/reload?x", `this call takes no query, and so no \"x\"`},
		{"GET", "/v1/usage?by=user&sinse=1h", `the query has by and since, each once, and no \"sinse\"`},
	} {
		want := `{"error":"` + c.says + `"}` + "\n"
		if c.says == "" {
			want = ""
		}
		if got := b.do(t, c.method, c.path, bearer(opsToken)); got.status != 400 || got.body != want {
			t.Errorf("%s %s: %d %s, want %s", c.method, c.path, got.status, got.body, want)
		}
	}
	if d.last() != "" {
		t.Errorf("written: %s", d.last())
	}
	// Who may not call is not told, and those that probe and scrape may say what they like.
	if got := b.do(t, "GET", "/v1/users?limt=2"); got.status != 401 {
		t.Errorf("without a token: %d", got.status)
	}
	for _, path := range []string{"/livez?x=1", "/metrics?name[]=up&name[]=go_info"} {
		if got := b.do(t, "GET", path, bearer(opsToken)); got.status != 200 {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
}

func TestOtherWebSites(t *testing.T) {
	b := start(t, everyone)
	for _, headers := range [][]string{
		{"Sec-Fetch-Site: cross-site"}, {"Sec-Fetch-Site: same-site"}, {"Origin: https://evil.example"}, {"Origin: null"},
	} {
		before := b.decider.count()
		for _, call := range [][2]string{{"DELETE", "/v1/sessions"}, {"POST", "/v1/reload"}} {
			if got := b.do(t, call[0], call[1], headers...); got.status != 403 {
				t.Errorf("%v %v: %d", call, headers, got.status)
			}
		}
		if b.decider.count() != before {
			t.Errorf("%v: the policy was asked", headers)
		}
		for _, method := range []string{"GET", "OPTIONS"} {
			got := b.do(t, method, "/v1/policy", append(headers, "Access-Control-Request-Method: DELETE")...)
			for name := range got.header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s %v: %s is sent", method, headers, name)
				}
			}
		}
	}
	if got := b.do(t, "DELETE", "/v1/sessions", "Origin: http://"+b.address, "Sec-Fetch-Site: same-origin"); got.status != 200 {
		t.Errorf("our own page: %d", got.status)
	}
}

func TestAPanicIsAnsweredWithoutItsStack(t *testing.T) {
	b := start(t, everyone, func(o *Options) {
		o.Policy = func() any { panic("secret detail") }
		o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "half an answer")
			panic("too late")
		})
	})
	got := b.do(t, "GET", "/v1/policy")
	if got.status != 500 || got.body != `{"error":"internal error"}`+"\n" {
		t.Errorf("%d %s", got.status, got.body)
	}
	if !strings.Contains(b.log.String(), "secret detail") || !strings.Contains(b.log.String(), "manage_test.go") {
		t.Errorf("the log is %s", b.log)
	}
	response, err := http.Get("http://" + b.address + "/metrics")
	if err == nil {
		if _, err := io.ReadAll(response.Body); err == nil {
			t.Error("half an answer looks whole")
		}
		response.Body.Close()
	}
	if got := b.do(t, "GET", "/livez"); got.status != 200 {
		t.Errorf("afterwards: %d", got.status)
	}
}

func TestAValueThatCannotBeEncodedIsAnError(t *testing.T) {
	b := start(t, everyone, func(o *Options) { o.Policy = func() any { return func() {} } })
	if got := b.do(t, "GET", "/v1/policy"); got.status != 500 || !strings.Contains(got.body, "internal error") {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	b := start(t, everyone)
	// The library allows 4 KiB beyond the bound.
	if got := b.raw(t, "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", 2*maxHeader)+"\r\n\r\n"); !strings.HasPrefix(got, "431 ") {
		t.Errorf("a long header: %.80s", got)
	}
	if got := b.raw(t, "GET /"+strings.Repeat("x", 2*maxHeader)+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); !strings.HasPrefix(got, "431 ") {
		t.Errorf("a long path: %.80s", got)
	}
}

func TestCallsAreLogged(t *testing.T) {
	b := start(t, byToken)
	hostile := "/x%0A%7B%22msg%22:%22forged%22%7D%0D" + strings.Repeat("y", 4<<10)
	b.do(t, "POST", hostile+"?password=hunter2hunter2", bearer(wrongToken))
	b.do(t, "GET", "/v1/policy", bearer(viewToken))
	http.DefaultClient.CloseIdleConnections()

	type entry struct {
		Level, Msg, Token, Verdict string
		Path                       string `json:"url.path"`
		Status                     int    `json:"http.response.status_code"`
		Client                     string `json:"client.address"`
		Decision                   string `json:"decision.manage"`
		Reasons                    []string
	}
	var entries []entry
	for line := range strings.Lines(b.log.String()) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		entries = append(entries, e)
	}
	if len(entries) != 2 {
		t.Fatalf("the log is %s", b.log)
	}
	if e := entries[0]; e.Level != "INFO" || e.Msg != "management call" || e.Status != 401 || e.Verdict != "deny" ||
		e.Client != "127.0.0.1" || e.Decision != "decision-1" || !slices.Equal(e.Reasons, []string{"no token"}) || len(e.Path) > 1100 {
		t.Errorf("the denied call: %+v", e)
	}
	if e := entries[1]; e.Level != "DEBUG" || e.Status != 200 || e.Token != "view" {
		t.Errorf("the allowed call: %+v", e)
	}
	if strings.Contains(b.log.String(), "hunter2") {
		t.Error("the log shows the query")
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := New(Options{Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l); err != nil {
		t.Errorf("Serve = %v", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("the listener is still open")
	}
}

func TestServeReportsAListenerThatFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := New(Options{Log: slog.New(slog.DiscardHandler)}).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v", err)
	}
}
