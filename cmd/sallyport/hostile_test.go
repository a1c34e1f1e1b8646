package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostile_test.go means harm: mutated and stalled handshakes, signals and
// resets in the middle of things.

// honest is a client that wants a tunnel and uses it.
func honest(t *testing.T, s *process, port uint16) *talk {
	t.Helper()
	d := dialDoor(t, s.addr).say(greeting + connectTo("127.0.0.1", port)).hear(chosen + "\x05\x00\x00\x01\x7f\x00\x00\x01")
	io.CopyN(io.Discard, d, 2) // the port
	return d.say("honest").hear("honest")
}

// mutated is a handshake with up to eight things wrong.
func mutated(r *rand.Rand, seeds []string) string {
	b := []byte(seeds[r.IntN(len(seeds))])
	for range 1 + r.IntN(8) {
		if len(b) == 0 {
			break
		}
		i := r.IntN(len(b))
		switch r.IntN(8) {
		case 0:
			b[i] ^= 1 << r.IntN(8)
		case 1:
			b[i] = byte(r.Uint32())
		case 2:
			b = b[:i]
		case 3:
			b = append(b[:i], b[i+1:]...)
		case 4:
			b = append(b[:i:i], append([]byte{byte(r.Uint32())}, b[i:]...)...)
		case 5:
			j := i + r.IntN(len(b)-i)
			b = append(b[:j:j], b[i:]...) // a part again
		case 6:
			other := seeds[r.IntN(len(seeds))]
			b = append(b[:i:i], other[r.IntN(len(other)):]...)
		case 7:
			b[i] = "\x00\xff\r\n:\x7f\x05\x01"[r.IntN(8)]
		}
	}
	return string(b)
}

// TEST_MUTATIONS is how many handshakes are mutated, and may have a seed
// behind a comma.
func TestMutatedHandshakes(t *testing.T) {
	count, seed := 3000, uint64(1)
	if text := os.Getenv("TEST_MUTATIONS"); text != "" {
		first, second, _ := strings.Cut(text, ",")
		var err error
		if count, err = strconv.Atoi(first); err != nil {
			t.Fatal(err)
		}
		if second != "" {
			if seed, err = strconv.ParseUint(second, 10, 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	target, canary := serveEcho(t, "127.0.0.1:0"), serveEcho(t, "127.0.0.1:0")
	names := serveNames(t, nil)
	// A mutated address must not lead out of this machine, so that loopback is
	// all there is, and the canary's port is not allowed.
	dir := t.TempDir()
	policy := write(t, filepath.Join(dir, "dial.rego"), "package sallyport.dial\ndefault allow := false\nallow if input.address.scope == \"loopback\"\n")
	s := start(t, "--policy", policy, "--data", settings(t, nil, target.port), "--set", "dns.servers="+names.addr,
		"--data", usersFile(t, map[string]string{"alice": "right horse"}))
	basic := base64.StdEncoding.EncodeToString([]byte("alice:right horse"))
	var seeds []string
	for _, port := range []uint16{target.port, canary.port} {
		seeds = append(seeds,
			greeting+connectTo("127.0.0.1", port)+"early",
			greeting+connectTo("localhost", port)+"early",
			greeting+connectTo("::1", port),
			connect4("alice", "127.0.0.1", port)+"early",
			connect4("", "localhost", port)+"early",
			"\x05\x02\x00\x02"+login("alice", "right horse")+connectTo("127.0.0.1", port)+"early",
			"\x05\x01\x02"+login("alice", "wrong")+connectTo("127.0.0.1", port),
			fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: a\r\n\r\nearly", port),
			fmt.Sprintf("CONNECT localhost:%d HTTP/1.1\r\nProxy-Authorization: Basic %s\r\n\r\nearly", port, basic),
			fmt.Sprintf("GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", port),
		)
	}
	honest(t, s, target.port).Close()
	before := s.descriptors(t)

	var clients sync.WaitGroup
	for worker := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, worker))
		clients.Go(func() {
			for range count / 8 {
				c, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Error(err)
					return
				}
				c.SetDeadline(time.Now().Add(30 * time.Second))
				text := mutated(r, seeds)
				io.WriteString(c, text)
				c.(*net.TCPConn).CloseWrite()
				if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("no end of %q", text)
				}
				c.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
			honest(t, s, target.port).Close()
		}
	}
	if n := canary.came.Load(); n != 0 {
		t.Errorf("%d came to where none may go", n)
	}
	// The honest client's own connections end a moment after it has closed them.
	for end := time.Now().Add(20 * time.Second); s.descriptors(t) > before+10; {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors before, %d after", before, s.descriptors(t))
		}
		honest(t, s, target.port).Close()
	}
}

