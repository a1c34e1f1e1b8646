package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sallyport/proxy/identity"
)

// userKeeper is a running sallyport whose users are written.
type userKeeper struct {
	*process
	at, token, tokenFile string
}

func keepUsers(t *testing.T, args ...string) *userKeeper {
	t.Helper()
	k := &userKeeper{process: start(t, args...)}
	k.at = k.wait(t, 0, "management")["address"].(string)
	k.tokenFile = k.wait(t, 0, "management token")["file"].(string)
	k.token = strings.TrimSpace(readFile(t, k.tokenFile))
	return k
}

// user runs `sallyport user`, with what it reads.
func (k *userKeeper) user(in string, args ...string) (string, int) {
	c := program(append([]string{"user", "--management", k.at, "--token-file", k.tokenFile}, args...)...)
	c.Stdin = strings.NewReader(in)
	out, _ := c.CombinedOutput()
	return string(out), c.ProcessState.ExitCode()
}

func (k *userKeeper) users(t *testing.T, in string, args ...string) string {
	t.Helper()
	out, exit := k.user(in, args...)
	if exit != 0 {
		t.Fatalf("user %v: %d %s", args, exit, out)
	}
	return out
}

// api makes one call with a body.
func (k *userKeeper) api(t *testing.T, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+k.at+path, strings.NewReader(body))
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+k.token)
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(r)
	must(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	return response, string(text)
}

// put writes users, by name, with hashes that cost little.
func (k *userKeeper) put(t *testing.T, users map[string]string) {
	t.Helper()
	var file struct{ Users map[string]map[string]any }
	must(t, json.Unmarshal([]byte(readFile(t, usersFile(t, users))), &file))
	for name, u := range file.Users {
		body, err := json.Marshal(map[string]any{"hash": u["password"]})
		must(t, err)
		if r, text := k.api(t, "PUT", "/v1/users/"+url.PathEscape(name), string(body)); r.StatusCode != 200 {
			t.Fatalf("%q: %d %s", name, r.StatusCode, text)
		}
	}
}

// logsIn tells whether a name comes in by SOCKS5 with a password.
func (k *userKeeper) logsIn(t *testing.T, name, password string) bool {
	t.Helper()
	c := dialDoor(t, k.addr).say("\x05\x01\x02" + login(name, password))
	defer c.Close()
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || got[2] != 1 {
		t.Fatalf("%q hears %q: %v", name, got, err)
	}
	return got[3] == 0
}

