// Package distribute brings policy in and takes decision logs out.
//
// Policy comes from the files that the operator names and from the bundles that
// OPA's own plugins bring. Either way it becomes a part of one candidate, which
// has to pass one gate:
//
//   - [Load] reads the files (load.go, gather.go), which nobody has judged then, and
//     [Watch] tells when to read them again (watch.go).
//   - The [Manager] (manager.go) owns OPA's plugins. [CheckOPA] judges their
//     configuration before anything is made of it (opaconfig.go, opakeys.go,
//     settings.go), guard.go that of discovery. What a server sends is bounded
//     before OPA reads any of it (bounds.go, inspect.go).
//   - OPA writes bundles to a store of ours (store.go), whose commit is the gate
//     (gate.go): it reads the bundles (stored.go), lays them beside the files, has
//     the engine judge all of it, and puts it in force or refuses the commit.
//     [Forward] says which bundles are older than what was active (rollback.go).
//   - What is shown of that is in state.go, when it is too old in age.go.
//
// Decisions leave by a [DecisionLog] (decisions.go), which is OPA's own plugin
// (sink.go, upload.go) behind a queue that never makes a decision wait unless it is
// told to.
package distribute

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"

	"sallyport/policy/engine"
)

// Load reads a policy from paths, each a directory, a Rego, JSON or YAML file
// or a bundle (.tar.gz), and base data from JSON and YAML files. A directory
// gives its Rego files and those named data.json, data.yaml or data.yml, placed
// below data by the folders that lead to them; hidden files and folders are left
// out. One with a .manifest is an OPA bundle. Nothing but JSON and YAML is
// parsed here.
//
// The revision is the manifest's where the policy is a single bundle, and else
// a digest of the files. A bundle's signatures are not verified: a file that the
// operator names is trusted as a directory is.
//
// A data file whose name ends in .age beside that, such as users.json.age, is
// decrypted by decrypt, whose error does not name the file. It may be nil: then
// such a file is refused.
//
// The error is an [engine.Problems] with everything that is wrong.
func Load(paths, data []string, decrypt func([]byte) ([]byte, error)) (*engine.Candidate, error) {
	l := loading{files: maxFiles, bytes: maxBytes, seen: map[string]bool{}, decrypt: decrypt}
	return l.load(paths, data)
}

// loading is a candidate on its way, and what was found wrong so far.
type loading struct {
	candidate engine.Candidate
	problems  engine.Problems
	seen      map[string]bool // modules and documents that are already in
	digests   []digest
	files     int   // and folders that may still come
	bytes     int64 // that may still come, unpacked
	yaml      int   // bytes that have come in a bundle that was sent
	decrypt   func([]byte) ([]byte, error)
}

type digest struct {
	path string
	sum  [sha256.Size]byte
}

// file is one file of a policy.
type file struct {
	path  string   // as the operator would name it
	place []string // the folders from the root of data to it
	text  []byte
}

func (l *loading) load(paths, data []string) (*engine.Candidate, error) {
	for _, path := range paths {
		l.policy(filepath.Clean(path))
	}
	for _, path := range data {
		l.data(filepath.Clean(path))
	}
	if len(l.problems) > 0 {
		return nil, l.problems
	}
	l.candidate.Digest = l.sum()
	l.candidate.Revision = l.revision(len(paths) + len(data))
	return &l.candidate, nil
}

func (l *loading) policy(path string) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		l.fail(path, err)
	case info.IsDir():
		l.directory(path)
	case strings.HasSuffix(path, ".tar.gz"):
		if files, ok := l.unpack(path); ok {
			l.bundle(path, strings.TrimSuffix(filepath.Base(path), ".tar.gz"), files)
		}
	case isRego(path) || isData(path):
		if f, ok := l.read(path, nil); ok {
			l.take(f, "")
		}
	case isRego(plainName(path)):
		l.refuse(path, "is encrypted, and rules are not decrypted: want data in a .json.age or .yaml.age")
	default:
		l.refuse(path, "is not a policy: want a directory, a .rego, .json or .yaml file, or a bundle .tar.gz")
	}
}

func (l *loading) data(path string) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		l.fail(path, err)
	case info.IsDir() || !isData(path):
		l.refuse(path, "is not data: want a .json or .yaml file")
	default:
		if f, ok := l.read(path, nil); ok {
			l.take(f, "")
		}
	}
}