// A handshake that does not end holds up nobody, and its deadline is for the
// whole of it: a client that drips is no better off than one that is silent.
func TestStalledHandshakes(t *testing.T) {
	target := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, target.port), "--set", "limits.handshake=2s")
	stalls := []string{
		"", "\x05", "\x05\x01", greeting, greeting + "\x05", greeting + "\x05\x01\x00", greeting + "\x05\x01\x00\x03\xff" + "abc",
		greeting + connectTo("127.0.0.1", 80)[:9], "\x05\x01\x02", "\x05\x01\x02\x01\xff" + "abc", "C", "CONNECT ", "CONNECT a:1 HTTP/1.1\r\nA: ",
		"\x04", "\x04\x01\x00\x50\x7f\x00\x00\x01ali", "\x04\x01\x00\x50\x00\x00\x00\x01\x00exa",
	}
	var stalled []net.Conn
	for i := range 500 {
		d := dialDoor(t, s.addr)
		io.WriteString(d, stalls[i%len(stalls)])
		stalled = append(stalled, d)
		if i%25 == 0 {
			honest(t, s, target.port).Close()
		}
	}
	var drips sync.WaitGroup
	for _, start := range []string{greeting + "\x05\x01\x00\x03\xff", "CONNECT ", "\x05\x01\x02\x01\xff", "\x04\x01\x00\x50\x00\x00\x00\x01\x00"} {
		drip := dialDoor(t, s.addr).say(start)
		drips.Go(func() {
			for range 300 { // 15 s at least
				drip.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				if _, err := io.Copy(io.Discard, drip); !errors.Is(err, os.ErrDeadlineExceeded) {
					return // closed
				}
				io.WriteString(drip, "a")
			}
			t.Errorf("a client that drips after % x is still heard", start)
		})
	}
	drips.Wait()
	for i, c := range stalled {
		c.SetDeadline(time.Now().Add(15 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%q is still open", stalls[i%len(stalls)])
		}
	}
	honest(t, s, target.port)
}

func TestConnectionsOverTheLimit(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, target.port), "--set", "limits.connections=3")
	api := "http://" + s.wait(t, 0, "management")["address"].(string)
	open := []*talk{honest(t, s, target.port), honest(t, s, target.port), honest(t, s, target.port)}
	d := dialDoor(t, s.addr)
	if got, _ := d.rest(); got != "" {
		t.Errorf("the fourth hears %q", got)
	}
	if refused := s.wait(t, 0, "connection refused"); refused["cause"] != "limit" {
		t.Errorf("the log says %v", refused)
	}
	if _, body := call(t, "GET", api+"/metrics", ""); !strings.Contains(body, `sallyport_refusals_total{cause="limit"} 1`) {
		t.Errorf("the refusal is not counted in %s", body)
	}
	open[0].Close()
	s.wait(t, 0, "session")
	honest(t, s, target.port)
}

// Without descriptors the program waits, and goes on when they come back.
func TestOutOfDescriptors(t *testing.T) {
	target := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, target.port))
	honest(t, s, target.port).Close()
	few := unix.Rlimit{Cur: uint64(s.descriptors(t) + 8), Max: 1 << 10}
	if err := unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_NOFILE, &few, nil); err != nil {
		t.Skip("limits cannot be set here: ", err)
	}
	var waiting []*talk
	for range 32 {
		waiting = append(waiting, dialDoor(t, s.addr).say(greeting))
	}
	s.wait(t, 0, "accept")
	for _, d := range waiting {
		d.Close()
	}
	s.wait(t, len(waiting), "session") // all of them have been, after the first
	honest(t, s, target.port)
}