// A user of the store is added, let in, locked out and removed by the command, as
// real clients see it; a restart forgets nothing.
func TestUserCommand(t *testing.T) {
	t.Parallel()
	target, reach := origin(t)
	dir := t.TempDir()
	args := []string{"--data", write(t, filepath.Join(dir, "settings.json"), reach), "--set", "state.path=" + filepath.Join(dir, "state.db"),
		"--policy", write(t, filepath.Join(dir, "authenticate.rego"), `package sallyport.authenticate

default allow := false

allow if {
	input.credentials.verified
	"web" in input.credentials.groups
	input.credentials.attributes.team == "blue"
}
`)}
	k := keepUsers(t, args...)
	come := func(k *userKeeper, name, password string, in bool) {
		t.Helper()
		login := url.UserPassword(name, password).String() + "@" + k.addr
		if out, code := curl(t, "-x", "socks5h://"+login, target); (code == 0) != in || strings.Contains(out, "hello") != in {
			t.Errorf("%s by SOCKS5, in: %v: curl exits %d and prints %q", name, in, code, out)
		}
		want := map[bool]string{true: "200", false: "407"}[in]
		if out, _ := curl(t, "-x", "http://"+login, "-o", os.DevNull, "-w", "%{http_code}", target); !strings.HasSuffix(out, want) {
			t.Errorf("%s by HTTP: %q, want %s", name, out, want)
		}
	}
	hashed := func(password string) string { // at little cost
		var file struct {
			Users map[string]struct{ Password string }
		}
		must(t, json.Unmarshal([]byte(readFile(t, usersFile(t, map[string]string{"one": password}))), &file))
		return file.Users["one"].Password
	}
	k.users(t, hashed("right horse")+"\n", "add", "ann", "--group", "web", "--attribute", "team=blue", "--hash-file", "-")
	come(k, "ann", "right horse", true)
	come(k, "ann", "right hors", false)
	k.users(t, "", "disable", "ann")
	come(k, "ann", "right horse", false)
	k.users(t, "", "enable", "ann")
	come(k, "ann", "right horse", true)
	k.users(t, "", "passwd", "ann", "--hash-file", write(t, filepath.Join(dir, "hash"), hashed("battery staple")))
	come(k, "ann", "right horse", false)
	k.users(t, "", "set", "ann", "--expires", "2001-01-01T00:00:00Z")
	come(k, "ann", "battery staple", false)
	if out := k.users(t, "", "list"); !strings.Contains(out, "ann   store   expired  2001-01-01T00:00:00Z  web") {
		t.Errorf("the list is %s", out)
	}
	k.users(t, "", "set", "ann", "--expires", "never", "--group", "other", "--group", "web", "--attribute", "n=18446744073709551617")
	come(k, "ann", "battery staple", true)
	k.users(t, "third\n", "add", "bob", "--group", "web", "--attribute", "team=blue", "--password-stdin")
	k.users(t, "fourth", "add", "cy", "--group", "web", "--attribute", "team=blue", "--password-stdin", "--bcrypt")
	come(k, "bob", "third", true)
	come(k, "cy", "fourth", true)
	shown := k.users(t, "", "show", "ann")
	for _, line := range []string{"source      store\n", "state       active\n", "groups      other,web\n", `attributes  {"n":18446744073709551617,"team":"blue"}` + "\n", "hash        argon2id\n"} {
		if !strings.Contains(shown, line) {
			t.Errorf("show has no %q: %s", line, shown)
		}
	}
	k.users(t, "", "set", "cy", "--no-groups", "--no-attributes", "--attribute", "tier=1")
	if shown := k.users(t, "", "show", "cy", "--format", "json"); !strings.Contains(shown, `"algorithm":"bcrypt","groups":[],"attributes":{"tier":1},`) {
		t.Errorf("cy is %s", shown)
	}

	for _, c := range []struct {
		args []string
		in   string
		says string
		exit int
	}{
		{[]string{"add", "ann", "--password-stdin"}, "x", "exists already", 1},
		{[]string{"add", "cid"}, "x", "--password-stdin reads it from standard input", 2},
		{[]string{"add", "cid", "hunter2", "--password-stdin"}, "x", "accepts 1 arg(s), received 2", 2},
		{[]string{"add", "cid", "--password-stdin"}, "", "a password has 1 to 255 bytes", 2},
		{[]string{"add", "cid", "--password-stdin"}, strings.Repeat("x", 256), "a password has 1 to 255 bytes", 2},
		{[]string{"add", "c\nd", "--password-stdin"}, "x", "without control characters", 2},
		{[]string{"add", "cid", "--hash-file", "-"}, "$2y$04$short", "is a malformed hash", 2},
		{[]string{"add", "cid", "--hash-file", "-", "--password-stdin"}, "x", "none of the others can be", 2},
		{[]string{"add", "cid", "--password-stdin", "--expires", "tomorrow"}, "x", "--expires: want a time", 2},
		{[]string{"add", "cid", "--password-stdin", "--attribute", "tier"}, "x", "--attribute: want KEY=VALUE", 2},
		{[]string{"set", "ann"}, "", "nothing to change", 2},
		{[]string{"set", "cid", "--group", "web"}, "", "there is no such user", 1},
		{[]string{"show", "cid"}, "", "there is no such user", 1},
		{[]string{"remove", "cid"}, "", "there is no such user", 1},
		{[]string{"passwd", "cid"}, "", "there is no such user", 1},
		{[]string{"disable", "cid"}, "", "there is no such user", 1},
	} {
		if out, exit := k.user(c.in, c.args...); exit != c.exit || !strings.Contains(out, c.says) || strings.Contains(out, "hunter2") {
			t.Errorf("%v: %d %q, want %d and %q", c.args, exit, out, c.exit, c.says)
		}
	}

	k.terminate(t)
	k = keepUsers(t, args...)
	come(k, "ann", "battery staple", true)
	come(k, "bob", "third", true)
	if again := k.users(t, "", "show", "ann"); again != shown {
		t.Errorf("after a restart: %s\nbefore: %s", again, shown)
	}
	k.users(t, "", "remove", "ann")
	come(k, "ann", "battery staple", false)
	k.terminate(t)
	k = keepUsers(t, args...)
	come(k, "ann", "battery staple", false)
}

