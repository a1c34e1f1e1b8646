package engine

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAProblemPrints(t *testing.T) {
	for text, want := range map[string]string{
		"plain, ü and 世\n\ttoo": "plain, ü and 世\n\ttoo",
		"\x1b[2J\x00\u202e":     `\x1b[2J\x00\u202e`,
		"\xff\xfe":              `\xff\xfe`,
	} {
		if got := (Problem{File: "f\n", Message: text}).String(); got != `f\n: `+want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func FuzzProblem(f *testing.F) {
	f.Add("a\x1b[2J\xff", 3)
	f.Fuzz(func(t *testing.T, text string, row int) {
		got := Problem{File: text, Row: row, Message: text}.String()
		if strings.ContainsAny(got, "\x00\x1b\x7f\u009b") || !utf8.ValidString(got) {
			t.Errorf("%q", got)
		}
	})
}

// placed is an error about data, as [Options.CheckData] may return it.
type placed []string

func (l placed) Error() string      { return "is wrong" }
func (l placed) DataPath() []string { return l }

func TestDataThatGoReadsNamesItsFile(t *testing.T) {
	for path, want := range map[string]string{"users/alice": "b.json: is wrong", "users/bob": "is wrong", "users": "a.json: is wrong"} {
		options := Options{CheckData: func(map[string]any) []error { return []error{placed(strings.Split(path, "/"))} }}
		e, err := New(options)
		if err != nil {
			t.Fatal(err)
		}
		_, problems := e.Compile(&Candidate{Documents: []Document{
			{Path: "a.json", Value: map[string]any{"users": map[string]any{"carol": 1}}},
			{Path: "b.json", Value: map[string]any{"users": map[string]any{"alice": 1}}},
		}})
		if problems.Error() != want {
			t.Errorf("%s: %s", path, problems)
		}
	}
}
