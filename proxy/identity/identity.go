// Package identity knows users and verifies what clients say of themselves.
//
// They come from two places: the policy's data at data.users, which [Parse]
// reads, and a store of this server, which operators write to. [Directory] puts
// the two together into [Users], which never changes, and swaps one for another
// when a new policy is active or a user is written. A name that stands in both
// places is the policy's. [Verifier.Verify] says whether a name is known and its
// password right; what follows from that, the policy decides. [Hash] makes the
// hashes and [Token] picks out passwords that are really tokens.
//
// # What time tells
//
// A name that is unknown costs what a known one costs. All users stand on a
// ring, each at a keyed hash of its name, and a name is looked up by its place:
// a known one finds its own user, an unknown one the user that comes next, whose
// hash is then worked through to no effect. So the parameters that unknown
// names meet are distributed as those of the users, and a mix of algorithms
// tells nothing. The key is made of the hashes themselves, so that a name meets
// the same parameters after a restart; most changes of users leave it alone.
// Disabled and expired users, and passwords that bcrypt would cut short, cost
// the same work as well.
//
// Successes are remembered, so that a client that opens many connections pays
// once. The memory is keyed by name, password and stored hash under a key that
// the process makes up, so that it holds no password and a changed hash never
// matches. Only who presents a right password can see an answer come faster,
// and has learnt nothing by it. Failures are never remembered, but a guess that
// is repeated while it is still being worked on shares that work.
//
// A password that is a token is compared with no hash, whosever name comes with
// it: an answer to one comes at once for all names, and tells nothing of them.
//
// hash.go has the algorithms, parse.go the reading of a user, verify.go the
// verifier and its bounds, memory.go what it remembers, token.go tokens;
// directory.go has the users of both places and account.go how they are shown,
// write.go what is written to the store, htpasswd.go the files of others.
package identity

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

// User is one entry of data.users or of the store.
type User struct {
	Password   string // an argon2id or bcrypt hash
	Groups     []string
	Attributes map[string]any
	Disabled   bool
	Expires    time.Time // zero: never

	// Of the store's only.
	Created time.Time // when the name was taken in
	Changed time.Time // when it was written last
}

// active is whether the user may log in now.
func (u *User) active(now time.Time) bool {
	return !u.Disabled && (u.Expires.IsZero() || now.Before(u.Expires))
}

// Users is a set of users. It never changes. Nil is a set of none.
type Users struct {
	key   [sha256.Size]byte
	least string   // hash, of which the key is made
	ring  []*entry // by place; never empty
}

type entry struct {
	place uint64
	name  string
	user  *User // nil: a stand-in where there is no user
	hash  hash
}

// newUsers places the entries on a ring of their own: nobody else may have them.
func newUsers(entries []*entry) *Users {
	if len(entries) == 0 {
		entries = []*entry{{hash: newArgon2id()}}
	}
	least := slices.MinFunc(entries, func(a, b *entry) int { return cmp.Compare(a.hash.text, b.hash.text) }).hash.text
	u := &Users{key: sha256.Sum256([]byte(least)), least: least, ring: entries}
	for _, e := range u.ring {
		e.place = u.place(e.name)
	}
	slices.SortFunc(u.ring, inOrder)
	return u
}

func inOrder(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.name, b.name))
}

// with returns the users with one written or, where user is nil, removed. Where
// the key of the ring changes, which is as rare as there are users, it is as much
// work as newUsers; else only the ring is copied.
func (u *Users) with(name string, user *User, h hash) *Users {
	var put *entry
	if user != nil {
		put = &entry{name: name, user: user, hash: h, place: u.place(name)}
	}
	i, there := slices.BinarySearchFunc(u.ring, &entry{name: name, place: u.place(name)}, inOrder)
	switch {
	case there && u.ring[i].hash.text == u.least, u.ring[0].user == nil, put != nil && h.text < u.least:
		entries := make([]*entry, 0, len(u.ring)+1)
		for _, e := range u.ring {
			if e.user != nil && e.name != name {
				moved := *e
				entries = append(entries, &moved)
			}
		}
		if put != nil {
			entries = append(entries, put)
		}
		return newUsers(entries)
	case put == nil && !there:
		return u
	}
	changed := &Users{key: u.key, least: u.least, ring: make([]*entry, 0, len(u.ring)+1)}
	changed.ring = append(changed.ring, u.ring[:i]...)
	if put != nil {
		changed.ring = append(changed.ring, put)
	}
	if there {
		i++
	}
	changed.ring = append(changed.ring, u.ring[i:]...)
	return changed
}

func (u *Users) place(name string) uint64 {
	mac := hmac.New(sha256.New, u.key[:])
	mac.Write([]byte(name))
	return binary.BigEndian.Uint64(mac.Sum(nil))
}

// find returns the entry of a user, or for an unknown name that which stands in
// for it.
func (u *Users) find(name string) (e *entry, known bool) {
	place := u.place(name)
	i, _ := slices.BinarySearchFunc(u.ring, place, func(e *entry, place uint64) int {
		return cmp.Compare(e.place, place)
	})
	e = u.ring[i%len(u.ring)]
	return e, e.user != nil && e.name == name
}

// Lookup is the user of a name, nil where there is none, and whether it may log
// in now. The time that it takes tells names that are known from others.
func (u *Users) Lookup(name string) (user *User, active bool) {
	e, known := u.find(name)
	if !known {
		return nil, false
	}
	return e.user, e.user.active(time.Now())
}
