package engine

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// mergeDocuments lays the documents over one another. Their values are shared,
// never changed: an object that several documents write to is copied first.
func (j *judging) mergeDocuments() {
	j.data = map[string]any{}
	owned := map[string]bool{}
	for i, d := range j.candidate.Documents {
		file := &ast.Location{File: d.Path}
		if _, ok := d.Value[namespace]; ok {
			j.refuse(file, "data.%s cannot be given as data: it would be read as a decision", namespace)
		}
		if _, ok := d.Value["system"]; ok {
			j.refuse(file, "data.system is not enforced by this release: it is OPA's own")
		}
		j.merge(j.data, d.Value, nil, owned, i)
	}
	if j.options.CheckData != nil {
		for _, err := range j.options.CheckData(j.data) {
			j.refuse(j.dataAt(err), "%v", err)
		}
	}
}

// dataAt is the file that an error about data is about, if the error tells.
func (j *judging) dataAt(err error) *ast.Location {
	var at interface{ DataPath() []string }
	if !errors.As(err, &at) {
		return nil
	}
	for _, d := range j.candidate.Documents {
		if _, n := walkData(d.Value, at.DataPath()); n == len(at.DataPath()) {
			return &ast.Location{File: d.Path}
		}
	}
	return nil
}

func (j *judging) merge(into, from map[string]any, path []string, owned map[string]bool, document int) {
	for key, value := range from {
		old, ok := into[key]
		if !ok {
			into[key] = value
			continue
		}
		at := append(path[:len(path):len(path)], key)
		mine, isObject := value.(map[string]any)
		theirs, wasObject := old.(map[string]any)
		switch {
		case isObject && wasObject:
			if id := strings.Join(at, "\x00"); !owned[id] {
				theirs, owned[id] = maps.Clone(theirs), true
				into[key] = theirs
			}
			j.merge(theirs, mine, at, owned, document)
		case !reflect.DeepEqual(old, value):
			j.refuse(&ast.Location{File: j.candidate.Documents[document].Path}, "%s has another value in %s",
				dataPath(at), j.documentWith(at, document))
		}
	}
}

// documentWith is the file that gives the value at a path; of several, the
// first. Documents from limit on are not looked at.
func (j *judging) documentWith(path []string, limit int) string {
	for _, d := range j.candidate.Documents[:limit] {
		if _, n := walkData(d.Value, path); n == len(path) {
			return d.Path
		}
	}
	return "another document"
}

// walkData goes down a path and tells how many names it could follow.
func walkData(data map[string]any, path []string) (any, int) {
	var at any = data
	for i, name := range path {
		object, ok := at.(map[string]any)
		if !ok {
			return at, i
		}
		next, ok := object[name]
		if !ok {
			return at, i
		}
		at = next
	}
	return at, len(path)
}

func dataPath(path []string) string { return pathText("data", path) }

// pathText writes a path as Rego would have it.
func pathText(root string, path []string) string {
	ref := ast.Ref{ast.VarTerm(root)}
	for _, name := range path {
		ref = append(ref, ast.StringTerm(name))
	}
	return ref.String()
}

// checkDataConflicts looks for data at a path where a rule of the module is, or
// above it: OPA would show either, and the other not.
func (j *judging) checkDataConflicts(m *module) {
	pkg := packageOf(m.parsed)
	if pkg[0] == namespace {
		return // data there is refused as such
	}
	// A rule's own names count only where the package's path is an object.
	if at, n := walkData(j.data, pkg); n < len(pkg) {
		if _, ok := at.(map[string]any); !ok {
			j.refuse(m.parsed.Package.Location, "package %s conflicts with the data at %s in %s", strings.Join(pkg, "."),
				dataPath(pkg[:n]), j.documentWith(pkg[:n], len(j.candidate.Documents)))
		}
		return
	}
	for _, rule := range m.parsed.Rules {
		path, _ := names(m.parsed.Package.Path.Extend(rule.Head.Ref()))
		at, n := walkData(j.data, path)
		_, isObject := at.(map[string]any)
		if n == len(path) || !isObject {
			j.refuse(rule.Location, "the rule %s conflicts with the data at %s in %s", dataPath(path),
				dataPath(path[:n]), j.documentWith(path[:n], len(j.candidate.Documents)))
		}
	}
}

// checkUndefinedData warns of paths of data that nothing defines. Of a path
// that goes on with a variable only the constant part is judged.
func (j *judging) checkUndefinedData(c *ast.Compiler) {
	for _, m := range j.modules {
		if m.test || m.byDefault {
			continue
		}
		type place struct {
			row  int
			path string
		}
		seen := map[place]bool{}
		walkRules(c.Modules[m.key], func(t *ast.Term, at *ast.Location, target bool) {
			r, ok := t.Value.(ast.Ref)
			if !ok || target || !r[0].Equal(ast.DefaultRootDocument) {
				return
			}
			path, _ := names(r)
			n, defined := j.defined(c, path)
			if defined || j.optional(path) {
				return
			}
			text := dataPath(path[:n])
			if p := (place{at.Row, text}); !seen[p] {
				seen[p] = true
				j.warn(at, "nothing defines %s%s", text, j.leftOut(path, at.File))
			}
		})
	}
}

// leftOut names the file that may have been meant to define a path of data, but was not
// loaded: one of such a name, or else one beside the module.
func (j *judging) leftOut(path []string, module string) string {
	var meant string
	for _, file := range j.candidate.LeftOut {
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		if slices.Contains(path, name) {
			meant = file
			break
		}
		if meant == "" && filepath.Dir(file) == filepath.Dir(module) {
			meant = file
		}
	}
	if meant == "" {
		return ""
	}
	return fmt.Sprintf(": %s is not loaded, because data in a folder are in files named data.json or data.yaml", meant)
}

