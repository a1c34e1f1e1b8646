package config

import (
	"path/filepath"
	"slices"
	"strings"

	"sallyport/proxy/secret"
)

// node is a value as it was written, in whatever format, with the place where it was. Every source of settings becomes
// one such tree before anything is made of it.
type node struct {
	kind    kind
	at      origin
	text    string  // of a scalar
	written kind    // of an untyped scalar: what it was in the YAML that it comes from, if it does
	items   []*node // of a list
	entries []entry // of a mapping, in the order written; keys are unique
}

type entry struct {
	key   string
	at    origin
	value *node
}

type kind int

const (
	null kind = iota
	boolean
	integer
	number
	text
	untyped // text from where there are no types: the environment, a command line, an expansion
	other   // what no setting takes, such as a date
	list
	mapping
)

// maxDepth bounds how deep a document nests; the configuration itself needs six levels.
const maxDepth = 32

// maxValues bounds how many values a document holds, since some of what is done with them takes the square of their number.
const maxValues = 20000

const (
	tooDeep = "nested more than 32 levels deep"
	tooMany = "more than 20000 values"
)

// count says how many values the tree holds.
func (n *node) count() int {
	if n == nil {
		return 0
	}
	count := 1
	for _, item := range n.items {
		count += item.count()
	}
	for _, e := range n.entries {
		count += e.value.count()
	}
	return count
}

// describe says what the node is in place of what was wanted. Of secrets it shows nothing.
func (n *node) describe() string {
	switch {
	case n.kind == mapping:
		return "a map"
	case n.kind == list:
		return "a list"
	case n.kind == null:
		return "nothing"
	case n.at.secret || n.at.sealed:
		return secret.Redacted
	case n.kind == boolean || n.kind == integer || n.kind == number:
		return strings.Trim(quote(n.text), `"`)
	}
	return quote(n.text)
}

// merge lays over onto n, key by key; anything but two mappings is replaced as a whole.
func merge(under, over *node) *node {
	if under == nil || under.kind != mapping || over.kind != mapping {
		return over
	}
	merged := &node{kind: mapping, at: over.at, entries: slices.Clone(under.entries)}
	for _, e := range over.entries {
		i := slices.IndexFunc(merged.entries, func(known entry) bool { return known.key == e.key })
		if i < 0 {
			merged.entries = append(merged.entries, e)
			continue
		}
		merged.entries[i] = entry{e.key, e.at, merge(merged.entries[i].value, e.value)}
	}
	return merged
}

// parse reads a document in the format that the file's name says. What it returns is a mapping, empty when the document
// has a problem that hides the rest.
func parse(file string, document []byte) (*node, Problems) {
	var root *node
	var problems Problems
	plain, isEncrypted := secret.TrimEncrypted(file)
	switch strings.ToLower(filepath.Ext(plain)) {
	case ".yaml", ".yml":
		root, problems = parseYAML(file, document)
	case ".json":
		root, problems = parseJSON(file, document)
	case ".toml":
		root, problems = parseTOML(file, document)
	default:
		problems.add(origin{file: file}, "", "not a format that is known: want .yaml, .yml, .toml or .json")
	}
	if isEncrypted {
		root.seal()
	}
	if root.count() > maxValues {
		problems.add(origin{file: file}, "", tooMany)
		root = nil
	}
	if root == nil || root.kind == null {
		return &node{kind: mapping, at: origin{file: file}}, problems
	}
	if root.kind != mapping {
		problems.add(root.at, "", "want a map of settings, got %s", root.describe())
		return &node{kind: mapping, at: root.at}, problems
	}
	return root, problems
}

// lines turns offsets into lines and columns without counting from the start each time.
type lines struct {
	file   string
	starts []int
}

func newLines(file string, document []byte) lines {
	starts := []int{0}
	for i, b := range document {
		if b == '\n' {
			starts = append(starts, i+1)
		}
	}
	return lines{file, starts}
}

func (l lines) at(offset int) origin {
	line, exact := slices.BinarySearch(l.starts, offset)
	if !exact {
		line--
	}
	return origin{file: l.file, line: line + 1, column: offset - l.starts[line] + 1}
}
