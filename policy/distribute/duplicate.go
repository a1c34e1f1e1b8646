package distribute

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// duplicateInJSON finds a key that an object of well-formed JSON has twice, and
// where the second one ends. Parsers take the last, and a reader may see only the
// first: of two entries for one user, one is not what it seems.
func duplicateInJSON(text []byte) (key string, offset int64, found bool) {
	type level struct {
		keys   map[string]bool // nil: an array
		wanted bool            // the next token is a key
	}
	var stack []level
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			return "", 0, false // the end, or for the parser to tell
		}
		var in *level
		if len(stack) > 0 {
			in = &stack[len(stack)-1]
		}
		if name, ok := token.(string); ok && in != nil && in.wanted {
			if in.keys[name] {
				return name, decoder.InputOffset(), true
			}
			in.keys[name], in.wanted = true, false
			continue
		}
		switch token {
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
			continue
		}
		if in != nil {
			in.wanted = in.keys != nil // the value that begins here is the key's
		}
		switch token {
		case json.Delim('{'):
			stack = append(stack, level{map[string]bool{}, true})
		case json.Delim('['):
			stack = append(stack, level{})
		}
	}
}

// duplicateInYAML is what the YAML library says of a key that a mapping has
// twice: a message that names both lines.
func duplicateInYAML(text []byte) error {
	var value any
	var several *yaml.TypeError
	if err := yaml.Unmarshal(text, &value); errors.As(err, &several) {
		for _, message := range several.Errors {
			if strings.Contains(message, "already defined") {
				return fmt.Errorf("yaml: %s", message)
			}
		}
	}
	return nil
}
