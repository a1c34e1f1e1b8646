package secret

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"
)

const planted = "planted-hunter2"

func TestNothingShowsASecret(t *testing.T) {
	s := New(planted)
	hidden := struct{ secret String }{s} // fmt reads it by reflection and calls no method
	type document struct{ Secret String }
	public := document{s}
	shown := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3s", "%T"} {
		for name, value := range map[string]any{
			"value": s, "pointer": &s, "field": public, "unexported": hidden, "slice": []String{s}, "map": map[string]String{"k": s},
		} {
			shown[verb+" of "+name] = fmt.Sprintf(verb, value)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "value", s, "pointer", &s, "field", public, "unexported", hidden)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "value", s, "pointer", &s, "field", public, "unexported", hidden)
	shown["slog"] = log.String()
	for name, encode := range map[string]func(any) ([]byte, error){
		"json": json.Marshal, "yaml": yaml.Marshal, "toml": toml.Marshal, "xml": xml.Marshal,
	} {
		encoded, err := encode(public)
		if err != nil || !strings.Contains(string(encoded), Redacted) {
			t.Errorf("%s: %s, %v", name, encoded, err)
		}
		shown[name] = string(encoded)
	}
	for how, text := range shown {
		if strings.Contains(text, planted) || strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", planted)) {
			t.Errorf("%s shows the secret: %s", how, text)
		}
	}
	if got := fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, s); got != strings.TrimSpace(strings.Repeat(Redacted+" ", 5)) {
		t.Error(got)
	}
	if s.Reveal() != planted || s.String() != Redacted {
		t.Error("Reveal or String")
	}
}

func TestEqual(t *testing.T) {
	for _, c := range []struct {
		a, b String
		want bool
	}{
		{New("a"), New("a"), true},
		{New("a"), New("b"), false},
		{New("a"), New("aa"), false},
		{New("a"), String{}, false},
		{String{}, New("a"), false},
		{String{}, String{}, false},
		{New(""), New(""), false},
	} {
		if got := c.a.Equal(c.b); got != c.want {
			t.Errorf("%q equals %q: %v", c.a.Reveal(), c.b.Reveal(), got)
		}
	}
}

func TestExpand(t *testing.T) {
	t.Setenv("A_SECRET", "s3cret")
	t.Setenv("EMPTY", "")
	t.Setenv("FOLDER", ".")
	t.Setenv("NAME", "plain")
	t.Setenv("NESTED", "${env:A_SECRET}")
	t.Chdir(t.TempDir())
	write := func(name, content string, mode os.FileMode) {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("plain", "s3cret\n", 0o600)
	write("windows", "s3cret\r\n", 0o400)
	write("two", "s3cret\n\n", 0o640)
	write("full", strings.Repeat("x", 64<<10), 0o600)
	write("large", strings.Repeat("x", 64<<10+1), 0o600)
	write("readable", "s3cret", 0o604)
	write("group-writable", "s3cret", 0o620)
	write("writable", "s3cret", 0o602)
	write("key.age", "s3cret", 0o600)
	if err := os.Symlink("readable", "link"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in, want string
		secret   bool
		err      string
	}{
		{"", "", false, ""},
		{"plain $ $$ $a {b} }", "plain $ $$ $a {b} }", false, ""},
		{"${env:A_SECRET}", "s3cret", true, ""},
		{"a${env:A_SECRET}b${file:plain}c${env:EMPTY}", "as3cretbs3cretc", true, ""},
		{"${env:EMPTY}", "", true, ""},
		{"${env:NESTED}", "${env:A_SECRET}", true, ""},
		{"$${env:A_SECRET}", "${env:A_SECRET}", false, ""},
		{"$$${env:A_SECRET}", "$${env:A_SECRET}", false, ""},
		{"${env:A_SECRET}$${x}", "s3cret${x}", true, ""},
		{"${file:windows}", "s3cret", true, ""},
		{"${file:two}", "s3cret\n", true, ""},
		{"${file:full}", strings.Repeat("x", 64<<10), true, ""},
		{"a ${env:NOT_SET}", "", false, `environment variable "NOT_SET" is not set`},
		{"${file:missing}", "", false, `secret file "missing" cannot be read: no such file or directory`},
		{"${file:.}", "", false, `secret file "." is not a regular file`},
		{"${file:large}", "", false, `secret file "large" is larger than 64 KiB`},
		{"${file:readable}", "", false, `secret file "readable" is open to others (mode 0604): run chmod 600 readable`},
		{"${file:link}", "", false, `secret file "link" is open to others (mode 0604): run chmod 600 link`},
		{"${file:group-writable}", "", false, `secret file "group-writable" is open to others (mode 0620): run chmod 600 group-writable`},
		{"${file:writable}", "", false, `secret file "writable" is open to others (mode 0602): run chmod 600 writable`},
		{"${file:key.age}", "", false, `secret file "key.age" is not encrypted, though its name ends in .age: run sallyport config encrypt`},
		{"${file:gone.age}", "", false, `secret file "gone.age" cannot be read: no such file or directory`},
		{"${file:${env:FOLDER}/plain}", "s3cret", true, ""},
		{"a${file:${env:FOLDER}/${env:NAME}}b}", "as3cretb}", true, ""},
		{"${file:${env:NOT_SET}/plain}", "", false, `path of a secret file: environment variable "NOT_SET" is not set`},
		{"${file:${env:A_SECRET}/plain}", "", false, `secret file "${env:A_SECRET}/plain" cannot be read: no such file or directory`},
		{"${file:${env:FOLDER/plain}", "", false, "${ is never closed; a literal ${ is written $${"},
		{"${file:${file:plain}}", "", false, "a file's path may have ${env:NAME} in it, but no ${file:PATH}"},
		{"${env:A_SECRET", "", false, "${ is never closed; a literal ${ is written $${"},
		{"${s3cret}", "", false, "after ${ comes env:NAME} or file:PATH}; a literal ${ is written $${"},
		{"${env:}", "", false, "after ${ comes env:NAME} or file:PATH}; a literal ${ is written $${"},
		{"${file:}", "", false, "after ${ comes env:NAME} or file:PATH}; a literal ${ is written $${"},
	} {
		got, secret, err := Expand(c.in, nil)
		message := ""
		if err != nil {
			message = err.Error()
		}
		if got != c.want || secret != c.secret || message != c.err {
			t.Errorf("Expand(%q) = %q, %v, %q", c.in, got, secret, message)
		}
		if strings.Contains(message, "s3cret") {
			t.Errorf("Expand(%q) tells the content: %s", c.in, message)
		}
	}
}

func FuzzExpand(f *testing.F) {
	for _, seed := range []string{"", "$", "${", "$${", "${env:HOME}", "a${env:A}$${b}${file:/dev/null}", "${env:A}}", "$$$${"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "${file:") {
			t.Skip("would read this machine's files")
		}
		value, secret, err := Expand(s, nil)
		if err != nil && (value != "" || secret) {
			t.Errorf("%q: a value with an error", s)
		}
		if !strings.Contains(s, "${") && (value != s || secret || err != nil) {
			t.Errorf("%q became %q", s, value)
		}
		// Escaped, any text stands for itself.
		if escaped := strings.ReplaceAll(s, "${", "$${"); err == nil {
			if value, secret, err := Expand(escaped, nil); err != nil || secret || value != s {
				t.Errorf("%q became %q, %v, %v", escaped, value, secret, err)
			}
		}
	})
}
