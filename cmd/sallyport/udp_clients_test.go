package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Clients that nobody here has written.

// installed finds a program; in CI it has to be there.
func installed(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed", names[0])
	}
	t.Skipf("%s is not installed", names[0])
	return ""
}

// python finds one that has a module.
func python(t *testing.T, module string) string {
	t.Helper()
	for _, path := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(path, "-c", "import "+module).Run() == nil {
			return path
		}
	}
	return installed(t, "a Python with the module "+module)
}

// socksified runs a program whose network is dante's client library, which speaks
// socks_v4, socks_v5 or http_v1.0, as ann where that is followed by "username".
func socksified(t *testing.T, s *process, protocol, program string, args ...string) (string, error) {
	t.Helper()
	path := installed(t, "socksify")
	host, port, _ := net.SplitHostPort(s.addr)
	commands, transports := "bind connect udpassociate", "tcp udp"
	protocol, method, _ := strings.Cut(protocol, " ")
	switch protocol {
	case "socks_v4":
		commands, transports = "bind connect", "tcp"
	case "http_v1.0":
		commands, transports = "connect", "tcp"
	}
	config := write(t, filepath.Join(t.TempDir(), "socks.conf"), `route {
  from: 0.0.0.0/0 to: 0.0.0.0/0 via: `+host+` port = `+port+`
  proxyprotocol: `+protocol+`
  command: `+commands+`
  protocol: `+transports+`
  method: `+cmp.Or(method, "none")+`
}
`)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, path, append([]string{program}, args...)...)
	c.Env = append(os.Environ(), "SOCKS_CONF="+config, "SOCKS_AUTOADD_LANROUTES=no", "SOCKS_USERNAME=ann", "SOCKS_PASSWORD=right horse")
	out, err := c.CombinedOutput()
	return string(out), err
}

const ftpServer = `
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
users = DummyAuthorizer()
users.add_anonymous(sys.argv[1], perm="elr")
FTPHandler.authorizer = users
FTPHandler.permit_foreign_addresses = True
server = FTPServer(("127.0.0.2", 0), FTPHandler)
print(server.address[1], flush=True)
server.serve_forever()
`

// In active mode an FTP server connects to its client, who has a BIND for it.
func TestActiveFTP(t *testing.T) {
	t.Parallel()
	interpreter := python(t, "pyftpdlib")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const content = "by a connection from the server\n"
	write(t, filepath.Join(dir, "file.txt"), content)
	server := exec.Command(interpreter, "-c", ftpServer, dir)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	port = strings.TrimSpace(port)
	url := "ftp://127.0.0.2:" + port + "/file.txt"
	s := start(t, "--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), `package sallyport.route
default allow := false
allow if {
	input.request.command in {"connect", "bind"}
	input.target.host == "127.0.0.2"
}
`), "--policy", dialPolicy(t))
	got := filepath.Join(t.TempDir(), "got")
	ran := 0
	for name, args := range map[string][]string{
		"tnftp": {"-A", "-o", got, url},
		"curl":  {"-sS", "-o", got, "-P", "-", url},
		"lftp":  {"-c", "set ftp:passive-mode off; open ftp://127.0.0.2:" + port + "; get file.txt -o " + got},
	} {
		for _, protocol := range []string{"socks_v4", "socks_v5"} {
			t.Run(name+"/"+protocol, func(t *testing.T) {
				os.Remove(got)
				client := installed(t, name)
				installed(t, "socksify")
				ran++
				said, err := socksified(t, s, protocol, client, args...)
				if text, _ := os.ReadFile(got); err != nil || string(text) != content {
					t.Fatalf("%q: %v\n%s", text, err, said)
				}
			})
		}
	}
	commands := map[string]int{}
	for n := range 2 * ran {
		_, r := s.ended(t, n)
		if r["outcome"] != "ok" {
			t.Errorf("%v", r)
		}
		commands[fmt.Sprint(r["network.protocol.name"], " ", r["command"])]++
	}
	if half := ran / 2; commands["socks4 bind"] != half || commands["socks4 connect"] != half || commands["socks5 bind"] != half || commands["socks5 connect"] != half {
		t.Errorf("%v", commands)
	}
}

func TestClientsOfUDP(t *testing.T) {
	t.Parallel()
	names := serveNames(t, map[string][]string{"here.example.": {"192.0.2.5"}})
	target := servePackets(t, "127.0.0.1:0")
	host, port, _ := net.SplitHostPort(names.addr)
	s := openRelay(t, "--set", "dns.servers="+names.addr)
	t.Run("drill", func(t *testing.T) {
		got, err := socksified(t, s, "socks_v5", installed(t, "drill"), "-p", port, "here.example", "@"+host)
		if err != nil || !strings.Contains(got, "192.0.2.5") {
			t.Errorf("%v\n%s", err, got)
		}
	})
	t.Run("PySocks", func(t *testing.T) {
		_, door, _ := net.SplitHostPort(s.addr)
		_, port, _ := net.SplitHostPort(target.at)
		got, err := exec.Command(python(t, "socks"), "-c", `
import socket, socks, sys
s = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
s.set_proxy(socks.SOCKS5, "127.0.0.1", int(sys.argv[1]))
s.settimeout(20)
for n in range(3):
    s.sendto(b"hello %d" % n, ("127.0.0.1", int(sys.argv[2])))
    print(s.recvfrom(100))
`, door, port).CombinedOutput()
		want := "(b'hello 0', ('127.0.0.1', " + port + "))\n(b'hello 1', ('127.0.0.1', " + port + "))\n(b'hello 2', ('127.0.0.1', " + port + "))\n"
		if err != nil || string(got) != want {
			t.Errorf("%v\n%s", err, got)
		}
	})
}

func TestSocksify(t *testing.T) {
	t.Parallel()
	s, at, _ := openDoor(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %d\n", r.Method, r.URL, n)
	})
	big := write(t, filepath.Join(t.TempDir(), "big"), strings.Repeat("x", 1<<20))
	for name, args := range map[string][]string{
		"curl": {"-sS", "-T", big, "http://" + at + "/put", "--next", "-sS", "http://" + at + "/"},
		"wget": {"-q", "-O", "-", "--method=PUT", "--body-file=" + big, "http://" + at + "/put"},
	} {
		for _, protocol := range []string{"socks_v4", "socks_v5", "socks_v5 username", "http_v1.0"} {
			t.Run(name+"/"+protocol, func(t *testing.T) {
				s.forget("session")
				said, err := socksified(t, s, protocol, installed(t, name), args...)
				if err != nil || !strings.HasPrefix(said, "PUT /put 1048576\n") {
					t.Errorf("%v: %s", err, said)
				}
				known := map[bool]any{true: "ann"}[strings.HasSuffix(protocol, "username")]
				if r := s.wait(t, 0, "session"); r["outcome"] != "ok" || r["user.name"] != known && protocol != "socks_v4" || r["command"] != "connect" {
					t.Errorf("it is recorded as %v", r["raw"])
				}
			})
		}
	}
}
