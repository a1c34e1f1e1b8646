package identity

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Algorithm is a way to hash a password.
type Algorithm string

// The algorithms that are accepted.
const (
	Argon2id Algorithm = "argon2id" // RFC 9106
	Bcrypt   Algorithm = "bcrypt"
)

// What one hash may cost to verify. A stranger chooses how often that happens,
// a policy's author how much it is.
const (
	maxMemory     = 256 << 10 // KiB
	maxTime       = 16
	maxThreads    = 16
	minSalt       = 8
	maxSalt       = 64
	minKey        = 16
	maxKey        = 64
	maxBcryptCost = 14
)

// What new hashes cost: the first choice of OWASP's Password Storage Cheat
// Sheet for argon2id (19 MiB, two passes), and its least for bcrypt.
const (
	freshMemory     = 19456 // KiB
	freshTime       = 2
	freshThreads    = 1
	freshSalt       = 16
	freshKey        = 32
	freshBcryptCost = 10
)

// hash is a stored password hash, parsed and within bounds.
type hash struct {
	text string // as it is stored

	// Of argon2id; key is nil for bcrypt, which works on the text.
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

var (
	errNotHashed   = errors.New("is not an argon2id or bcrypt hash; make one with `sallyport user hash`")
	errMalformed   = errors.New("is a malformed hash; make one with `sallyport user hash`")
	errTooCostly   = errors.New("costs too much to verify (at most argon2id with m=262144,t=16,p=16, or bcrypt with cost 14); make one with `sallyport user hash`")
	errOutOfBounds = errors.New("has parameters that argon2id does not allow, a salt that is not of 8 to 64 bytes, or a key that is not of 16 to 64; make one with `sallyport user hash`")
)

// parseHash reads a hash in its usual written form: the PHC string format for
// argon2id, modular crypt format for bcrypt. Errors never contain the text.
func parseHash(text string) (hash, error) {
	switch {
	case strings.HasPrefix(text, "$argon2id$"):
		return parseArgon2id(text)
	case strings.HasPrefix(text, "$2a$"), strings.HasPrefix(text, "$2b$"), strings.HasPrefix(text, "$2y$"):
		return parseBcrypt(text)
	}
	return hash{}, errNotHashed
}

// CheckHash says what is wrong with a hash that is to be stored; nil: nothing.
func CheckHash(text string) error {
	_, err := parseHash(text)
	return err
}

// phc is the encoding of salts and keys in the PHC string format.
var phc = base64.RawStdEncoding.Strict()

func parseArgon2id(text string) (hash, error) {
	fields := strings.Split(text, "$")
	if len(fields) != 6 {
		return hash{}, errMalformed
	}
	h := hash{text: text}
	var err, saltErr, keyErr error
	_, err = fmt.Sscanf(fields[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.threads)
	h.salt, saltErr = phc.DecodeString(fields[4])
	h.key, keyErr = phc.DecodeString(fields[5])
	if err != nil || saltErr != nil || keyErr != nil || h.argon2idText() != text {
		return hash{}, errMalformed // the last: only what is written exactly so is accepted
	}
	switch {
	case h.memory > maxMemory || h.time > maxTime || h.threads > maxThreads:
		return hash{}, errTooCostly
	case h.time < 1 || h.threads < 1 || h.memory < 8*uint32(h.threads),
		len(h.salt) < minSalt || len(h.salt) > maxSalt,
		len(h.key) < minKey || len(h.key) > maxKey:
		return hash{}, errOutOfBounds
	}
	return h, nil
}

func (h *hash) argon2idText() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		h.memory, h.time, h.threads, phc.EncodeToString(h.salt), phc.EncodeToString(h.key))
}

// bcryptAlphabet is bcrypt's own base64.
const bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

func parseBcrypt(text string) (hash, error) {
	const salt, key = 22, 31 // characters
	if len(text) != len("$2b$10$")+salt+key || text[6] != '$' {
		return hash{}, errMalformed
	}
	for _, c := range []byte(text[7:]) {
		if strings.IndexByte(bcryptAlphabet, c) < 0 {
			return hash{}, errMalformed
		}
	}
	tens, units := text[4]-'0', text[5]-'0'
	if tens > 9 || units > 9 {
		return hash{}, errMalformed
	}
	switch cost := int(10*tens + units); {
	case cost < bcrypt.MinCost:
		return hash{}, errMalformed
	case cost > maxBcryptCost:
		return hash{}, errTooCostly
	}
	return hash{text: text}, nil
}

func (h *hash) algorithm() Algorithm {
	if h.key != nil {
		return Argon2id
	}
	return Bcrypt
}

// longestBcrypt is as much of a password as bcrypt looks at.
const longestBcrypt = 72

// matches does the whole work whatever the password is.
func (h *hash) matches(password string) bool {
	if h.key != nil {
		return subtle.ConstantTimeCompare(h.derive(password), h.key) == 1
	}
	// bcrypt would not see what follows 72 bytes, and since it repeats the
	// password with a NUL in between, "a\x00a" is "a" to it.
	whole := bcryptable(password)
	password = password[:min(len(password), longestBcrypt)]
	same := bcrypt.CompareHashAndPassword([]byte(h.text), []byte(password)) == nil
	return same && whole
}

// derive is argon2id's work, for a key of the length that the hash has.
func (h *hash) derive(password string) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.threads, uint32(len(h.key)))
}

func bcryptable(password string) bool {
	return len(password) <= longestBcrypt && strings.IndexByte(password, 0) < 0
}

// Hash makes what goes into data.users from a password: argon2id in the PHC
// string format, or bcrypt in modular crypt format. The password may not be
// empty nor a [Token], nor for bcrypt exceed 72 bytes or contain NUL bytes.
func Hash(password []byte, algorithm Algorithm) (string, error) {
	if len(password) == 0 {
		return "", errors.New("the password is empty")
	}
	if Token(string(password)) != "" {
		return "", errors.New("the password has the form of a JWT, which is compared with no hash: the policy verifies it")
	}
	switch algorithm {
	case Argon2id:
		h := newArgon2id()
		h.key = h.derive(string(password))
		return h.argon2idText(), nil
	case Bcrypt:
		if !bcryptable(string(password)) {
			return "", errors.New("bcrypt cannot tell passwords apart that are longer than 72 bytes or contain NUL bytes; use argon2id")
		}
		text, err := bcrypt.GenerateFromPassword(password, freshBcryptCost)
		if err != nil {
			return "", fmt.Errorf("hash with bcrypt: %w", err)
		}
		return string(text), nil
	}
	return "", fmt.Errorf("unknown algorithm %q: want %s or %s", algorithm, Argon2id, Bcrypt)
}

// newArgon2id is the hash of no password that is known, at the cost of new ones.
func newArgon2id() hash {
	h := hash{memory: freshMemory, time: freshTime, threads: freshThreads, salt: make([]byte, freshSalt), key: make([]byte, freshKey)}
	rand.Read(h.salt) // never fails
	rand.Read(h.key)
	return h
}
