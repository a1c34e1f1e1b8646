package main

import (
	"encoding/csv"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// Whatever a stranger calls himself, the lists that an operator reads have one line
// for each row, and nothing that steers a terminal or turns a line round.
func TestNamesOfStrangersShown(t *testing.T) {
	t.Parallel()
	s := keeper(t, t.TempDir(), usagePolicies(t, usageAuthenticate, usagePolicy)...)
	at := s.api(t)
	run := func(args ...string) string {
		t.Helper()
		c := program(append(args, "--management", strings.TrimPrefix(at, "http://"))...)
		c.Env = append(c.Env, "SALLYPORT_TOKEN="+opsToken)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
		return string(out)
	}
	tame := func(text string) bool {
		return !slices.ContainsFunc([]rune(text), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
	}
	shown := map[string]string{
		"ann":                            `identity:ann `,
		"a b":                            `identity:a b `,
		"\x1b]0;x\x07":                   `"identity:\x1b]0;x\a" `,
		"a\n198.51.100.0/24  2030-01-01": `"identity:a\n198.51.100.0/24  2030-01-01" `,
		"a  2030-01-01":                  `"identity:a  2030-01-01" `,
		"\u202etxt":                      `"identity:\u202etxt" `,
		"\u009b31m":                      `"identity:\u009b31m" `,
	}
	for name, want := range shown {
		who := "identity:" + name
		body, err := json.Marshal(map[string]any{"bans": []any{map[string]string{"of": who}}})
		must(t, err)
		if status, answer := tell(t, http.MethodPut, at+"/v1/bans", string(body)); status != 200 {
			t.Fatal(status, answer)
		}
		for _, echo := range []string{run("ban", "list"), run("ban", "remove", who), run("ban", "add", who), run("ban", "remove", who), run("ban", "remove", "--missing-ok", who)} {
			if !tame(echo) || !strings.Contains(echo+" ", strings.TrimSuffix(want, " ")) {
				t.Errorf("%q is shown as %q", who, echo)
			}
		}
		run("ban", "add", who)
	}
	list := run("ban", "list")
	if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 1+len(shown) {
		t.Errorf("%d lines for %d bans: %q", len(lines), len(shown), list)
	}
	for _, want := range shown {
		if !strings.Contains(list, "\n"+want) {
			t.Errorf("no %s in\n%s", want, list)
		}
	}
	if strings.Count(list, " never ") != len(shown) || strings.Contains(list, "lifted") {
		t.Errorf("bans without an end are\n%s", list)
	}

	// What is only claimed is reported by the same names.
	for name := range shown {
		dialDoor(t, s.addr).say("\x04\x01\x00\x50\x00\x00\x00\x01" + name + "\x00denied.test\x00").rest()
	}
	if table := run("report", "--by", "user", "--format", "table"); !tame(table) || !strings.Contains(table, "\n\"claimed:\\x1b]0;x\\a\" ") || !strings.Contains(table, "\nclaimed:a b ") {
		t.Errorf("the report is %q", table)
	}
	text := run("report", "--by", "user", "--format", "csv")
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || !tame(strings.ReplaceAll(text, "\r\n", "\n")) || len(rows) != 1+len(shown) {
		t.Errorf("as CSV: %v %q", err, text)
	}
	for _, want := range []string{"claimed:ann", `claimed:\x1b]0;x\a`, `claimed:a\n198.51.100.0/24  2030-01-01`, `claimed:\u202etxt`, `claimed:\u009b31m`} {
		if !slices.ContainsFunc(rows, func(row []string) bool { return row[0] == want }) {
			t.Errorf("as CSV: no %s in %q", want, rows)
		}
	}
}