// Who stands in both places loses the store's entry, and whoever removes it is told
// that the policy's is still there.
func TestUserRemoveOfHidden(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	args := []string{"--set", "state.path=" + filepath.Join(dir, "state.db")}
	k := keepUsers(t, args...)
	k.put(t, map[string]string{"ann": "stored", "bob": "stored", "cy": "stored"})
	k.terminate(t)
	k = keepUsers(t, append(args, "--data", usersFile(t, map[string]string{"ann": "declared", "bob": "declared"}))...)
	if out := k.users(t, "", "remove", "ann"); out != "removed the store's entry of ann, which the policy's hid: ann is still a user of the policy's data.users\n" {
		t.Errorf("of text: %q", out)
	}
	if out := k.users(t, "", "remove", "bob", "--format", "json"); out != `{"remains":"policy","removed":"bob"}`+"\n" {
		t.Errorf("as JSON: %q", out)
	}
	if out := k.users(t, "", "remove", "cy"); out != "removed cy\n" {
		t.Errorf("of the store alone: %q", out)
	}
	if !k.logsIn(t, "ann", "declared") || k.logsIn(t, "ann", "stored") {
		t.Error("ann is not the policy's")
	}
	if out, exit := k.user("", "remove", "ann"); exit != 1 || !strings.Contains(out, "policy") {
		t.Errorf("of the policy's alone: %d %q", exit, out)
	}
}

// Names are compared whole, byte by byte.
func TestUserNames(t *testing.T) {
	t.Parallel()
	e := serveEcho(t, "127.0.0.1:0")
	k := keepUsers(t, "--data", settings(t, loopback, e.port))
	long := strings.Repeat("é", 127) + "n"
	passwords := map[string]string{"ann": "p", "Ann": "q", "ann ": "r", " ann": "s", long: "t", "jürgen": "u", "ju\u0308rgen": "v", "a/b": "w", "a:b": "x", "%2e": "y", "..": "z"}
	k.put(t, passwords)
	in := func(name, password string) bool { return k.logsIn(t, name, password) }
	for name := range passwords {
		for other, password := range passwords {
			if in(name, password) != (name == other) {
				t.Errorf("%q comes in with the password of %q: %v", name, other, name != other)
			}
		}
		for _, near := range []string{name + "\x00", name[:len(name)-1], name + "x", "\x00" + name, strings.ToUpper(name) + "!"} {
			if len(near) > 0 && len(near) < 256 && in(near, passwords[name]) && passwords[near] != passwords[name] {
				t.Errorf("%q comes in as %q", near, name)
			}
		}
		if in(name, passwords[name]+"\x00") || in(name, passwords[name]+" ") {
			t.Errorf("%q comes in with more than its password", name)
		}
	}
	for name, status := range map[string]int{
		"a%00b": 400, "a%0Ab": 400, "a%7Fb": 400, "a%C2%85b": 400, "%FF": 400, "": 400, strings.Repeat("n", 255): 200, strings.Repeat("n", 256): 400,
	} {
		if r, text := k.api(t, "PUT", "/v1/users/"+name, `{"hash": "$2a$04$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`); r.StatusCode != status {
			t.Errorf("%q: %d %s, want %d", name, r.StatusCode, text, status)
		}
	}
}

