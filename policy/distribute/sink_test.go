package distribute

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// logServer takes uploads of decisions, as a control plane does.
type logServer struct {
	*httptest.Server
	mu     sync.Mutex
	more   *sync.Cond
	status int           // to answer with; 0: 200
	hang   chan struct{} // nil: answers at once
	stall  bool          // once: begins an answer and does not end it
	asked  int
	events []map[string]any
	broken []error
}

func serveLogs(t testing.TB) *logServer {
	s := &logServer{}
	s.more = sync.NewCond(&s.mu)
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *logServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.more.Broadcast()
	s.asked++
	if hang := s.hang; hang != nil {
		s.more.Broadcast()
		s.mu.Unlock()
		select {
		case <-hang:
		case <-r.Context().Done():
		}
		s.mu.Lock()
	}
	if s.stall {
		s.stall = false
		s.mu.Unlock()
		io.Copy(io.Discard, r.Body)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		s.mu.Lock()
		return
	}
	if s.status != 0 {
		w.WriteHeader(s.status)
		return
	}
	var events []map[string]any
	unpacked, err := gzip.NewReader(r.Body)
	if err == nil {
		decoder := json.NewDecoder(unpacked)
		decoder.UseNumber()
		err = decoder.Decode(&events)
	}
	if err != nil || r.URL.Path != "/logs" || r.Header.Get("Authorization") != "Bearer upload-token" {
		s.broken = append(s.broken, fmt.Errorf("%s: %v", r.URL.Path, err))
	}
	s.events = append(s.events, events...)
}

func (s *logServer) set(status int, hang chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.hang = status, hang
}

// until waits for what the server is to see.
func (s *logServer) until(t *testing.T, what string, seen func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, s.more.Broadcast)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !seen() {
		if ctx.Err() != nil {
			t.Fatalf("no %s: asked %d times, %d events", what, s.asked, len(s.events))
		}
		s.more.Wait()
	}
}

// ids are those of the events that have come, in order, each once.
func (s *logServer) ids(t *testing.T) []string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.broken) > 0 {
		t.Error(s.broken)
	}
	var ids []string
	for _, e := range s.events {
		ids = append(ids, e["decision_id"].(string))
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// toService is OPA's configuration for a log that goes to a server.
func toService(s *logServer, reporting map[string]any) map[string]any {
	return map[string]any{
		"services":      map[string]any{"logs": map[string]any{"url": s.URL, "credentials": map[string]any{"bearer": map[string]any{"token": "upload-token"}}}},
		"labels":        map[string]any{"region": "eu"},
		"decision_logs": map[string]any{"service": "logs", "reporting": reporting},
	}
}

func numbered(n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("d-%05d", i))
	}
	return ids
}

func TestUploads(t *testing.T) {
	for _, kind := range []string{"size", "event"} {
		t.Run(kind, func(t *testing.T) {
			server := serveLogs(t)
			l := started(t, sinkOptions{opa: toService(server, map[string]any{"buffer_type": kind, "upload_size_limit_bytes": 2000})}, queueBytes)
			ids := numbered(300)
			for _, id := range ids {
				do(t, l.Record(event(id)))
			}
			do(t, l.Close(t.Context()))
			if got := server.ids(t); !slices.Equal(got, ids) {
				t.Errorf("%d events came, want %d", len(got), len(ids))
			}
			got, want := server.events[0], parsed(t, appendLine(nil, event(server.events[0]["decision_id"].(string)), []byte(`{"id":"here","region":"eu","version":"1.22.2"}`)))
			delete(got, "type")
			delete(want, "type") // OPA's uploads have none
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
			if l.Dropped() != 0 {
				t.Errorf("%d dropped", l.Dropped())
			}
		})
	}
}

