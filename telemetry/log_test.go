package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/proxy/secret"
	"sallyport/proxy/session"
)

// logged is what one session leaves in the log, in the given format.
func logged(t *testing.T, format string, r *session.Record) string {
	t.Helper()
	var out bytes.Buffer
	log, w := NewLogger(slog.LevelInfo, format, &out)
	newTelemetry(t, log).SessionEnded(t.Context(), r)
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestSessionRecord(t *testing.T) {
	refused := &session.Record{
		Snapshot: session.Snapshot{ID: "77", Listener: "main", Started: time.Unix(0, 0).UTC()},
		Outcome:  "denied", Cause: "route said no", Reasons: []string{"not on the list", "too late"}, Warnings: []string{"old client"},
	}
	for _, test := range []struct {
		name, format string
		record       *session.Record
		want         string // after the time
	}{
		{"relayed", "json", sampleRecord(), `"level":"INFO","msg":"session","session.id":"5f9c","listener":"main",` +
			`"network.protocol.name":"socks5","client.address":"198.51.100.77","client.port":40000,"user.name":"alice",` +
			`"server.address":"new.example.org","server.port":443,"asked.address":"old.example.org","asked.port":80,` +
			`"network.peer.address":"203.0.113.9","network.peer.port":443,"outcome":"ok",` +
			`"labels":{"cost":"42","team":"maroon"},` +
			`"decision.admit":"a1","decision.authenticate":"b2","decision.route":"c3","decision.dial":"d4",` +
			`"policy.revision":"r9","bytes.up":1234,"bytes.down":56789,"started":"2026-01-02T03:04:05Z","duration":1.5}` + "\n"},
		{"refused", "text", refused, `level=INFO msg=session session.id=77 listener=main outcome=denied ` +
			`cause="route said no" reasons="not on the list; too late" warnings="old client" ` +
			`bytes.up=0 bytes.down=0 started=1970-01-01T00:00:00.000Z duration=0` + "\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := logged(t, test.format, test.record)
			if _, after, _ := strings.Cut(got, map[string]string{"json": ",", "text": " "}[test.format]); after != test.want {
				t.Errorf("got  %s\nwant %s", after, test.want)
			}
		})
	}
}

func TestNoTextForgesALine(t *testing.T) {
	for _, hostile := range []string{
		"x\n{\"level\":\"ERROR\",\"msg\":\"forged\"}",
		"x\r\nlevel=ERROR msg=forged",
		"x\" outcome=forged y=\"",
		"x\u2028msg=forged\u2029\u0085",
		"\x00\x1b[2J\xff\xfe msg=forged",
		"\u0080\u009b2J\u009d0;title\u009c\u0085\u009f\u00a0°é\\\u0090",
		"k=v msg=forged",
	} {
		r := sampleRecord()
		r.Identity, r.Target.Host, r.Cause, r.Listener = hostile, hostile, hostile, hostile
		r.Reasons, r.Warnings = []string{hostile}, []string{hostile}
		r.Labels = map[string]string{hostile: hostile}

		text := logged(t, "json", r)
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil || strings.Count(text, "\n") != 1 {
			t.Errorf("%q leaves %q: %v", hostile, text, err)
		}
		if line["msg"] != "session" || line["outcome"] != "ok" || line["level"] != "INFO" {
			t.Errorf("%q has changed the line: %v", hostile, line)
		}
		if strings.ContainsFunc(text[:len(text)-1], func(c rune) bool { return c < 0x20 || c >= 0x80 && c < 0xa0 }) {
			t.Errorf("%q can steer a terminal: %q", hostile, text)
		}
		if line["user.name"] != strings.ToValidUTF8(hostile, "\ufffd\ufffd") {
			t.Errorf("%q is told as %q", hostile, line["user.name"])
		}

		text = logged(t, "text", r)
		if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") || strings.ContainsAny(text, "\r\x00\x1b\u2028\u2029\u0085") {
			t.Errorf("%q leaves %q", hostile, text)
		}
		if keys := unquotedKeys(text); keys["msg"] != 1 || keys["outcome"] != 1 || keys["level"] != 1 {
			t.Errorf("%q has changed the line: %s", hostile, text)
		}
	}
}

