package engine

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// read reads a value as the decision field of that name, and prints what it
// became.
func read(name string, value ast.Value) (string, error) {
	for _, f := range policy.Fields() {
		if f.Name == name {
			into := reflect.New(f.Type).Elem()
			if err := readerOf(f.Type)(value, into); err != nil {
				return "", err
			}
			return fmt.Sprintf("%+v", into.Interface()), nil
		}
	}
	panic(name)
}

func TestReaders(t *testing.T) {
	for _, c := range []struct{ field, value, want string }{
		{"allow", `true`, "true"},
		{"allow", `false`, "false"},
		{"deny", `set()`, "[]"},
		{"deny", `{"b", "a"}`, "[a b]"},
		{"reason", `"x"`, "[x]"},
		{"reason", `{"b", "a"}`, "[a b]"},
		{"warn", `{"a"}`, "[a]"},
		{"explain", `true`, "true"},
		{"methods", `["password", "none"]`, "[password none]"},
		{"methods", `{"certificate+password", "certificate"}`, "[certificate certificate+password]"},
		{"methods", `[]`, "[]"},
		{"delay", `"1m30s"`, "90000000000"},
		{"delay", `1.5`, "1500000000"},
		{"delay", `0`, "0"},
		{"delay", `1e-12`, "1"},
		{"delay", `9223372036`, "9223372036000000000"},
		{"session_limits", `{}`, "{Idle:0 Duration:0 Until:0 Up:0 Down:0 Bytes:0}"},
		{"session_limits", `{"idle": "5m", "duration": 60, "until": 1e18, "up": "1MiB/s", "down": 7, "bytes": "1kB"}`,
			"{Idle:300000000000 Duration:60000000000 Until:1000000000000000000 Up:1048576 Down:7 Bytes:1000}"},
		{"session_limits", `{"bytes": 9223372036854775807}`, "{Idle:0 Duration:0 Until:0 Up:0 Down:0 Bytes:9223372036854775807}"},
		{"session_limits", `{"bytes": 0.5, "up": 1.5}`, "{Idle:0 Duration:0 Until:0 Up:2 Down:0 Bytes:1}"},
		{"redirect", `{"host": "a.example"}`, "{Host:a.example Port:0}"},
		{"redirect", `{"port": 65535}`, "{Host: Port:65535}"},
		{"source_address", `"192.0.2.1"`, "192.0.2.1"},
		{"source_address", `"2001:db8::1"`, "2001:db8::1"},
		{"labels", `{}`, "map[]"},
		{"labels", `{"a": "b", "c": ""}`, "map[a:b c:]"},
	} {
		got, err := read(c.field, ast.MustParseTerm(c.value).Value)
		if err != nil || got != c.want {
			t.Errorf("%s = %s: %s, %v; want %s", c.field, c.value, got, err, c.want)
		}
	}
}