// A server that is away costs no event as long as there is room, however often
// an upload fails; and when there is none, those that are dropped are counted.
func TestAServerThatIsAway(t *testing.T) {
	for _, kind := range []string{"size", "event"} {
		t.Run(kind, func(t *testing.T) {
			server := serveLogs(t)
			server.set(http.StatusInternalServerError, nil)
			reporting := map[string]any{"buffer_type": kind, "upload_size_limit_bytes": 1000, "buffer_size_limit_bytes": 8000, "min_delay_seconds": 1, "max_delay_seconds": 1}
			if kind == "event" {
				delete(reporting, "buffer_size_limit_bytes")
				reporting["buffer_size_limit_events"] = 50
			}
			var log bytes.Buffer
			const queued = 20
			size := int64(event("d-00000").Size())
			l := started(t, sinkOptions{opa: toService(server, reporting), LogOptions: LogOptions{Log: slog.New(slog.NewTextHandler(&log, nil))}}, queued*size)
			ids := numbered(2000)
			for _, id := range ids {
				do(t, l.Record(event(id)))
			}
			server.until(t, "second attempt", func() bool { return server.asked >= 2 })
			if l.Dropped() == 0 {
				t.Error("nothing is dropped")
			}
			server.set(0, nil)
			do(t, l.Close(t.Context()))
			if got := len(server.ids(t)) + int(l.Dropped()); got != len(ids) {
				t.Errorf("%d events came and %d are dropped, of %d", len(server.ids(t)), l.Dropped(), len(ids))
			}
			if _, held := l.sink.plugin.BufferSize(); held != 0 {
				t.Errorf("the buffer holds %d", held)
			}
			if !strings.Contains(log.String(), "500") {
				t.Errorf("log %s", log.String())
			}
		})
	}
}

// Where decisions are rather refused than not logged, a log that has no room
// refuses, says so, and loses none that it has taken.
func TestALogThatIsFullRefuses(t *testing.T) {
	server := serveLogs(t)
	hang := make(chan struct{})
	server.set(0, hang)
	reporting := map[string]any{"buffer_type": "event", "buffer_size_limit_events": 10, "upload_size_limit_bytes": 5000}
	l := started(t, sinkOptions{opa: toService(server, reporting), LogOptions: LogOptions{Wait: 10 * time.Millisecond}}, 20*int64(event("d-00000").Size()))
	var taken []string
	var refused error
	for _, id := range numbered(1000) {
		if err := l.Record(event(id)); err != nil {
			refused = err
			break
		}
		taken = append(taken, id)
	}
	if refused == nil || !strings.Contains(refused.Error(), "can't be logged: the log has no room, for 10ms") {
		t.Fatalf("%d taken; %v", len(taken), refused)
	}
	large := event("large")
	large.Input = json.RawMessage(`"` + strings.Repeat("x", 5000) + `"`)
	if err := l.Record(large); err == nil || !strings.Contains(err.Error(), "may have 5000") {
		t.Errorf("an event that no upload could hold: %v", err)
	}
	if got := l.Dropped(); got != 2 {
		t.Errorf("%d dropped, want 2", got)
	}
	server.set(0, nil)
	close(hang)
	do(t, l.Close(t.Context()))
	if got := server.ids(t); !slices.Equal(got, taken) {
		t.Errorf("%d events came, %d were taken", len(got), len(taken))
	}
}

// A console that fails refuses at once, and takes up again where it stopped.
func TestAConsoleThatFailsRefuses(t *testing.T) {
	out := &failing{err: io.ErrClosedPipe, tried: make(chan struct{}, 1)}
	l := started(t, sinkOptions{opa: consoleConfig, LogOptions: LogOptions{Output: out, Wait: time.Minute}}, queueBytes)
	do(t, l.Record(event("d-0")))
	<-out.tried
	<-out.tried // so that it is known by now
	if err := l.Record(event("d-1")); err == nil || !strings.Contains(err.Error(), "can't be logged: io: read/write on closed pipe") {
		t.Errorf("error %v", err)
	}
	out.mend()
	do(t, l.Close(t.Context()))
	text := out.String()
	torn, rest, _ := strings.Cut(text, "\n")
	if got := lines(t, rest); torn != "{" || len(got) != 1 || got[0]["decision_id"] != "d-0" {
		t.Errorf("written: %s", text)
	}
	if l.Dropped() != 1 {
		t.Errorf("%d dropped", l.Dropped())
	}
}

// failing writes one byte and fails, and then fails until it is mended.
type failing struct {
	tried chan struct{}
	mu    sync.Mutex
	err   error
	bytes.Buffer
}

func (f *failing) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		return f.Buffer.Write(p)
	}
	select {
	case f.tried <- struct{}{}:
	default:
	}
	if f.Len() == 0 {
		f.Buffer.Write(p[:1])
		return 1, f.err
	}
	return 0, f.err
}