// Lines without a control character of C1 are copied and nothing more, and those with
// some cost no more than their room.
func TestVisible(t *testing.T) {
	room := make([]byte, 0, 1<<10)
	for lines, want := range map[string]string{
		"":                            "",
		"plain\n":                     "plain\n",
		"\u0080":                      `\u0080`,
		"a\u009b\u009fb\u0085\n":      `a\u009b\u009fb\u0085` + "\n",
		"\u00a0\u00bf°é\u0100\u009a!": "\u00a0\u00bf°é\u0100" + `\u009a!`,
		"torn \xc2":                   "torn \xc2",
	} {
		if got := string(appendVisible(room, []byte(lines))); got != want {
			t.Errorf("%q is %q, want %q", lines, got, want)
		}
		given := []byte(lines)
		if n := testing.AllocsPerRun(10, func() { appendVisible(room, given) }); n > 0 {
			t.Errorf("%q: %v allocations", lines, n)
		}
	}
}

// unquotedKeys counts the keys of a line in slog's text format.
func unquotedKeys(line string) map[string]int {
	keys := map[string]int{}
	var word strings.Builder
	quoted, escaped := false, false
	for _, c := range line {
		switch {
		case escaped:
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ' ' || c == '\n':
			word.Reset()
		case c == '=':
			keys[word.String()]++
		default:
			word.WriteRune(c)
		}
	}
	return keys
}

func TestALineIsBounded(t *testing.T) {
	r := sampleRecord()
	long := strings.Repeat("é", 1<<20)
	r.Identity, r.Cause, r.Target.Host = long, long, long
	r.Labels = map[string]string{}
	for i := range 1000 {
		r.Reasons = append(r.Reasons, long)
		r.Labels[fmt.Sprint(i)] = long
	}
	text := logged(t, "json", r)
	if len(text) > 128<<10 {
		t.Errorf("the line has %d bytes", len(text))
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(text), &line); err != nil {
		t.Fatal(err)
	}
	if name := line["user.name"].(string); name != strings.Repeat("é", maxText/2)+"…" {
		t.Errorf("user.name has %d bytes", len(name))
	}
	if n := len(line["reasons"].([]any)); n != maxListed {
		t.Errorf("%d reasons", n)
	}
	if n := len(line["labels"].(map[string]any)); n != session.MaxLabels {
		t.Errorf("%d labels", n)
	}
}

func TestTheLevelHolds(t *testing.T) {
	var out bytes.Buffer
	log, w := NewLogger(slog.LevelError, "json", &out)
	newTelemetry(t, log).SessionEnded(t.Context(), sampleRecord())
	log.Error("seen", "password", secret.New("hunter2hunter2"))
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Contains(text, "session") || !strings.Contains(text, "seen") || strings.Contains(text, "hunter2") {
		t.Errorf("the log is %s", text)
	}
}

// valve is an output that can be stuck, or fail.
type valve struct {
	entered chan struct{} // told of each write before it is stuck
	left    chan struct{} // and when it is over
	open    chan struct{} // closed to let writes through

	mu   sync.Mutex
	fail error // of a write that has taken half
	text bytes.Buffer
}

func newValve() *valve {
	return &valve{entered: make(chan struct{}, 1<<16), left: make(chan struct{}, 1<<16), open: make(chan struct{})}
}

func (v *valve) Write(p []byte) (int, error) {
	v.entered <- struct{}{}
	defer func() { v.left <- struct{}{} }()
	<-v.open
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fail != nil {
		n, _ := v.text.Write(p[:len(p)/2])
		return n, v.fail
	}
	return v.text.Write(p)
}

func (v *valve) failing(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fail = err
}

func (v *valve) String() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.text.String()
}

