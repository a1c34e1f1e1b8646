package identity

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Parse reads data.users of a policy: an object from names to objects with
//
//	password    string, required: an argon2id or bcrypt hash
//	groups      array of strings
//	attributes  object
//	disabled    boolean
//	expires     string in RFC 3339, or number of ns since 1970
//
// in the Go values of encoding/json, numbers as float64 or json.Number. Nil is
// no users. All problems are returned, each with its user and key and never
// with a password; with any, there are no users. The values are kept, so
// nobody may change them afterwards.
func Parse(v any) (*Users, []error) {
	if v == nil {
		return newUsers(nil), nil
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, []error{&problem{[]string{"users"}, fmt.Sprintf("data.users: want an object, from names to users; is %s", kind(v))}}
	}
	var problems []error
	entries := make([]*entry, 0, len(object))
	for _, name := range slices.Sorted(maps.Keys(object)) {
		r := reader{name: name, place: "data.users"}
		e := &entry{name: name}
		if name == "" {
			r.problem("a user's name may not be empty")
		}
		e.user, e.hash = r.user(object[name])
		entries = append(entries, e)
		problems = append(problems, r.problems...)
	}
	if problems != nil {
		return nil, problems
	}
	return newUsers(entries), nil
}

// reader reads one user and collects what is wrong with it.
type reader struct {
	name     string
	place    string // of all users
	problems []error
}

func (r *reader) problem(format string, args ...any) {
	text := fmt.Sprintf("%s[%q]: ", r.place, r.name) + fmt.Sprintf(format, args...)
	r.problems = append(r.problems, &problem{[]string{"users", r.name}, text})
}

// problem is what is wrong with a value, and where below data that is.
type problem struct {
	at   []string
	text string
}

func (p *problem) Error() string { return p.text }

// DataPath is the path of the value below data, or of the user that it is of.
func (p *problem) DataPath() []string { return p.at }

// want notes that the key has a value of the wrong kind.
func (r *reader) want(key, kinds string, v any) {
	r.problem("%s: want %s; is %s", key, kinds, kind(v))
}

func (r *reader) user(v any) (*User, hash) {
	object, ok := v.(map[string]any)
	if !ok {
		r.problem("want an object; is %s", kind(v))
		return nil, hash{}
	}
	u := new(User)
	var h hash
	if _, ok := object["password"]; !ok {
		r.problem("password: is missing")
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		v := object[key]
		switch key {
		case "password":
			h = r.password(u, v)
		case "groups":
			r.groups(u, v)
		case "attributes":
			if u.Attributes, ok = v.(map[string]any); !ok {
				r.want(key, "an object", v)
			}
		case "disabled":
			if u.Disabled, ok = v.(bool); !ok {
				r.want(key, "a boolean", v)
			}
		case "expires":
			r.expires(u, v)
		default:
			r.problem("%q is not known: want password, groups, attributes, disabled, expires", key)
		}
	}
	return u, h
}

func (r *reader) password(u *User, v any) (h hash) {
	text, ok := v.(string)
	if !ok {
		r.want("password", "a string", v)
		return h
	}
	h, err := parseHash(text)
	if err != nil {
		r.problem("password: %v", err)
	}
	u.Password = text
	return h
}

func (r *reader) groups(u *User, v any) {
	array, ok := v.([]any)
	if !ok {
		r.want("groups", "an array of strings", v)
		return
	}
	u.Groups = make([]string, 0, len(array))
	for i, v := range array {
		group, ok := v.(string)
		if !ok {
			r.want(fmt.Sprintf("groups[%d]", i), "a string", v)
			continue
		}
		u.Groups = append(u.Groups, group)
	}
}

func (r *reader) expires(u *User, v any) {
	const kinds = "a time in RFC 3339 or a positive whole number of ns since 1970"
	var ns int64
	switch v := v.(type) {
	case string:
		t, err := time.Parse(time.RFC3339, v)
		if err != nil || t.Unix() <= 0 || t.UTC().Year() > 9999 {
			r.problem("expires: %q is not %s", v, kinds)
			return
		}
		u.Expires = t
		return
	case json.Number:
		ns, _ = v.Int64()
	case float64:
		if v == math.Trunc(v) && v < math.MaxInt64 {
			ns = int64(v)
		}
	default:
		r.want("expires", kinds, v)
		return
	}
	if ns <= 0 {
		r.problem("expires: %v is not %s", v, kinds)
		return
	}
	u.Expires = time.Unix(0, ns)
}

// kind names what JSON calls a value, for people.
func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case float64, json.Number:
		return "a number"
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	}
	return fmt.Sprintf("a %T", v)
}
