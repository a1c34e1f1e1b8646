package distribute

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestDuplicatesAreRefused(t *testing.T) {
	dir := t.TempDir()
	for i, c := range []struct{ name, text, want string }{
		{"data.json", "{\"users\": {\n\"x\": {},\n\"y\": 1,\n\"x\": {}}}", `:4: the key "x" is there twice`},
		{"data.json", `{"a": [{"b": 1, "\u0062": 2}]}`, `:1: the key "b" is there twice`},
		{"data.json", `{"a": 1, "": 2, "": 3}`, `the key "" is there twice`},
		{"data.yaml", "users:\n  x: {a: 1}\n  x: {a: 2}\n", `:3: the key "x" is there twice`},
		{"data.yaml", `{"x":1,"e":"\ud83d\ude00","x":2}`, `:1: the key "x" is there twice`},
		{"data.yaml", "users:\n  1: dev\n  0x1: admin\n", `:3: the key "1" is there twice`},
		{"data.yaml", "a: {true: 1, True: 2}\n", `the key "true" is there twice`},
		{"data.yaml", "a: &a {k: 1}\nb: {<<: *a, k: 2}\nc: {<<: *a, d: *a}\n", ""},
		{"data.json", `{"a": {"k": "a"}, "b": {"k": "k"}, "c": ["a", "a", {"a": 1}, {"a": 1}], "k": null}`, ""},
		{"data.yaml", "a: {k: a}\nb: {k: k}\nc: [a, a]\n", ""},
	} {
		path := filepath.Join(dir, fmt.Sprint(i), c.name)
		put(t, path, c.text)
		_, err := Load(nil, []string{path}, nil)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
}

func TestManifestKeysAreKnown(t *testing.T) {
	for text, want := range map[string]string{
		`{"rots": ["agents"]}`:                                                       `a manifest has no key "rots": it has revision, roots, wasm`,
		`{"roots": ["agents"], "revision": "1", "roots": [""]}`:                      `the key "roots" is there twice`,
		`{"roots": ["agents"], "revision": "1", "metadata": {"roots": 1, "any": 2}}`: "",
	} {
		dir := t.TempDir()
		put(t, filepath.Join(dir, ".manifest"), text)
		put(t, filepath.Join(dir, "agents", "data.json"), `{"a": 1}`)
		_, err := Load([]string{dir}, nil, nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), ".manifest") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// Whatever is JSON has a duplicate only if it is longer than what is left of it.
func FuzzDuplicate(f *testing.F) {
	for _, text := range []string{`{"a":{"b":[1,{"c":null}]},"b":true}`, `{"a":1,"a":2}`, `[{"x":"x"},"x"]`, `{"a":["a"],"b":{}}`, `1`, `{`, `]`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		key, offset, found := duplicateInJSON(text)
		if found && (offset <= 0 || offset > int64(len(text))) {
			t.Fatalf("%q: %q at %d", text, key, offset)
		}
		var value any
		if json.Unmarshal(text, &value) != nil {
			return
		}
		if again, err := json.Marshal(value); err != nil {
			t.Fatal(err)
		} else if _, _, still := duplicateInJSON(again); still {
			t.Fatalf("%q has a duplicate without any", again)
		}
		if count(value) == strings.Count(strip(text), ":") && found {
			t.Fatalf("%q: nothing is lost, but %q is there twice", text, key)
		}
	})
}

// count is how many keys a value has.
func count(value any) (n int) {
	switch value := value.(type) {
	case map[string]any:
		for _, v := range value {
			n += 1 + count(v)
		}
	case []any:
		for _, v := range value {
			n += count(v)
		}
	}
	return n
}

// strip leaves out the texts of JSON.
func strip(text []byte) string {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted:
			b.WriteByte(c)
		}
	}
	return b.String()
}
