package config

import (
	"errors"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// parseTOML takes a TOML 1.0 document. The library's decoder judges it, the rules about repeated keys and tables
// included; the tree is then built from the library's syntax nodes, which know where they are.
func parseTOML(file string, document []byte) (*node, Problems) {
	reader := tomlReader{lines: newLines(file, document), made: map[member]*node{}}
	if reader.bound(document); len(reader.problems) > 0 {
		return nil, reader.problems
	}
	if err := toml.Unmarshal(document, new(map[string]any)); err != nil {
		at := origin{file: file}
		var syntax *toml.DecodeError
		if errors.As(err, &syntax) {
			at.line, at.column = syntax.Position()
		}
		message := strings.TrimPrefix(err.Error(), "toml: ")
		if strings.Contains(message, "strconv.") { // it quotes the number, which may be a password without its quotes
			message = "a number is malformed or out of range"
		}
		reader.problems.add(at, "", "not TOML: %s", message)
		return nil, reader.problems
	}
	root := &node{kind: mapping, at: origin{file: file}}
	table := root
	reader.parser.Reset(document)
	for reader.parser.NextExpression() {
		switch expression := reader.parser.Expression(); expression.Kind {
		case unstable.Table, unstable.ArrayTable:
			keys := reader.keys(expression)
			last := keys[len(keys)-1]
			parent := reader.descend(root, keys[:len(keys)-1])
			if expression.Kind == unstable.Table {
				table = reader.child(parent, last, mapping)
				continue
			}
			tables := reader.child(parent, last, list)
			table = &node{kind: mapping, at: last.at}
			tables.items = append(tables.items, table)
		case unstable.KeyValue:
			reader.assign(table, expression, 0)
		}
	}
	return root, reader.problems
}

type tomlReader struct {
	lines    lines
	parser   unstable.Parser
	made     map[member]*node // the tables that came to be by being named
	problems Problems
}

type member struct {
	of   *node
	name string
}

type tomlKey struct {
	name string
	at   origin
}

func (r *tomlReader) keys(expression *unstable.Node) []tomlKey {
	var keys []tomlKey
	for it := expression.Key(); it.Next(); {
		keys = append(keys, tomlKey{string(it.Node().Data), r.lines.at(int(it.Node().Raw.Offset))})
	}
	return keys
}

// bound refuses documents that would take the library's decoder minutes: its time goes with the square of the number of
// tables and of the length of a dotted key.
func (r *tomlReader) bound(document []byte) {
	r.parser.Reset(document)
	for expressions := 1; r.parser.NextExpression(); expressions++ {
		keys := r.keys(r.parser.Expression())
		if len(keys) > maxDepth {
			r.problems.add(keys[0].at, "", tooDeep)
			return
		}
		if expressions > maxValues {
			r.problems.add(origin{file: r.lines.file}, "", tooMany)
			return
		}
	}
}

func (r *tomlReader) assign(table *node, expression *unstable.Node, depth int) {
	keys := r.keys(expression)
	last := keys[len(keys)-1]
	parent := r.descend(table, keys[:len(keys)-1])
	parent.entries = append(parent.entries, entry{last.name, last.at, r.read(expression.Value(), last.at, depth)})
}

// read makes a tree of a value. Arrays have no place of their own in the library's nodes; they take their key's.
func (r *tomlReader) read(value *unstable.Node, at origin, depth int) *node {
	read := &node{at: at, text: string(value.Data)}
	if value.Raw.Length > 0 {
		read.at = r.lines.at(int(value.Raw.Offset))
	}
	if depth > maxDepth {
		r.problems.add(read.at, "", tooDeep)
		return read
	}
	switch value.Kind {
	case unstable.Array:
		read.kind = list
		for it := value.Children(); it.Next(); {
			read.items = append(read.items, r.read(it.Node(), at, depth+1))
		}
	case unstable.InlineTable:
		read.kind = mapping
		for it := value.Children(); it.Next(); {
			r.assign(read, it.Node(), depth+1)
		}
	case unstable.Bool:
		read.kind = boolean
	case unstable.Integer:
		read.kind = integer
	case unstable.Float:
		read.kind = number
	case unstable.String:
		read.kind = text
	default:
		read.kind = other
	}
	return read
}

// descend follows a dotted key to its table and makes what is missing. In an array of tables it takes the last one.
func (r *tomlReader) descend(table *node, keys []tomlKey) *node {
	for _, key := range keys {
		table = r.child(table, key, mapping)
		if table.kind == list {
			table = table.items[len(table.items)-1]
		}
	}
	return table
}

func (r *tomlReader) child(table *node, key tomlKey, want kind) *node {
	if known := r.made[member{table, key.name}]; known != nil {
		return known
	}
	made := &node{kind: want, at: key.at}
	table.entries = append(table.entries, entry{key.name, key.at, made})
	r.made[member{table, key.name}] = made
	return made
}
