// Package secret keeps what must not be read by accident.
//
// A configuration names its secrets rather than holding them: [Expand] puts the value of an environment variable or the
// content of a file where the text says ${env:NAME} or ${file:PATH}. What comes out is kept in a [String], which shows
// itself to nobody: printed, logged or encoded in any form it is "[redacted]". Only [String.Reveal] gives the text, so
// that every place where a secret comes into the open can be found by that one name.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what stands in the place of a secret wherever one would be shown.
const Redacted = "[redacted]"

// String is a text that shows itself as [Redacted] to fmt with every verb, to log/slog and to the encoders of JSON,
// YAML, TOML and text. Its zero value is the empty secret, which equals nothing.
type String struct {
	// A pointer, because fmt cannot call the methods of an unexported field of somebody else's struct and prints what
	// the field holds: here that is an address.
	value *string
}

// New makes a secret of a text.
func New(value string) String { return String{value: &value} }

// Reveal gives the text itself. What it returns must not reach a log, an error or a policy's input.
func (s String) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero tells whether the secret is empty.
func (s String) IsZero() bool { return s.value == nil || *s.value == "" }

// Equal compares two secrets in a time that depends on neither's content nor on where they differ. An empty secret
// equals nothing, not even another empty one: a credential that was never set opens no door.
func (s String) Equal(other String) bool {
	a, b := sha256.Sum256([]byte(s.Reveal())), sha256.Sum256([]byte(other.Reveal()))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && !s.IsZero()
}

// String returns [Redacted].
func (s String) String() string { return Redacted }

// Format writes [Redacted] whatever the verb and flags are.
func (s String) Format(state fmt.State, verb rune) { _, _ = io.WriteString(state, Redacted) }

// LogValue is what log/slog records: [Redacted].
func (s String) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText gives [Redacted] to the encoders of JSON, TOML, XML and all others that ask for text.
func (s String) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalYAML gives [Redacted] to YAML encoders.
func (s String) MarshalYAML() (any, error) { return Redacted, nil }
