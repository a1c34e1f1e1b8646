package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/proxy/secret"
	"sallyport/proxy/store"
)

// memoryStore is a store that forgets, and fails where it is told to.
type memoryStore struct {
	mu     sync.Mutex
	values map[string][]byte
	fails  error
}

func (m *memoryStore) Each(kind string, visit func(string, []byte) error) error {
	m.mu.Lock()
	values := maps.Clone(m.values)
	m.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if err := visit(key, values[key]); err != nil {
			return err
		}
	}
	return nil
}

func (m *memoryStore) Apply(changes ...store.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails != nil {
		return m.fails
	}
	for _, c := range changes {
		if c.Kind != "user" {
			return fmt.Errorf("kind %q", c.Kind)
		}
		if c.Value == nil {
			delete(m.values, c.Key)
			continue
		}
		m.values[c.Key] = slices.Clone(c.Value)
	}
	return nil
}

type kept struct {
	*Directory
	v      *Verifier
	w      *worker
	store  *memoryStore
	writes atomic.Int64
}

func newKept(t testing.TB) *kept {
	t.Helper()
	k := &kept{v: NewVerifier(2), w: new(worker), store: &memoryStore{values: map[string][]byte{}}}
	k.v.match = k.w.match
	k.open(t)
	return k
}