func TestReadersRefuse(t *testing.T) {
	for _, c := range []struct{ field, value, says string }{
		{"allow", `"true"`, "want a boolean, got string"},
		{"allow", `1`, "want a boolean"},
		{"allow", `null`, "want a boolean, got null"},
		{"deny", `["a"]`, "want a set of strings, got array"},
		{"deny", `{"a": true}`, "want a set of strings, got object"},
		{"deny", `"a"`, "want a set"},
		{"deny", `false`, "want a set"},
		{"deny", `{"a", 1}`, "want a string, got number"},
		{"reason", `["a"]`, "want a string or a set of strings"},
		{"reason", `{1}`, "want a string, got number"},
		{"methods", `"password"`, "want an array or a set"},
		{"methods", `["passwort"]`, `no method "passwort"`},
		{"methods", `[1]`, "want a string, got number"},
		{"identity", `{"nmae": "x"}`, `no key "nmae"`},
		{"identity", `{"name": null}`, "want a string, got null"},
		{"identity", `{"groups": "x"}`, "want an array or a set of strings, got string"},
		{"identity", `{"attributes": ["x"]}`, "want an object, got array"},
		{"identity", `"x"`, "want an object, got string"},
		{"identity", `{1: "x"}`, "want keys that are strings, got number"},
		{"delay", `-1`, "-1 is out of range"},
		{"delay", `"-1s"`, "not a duration"},
		{"delay", `"1"`, "not a duration"},
		{"delay", `9223372037`, "out of range"},
		{"delay", `1e400`, "out of range"},
		{"delay", `true`, "want a string or a number, got boolean"},
		{"session_limits", `{"byts": 1}`, `no key "byts"`},
		{"session_limits", `{"bytes": -1}`, "out of range"},
		{"session_limits", `{"bytes": 9223372036854775808}`, "out of range"},
		{"session_limits", `{"bytes": "10MiB/s"}`, "not a size"},
		{"session_limits", `{"up": "10MiB"}`, "not a rate"},
		{"session_limits", `{"until": -1}`, "not a whole number"},
		{"session_limits", `{"until": 1.5}`, "not a whole number"},
		{"session_limits", `{"until": "now"}`, "want a number, got string"},
		{"session_limits", `{"until": 1e19}`, "not a whole number"},
		{"session_limits", `{"until": 1700000000}`, "nanoseconds since 1970"},
		{"session_limits", `{"until": 0}`, "nanoseconds since 1970"},
		{"session_limits", `{"bytes": 0}`, "0 would be no bound at all"},
		{"session_limits", `{"idle": "0s"}`, "0 would be no bound at all"},
		{"session_limits", `{"down": 0.0}`, "0 would be no bound at all"},
		{"limits", `{"quota": {"bytes": 0, "per": "day"}}`, "0 would be no bound at all"},
		{"limits", `{"quota": {"bytes": "1GiB", "per": "hour"}}`, `"hour" is not day or month`},
		{"limits", `{"quota": {"byts": 1}}`, `it has no key "byts"`},
		{"limits", `{"quota": {}}`, "0 would be no bound at all"},
		{"limits", `{"quota": 7}`, "want an object, got number"},
		{"redirect", `{"port": 0}`, "from 1 to 65535"},
		{"redirect", `{"port": 65536}`, "from 1 to 65535"},
		{"redirect", `{"port": "443"}`, "want a number"},
		{"redirect", `{"host": 1}`, "want a string"},
		{"redirect", `{"hots": "x"}`, `no key "hots"`},
		{"redirect", `[]`, "want an object, got array"},
		{"source_address", `"localhost"`, `"localhost" is not an IP address`},
		{"source_address", `"192.0.2.1/32"`, "is not an IP address"},
		{"source_address", `""`, "is not an IP address"},
		{"labels", `{"a": 1}`, "its values: want a string, got number"},
		{"labels", `{1: "a"}`, "its keys: want a string, got number"},
		{"labels", `{"a"}`, "want an object of strings, got set"},
	} {
		got, err := read(c.field, ast.MustParseTerm(c.value).Value)
		if err == nil {
			t.Errorf("%s = %s is read as %s", c.field, c.value, got)
		} else if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s = %s: %q does not say %q", c.field, c.value, err, c.says)
		}
	}
}

// FuzzReaders: no value panics, and what is accepted is in bounds.
func FuzzReaders(f *testing.F) {
	for _, seed := range []string{
		`true`, `{"a", "b"}`, `["none"]`, `{"idle": "5m", "until": 1e18, "up": 1.5}`, `{"port": 443}`, `"1.2.3.4"`, `1e999999999`, `-0.0`,
		`{"name": "x", "attributes": {"a": [1, {"b": null}]}}`, `{{}: []}`, `null`,
	} {
		f.Add(seed)
	}
	fields := policy.Fields()
	f.Fuzz(func(t *testing.T, value string) {
		term, err := ast.ParseTerm(value)
		if err != nil || !ast.IsConstant(term.Value) {
			return
		}
		for _, field := range fields {
			into := reflect.New(field.Type).Elem()
			if readerOf(field.Type)(term.Value, into) != nil {
				continue
			}
			switch got := into.Interface().(type) {
			case policy.Duration:
				if got < 0 {
					t.Errorf("%s = %s: %d", field.Name, value, got)
				}
			case policy.SessionLimits:
				if got.Idle < 0 || got.Duration < 0 || got.Until < 0 || got.Up < 0 || got.Down < 0 || got.Bytes < 0 {
					t.Errorf("%s = %s: %+v", field.Name, value, got)
				}
			case policy.Redirect:
				if got.Port < 0 || got.Port > 65535 {
					t.Errorf("%s = %s: %+v", field.Name, value, got)
				}
			}
		}
	})
}
