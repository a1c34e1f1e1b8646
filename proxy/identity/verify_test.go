package identity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// worker counts what is worked on, and can make the work last.
type worker struct {
	mu      sync.Mutex
	done    []string // the hashes, in the order of their beginning
	now     int
	most    int // at once
	blocked chan struct{}
}

func (w *worker) match(h *hash, password string) bool {
	w.mu.Lock()
	w.done = append(w.done, h.text)
	w.now++
	w.most = max(w.most, w.now)
	w.mu.Unlock()
	if w.blocked != nil {
		<-w.blocked
	}
	same := h.matches(password)
	w.mu.Lock()
	w.now--
	w.mu.Unlock()
	return same
}

// worked returns what was worked on since the last call.
func (w *worker) worked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	done := w.done
	w.done = nil
	return done
}

func verifier(t testing.TB, parallel int, object map[string]any) (*Verifier, *worker) {
	t.Helper()
	v, w := NewVerifier(parallel), new(worker)
	v.match = w.match
	v.SetUsers(parsed(t, object))
	return v, w
}

func parsed(t testing.TB, object map[string]any) *Users {
	t.Helper()
	u, problems := Parse(object)
	if problems != nil {
		t.Fatal(errors.Join(problems...))
	}
	return u
}

func verify(t testing.TB, v *Verifier, username, password string) Result {
	t.Helper()
	r, err := v.Verify(t.Context(), username, password)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerify(t *testing.T) {
	bcryptHash, argon2idHash := cheap(t, "secret", Bcrypt), cheap(t, "secret", Argon2id)
	v, w := verifier(t, 1, map[string]any{
		"alice":    map[string]any{"password": argon2idHash, "groups": []any{"ops"}, "attributes": map[string]any{"tier": "x"}},
		"bob":      map[string]any{"password": bcryptHash, "expires": "2999-01-01T00:00:00Z"},
		"disabled": map[string]any{"password": argon2idHash, "groups": []any{"ops"}, "disabled": true},
		"expired":  map[string]any{"password": bcryptHash, "expires": "2001-01-01T00:00:00Z"},
	})
	for _, test := range []struct {
		username, password string
		want               Result
	}{
		{"alice", "secret", Result{Known: true, Verified: true, Groups: []string{"ops"}, Attributes: map[string]any{"tier": "x"}}},
		{"alice", "Secret", Result{Known: true}},
		{"alice", "secret ", Result{Known: true}},
		{"alice", "secre", Result{Known: true}},
		{"alice", "", Result{Known: true}},
		{"alice", argon2idHash, Result{Known: true}},
		{"bob", "secret", Result{Known: true, Verified: true, Expires: time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)}},
		{"bob", "secret\x00", Result{Known: true}},
		{"bob", "secret\x00secret", Result{Known: true}},
		{"disabled", "secret", Result{Known: true}},
		{"disabled", "wrong", Result{Known: true}},
		{"expired", "secret", Result{Known: true}},
		{"Alice", "secret", Result{}},
		{"alice ", "secret", Result{}},
		{"alice\x00", "secret", Result{}},
		{"alic", "secret", Result{}},
		{"", "secret", Result{}},
		{"", "", Result{}},
		{"mallory", "secret", Result{}}, // the right password of whoever stands in
	} {
		for range 2 {
			got := verify(t, v, test.username, test.password)
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("%q, %q: got %+v, want %+v", test.username, test.password, got, test.want)
			}
			worked := w.worked()
			if len(worked) != 1 {
				t.Errorf("%q, %q: %d hashes were worked on", test.username, test.password, len(worked))
			} else if test.want.Known {
				e, _ := v.users.Load().find(test.username)
				if worked[0] != e.user.Password {
					t.Errorf("%q: %s was worked on", test.username, worked[0])
				}
			}
			if test.want.Verified {
				break // is remembered
			}
		}
	}
}

