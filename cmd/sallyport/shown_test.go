package main

import (
	"encoding/csv"
	"encoding/json"
	"net/http"
	"path/filepath"
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

// A name is bytes to a client of SOCKS5, and two that are no UTF-8 stay two: a ban is
// of the one that was sent, also when it was exported, lifted and imported.
func TestBansOfNamesThatAreNoUTF8(t *testing.T) {
	t.Parallel()
	s := keeper(t, t.TempDir(), "--policy", write(t, filepath.Join(t.TempDir(), "authenticate.rego"), "package sallyport.authenticate\n\ndefault allow := true\n\nidentity := {\"name\": input.credentials.username}\n"),
		"--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), "package sallyport.route\n\ndefault allow := false\n\n"+
			`ban := {"for": "1h", "identity": true} if input.target.host == "trap.test"`+"\n"))
	ban := func(in string, args ...string) (out string) {
		t.Helper()
		c := program(append([]string{"ban", "--management", strings.TrimPrefix(s.api(t), "http://")}, args...)...)
		c.Env = append(c.Env, "SALLYPORT_TOKEN="+opsToken)
		return tool(t, c, in)
	}
	const chosen = "\x05\x02\x01\x00"
	asks := func(name, host, want string) {
		t.Helper()
		c := dialDoor(t, s.addr)
		defer c.Close()
		c.say("\x05\x01\x02" + login(name, "x") + connectTo(host, 1)).hear(want)
	}
	asks("caf\xe9", "trap.test", chosen+replied(2))
	refused := func(name string) bool {
		t.Helper()
		before := s.bans(t)["identity-escaped:caf%E9"].Refused
		asks(name, "other.test", chosen+replied(2))
		return s.bans(t)["identity-escaped:caf%E9"].Refused > before
	}
	if !refused("caf\xe9") || refused("caf\xe8") || refused("caf\ufffd") {
		t.Errorf("the ban of the policy is of another: %+v", s.bans(t))
	}
	exported := ban("", "export")
	if !strings.HasPrefix(exported, `{"of":"identity-escaped:caf%E9",`) || strings.Count(exported, "\n") != 1 {
		t.Errorf("exported are %q", exported)
	}
	if out := ban("", "remove", "identity-escaped:caf%E9"); out != "lifted identity-escaped:caf%E9\n" || len(s.bans(t)) != 0 {
		t.Errorf("%q leaves %+v", out, s.bans(t))
	}
	if ban(exported, "import", "-"); !refused("caf\xe9") || refused("caf\xe8") {
		t.Errorf("the ban that is imported is of another: %+v", s.bans(t))
	}
	// A list may have the name itself, and so may a command. In JSON it is another's.
	if ban("identity:caf\xe8\n", "import", "-"); len(s.bans(t)) != 2 || s.bans(t)["identity-escaped:caf%E8"].Of == "" {
		t.Errorf("a line that is no UTF-8 has become %+v", s.bans(t))
	}
	if out := ban("", "remove", "identity:caf\xe8"); len(s.bans(t)) != 1 {
		t.Errorf("%q leaves %+v", out, s.bans(t))
	}
	const raw = "{\"bans\": [{\"of\": \"identity:caf\xe8\"}]}"
	if status, answer := tell(t, http.MethodPut, s.api(t)+"/v1/bans", raw); status != 400 || !strings.Contains(answer, "JSON is UTF-8") {
		t.Errorf("%d %s", status, answer)
	}
}