// open reads the store anew.
func (k *kept) open(t testing.TB) {
	t.Helper()
	d, err := NewDirectory(k.v, k.store, func() { k.writes.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	k.Directory = d
}

func (k *kept) write(t testing.TB, terms Terms, name string, object map[string]any) {
	t.Helper()
	if err := k.Write(t.Context(), terms, edit(t, name, object)); err != nil {
		t.Fatal(err)
	}
}

func edit(t testing.TB, name string, object map[string]any) Edit {
	t.Helper()
	e, err := ParseEdit(name, object)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDirectory(t *testing.T) {
	k := newKept(t)
	secret, other := cheap(t, "secret", Argon2id), cheap(t, "other", Bcrypt)
	k.write(t, Terms{New: true}, "ann", map[string]any{"hash": secret, "groups": []any{"ops"}, "attributes": map[string]any{"tier": "x"}, "expires": "2999-01-01T00:00:00Z"})
	since := func(name string) time.Time {
		a, ok := k.Account(name)
		if !ok {
			t.Fatalf("there is no %s", name)
		}
		return *a.Created
	}
	born := since("ann")
	want := Result{
		Known: true, Verified: true, Groups: []string{"ops"}, Attributes: map[string]any{"tier": "x"},
		Expires: time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC), Since: born,
	}
	if got := verify(t, k.v, "ann", "secret"); !reflect.DeepEqual(got, want) {
		t.Errorf("ann is %+v, want %+v", got, want)
	}
	tag := func() string { a, _ := k.Account("ann"); return a.Tag }
	before := tag()

	// What a write does not name is as of a new user, but for the hash, unless it is kept.
	k.write(t, Terms{Keep: true}, "ann", map[string]any{"hash": other})
	if got := verify(t, k.v, "ann", "other"); !reflect.DeepEqual(got, want) || verify(t, k.v, "ann", "secret").Verified {
		t.Errorf("with another hash ann is %+v", got)
	}
	k.write(t, Terms{Match: tag()}, "ann", map[string]any{"groups": []any{"dev"}, "name": "ann", "attributes": nil})
	if got := verify(t, k.v, "ann", "other"); !reflect.DeepEqual(got, Result{Known: true, Verified: true, Groups: []string{"dev"}, Since: born}) {
		t.Errorf("once replaced, ann is %+v", got)
	}
	k.open(t) // and so it is after a restart
	if got := verify(t, k.v, "ann", "other"); !got.Since.Equal(born) || !slices.Equal(got.Groups, []string{"dev"}) || tag() == before || tag() == "" {
		t.Errorf("once read again, ann is %+v", got)
	}
	k.write(t, Terms{}, "ann", map[string]any{"password": "in the clear"})
	if !verify(t, k.v, "ann", "in the clear").Verified || strings.Contains(string(k.store.values["ann"]), "clear") {
		t.Errorf("a password in the clear: %s", k.store.values["ann"])
	}

	for name, c := range map[string]struct {
		terms Terms
		err   error
	}{
		"ann": {Terms{New: true}, ErrExists}, "bob": {Terms{Match: "*"}, ErrChanged}, "ann ": {Terms{Match: tag()}, ErrChanged},
	} {
		if err := k.Write(t.Context(), c.terms, edit(t, name, map[string]any{"hash": secret})); !errors.Is(err, c.err) {
			t.Errorf("%q with %+v: %v", name, c.terms, err)
		}
	}
	if err := k.Write(t.Context(), Terms{Match: before}, edit(t, "ann", nil)); !errors.Is(err, ErrChanged) {
		t.Errorf("over what has changed: %v", err)
	}
	if err := k.Write(t.Context(), Terms{}, edit(t, "bob", nil)); err == nil || !strings.Contains(err.Error(), `users["bob"]: a new user needs a password or a hash`) {
		t.Errorf("without a hash: %v", err)
	}
	if err := k.Remove("ann", before); !errors.Is(err, ErrChanged) {
		t.Errorf("removing what has changed: %v", err)
	}
	if err := k.Remove("bob", ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("removing nobody: %v", err)
	}
	if n := k.writes.Load(); n != 4 {
		t.Errorf("%d writes were told of, want 4", n)
	}
	if err := k.Remove("ann", tag()); err != nil || k.v.Lookup("ann").Ended != "gone" || len(k.store.values) != 0 {
		t.Errorf("ann was removed: %v", err)
	}
	k.write(t, Terms{}, "ann", map[string]any{"hash": secret})
	if !since("ann").After(born) || !k.v.Lookup("ann").Since.After(born) {
		t.Error("another ann is the same")
	}
}

// The policy's users come before the store's, and cannot be written.
func TestDirectoryOfBothPlaces(t *testing.T) {
	k := newKept(t)
	mine, theirs := cheap(t, "mine", Argon2id), cheap(t, "theirs", Argon2id)
	k.write(t, Terms{}, "ann", map[string]any{"hash": mine, "groups": []any{"store"}})
	k.write(t, Terms{}, "bob", map[string]any{"hash": mine})
	hidden := k.SetPolicy(parsed(t, map[string]any{"ann": map[string]any{"password": theirs, "disabled": true}, "cid": map[string]any{"password": theirs}}))
	if !slices.Equal(hidden, []string{"ann"}) {
		t.Errorf("hidden are %q", hidden)
	}
	check := func(when string, want map[string][2]bool) { // whether each password is right
		t.Helper()
		for name, right := range want {
			for i, password := range []string{"mine", "theirs"} {
				if got := verify(t, k.v, name, password).Verified; got != right[i] {
					t.Errorf("%s %s with %s: %v", when, name, password, got)
				}
			}
		}
	}
	check("with a policy", map[string][2]bool{"ann": {}, "bob": {true, false}, "cid": {false, true}})
	if s := k.v.Lookup("ann"); s.Ended != "disabled" {
		t.Errorf("ann is %+v", s)
	}
	if err := k.Write(t.Context(), Terms{}, edit(t, "ann", map[string]any{"groups": []any{}})); !errors.Is(err, ErrPolicy) {
		t.Errorf("writing the policy's: %v", err)
	}
	if err := k.Remove("cid", ""); !errors.Is(err, ErrPolicy) {
		t.Errorf("removing the policy's: %v", err)
	}
	var names []string
	for after, more := "", true; more; {
		var page []Account
		page, more = k.Accounts(after, 2)
		for _, a := range page {
			names = append(names, a.Name+" "+a.Source)
		}
		after = page[len(page)-1].Name
	}
	if got := strings.Join(names, ", "); got != "ann policy, bob store, cid policy" {
		t.Errorf("they are %s", got)
	}
	if a, _ := k.Account("ann"); !a.Hides || a.Tag != "" || a.Created != nil {
		t.Errorf("ann is shown as %+v", a)
	}
	k.SetPolicy(nil)
	check("without a policy", map[string][2]bool{"ann": {true, false}, "bob": {true, false}, "cid": {}})
}

// Where the store fails, nothing is changed, and later writes may succeed.
func TestDirectoryWhoseStoreFails(t *testing.T) {
	k := newKept(t)
	hash := cheap(t, "secret", Argon2id)
	k.write(t, Terms{}, "ann", map[string]any{"hash": hash})
	broken := errors.New("no space left")
	k.store.fails = broken
	writes := k.writes.Load()
	if err := k.Write(t.Context(), Terms{Keep: true}, edit(t, "ann", map[string]any{"disabled": true}), edit(t, "bob", map[string]any{"hash": hash})); !errors.Is(err, broken) {
		t.Errorf("a write: %v", err)
	}
	if err := k.Remove("ann", ""); !errors.Is(err, broken) {
		t.Errorf("a removal: %v", err)
	}
	if k.writes.Load() != writes || !verify(t, k.v, "ann", "secret").Verified || k.v.Lookup("bob").Ended != "gone" {
		t.Error("something has changed")
	}
	if list, _ := k.Accounts("", 10); len(list) != 1 || list[0].Disabled {
		t.Errorf("the list is %+v", list)
	}
	k.store.fails = nil
	k.write(t, Terms{Keep: true}, "ann", map[string]any{"disabled": true})
	if k.v.Lookup("ann").Ended != "disabled" {
		t.Error("a later write has not been done")
	}
}

// All that is wrong is told at once, without a password, and nothing is written.
func TestDirectoryRefuses(t *testing.T) {
	const planted = "planted-secret"
	deep := any("x")
	for range maxNesting + 1 {
		deep = []any{deep}
	}
	for _, c := range []struct {
		name   string
		object map[string]any
		want   string
	}{
		{"", map[string]any{"password": planted}, "a user's name has 1 to 255 bytes"},
		{"a\x00", map[string]any{"password": planted}, "without control characters"},
		{"a\u0085", map[string]any{"password": planted}, "without control characters"},
		{"a\xff", map[string]any{"password": planted}, "UTF-8"},
		{"a", map[string]any{"password": planted, "hash": planted}, "has both a password and a hash"},
		{"a", map[string]any{"hash": planted}, "hash: is not an argon2id or bcrypt hash"},
		{"a", map[string]any{"hash": "$argon2id$v=19$m=1048576,t=1,p=1$" + strings.Repeat("A", 11) + "$" + strings.Repeat("A", 22)}, "costs too much"},
		{"a", map[string]any{"password": referenceBcrypt}, "has the form of a hash"},
		{"a", map[string]any{"password": ""}, "password: is empty"},
		{"a", map[string]any{"password": []any{planted}}, "password: want a string; is an array"},
		{"a", map[string]any{"password": planted + strings.Repeat("x", 255)}, "255 are the most"},
		{"a", map[string]any{"password": planted, "name": "b"}, "name: is another one"},
		{"a", map[string]any{"password": planted, "groups": "ops"}, "groups: want an array of strings; is a string"},
		{"a", map[string]any{"password": planted, "groups": []any{""}}, "groups[0]: want 1 to 255 bytes"},
		{"a", map[string]any{"password": planted, "attributes": map[string]any{"x": deep}}, "nested more than 32 levels"},
		{"a", map[string]any{"password": planted, "attributes": map[string]any{"x": json.Number("1e999")}}, "out of range"},
		{"a", map[string]any{"password": planted, "attributes": map[string]any{"x": strings.Repeat("x", maxRecord)}}, "16384 are the most"},
		{"a", map[string]any{"password": planted, "disabled": "no"}, "disabled: want a boolean"},
		{"a", map[string]any{"password": planted, "expires": "tomorrow"}, "expires:"},
		{"a", map[string]any{"password": planted, "expires": "9999-12-31T23:59:59-01:00"}, "expires:"},
		{"a", map[string]any{"password": planted, "admin": true}, `"admin" is not known`},
		{"a", map[string]any{"password": "e30.e30.e30"}, ""},
	} {
		k := newKept(t)
		e, err := ParseEdit(c.name, c.object)
		if err == nil {
			err = k.Write(t.Context(), Terms{}, e, edit(t, "good", map[string]any{"hash": referenceBcrypt}))
		}
		var problems Problems
		switch {
		case c.want == "":
			if err != nil {
				t.Errorf("%v: %v", c.object, err)
			}
			continue
		case !errors.As(err, &problems) || !strings.Contains(err.Error(), c.want):
			t.Errorf("%q %v: %v, want %q", c.name, c.object, err, c.want)
		case strings.Contains(err.Error(), planted):
			t.Errorf("%v is told", err)
		}
		if len(k.store.values) != 0 || k.v.Lookup("good").Ended != "gone" {
			t.Errorf("%q: something was written", c.name)
		}
	}
	// A user that cannot be read ends the start.
	for text, want := range map[string]string{
		`{`: "is no JSON object", `{"password": "x"}`: "created: is no time",
		`{"password": "` + planted + `", "created": "2020-01-01T00:00:00Z", "changed": "2020-01-01T00:00:00Z"}`: "password: is not an argon2id",
	} {
		k := newKept(t)
		k.store.values["ann"] = []byte(text)
		if _, err := NewDirectory(k.v, k.store, nil); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "ann") || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The store has an end, and those who are there can still be changed.
func TestDirectoryIsBounded(t *testing.T) {
	k := newKept(t)
	edits := make([]Edit, MaxUsers)
	for i := range edits {
		edits[i] = Edit{Name: fmt.Sprint("user", i), Hash: cheapBcrypt(i)}
	}
	if err := k.Write(t.Context(), Terms{New: true}, edits...); err != nil {
		t.Fatal(err)
	}
	one := Edit{Name: "one more", Hash: referenceBcrypt}
	if err := k.Write(t.Context(), Terms{}, one); !errors.Is(err, ErrFull) {
		t.Errorf("one more: %v", err)
	}
	k.write(t, Terms{Keep: true}, "user7", map[string]any{"disabled": true})
	if err := k.Remove("user8", ""); err != nil {
		t.Error(err)
	}
	if err := k.Write(t.Context(), Terms{}, one); err != nil || k.v.Lookup("one more").Ended != "" || len(k.names) != MaxUsers {
		t.Errorf("in the place of another: %v", err)
	}

	k = newKept(t)
	large := strings.Repeat("x", maxRecord-512)
	edits = edits[:4200]
	for i := range edits {
		edits[i].Fields = map[string]any{"attributes": map[string]any{"x": large}}
	}
	if err := k.Write(t.Context(), Terms{}, edits...); !errors.Is(err, ErrFull) || len(k.store.values) > 0 {
		t.Errorf("too many bytes: %v", err)
	}
	if err := k.Write(t.Context(), Terms{}, edits[:4000]...); err != nil {
		t.Error(err)
	}
	if err := k.Write(t.Context(), Terms{}, edits[4000:]...); !errors.Is(err, ErrFull) {
		t.Errorf("too many bytes later: %v", err)
	}
}

// However users are written, the verifier has the same ring as one that is made
// of them anew: nothing is lost or left behind, and what unknown names meet is
// distributed as it is among the users.
func TestDirectoryKeepsTheRing(t *testing.T) {
	k := newKept(t)
	random := rand.New(rand.NewPCG(1, 2))
	expected := map[string]string{}
	for step := range 3000 {
		name := fmt.Sprint("user", random.IntN(60))
		switch random.IntN(8) {
		case 0, 1, 2:
			if err := k.Remove(name, ""); err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrPolicy) {
				t.Fatal(err)
			}
			delete(expected, name)
		case 3:
			policys := map[string]any{}
			for range random.IntN(4) {
				policys[fmt.Sprint("user", random.IntN(60))] = map[string]any{"password": cheapBcrypt(10_000 + step)}
			}
			k.SetPolicy(parsed(t, policys))
		default:
			hash := cheapBcrypt(random.IntN(10_000))
			if err := k.Write(t.Context(), Terms{}, Edit{Name: name, Hash: hash}); err == nil {
				expected[name] = hash
			} else if !errors.Is(err, ErrPolicy) {
				t.Fatal(err)
			}
		}
		got := k.v.users.Load()
		entries := []*entry{}
		for _, e := range k.policy.ring {
			if e.user != nil {
				entries = append(entries, &entry{name: e.name, user: e.user, hash: e.hash})
			}
		}
		for name, hash := range expected {
			if _, both := k.policy.find(name); !both {
				entries = append(entries, &entry{name: name, user: new(User), hash: mustParse(t, hash)})
			}
		}
		if len(entries) == 0 {
			continue
		}
		want := newUsers(entries)
		same := slices.EqualFunc(got.ring, want.ring, func(a, b *entry) bool {
			return a.name == b.name && a.place == b.place && a.hash.text == b.hash.text
		})
		if !same || got.key != want.key || got.least != want.least {
			t.Fatalf("step %d: the ring is not what it is when it is made anew", step)
		}
		if !slices.Equal(k.names, slices.Sorted(maps.Keys(expected))) || len(k.store.values) != len(expected) {
			t.Fatalf("step %d: the names are %v", step, k.names)
		}
	}
}

// An unknown name costs one hash, of some user's parameters, as a known one does.
func TestDirectoryHidesNames(t *testing.T) {
	k := newKept(t)
	k.SetPolicy(parsed(t, map[string]any{"policy": map[string]any{"password": cheap(t, "x", Bcrypt)}}))
	k.write(t, Terms{}, "store", map[string]any{"hash": cheap(t, "x", Argon2id)})
	met := map[string]bool{}
	for i := range 64 {
		name := fmt.Sprint("nobody", i)
		if verify(t, k.v, name, "x").Known {
			t.Fatal("nobody is known")
		}
		worked := k.w.worked()
		if len(worked) != 1 {
			t.Fatalf("%s costs %d hashes", name, len(worked))
		}
		met[worked[0]] = true
	}
	if len(met) != 2 {
		t.Errorf("unknown names meet %d hashes, want those of both places", len(met))
	}
}

// Many write at the same time: passwords are hashed one at a time, a caller that
// goes away waits for nothing.
func TestDirectoryIsWrittenByMany(t *testing.T) {
	k := newKept(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if err := k.Write(t.Context(), Terms{}, Edit{Name: fmt.Sprint("user", i%4), Password: secret.New(fmt.Sprint("password", i%4))}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range 4 {
		if !verify(t, k.v, fmt.Sprint("user", i), fmt.Sprint("password", i)).Verified {
			t.Errorf("user%d cannot log in", i)
		}
	}
	k.hashing <- struct{}{} // somebody's turn lasts
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Write(ctx, Terms{}, Edit{Name: "gone", Password: secret.New("x")}); !errors.Is(err, context.Canceled) {
		t.Errorf("who has gone away: %v", err)
	}
}
