package manage

import (
	"encoding/json"
	"strings"
	"testing"

	"sallyport/proxy/guard"
)

func TestAKeyThatIsThereTwice(t *testing.T) {
	for _, c := range []struct {
		text string
		same func(string) string
		want string // "": no key is there twice
	}{
		{`{"a": 1, "b": {"a": 1}, "c": [{"a": 1}, {"a": 1}]}`, exact, ""},
		{`{"a": "a", "b": "a", "c": ["a", "a"], "d": 1e999}`, exact, ""},
		{`{"a": 1, "b": 2, "a": 3}`, exact, "a is there twice"},
		{`{"a": null, "a": null}`, exact, "a is there twice"},
		{`{"a": {}, "\u0061": []}`, exact, "a is there twice"},
		{`{"": 1, "": 2}`, exact, " is there twice"},
		{`{"users": {"ann": {"groups": [], "groups": []}}}`, exact, "users.ann.groups is there twice"},
		{`{"users": {"ann": {}, "bob": {}, "ann": {}}}`, exact, "users.ann is there twice"},
		{`{"a": [1, [], {}, {"x": [[{"b": 1, "b": 2}]]}]}`, exact, "a[3].x[0][0].b is there twice"},
		{`[{"a": 1}, {"a": 1, "a": 1}]`, exact, "[1].a is there twice"},
		{`{"users": {"Ann": {}, "ann": {}}}`, exact, ""},
		{`{"for": "1h", "FOR": "2h"}`, folded, "FOR is there twice"},
		{`{"kind": 1, "\u212aind": 2}`, folded, "\u212aind is there twice"},
		{"7", exact, ""},
	} {
		got := ""
		if err := unique([]byte(c.text), c.same); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.text, got, c.want)
		}
	}
	long := strings.Repeat("k", 1<<20)
	if err := unique([]byte(`{"`+long+`": {"`+long+`": 1, "`+long+`": 2}}`), exact); err == nil || len(err.Error()) > 2<<10 {
		t.Errorf("of a long key %d bytes are told", len(err.Error()))
	}
}

// What encoding/json has read and written again has each key once, and what it
// takes it takes without a panic of ours.
func FuzzUnique(f *testing.F) {
	f.Add([]byte(`{"a": [{"b": 1}, 2, "c"], "a": {}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var value any
		if json.Unmarshal(text, &value) != nil {
			return
		}
		_ = unique(text, exact)
		again, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if err := unique(again, exact); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}

// A body with a key twice could be read by a person as the one, and is refused.
func TestBodiesWithAKeyTwice(t *testing.T) {
	d, g := new(directory), guard.New(10)
	b := start(t, everyone, func(o *Options) { o.Users, o.Bans = d, g })
	for _, c := range []struct{ path, body, says string }{
		{"/v1/users/ann", `{"password": "p", "groups": ["dev"], "groups": ["ops"]}`, "groups"},
		{"/v1/users/ann", `{"password": "p", "attributes": {"x": [{"y": 1, "y": 2}]}}`, "attributes.x[0].y"},
		{"/v1/users", `{"users": {"bob": {"password": "p"}, "b\u006fb": {"password": "q"}}}`, "users.bob"},
		{"/v1/users", `{"users": {}, "users": {"bob": {"password": "p"}}}`, "users"},
		{"/v1/bans/192.0.2.1", `{"for": "1h", "for": "1s"}`, "for"},
		{"/v1/bans/192.0.2.1", `{"for": "1h", "For": "1s"}`, "For"},
		{"/v1/bans", `{"bans": [{"of": "192.0.2.1"}, {"of": "192.0.2.2", "of": "192.0.2.3"}]}`, "bans[1].of"},
		{"/v1/bans", `{"bans": [], "bans": [{"of": "192.0.2.1"}]}`, "bans"},
	} {
		want := `{"error":"` + c.says + ` is there twice"}` + "\n"
		if got := b.send(t, "PUT", c.path, c.body); got.status != 400 || got.body != want {
			t.Errorf("%s %s: %d %s, want %s", c.path, c.body, got.status, got.body, want)
		}
	}
	if d.last() != "" || g.ActiveBans() != 0 {
		t.Errorf("written: %q, and %d bans", d.last(), g.ActiveBans())
	}
}
