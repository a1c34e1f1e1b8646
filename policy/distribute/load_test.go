package distribute

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"

	"sallyport/policy/engine"
)

const rego = "package sallyport.route\n\nallow := true\n"

// folder writes files below a new folder and returns it.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		put(t, filepath.Join(root, name), text)
	}
	return root
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// pack writes a bundle as tar and gzip would.
func pack(t *testing.T, path string, headers ...tar.Header) {
	t.Helper()
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zip)
	for _, h := range headers {
		text := h.Linkname // in tests a regular file's text
		if h.Typeflag == tar.TypeReg {
			h.Size, h.Linkname = int64(len(text)), ""
		}
		h.Mode = 0o644
		if err := archive.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := archive.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(archive.Close(), zip.Close(), os.WriteFile(path, packed.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func entry(name, text string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Linkname: text}
}

// content is a candidate without its revision: modules as path (owner) and text,
// documents as path (owner) and JSON.
func content(t *testing.T, c *engine.Candidate) map[string]string {
	t.Helper()
	all := map[string]string{}
	put := func(path, owner, text string) {
		if owner != "" {
			path += " (" + owner + ")"
		}
		if _, ok := all[path]; ok {
			t.Errorf("%s is in the candidate twice", path)
		}
		all[path] = text
	}
	for _, m := range c.Modules {
		put(m.Path, m.Bundle, string(m.Text))
	}
	for _, d := range c.Documents {
		text, err := json.Marshal(d.Value)
		if err != nil {
			t.Fatal(err)
		}
		put(d.Path, d.Bundle, string(text))
	}
	return all
}

func TestLoad(t *testing.T) {
	root := folder(t, map[string]string{
		"plain/route.rego":             rego,
		"plain/deep/er/route.rego":     rego,
		"plain/data.json":              `{"settings": {"allow_ports": [22, 12345678901234567890]}}`,
		"plain/teams/blue/data.yaml":   "members: [a, b]\n",
		"plain/teams/red/data.yml":     "[1, 2.5]\n",
		"plain/users.json":             `not read`,
		"plain/README.md":              `not read`,
		"plain/patch.json":             `not read`,
		"plain/policy.wasm":            `not read`,
		"plain/deep/.manifest":         `not read`,
		"plain/.git/data.json":         `not read`,
		"plain/.#route.rego":           `not read`,
		"team/.manifest":               `{"revision": "7", "roots": ["sallyport", "teams/x"]}`,
		"team/sallyport/route.rego":    rego,
		"team/teams/x/data.json":       `{"a": null}`,
		"team/.regal/config.yaml":      `not read`,
		"one.rego":                     rego,
		"any.json":                     `{"a": {"b": true}}`,
		"any.yaml":                     "on: off\nnumber: 0x10\n",
		"linked/..2026/route.rego":     rego,
		"linked/..2026/sub/data.json":  `{}`,
		"bundled/sallyport/route.rego": rego,
	})
	at := func(name string) string { return filepath.Join(root, name) }
	links := map[string]string{
		"linked/..data":     "..2026",
		"linked/route.rego": "..data/route.rego",
		"linked/sub":        "..data/sub",
		"tree":              "plain",
	}
	for from, to := range links {
		if err := os.Symlink(to, at(from)); err != nil {
			t.Fatal(err)
		}
	}
	pack(t, at("x.tar.gz"),
		tar.Header{Name: "./", Typeflag: tar.TypeDir}, entry("./.manifest", `{"revision": "8", "rego_version": 1}`),
		entry("./a/b.rego", rego), entry("data.json", `{"top": 1}`), entry("/c/d/data.yaml", "x: 1"),
		entry("/c/other.json", "not read"), entry("/.signatures.json", "not read"))

	plain := map[string]string{
		"route.rego":           rego,
		"deep/er/route.rego":   rego,
		"data.json":            `{"settings":{"allow_ports":[22,12345678901234567890]}}`,
		"teams/blue/data.yaml": `{"teams":{"blue":{"members":["a","b"]}}}`,
		"teams/red/data.yml":   `{"teams":{"red":[1,2.5]}}`,
	}
	below := func(name string, files map[string]string) map[string]string {
		out := map[string]string{}
		for path, text := range files {
			out[at(filepath.Join(name, path))] = text
		}
		return out
	}
	for _, test := range []struct {
		name        string
		paths, data []string
		want        map[string]string
		bundles     []engine.Bundle
		revision    string // empty: a digest
	}{
		{name: "nothing", want: map[string]string{}, revision: "default"},
		{name: "a directory", paths: []string{"plain"}, want: below("plain", plain)},
		{name: "a directory, and a file of it", paths: []string{"plain", "plain/route.rego"}, want: below("plain", plain)},
		{name: "a link to a directory", paths: []string{"tree"}, want: below("tree", plain)},
		{name: "a Kubernetes volume", paths: []string{"linked"}, want: below("linked", map[string]string{
			"route.rego": rego, "sub/data.json": `{"sub":{}}`,
		})},
		{name: "files", paths: []string{"one.rego", "any.json"}, data: []string{"any.yaml"}, want: below("", map[string]string{
			"one.rego": rego, "any.json": `{"a":{"b":true}}`, "any.yaml": `{"number":16,"on":"off"}`,
		})},
		{name: "a file of a directory, as data, is at the root", data: []string{"plain/teams/blue/data.yaml"},
			want: below("", map[string]string{"plain/teams/blue/data.yaml": `{"members":["a","b"]}`})},
		{name: "a bundle", paths: []string{"x.tar.gz"}, revision: "8",
			want: map[string]string{
				at("x.tar.gz") + ":/a/b.rego (x)":      rego,
				at("x.tar.gz") + ":/data.json (x)":     `{"top":1}`,
				at("x.tar.gz") + ":/c/d/data.yaml (x)": `{"c":{"d":{"x":1}}}`,
			},
			bundles: []engine.Bundle{{Name: "x", Path: at("x.tar.gz"), Roots: []string{""}, Revision: "8"}}},
		{name: "a bundle's directory", paths: []string{"team"}, revision: "7",
			want: map[string]string{
				at("team/sallyport/route.rego") + " (team)": rego,
				at("team/teams/x/data.json") + " (team)":    `{"teams":{"x":{"a":null}}}`,
			},
			bundles: []engine.Bundle{{Name: "team", Path: at("team"), Roots: []string{"sallyport", "teams/x"}, Revision: "7"}}},
		{name: "a bundle, and data", paths: []string{"team"}, data: []string{"any.json"},
			want: map[string]string{
				at("team/sallyport/route.rego") + " (team)": rego,
				at("team/teams/x/data.json") + " (team)":    `{"teams":{"x":{"a":null}}}`,
				at("any.json"):                              `{"a":{"b":true}}`,
			},
			bundles: []engine.Bundle{{Name: "team", Path: at("team"), Roots: []string{"sallyport", "teams/x"}, Revision: "7"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			absolute := func(names []string) (out []string) {
				for _, name := range names {
					out = append(out, at(name))
				}
				return out
			}
			c, err := Load(absolute(test.paths), absolute(test.data), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := content(t, c); !maps.Equal(got, test.want) {
				t.Errorf("got  %v\nwant %v", got, test.want)
			}
			if !reflect.DeepEqual(c.Bundles, test.bundles) {
				t.Errorf("bundles %+v, want %+v", c.Bundles, test.bundles)
			}
			if test.revision == "" {
				if digest, ok := strings.CutPrefix(c.Revision, "files-"); !ok || len(digest) != 12 {
					t.Errorf("revision %q is not a digest", c.Revision)
				}
			} else if c.Revision != test.revision {
				t.Errorf("revision %q, want %q", c.Revision, test.revision)
			}
		})
	}
}

// What OPA writes is what we read.
func TestLoadReadsOPAsBundles(t *testing.T) {
	parsed, err := ast.ParseModule("/sallyport/route.rego", rego)
	if err != nil {
		t.Fatal(err)
	}
	b := bundle.Bundle{
		Manifest: bundle.Manifest{Revision: "r", Roots: &[]string{"sallyport", "x"}},
		Modules:  []bundle.ModuleFile{{URL: "/sallyport/route.rego", Path: "/sallyport/route.rego", Raw: []byte(rego), Parsed: parsed}},
		Data:     map[string]any{"x": json.Number("12345678901234567890")},
	}
	if err := b.GenerateSignature(bundle.NewSigningConfig("secret", "HS256", ""), "k", false); err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	if err := bundle.NewWriter(&packed).DisableFormat(true).Write(b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "signed.tar.gz")
	put(t, path, packed.String())
	c, err := Load([]string{path}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		path + ":/sallyport/route.rego (signed)": rego,
		path + ":/data.json (signed)":            `{"x":12345678901234567890}`,
	}
	if got := content(t, c); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if c.Revision != "r" || !slices.Equal(c.Bundles[0].Roots, []string{"sallyport", "x"}) {
		t.Errorf("revision %q, bundles %+v", c.Revision, c.Bundles)
	}
}

func TestLoadRefuses(t *testing.T) {
	root := folder(t, map[string]string{
		"bad/data.json":           "{\n  \"a\": 1,\n  oops\n}",
		"bad/x/data.yaml":         "a: 1\nb: c: 2\n",
		"bad/y/data.json":         "{} {}",
		"bad/z/data.json":         `{"deep": ` + strings.Repeat("[", maxNesting) + "1" + strings.Repeat("]", maxNesting) + "}",
		"root/data.json":          "[1]",
		"null/data.yaml":          "# nothing\n",
		"empty/README.md":         "nothing",
		"notes.txt":               "nothing",
		"fine.rego":               rego,
		"v0/.manifest":            `{"rego_version": 0}`,
		"v0/a.rego":               rego,
		"v0file/.manifest":        `{"rego_version": 1, "file_rego_versions": {"/a.rego": 0}}`,
		"v0file/a.rego":           rego,
		"badmanifest/.manifest":   "{\n\"roots\": 7}",
		"badmanifest/a.rego":      rego,
		"proto/.manifest.pb":      "",
		"proto/a.rego":            rego,
		"nested/.manifest":        "{}",
		"nested/a.rego":           rego,
		"nested/b/.manifest":      "{}",
		"wasm/.manifest":          "{}",
		"wasm/policy.wasm":        "",
		"wasm/a.rego":             rego,
		"cut.tar.gz":              "nothing",
		"loop/a.rego":             rego,
		"dangling/a.rego":         rego,
		"pipe/a.rego":             rego,
		"same/fine.tar.gz/unused": "",
		"other/team/.manifest":    "{}",
		"other/team/a.rego":       rego,
		"another/team/.manifest":  "{}",
		"another/team/a.rego":     rego,
	})
	at := func(name string) string { return filepath.Join(root, name) }
	for from, to := range map[string]string{"loop/self": ".", "loop/ring": "ring", "dangling/b.rego": "nowhere"} {
		if err := os.Symlink(to, at(from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(at("pipe/b.rego"), 0o600); err != nil {
		t.Fatal(err)
	}
	pack(t, at("delta.tar.gz"), entry("/patch.json", `{"data": []}`), entry("/.manifest", "{}"), entry("/a.rego", rego))
	pack(t, at("plan.tar.gz"), entry("/plan.json", "{}"), entry("/a.rego", rego))
	pack(t, at("twice.tar.gz"), entry("/a.rego", rego), entry("a.rego", rego))
	pack(t, at("none.tar.gz"), entry("/README.md", "nothing"))
	pack(t, at("link.tar.gz"), tar.Header{Name: "a.rego", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"})
	pack(t, at("broken.tar.gz"), entry("/a.rego", rego), entry("/data.json", "{\n7}"))
	pack(t, at("whole.tar.gz"), entry("/a.rego", rego))
	whole, err := os.ReadFile(at("whole.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, at("short.tar.gz"), string(whole[:len(whole)-9]))
	whole[len(whole)-6] ^= 1 // of the checksum
	put(t, at("sum.tar.gz"), string(whole))

	for _, test := range []struct {
		name        string
		paths, data []string
		want        []string // FILE:ROW: part of the message
	}{
		{"everything at once", []string{"bad", "root", "gone", "notes.txt"}, []string{"fine.rego", "bad", "gone.json"}, []string{
			"bad/data.json:3: invalid character", "bad/x/data.yaml:2: mapping values", "bad/y/data.json: ",
			"bad/z/data.json: nests deeper than 128 levels", "root/data.json: is at the root of data",
			"gone: no such file", "notes.txt: is not a policy", "fine.rego: is not data", "bad: is not data", "gone.json: no such file",
		}},
		{"no policy", []string{"empty", "null", "none.tar.gz"}, nil, []string{
			"empty: holds no policy", "null/data.yaml: is at the root of data", "none.tar.gz: holds no policy",
		}},
		{"manifests", []string{"v0", "v0file", "badmanifest", "proto", "nested"}, nil, []string{
			"v0/.manifest: asks for another version of Rego", "v0file/.manifest: asks for another version of Rego",
			"badmanifest/.manifest: json: cannot unmarshal", "proto/.manifest.pb: is not where", "nested/b/.manifest: is not where",
		}},
		{"compiled and delta bundles", []string{"wasm", "plan.tar.gz", "delta.tar.gz"}, nil, []string{
			"wasm/policy.wasm: is a compiled policy", "plan.tar.gz:/plan.json: is a compiled policy", "delta.tar.gz:/patch.json: makes this a delta",
		}},
		{"archives", []string{"cut.tar.gz", "twice.tar.gz", "link.tar.gz", "broken.tar.gz"}, nil, []string{
			"cut.tar.gz: is not a bundle", "twice.tar.gz:/a.rego: is in the bundle twice",
			"link.tar.gz:/a.rego: is not a regular file", "broken.tar.gz:/data.json:2: invalid character",
		}},
		{"damaged archives", []string{"short.tar.gz", "sum.tar.gz"}, nil, []string{
			"short.tar.gz: is not a whole bundle: unexpected EOF", "sum.tar.gz: is not a whole bundle: gzip: invalid checksum",
		}},
		{"links and pipes", []string{"loop", "dangling", "pipe"}, nil, []string{
			"loop/ring: too many levels of symbolic links", "loop/self: leads back", "dangling/b.rego: no such file", "pipe/b.rego: is not a regular file",
		}},
		{"bundles of one name", []string{"other/team", "another/team"}, nil, []string{"another/team: there is another bundle of the name team"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			absolute := func(names []string) (out []string) {
				for _, name := range names {
					out = append(out, at(name))
				}
				return out
			}
			c, err := Load(absolute(test.paths), absolute(test.data), nil)
			var problems engine.Problems
			if c != nil || !errors.As(err, &problems) {
				t.Fatalf("loaded %v, error %v", c, err)
			}
			if len(problems) != len(test.want) {
				t.Errorf("%d problems, want %d:\n%v", len(problems), len(test.want), err)
			}
			for i, want := range test.want {
				if i < len(problems) && !strings.HasPrefix(problems[i].String(), at(want)) {
					t.Errorf("problem %q, want %q", problems[i], want)
				}
			}
		})
	}
}

func TestLoadIsBounded(t *testing.T) {
	root := folder(t, map[string]string{"a/a.rego": rego, "a/b/b.rego": rego, "a/c/data.json": `{"x": "` + strings.Repeat("x", 100) + `"}`})
	archive := filepath.Join(root, "x.tar.gz")
	pack(t, archive, entry("a.rego", rego), entry("README.md", strings.Repeat("x", 1<<20)), entry("b.rego", rego))
	for _, test := range []struct {
		name  string
		path  string
		files int
		bytes int64
		want  string // empty: it fits
	}{
		{"fits", "a", 5, 200, ""},
		{"too many files", "a", 4, 200, "a/c/data.json: is more than the 10000 files"},
		{"too many folders", "a", 2, 200, "a/b/b.rego: is more than the 10000 files"},
		{"too many bytes", "a", 5, 180, "a/c/data.json: is more than the 256 MiB"},
		{"an archive that fits", "x.tar.gz", 4, 1 << 20, ""},
		{"too many files in an archive", "x.tar.gz", 3, 1 << 20, "x.tar.gz:/b.rego: is more than the 10000 files"},
		{"too many bytes in an archive", "x.tar.gz", 4, 50, "x.tar.gz: is more than the 256 MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := loading{files: test.files, bytes: test.bytes, seen: map[string]bool{}}
			_, err := l.load([]string{filepath.Join(root, test.path)}, nil)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), filepath.Join(root, test.want)) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want %s", err, test.want)
			}
		})
	}
}

func TestRevisionFollowsTheFiles(t *testing.T) {
	root := folder(t, map[string]string{"a.rego": rego, "b.rego": "package b\n"})
	seen := map[string]string{}
	for _, step := range []struct {
		name string
		do   func()
		like string // the step that it has to equal
	}{
		{name: "first", do: func() {}},
		{name: "again", do: func() {}, like: "first"},
		{name: "edited", do: func() { put(t, filepath.Join(root, "b.rego"), "package c\n") }},
		{name: "renamed", do: func() {
			if err := os.Rename(filepath.Join(root, "b.rego"), filepath.Join(root, "c.rego")); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "beside", do: func() { put(t, filepath.Join(root, "notes.txt"), "x") }, like: "renamed"},
	} {
		step.do()
		c, err := Load([]string{root}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, revision := range seen {
			if (revision == c.Revision) != (name == step.like || seen[name] == seen[step.like]) {
				t.Errorf("%s and %s have the revisions %s and %s", name, step.name, revision, c.Revision)
			}
		}
		seen[step.name] = c.Revision
	}
}

func TestNests(t *testing.T) {
	for text, want := range map[string]int{
		`1`: 0, `[]`: 1, `{}`: 1, `[1]`: 1, `{"a": 1}`: 1, `{"a": {}}`: 2, `[{"a": [1]}, 2]`: 3, `[1, {"a": {"b": {"c": 1}}}]`: 4,
	} {
		var value any
		do(t, json.Unmarshal([]byte(text), &value))
		if nests(value, want) || want > 0 && !nests(value, want-1) {
			t.Errorf("%s does not nest %d levels", text, want)
		}
	}
}

func FuzzDocument(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a": [1, {"b": null}]}`, "a: 1\n", "a: &x [*x]\n", "[", "\xff", "1: 2\n", "<<: {a: 1}\n"} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, text string, yaml bool) {
		l := loading{files: maxFiles, bytes: maxBytes, seen: map[string]bool{}}
		path := "data.json"
		if yaml {
			path = "data.yaml"
		}
		value, ok := l.document(file{path: path, text: []byte(text)})
		if ok != (len(l.problems) == 0) {
			t.Fatalf("ok is %v with the problems %v", ok, l.problems)
		}
		if ok {
			if _, err := ast.InterfaceToValue(value); err != nil {
				t.Fatal(err)
			}
		}
	})
}
