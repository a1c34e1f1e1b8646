package identity

import (
	"encoding/base64"
	"strings"
	"testing"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestToken(t *testing.T) {
	header, payload, signature := b64(`{"alg":"RS256"}`), b64(` {"sub":"alice"}`), b64("sig\xff\xfe")
	good := header + "." + payload + "." + signature
	if Token(good) != good {
		t.Error("a token is not taken for one")
	}
	longest := func(n int) string {
		return good + strings.Repeat("A", (n-len(good))&^3)
	}
	if Token(longest(maxToken)) == "" {
		t.Error("a token of 16 KiB is not taken for one")
	}
	for _, password := range []string{
		"", ".", "..", "hunter2", header + "." + payload, header + "." + payload + ".", good + ".", "." + good,
		header + ".." + signature, b64("[]") + "." + payload + "." + signature, header + "." + b64("null") + "." + signature,
		header + "." + b64(`"x"`) + "." + signature, header + "." + b64(`{}{}`) + "." + signature, header + "." + b64(`{`) + "." + signature,
		header + "=." + payload + "." + signature, good + "\n", "\r" + good, good + "+", " " + good, good + " ",
		header + "." + payload + ".A", header + "." + payload + ".AB", // no byte, bits behind the last one
		longest(maxToken) + "AAAA",
		header + "." + b64(`{"sub":"alice","sub":"root"}`) + "." + signature,
		header + "." + b64(`{"sub":"alice","s\u0075b":"root"}`) + "." + signature,
		header + "." + b64(`{"a":[{"b":1,"b":2}]}`) + "." + signature,
		header + "." + b64(`{"a":`+strings.Repeat("[", maxNesting)+strings.Repeat("]", maxNesting)+`}`) + "." + signature,
	} {
		if Token(password) != "" {
			t.Errorf("%.100q is taken for a token", password)
		}
	}
}

// What OPA's functions fail on instead of saying no, so that it would be a fault
// of the policy, is no token.
func TestTokenHeaders(t *testing.T) {
	for header, want := range map[string]bool{
		`{"alg":"none"}`: true,
		`{"alg":"EdDSA","typ":"JWT","kid":"1","x":1e999}`: true,
		`{"alg":"EdDSA","crit":["exp"]}`:                  true,
		`{"alg":"EdDSA","cty":"text"}`:                    true,
		`{}`:                                              false,
		`{"alg":""}`:                                      false,
		`{"alg":7}`:                                       false,
		`{"alg":null}`:                                    false,
		`{"ALG":"EdDSA"}`:                                 false,
		`{"alg":"none","alg":"EdDSA"}`:                    false,
		`{"alg":"EdDSA","kid":7}`:                         false,
		`{"alg":"EdDSA","typ":null}`:                      false,
		`{"alg":"EdDSA","crit":[]}`:                       false,
		`{"alg":"EdDSA","crit":"exp"}`:                    false,
		`{"alg":"EdDSA","crit":[null]}`:                   false,
		`{"alg":"EdDSA","cty":"jwt"}`:                     false,
		`{"alg":"dir","enc":"A256GCM"}`:                   false,
	} {
		if got := Token(b64(header)+"."+b64(`{"sub":"alice"}`)+".AAAA") != ""; got != want {
			t.Errorf("with the header %s it is a token: %v", header, got)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add(b64(`{"alg":"none"}`) + "." + b64(`{}`) + ".AAAA")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, password string) {
		if got := Token(password); got != "" && (got != password || strings.Count(got, ".") != 2 || strings.ContainsAny(got, "\r\n\x00 \"")) {
			t.Errorf("%q was taken for the token %q", password, got)
		}
	})
}