// defined tells whether data or a rule is at a path, and else how long the part
// of it is that is not defined.
func (j *judging) defined(c *ast.Compiler, path []string) (int, bool) {
	var data any = j.data
	there := true // data is at the path so far
	node := c.RuleTree.Child(ast.DefaultRootDocument.Value)
	for i, name := range path {
		if node != nil {
			node = node.Child(ast.String(name))
		}
		if node != nil && len(node.Values) > 0 {
			return 0, true
		}
		if there {
			object, ok := data.(map[string]any)
			if !ok {
				return 0, true // an index into an array, or below a scalar
			}
			data, there = object[name]
		}
		if node == nil && !there {
			return i + 1, false
		}
	}
	return 0, true
}

// checkBundles holds the roots of each bundle against what policy.roots gives
// it and against the other bundles', and what the bundle brings against its own
// roots.
func (j *judging) checkBundles() {
	bundles := j.candidate.Bundles
	for i := range bundles {
		b := &bundles[i]
		at := &ast.Location{File: b.Path}
		given, ok := j.options.Roots[b.Name]
		if !ok && (len(bundles) > 1 || j.options.Roots != nil) {
			j.refuse(at, "policy.roots gives no root to the bundle %s", b.Name)
		}
		for _, root := range rootsOf(b) {
			if ok && !slices.ContainsFunc(given, func(owner string) bool { return within(root, cleanRoot(owner)) }) {
				j.refuse(at, "the bundle %s claims the root %q, which policy.roots does not give it (%s)", b.Name, root, quoted(given))
			}
			for k := range bundles[:i] {
				for _, other := range rootsOf(&bundles[k]) {
					if within(root, other) || within(other, root) {
						j.refuse(at, "the bundles %s and %s both claim the root %q", bundles[k].Name, b.Name, longer(root, other))
					}
				}
			}
		}
	}
	for _, d := range j.candidate.Documents {
		b := j.bundle(d.Bundle)
		if b == nil {
			continue
		}
		at := &ast.Location{File: d.Path}
		for _, path := range outside(d.Value, nil, rootsOf(b)) {
			j.refuse(at, "%s is outside the roots of the bundle %s (%s)", dataPath(path), b.Name, quoted(rootsOf(b)))
		}
		for _, key := range []string{"settings", "users"} {
			if _, ok := d.Value[key]; ok && !ownsDecisions(b) {
				j.refuse(at, notFromBundle, key, b.Name)
			}
		}
	}
}

// notFromBundle is said of what Go code and the default policy go by.
const notFromBundle = "data.%s is read only from files and from the bundle that owns sallyport, not from the bundle %s"

// checkModuleRoots holds a module of a bundle against the bundle's roots.
func (j *judging) checkModuleRoots(m *module) {
	b := j.bundle(m.bundle)
	if b == nil || m.test {
		return
	}
	pkg, at := packageOf(m.parsed), m.parsed.Package.Location
	name := strings.Join(pkg, ".")
	if !slices.ContainsFunc(rootsOf(b), func(root string) bool { return within(strings.Join(pkg, "/"), root) }) {
		j.refuse(at, "package %s is outside the roots of the bundle %s (%s)", name, b.Name, quoted(rootsOf(b)))
	}
	if (pkg[0] == "settings" || pkg[0] == "users") && !ownsDecisions(b) {
		j.refuse(at, notFromBundle, pkg[0], b.Name)
	}
}

func (j *judging) bundle(name string) *Bundle {
	if name == "" {
		return nil
	}
	at := slices.IndexFunc(j.candidate.Bundles, func(b Bundle) bool { return b.Name == name })
	if at < 0 {
		return &Bundle{Name: name, Roots: []string{}} // owns nothing
	}
	return &j.candidate.Bundles[at]
}

// rootsOf are a bundle's roots; a manifest without any owns everything.
func rootsOf(b *Bundle) []string {
	if b.Roots == nil {
		return []string{""}
	}
	roots := make([]string, len(b.Roots))
	for i, root := range b.Roots {
		roots[i] = cleanRoot(root)
	}
	return roots
}

func cleanRoot(root string) string { return strings.Trim(root, "/") }

// within tells whether a path of names with slashes is a root or below it.
func within(path, root string) bool {
	return root == "" || path == root || strings.HasPrefix(path, root+"/")
}

func longer(a, b string) string {
	if len(a) > len(b) {
		return a
	}
	return b
}

func ownsDecisions(b *Bundle) bool {
	return slices.ContainsFunc(rootsOf(b), func(root string) bool { return within(namespace, root) })
}

// outside are the paths of a document that are below none of the roots.
func outside(value map[string]any, path, roots []string) [][]string {
	var out [][]string
	for _, key := range sortedKeys(value) {
		at := append(path[:len(path):len(path)], key)
		text := strings.Join(at, "/")
		if slices.ContainsFunc(roots, func(root string) bool { return within(text, root) }) {
			continue
		}
		object, ok := value[key].(map[string]any)
		if ok && slices.ContainsFunc(roots, func(root string) bool { return within(root, text) }) {
			out = append(out, outside(object, at, roots)...)
			continue
		}
		out = append(out, at)
	}
	return out
}

func quoted(roots []string) string {
	texts := make([]string, len(roots))
	for i, root := range roots {
		texts[i] = fmt.Sprintf("%q", root)
	}
	if len(texts) == 0 {
		return "none"
	}
	return list(texts)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