func (l *loading) directory(path string) {
	inBundle := exists(path, bundle.ManifestExt) || exists(path, bundle.ManifestProtoExt)
	files := l.walk(path, inBundle)
	if inBundle {
		whole, err := filepath.Abs(path)
		if err != nil {
			l.fail(path, err)
			return
		}
		l.bundle(path, filepath.Base(whole), files)
		return
	}
	l.notEmpty(path, files)
	for _, f := range files {
		l.take(f, "")
	}
}

func exists(path, name string) bool {
	_, err := os.Lstat(filepath.Join(path, name))
	return err == nil
}

// notEmpty refuses a source without any policy, such as a volume that is not
// mounted: the default policy would answer instead, and say yes to more. What
// could not be read may have been a policy, and has been told of already.
func (l *loading) notEmpty(path string, files []file) {
	unread := slices.ContainsFunc(l.problems, func(p engine.Problem) bool { return strings.HasPrefix(p.File, path) })
	if !unread && !slices.ContainsFunc(files, func(f file) bool { return isPolicy(plainName(filepath.Base(f.path))) }) {
		l.refuse(path, "holds no policy: neither a .rego file nor a data.json, data.yaml or data.yml")
	}
}

// bundle takes the files of an OPA bundle. What its roots permit is for the
// engine to judge.
func (l *loading) bundle(path, name string, files []file) {
	if slices.ContainsFunc(l.candidate.Bundles, func(b engine.Bundle) bool { return b.Name == name }) {
		l.refuse(path, "there is another bundle of the name "+name)
		return
	}
	l.notEmpty(path, files)
	b := engine.Bundle{Name: name, Path: path, Roots: []string{""}}
	for _, f := range files {
		switch base := filepath.Base(f.path); {
		case isManifest(f):
			l.manifest(f, &b)
		case base == patchFile:
			l.refuse(f.path, deltaRefused)
		case l.foreign(f):
		default:
			l.take(f, name)
		}
	}
	l.candidate.Bundles = append(l.candidate.Bundles, b)
}

const deltaRefused = "makes this a delta bundle, which changes another: want a whole one"

const encryptedRefused = "is encrypted, and what is in a bundle is not decrypted: name it by --data instead"

// foreign refuses a file of a bundle that means something to OPA and nothing
// here.
func (l *loading) foreign(f file) bool {
	switch base := filepath.Base(f.path); {
	case base == bundle.WasmFile, base == bundle.PlanFile, base == bundle.PlanProtoFile:
		l.refuse(f.path, "is a compiled policy: build the bundle with `opa build --target rego`")
	case isEncrypted(base):
		l.refuse(f.path, encryptedRefused)
	case strings.HasSuffix(base, bundle.ManifestExt) && !isManifest(f), strings.HasSuffix(base, bundle.ManifestProtoExt):
		l.refuse(f.path, "is not where a manifest belongs: want one .manifest, as JSON, at the bundle's root")
	default:
		return false
	}
	return true
}

func (l *loading) manifest(f file, b *engine.Bundle) {
	l.digest(f)
	var m bundle.Manifest
	if err := util.UnmarshalJSON(f.text, &m); err != nil {
		l.unparsed(f, err)
		return
	}
	l.manifestKeys(f)
	b.Revision = m.Revision
	if m.Roots != nil {
		b.Roots = *m.Roots
	}
	versions := util.Values(m.FileRegoVersions)
	if m.RegoVersion != nil {
		versions = append(versions, *m.RegoVersion)
	}
	if slices.ContainsFunc(versions, func(v int) bool { return v != 1 }) {
		l.refuse(f.path, "asks for another version of Rego than 1")
	}
}

// manifestKeys refuses a key that no manifest has: with its roots misspelt, a
// bundle would own everything.
func (l *loading) manifestKeys(f file) {
	var keys map[string]json.RawMessage
	if json.Unmarshal(f.text, &keys) != nil {
		return // OPA's own reading has told
	}
	known := []string{"revision", "roots", "wasm", "rego_version", "file_rego_versions", "metadata"}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(known, key) {
			l.refuse(f.path, fmt.Sprintf("a manifest has no key %q: it has %s", key, strings.Join(known, ", ")))
		}
	}
	l.unique(f)
}

