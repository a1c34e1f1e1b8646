package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process_test.go starts the program, and reads its log and its management API.

// process is a running sallyport whose log lines can be waited for.
type process struct {
	cmd    *exec.Cmd
	addr   string
	stdout io.Reader
	mu     sync.Mutex
	more   *sync.Cond
	log    []map[string]any
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	return follow(t, program(append([]string{"run", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0",
		"--set", "state.path=" + filepath.Join(t.TempDir(), "state.db")}, args...)...))
}

// listening is start with listeners of its own, in YAML.
func listening(t *testing.T, listeners string, args ...string) *process {
	t.Helper()
	return follow(t, program(append([]string{"run", "--management", "127.0.0.1:0", "--set", "listeners=" + listeners,
		"--set", "state.path=" + filepath.Join(t.TempDir(), "state.db")}, args...)...))
}

// startWith starts the program with variables in its environment.
func startWith(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	cmd := program(append([]string{"run", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0",
		"--set", "state.path=" + filepath.Join(t.TempDir(), "state.db")}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	return follow(t, cmd)
}

// follow starts a `sallyport run` and waits until it listens. A crowded machine may
// take its time over a policy, unless --set says how long.
func follow(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	cmd.Env = append([]string{"SALLYPORT_POLICY_TIMEOUT=10s"}, cmd.Environ()...)
	s := &process{cmd: cmd}
	s.more = sync.NewCond(&s.mu)
	s.stdout, _ = s.cmd.StdoutPipe()
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			entry := entryOf(lines.Bytes())
			s.mu.Lock()
			s.log = append(s.log, entry)
			s.mu.Unlock()
			s.more.Broadcast()
		}
		s.mu.Lock()
		s.log = append(s.log, map[string]any{"msg": "eof"})
		s.mu.Unlock()
		s.more.Broadcast()
	}()
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	s.addr, _ = s.wait(t, 0, "listening")["address"].(string)
	return s
}

// wait returns the first entry with that message after the first skip ones of
// its kind.
func (s *process) wait(t *testing.T, skip int, msg string) map[string]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, s.more.Broadcast)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		seen := 0
		for _, e := range s.log {
			if e["msg"] == msg {
				if seen == skip {
					return e
				}
				seen++
			}
		}
		if ctx.Err() != nil || (len(s.log) > 0 && s.log[len(s.log)-1]["msg"] == "eof") {
			t.Fatalf("no %q in the log: %v", msg, s.log)
		}
		s.more.Wait()
	}
}

// forget drops the entries with that message, so that wait skips none of them.
func (s *process) forget(msg string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = slices.DeleteFunc(s.log, func(e map[string]any) bool { return e["msg"] == msg })
}

// waitFor waits for a line of the log.
func (s *process) waitFor(t *testing.T, what string, f func(line map[string]any) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, s.more.Broadcast)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !slices.ContainsFunc(s.log, f) {
		if ctx.Err() != nil {
			t.Fatalf("no line in the log that tells %s: %v", what, s.log)
		}
		s.more.Wait()
	}
}

// waitAfter waits for a line of the log behind the first ones.
func (s *process) waitAfter(t *testing.T, lines int, what string, f func(line map[string]any) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, s.more.Broadcast)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !slices.ContainsFunc(s.log[lines:], f) {
		if ctx.Err() != nil {
			var others []string
			for _, line := range s.log[lines:] {
				if line["msg"] != "session" {
					others = append(others, fmt.Sprint(line["msg"], ": ", line["error"]))
				}
			}
			t.Fatalf("no line in the log that tells %s: %q", what, others)
		}
		s.more.Wait()
	}
}

// lines is how many lines the log has.
func (s *process) lines() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.log)
}

// tellIfFailed tells the log of a test that has failed.
func (s *process) tellIfFailed(t *testing.T) {
	t.Cleanup(func() {
		if t.Failed() {
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Log(s.log)
		}
	})
}

// says tells whether the log has a text in it.
func (s *process) says(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(fmt.Sprint(s.log), text)
}

// sessionWhere waits for the record of a session that is as wanted.
func (s *process) sessionWhere(t *testing.T, wanted func(r map[string]any) bool) map[string]any {
	t.Helper()
	for skip := 0; ; skip++ {
		if r := s.wait(t, skip, "session"); wanted(r) {
			return r
		}
	}
}

// sessionOf waits for the record of the session that asked for a host.
func (s *process) sessionOf(t *testing.T, host string) map[string]any {
	t.Helper()
	return s.sessionWhere(t, func(r map[string]any) bool {
		return r["asked.address"] == host || (r["asked.address"] == nil && r["server.address"] == host)
	})
}

// ended waits for the n-th session's line in the log.
func (s *process) ended(t *testing.T, n int) (id string, line map[string]any) {
	t.Helper()
	line = s.wait(t, n, "session")
	id, _ = line["session.id"].(string)
	return id, line
}

func (s *process) terminate(t *testing.T) {
	t.Helper()
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.wait(t, 0, "eof")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("after TERM: %v", err)
	}
}

func (s *process) descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// get asks the management API.
func (s *process) get(t *testing.T, path string) (int, map[string]any) {
	t.Helper()
	api := "http://" + s.wait(t, 0, "management")["address"].(string)
	file, _ := s.wait(t, 0, "management token")["file"].(string)
	token, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	status, body := call(t, "GET", api+path, strings.TrimSpace(string(token)))
	shown := map[string]any{"body": body}
	json.Unmarshal([]byte(body), &shown)
	return status, shown
}
