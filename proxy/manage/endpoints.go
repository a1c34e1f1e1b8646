package manage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"sallyport/proxy/session"
)

// endpoint is a path and what can be done there. Their table is the one declaration:
// what is served is found in it, and the description at /openapi.json is made of it.
type endpoint struct {
	path       string // without its last segment where that is a variable
	variable   string // the name of the last segment; empty: there is none
	about      string // what the variable is
	open       bool   // without credentials, and without asking the policy
	operations []operation
	do         func(s *Server, w http.ResponseWriter, r *http.Request, c *call, variable string)
}

// operation is what a method does there. HEAD goes with GET.
type operation struct {
	method string
	does   string
	takes  string      // an example of the body; empty: none
	gives  string      // an example of the answer; empty: 204 without one
	text   bool        // the answer is text
	query  []parameter // what it may have; of an answer in text it is not looked at
}

// parameter is one of the query.
type parameter struct{ name, about string }

// endpoints is the table.
func endpoints(o *Options) []endpoint {
	const (
		get, put, post, remove = http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete

		oneSession = `{"id": "0b1f…", "listener": "main", "state": "live", "source": "192.0.2.7:4711", "identity": "ann",
			"target": {"host": "example.com", "port": 443}, "bytes": {"up": 1, "down": 2}, "labels": {}, "decisions": {"route": "…"}}`
		oneBan = `{"of": "192.0.2.0/24", "since": "2026-01-02T03:04:05Z", "until": null, "cause": "…", "refused": 7}`
		setBan = `{"for": "1h", "reason": "scans"}`

		oneUser = `{"name": "bob", "source": "store", "algorithm": "argon2id", "groups": ["dev"], "attributes": {}, "disabled": false,
			"expires": null, "expired": false}`
		setUser = `{"password": "…", "groups": ["dev"], "expires": "2099-01-01T00:00:00Z"}`
	)
	table := []endpoint{
		{path: "/livez", open: true, do: (*Server).live, operations: []operation{{method: get, does: "Tell whether the server runs", text: true}}},
		{path: "/readyz", open: true, do: (*Server).ready, operations: []operation{{method: get, does: "Tell whether the server serves, or with 503 why not", text: true}}},
		{path: "/openapi.json", do: (*Server).openapi, operations: []operation{{method: get, does: "Describe the API", gives: `{"openapi": "3.1.0"}`}}},
		{path: "/v1/policy", do: (*Server).policy, operations: []operation{
			{method: get, does: "Show which policy is active", gives: `{"revision": "…", "activated": "2026-01-02T03:04:05Z", "stages": [{"stage": "route", "default": false, "fields": ["allow"]}]}`}}},
		{path: "/v1/upstreams", do: (*Server).upstreams, operations: []operation{
			{method: get, does: "Show the upstreams", gives: `{"upstreams": [{"name": "eu-1"}]}`}}},
		{path: "/v1/reload", do: (*Server).reload, operations: []operation{
			{method: post, does: "Read policy, databases and certificates again"}}},
		{path: "/v1/sessions", do: (*Server).sessions, operations: []operation{
			{method: get, does: "List the open sessions", gives: `{"sessions": [` + oneSession + `]}`},
			{method: remove, does: "Cut all open sessions", gives: `{"cut": 3}`}}},
		{path: "/v1/sessions", variable: "id", about: "a session's id", do: (*Server).session, operations: []operation{
			{method: get, does: "Show a session", gives: oneSession},
			{method: remove, does: "Cut a session"}}},
		{path: "/v1/usage", do: (*Server).usage, operations: []operation{
			{method: get, does: "Report what was used", gives: `{"by": "user", "since": "2026-01-02T03:00:00Z", "until": "2026-01-03T03:04:05Z", "rows": [], "other": {}, "total": {}}`,
				query: []parameter{{"by", "user, target, country, upstream or labels; it has to be there"}, {"since", "how long ago, such as 24h, which it is without"}}}}},
		{path: "/v1/bans", do: (*Server).bans, operations: []operation{
			{method: get, does: "List the bans in force", gives: `{"bans": [` + oneBan + `]}`},
			{method: put, does: "Set bans as they were listed", takes: `{"bans": [` + oneBan + `]}`, gives: `{"set": 2, "over": 1}`},
			{method: remove, does: "Lift all bans", gives: `{"lifted": 3}`}}},
		{path: "/v1/bans", variable: "of", about: "a prefix, identity:NAME, claimed:NAME or uid:NUMBER", do: (*Server).ban, operations: []operation{
			{method: get, does: "Show a ban", gives: oneBan},
			{method: put, does: "Set a ban, in the place of one that is in force", takes: setBan, gives: oneBan},
			{method: remove, does: "Lift a ban"}}},
		{path: "/v1/users", do: (*Server).users, operations: []operation{
			{method: get, does: "List the users by their names, 1000 at a time at most", gives: `{"users": [` + oneUser + `], "next": "cy"}`,
				query: []parameter{{"after", "list those behind this name, such as next has it"}, {"limit", "how many at most"}}},
			{method: put, does: "Write users, all or none", takes: `{"users": {"bob": ` + setUser + `}, "existing": "update"}`, gives: `{"written": 2}`}}},
		{path: "/v1/users", variable: "name", about: "a user's name", do: (*Server).user, operations: []operation{
			{method: get, does: "Show a user", gives: oneUser},
			{method: put, does: "Write a user", takes: setUser, gives: oneUser},
			{method: remove, does: "Remove a user"}}},
	}
	if o.Metrics != nil {
		table = append(table, endpoint{path: "/metrics", do: (*Server).metrics, operations: []operation{
			{method: get, does: "Give the metrics to Prometheus", text: true}}})
	}
	return table
}