// Remembered says what Verify would, and only where that would not work or wait.
func TestRemembered(t *testing.T) {
	user := func(more map[string]any) map[string]any {
		of := map[string]any{"password": cheap(t, "secret", Argon2id), "groups": []any{"ops"}}
		maps.Copy(of, more)
		return map[string]any{"alice": of}
	}
	alice := user(nil)
	v, w := verifier(t, 1, alice)
	recalls := func(want bool, username, password string) {
		t.Helper()
		got, ok := v.Remembered(username, password)
		if ok != want {
			t.Fatalf("%s, %s: recalled is %t", username, password, ok)
		}
		if n := len(w.worked()); n > 0 {
			t.Errorf("%s, %s: worked %d times", username, password, n)
		}
		if !ok {
			return
		}
		if verified := verify(t, v, username, password); !reflect.DeepEqual(got, verified) || len(w.worked()) > 0 {
			t.Errorf("%s, %s: got %+v, and %+v by Verify", username, password, got, verified)
		}
	}
	token := "eyJhbGciOiJub25lIn0.e30.c2ln" // is no password, and no work
	recalls(true, "alice", token)
	recalls(true, "mallory", token)
	recalls(false, "alice", "secret")
	verify(t, v, "alice", "secret")
	verify(t, v, "alice", "wrong")
	verify(t, v, "mallory", "secret")
	w.worked()
	recalls(true, "alice", "secret")
	recalls(false, "alice", "wrong")
	recalls(false, "mallory", "secret")

	disabled := maps.Clone(alice["alice"].(map[string]any))
	disabled["disabled"] = true
	v.SetUsers(parsed(t, map[string]any{"alice": disabled}))
	recalls(false, "alice", "secret")
	v.SetUsers(parsed(t, user(nil))) // the same password by another salt
	recalls(false, "alice", "secret")
	v.SetUsers(parsed(t, alice))
	recalls(true, "alice", "secret")
}

func TestUnknownNamesCostTheSame(t *testing.T) {
	stored := []string{cheap(t, "x", Bcrypt), cheap(t, "x", Argon2id)}
	v, w := verifier(t, 1, map[string]any{
		"a": map[string]any{"password": stored[0]}, "b": map[string]any{"password": stored[1]},
	})
	for i := range 20 {
		name := fmt.Sprint("stranger", i)
		verify(t, v, name, "guess")
		first := w.worked()
		verify(t, v, name, "another")
		if again := w.worked(); len(first) != 1 || !slices.Contains(stored, first[0]) || !slices.Equal(first, again) {
			t.Fatalf("%s: worked on %q, then on %q", name, first, again)
		}
	}

	v.SetUsers(nil)
	v.match = func(h *hash, _ string) bool {
		if h.memory != freshMemory || h.time != freshTime || h.threads != freshThreads || len(h.key) != freshKey {
			t.Errorf("without users: %+v", h)
		}
		return true
	}
	if got := verify(t, v, "", ""); !reflect.DeepEqual(got, Result{}) {
		t.Errorf("without users: %+v", got)
	}
}

func TestSuccessesAreRemembered(t *testing.T) {
	one, other := cheap(t, "secret", Argon2id), cheap(t, "other", Argon2id)
	user := func(hash string) map[string]any {
		return map[string]any{"alice": map[string]any{"password": hash}, "twin": map[string]any{"password": hash}}
	}
	v, w := verifier(t, 1, user(one))
	check := func(name, password string, verified bool, work int) {
		t.Helper()
		if got := verify(t, v, name, password); got.Verified != verified {
			t.Errorf("%s, %s: verified is %t", name, password, got.Verified)
		}
		if worked := w.worked(); len(worked) != work {
			t.Errorf("%s, %s: worked %d times, want %d", name, password, len(worked), work)
		}
	}
	check("alice", "secret", true, 1)
	check("alice", "secret", true, 0)
	check("alice", "secretX", false, 1)
	check("alice", "secretX", false, 1)
	check("twin", "secret", true, 1) // nothing is shared between names

	v.SetUsers(parsed(t, user(other)))
	check("alice", "secret", false, 1)
	v.SetUsers(parsed(t, user(one)))
	check("alice", "secret", true, 0)

	disabled := user(one)
	disabled["alice"].(map[string]any)["disabled"] = true
	v.SetUsers(parsed(t, disabled))
	check("alice", "secret", false, 1)
	v.SetUsers(nil)
	check("twin", "secretX", false, 1)
	if got := verify(t, v, "alice", "secret"); got.Known || got.Verified {
		t.Errorf("a removed user: %+v", got)
	}
}