// A name that has addresses which dial denies beside one that it allows was not
// a request that was denied, and one with several was denied once.
func TestDeniedRequestsAreCountedOnce(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	names := serveNames(t, map[string][]string{
		"mixed.example.": {"10.0.0.1", "10.0.0.2", "127.0.0.1"}, "inside.example.": {"10.0.0.1", "10.0.0.2", "10.0.0.3"},
	})
	policy := write(t, filepath.Join(t.TempDir(), "admit.rego"), `package sallyport.admit
default allow := true
deny contains "denied too often" if input.source.denials.hour > 1
`)
	s := start(t, "--policy", policy, "--data", settings(t, loopback, target.port), "--set", "dns.servers="+names.addr)
	for range 3 {
		dialDoor(t, s.addr).say(greeting + connectTo("mixed.example", target.port)).hear(chosen + "\x05\x00\x00\x01\x7f\x00\x00\x01").Close()
	}
	for range 2 {
		if got := exchange(t, s.addr, greeting+connectTo("inside.example", target.port)); got != chosen+replied(2) {
			t.Errorf("a denied name is answered by % x", got)
		}
		s.sessionOf(t, "inside.example")
	}
	if n := len(names.questions()); n != 2*5 {
		t.Errorf("%d questions were asked for 5 requests", n)
	}
	if got := exchange(t, s.addr, greeting+connectTo("inside.example", target.port)); got != chosen+replied(2) || len(names.questions()) != 2*5 {
		t.Errorf("a client that was denied twice is answered by % x", got)
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	data := settings(t, loopback, target.port)
	s := start(t, "--data", data, "--set", "shutdown.grace=2s")
	idle, half := honest(t, s, target.port), dialDoor(t, s.addr).say(greeting).hear(chosen)
	s.cmd.Process.Signal(syscall.SIGHUP)
	s.wait(t, 0, "reloaded")
	idle.say("still").hear("still")
	half.say(connectTo("127.0.0.1", target.port)).hear("\x05\x00\x00\x01").Close()

	s.cmd.Process.Signal(syscall.SIGTERM)
	s.wait(t, 0, "draining")
	idle.say("in grace").hear("in grace")
	if c, err := net.Dial("tcp", s.addr); err == nil {
		if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
			t.Error("after TERM a new client is served")
		}
		c.Close()
	}
	s.wait(t, 0, "eof")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("after TERM: %v", err)
	}
	if cause := s.sessionOf(t, "127.0.0.1")["cause"]; cause == nil {
		t.Error("a session has no cause")
	}

	s = start(t, "--data", data, "--set", "shutdown.grace=1h")
	honest(t, s, target.port)
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.wait(t, 0, "draining")
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.wait(t, 0, "eof")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("after a second TERM: %v", err)
	}
	if cause := s.sessionOf(t, "127.0.0.1")["cause"]; cause != "cut: the server is shutting down" {
		t.Errorf("the cause is %v", cause)
	}
}

func TestHowASideEnds(t *testing.T) {
	t.Parallel()
	results := make(chan error, 1)
	resets := scripted(t, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 2))
		io.WriteString(c, "bye")
		io.ReadFull(c, make([]byte, 2))
		c.SetLinger(0)
	})
	isReset := scripted(t, func(c *net.TCPConn) {
		io.WriteString(c, "hi")
		_, err := io.Copy(io.Discard, c)
		results <- err
	})
	endsLast := scripted(t, func(c *net.TCPConn) {
		text, err := io.ReadAll(c)
		if err == nil && string(text) != "question" {
			err = fmt.Errorf("the target heard %q", text)
		}
		io.WriteString(c, "answer")
		results <- err
	})
	endsFirst := scripted(t, func(c *net.TCPConn) {
		io.WriteString(c, "banner")
		c.CloseWrite()
		text, err := io.ReadAll(c)
		if err == nil && string(text) != "late" {
			err = fmt.Errorf("the target heard %q", text)
		}
		results <- err
	})
	s := start(t, "--data", settings(t, loopback, resets, isReset, endsLast, endsFirst))
	tunnel := func(port uint16) *talk {
		d := dialDoor(t, s.addr)
		return d.say(fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", port)).hear("HTTP/1.1 200 Connection established\r\n\r\n")
	}
	if got, err := tunnel(resets).say("ab").hear("bye").say("cd").rest(); got != "" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target's reset reaches the client as %q, %v", got, err)
	}
	d := tunnel(isReset).hear("hi")
	d.SetLinger(0)
	d.Close()
	if err := <-results; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client's reset reaches the target as %v", err)
	}
	d = tunnel(endsLast).say("question")
	d.CloseWrite()
	if got, err := d.rest(); got != "answer" || err != nil {
		t.Errorf("after its own end the client hears %q, %v", got, err)
	}
	if err := <-results; err != nil {
		t.Error(err)
	}
	d = tunnel(endsFirst)
	if got, err := d.rest(); got != "banner" || err != nil {
		t.Errorf("until the target's end the client hears %q, %v", got, err)
	}
	d.say("late").CloseWrite()
	if err := <-results; err != nil {
		t.Error(err)
	}
}
