// Package identity says what the user directory knows of a name and a
// password. Passwords are kept as argon2id hashes.
package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"
)

// User is an entry of data.users.
type User struct {
	salt, key  []byte
	groups     []string
	attributes map[string]any
	disabled   bool
	expires    time.Time
}

// Users are the entries by name.
type Users map[string]User

// The work of one verification, as OWASP's password storage advice has it. It
// is the same for every user and for names that nobody has, so that time tells
// neither apart.
const (
	memory  = 19456 // KiB
	passes  = 2
	lanes   = 1
	keySize = 32
	prefix  = "$argon2id$v=19$m=19456,t=2,p=1$"
)

// Hash makes the text that data.users.NAME.password holds.
func Hash(password []byte) string {
	salt := make([]byte, 16)
	rand.Read(salt)
	key := argon2.IDKey(password, salt, passes, memory, lanes, keySize)
	b64 := base64.RawStdEncoding
	return prefix + b64.EncodeToString(salt) + "$" + b64.EncodeToString(key)
}

// Parse reads data.users; nil is no users. Every problem is returned.
func Parse(v any) (Users, []error) {
	users := Users{}
	if v == nil {
		return users, nil
	}
	entries, ok := v.(map[string]any)
	if !ok {
		return nil, []error{fmt.Errorf("data.users: want an object")}
	}
	var problems []error
	for name, entry := range entries {
		bad := func(key, want string) {
			problems = append(problems, fmt.Errorf("data.users.%q: %s: want %s", name, key, want))
		}
		fields, ok := entry.(map[string]any)
		if !ok {
			bad("entry", "an object")
			continue
		}
		var u User
		for key, value := range fields {
			ok := true
			switch key {
			case "password":
				text, _ := value.(string)
				if u.salt, u.key, ok = parseHash(text); !ok {
					bad(key, "a hash as `sallyport user hash` makes it")
				}
			case "groups":
				list, isList := value.([]any)
				for _, g := range list {
					s, isText := g.(string)
					isList = isList && isText
					u.groups = append(u.groups, s)
				}
				if !isList {
					bad(key, "an array of strings")
				}
			case "attributes":
				if u.attributes, ok = value.(map[string]any); !ok {
					bad(key, "an object")
				}
			case "disabled":
				if u.disabled, ok = value.(bool); !ok {
					bad(key, "a boolean")
				}
			case "expires":
				text, _ := value.(string)
				var err error
				if u.expires, err = time.Parse(time.RFC3339, text); err != nil {
					bad(key, "a time such as 2030-01-31T00:00:00Z")
				}
			default:
				bad(key, "one of password, groups, attributes, disabled, expires")
			}
		}
		if fields["password"] == nil {
			bad("password", "a hash as `sallyport user hash` makes it")
		}
		users[name] = u
	}
	return users, problems
}

func parseHash(text string) (salt, key []byte, ok bool) {
	rest, ok := strings.CutPrefix(text, prefix)
	saltText, keyText, both := strings.Cut(rest, "$")
	if !ok || !both {
		return nil, nil, false
	}
	salt, err1 := base64.RawStdEncoding.Strict().DecodeString(saltText)
	key, err2 := base64.RawStdEncoding.Strict().DecodeString(keyText)
	return salt, key, err1 == nil && err2 == nil && len(salt) == 16 && len(key) == keySize
}

// Result is what is known of presented credentials.
type Result struct {
	Known, Verified bool
	Groups          []string
	Attributes      map[string]any
}

// Verifier verifies, a bounded number at once: each takes 19 MiB.
type Verifier struct {
	users atomic.Pointer[Users]
	slots *semaphore.Weighted
}

// NewVerifier returns a verifier without users.
func NewVerifier(parallel int64) *Verifier {
	v := &Verifier{slots: semaphore.NewWeighted(parallel)}
	v.users.Store(&Users{})
	return v
}

// SetUsers replaces the users.
func (v *Verifier) SetUsers(u Users) { v.users.Store(&u) }

// Verify does the same work whatever the name. Its error is that of ctx.
func (v *Verifier) Verify(ctx context.Context, username, password string) (Result, error) {
	if err := v.slots.Acquire(ctx, 1); err != nil {
		return Result{}, err
	}
	defer v.slots.Release(1)
	u, known := (*v.users.Load())[username]
	salt, want := u.salt, u.key
	if !known {
		salt, want = make([]byte, 16), make([]byte, keySize)
	}
	key := argon2.IDKey([]byte(password), salt, passes, memory, lanes, keySize)
	right := subtle.ConstantTimeCompare(key, want) == 1
	if !known || !right || u.disabled || (!u.expires.IsZero() && time.Now().After(u.expires)) {
		return Result{Known: known}, nil
	}
	return Result{Known: true, Verified: true, Groups: u.groups, Attributes: u.attributes}, nil
}
