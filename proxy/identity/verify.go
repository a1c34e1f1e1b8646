package identity

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// ErrBusy is that too many verifications wait already.
var ErrBusy = errors.New("too many passwords wait to be verified")

// maxWaiting bounds the verifications that wait for their turn.
const maxWaiting = 256

// Result is what is known of a client that presented a name and a password.
// Groups and Attributes are those of a verified user, and not to be changed.
type Result struct {
	Known      bool // there is a user of that name
	Verified   bool // it may log in now, and the password is right
	Groups     []string
	Attributes map[string]any
	Expires    time.Time // of a verified user; zero: never
	Since      time.Time // of a verified user of the store: when the name was taken in
}

// Standing is what is known now of a user that was verified before. Groups and
// Attributes are not to be changed.
type Standing struct {
	Ended      string // why it may not log in any more: "gone", "disabled" or "expired"; "" where it may
	Groups     []string
	Attributes map[string]any
	Expires    time.Time // zero: never
	Since      time.Time // of a user of the store: when the name was taken in; else it is another user
}

// Verifier verifies passwords, so many at once and no more.
type Verifier struct {
	users  atomic.Pointer[Users]
	memory *memory
	admit  chan struct{} // one for each verification that works or waits
	turn   chan struct{} // one for each that works
	match  func(h *hash, password string) bool
}

// NewVerifier returns a verifier that knows no users and works on at most
// parallel passwords at once, or one. Each takes a core for some 20 ms, and the
// memory that its hash names: 19 MiB for those that Hash makes.
func NewVerifier(parallel int) *Verifier {
	parallel = max(parallel, 1)
	v := &Verifier{
		memory: newMemory(),
		admit:  make(chan struct{}, parallel+maxWaiting),
		turn:   make(chan struct{}, parallel),
		match:  (*hash).matches,
	}
	v.SetUsers(nil)
	return v
}

// SetUsers replaces the users, at once and as a whole. Nil: there are none.
func (v *Verifier) SetUsers(u *Users) {
	if u == nil {
		u = newUsers(nil)
	}
	v.users.Store(u)
}

// Verify says whether there is such a user and whether the password is right.
// The error is ErrBusy or that of ctx, which bounds the wait for a turn; work
// that has begun is finished. Name and password are compared byte by byte. A
// [Token] is the password of nobody, and no work is done for it.
func (v *Verifier) Verify(ctx context.Context, username, password string) (Result, error) {
	e, known := v.users.Load().find(username)
	if Token(password) != "" {
		return Result{Known: known}, nil
	}
	active := known && e.user.active(time.Now())
	verified, err := v.verify(ctx, e, username, password, active)
	if err != nil {
		return Result{}, err
	}
	if !verified {
		return Result{Known: known}, nil
	}
	return e.result(), nil
}

// Remembered is Verify where there is nothing to work on or to wait for, and reports
// whether that is so.
func (v *Verifier) Remembered(username, password string) (Result, bool) {
	e, known := v.users.Load().find(username)
	if Token(password) != "" {
		return Result{Known: known}, true
	}
	if !known || !e.user.active(time.Now()) || !v.memory.recall(v.mark(e, username, password, true)) {
		return Result{}, false
	}
	return e.result(), true
}

// result is that of a verified user.
func (e *entry) result() Result {
	return Result{
		Known: true, Verified: true,
		Groups: e.user.Groups, Attributes: e.user.Attributes, Expires: e.user.Expires, Since: e.user.Created,
	}
}

// mark has the user's state in it, so that what is shared is only between clients of
// whom the same is true.
func (v *Verifier) mark(e *entry, username, password string, active bool) mark {
	state := "inactive"
	if active {
		state = "active"
	}
	return v.memory.mark(username, password, e.hash.text, state)
}

// Lookup says what has become of a user whose password was verified. A changed
// password is none of it: it is asked for at the next log-in. The time that it
// takes tells names that are known from others.
func (v *Verifier) Lookup(username string) Standing {
	e, known := v.users.Load().find(username)
	switch {
	case !known:
		return Standing{Ended: "gone"}
	case e.user.Disabled:
		return Standing{Ended: "disabled"}
	case !e.user.active(time.Now()):
		return Standing{Ended: "expired"}
	}
	return Standing{Groups: e.user.Groups, Attributes: e.user.Attributes, Expires: e.user.Expires, Since: e.user.Created}
}

// verify answers from memory, with somebody else's work, or with its own. Only
// active users are ever remembered.
func (v *Verifier) verify(ctx context.Context, e *entry, username, password string, active bool) (bool, error) {
	k := v.mark(e, username, password, active)
	for {
		remembered, w, mine := v.memory.begin(k)
		if remembered {
			return true, nil
		}
		if mine {
			same, err := v.work(ctx, &e.hash, password)
			verified := same && active
			v.memory.end(k, w, verified, err)
			return verified, err
		}
		select {
		case <-w.done:
			if w.err == nil || errors.Is(w.err, ErrBusy) {
				return w.verified, w.err
			}
			// Whose work it was has gone away: somebody else takes over.
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// work waits for a turn, first come first served, and computes the hash.
func (v *Verifier) work(ctx context.Context, h *hash, password string) (bool, error) {
	select {
	case v.admit <- struct{}{}:
		defer func() { <-v.admit }()
	default:
		return false, ErrBusy
	}
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return v.match(h, password), nil
}
