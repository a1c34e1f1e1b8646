package engine

import (
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"sallyport/policy"
)

// What is shown of a value.
const (
	shownBytes   = 120
	shownMembers = 8 // of an object, an array or a set; one with more is only counted
)

// renderer shows values to a person, short and without secrets: neither the
// token that a client presented nor the hash of a password.
type renderer struct {
	data     ast.Object
	compiler *ast.Compiler // which tells rules from data; nil: data is not shown
	secrets  secrets       // of the facts
}

// text is a value as Rego would have it, cut short.
func (r *renderer) text(v ast.Value) string {
	var b strings.Builder
	r.write(&b, v)
	return clippedTo(b.String(), shownBytes)
}

func (r *renderer) write(b *strings.Builder, v ast.Value) {
	if b.Len() > shownBytes {
		return
	}
	var open, shut string
	n := 0
	switch v := v.(type) {
	case ast.String:
		if r.isSecret(string(v)) {
			b.WriteString(redacted)
			return
		}
		b.WriteString(ast.String(clippedTo(string(v), shownBytes)).String())
		return
	case *ast.Array:
		open, shut, n = "[", "]", v.Len()
	case ast.Set:
		open, shut, n = "{", "}", v.Len()
		if n == 0 {
			open, shut = "set(", ")"
		}
	case ast.Object:
		open, shut, n = "{", "}", v.Len()
	default:
		b.WriteString(v.String())
		return
	}
	if n > shownMembers {
		fmt.Fprintf(b, "%s… %d members%s", open, n, shut)
		return
	}
	b.WriteString(open)
	first := true
	member := func() {
		if !first {
			b.WriteString(", ")
		}
		first = false
	}
	switch v := v.(type) {
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { member(); r.write(b, t.Value) })
	case ast.Set:
		v.Foreach(func(t *ast.Term) { member(); r.write(b, t.Value) })
	case ast.Object:
		v.Foreach(func(k, t *ast.Term) { member(); r.write(b, k.Value); b.WriteString(": "); r.write(b, t.Value) })
	}
	b.WriteString(shut)
}

// isSecret tells what a token is known by, and the hashes that data.users holds.
func (r *renderer) isSecret(s string) bool {
	return r.secrets.in(s) || holdsHash(s)
}

// holdsHash tells whether a text holds the hash of a password, or begins to.
func holdsHash(s string) bool {
	for _, prefix := range []string{"$argon2", "$2a$", "$2b$", "$2x$", "$2y$"} {
		if strings.Contains(s, prefix) {
			return true
		}
	}
	return false
}

// lookUp shows what a path of input or of base data holds in an event; it is
// empty where that is unknown, or told elsewhere since it is a rule.
func (r *renderer) lookUp(ref ast.Ref, e *topdown.Event) string {
	var at ast.Value
	switch {
	case len(ref) == 1:
		return "" // all of it tells nothing
	case ref[0].Equal(ast.InputRootDocument) && e.Input() != nil:
		at = e.Input().Value
	case ref[0].Equal(ast.DefaultRootDocument) && r.compiler != nil && len(r.compiler.GetRules(ref.ConstantPrefix())) == 0:
		at = r.data
	default:
		return ""
	}
	for _, part := range ref[1:] {
		key := e.Plug(part)
		if !key.Value.IsGround() {
			// It goes through all of them: the variable shows which.
			if text := r.text(at); text == "[]" || text == "{}" || text == "set()" {
				return text
			}
			return ""
		}
		next, err := at.Find(ast.Ref{key})
		if err != nil {
			return "undefined"
		}
		at = next
	}
	return r.text(at)
}

// clippedTo cuts text of any length, at a whole character.
func clippedTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// rendererFor shows values of a snapshot in an evaluation with these facts.
func rendererFor(s *Snapshot, facts *policy.Facts) *renderer {
	return &renderer{data: s.data, compiler: s.compiler, secrets: secretsOf(facts.Credentials.Token)}
}
