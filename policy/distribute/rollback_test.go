package distribute

import (
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/policy/audit"
)

func ordinal(n uint64) *uint64 { return &n }

// of is a bundle with the revision and digest; a sequence below 0 is none.
func of(revision, digest string, sequence int) audit.Source {
	s := audit.Source{Name: "authz", Revision: revision, Digest: digest}
	if sequence >= 0 {
		s.Sequence = ordinal(uint64(sequence))
	}
	return s
}

// named gives a bundle a name that no record holds as it is.
func named(begin string, s audit.Source) audit.Source {
	s.Name = begin + strings.Repeat("n", 300)
	return s
}

func TestForward(t *testing.T) {
	for name, test := range map[string]struct {
		active []audit.Source // in this order
		next   audit.Source
		want   string // in the error; empty: it is let through
	}{
		"the first":                       {nil, of("1", "a", 1), ""},
		"the first of no name":            {nil, of("", "a", -1), ""},
		"the same again":                  {[]audit.Source{of("r", "a", 5)}, of("r", "a", 5), ""},
		"a higher sequence":               {[]audit.Source{of("r", "a", 5)}, of("q", "b", 6), ""},
		"a lower sequence":                {[]audit.Source{of("r", "a", 5)}, of("q", "b", 4), "metadata.sequence is 4, and 5 was active"},
		"a lower sequence, long after":    {[]audit.Source{of("r", "a", 5), of("q", "b", 9)}, of("p", "c", 8), "and 9 was active"},
		"an equal sequence":               {[]audit.Source{of("r", "a", 5)}, of("r", "b", 5), "as that of another bundle"},
		"an equal one, another revision":  {[]audit.Source{of("r", "a", 5)}, of("q", "a", 5), ""},
		"no sequence any more":            {[]audit.Source{of("r", "a", 5)}, of("q", "b", -1), "has no metadata.sequence"},
		"a sequence for the first time":   {[]audit.Source{of("7", "a", -1)}, of("6", "b", 1), ""},
		"sequence before revision":        {[]audit.Source{of("7", "a", 1)}, of("6", "b", 2), ""},
		"old content, higher sequence":    {[]audit.Source{of("r", "a", 1), of("q", "b", 2)}, of("r", "a", 3), ""},
		"a higher number":                 {[]audit.Source{of("9", "a", -1)}, of("10", "b", -1), ""},
		"a lower number":                  {[]audit.Source{of("10", "a", -1)}, of("9", "b", -1), "its revision is 9, and 10 was active"},
		"a lower number, never active":    {[]audit.Source{of("10", "a", -1), of("main", "b", -1)}, of("9", "c", -1), "its revision is 9"},
		"an equal number, built again":    {[]audit.Source{of("10", "a", -1)}, of("10", "b", -1), ""},
		"between two numbers":             {[]audit.Source{of("10", "a", -1), of("8", "b", -1)}, of("9", "c", -1), "its revision is 9, and 10 was active"},
		"zero":                            {[]audit.Source{of("r", "a", 0)}, of("q", "b", 0), "is 0, as that"},
		"another name":                    {[]audit.Source{of("x", "a", -1)}, of("y", "b", -1), ""},
		"a name from before":              {[]audit.Source{of("x", "a", -1), of("y", "b", -1)}, of("x", "a", -1), `"x" was active before, and "y" after it`},
		"a name from before, new content": {[]audit.Source{of("x", "a", -1), of("y", "b", -1)}, of("x", "c", -1), `"x" was active before`},
		"the last name, new content":      {[]audit.Source{of("x", "a", -1), of("y", "b", -1)}, of("y", "c", -1), ""},
		"no name, new content":            {[]audit.Source{of("", "a", -1)}, of("", "b", -1), ""},
		"no name, old content":            {[]audit.Source{of("", "a", -1), of("", "b", -1)}, of("", "a", -1), `"a" was active before`},
		"the last, though not highest":    {[]audit.Source{of("r", "a", 5), of("q", "b", 3)}, of("q", "b", 3), ""}, // while rollback was allowed
		"above the last, below highest":   {[]audit.Source{of("r", "a", 5), of("q", "b", 3)}, of("p", "c", 4), "and 5 was active"},
		"a name with a user in it":        {[]audit.Source{of("ssh://git@x#1", "a", -1), of("ssh://git@x#2", "b", -1)}, of("ssh://git@x#1", "a", -1), "was active before"},
		"the last, with a user in it":     {[]audit.Source{of("ssh://git@x#1", "a", 5)}, of("ssh://git@x#1", "a", 5), ""},
		"a bundle whose name has no end":  {[]audit.Source{named("n", of("r", "a", 5))}, named("n", of("q", "b", 4)), "and 5 was active"},
		"a bundle's name with a user":     {[]audit.Source{named("ssh://git@", of("r", "a", 5))}, named("ssh://git@", of("q", "b", 4)), "and 5 was active"},
		"a revision without an end":       {nil, of(strings.Repeat("x", 129), "a", 1), "at most 128 bytes"},
		"a revision that cannot be shown": {nil, of("a\x1b[2J", "a", 1), "printable"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			log, err := audit.OpenLog(path, "test")
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range test.active {
				if err := log.Append(audit.Record{Outcome: audit.Activated, Sources: []audit.Source{s}}); err != nil {
					t.Fatal(err)
				}
			}
			// What was refused is no history.
			if err := log.Append(audit.Record{Outcome: audit.Refused, Sources: []audit.Source{of("99", "z", 99)}}); err != nil {
				t.Fatal(err)
			}
			log.Close()
			log, err = audit.OpenLog(path, "test") // as after a restart
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			history, known := log.History(test.next.Name)
			err = Forward(&history, known, &test.next)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestSequence(t *testing.T) {
	for _, test := range []struct {
		value any
		want  uint64
		fails bool
	}{
		{json.Number("0"), 0, false}, {json.Number("7"), 7, false}, {json.Number("7.0"), 7, false}, {json.Number("1e3"), 1000, false},
		{json.Number("18446744073709551615"), math.MaxUint64, false}, {float64(12), 12, false}, {12, 12, false}, {int64(12), 12, false},
		{json.Number("-1"), 0, true}, {json.Number("1.5"), 0, true}, {json.Number("1e400"), 0, true}, {json.Number("18446744073709551616"), 0, true},
		{-1, 0, true}, {1.5, 0, true}, {math.NaN(), 0, true}, {math.Inf(1), 0, true}, {1e300, 0, true},
		{"7", 0, true}, {nil, 0, true}, {true, 0, true}, {[]any{7}, 0, true}, {map[string]any{}, 0, true},
	} {
		got, err := Sequence(map[string]any{"sequence": test.value})
		if (err != nil) != test.fails || err == nil && (got == nil || *got != test.want) {
			t.Errorf("%T %v: %v, %v", test.value, test.value, got, err)
		}
	}
	if got, err := Sequence(nil); got != nil || err != nil {
		t.Error(got, err)
	}
}
