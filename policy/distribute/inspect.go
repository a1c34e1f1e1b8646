package distribute

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"

	"github.com/open-policy-agent/opa/v1/bundle"

	"sallyport/policy/engine"
)

// inspect judges what a bundle costs, before anybody parses it: how many files
// it has, how many bytes those have unpacked, and how deep its data nests. It
// refuses what of a bundle means nothing here as well, and a delta unless it is
// welcome. The error is an [engine.Problems].
func inspect(name string, packed io.Reader, deltas bool) error {
	l := loading{files: maxFiles, bytes: maxBytes, seen: map[string]bool{}}
	l.entries(name, packed, func(f file, content io.Reader) bool { return l.inspect(f, content, deltas) })
	if len(l.problems) > 0 {
		return l.problems
	}
	return nil
}

// What of a bundle has to be parsed to be judged, unpacked. That takes up to a
// hundred times the size, of which a few KiB unpack to any amount, and whether
// anybody vouches for it is not known yet.
const (
	maxYAML     = 1 << 20 // of all files
	maxManifest = 4 << 20
)

func (l *loading) inspect(f file, content io.Reader, deltas bool) bool {
	base := filepath.Base(f.path)
	switch {
	case l.foreign(f):
		return false
	case base == patchFile && !deltas:
		l.refuse(f.path, deltaRefused)
		return false
	case isManifest(f):
		text, ok := l.text(f.path, io.LimitReader(content, maxManifest+1))
		if len(text) > maxManifest {
			l.refuse(f.path, fmt.Sprintf("is more than the %d MiB that a manifest may have", maxManifest>>20))
		} else if ok && l.shallow(f.path, text) {
			f.text = text
			l.manifest(f, &engine.Bundle{})
		}
		return len(l.problems) == 0
	case bundle.IsYAMLFile(f.path):
		text, ok := l.text(f.path, io.LimitReader(content, maxYAML+1))
		if l.yaml += len(text); l.yaml > maxYAML {
			l.refuse(f.path, fmt.Sprintf("is more than the %d MiB of YAML that a bundle may have: want JSON, as `opa build` makes it", maxYAML>>20))
			return false
		}
		if ok {
			f.text = text
			_, ok = l.document(f)
		}
		return ok
	}
	depth := &nesting{}
	read, err := io.Copy(depth, io.LimitReader(content, l.bytes+1))
	l.bytes -= read
	switch {
	case err != nil:
		l.fail(f.path, err)
	case l.bytes < 0:
		l.refuse(f.path, tooLarge())
	case !isRego(f.path) && depth.deepest > maxNesting:
		l.refuse(f.path, tooNested())
	default:
		return true
	}
	return false
}

func (l *loading) shallow(path string, text []byte) bool {
	depth := &nesting{}
	depth.Write(text)
	if depth.deepest > maxNesting {
		l.refuse(path, tooNested())
	}
	return depth.deepest <= maxNesting
}

// nesting finds out how deep JSON nests that is written to it.
type nesting struct {
	depth, deepest  int
	quoted, escaped bool
}

func (n *nesting) Write(p []byte) (int, error) {
	for i := 0; i < len(p); i++ {
		if n.quoted {
			i = n.string(p, i)
			continue
		}
		switch p[i] {
		case '"':
			n.quoted = true
		case '{', '[':
			n.depth++
			n.deepest = max(n.deepest, n.depth)
		case '}', ']':
			n.depth--
		}
	}
	return len(p), nil
}

// string passes over a string that goes on at i, to its last byte in p.
func (n *nesting) string(p []byte, i int) int {
	for ; i < len(p); i++ {
		if n.escaped {
			n.escaped = false
			continue
		}
		quote := bytes.IndexByte(p[i:], '"')
		if quote < 0 {
			quote = len(p) - i
		}
		if escape := bytes.IndexByte(p[i:i+quote], '\\'); escape >= 0 {
			n.escaped = true
			i += escape
			continue
		}
		i += quote
		n.quoted = i == len(p)
		return i
	}
	return i
}

func tooNested() string { return fmt.Sprintf("nests deeper than %d levels", maxNesting) }
