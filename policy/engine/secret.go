package engine

import (
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// redacted stands in place of a secret.
const redacted = "[redacted]"

// leastSignature is how long the encoded signature of a token has to be to be
// told from ordinary text; the shortest that JWTs have are of 43.
const leastSignature = 32

// secrets are what a token of a client's must not be known by: the whole of it,
// and its signature, in its own encoding and as io.jwt.decode gives it. Without
// the one the rest is worth nothing. Nil: there are none.
type secrets []string

func secretsOf(token string) secrets {
	if token == "" {
		return nil
	}
	found := secrets{token}
	if signature := token[strings.LastIndexByte(token, '.')+1:]; len(signature) >= leastSignature {
		found = append(found, signature)
		if decoded, err := base64.RawURLEncoding.DecodeString(signature); err == nil {
			found = append(found, hex.EncodeToString(decoded))
		}
	}
	return found
}

// in tells whether a text holds a secret.
func (s secrets) in(text string) bool {
	for _, secret := range s {
		if strings.Contains(text, secret) {
			return true
		}
	}
	return false
}

// without is a text with its secrets redacted.
func (s secrets) without(text string) string {
	for _, secret := range s { // the token first, which holds the others
		text = strings.ReplaceAll(text, secret, redacted)
	}
	return text
}

// outOf is a value with its texts redacted, keys included; the value itself
// where it holds no secret.
func (s secrets) outOf(v ast.Value) ast.Value {
	if len(s) == 0 || !s.in(string(appendValue(nil, v))) { // no secret has a byte that JSON escapes
		return v
	}
	term := func(t *ast.Term) *ast.Term { return ast.NewTerm(s.outOf(t.Value)) }
	switch v := v.(type) {
	case ast.String:
		return ast.String(s.without(string(v)))
	case *ast.Array:
		var members []*ast.Term
		v.Foreach(func(t *ast.Term) { members = append(members, term(t)) })
		return ast.NewArray(members...)
	case ast.Set:
		out := ast.NewSet()
		v.Foreach(func(t *ast.Term) { out.Add(term(t)) })
		return out
	case ast.Object:
		out := ast.NewObject()
		v.Foreach(func(k, t *ast.Term) { out.Insert(term(k), term(t)) })
		return out
	}
	return v
}