// template is the path as OpenAPI writes it.
func (e *endpoint) template() string {
	if e.variable == "" {
		return e.path
	}
	return e.path + "/{" + e.variable + "}"
}

// is tells whether the segments of a path lead here, and what the variable stands for.
func (e *endpoint) is(path []string) (variable string, found bool) {
	if e.variable != "" {
		if len(path) == 0 {
			return "", false
		}
		path, variable = path[:len(path)-1], path[len(path)-1]
	}
	return variable, slices.Equal(path, strings.Split(e.path[1:], "/"))
}

// methods are those that are served here.
func (e *endpoint) methods() (names []string) {
	for _, o := range e.operations {
		names = append(names, o.method)
		if o.method == http.MethodGet {
			names = append(names, http.MethodHead)
		}
	}
	return names
}

// refuses tells what is wrong with a call's query: a parameter that is not known
// here, or is there twice, is a mistake by which the call would do something else
// than is meant, such as cut all sessions and not those of one user.
func (e *endpoint) refuses(method string, query map[string][]string) error {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	at := slices.IndexFunc(e.operations, func(o operation) bool { return o.method == method })
	if o := &e.operations[at]; !o.text {
		return o.refuses(query)
	}
	return nil // who scrapes or probes may say more than we know
}

func (o *operation) refuses(query map[string][]string) error {
	var known []string
	for _, p := range o.query {
		known = append(known, p.name)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case len(known) == 0:
			return fmt.Errorf("this call takes no query, and so no %q", clip(name))
		case !slices.Contains(known, name):
			return fmt.Errorf("the query has %s, each once, and no %q", strings.Join(known, " and "), clip(name))
		case len(query[name]) > 1:
			return fmt.Errorf("the query has %s, each once, and %q is there twice", strings.Join(known, " and "), name)
		}
	}
	return nil
}

// find is the endpoint that a path leads to; nil: there is none.
func (s *Server) find(path []string) (e *endpoint, variable string) {
	for i := range s.endpoints {
		if variable, found := s.endpoints[i].is(path); found {
			return &s.endpoints[i], variable
		}
	}
	return nil, ""
}

// answer does what an allowed call asks for.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, c *call, e *endpoint, variable string) {
	switch {
	case e == nil:
		problem(w, http.StatusNotFound, "there is nothing at this path", "")
	case methods(w, r, e.methods()...):
		if err := e.refuses(r.Method, c.facts.Query); err != nil {
			problem(w, http.StatusBadRequest, err.Error(), "")
			return
		}
		e.do(s, w, r, c, variable)
	}
}

func (s *Server) live(w http.ResponseWriter, _ *http.Request, _ *call, _ string) { probed(w, nil) }

func (s *Server) ready(w http.ResponseWriter, _ *http.Request, _ *call, _ string) {
	probed(w, s.options.Ready())
}

// probed answers "ok", or with 503 why not.
func probed(w http.ResponseWriter, problem error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok"
	if problem != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = problem.Error()
	}
	_, _ = io.WriteString(w, text+"\n")
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request, _ *call, _ string) {
	s.options.Metrics.ServeHTTP(w, r)
}

func (s *Server) policy(w http.ResponseWriter, _ *http.Request, _ *call, _ string) {
	reply(w, http.StatusOK, s.options.Policy())
}

func (s *Server) upstreams(w http.ResponseWriter, _ *http.Request, _ *call, _ string) {
	reply(w, http.StatusOK, map[string]any{"upstreams": s.options.Upstreams()})
}

// sessions lists the open sessions, or cuts them all and says how many it were.
func (s *Server) sessions(w http.ResponseWriter, r *http.Request, c *call, _ string) {
	open := s.options.Sessions.List()
	if r.Method != http.MethodDelete {
		reply(w, http.StatusOK, map[string]any{"sessions": open})
		return
	}
	count := 0
	for _, one := range open {
		if s.options.Sessions.Cut(one.ID, c.cut()) {
			count++
		}
	}
	reply(w, http.StatusOK, map[string]any{"cut": count})
}

// session shows one session, or cuts it.
func (s *Server) session(w http.ResponseWriter, r *http.Request, c *call, id string) {
	if r.Method == http.MethodDelete {
		if s.options.Sessions.Cut(id, c.cut()) {
			w.WriteHeader(http.StatusNoContent)
			return
		}
	} else if one, ok := s.options.Sessions.Get(id); ok {
		reply(w, http.StatusOK, one.Snapshot())
		return
	}
	problem(w, http.StatusNotFound, "there is no such session", "")
}

// cut is why the sessions end that this call cuts.
func (c *call) cut() session.ErrCut {
	return session.ErrCut{Reason: "by " + c.caller()}
}

// caller is who calls, in words.
func (c *call) caller() string {
	if c.facts.Token.Name != "" {
		return "the management API, token " + c.facts.Token.Name
	}
	return "the management API"
}

// reload reads configuration and policy again, to its end even when the caller
// goes away. What is wrong with them is told to the caller.
func (s *Server) reload(w http.ResponseWriter, r *http.Request, c *call, _ string) {
	if err := s.options.Reload(context.WithoutCancel(r.Context()), c.caller()); err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error(), "")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// methods refuses all methods but these.
func methods(w http.ResponseWriter, r *http.Request, allowed ...string) bool {
	if slices.Contains(allowed, r.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	problem(w, http.StatusMethodNotAllowed, "this path does not take that method", "")
	return false
}

func problem(w http.ResponseWriter, status int, text, decision string) {
	reply(w, status, struct {
		Error    string `json:"error"`
		Decision string `json:"decision_id,omitempty"`
	}{text, decision})
}

// reply encodes first, so that a value that cannot be encoded is an error of
// ours and not half an answer.
func reply(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // guard answers it
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // the caller may be gone
}