func (f *failing) mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = nil
}

func TestAFileIsRotated(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "decisions.log")
	l := started(t, sinkOptions{opa: toFile(path, map[string]any{"max_size_mb": 1, "max_backups": 2})}, queueBytes)
	long := strings.Repeat("x", 100_000)
	const n = 45 // four files and a half
	for _, id := range numbered(n) {
		e := event(id)
		e.Input = json.RawMessage(`{"a":"` + long + `"}`)
		do(t, l.Record(e))
	}
	do(t, l.Close(t.Context()))
	var seen []string
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	do(t, err)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the oldest is removed a little later
		}
		do(t, err)
		for _, e := range lines(t, string(text)) {
			seen = append(seen, e["decision_id"].(string))
		}
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		do(t, err)
		if info.Mode() != 0o600 || info.Size() > 1<<20 {
			t.Errorf("%s: mode %v, %d bytes", name, info.Mode(), info.Size())
		}
	}
	slices.Sort(seen)
	if len(files) < 2 || len(seen) == 0 || !slices.Equal(seen, numbered(n)[n-len(seen):]) || l.Dropped() != 0 {
		t.Errorf("files %v have %v", files, seen)
	}
}

func toFile(path string, more map[string]any) map[string]any {
	settings := map[string]any{"path": path}
	for key, value := range more {
		settings[key] = value
	}
	return map[string]any{
		"decision_logs": map[string]any{"plugin": "file_logger"}, "plugins": map[string]any{"file_logger": settings},
		"labels": map[string]any{"region": "eu"},
	}
}

// A disk that is full is an error, and a file that is moved away is opened again.
// announced is a log that closes first with its first line.
type announced struct {
	bytes.Buffer
	first chan struct{}
	once  sync.Once
}

func (a *announced) Write(line []byte) (int, error) {
	defer a.once.Do(func() { close(a.first) })
	return a.Buffer.Write(line)
}

func TestAFileThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.log")
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Skip(err)
	}
	log := announced{first: make(chan struct{})}
	l := started(t, sinkOptions{opa: toFile(path, nil), LogOptions: LogOptions{Log: slog.New(slog.NewTextHandler(&log, nil)), Wait: 10 * time.Second}}, queueBytes)
	do(t, l.Record(event("d-0")))
	<-log.first // it is known by then
	if err := l.Record(event("d-1")); err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("error %v", err)
	}
	do(t, os.Remove(path), l.Reopen(), l.Close(t.Context()))
	text, err := os.ReadFile(path)
	do(t, err)
	if got := lines(t, string(text)); len(got) != 1 || got[0]["decision_id"] != "d-0" {
		t.Errorf("written: %s", text)
	}
	if !strings.Contains(log.String(), "no space left") || strings.Count(log.String(), "level=ERROR") != 1 {
		t.Errorf("log %s", log.String())
	}
}

// A server that begins an answer and does not end it keeps no upload for ever.
func TestAnAnswerThatStalls(t *testing.T) {
	server := serveLogs(t)
	server.stall = true
	opa := toService(server, nil)
	opa["services"].(map[string]any)["logs"].(map[string]any)["response_header_timeout_seconds"] = 1
	opa["decision_logs"].(map[string]any)["reporting"] = map[string]any{"min_delay_seconds": 1, "max_delay_seconds": 1}
	l := started(t, sinkOptions{opa: opa}, queueBytes)
	do(t, l.Record(event("d-0")))
	server.until(t, "event after the stall", func() bool { return len(server.events) > 0 })
}

// However few events there are, what waits to be uploaded is bounded in bytes.
func TestWhatWaitsForAServerIsBounded(t *testing.T) {
	server := serveLogs(t)
	hang := make(chan struct{})
	server.set(0, hang)
	s := sinkOf(t, sinkOptions{opa: toService(server, map[string]any{"buffer_type": "event"})})
	do(t, s.write(t.Context(), event("d-00000"), policyOf(t, "")))
	s.uploads.pushed(heldBytes)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.uploads.room(ctx); !errors.Is(err, errFull) {
		t.Errorf("error %v", err)
	}
	close(hang)
	do(t, s.uploads.room(t.Context()))
}
