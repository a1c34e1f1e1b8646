package manage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"sallyport/policy"
	"sallyport/proxy/identity"
)

// directory is one that has a user, ann, and remembers what is written.
type directory struct {
	mu      sync.Mutex
	written []string
	err     error
	enter   chan struct{} // a write tells that it has begun, where there is one
	leave   chan struct{} // and waits for this
}

func (d *directory) Account(name string) (identity.Account, bool) {
	return identity.Account{Name: name, Source: "store", Groups: []string{"ops"}, Tag: "t1"}, name == "ann" || d.err == nil && name == "bob"
}

func (d *directory) Accounts(after string, most int) (list []identity.Account, more bool) {
	for i := range 3 {
		if name := fmt.Sprint("user", i); name > after {
			if len(list) == most {
				return list, true
			}
			list = append(list, identity.Account{Name: name})
		}
	}
	return list, false
}

func (d *directory) Write(_ context.Context, terms identity.Terms, edits ...identity.Edit) error {
	if d.enter != nil {
		d.enter <- struct{}{}
		<-d.leave
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range edits {
		d.written = append(d.written, fmt.Sprint(terms, e))
	}
	return d.err
}

func (d *directory) Remove(name, match string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.written = append(d.written, "-"+name+match)
	return d.err
}

func (d *directory) last() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.written) == 0 {
		return ""
	}
	return d.written[len(d.written)-1]
}

