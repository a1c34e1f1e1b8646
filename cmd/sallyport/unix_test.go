package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// unix_test.go comes by unix sockets, and as one program or another.

// shortDir is a folder whose path is short enough for a socket in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// ownUser is a policy that lets in, by a unix socket, who this test is.
func ownUser(t *testing.T) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "own.rego"), fmt.Sprintf(`package sallyport.authenticate

default allow := false

allow if {
	input.source.process.pid > 0
	input.source.process.uid == %d
}
`, os.Getuid()))
}

func TestUnixSockets(t *testing.T) {
	t.Parallel()
	target, settings := origin(t)
	dir := shortDir(t)
	door, management := filepath.Join(dir, "door"), filepath.Join(dir, "api")
	data, policy := write(t, filepath.Join(dir, "d.json"), settings), ownUser(t)
	run := func() *process {
		return follow(t, program("run", "--listen", "unix:"+door, "--management", "unix:"+management, "--data", data, "--policy", policy,
			"--set", "state.path="+filepath.Join(dir, "state.db"), "--set", "policy.opa.decision_logs.console=true"))
	}
	s := run()
	if s.addr != "unix:"+door {
		t.Errorf("it listens on %q", s.addr)
	}
	for _, path := range []string{door, management} {
		if info, err := os.Stat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	// curl takes a socket's path behind localhost.
	if out, code := curl(t, "-x", "socks5h://localhost"+door, target); code != 0 || !strings.HasPrefix(out, "hello") {
		t.Errorf("curl exits %d: %s", code, out)
	}
	if r := s.wait(t, 0, "session"); r["client.address"] != nil || r["outcome"] != "ok" {
		t.Errorf("the session's record is %v", r["raw"])
	}
	// The server's own user needs no token.
	out, _ := curl(t, "--unix-socket", management, "http://localhost/v1/policy", "-w", "%{http_code}")
	if !strings.HasSuffix(out, "200") {
		t.Errorf("management says %s", out)
	}
	// A second server must not take over what the first listens on.
	second := program("run", "--listen", "unix:"+door, "--management", "127.0.0.1:0", "--set", "state.path="+filepath.Join(t.TempDir(), "b.db"))
	said, _ := second.CombinedOutput()
	if code := second.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(said), "somebody listens there already") {
		t.Errorf("the second server exits %d and says %s", code, said)
	}
	// One that was killed leaves its files, which are in nobody's way.
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s = run()
	if out, code := curl(t, "-x", "socks5h://localhost"+door, target); code != 0 {
		t.Errorf("after a kill curl exits %d: %s", code, out)
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.wait(t, 0, "eof")
	if _, err := os.Stat(door); !os.IsNotExist(err) {
		t.Errorf("the socket's file after the end: %v", err)
	}
	// What is no socket is nobody's to remove.
	write(t, door, "precious")
	third := program("run", "--listen", "unix:"+door, "--management", "127.0.0.1:0", "--set", "state.path="+filepath.Join(t.TempDir(), "b.db"))
	said, _ = third.CombinedOutput()
	if text, _ := os.ReadFile(door); string(text) != "precious" || !strings.Contains(string(said), "no socket") {
		t.Errorf("it says %s, and the file holds %q", said, text)
	}
}

// What goes through a unix socket ends as it does through TCP.
func TestUnixHalfCloseAndReset(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	door := filepath.Join(dir, "door")
	half := scripted(t, func(c *net.TCPConn) {
		got, _ := io.ReadAll(c) // to its end, and only then
		fmt.Fprintf(c, "got %d", len(got))
		c.Close()
	})
	gone := scripted(t, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
		c.Close()
	})
	follow(t, program("run", "--listen", "unix:"+door, "--management", "127.0.0.1:0", "--data", settings(t, loopback, half, gone), "--policy", ownUser(t),
		"--set", "state.path="+filepath.Join(dir, "state.db")))
	connect := func(port uint16) *net.UnixConn {
		c, err := net.Dial("unix", door)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, greeting+connectTo("127.0.0.1", port))
		io.ReadFull(c, make([]byte, 12))
		return c.(*net.UnixConn)
	}
	c := connect(half)
	c.Write(make([]byte, 300_000))
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "got 300000" || err != nil {
		t.Errorf("heard %q, %v", got, err)
	}
	c = connect(gone)
	c.Write([]byte("x"))
	if got, _ := io.ReadAll(c); len(got) != 0 {
		t.Errorf("after a reset %q comes", got)
	}
}

