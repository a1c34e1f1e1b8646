package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// live_test.go changes the policy and the users under sessions that run.

// livePolicy does what its data says, so that one file is all there is to edit.
const livePolicy = `
default allow := false

allow if data.open[input.target.host]

deny contains data.shut[input.target.host]

deny contains "no dev any more" if {
	input.target.host == "dev.test"
	not "dev" in input.identity.groups
}

deny contains "asked again" if {
	input.session.again
	input.target.host == data.once
}

deny contains "broken" if {
	input.target.host != "keep.test"
	1 / data.divisor == 0
}

redirect := data.redirects[input.target.host]

session_limits := data.limits[input.target.host]

labels := {"revision": data.name}
`

// liveWorld is a running sallyport with livePolicy.
type liveWorld struct {
	*process
	t      *testing.T
	target *echo
	file   string
	data   map[string]any
	rounds int // that the log has told of
}

func startLive(t *testing.T, args ...string) *liveWorld {
	dir := t.TempDir()
	w := &liveWorld{t: t, target: serveEcho(t, "127.0.0.1:0"), file: filepath.Join(dir, "data.json")}
	write(t, filepath.Join(dir, "route.rego"), "package sallyport.route\n"+livePolicy)
	write(t, filepath.Join(dir, "dial.rego"), "package sallyport.dial\n\ndefault allow := false\n\nallow if data.scopes[input.address.scope]\n\n"+
		"deny contains \"not the mirror\" if {\n\tinput.asked.host == \"back.test\"\n\tinput.target.host != \"mirror.test\"\n}\n")
	write(t, filepath.Join(dir, "authenticate.rego"), "package sallyport.authenticate\n\ndefault allow := false\n\nallow if input.credentials.verified\n\nallow if input.credentials.method == \"none\"\n")
	open := map[string]any{}
	for _, name := range []string{"keep", "shut", "gone", "moved", "back", "dev", "mirror", "user", "limits", "once"} {
		open[name+".test"] = true
	}
	users := map[string]any{}
	read := map[string]any{}
	text, err := os.ReadFile(usersFile(t, map[string]string{"ann": "a", "bob": "b", "cid": "c", "dan": "d"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	for name, user := range read["users"].(map[string]any) {
		user.(map[string]any)["groups"] = []string{"dev"}
		users[name] = user
	}
	w.data = map[string]any{
		"open": open, "shut": map[string]any{}, "redirects": map[string]any{"back.test": map[string]any{"host": "mirror.test"}},
		"limits": map[string]any{}, "scopes": map[string]any{"loopback": true}, "divisor": 1, "name": "first", "once": "", "users": users,
	}
	w.save()
	names := serveNames(t, map[string][]string{"*": {"127.0.0.1"}})
	w.process = start(t, append([]string{"--policy", dir, "--set", "dns.servers=" + names.addr}, args...)...)
	return w
}

func (w *liveWorld) save() {
	w.t.Helper()
	text, err := json.Marshal(w.data)
	if err != nil {
		w.t.Fatal(err)
	}
	next := filepath.Join(w.t.TempDir(), "next")
	write(w.t, next, string(text))
	if err := os.Rename(next, w.file); err != nil {
		w.t.Fatal(err)
	}
}

func (w *liveWorld) set(object, key string, value any) { w.data[object].(map[string]any)[key] = value }

// tunnel is a session through which a word has been.
func (w *liveWorld) tunnel(host, user, password string) *talk {
	w.t.Helper()
	d := dialDoor(w.t, w.addr)
	if user == "" {
		d.say(greeting + connectTo(host, w.target.port)).hear(chosen)
	} else {
		d.say("\x05\x01\x02" + login(user, password) + connectTo(host, w.target.port)).hear("\x05\x02\x01\x00")
	}
	d.hear("\x05\x00\x00\x01\x7f\x00\x00\x01")
	if _, err := io.CopyN(io.Discard, d, 2); err != nil {
		w.t.Fatal(err)
	}
	return d.say("hello").hear("hello")
}

const askedAgain = "live sessions asked again"

// edited saves the data, and waits until the sessions have been asked again.
func (w *liveWorld) edited() map[string]any {
	w.t.Helper()
	w.save()
	r := w.wait(w.t, w.rounds, askedAgain)
	w.rounds++
	return r
}

// ended waits until a session is cut, and returns its record.
func (w *liveWorld) ended(d *talk, host string) map[string]any {
	w.t.Helper()
	if got, err := d.rest(); got != "" || !errors.Is(err, syscall.ECONNRESET) {
		w.t.Errorf("%s: after the cut there come %q, %v, want a reset", host, got, err)
	}
	return w.sessionOf(w.t, host)
}

func (w *liveWorld) expect(r map[string]any, cause string) {
	w.t.Helper()
	cause = strings.ReplaceAll(cause, "REV", fmt.Sprint(r["policy.revision"]))
	if r["outcome"] != "cut" || r["cause"] != cause {
		w.t.Errorf("want it cut with the cause %q, is %v", cause, r["raw"])
	}
}

func TestLiveSessionsFollowThePolicy(t *testing.T) {
	t.Parallel()
	w := startLive(t, "--set", "policy.opa.decision_logs.console=true")
	events := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(w.stdout)
		events <- string(text)
	}()

	// One moves bytes all the time, and must not notice.
	keep := w.tunnel("keep.test", "", "")
	var stop atomic.Bool
	turns := make(chan error, 1)
	go func() {
		word := make([]byte, 5)
		for !stop.Load() {
			if _, err := io.WriteString(keep, "steady"[:5]); err != nil {
				turns <- err
				return
			}
			if _, err := io.ReadFull(keep, word); err != nil {
				turns <- err
				return
			}
		}
		turns <- nil
	}()

	shut, gone, moved := w.tunnel("shut.test", "", ""), w.tunnel("gone.test", "", ""), w.tunnel("moved.test", "", "")
	back, once := w.tunnel("back.test", "", ""), w.tunnel("once.test", "", "")
	dev, user, limits := w.tunnel("dev.test", "ann", "a"), w.tunnel("user.test", "bob", "b"), w.tunnel("limits.test", "", "")
	first := w.wait(t, 0, "policy active")["policy.revision"]

	// The first edit: a reason, an entry that is gone, a redirect that comes, a
	// group that is lost, a user that is disabled, and limits.
	w.set("shut", "shut.test", "a leak")
	delete(w.data["open"].(map[string]any), "gone.test")
	w.set("redirects", "moved.test", map[string]any{"host": "mirror.test"})
	w.set("users", "ann", with(w.data["users"], "ann", "groups", []string{"ops"}))
	w.set("users", "bob", with(w.data["users"], "bob", "disabled", true))
	w.set("limits", "limits.test", map[string]any{"bytes": 5})
	w.data["once"], w.data["name"] = "once.test", "second"
	round := w.edited()
	if round["sessions"] != 9.0 || round["cut"] != 6.0 || round["policy.revision"] == first {
		t.Errorf("a round is told of as %v", round["raw"])
	}
	r := w.ended(shut, "shut.test")
	w.expect(r, "cut: policy REV denies (route): a leak")
	if r["policy.revision"] != round["policy.revision"] || fmt.Sprint(r["reasons"]) != "[a leak]" {
		t.Errorf("a session that was cut is recorded as %v", r["raw"])
	}
	shutDecision := fmt.Sprint(r["decision.route"])
	w.expect(w.ended(gone, "gone.test"), "cut: policy REV denies (route)")
	r = w.ended(moved, "moved.test")
	w.expect(r, fmt.Sprintf("cut: policy REV leads to mirror.test:%d", w.target.port))
	w.expect(w.ended(dev, "dev.test"), "cut: policy REV denies (route): no dev any more")
	w.expect(w.ended(once, "once.test"), "cut: policy REV denies (route): asked again")
	r = w.ended(user, "user.test")
	w.expect(map[string]any{"raw": r["raw"], "outcome": r["outcome"], "cause": r["cause"], "policy.revision": round["policy.revision"]},
		"cut: policy REV: the user is disabled")
	// It has had its five bytes each way, and may have no more.
	if got, _ := limits.say("more").rest(); got != "" {
		t.Errorf("beyond its new limit a session carries %q", got)
	}
	if r := w.sessionOf(t, "limits.test"); r["outcome"] != "ok" || r["cause"] != "bytes_spent" {
		t.Errorf("a session with a new limit is recorded as %v", r["raw"])
	}
	// The one that was redirected is where it should be.
	back.say("here").hear("here")

	// The second edit: the address is of a scope that may not be dialled any more.
	w.data["scopes"] = map[string]any{"public": true}
	stop.Store(true)
	if err := <-turns; err != nil {
		t.Errorf("a session that may go on was disturbed: %v", err)
	}
	w.edited()
	w.expect(w.ended(keep, "keep.test"), "cut: policy REV denies (dial)")
	r = w.ended(back, "back.test")
	w.expect(r, "cut: policy REV denies (dial)")
	if labels, _ := r["labels"].(map[string]any); labels["revision"] != "second" {
		t.Errorf("the labels are %v", labels)
	}

	w.cmd.Process.Signal(os.Interrupt)
	w.wait(t, 0, "eof")
	again := 0
	for _, line := range strings.Split(<-events, "\n") {
		var e struct {
			ID    string `json:"decision_id"`
			Input struct {
				Session struct{ Again bool }
			}
		}
		if json.Unmarshal([]byte(line), &e) == nil && e.Input.Session.Again {
			again++
			if e.ID == shutDecision {
				shutDecision = ""
			}
		}
	}
	// Eight routes (bob's session is cut before) and three dials, then two of each.
	if again != 15 || shutDecision != "" {
		t.Errorf("the decision log has %d questions that were asked again; is one of them that of the record? %t", again, shutDecision == "")
	}
}

// with is an entry of an object with one key changed.
func with(object any, name, key string, value any) any {
	changed := map[string]any{}
	for k, v := range object.(map[string]any)[name].(map[string]any) {
		changed[k] = v
	}
	changed[key] = value
	return changed
}

// A policy that fails cuts nobody, and there is one alarm. When it is mended,
// those that it would not have are cut.
func TestLiveSessionsOutliveAFault(t *testing.T) {
	t.Parallel()
	w := startLive(t)
	keep, shut := w.tunnel("keep.test", "", ""), w.tunnel("shut.test", "", "")
	dev := w.tunnel("dev.test", "ann", "a")
	w.data["divisor"] = 0
	w.save()
	const kept = "policy fault on live sessions, which are kept and asked again later"
	alarm := w.wait(t, 0, kept)
	if alarm["sessions"] != 3.0 || alarm["faults"] != 2.0 || !strings.Contains(fmt.Sprint(alarm["cause"]), "divide by zero") {
		t.Errorf("the alarm is %v", alarm["raw"])
	}
	for _, d := range []*talk{keep, shut, dev} {
		d.say("still").hear("still")
	}
	// Bad to new ones only.
	if got := exchange(t, w.addr, greeting+connectTo("once.test", w.target.port)); got != chosen+replied(1) {
		t.Errorf("a new session is answered by % x", got)
	}
	w.data["divisor"] = 1
	w.set("shut", "shut.test", "late")
	w.edited()
	w.expect(w.ended(shut, "shut.test"), "cut: policy REV denies (route): late")
	keep.say("still").hear("still")
	dev.say("still").hear("still")
	w.mu.Lock()
	defer w.mu.Unlock()
	alarms := 0
	for _, e := range w.log {
		if e["msg"] == kept {
			alarms++
		}
	}
	if alarms != 1 {
		t.Errorf("there are %d alarms", alarms)
	}
}

// A user whose time is over loses the sessions without a new policy; one whose
// time is extended keeps them.
func TestLiveSessionsEndWithTheirUsers(t *testing.T) {
	t.Parallel()
	w := startLive(t)
	soon := time.Now().Add(3 * time.Second)
	for _, name := range []string{"ann", "bob"} {
		w.set("users", name, with(w.data["users"], name, "expires", soon.UnixNano()))
	}
	w.save()
	w.wait(t, 1, "policy active")
	ann, bob, cid := w.tunnel("user.test", "ann", "a"), w.tunnel("dev.test", "bob", "b"), w.tunnel("keep.test", "cid", "c")
	w.set("users", "bob", with(w.data["users"], "bob", "expires", soon.Add(time.Hour).Format(time.RFC3339)))
	delete(w.data["users"].(map[string]any), "cid")
	w.edited()
	r := w.ended(cid, "keep.test")
	if r["outcome"] != "cut" || !strings.HasSuffix(fmt.Sprint(r["cause"]), ": the user is gone") {
		t.Errorf("the session of a user that is gone is recorded as %v", r["raw"])
	}
	r = w.ended(ann, "user.test")
	if early := time.Until(soon); early > 0 {
		t.Errorf("it was cut %v before its end", early)
	}
	w.expect(r, "cut: policy REV: the user has expired")
	bob.say("still").hear("still")
}

// Everybody has gone when a policy says so, and nothing is left of them.
func TestAllLiveSessionsAreCut(t *testing.T) {
	const n = 300
	w := startLive(t)
	before := w.descriptors(t)
	var all []*talk
	for range n {
		all = append(all, w.tunnel("keep.test", "", ""))
	}
	w.set("shut", "keep.test", "enough")
	saved := time.Now()
	if r := w.edited(); r["sessions"] != float64(n) || r["cut"] != float64(n) {
		t.Errorf("the round is told of as %v", r["raw"])
	}
	for _, d := range all {
		if got, err := d.rest(); got != "" || !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("after the cut there come %q, %v", got, err)
		}
	}
	t.Logf("all were closed %v after the edit", time.Since(saved))
	for i := range n {
		if r := w.wait(t, i, "session"); r["outcome"] != "cut" || r["cause"] != fmt.Sprintf("cut: policy %s denies (route): enough", r["policy.revision"]) {
			t.Fatalf("it is recorded as %v", r["raw"])
		}
	}
	for deadline := time.Now().Add(10 * time.Second); w.descriptors(t) > before+10; {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors are open, %d were before", w.descriptors(t), before)
		}
	}
}
