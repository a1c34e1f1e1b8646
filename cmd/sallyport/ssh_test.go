package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ssh_test.go has OpenSSH on both ends, and between them those programs that its
// users have for a ProxyCommand.

// sshHost is a server of OpenSSH on loopback that lets in who runs this test.
type sshHost struct {
	user string
	port uint16
	args []string // of a client that knows the server, and is known to it
}

func serveSSH(t *testing.T) *sshHost {
	t.Helper()
	sshd := installed(t, "/usr/sbin/sshd") // which wants to be called by its whole path
	keygen := installed(t, "ssh-keygen")
	if os.Getuid() == 0 {
		if _, err := os.Stat("/run/sshd"); err != nil && os.Getenv("CI") == "" {
			t.Skip("sshd does not run as root without the folder /run/sshd, which its service makes")
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	public := map[string]string{}
	for _, name := range []string{"host", "own"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", file(name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		text, err := os.ReadFile(file(name + ".pub"))
		if err != nil {
			t.Fatal(err)
		}
		public[name] = string(text)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := &sshHost{user: me.Username, port: l.Addr().(*net.TCPAddr).AddrPort().Port()}
	write(t, file("authorized"), public["own"])
	write(t, file("known"), "* "+public["host"])
	write(t, file("sshd_config"), fmt.Sprintf(`HostKey %s
AuthorizedKeysFile %s
AuthenticationMethods publickey
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
PrintMotd no
Subsystem sftp internal-sftp
`, file("host"), file("authorized")))
	h.args = []string{"-F", "none", "-i", file("own"), "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + file("known"),
		"-o", "GlobalKnownHostsFile=none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30"}

	// One server for each connection, as inetd has it, so that no port is to be found
	// out and no parent to be ended.
	serving, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	inherited, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	accepting, err := net.FileListener(inherited)
	inherited.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(done)
		for {
			c, err := accepting.Accept()
			if err != nil {
				return
			}
			socket, err := c.(*net.TCPConn).File()
			c.Close()
			if err != nil {
				return
			}
			cmd := exec.CommandContext(serving, sshd, "-i", "-e", "-f", file("sshd_config"))
			cmd.Stdin, cmd.Stdout = socket, socket
			if err := cmd.Start(); err == nil {
				go cmd.Wait()
			}
			socket.Close()
		}
	}()
	t.Cleanup(func() { accepting.Close(); <-done; stop() })
	return h
}

// proxyCommands are how ssh's users go through a proxy, which listens at ADDR, on
// PORT. Where connect-proxy has no password it must be told not to offer one.
var proxyCommands = map[string]struct{ program, args string }{
	"nc by SOCKS4":             {"nc.openbsd", "-X 4 -x ADDR 127.0.0.1 %p"},
	"nc by SOCKS5":             {"nc.openbsd", "-X 5 -x ADDR %h %p"},
	"nc by CONNECT":            {"nc.openbsd", "-X connect -x ADDR %h %p"},
	"nc that passes it on":     {"nc.openbsd", "-F -X 5 -x ADDR %h %p"},
	"ncat by SOCKS5":           {"ncat", "--proxy ADDR --proxy-type socks5 --proxy-dns remote %h %p"},
	"ncat by CONNECT":          {"ncat", "--proxy ADDR --proxy-type http --proxy-auth ann:horse %h %p"}, // waits to be asked for it
	"socat by SOCKS4A":         {"socat", "STDIO SOCKS4A:127.0.0.1:%h:%p,socksport=PORT"},
	"socat by CONNECT as ann":  {"socat", "STDIO PROXY:127.0.0.1:%h:%p,proxyport=PORT,proxyauth=ann:horse"},
	"connect by SOCKS4":        {"connect-proxy", "-4 -R remote -S ADDR %h %p"},
	"connect by SOCKS5":        {"connect-proxy", "-a none -R remote -S ADDR %h %p"},
	"connect by SOCKS5 as ann": {"connect-proxy", "-a userpass -R remote -S ann@ADDR %h %p"},
	"connect by CONNECT":       {"connect-proxy", "-H ADDR %h %p"},
}

// inspectSSH lets nothing but ssh through, whose clients speak without waiting.
const inspectSSH = `package sallyport.inspect

default allow := false

allow if input.flow.protocol == "ssh"
`

func TestSSH(t *testing.T) {
	t.Parallel()
	h := serveSSH(t)
	s := start(t, "--data", settings(t, loopback, h.port), "--data", usersFile(t, map[string]string{"ann": "horse"}),
		"--policy", write(t, filepath.Join(t.TempDir(), "inspect.rego"), inspectSSH))
	ssh := installed(t, "ssh")
	_, port, _ := net.SplitHostPort(s.addr)
	big := bytes.Repeat([]byte("some text to be sent back\n"), 10_000)
	sessions := 0
	for name, command := range proxyCommands {
		t.Run(name, func(t *testing.T) {
			proxy := installed(t, command.program) + " " + strings.NewReplacer("ADDR", s.addr, "PORT", port).Replace(command.args)
			args := append(h.args, "-p", fmt.Sprint(h.port), "-l", h.user, "-o", "ProxyCommand="+proxy)
			if strings.HasPrefix(command.args, "-F") {
				args = append(args, "-o", "ProxyUseFdpass=yes")
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c := exec.CommandContext(ctx, ssh, append(args, "localhost", "cat; exit 7")...)
			c.Env = append(os.Environ(), "SOCKS5_PASSWORD=horse") // is connect-proxy's
			var out, said bytes.Buffer
			c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(big), &out, &said
			c.Run()
			if c.ProcessState.ExitCode() != 7 || !bytes.Equal(out.Bytes(), big) {
				t.Fatalf("ssh exits %d with %d bytes of %d: %s", c.ProcessState.ExitCode(), out.Len(), len(big), &said)
			}
			sessions++
			r := s.wait(t, sessions-1, "session")
			if r["outcome"] != "ok" || r["decision.inspect"] == nil || (r["user.name"] == "ann") != strings.HasSuffix(name, "as ann") || r["bytes.up"].(float64) < float64(len(big)) {
				t.Errorf("it is recorded as %v", r["raw"])
			}
		})
	}
}

func TestGitOverSSH(t *testing.T) {
	t.Parallel()
	h := serveSSH(t)
	root := t.TempDir()
	git := func(environment []string, args ...string) {
		t.Helper()
		args = append([]string{"-C", root, "-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "init.defaultBranch=main"}, args...)
		if out, err := client(t, "", environment, "git", args...); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git(nil, "init", "-q", "--bare", "made.git")
	git(nil, "clone", "-q", "made.git", "first")
	s := start(t, "--data", settings(t, loopback, h.port))
	by := []string{"GIT_SSH_COMMAND=" + installed(t, "ssh") + " " + strings.Join(h.args, " ") +
		" -o 'ProxyCommand=" + installed(t, "nc.openbsd") + " -X 5 -x " + s.addr + " %h %p'"}
	url := fmt.Sprintf("ssh://%s@localhost:%d%s", h.user, h.port, filepath.Join(root, "made.git"))
	write(t, filepath.Join(root, "first", "file"), strings.Repeat("some text\n", 10_000))
	git(nil, "-C", "first", "add", "file")
	git(nil, "-C", "first", "commit", "-q", "-m", "First")
	git(by, "-C", "first", "push", "-q", url, "main")
	git(by, "clone", "-q", url, "second")
	if text, err := os.ReadFile(filepath.Join(root, "second", "file")); err != nil || len(text) != 100_000 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	for i := range 2 {
		if r := s.wait(t, i, "session"); r["outcome"] != "ok" || r["server.address"] != "localhost" {
			t.Errorf("%v", r["raw"])
		}
	}
}