// A policy can tell which program asks, over loopback and by unix sockets.
func TestWhichProgramAsks(t *testing.T) { // alone: a program that another test is about to start has our sockets for a moment
	target, settings := origin(t)
	dir := shortDir(t)
	curlPath, err := filepath.EvalSymlinks(installed(t, "curl"))
	if err != nil {
		t.Fatal(err)
	}
	policy := write(t, filepath.Join(dir, "route.rego"), fmt.Sprintf(`package sallyport.route

default allow := false

allow if {
	input.source.process.exe == %q
	input.source.process.pid > 1
	input.source.process.uid == %d
}

labels := {"pid": sprintf("%%d", [input.source.process.pid]), "exe": input.source.process.exe}
`, curlPath, os.Getuid()))
	door := filepath.Join(dir, "door")
	s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0"}, {address: "[::1]:0"}, {address: "unix:%s"}, {address: "127.0.0.1:0", proxy_protocol: {trusted: [127.0.0.1]}}]`, door),
		"--policy", policy, "--policy", write(t, filepath.Join(dir, "authenticate.rego"), "package sallyport.authenticate\nallow := true\n"), "--data", write(t, filepath.Join(dir, "d.json"), settings))
	six, _ := s.wait(t, 1, "listening")["address"].(string)
	behind, _ := s.wait(t, 3, "listening")["address"].(string)
	for _, proxy := range []string{s.addr, six, "localhost" + door} {
		if out, code := curl(t, "-x", "socks5h://"+proxy, target); code != 0 {
			t.Errorf("%s: curl exits %d: %s", proxy, code, out)
		}
	}
	// This program is another one.
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	port, _ := strconv.Atoi(target[strings.LastIndex(target, ":")+1:])
	ask := greeting + connectTo("127.0.0.1", uint16(port))
	s.wait(t, 2, "session")
	s.forget("session")
	dialDoor(t, s.addr).say(ask).hear(chosen + replied(2))
	c, err := net.Dial("unix", door)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, ask)
	io.Copy(io.Discard, c)
	for skip := range 2 {
		labels, _ := s.wait(t, skip, "session")["labels"].(map[string]any)
		if labels["exe"] != me || labels["pid"] != strconv.Itoa(os.Getpid()) {
			t.Errorf("it is taken for %v", labels)
		}
	}
	// A client that is announced is elsewhere, wherever it says it is.
	dialDoor(t, behind).say("PROXY TCP4 127.0.0.1 127.0.0.1 " + strings.Split(s.addr, ":")[1] + " 1\r\n" + ask).hear(chosen + replied(2))
	if labels, _ := s.wait(t, 2, "session")["labels"].(map[string]any); labels["pid"] != "0" || labels["exe"] != "" {
		t.Errorf("a client that was announced is taken for %v", labels)
	}
}

// Others may be let as far as the question, and are told apart there.
func TestAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can be another user")
	}
	target, settings := origin(t)
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	door, management := filepath.Join(dir, "door"), filepath.Join(dir, "api")
	s := listening(t, fmt.Sprintf(`[{address: "unix:%s", mode: "0666"}, {address: "127.0.0.1:0"}]`, door), "--management", "unix:"+management,
		"--set", "management.mode=0666", "--policy", ownUser(t), "--data", write(t, filepath.Join(dir, "d.json"), settings))
	tcp, _ := s.wait(t, 1, "listening")["address"].(string)
	asNobody := func(args ...string) string {
		cmd := exec.Command(installed(t, "curl"), append([]string{"-sS", "--max-time", "20", "-w", "%{http_code}"}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH")}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	if out := asNobody("--unix-socket", management, "http://localhost/v1/policy"); !strings.HasSuffix(out, "401") {
		t.Errorf("management tells nobody %s", out)
	}
	for _, proxy := range []string{"localhost" + door, tcp} {
		if out := asNobody("-x", "socks5h://"+proxy, target); strings.Contains(out, "hello") {
			t.Errorf("%s lets nobody in: %s", proxy, out)
		}
		if out, code := curl(t, "-x", "socks5h://"+proxy, target); code != 0 {
			t.Errorf("%s: curl exits %d: %s", proxy, code, out)
		}
	}
}

// socat and ncat, through a unix socket.
func TestSocketTools(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	door := filepath.Join(dir, "door")
	target := serveEcho(t, "127.0.0.1:0")
	follow(t, program("run", "--listen", "unix:"+door, "--management", "127.0.0.1:0", "--data", settings(t, loopback, target.port), "--policy", ownUser(t),
		"--set", "state.path="+filepath.Join(dir, "state.db")))
	for name, args := range map[string][]string{
		"socat": {"-t", "20", "-", "UNIX-CONNECT:" + door},
		"ncat":  {"-U", door},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, installed(t, name), args...)
			cmd.Stdin = strings.NewReader(fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: a\r\n\r\nhello there", target.port))
			out, err := cmd.Output()
			if err != nil || !strings.Contains(string(out), " 200 ") || !strings.HasSuffix(string(out), "hello there") {
				t.Errorf("%v: %q", err, out)
			}
		})
	}
}
