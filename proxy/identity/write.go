package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sallyport/proxy/secret"
)

// Edit is what is to become of one user: an object as data.users has it, but that
// the hash is in Hash, or is to be made from Password. Where both are empty the
// hash stays as it is.
type Edit struct {
	Name     string
	Password secret.String // in the clear; nobody but the hash sees it
	Hash     string
	Fields   map[string]any // groups, attributes, disabled, expires
}

// ParseEdit reads an edit from a JSON object with
//
//	password    string: in the clear; it is hashed
//	hash        string, instead: an argon2id or bcrypt hash
//	name        string: if it is there, the user's
//
// and but for password the keys that [Parse] knows. What is null is as if it were
// not there.
func ParseEdit(name string, object map[string]any) (Edit, error) {
	e := Edit{Name: name, Fields: map[string]any{}}
	var problems Problems
	text := func(key string, v any) (s string) {
		s, ok := v.(string)
		switch {
		case !ok:
			problems = append(problems, fmt.Errorf("users[%q]: %s: want a string; is %s", name, key, kind(v)))
		case s == "":
			problems = append(problems, fmt.Errorf("users[%q]: %s: is empty", name, key))
		}
		return s
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		v := object[key]
		switch {
		case v == nil:
		case key == "password":
			e.Password = secret.New(text(key, v))
		case key == "hash":
			e.Hash = text(key, v)
		case key == "name":
			if text(key, v) != name {
				problems = append(problems, fmt.Errorf("users[%q]: name: is another one", name))
			}
		default:
			e.Fields[key] = v
		}
	}
	problems = append(problems, e.check()...)
	if problems != nil {
		return Edit{}, problems
	}
	return e, nil
}

// Groups are those that the edit names; of what is no string, none.
func (e *Edit) Groups() []string {
	array, _ := e.Fields["groups"].([]any)
	groups := make([]string, 0, len(array))
	for _, v := range array {
		if group, ok := v.(string); ok {
			groups = append(groups, group)
		}
	}
	return groups
}

// Terms are under which a write is done.
type Terms struct {
	New   bool   // only names that are not taken
	Match string // only over what has this tag; "*": over whatever there is; "": and over nothing, too
	Keep  bool   // what Fields does not have stays as it is; else it is as of a new user
}

// Problems are all that is wrong with a write. They contain no password.
type Problems []error

func (p Problems) Error() string { return errors.Join(p...).Error() }

func (p Problems) Unwrap() []error { return p }