// send makes a call with a body.
func (b *bench) send(t *testing.T, method, path, body string, headers ...string) answered {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+b.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range append(headers, bearer(opsToken)) {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answered{response.StatusCode, response.Header, string(text)}
}

func TestUsers(t *testing.T) {
	d := new(directory)
	b := start(t, byToken, func(o *Options) { o.Users = d })
	for _, c := range []struct {
		method, path, body string
		headers            []string
		status             int
		says, writes       string
	}{
		{"GET", "/v1/users", "", nil, 200, `{"users":[{"name":"user0"`, ""},
		{"GET", "/v1/users?limit=2", "", nil, 200, `"next":"user1"`, ""},
		{"GET", "/v1/users?after=user1&limit=2", "", nil, 200, `{"users":[{"name":"user2"`, ""},
		{"GET", "/v1/users?limit=0", "", nil, 400, "limit is", ""},
		{"GET", "/v1/users/ann", "", nil, 200, `{"name":"ann","source":"store"`, ""},
		{"GET", "/v1/users/cid", "", nil, 404, "there is no such user", ""},
		{"PUT", "/v1/users/ann", `{"password": "p", "groups": ["a", "b"]}`, nil, 200, `{"name":"ann"`, "{false  false} {ann [redacted]  map[groups:[a b]]}"},
		{"PUT", "/v1/users/ann", `{"hash": "$2a$04$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`, []string{`If-Match: "t1"`}, 200, "", "{false t1 false} {ann [redacted] $2a$04$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa map[]}"},
		{"PUT", "/v1/users/bob", `{"password": "p"}`, []string{"If-None-Match: *"}, 200, "", "{true  false} {bob [redacted]  map[]}"},
		{"DELETE", "/v1/users/ann", "", []string{`If-Match: "t1"`}, 204, "", "-annt1"},
		{"PUT", "/v1/users", `{"users": {"ann": {"disabled": true}}, "existing": "update"}`, nil, 200, `{"written":1}`, "{false  true} {ann [redacted]  map[disabled:true groups:[ops]]}"},
		{"PUT", "/v1/users", `{"users": {"new": {"hash": "$2a$04$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}, "existing": "update"}`, nil, 200, `{"written":1}`, "{false  true} {new [redacted] $2a$04$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa map[groups:[]]}"},
		{"PUT", "/v1/users", `{"users": {"ann": {"password": "p"}}}`, nil, 200, `{"written":1}`, "{true  false} {ann [redacted]  map[]}"},
		{"POST", "/v1/users", "", nil, 405, "", ""},
		{"DELETE", "/v1/users", "", nil, 405, "", ""},
		{"POST", "/v1/users/ann", "", nil, 405, "", ""},
		{"PUT", "/v1/users/ann", "", nil, 400, "the body is a JSON object", ""},
		{"PUT", "/v1/users/ann", "null", nil, 400, "the body is a JSON object", ""},
		{"PUT", "/v1/users/ann", "{} {}", nil, 400, "the body is one JSON object", ""},
		{"PUT", "/v1/users/ann", `{"password": "` + strings.Repeat("x", maxBody) + `"}`, nil, 413, `"the body has more than 65536 bytes"`, ""},
		{"PUT", "/v1/users/ann", `{"password": "p", "admin": 1, "groups": 7}`, nil, 400, "is not known", ""},
		{"PUT", "/v1/users", `{"users": {}}`, nil, 400, "1 to 100000 users", ""},
		{"PUT", "/v1/users", `{"users": {"a": 1, "b": {"x": 1}}}`, nil, 400, "want an object", ""},
		{"PUT", "/v1/users", `{"users": {"a": {}}, "existing": "replace"}`, nil, 400, "the body is a JSON object", ""},
		{"PUT", "/v1/users", `{"user": {"a": {}}}`, nil, 400, "the body is a JSON object", ""},
	} {
		before := d.last()
		got := b.send(t, c.method, c.path, c.body, c.headers...)
		if got.status != c.status || !strings.Contains(got.body, c.says) {
			t.Errorf("%s %s %s: %d %s, want %d and %q", c.method, c.path, c.body, got.status, got.body, c.status, c.says)
		}
		if want := c.writes; want == "" && d.last() != before || want != "" && d.last() != want {
			t.Errorf("%s %s %s writes %s, want %s", c.method, c.path, c.body, d.last(), c.writes)
		}
	}
	if got := b.do(t, "GET", "/v1/users/ann", bearer(opsToken)).header.Get("ETag"); got != `"t1"` {
		t.Errorf("the ETag is %s", got)
	}
}

// What went wrong with a write has a status of its own.
func TestUsersThatAreNotWritten(t *testing.T) {
	d := new(directory)
	b := start(t, everyone, func(o *Options) { o.Users = d })
	for _, c := range []struct {
		err    error
		status int
		logged bool
	}{
		{identity.ErrUnknown, 404, false}, {identity.ErrExists, 409, false}, {fmt.Errorf("ann: %w", identity.ErrPolicy), 409, false}, {identity.ErrChanged, 412, false},
		{identity.ErrFull, 507, false}, {identity.Problems{errors.New("bad")}, 400, false},
		{fmt.Errorf("write: %w", syscall.ENOSPC), 507, true}, {errors.New("broken"), 507, true},
	} {
		d.err = c.err
		for _, call := range [][2]string{{"PUT", "/v1/users/ann"}, {"DELETE", "/v1/users/ann"}, {"PUT", "/v1/users"}} {
			logged := strings.Count(b.log.String(), "a user is not written")
			body := `{"password": "p"}`
			if call[1] == "/v1/users" {
				body = `{"users": {"ann": ` + body + `}}`
			}
			if got := b.send(t, call[0], call[1], body); got.status != c.status || !strings.Contains(got.body, c.err.Error()) {
				t.Errorf("%v is told as %d %s", c.err, got.status, got.body)
			}
			if now := strings.Count(b.log.String(), "a user is not written"); (now > logged) != c.logged {
				t.Errorf("%v is logged: %v", c.err, now > logged)
			}
		}
	}
	d.err = identity.ErrExists
	if got := b.send(t, "PUT", "/v1/users/ann", `{"password": "p"}`, "If-None-Match: *"); got.status != 412 {
		t.Errorf("If-None-Match: %d", got.status)
	}
}

// The policy sees the name and the groups of each user that is written, and no
// more; a stranger has no large body read, nor learns what is wrong with one.
func TestUsersAreAskedAbout(t *testing.T) {
	d := new(directory)
	b := start(t, func(api policy.API) policy.Decision {
		if api.Token.Name == "" || api.Body.Name == "root" {
			return policy.Decision{Deny: policy.Set{"no"}}
		}
		return everyone(api)
	}, func(o *Options) { o.Users = d })
	seen := func() string {
		var bodies []string
		b.decider.mu.Lock()
		defer b.decider.mu.Unlock()
		for _, f := range b.decider.asked {
			bodies = append(bodies, fmt.Sprint(f.API.Body.Name, f.API.Body.Groups))
		}
		b.decider.asked = nil
		return strings.Join(bodies, " ")
	}
	for _, c := range []struct {
		path, body string
		status     int
		seen       string
	}{
		{"/v1/users/ann", `{"password": "p", "groups": ["a", "b"], "attributes": {"x": 1}}`, 200, "ann[a b]"},
		{"/v1/users/ann", `{"password": "p"}`, 200, "ann[]"},
		{"/v1/users/root", `{"password": "p"}`, 403, "root[]"},
		{"/v1/users/root", `{"password": `, 403, "root[]"},
		{"/v1/users/ann", `{"groups": ["a"], "password": 7}`, 400, "ann[]"},
		{"/v1/users", `{"users": {"b": {"password": "p", "groups": ["x"]}, "c": {"password": "p"}}}`, 200, "[] b[x] c[]"},
		{"/v1/users", `{"users": {"ann": {"disabled": true}, "root": {"password": "p"}, "z": {}}, "existing": "update"}`, 403, "[] ann[ops] root[]"},
		{"/v1/users", `{"users": {"ann": {"disabled": true, "groups": null}}, "existing": "update"}`, 200, "[] ann[ops]"},
	} {
		before := d.last()
		got := b.send(t, "PUT", c.path, c.body)
		if s := seen(); got.status != c.status || s != c.seen {
			t.Errorf("%s %s: %d %s, asked about %s, want %d and %s", c.path, c.body, got.status, got.body, s, c.status, c.seen)
		}
		if got.status != 200 && d.last() != before {
			t.Errorf("%s %s writes %s", c.path, c.body, d.last())
		}
	}
	head := fmt.Sprintf("PUT /v1/users HTTP/1.1\r\nHost: %s\r\nContent-Length: 20000000\r\n\r\n", b.address)
	if got := b.raw(t, head); !strings.HasPrefix(got, "401 ") { // though nothing follows
		t.Errorf("a stranger with a large body: %s", got)
	}
}

// Imports take much memory: there is one at a time.
func TestOneImportAtATime(t *testing.T) {
	d := &directory{enter: make(chan struct{}), leave: make(chan struct{})}
	b := start(t, everyone, func(o *Options) { o.Users = d })
	const body = `{"users": {"ann": {"password": "p"}}}`
	first := make(chan answered)
	go func() { first <- b.send(t, "PUT", "/v1/users", body) }()
	<-d.enter
	if got := b.send(t, "PUT", "/v1/users", body); got.status != 503 || got.header.Get("Retry-After") == "" {
		t.Errorf("the second: %d %s", got.status, got.body)
	}
	close(d.leave)
	if got := <-first; got.status != 200 {
		t.Errorf("the first: %d %s", got.status, got.body)
	}
}
