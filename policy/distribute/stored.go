package distribute

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/storage"

	"sallyport/policy/engine"
)

// stored is a bundle as the store has it. Its values are the store's own, and
// may be read only for as long as the transaction they were read in is open.
type stored struct {
	Arrived
	bundle    engine.Bundle
	modules   []engine.Module
	documents []engine.Document
	problems  engine.Problems // what no judge would see any more
}

// readBundles reads every bundle in the store, by name.
func readBundles(ctx context.Context, s *store, txn storage.Transaction) ([]*stored, error) {
	names, err := bundle.ReadBundleNamesFromStore(ctx, s, txn)
	if storage.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []*stored
	for _, name := range names {
		b, err := readBundle(ctx, s, txn, name)
		if storage.IsNotFound(err) { // its data are named so, or it is about to go
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("bundle %s: %w", name, err)
		}
		all = append(all, b)
	}
	if err := readModules(ctx, s, txn, all); err != nil {
		return nil, err
	}
	for _, b := range all {
		b.sum()
	}
	return all, nil
}

func readBundle(ctx context.Context, s *store, txn storage.Transaction, name string) (*stored, error) {
	manifest, err := s.Read(ctx, txn, bundle.ManifestStoragePath(name))
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	var m bundle.Manifest
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber() // a sequence is a number of any size
	if err := decoder.Decode(&m); err != nil {
		return nil, err
	}
	b := &stored{
		Arrived: Arrived{Name: name, Revision: m.Revision, Metadata: m.Metadata},
		bundle:  engine.Bundle{Name: name, Path: name, Roots: []string{""}, Revision: m.Revision},
	}
	if m.Roots != nil {
		b.bundle.Roots = *m.Roots
	}
	if len(m.WasmResolvers) > 0 {
		b.refuse(".manifest", "names a compiled policy: build the bundle with `opa build --target rego`")
	}
	for _, root := range b.bundle.Roots {
		at, ok := storage.ParsePathEscaped("/" + strings.Trim(root, "/"))
		if !ok {
			b.refuse(".manifest", fmt.Sprintf("the root %q is not a path", root))
			continue
		}
		if len(at) > 0 && at[0] == "system" && (len(at) == 1 || at[1] == "bundles" || at[1] == "modules" || at[1] == "bundle") {
			b.refuse(".manifest", fmt.Sprintf("the root %q is OPA's own", root))
			continue
		}
		value, err := s.Read(ctx, txn, at)
		if storage.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b.document(at, value)
	}
	return b, nil
}

// document places what lies at a root below the root of data.
func (b *stored) document(at storage.Path, value any) {
	if len(at) == 0 {
		value = withoutOPA(value)
	}
	file := path.Join(append(slices.Clip(at), "data.json")...)
	if nests(value, maxNesting-len(at)) {
		b.refuse(file, fmt.Sprintf("nests deeper than %d levels", maxNesting))
		return
	}
	for _, name := range slices.Backward(at) {
		value = map[string]any{name: value}
	}
	object, ok := value.(map[string]any)
	if !ok || len(object) == 0 {
		return // the root of data is an object
	}
	b.documents = append(b.documents, engine.Document{Path: b.path(file), Bundle: b.Name, Value: object})
}

// withoutOPA is the whole of data without what OPA keeps there for itself.
func withoutOPA(value any) any {
	object, _ := value.(map[string]any)
	system, ok := object["system"].(map[string]any)
	if !ok {
		return value
	}
	object, system = maps.Clone(object), maps.Clone(system)
	delete(object, "system")
	for _, own := range []string{"bundles", "modules", "bundle"} {
		delete(system, own)
	}
	if len(system) > 0 {
		object["system"] = system
	}
	return object
}

// readModules gives each bundle its modules. OPA keeps them by the bundle's name
// and the file's, and notes the version of Rego where it is not the usual one.
func readModules(ctx context.Context, s *store, txn storage.Transaction, bundles []*stored) error {
	ids, err := s.ListPolicies(ctx, txn)
	if err != nil {
		return err
	}
	versions := map[string]any{}
	if value, err := s.Read(ctx, txn, bundle.ModulesInfoBasePath); err == nil {
		versions, _ = value.(map[string]any)
	} else if !storage.IsNotFound(err) {
		return err
	}
	slices.Sort(ids)
	for _, id := range ids {
		owner, file := ownerOf(bundles, id)
		if owner == nil {
			continue // of a bundle that is about to go
		}
		text, err := s.GetPolicy(ctx, txn, id)
		if err != nil {
			return err
		}
		if _, other := versions[strings.Trim(id, "/")]; other {
			owner.refuse(file, "is in another version of Rego than 1")
		}
		owner.modules = append(owner.modules, engine.Module{Path: owner.path(file), Bundle: owner.Name, Text: text})
	}
	return nil
}

