package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Account is a user as it is shown: with all but the hash.
type Account struct {
	Name       string         `json:"name"`
	Source     string         `json:"source"`    // "policy" or "store"
	Algorithm  Algorithm      `json:"algorithm"` // of the hash
	Groups     []string       `json:"groups"`
	Attributes map[string]any `json:"attributes"`
	Disabled   bool           `json:"disabled"`
	Expires    *time.Time     `json:"expires"` // null: never
	Expired    bool           `json:"expired"`
	Created    *time.Time     `json:"created,omitempty"` // of the store's only
	Changed    *time.Time     `json:"changed,omitempty"` // of the store's only
	Hides      bool           `json:"hides,omitempty"`   // the policy's, where the store has one of the name as well

	Tag string `json:"-"` // of what is stored: another one after each change; of the store's only
}

// account shows a user that stands in the store, in the policy, or in both.
func (d *Directory) account(name string) (Account, bool) {
	l := d.local[name]
	e, policys := d.policy.find(name)
	switch {
	case policys:
		a := shown(name, e.user, &e.hash)
		a.Source, a.Hides = "policy", l != nil
		return a, true
	case l != nil:
		a := shown(name, l.user, &l.hash)
		a.Source, a.Tag = "store", l.tag()
		created, changed := l.user.Created, l.user.Changed
		a.Created, a.Changed = &created, &changed
		return a, true
	}
	return Account{}, false
}

func shown(name string, u *User, h *hash) Account {
	a := Account{
		Name: name, Algorithm: h.algorithm(), Groups: u.Groups, Attributes: u.Attributes, Disabled: u.Disabled,
	}
	if a.Groups == nil {
		a.Groups = []string{}
	}
	if a.Attributes == nil {
		a.Attributes = map[string]any{}
	}
	if !u.Expires.IsZero() {
		expires := u.Expires.UTC()
		a.Expires, a.Expired = &expires, !time.Now().Before(expires)
	}
	return a
}

// Account is the user of a name.
func (d *Directory) Account(name string) (Account, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.account(name)
}

// Accounts are at most so many users whose names come after another one, by
// their names, and whether there are more.
func (d *Directory) Accounts(after string, most int) (list []Account, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := func(names []string) []string {
		i, there := slices.BinarySearch(names, after)
		if there {
			i++
		}
		return names[i:min(len(names), i+most+1)]
	}
	names := slices.Concat(next(d.names), next(d.declared))
	slices.Sort(names)
	names = slices.Compact(names)
	more = len(names) > most
	for _, name := range names[:min(len(names), most)] {
		a, _ := d.account(name)
		list = append(list, a)
	}
	return list, more
}

// written is a user as it stands in the store: as in data.users, and when it was
// written.
type written struct {
	Password   string         `json:"password"`
	Groups     []string       `json:"groups,omitempty"`
	Attributes map[string]any `json:"attributes,omitempty"`
	Disabled   bool           `json:"disabled,omitempty"`
	Expires    *time.Time     `json:"expires,omitempty"`
	Created    time.Time      `json:"created"`
	Changed    time.Time      `json:"changed"`
}

// text is a user as it is stored.
func (u *User) text() []byte {
	w := written{
		Password: u.Password, Groups: u.Groups, Attributes: u.Attributes, Disabled: u.Disabled,
		Created: u.Created.UTC(), Changed: u.Changed.UTC(),
	}
	if !u.Expires.IsZero() {
		expires := u.Expires.UTC()
		w.Expires = &expires
	}
	text, err := json.Marshal(w)
	if err != nil {
		panic(err) // the values came from JSON
	}
	return text
}

// readLocal reads what text has made.
func readLocal(name string, text []byte) (*local, error) {
	object, err := decode(text)
	if err != nil {
		return nil, fmt.Errorf("user %q: %w", name, err)
	}
	times := map[string]time.Time{}
	for _, key := range []string{"created", "changed"} {
		value, _ := object[key].(string)
		if times[key], err = time.Parse(time.RFC3339Nano, value); err != nil {
			return nil, fmt.Errorf("user %q: %s: is no time", name, key)
		}
		delete(object, key)
	}
	l, problems := newLocal(name, object)
	if problems != nil {
		return nil, problems[0]
	}
	l.user.Created, l.user.Changed = times["created"], times["changed"]
	l.size = len(name) + len(text)
	return l, nil
}

// newLocal reads a user as data.users has it.
func newLocal(name string, object map[string]any) (*local, []error) {
	r := reader{name: name, place: "users"}
	l := new(local)
	l.user, l.hash = r.user(object)
	if r.problems != nil {
		return nil, r.problems
	}
	return l, nil
}

func (l *local) tag() string {
	sum := sha256.Sum256(l.user.text())
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// fields is the user as data.users would have it.
func (u *User) fields() map[string]any {
	groups := make([]any, len(u.Groups))
	for i, group := range u.Groups {
		groups[i] = group
	}
	fields := map[string]any{"password": u.Password, "groups": groups, "disabled": u.Disabled}
	if u.Attributes != nil {
		fields["attributes"] = maps.Clone(u.Attributes)
	}
	if !u.Expires.IsZero() {
		fields["expires"] = u.Expires.UTC().Format(time.RFC3339Nano)
	}
	return fields
}

// decode reads one JSON object, with numbers as they are written.
func decode(text []byte) (map[string]any, error) {
	var object map[string]any
	in := json.NewDecoder(bytes.NewReader(text))
	in.UseNumber()
	if err := in.Decode(&object); err != nil {
		return nil, fmt.Errorf("is no JSON object")
	}
	return object, nil
}
