package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport/policy/audit"
)

func open(t *testing.T, path string) *audit.Log {
	t.Helper()
	l, err := audit.OpenLog(path, "v1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func add(t *testing.T, l *audit.Log, records ...audit.Record) {
	t.Helper()
	for _, r := range records {
		if err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
}

func sequence(n uint64) *uint64 { return &n }

func active(name, revision string, n uint64) audit.Record {
	return audit.Record{Outcome: audit.Activated, By: "bundle " + name, Revision: revision, Digest: "d-" + revision,
		Sources: []audit.Source{{Name: name, Revision: revision, Sequence: sequence(n), Digest: "d-" + revision, KeyID: "ci"}}}
}

func refused(problems ...string) audit.Record {
	return audit.Record{Outcome: audit.Refused, By: "reload", Problems: problems}
}

// verify reads files as one chain.
func verify(texts ...string) (audit.Chain, []audit.Record, error) {
	var c audit.Chain
	var all []audit.Record
	for _, text := range texts {
		if err := c.Read(strings.NewReader(text), func(_ int, r *audit.Record) { all = append(all, *r) }); err != nil {
			return c, all, err
		}
	}
	return c, all, nil
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// outcomes are those of a file that has to hold.
func outcomes(t *testing.T, texts ...string) []audit.Outcome {
	t.Helper()
	_, all, err := verify(texts...)
	if err != nil {
		t.Fatal(err, texts)
	}
	var found []audit.Outcome
	for _, r := range all {
		found = append(found, r.Outcome)
	}
	return found
}

func want(t *testing.T, got []audit.Outcome, wanted ...audit.Outcome) {
	t.Helper()
	if !slices.Equal(got, wanted) {
		t.Errorf("outcomes %v, want %v", got, wanted)
	}
}

// sample is a file with a record of each kind that one process writes, and half a line.
func sample(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	add(t, l, audit.Record{Outcome: audit.Started}, active("authz", "1", 1))
	l.Close()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"time":"2026-01-`)
	f.Close()
	l = open(t, path)
	add(t, l, refused("policy.rego:1: no <such> thing"), active("authz", "2", 2))
	return read(t, path)
}

func TestChain(t *testing.T) {
	text := sample(t)
	c, all, err := verify(text)
	if err != nil {
		t.Fatal(err)
	}
	want(t, outcomes(t, text), audit.Started, audit.Activated, audit.Mended, audit.Refused, audit.Activated)
	if last := all[len(all)-1]; c.Head != last.Hash || c.Tail != audit.Whole || last.Version != "v1" || last.Sources[0].KeyID != "ci" {
		t.Errorf("%+v, %+v", c, last)
	}
}

// Each bit of a file counts, and so does each byte that could come instead.
func TestEveryChangeIsFound(t *testing.T) {
	text := []byte(sample(t))
	for i := range text {
		for _, other := range []byte{text[i] ^ 1, text[i] ^ 2, text[i] ^ 4, text[i] ^ 8, text[i] ^ 16, text[i] ^ 32, text[i] ^ 64, text[i] ^ 128, '\n', 0, ' ', '}', '"', ','} {
			if other == text[i] {
				continue
			}
			changed := bytes.Clone(text)
			changed[i] = other
			var broken *audit.BrokenError
			if _, _, err := verify(string(changed)); !errors.As(err, &broken) {
				t.Fatalf("byte %d, %q for %q: %v", i, other, text[i], err)
			}
		}
		for _, edited := range [][]byte{slices.Concat(text[:i], text[i+1:]), slices.Concat(text[:i], []byte{text[i]}, text[i:])} {
			// Without the end of the last line nothing is lost but the end.
			if c, _, err := verify(string(edited)); err == nil && (i < len(text)-1 || c.Tail != audit.Open) {
				t.Fatalf("byte %d is there twice, or not at all: %v", i, err)
			}
		}
	}
}

func TestMovedLinesAreFound(t *testing.T) {
	lines := strings.SplitAfter(strings.TrimSuffix(sample(t), "\n"), "\n")
	lines[len(lines)-1] += "\n"
	for i := range lines {
		without := strings.Join(slices.Concat(lines[:i], lines[i+1:]), "")
		c, _, err := verify(without)
		if last := i == len(lines)-1; (err == nil) != last {
			t.Errorf("without line %d: %v", i+1, err)
		} else if last && c.Head == "" {
			t.Error("no head")
		}
		twice := strings.Join(slices.Concat(lines[:i+1], lines[i:]), "")
		if _, _, err := verify(twice); err == nil {
			t.Errorf("line %d twice is not found", i+1)
		}
		for j := range i {
			swapped := slices.Clone(lines)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			if _, _, err := verify(strings.Join(swapped, "")); err == nil {
				t.Errorf("lines %d and %d in each other's place are not found", j+1, i+1)
			}
		}
	}
	// The beginning of a file that was not continued.
	var broken *audit.BrokenError
	if _, _, err := verify(strings.Join(lines[1:], "")); !errors.As(err, &broken) || broken.Line != 1 || !strings.Contains(broken.Reason, "removed from the beginning") {
		t.Error(err)
	}
}

// Wherever a process is killed, the next one goes on.
func TestEveryCutIsMended(t *testing.T) {
	text := sample(t)
	begin := strings.LastIndex(strings.TrimSuffix(text, "\n"), "\n") + 1
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for cut := begin; cut <= len(text); cut++ {
		for _, zeros := range []int{0, 3} {
			if zeros > 0 && cut >= len(text)-1 {
				continue
			}
			if err := os.WriteFile(path, []byte(text[:cut]+strings.Repeat("\x00", zeros)), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := verify(read(t, path)); err != nil {
				t.Fatalf("%d bytes: %v", cut, err)
			}
			l, err := audit.OpenLog(path, "v1")
			if err != nil {
				t.Fatalf("%d bytes: %v", cut, err)
			}
			add(t, l, audit.Record{Outcome: audit.Started})
			l.Close()
			found := outcomes(t, read(t, path))
			if mended, torn := slices.Contains(found[3:], audit.Mended), cut > begin && cut < len(text)-1 || zeros > 0; mended != torn {
				t.Fatalf("%d bytes of the last line: %v", cut-begin, found)
			}
		}
	}
}

// What the package's comment says a hash is of, done by other tools.
func TestOtherToolsVerify(t *testing.T) {
	if _, err := exec.LookPath("sha256sum"); err != nil {
		t.Skip("sha256sum is not installed")
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	add(t, l, refused("<&>\u2028 \"x\" ☂ \x00"), active("b", "<ü>", 7))
	out, err := exec.Command("sh", "-c", `tail -n 1 "$0" | sed 's/,"hash":"[0-9a-f]*"}$/}/' | tr -d '\n' | sha256sum`, path).Output()
	if err != nil || string(out) != l.Head()+"  -\n" {
		t.Errorf("%v, %s, want %s", err, out, l.Head())
	}
}

func TestTheSameRefusalIsRecordedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	for range 3 {
		add(t, l, refused("a"), refused("b"))
	}
	want(t, outcomes(t, read(t, path)), audit.Refused, audit.Refused)
	add(t, l, active("x", "1", 1), refused("a"))
	want(t, outcomes(t, read(t, path)), audit.Refused, audit.Refused, audit.Activated, audit.Refused)

	// A server that sends another bundle each time.
	for i := range 1000 {
		add(t, l, refused(fmt.Sprint(i)))
	}
	add(t, l, active("x", "2", 2))
	_, all, err := verify(read(t, path))
	if last := all[len(all)-1]; err != nil || len(all) > 270 || last.Lost != 1000-255 {
		t.Errorf("%d records, %d lost, %v", len(all), last.Lost, err)
	}
}

func TestOneProcessWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	if _, err := audit.OpenLog(path, "v1"); !errors.Is(err, audit.ErrInUse) {
		t.Error(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Error(info.Mode(), err)
	}
	l.Close()
	open(t, path)
}

func TestABrokenChainIsNotGoneOnWith(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	text := strings.Replace(sample(t), `"revision":"1"`, `"revision":"7"`, 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := audit.OpenLog(path, "v1")
	if err == nil || !strings.Contains(err.Error(), path+":2: ") || !strings.Contains(err.Error(), "move the file away") {
		t.Error(err)
	}
	if read(t, path) != text {
		t.Error("the file was changed")
	}
}

func TestArchivedFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	l := open(t, path)
	add(t, l, audit.Record{Outcome: audit.Started}, active("a", "5", 5), active("b", "main", 3))
	old := filepath.Join(dir, "old.jsonl")
	if err := os.Rename(path, old); err != nil {
		t.Fatal(err)
	}
	add(t, l, active("a", "6", 6))
	first, second := read(t, old), read(t, path)
	want(t, outcomes(t, second), audit.Continued, audit.Continued, audit.Activated)
	if _, _, err := verify(first, second); err != nil {
		t.Error(err)
	}
	if _, _, err := verify(second, first); err == nil {
		t.Error("the files in the wrong order are not found")
	}
	// Copied and emptied.
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	add(t, l, active("a", "7", 7))
	if _, _, err := verify(first, second, read(t, path)); err != nil {
		t.Error(err)
	}
	// The newest file alone knows what was active before it.
	l.Close()
	l = open(t, path)
	b, _ := l.History("b")
	a, _ := l.History("a")
	if b.Last.Revision != "main" || *b.Highest.Sequence != 3 || *a.Number != 7 || !slices.Equal(a.Seen, []string{"5", "6", "7"}) {
		t.Errorf("%+v, %+v", a, b)
	}
}

func TestAFileThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	l := open(t, path)
	add(t, l, active("a", "1", 1))
	before := read(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(active("a", "2", 2)); err == nil || l.Failed() != 1 {
		t.Error(err, l.Failed())
	}
	// What was active counts, recorded or not.
	if h, _ := l.History("a"); h.Last.Revision != "2" {
		t.Errorf("%+v", h)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	add(t, l, active("a", "3", 3))
	_, all, err := verify(before, read(t, path))
	if err != nil || all[len(all)-1].Lost != 1 {
		t.Errorf("%v, %+v", err, all)
	}
	// Another's lines are not continued, and neither is a file that lacks ours.
	for _, text := range []string{before, before + "x", "x"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(active("a", "4", 4)); err == nil {
			t.Errorf("%s is continued", text)
		}
		if got := read(t, path); got != text {
			t.Errorf("%s became %s", text, got)
		}
	}
}

func TestNoFileCanBeMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	path := filepath.Join(dir, "audit.jsonl")
	l, err := audit.OpenLog(path, "v1")
	if l == nil || err == nil {
		t.Fatal(l, err)
	}
	defer l.Close()
	if err := l.Append(active("a", "1", 1)); err == nil {
		t.Fatal("no error")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	add(t, l, active("a", "2", 2))
	if h, _ := l.History("a"); !slices.Equal(h.Seen, []string{"1", "2"}) {
		t.Errorf("%+v", h)
	}
	for _, other := range []string{dir, "/dev/null"} {
		if l, err := audit.OpenLog(other, "v1"); l != nil || err == nil {
			t.Errorf("%s: %v", other, err)
		}
	}
}

func TestRecordsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	long := strings.Repeat("é\"\\\n\x00", 2000)
	r := audit.Record{Outcome: audit.Activated, By: long, Revision: long, Digest: long}
	for i := range 1000 {
		r.Problems = append(r.Problems, fmt.Sprint(i, long))
		r.Sources = append(r.Sources, audit.Source{Name: fmt.Sprint(i, long), From: long, Revision: long, Digest: long, KeyID: long})
	}
	add(t, l, r, refused("https://user:hunter2@example.com/x is away"))
	for i := range 3000 { // revisions are remembered up to a bound
		if i%100 == 0 {
			add(t, l, active("x", fmt.Sprint(i, long), 1))
		}
	}
	text := read(t, path)
	_, all, err := verify(text)
	if err != nil || all[0].Unsaid != 1000-20+1000-256 {
		t.Error(err, all[0].Unsaid)
	}
	if strings.Contains(text, "hunter2") || !strings.Contains(text, "https://example.com/x") {
		t.Error("credentials are in the record")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte(`{"time":"2026-01-02T03:04:05Z","outcome":"started","version":"v1","previous":"","hash":"8d8b2ec4d8dbf0ba2d1e0a64bf2d8dcc4b06b0c1a5b4d0a7b7e3a5b9a0c8d7e6"}` + "\n"))
	path := filepath.Join(f.TempDir(), "audit.jsonl")
	l, err := audit.OpenLog(path, "v1")
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range []audit.Record{{Outcome: audit.Started}, active("a", "1", 1), refused("no")} {
		if err := l.Append(r); err != nil {
			f.Fatal(err)
		}
	}
	l.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(text[:len(text)-9])
	f.Fuzz(func(t *testing.T, text []byte) {
		c, all, err := verify(string(text))
		var broken *audit.BrokenError
		if err != nil {
			if !errors.As(err, &broken) || broken.Line < 1 {
				t.Fatal(err)
			}
			return
		}
		if c.Records != len(all) {
			t.Fatal(c.Records, len(all))
		}
		// What holds can be gone on with, and holds afterwards.
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := audit.OpenLog(path, "v1")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Append(audit.Record{Outcome: audit.Started}); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if now, _, err := verify(string(after)); err != nil || now.Records <= c.Records || !bytes.HasPrefix(after, text) {
			t.Fatalf("%v, %d of %d, %s", err, now.Records, c.Records, after)
		}
	})
}