// Whoever is removed, locked out or replaced loses the tunnels that are open, and
// of whom other groups are said is asked about again; all others notice nothing.
func TestUserLosesTunnels(t *testing.T) {
	t.Parallel()
	e := serveEcho(t, "127.0.0.1:0")
	k := keepUsers(t, "--data", settings(t, loopback, e.port), "--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), `package sallyport.route

default allow := false

allow if not "barred" in input.identity.groups
`))
	names := []string{"removed", "disabled", "expired", "expires", "anew", "barred", "password", "moved", "stays"}
	passwords := map[string]string{}
	for _, name := range names {
		passwords[name] = "p"
	}
	k.put(t, passwords)
	open := map[string]*talk{}
	for _, name := range names {
		open[name] = dialDoor(t, k.addr).say("\x05\x01\x02" + login(name, "p") + connectTo("127.0.0.1", e.port) + "hello")
		open[name].reply4("\x05\x02\x01\x00\x05\x00\x00\x01")
		open[name].hear("hello")
	}
	k.users(t, "", "remove", "removed")
	k.users(t, "", "disable", "disabled")
	k.users(t, "", "set", "expired", "--expires", "2001-01-01T00:00:00Z")
	k.users(t, "", "set", "expires", "--expires", "2s")
	k.api(t, "DELETE", "/v1/users/anew", "")
	k.put(t, map[string]string{"anew": "p"})
	k.users(t, "", "set", "barred", "--group", "barred")
	k.users(t, "q", "passwd", "password", "--password-stdin")
	k.users(t, "", "set", "moved", "--group", "others")
	for name, why := range map[string]string{
		"removed": "the user is gone", "disabled": "the user is disabled", "expired": "the user has expired", "expires": "the user has expired",
		"anew": "the user is gone", "barred": "denies (route)",
	} {
		if more, _ := open[name].rest(); more != "" {
			t.Errorf("%s hears %q", name, more)
		}
		r := k.sessionWhere(t, func(r map[string]any) bool { return r["user.name"] == name })
		if r["outcome"] != "cut" || !strings.Contains(fmt.Sprint(r), why) {
			t.Errorf("%s ends by %v", name, r["raw"])
		}
	}
	for _, name := range []string{"password", "moved", "stays"} {
		open[name].say("again").hear("again")
	}
}

// What two write at the same time is not lost.
func TestUserWriters(t *testing.T) {
	t.Parallel()
	k := keepUsers(t)
	k.users(t, "p", "add", "ann", "--password-stdin")
	const writers = 6
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			if out, exit := k.user("", "set", "ann", "--attribute", fmt.Sprintf("w%d=%d", i, i)); exit != 0 {
				t.Errorf("writer %d: %s", i, out)
			}
		})
	}
	all.Wait()
	var a identity.Account
	r, text := k.api(t, "GET", "/v1/users/ann", "")
	must(t, json.Unmarshal([]byte(text), &a))
	if len(a.Attributes) != writers {
		t.Errorf("what is left is %v", a.Attributes)
	}
	tag := r.Header.Get("ETag")
	for _, c := range []struct {
		method, headers, body string
		status                int
	}{
		{"PUT", "If-Match: " + tag, `{"disabled": true}`, 200},
		{"PUT", "If-Match: " + tag, `{"disabled": true}`, 412},
		{"DELETE", "If-Match: " + tag, "", 412},
		{"PUT", "If-None-Match: *", `{"password": "x"}`, 412},
		{"PUT", "If-None-Match: " + tag, `{}`, 400},
		{"PUT", "If-Match: x", `{}`, 400},
		{"PUT", "Origin: http://evil.example", `{}`, 403},
		{"DELETE", "If-Match: *", "", 204},
		{"PUT", "If-Match: *", `{"password": "x"}`, 412},
		{"PUT", "If-Match: " + tag, `{"password": "x"}`, 412},
		{"DELETE", "If-Match: *", "", 404},
	} {
		if r, text := k.api(t, c.method, "/v1/users/ann", c.body, c.headers); r.StatusCode != c.status {
			t.Errorf("%s with %s: %d %s, want %d", c.method, c.headers, r.StatusCode, text, c.status)
		}
	}
}

// Where the policy's data and the store have one name, it is the policy's.
func TestUserOfBothPlaces(t *testing.T) {
	t.Parallel()
	e := serveEcho(t, "127.0.0.1:0")
	dir := t.TempDir()
	folder := filepath.Join(dir, "data.json")
	write(t, folder, `{}`)
	k := keepUsers(t, "--data", settings(t, loopback, e.port), "--policy", folder)
	in := func(name, password string) bool { return k.logsIn(t, name, password) }
	k.put(t, map[string]string{"ann": "store", "bob": "store"})
	tunnel := dialDoor(t, k.addr).say("\x05\x01\x02" + login("ann", "store") + connectTo("127.0.0.1", e.port))
	tunnel.reply4("\x05\x02\x01\x00\x05\x00\x00\x01")
	write(t, folder, readFile(t, usersFile(t, map[string]string{"ann": "policy", "cid": "policy"})))
	if line := k.wait(t, 0, "users of the store are hidden by those of data.users"); fmt.Sprint(line["count"], line["names"]) != "1 [ann]" {
		t.Errorf("the log says %v", line["raw"])
	}
	if more, _ := tunnel.rest(); more != "" {
		t.Errorf("a tunnel of the store's ann hears %q", more)
	}
	if in("ann", "store") || !in("ann", "policy") || !in("bob", "store") || !in("cid", "policy") {
		t.Error("wrong ones come in")
	}
	out := k.users(t, "", "list")
	if strings.Count(out, "ann") != 1 || !strings.Contains(out, "ann   policy  active") || !strings.Contains(out, "bob   store   active") || !strings.Contains(out, "cid   policy") {
		t.Errorf("the list is %s", out)
	}
	for _, args := range [][]string{{"disable", "ann"}, {"passwd", "ann", "--password-stdin"}, {"add", "cid", "--password-stdin"}, {"remove", "cid"}} {
		if out, exit := k.user("x", args...); exit != 1 || !strings.Contains(out, "is a user of the policy's data.users") {
			t.Errorf("%v: %d %s", args, exit, out)
		}
	}
	k.users(t, "", "remove", "ann") // the one that is hidden
	write(t, folder, `{}`)
	k.wait(t, 2, "policy active")
	if in("ann", "store") || in("ann", "policy") || !in("bob", "store") {
		t.Error("wrong ones come in when the policy has none")
	}
}

// A policy says who may write whom, of each user of an import as of a single one.
func TestUserPolicy(t *testing.T) {
	t.Parallel()
	k := keepUsers(t, "--policy", write(t, filepath.Join(t.TempDir(), "manage.rego"), `package sallyport.manage

default allow := false

allow if {
	input.api.path[1] == "users"
	_mine
}

_mine if input.api.method == "GET"

_mine if {
	input.api.method == "PUT"
	count(input.api.path) == 2
	input.api.body.name == ""
}

_mine if {
	input.api.method == "PUT"
	startswith(input.api.body.name, "guest-")
	{group | some group in input.api.body.groups} == {"guests"}
}
`))
	const hash = `"hash": "$2a$04$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"`
	for _, c := range []struct {
		path, body string
		status     int
	}{
		{"/v1/users/guest-1", `{` + hash + `, "groups": ["guests"]}`, 200},
		{"/v1/users/guest-2", `{` + hash + `, "groups": ["guests", "ops"]}`, 403},
		{"/v1/users/guest-2", `{` + hash + `}`, 403},
		{"/v1/users/guest-2", `{` + hash + `, "groups": ["ops"], "groups": ["guests"]}`, 403}, // which of them is not said
		{"/v1/users/guest-2", `{` + hash + `, "groups": ["guests"], "groups": ["ops"]}`, 403},
		{"/v1/users/guest-2", `{` + hash + `, "groups": ["guests"]}`, 200},
		{"/v1/users/guest-2", `{` + hash + `, "groups": ["guests", 7]}`, 400},
		{"/v1/users/ann", `{` + hash + `, "groups": ["guests"]}`, 403},
		{"/v1/users/ann", `not JSON`, 403},
		{"/v1/users", `{"users": {"guest-3": {` + hash + `, "groups": ["guests"]}, "guest-4": {` + hash + `, "groups": ["guests"]}}}`, 200},
		{"/v1/users", `{"users": {"guest-5": {` + hash + `, "groups": ["guests"]}, "guest-6": {` + hash + `, "groups": ["ops"]}}}`, 403},
		{"/v1/users", `{"users": {"guest-5": {` + hash + `, "groups": ["guests"]}, "root": {` + hash + `, "groups": ["guests"]}}}`, 403},
		{"/v1/users", `{"users": {"guest-3": {"disabled": true}}, "existing": "update"}`, 200},
	} {
		if r, text := k.api(t, "PUT", c.path, c.body); r.StatusCode != c.status {
			t.Errorf("%s %s: %d %s, want %d", c.path, c.body, r.StatusCode, text, c.status)
		}
	}
	var list struct{ Users []identity.Account }
	_, text := k.api(t, "GET", "/v1/users", "")
	must(t, json.Unmarshal([]byte(text), &list))
	var shown []string
	for _, a := range list.Users {
		shown = append(shown, fmt.Sprint(a.Name, a.Groups, a.Disabled))
	}
	if got := strings.Join(shown, " "); got != "guest-1[guests] false guest-2[guests] false guest-3[guests] true guest-4[guests] false" {
		t.Errorf("the users are %s", got)
	}
	if r, _ := k.api(t, "DELETE", "/v1/users/guest-1", ""); r.StatusCode != 403 {
		t.Errorf("removing: %d", r.StatusCode)
	}
}

// A password is found nowhere but in the client: not in logs, decision logs,
// metrics, answers or the state.
func TestUserPasswordsAreSecret(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state := filepath.Join(dir, "state.db")
	k := keepUsers(t, "--set", "log.level=debug", "--set", "policy.opa.decision_logs.console=true", "--set", "state.path="+state)
	var output bytes.Buffer
	read := make(chan struct{})
	go func() { defer close(read); io.Copy(&output, k.stdout) }()
	const planted = "planted-secret-1234"
	var answers strings.Builder
	for _, c := range [][2]string{
		{"/v1/users/ann", `{"password": "` + planted + `", "groups": ["ops"]}`},
		{"/v1/users/ann", `{"password": ["` + planted + `"]}`},
		{"/v1/users/ann", `{"hash": "` + planted + `"}`},
		{"/v1/users/ann", `{"password": "` + planted + `", "hash": "` + planted + `"}`},
		{"/v1/users/ann", `{"password": "` + planted + `", "expires": 7.5}`},
		{"/v1/users/ann", `{"password": "` + planted + `"`},
		{"/v1/users", `{"users": {"bob": {"password": "` + planted + `"}, "cid": {"password": "` + planted + `", "groups": 7}}}`},
		{"/v1/users", `{"users": {"bob": {"password": "` + planted + `"}}}`},
	} {
		r, text := k.api(t, "PUT", c[0], c[1])
		fmt.Fprintln(&answers, r.StatusCode, r.Header, text)
	}
	for _, path := range []string{"/v1/users", "/v1/users/ann", "/metrics"} {
		_, text := k.api(t, "GET", path, "")
		answers.WriteString(text)
	}
	fmt.Fprintln(&answers, k.users(t, planted, "add", "dan", "--password-stdin"), k.users(t, "", "show", "dan"))
	if !strings.Contains(answers.String(), `"name":"bob"`) || !strings.Contains(answers.String(), "argon2id") {
		t.Errorf("the users are not there: %s", answers.String())
	}
	k.terminate(t)
	<-read
	if !strings.Contains(output.String(), `"body":{"groups":["ops"],"name":"ann"}`) && !strings.Contains(output.String(), `"body":{"name":"ann","groups":["ops"]}`) {
		t.Errorf("the decision log has no body: %s", output.String())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for where, text := range map[string]string{
		"an answer": answers.String(), "the decision log": output.String(), "the log": fmt.Sprint(k.log), "the state": readFile(t, state),
	} {
		if strings.Contains(text, planted) {
			t.Errorf("%s has a password", where)
		}
		if where != "the state" && (strings.Contains(text, "$argon2id$") || strings.Contains(text, "$2a$")) {
			t.Errorf("%s has a hash", where)
		}
	}
}
