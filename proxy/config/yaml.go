package config

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parseYAML takes one document. Aliases are refused: nothing here is long enough to need them, and a few lines of them
// can stand for gigabytes.
func parseYAML(file string, document []byte) (*node, Problems) {
	reader := yamlReader{file: file}
	decoder := yaml.NewDecoder(bytes.NewReader(document))
	var first, second yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		reader.syntax(err)
		return nil, reader.problems
	}
	root := reader.read(first.Content[0], "", 0)
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		reader.syntax(err)
	default:
		reader.problems.add(reader.at(&second), "", "a second document starts here; want one")
	}
	return root, reader.problems
}

const noAliases = "aliases (*NAME) are not supported; put quotes around a text that begins with *"

type yamlReader struct {
	file     string
	problems Problems
}

func (r *yamlReader) at(n *yaml.Node) origin {
	return origin{file: r.file, line: n.Line, column: n.Column}
}

// syntax takes the line out of the parser's message, the one place where it is told.
func (r *yamlReader) syntax(err error) {
	at, message := origin{file: r.file}, strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, found := strings.CutPrefix(message, "line "); found {
		if line, what, found := strings.Cut(rest, ": "); found {
			at.line, _ = strconv.Atoi(line)
			message = what
		}
	}
	if strings.HasPrefix(message, "unknown anchor") { // its name is a password that begins with "*", as likely as not
		r.problems.add(at, "", noAliases)
		return
	}
	r.problems.add(at, "", "not YAML: %s", message)
}

func (r *yamlReader) read(n *yaml.Node, path string, depth int) *node {
	read := &node{at: r.at(n), text: n.Value}
	if depth > maxDepth {
		r.problems.add(read.at, "", tooDeep)
		return read
	}
	switch n.Kind {
	case yaml.AliasNode:
		r.problems.add(read.at, path, noAliases)
	case yaml.SequenceNode:
		read.kind = list
		for i, item := range n.Content {
			read.items = append(read.items, r.read(item, index(path, i), depth+1))
		}
	case yaml.MappingNode:
		read.kind = mapping
		seen := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if key.Kind != yaml.ScalarNode {
				r.problems.add(r.at(key), path, "a key has to be a plain word")
				continue
			}
			below := join(path, key.Value)
			if line, twice := seen[key.Value]; twice {
				r.problems.add(r.at(key), below, "duplicate key; it is on line %d already", line)
				continue
			}
			seen[key.Value] = key.Line
			read.entries = append(read.entries, entry{key.Value, r.at(key), r.read(value, below, depth+1)})
		}
	default:
		kinds := map[string]kind{"!!null": null, "!!bool": boolean, "!!int": integer, "!!float": number, "!!str": text}
		known := false
		if read.kind, known = kinds[n.ShortTag()]; !known {
			read.kind = other
		}
	}
	return read
}