// ownerOf is the bundle that a module is of, by its name in the store. Where the
// name of one bundle is the beginning of another's, a module that is given to the
// wrong one is outside its roots, and refused.
func ownerOf(bundles []*stored, id string) (owner *stored, file string) {
	for _, b := range bundles {
		prefix := strings.Trim(b.Name, "/")
		if parsed, err := url.Parse(b.Name); err == nil { // as OPA names them
			prefix = strings.Trim(path.Join(parsed.Host, parsed.Path), "/")
		}
		below, ok := strings.CutPrefix(strings.Trim(id, "/"), prefix+"/")
		if ok && (owner == nil || len(below) < len(file)) {
			owner, file = b, below
		}
	}
	return owner, file
}

// path is a file of the bundle as problems name it.
func (b *stored) path(file string) string { return b.Name + ":/" + file }

func (b *stored) refuse(file, message string) {
	b.problems = append(b.problems, engine.Problem{File: b.path(file), Message: message})
}

// sum is the digest of all that the bundle brought.
func (b *stored) sum() {
	hash := sha256.New()
	w := bufio.NewWriterSize(hash, 1<<16)
	fmt.Fprintf(w, "%q %q\n", b.Revision, b.bundle.Roots)
	hashValue(w, b.Metadata)
	for _, m := range b.modules {
		fmt.Fprintf(w, "%q %d\n", m.Path, len(m.Text))
		w.Write(m.Text)
	}
	for _, d := range b.documents {
		fmt.Fprintf(w, "%q\n", d.Path)
		hashValue(w, d.Value)
	}
	for _, p := range b.problems {
		fmt.Fprintf(w, "%q\n", p.String())
	}
	w.Flush()
	b.Digest = hex.EncodeToString(hash.Sum(nil))
}

// hashValue writes a value so that equal ones, and no others, are written alike.
func hashValue(w *bufio.Writer, value any) {
	switch value := value.(type) {
	case map[string]any:
		fmt.Fprintf(w, "{%d", len(value))
		keys := slices.AppendSeq(make([]string, 0, len(value)), maps.Keys(value))
		slices.Sort(keys)
		for _, key := range keys {
			hashText(w, key)
			hashValue(w, value[key])
		}
	case []any:
		fmt.Fprintf(w, "[%d", len(value))
		for _, one := range value {
			hashValue(w, one)
		}
	case string:
		hashText(w, value)
	case json.Number:
		w.WriteByte('#')
		hashText(w, string(value))
	default:
		fmt.Fprintf(w, "%T %v;", value, value)
	}
}

func hashText(w *bufio.Writer, text string) {
	var room [20]byte
	w.WriteByte('"')
	w.Write(strconv.AppendInt(room[:0], int64(len(text)), 10))
	w.WriteByte(':')
	io.WriteString(w, text)
}

// candidate is every source together.
type candidate struct {
	engine.Candidate
	arrived  []Arrived
	changed  []Arrived       // those that are not in force as they are
	awaited  []string        // what it lacks
	problems engine.Problems // of its bundles, found when they were read
}

// assemble lays bundles beside the files.
func assemble(files *engine.Candidate, fileSources bool, bundles []*stored) *candidate {
	c := &candidate{}
	c.Modules = slices.Clone(files.Modules)
	c.Documents = slices.Clone(files.Documents)
	c.Bundles = slices.Clone(files.Bundles)
	c.LeftOut = files.LeftOut
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s\n", files.Digest, files.Revision)
	for _, b := range bundles {
		c.Modules = append(c.Modules, b.modules...)
		c.Documents = append(c.Documents, b.documents...)
		c.Bundles = append(c.Bundles, b.bundle)
		c.arrived = append(c.arrived, b.Arrived)
		fmt.Fprintf(hash, "%q %s\n", b.Name, b.Digest)
	}
	c.Digest = hex.EncodeToString(hash.Sum(nil))
	switch {
	case len(bundles) == 0:
		c.Revision = files.Revision
	case len(bundles) == 1 && !fileSources:
		c.Revision = cmp.Or(bundles[0].Revision, "bundle-"+bundles[0].Digest[:12])
	default:
		c.Revision = "policy-" + c.Digest[:12]
	}
	return c
}
