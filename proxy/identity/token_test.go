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
	} {
		if Token(password) != "" {
			t.Errorf("%.100q is taken for a token", password)
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