// take puts a file into the candidate, unless it is in already: one may be
// named by itself and through its folder.
func (l *loading) take(f file, owner string) {
	key := f.path
	if !isRego(f.path) {
		key = strings.Join(append(f.place, f.path), "\x00")
	}
	if l.seen[key] {
		return
	}
	l.seen[key] = true
	l.digest(f)
	if isRego(f.path) {
		l.candidate.Modules = append(l.candidate.Modules, engine.Module{Path: f.path, Bundle: owner, Text: f.text})
		return
	}
	if value, ok := l.document(f); ok {
		l.candidate.Documents = append(l.candidate.Documents, engine.Document{Path: f.path, Bundle: owner, Value: value})
	}
}

func (l *loading) document(f file) (map[string]any, bool) {
	var value any
	unmarshal := util.UnmarshalJSON
	if bundle.IsYAMLFile(plainName(f.path)) {
		unmarshal = util.Unmarshal
	}
	if err := unmarshal(f.text, &value); err != nil {
		l.unparsed(f, err)
		return nil, false
	}
	if !l.unique(f) {
		return nil, false
	}
	if nests(value, maxNesting) {
		l.refuse(f.path, tooNested())
		return nil, false
	}
	for _, folder := range slices.Backward(f.place) {
		value = map[string]any{folder: value}
	}
	object, ok := value.(map[string]any)
	if !ok {
		l.refuse(f.path, "is at the root of data, and so has to be an object")
	}
	return object, ok
}

// unique refuses a key that is there twice. A file of YAML may hold JSON.
func (l *loading) unique(f file) bool {
	var key string
	var row int
	var found bool
	if json.Valid(f.text) {
		var offset int64
		key, offset, found = duplicateInJSON(f.text)
		row = 1 + bytes.Count(f.text[:offset], []byte("\n"))
	} else {
		var err error
		if key, row, found, err = duplicateInYAML(f.text); err != nil {
			l.unparsed(f, err)
			return false
		}
	}
	if found {
		l.problems = append(l.problems, engine.Problem{File: f.path, Row: row, Message: fmt.Sprintf("the key %q is there twice", key)})
	}
	return !found
}

// nests tells whether a value has more than levels objects and arrays one in
// another.
func nests(value any, levels int) bool {
	switch value := value.(type) {
	case map[string]any:
		for _, v := range value {
			if nests(v, levels-1) {
				return true
			}
		}
	case []any:
		for _, v := range value {
			if nests(v, levels-1) {
				return true
			}
		}
	default:
		return levels < 0
	}
	return levels <= 0
}

func (l *loading) digest(f file) {
	l.digests = append(l.digests, digest{f.path, sha256.Sum256(f.text)})
}

func (l *loading) revision(sources int) string {
	switch bundles := l.candidate.Bundles; {
	case sources == 0:
		return "default"
	case sources == 1 && len(bundles) == 1 && bundles[0].Revision != "":
		return bundles[0].Revision
	}
	return "files-" + l.candidate.Digest[:12]
}

// sum is the digest of everything that was read.
func (l *loading) sum() string {
	slices.SortFunc(l.digests, func(a, b digest) int { return strings.Compare(a.path, b.path) })
	hash := sha256.New()
	for _, d := range l.digests {
		fmt.Fprintf(hash, "%d:%s", len(d.path), d.path)
		hash.Write(d.sum[:])
	}
	return hex.EncodeToString(hash.Sum(nil))
}

func (l *loading) refuse(path, message string) {
	l.problems = append(l.problems, engine.Problem{File: path, Message: message})
}

// fail is refuse for an error of the file system.
func (l *loading) fail(path string, err error) {
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		err = at.Err // the path is said already
	}
	l.refuse(path, err.Error())
}

// unparsed is refuse for text that is not JSON or YAML.
func (l *loading) unparsed(f file, err error) {
	p := engine.Problem{File: f.path, Message: err.Error()}
	if at := (*json.SyntaxError)(nil); errors.As(err, &at) {
		before := f.text[:min(int(at.Offset), len(f.text))]
		p.Row = 1 + strings.Count(string(before), "\n")
	} else if _, after, ok := strings.Cut(p.Message, "line "); ok && bundle.IsYAMLFile(plainName(f.path)) {
		// The YAML library tells the row by its message alone.
		row, message, _ := strings.Cut(after, ": ")
		if n, err := strconv.Atoi(row); err == nil {
			p.Row, p.Message = n, message
		}
	}
	if isEncrypted(f.path) {
		p.Message = "what is encrypted in it is neither JSON nor YAML" // the parser's words may quote it
	}
	l.problems = append(l.problems, p)
}
