package identity

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"sallyport/proxy/store"
)

// Bounds on the users of the store.
const (
	MaxUsers  = 100_000
	maxRecord = 16 << 10 // bytes of one
	maxStored = 64 << 20 // bytes of all together
	maxName   = 255      // bytes: what RFC 1929 can carry
)

// storedKind is the kind of things that users are in the store. Their keys are their
// names.
const storedKind = "user"

// Store keeps what must outlive a restart.
type Store interface {
	Each(kind string, visit func(key string, value []byte) error) error
	// Apply makes all changes or none, and they are durable when it returns.
	Apply(changes ...store.Change) error
}

// Directory has the users of both places, and lets a [Verifier] know them.
type Directory struct {
	verifier *Verifier
	keeper   Store
	written  func()        // is told after each write
	hashing  chan struct{} // one for each password that is being hashed

	mu       sync.Mutex
	policy   *Users            // of data.users
	declared []string          // their names, sorted
	local    map[string]*local // of the store, by name
	names    []string          // their names, sorted
	stored   int               // bytes of them all
	merged   *Users            // what the verifier knows
}

// local is a user of the store.
type local struct {
	user *User
	hash hash
	size int    // bytes as it is stored, its name included
	text []byte // as it is stored, until it is
}

// NewDirectory reads the users of the store. A user there that cannot be read is
// an error, since nobody would miss it before it is refused. written is called
// after each write, when the verifier knows of it.
func NewDirectory(v *Verifier, keeper Store, written func()) (*Directory, error) {
	d := &Directory{
		verifier: v, keeper: keeper, written: written, hashing: make(chan struct{}, 1),
		policy: newUsers(nil), local: map[string]*local{},
	}
	err := keeper.Each(storedKind, func(name string, value []byte) error {
		l, err := readLocal(name, value)
		if err != nil {
			return err
		}
		d.local[name] = l
		d.names = append(d.names, name)
		d.stored += l.size
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the users of the store: %w", err)
	}
	slices.Sort(d.names)
	d.merge()
	return d, nil
}

// SetPolicy replaces the users of data.users, at once and as a whole, and returns
// the names that the store has as well: they are the policy's now. Nil is none.
func (d *Directory) SetPolicy(u *Users) (hidden []string) {
	if u == nil {
		u = newUsers(nil)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.policy, d.declared = u, nil
	for _, e := range u.ring {
		if e.user != nil {
			d.declared = append(d.declared, e.name)
		}
	}
	slices.Sort(d.declared)
	for _, name := range d.declared {
		if d.local[name] != nil {
			hidden = append(hidden, name)
		}
	}
	d.merge()
	return hidden
}

// merge makes the users that the verifier knows from those of both places. It is
// called with mu held.
func (d *Directory) merge() {
	entries := make([]*entry, 0, len(d.policy.ring)+len(d.local))
	for _, e := range d.policy.ring {
		if e.user != nil {
			entries = append(entries, &entry{name: e.name, user: e.user, hash: e.hash})
		}
	}
	for name, l := range d.local {
		if _, both := d.policy.find(name); !both {
			entries = append(entries, &entry{name: name, user: l.user, hash: l.hash})
		}
	}
	d.know(newUsers(entries))
}

func (d *Directory) know(u *Users) {
	d.merged = u
	d.verifier.SetUsers(u)
}

// Errors of writes.
var (
	ErrUnknown = errors.New("there is no such user")
	ErrExists  = errors.New("exists already")
	ErrChanged = errors.New("the user is not what If-Match says")
	ErrPolicy  = errors.New("is a user of the policy's data.users, which is where to change it")
	ErrFull    = fmt.Errorf("the store has room for %d users, in %d MiB", MaxUsers, maxStored>>20)
)

// apply writes users, nil for those to be removed, to the store and then to
// memory. Where the store fails nothing is changed. It is called with mu held.
func (d *Directory) apply(writes map[string]*local) error {
	changes := make([]store.Change, 0, len(writes))
	count, stored := len(d.local), d.stored
	for name, l := range writes {
		if before := d.local[name]; before != nil {
			count--
			stored -= before.size
		}
		c := store.Change{Kind: storedKind, Key: name}
		if l != nil {
			count++
			stored += l.size
			c.Value = l.text
		}
		changes = append(changes, c)
	}
	if count > MaxUsers || stored > maxStored {
		return ErrFull
	}
	slices.SortFunc(changes, func(a, b store.Change) int { return cmp.Compare(a.Key, b.Key) })
	if err := d.keeper.Apply(changes...); err != nil {
		return fmt.Errorf("write to the store: %w", err)
	}
	d.stored = stored
	d.remember(writes)
	return nil
}

// remember puts into memory what has been stored: of one user beside all the
// others, of several anew.
func (d *Directory) remember(writes map[string]*local) {
	for name, l := range writes {
		if l == nil {
			delete(d.local, name)
		} else {
			l.text = nil
			d.local[name] = l
		}
	}
	if len(writes) > 1 {
		d.names = slices.AppendSeq(d.names[:0], maps.Keys(d.local))
		slices.Sort(d.names)
		d.merge()
		return
	}
	for name, l := range writes {
		i, listed := slices.BinarySearch(d.names, name)
		switch {
		case l == nil && listed:
			d.names = slices.Delete(d.names, i, i+1)
		case l != nil && !listed:
			d.names = slices.Insert(d.names, i, name)
		}
		if _, both := d.policy.find(name); both {
			continue
		}
		if l == nil {
			d.know(d.merged.with(name, nil, hash{}))
		} else {
			d.know(d.merged.with(name, l.user, l.hash))
		}
	}
}
