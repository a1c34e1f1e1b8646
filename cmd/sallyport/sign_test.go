package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

const signingKey = "a-key-for-tests-that-is-long-enough"

// sign adds what `opa sign --signing-alg HS256` would: a JWS (RFC 7515) over the
// digests of the files. OPA hashes what is structured in a canonical form, which
// these files are in, once they are compact.
func sign(t *testing.T, files map[string]string) map[string]string {
	t.Helper()
	files = maps.Clone(files)
	type digest struct {
		Name      string `json:"name"`
		Hash      string `json:"hash"`
		Algorithm string `json:"algorithm"`
	}
	var digests []digest
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		if strings.HasSuffix(name, ".json") || name == ".manifest" {
			var value any
			if err := json.Unmarshal([]byte(text), &value); err != nil {
				t.Fatal(err)
			}
			compact, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			text = string(compact)
		}
		sum := sha256.Sum256([]byte(text))
		digests = append(digests, digest{name, hex.EncodeToString(sum[:]), "SHA-256"})
	}
	payload, err := json.Marshal(map[string]any{"files": digests})
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	token := encode([]byte(`{"alg":"HS256","typ":"JWT","kid":"ours"}`)) + "." + encode(payload)
	mac := hmac.New(sha256.New, []byte(signingKey))
	mac.Write([]byte(token))
	files[".signatures.json"] = `{"signatures": ["` + token + "." + encode(mac.Sum(nil)) + `"]}`
	return files
}
