package distribute

import (
	"bytes"
	"encoding/json"
	"fmt"

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

// duplicateInYAML finds a key that a mapping has twice, in whatever spelling: in
// the JSON that comes of it, 1 and 0x1 are one key. An error is the library's, of
// text that it can't read.
func duplicateInYAML(text []byte) (key string, row int, found bool, err error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return "", 0, false, err
	}
	key, row, found = duplicateInNode(&document)
	return key, row, found, nil
}

func duplicateInNode(node *yaml.Node) (key string, row int, found bool) {
	keys := map[string]bool{}
	for i, below := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 && below.Tag != "!!merge" {
			var name any
			if below.Decode(&name) != nil {
				name = below.Value
			}
			text := fmt.Sprint(name)
			if keys[text] {
				return text, below.Line, true
			}
			keys[text] = true
		}
		if key, row, found := duplicateInNode(below); found {
			return key, row, true
		}
	}
	return "", 0, false
}
