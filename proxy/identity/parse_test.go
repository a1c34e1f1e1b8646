package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// users parses JSON.
func users(t testing.TB, text string) (*Users, []error) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return Parse(v)
}

func TestParse(t *testing.T) {
	u, problems := users(t, `{
		"alice": {"password": "`+referenceBcrypt+`", "groups": ["ops", "dev"], "attributes": {"tier": 3, "team": {"lead": true}},
			"disabled": true, "expires": "2030-01-02T03:04:05+01:00"},
		"Bob \u00e4\u0000": {"password": "`+referenceBcrypt+`", "expires": 1893553445000000000}
	}`)
	if problems != nil {
		t.Fatal(problems)
	}
	expires := time.Date(2030, 1, 2, 2, 4, 5, 0, time.UTC)
	e, known := u.find("alice")
	if !known {
		t.Fatal("alice is not known")
	}
	if !e.user.Expires.Equal(expires) {
		t.Errorf("alice expires %s", e.user.Expires)
	}
	e.user.Expires = time.Time{}
	if want := (User{
		Password: referenceBcrypt, Groups: []string{"ops", "dev"}, Disabled: true,
		Attributes: map[string]any{"tier": json.Number("3"), "team": map[string]any{"lead": true}},
	}); !reflect.DeepEqual(*e.user, want) {
		t.Errorf("alice is %+v, want %+v", *e.user, want)
	}
	e, known = u.find("Bob ä\x00")
	if !known || e.user.Expires.UnixNano() != 1893553445000000000 {
		t.Errorf("Bob is %+v, %t", e.user, known)
	}
	for _, name := range []string{"", "Alice", "alic", "alice ", "alice\x00", "Bob ä", "Bob a\u0308\x00"} {
		if _, known := u.find(name); known {
			t.Errorf("%q is known", name)
		}
	}

	for _, none := range []any{nil, map[string]any{}} {
		u, problems := Parse(none)
		if problems != nil {
			t.Fatal(problems)
		}
		if _, known := u.find(""); known {
			t.Error("there is a user where there are none")
		}
	}
	if u, problems := Parse(map[string]any{"a": map[string]any{"password": referenceBcrypt, "expires": 1.5e18}}); problems != nil || u == nil {
		t.Error(problems)
	}
}

func TestParseTellsEveryProblem(t *testing.T) {
	u, problems := users(t, `{
		"": {"password": "`+referenceBcrypt+`"},
		"array": [],
		"line\nbreak": {},
		"plain": {"password": "hunter2-very-secret"},
		"wrong": {"password": 7, "groups": "ops", "attributes": [], "disabled": "yes", "expires": true, "pasword": ""},
		"worse": {"password": "`+referenceBcrypt+`", "groups": ["ops", 3, null], "expires": "tomorrow"},
		"zero": {"password": "`+referenceBcrypt+`", "expires": 0},
		"half": {"password": "`+referenceBcrypt+`", "expires": 1.5},
		"huge": {"password": "`+referenceBcrypt+`", "expires": 1e30}
	}`)
	if u != nil {
		t.Error("there are users nevertheless")
	}
	want := []string{
		`data.users[""]: a user's name`,
		`data.users["array"]: want an object; is an array`,
		`data.users["half"]: expires: 1.5`,
		`data.users["huge"]: expires: 1e30`,
		`data.users["line\nbreak"]: password: is missing`,
		`data.users["plain"]: password: is not an argon2id or bcrypt hash; make one with`,
		`data.users["worse"]: expires: "tomorrow"`,
		`data.users["worse"]: groups[1]: want a string; is a number`,
		`data.users["worse"]: groups[2]: want a string; is null`,
		`data.users["wrong"]: attributes: want an object; is an array`,
		`data.users["wrong"]: disabled: want a boolean; is a string`,
		`data.users["wrong"]: expires: want`,
		`data.users["wrong"]: groups: want an array`,
		`data.users["wrong"]: password: want a string; is a number`,
		`data.users["wrong"]: "pasword" is not known`,
		`data.users["zero"]: expires: 0`,
	}
	if len(problems) != len(want) {
		t.Errorf("got %d problems, want %d:\n%v", len(problems), len(want), errors.Join(problems...))
	}
	for i := range min(len(want), len(problems)) {
		if !strings.HasPrefix(problems[i].Error(), want[i]) {
			t.Errorf("got %v, want %s…", problems[i], want[i])
		}
		if strings.Contains(problems[i].Error(), "hunter2") {
			t.Errorf("%v tells the password", problems[i])
		}
	}
	if _, problems := Parse([]any{}); len(problems) != 1 {
		t.Errorf("an array: %v", problems)
	}
}

// An unknown name meets the parameters that the users have, as often as they
// have them, and the same after a restart.
func TestStandIns(t *testing.T) {
	entries := func() []*entry {
		var all []*entry
		for i := range 400 {
			text := cheapBcrypt(i)
			if i%4 == 0 {
				text = fmt.Sprintf("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$%04dEOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", i)
			}
			all = append(all, &entry{name: fmt.Sprint("user", i), user: new(User), hash: mustParse(t, text)})
		}
		return all
	}
	u, again := newUsers(entries()), newUsers(entries())
	argon2id := 0
	for i := range 4000 {
		name := fmt.Sprint("stranger", i)
		e, known := u.find(name)
		if known {
			t.Fatalf("%s is known", name)
		}
		if e.hash.key != nil {
			argon2id++
		}
		if f, _ := again.find(name); f.hash.text != e.hash.text {
			t.Fatalf("%s meets another hash after a restart", name)
		}
	}
	if argon2id < 700 || argon2id > 1300 {
		t.Errorf("%d of 4000 unknown names meet argon2id, want about 1000", argon2id)
	}
	for _, e := range entries() {
		if f, known := u.find(e.name); !known || f.hash.text != e.hash.text {
			t.Errorf("%s is not found", e.name)
		}
	}
}

func cheapBcrypt(i int) string {
	return fmt.Sprintf("$2a$05$%022d%031d", i, i)
}

func FuzzParse(f *testing.F) {
	f.Add(`{"alice": {"password": "` + referenceBcrypt + `", "groups": ["ops"], "attributes": {}, "disabled": false, "expires": 1}}`)
	f.Add(`{"alice": {"password": "x", "expires": "2030-01-02T03:04:05Z"}}`)
	f.Add(`[null]`)
	f.Fuzz(func(t *testing.T, text string) {
		var v any
		if json.Unmarshal([]byte(text), &v) != nil {
			return
		}
		if u, problems := Parse(v); (u == nil) != (len(problems) > 0) {
			t.Errorf("users %v with problems %v", u, problems)
		}
	})
}