// Write writes users, all or none, and returns when that is durable. Passwords are
// hashed first, one after another, with those of other writes. The edits are of
// ParseEdit, each of another name. The error is or has Problems, ErrExists,
// ErrChanged, ErrPolicy, ErrFull, that of ctx, or the store's.
func (d *Directory) Write(ctx context.Context, terms Terms, edits ...Edit) error {
	hashes := make([]string, len(edits))
	for i := range edits {
		var err error
		if hashes[i], err = d.hash(ctx, &edits[i]); err != nil {
			return err
		}
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	var problems Problems
	writes := make(map[string]*local, len(edits))
	now := time.Now().Round(0)
	for i := range edits {
		l, found := d.draft(terms, &edits[i], hashes[i], now)
		problems = append(problems, found...)
		writes[edits[i].Name] = l
	}
	if problems != nil {
		return problems
	}
	if err := d.apply(writes); err != nil {
		return err
	}
	d.written()
	return nil
}

// draft makes what an edit makes of a user. It is called with mu held.
func (d *Directory) draft(terms Terms, e *Edit, hash string, now time.Time) (*local, []error) {
	before := d.local[e.Name]
	_, policys := d.policy.find(e.Name)
	switch {
	case policys:
		return nil, []error{&nameError{e.Name, ErrPolicy}}
	case terms.New && before != nil:
		return nil, []error{&nameError{e.Name, ErrExists}}
	case terms.Match != "" && (before == nil || terms.Match != "*" && terms.Match != before.tag()):
		return nil, []error{ErrChanged}
	}
	fields, created := map[string]any{}, now
	if before != nil {
		created = before.user.Created
		if terms.Keep {
			fields = before.user.fields()
		}
		fields["password"] = before.user.Password
	}
	maps.Copy(fields, e.Fields)
	if hash != "" {
		fields["password"] = hash
	}
	if fields["password"] == nil {
		return nil, []error{fmt.Errorf("users[%q]: a new user needs a password or a hash", e.Name)}
	}
	l, problems := newLocal(e.Name, fields)
	if problems != nil {
		return nil, problems
	}
	l.user.Created, l.user.Changed = created, now
	l.text = l.user.text()
	if l.size = len(e.Name) + len(l.text); l.size > maxRecord {
		return nil, []error{fmt.Errorf("users[%q]: takes %d bytes; %d are the most", e.Name, l.size, maxRecord)}
	}
	return l, nil
}

// Remove removes a user, of whose stored state match is the tag, "*" or "". The
// error is ErrUnknown, ErrChanged or ErrPolicy, or the store's.
func (d *Directory) Remove(name, match string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.local[name]
	if l == nil {
		if _, policys := d.policy.find(name); policys {
			return &nameError{name, ErrPolicy}
		}
		return ErrUnknown
	}
	if match != "" && match != "*" && match != l.tag() {
		return ErrChanged
	}
	if err := d.apply(map[string]*local{name: nil}); err != nil {
		return err
	}
	d.written()
	return nil
}

// nameError is an error about one of several users.
type nameError struct {
	name string
	err  error
}

func (e *nameError) Error() string { return fmt.Sprintf("users[%q]: %v", e.name, e.err) }
func (e *nameError) Unwrap() error { return e.err }

// hash makes the hash of a password, one at a time. It is "" where there is
// nothing to make it of.
func (d *Directory) hash(ctx context.Context, e *Edit) (string, error) {
	password := e.Password.Reveal()
	if password == "" {
		return e.Hash, nil
	}
	select {
	case d.hashing <- struct{}{}:
		defer func() { <-d.hashing }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	text, err := Hash([]byte(password), Argon2id)
	if err != nil {
		return "", Problems{fmt.Errorf("users[%q]: %w", e.Name, err)}
	}
	return text, nil
}

// check finds what is wrong with an edit whatever there is before it.
func (e *Edit) check() (problems []error) {
	problem := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("users[%q]: "+format, append([]any{e.Name}, args...)...))
	}
	if err := CheckName(e.Name); err != nil {
		problems = append(problems, err)
	}
	password := e.Password.Reveal()
	switch {
	case password != "" && e.Hash != "":
		problem("has both a password and a hash")
	case len(password) > maxPassword:
		problem("the password has %d bytes; %d are the most", len(password), maxPassword)
	case isHash(password):
		problem("the password has the form of a hash, which is given as hash")
	case e.Hash != "":
		if _, err := parseHash(e.Hash); err != nil {
			problem("hash: %v", err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.Fields)) {
		if !slices.Contains([]string{"groups", "attributes", "disabled", "expires"}, key) {
			problem("%q is not known: want password or hash, groups, attributes, disabled, expires", key)
		}
	}
	if err := bounded(e.Fields["attributes"], maxNesting); err != nil {
		problem("attributes: %v", err)
	}
	if groups, ok := e.Fields["groups"].([]any); ok {
		for i, group := range groups {
			if text, ok := group.(string); ok && (text == "" || len(text) > maxName) {
				problem("groups[%d]: want 1 to %d bytes", i, maxName)
			}
		}
	}
	return problems
}

// maxPassword is what RFC 1929 can carry.
const maxPassword = 255

func isHash(password string) bool {
	_, err := parseHash(password)
	return !errors.Is(err, errNotHashed)
}

// CheckName says what is wrong with the name of a user that is to be stored.
func CheckName(name string) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("a user's name has 1 to %d bytes", maxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("a user's name is UTF-8 without control characters")
	}
	return nil
}

// bounded refuses values that a policy could not work with in its time.
func bounded(v any, levels int) error {
	if levels == 0 {
		return fmt.Errorf("are nested more than %d levels deep", maxNesting)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, below := range v {
			if err := bounded(below, levels-1); err != nil {
				return err
			}
		}
	case []any:
		for _, below := range v {
			if err := bounded(below, levels-1); err != nil {
				return err
			}
		}
	case json.Number:
		if _, err := strconv.ParseFloat(v.String(), 64); err != nil {
			return errors.New("have a number that is out of range")
		}
	}
	return nil
}