func TestABlockedOutputStallsNobody(t *testing.T) {
	v := newValve()
	log, w := NewLogger(slog.LevelInfo, "json", v)
	tel := newTelemetry(t, log)
	record := sampleRecord()
	record.Cause = strings.Repeat("x", maxText)
	tel.SessionEnded(t.Context(), record)
	<-v.entered // the goroutine is stuck from here on

	const sessions = 6000 // about 9 MiB
	for range sessions {
		tel.SessionEnded(t.Context(), record)
	}
	lost := w.Dropped()
	if lost == 0 || lost >= sessions {
		t.Fatalf("%d of %d lines dropped", lost, sessions)
	}
	w.mu.Lock()
	if held := len(w.pending); held > maxPending {
		t.Errorf("%d bytes are held", held)
	}
	w.mu.Unlock()

	close(v.open)
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(v.String(), "\n"), "\n")
	whole, notices := 0, int64(0)
	for _, text := range lines {
		var line struct {
			Msg   string
			Count int64
		}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		switch line.Msg {
		case "session":
			whole++
		case "log lines dropped":
			notices += line.Count
		}
	}
	if int64(whole)+lost != sessions+1 || notices != lost {
		t.Errorf("%d lines written, %d dropped of which %d are told, want %d together", whole, lost, notices, sessions+1)
	}
}

func TestClosingGivesUpOnAnOutputThatIsStuck(t *testing.T) {
	v := newValve()
	log, w := NewLogger(slog.LevelInfo, "json", v)
	log.Info("one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close = %v", err)
	}
	log.Info("too late")
	if w.Dropped() != 1 {
		t.Errorf("%d lines dropped, want the one after Close", w.Dropped())
	}
	close(v.open)
	<-w.done
	if text := v.String(); !strings.Contains(text, "one") || strings.Contains(text, "late") {
		t.Errorf("the log is %q", text)
	}
}

func TestAFullDiskLosesLinesAndSaysSo(t *testing.T) {
	v := newValve()
	close(v.open)
	log, w := NewLogger(slog.LevelInfo, "text", v)
	for _, round := range []string{"first", "second"} {
		v.failing(syscall.ENOSPC)
		log.Info("this line is torn")
		<-v.left
		v.failing(nil)
		log.Info(round)
		for range 3 { // the end of the torn line, the line, the notice
			<-v.left
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(v.String(), "\n")
	for i, want := range []string{"time=", "msg=first", "count=1", "time=", "msg=second", "count=1"} {
		if len(lines) != 7 || !strings.Contains(lines[i], want) {
			t.Fatalf("the log is %q, want %q in line %d", lines, want, i+1)
		}
	}
}

func TestOnlyTheLinesThatWereCutOffAreLost(t *testing.T) {
	v := newValve()
	close(v.open)
	v.failing(syscall.ENOSPC)
	w := NewWriter(v)
	fmt.Fprint(w, "a\nbbbb\n")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.Dropped() != 1 {
		t.Errorf("%d lines dropped, want the second", w.Dropped())
	}
}

func TestPlainLinesGetNoNotice(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out)
	w.dropped.Add(5)
	fmt.Fprintln(w, `{"decision_id":"1"}`)
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out.String() != "{\"decision_id\":\"1\"}\n" {
		t.Errorf("wrote %q", out.String())
	}
}

func TestFileIsPrivateAndReopens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	io.WriteString(f, "one\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	io.WriteString(f, "two\n")

	// Writers that meet the change lose nothing.
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 5000 {
				if _, err := io.WriteString(f, "more\n"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	written := make(chan struct{})
	go func() { writers.Wait(); close(written) }()
	for writing := true; writing; {
		if err := f.Reopen(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-written:
			writing = false
		default:
		}
	}
	io.WriteString(f, "three\n")

	old, _ := os.ReadFile(path + ".1")
	now, _ := os.ReadFile(path)
	if !strings.HasPrefix(string(old), "one\ntwo\n") || !strings.HasSuffix(string(now), "three\n") {
		t.Errorf("old file %.40q, new file %.40q", old, now)
	}
	if n := strings.Count(string(old)+string(now), "more\n"); n != 20000 {
		t.Errorf("%d of 20000 lines arrived", n)
	}
}

func TestAFailedReopenKeepsTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	os.Rename(path, path+".1")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.Reopen(); err == nil {
		t.Error("a directory was opened for writing")
	}
	if _, err := io.WriteString(f, "still here\n"); err != nil {
		t.Error(err)
	}
}

func TestANamedPipeIsNotWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path); !errors.Is(err, syscall.ENXIO) {
		t.Errorf("OpenFile = %v, want ENXIO", err)
	}
}
