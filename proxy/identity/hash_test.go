package identity

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// referenceBcrypt is the first of Solar Designer's vectors, of "U*U".
const referenceBcrypt = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"

func mustParse(t testing.TB, text string) hash {
	t.Helper()
	h, err := parseHash(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return h
}

// cheap hashes a password at the least cost.
func cheap(t testing.TB, password string, algorithm Algorithm) string {
	t.Helper()
	if algorithm == Bcrypt {
		text, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	h := newArgon2id()
	h.memory, h.time = 8, 1
	h.key = h.derive(password)
	return h.argon2idText()
}

// The vectors of crypt_blowfish and of the reference implementation of Argon2.
func TestVectors(t *testing.T) {
	for text, password := range map[string]string{
		referenceBcrypt: "U*U",
		"$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW":                         "U*U",
		"$2b$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK":                         "U*U*",
		"$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4": "password",
		"$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc": "password",
	} {
		h := mustParse(t, text)
		if !h.matches(password) {
			t.Errorf("%s does not match %q", text, password)
		}
		if h.matches(password + "x") {
			t.Errorf("%s matches %q", text, password+"x")
		}
	}
}

func TestHash(t *testing.T) {
	for algorithm, prefix := range map[Algorithm]string{
		Argon2id: "$argon2id$v=19$m=19456,t=2,p=1$",
		Bcrypt:   "$2a$10$",
	} {
		text, err := Hash([]byte("correct horse"), algorithm)
		if err != nil || !strings.HasPrefix(text, prefix) {
			t.Fatalf("got %s, %v", text, err)
		}
		if h := mustParse(t, text); !h.matches("correct horse") {
			t.Errorf("%s does not verify", text)
		}
		if _, err := Hash(nil, algorithm); err == nil {
			t.Errorf("%s hashed an empty password", algorithm)
		}
	}
	if a, b := newArgon2id(), newArgon2id(); bytes.Equal(a.salt, b.salt) || bytes.Equal(a.key, b.key) {
		t.Error("the salt or the stand-in's key is not random")
	}
	for _, password := range []string{strings.Repeat("x", 73), "a\x00b"} {
		if _, err := Hash([]byte(password), Bcrypt); err == nil {
			t.Errorf("bcrypt hashed %q", password)
		}
	}
	if _, err := Hash([]byte("x"), "md5"); err == nil {
		t.Error("md5 is known")
	}
}

func TestPasswordsAreComparedWhole(t *testing.T) {
	long := strings.Repeat("x", 71)
	passwords := []string{
		"", "a", "A", "a ", "a\x00", "a\x00a", "\x00", "ä", "a\u0308",
		long, long + "y", long + "yz", long + "y\x00", strings.Repeat("x", 255), strings.Repeat("x", 254) + "y",
	}
	for _, algorithm := range []Algorithm{Argon2id, Bcrypt} {
		for _, stored := range passwords {
			if algorithm == Bcrypt && !bcryptable(stored) {
				continue
			}
			h := mustParse(t, cheap(t, stored, algorithm))
			for _, given := range passwords {
				if got := h.matches(given); got != (given == stored) {
					t.Errorf("%s of %q: %q matches: %t", algorithm, stored, given, got)
				}
			}
		}
	}
}

func TestParseHashRefuses(t *testing.T) {
	const salt, key = "c29tZXNhbHQ", "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	for _, text := range []string{
		"", "hunter2", "5f4dcc3b5aa765d61d8327deb882cf99", "$1$salt$hash", "{SHA}x", "$argon2i$v=19$m=256,t=2,p=1$" + salt + "$" + key,
		"$argon2id$", "$argon2id$v=16$m=256,t=2,p=1$" + salt + "$" + key, "$argon2id$m=256,t=2,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=0256,t=2,p=1$" + salt + "$" + key, "$argon2id$v=19$m=+256,t=2,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=-1,t=2,p=1$" + salt + "$" + key, "$argon2id$v=19$t=2,m=256,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=256,t=2,p=257$" + salt + "$" + key, "$argon2id$v=19$m=4294967552,t=2,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=256,t=2,p=1 $" + salt + "$" + key, "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + key + "$",
		"$argon2id$v=19$m=256,t=2,p=1$" + salt + "=$" + key, "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + key + "\n",
		"$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHR$" + key, // bits behind the last byte
		"$argon2id$v=19$m=256,t=2,p=1$c29tZXNh$" + key,    // 6 bytes of salt
		"$argon2id$v=19$m=256,t=2,p=1$" + salt + "$c29tZXNhbHQ",
		"$argon2id$v=19$m=256,t=2,p=1$" + salt + "$",
		"$argon2id$v=19$m=256,t=0,p=1$" + salt + "$" + key, "$argon2id$v=19$m=256,t=2,p=0$" + salt + "$" + key,
		"$argon2id$v=19$m=7,t=2,p=1$" + salt + "$" + key, "$argon2id$v=19$m=262145,t=2,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=256,t=17,p=1$" + salt + "$" + key, "$argon2id$v=19$m=256,t=2,p=17$" + salt + "$" + key,
		"$argon2id$v=19$m=256,t=2,p=1$" + strings.Repeat("A", 88) + "$" + key, "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + strings.Repeat("A", 88),
		referenceBcrypt[:59], referenceBcrypt + "x", "$2x$" + referenceBcrypt[4:], "$2$" + referenceBcrypt[4:], "$2a$03$" + referenceBcrypt[7:],
		"$2a$15$" + referenceBcrypt[7:], "$2a$31$" + referenceBcrypt[7:], "$2a$ 5$" + referenceBcrypt[7:], "$2a$-5$" + referenceBcrypt[7:],
		"$2a$05$" + strings.Repeat("*", 53), "$2a$05x" + referenceBcrypt[7:],
	} {
		if _, err := parseHash(text); err == nil {
			t.Errorf("%q is accepted", text)
		} else if text != "" && strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "sallyport user hash") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add("$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4")
	f.Add(referenceBcrypt)
	f.Add("hunter2")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parseHash(text)
		if err != nil {
			return
		}
		switch {
		case h.text != text:
			t.Errorf("%q was kept as %q", text, h.text)
		case h.key == nil:
			if cost, err := bcrypt.Cost([]byte(text)); err != nil || cost > maxBcryptCost {
				t.Errorf("bcrypt with cost %d, %v", cost, err)
			}
		case h.argon2idText() != text, h.memory > maxMemory, h.time > maxTime, h.threads > maxThreads:
			t.Errorf("%q was read as %+v", text, h)
		}
	})
}