func TestRememberedUsersExpire(t *testing.T) {
	hash := cheap(t, "secret", Bcrypt)
	synctest.Test(t, func(t *testing.T) {
		v, w := verifier(t, 1, map[string]any{"alice": map[string]any{
			"password": hash, "expires": float64(time.Now().Add(time.Hour).UnixNano()),
		}})
		for i, want := range []bool{true, true, false, false} {
			if got := verify(t, v, "alice", "secret"); got.Verified != want {
				t.Errorf("%d: verified is %t", i, got.Verified)
			}
			time.Sleep(40 * time.Minute)
		}
		if n := len(w.worked()); n != 3 {
			t.Errorf("worked %d times, want 3", n)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	m := newMemory()
	verified := func(i int) {
		k := m.mark(fmt.Sprint(i))
		if remembered, w, mine := m.begin(k); !remembered && mine {
			m.end(k, w, true, nil)
		}
	}
	for i := range 10 * maxRemembered {
		verified(i)
		verified(0) // in use: is not forgotten
		if n := len(m.recent) + len(m.older); n > maxRemembered {
			t.Fatalf("%d are remembered", n)
		}
	}
	if remembered, _, _ := m.begin(m.mark("0")); !remembered {
		t.Error("what is in use was forgotten")
	}
	if remembered, _, _ := m.begin(m.mark("1")); remembered {
		t.Error("the oldest is still remembered")
	}
	if m.mark("ab", "c") == m.mark("a", "bc") || m.mark("a") == newMemory().mark("a") {
		t.Error("marks are not what they should be")
	}
}

func TestWorkIsBounded(t *testing.T) {
	hash := cheap(t, "secret", Bcrypt)
	synctest.Test(t, func(t *testing.T) {
		const parallel = 3
		v, w := verifier(t, parallel, map[string]any{"alice": map[string]any{"password": hash}})
		verify(t, v, "alice", "secret")
		w.blocked = make(chan struct{})

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1000)
		for i := range parallel + maxWaiting {
			go func() {
				_, err := v.Verify(ctx, "alice", fmt.Sprint("guess", i))
				ended <- err
			}()
		}
		synctest.Wait()
		if _, err := v.Verify(t.Context(), "alice", "one too many"); !errors.Is(err, ErrBusy) {
			t.Errorf("got %v, want %v", err, ErrBusy)
		}
		if got := verify(t, v, "alice", "secret"); !got.Verified {
			t.Error("a remembered client has to wait")
		}
		cancel()
		synctest.Wait()
		if n := len(ended); n != maxWaiting {
			t.Errorf("%d gave up waiting, want %d", n, maxWaiting)
		}
		for range maxWaiting {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v, want %v", err, context.Canceled)
			}
		}
		close(w.blocked)
		for range parallel {
			if err := <-ended; err != nil {
				t.Errorf("work that had begun: %v", err)
			}
		}
		if w.most != parallel {
			t.Errorf("worked on %d at once, want %d", w.most, parallel)
		}
		if _, err := v.Verify(t.Context(), "alice", "again"); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestWorkIsShared(t *testing.T) {
	hash := cheap(t, "secret", Bcrypt)
	for password, want := range map[string]bool{"secret": true, "wrong": false} {
		synctest.Test(t, func(t *testing.T) {
			v, w := verifier(t, 1, map[string]any{"alice": map[string]any{"password": hash}})
			w.blocked = make(chan struct{})
			results := make(chan Result, 1000)
			for range 1000 {
				go func() { results <- verify(t, v, "alice", password) }()
			}
			synctest.Wait()
			close(w.blocked)
			for range 1000 {
				if r := <-results; r.Verified != want {
					t.Fatalf("%s: verified is %t", password, r.Verified)
				}
			}
			if n := len(w.worked()); n != 1 {
				t.Errorf("%s: worked %d times", password, n)
			}
		})
	}
}

// The client whose work others wait for goes away before its turn.
func TestSharedWorkIsTakenOver(t *testing.T) {
	hash := cheap(t, "secret", Bcrypt)
	synctest.Test(t, func(t *testing.T) {
		v, w := verifier(t, 1, map[string]any{"alice": map[string]any{"password": hash}})
		w.blocked = make(chan struct{})
		go v.Verify(t.Context(), "alice", "takes the only turn")
		synctest.Wait()

		gone, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := v.Verify(gone, "alice", "secret")
			left <- err
		}()
		synctest.Wait()
		stays := make(chan Result, 1)
		go func() { stays <- verify(t, v, "alice", "secret") }()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
		close(w.blocked)
		if r := <-stays; !r.Verified {
			t.Error("who stayed was not verified")
		}
	})
}

// A token is nobody's password, whosever hash it has, and nobody works for it.
func TestTokensAreNotCompared(t *testing.T) {
	token := b64(`{"alg":"none"}`) + "." + b64(`{}`) + ".AAAA"
	if _, err := Hash([]byte(token), Argon2id); err == nil {
		t.Error("there is a hash of a token")
	}
	h := newArgon2id()
	h.key = h.derive(token)
	v, w := verifier(t, 1, map[string]any{"ann": map[string]any{"password": h.argon2idText()}})
	for name, known := range map[string]bool{"ann": true, "bob": false} {
		r, err := v.Verify(t.Context(), name, token)
		if want := (Result{Known: known}); err != nil || !reflect.DeepEqual(r, want) {
			t.Errorf("%s: %+v, %v, want %+v", name, r, err, want)
		}
		if done := w.worked(); len(done) != 0 {
			t.Errorf("%s: there was work on %v", name, done)
		}
		if _, err := v.Verify(t.Context(), name, token+"."); err != nil || len(w.worked()) != 1 {
			t.Errorf("%s: what is no token was not worked on: %v", name, err)
		}
	}
}
