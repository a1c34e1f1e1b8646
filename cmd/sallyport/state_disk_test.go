package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// onSmallDisk runs a test anew where it may mount, and gives it a disk in memory of
// a mebibyte. It returns "" in the test that was asked for.
func onSmallDisk(t *testing.T) string {
	t.Helper()
	const inside = "TEST_MAY_MOUNT"
	if os.Getenv(inside) == "" {
		if out, err := exec.Command("unshare", "-rm", "mount", "-t", "tmpfs", "none", t.TempDir()).CombinedOutput(); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("nothing can be mounted here: %v %s", err, out)
			}
			t.Skipf("nothing can be mounted here: %v %s", err, out)
		}
		again := exec.Command("unshare", "-rm", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		again.Env = append(os.Environ(), inside+"=1")
		if out, err := again.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("%v\n%s", err, out)
		}
		return ""
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill takes all the room that a disk has left, and returns the file that has it.
func fill(t *testing.T, dir string) string {
	t.Helper()
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for block := make([]byte, 4096); ; {
		if _, err := filler.Write(block); err != nil {
			return filler.Name()
		}
	}
}

// stateFailed is what the metric says.
func stateFailed(t *testing.T, s *process) string {
	t.Helper()
	_, page := tell(t, "GET", s.api(t)+"/metrics", "")
	_, after, _ := strings.Cut(page, "\nsallyport_state_failed_total ")
	count, _, _ := strings.Cut(after, "\n")
	return count
}

// A disk that is full keeps nobody out: the proxy starts and serves, bans of
// policies hold, operators are told that theirs would not last, and all of it is
// kept once there is room.
func TestStateOnAFullDisk(t *testing.T) {
	dir := onSmallDisk(t)
	if dir == "" {
		return
	}
	e := serveEcho(t, "127.0.0.1:0")
	policies := t.TempDir()
	args := []string{"--data", settings(t, loopback, e.port), "--policy", write(t, filepath.Join(policies, "admit.rego"), admitBans)}
	plain, granted, refused := greeting+connectTo("127.0.0.1", e.port), chosen+"\x05\x00\x00\x01", chosen+replied(2)
	asks := func(s *process, from, want string) {
		t.Helper()
		c := dialFrom(t, from, s.addr)
		defer c.Close()
		c.say(plain).hear(want)
	}

	filler := fill(t, dir)
	s := start(t, "--set", "state.path="+filepath.Join(dir, "state.db")) // the very first start
	s.wait(t, 0, "there is no management token")
	s.end(t, syscall.SIGTERM)
	s = keeper(t, dir, args...)
	if text := fmt.Sprint(s.wait(t, 0, "state is not kept")["error"]); !strings.Contains(text, "no space left on device") || !strings.Contains(text, filepath.Join(dir, "state.db")) {
		t.Error(text)
	}
	ban := s.api(t) + "/v1/bans/127.0.7.1"
	for range 2 {
		asks(s, "127.0.7.1", granted)
		if status, body := tell(t, "PUT", ban, ""); status != http.StatusInsufficientStorage || !strings.Contains(body, `"error":"nothing was changed: it could not be kept: state file: `) || !strings.Contains(body, "no space left on device") {
			t.Errorf("%d %s", status, body)
		}
	}
	asks(s, "127.0.7.1", granted)
	asks(s, "127.9.0.1", refused) // as the policy decides
	if text := fmt.Sprint(s.wait(t, 0, "bans are in force and not kept")["error"]); !strings.Contains(text, "no space left on device") {
		t.Error(text)
	}
	if n := stateFailed(t, s); n == "" || n == "0" || n == "1" {
		t.Errorf("%q writes have failed", n)
	}
	if len(s.bans(t)) != 1 {
		t.Errorf("%v", s.bans(t))
	}

	// Room again.
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if status, body := tell(t, "PUT", ban, ""); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	s.wait(t, 0, "bans are kept again")
	s.end(t, syscall.SIGKILL)
	s = keeper(t, dir, args...)
	if got := s.bans(t); len(got) != 2 || got["127.9.0.1/32"].Of == "" || got["127.0.7.1/32"].Of == "" {
		t.Fatalf("%v", got)
	}

	// Full while it runs: a list is set as a whole or not at all, nothing is lifted
	// by half, and the file is none the worse for it.
	filler = fill(t, dir)
	var list []string
	for i := range 5000 {
		list = append(list, fmt.Sprintf(`{"of": "10.0.%d.%d", "reason": "%s"}`, i>>8, i&255, strings.Repeat("x", 100)))
	}
	for range 3 {
		status, body := tell(t, "PUT", s.api(t)+"/v1/bans", `{"bans": [`+strings.Join(list, ",")+`]}`)
		if status != http.StatusInsufficientStorage || len(s.bans(t)) != 2 {
			t.Errorf("%d %s, %d bans", status, body, len(s.bans(t)))
		}
	}
	s.end(t, syscall.SIGKILL)
	s = keeper(t, dir, args...)
	if got := s.bans(t); len(got) != 2 {
		t.Errorf("%v", got)
	}
	os.Remove(filler)
	if status, body := tell(t, "PUT", s.api(t)+"/v1/bans", `{"bans": [`+strings.Join(list[:1000], ",")+`]}`); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	s.end(t, syscall.SIGKILL)
	if s = keeper(t, dir, args...); len(s.bans(t)) != 1002 {
		t.Errorf("%d bans", len(s.bans(t)))
	}
}

// A file that may only be read is read.
func TestStateOnAReadOnlyDisk(t *testing.T) {
	dir := onSmallDisk(t)
	if dir == "" {
		return
	}
	remount := func(how uintptr) {
		t.Helper()
		if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT|how, ""); err != nil {
			t.Fatal(err)
		}
	}
	s := keeper(t, dir)
	if status, body := tell(t, "PUT", s.api(t)+"/v1/bans/127.0.7.1", ""); status != 200 {
		t.Fatal(status, body)
	}
	s.end(t, syscall.SIGTERM)

	remount(syscall.MS_RDONLY)
	s = keeper(t, dir)
	s.wait(t, 0, "state is not kept")
	for _, c := range []struct {
		method, of string
		status     int
	}{{"PUT", "127.0.7.2", 507}, {"DELETE", "127.0.7.1", 507}, {"GET", "127.0.7.1", 200}, {"GET", "127.0.7.2", 404}} {
		if status, body := tell(t, c.method, s.api(t)+"/v1/bans/"+c.of, ""); status != c.status || status == 507 && !strings.Contains(body, "read-only file system") {
			t.Errorf("%v: %d %s", c, status, body)
		}
	}
	remount(0)
	for _, c := range []struct{ method, of string }{{"PUT", "127.0.7.2"}, {"DELETE", "127.0.7.1"}} {
		if status, body := tell(t, c.method, s.api(t)+"/v1/bans/"+c.of, ""); status/100 != 2 {
			t.Errorf("%v: %d %s", c, status, body)
		}
	}
	s.end(t, syscall.SIGKILL)
	if got := keeper(t, dir).bans(t); len(got) != 1 || got["127.0.7.2/32"].Of == "" {
		t.Errorf("%v", got)
	}
}
