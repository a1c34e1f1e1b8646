package main

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// upstreams_test.go leads sessions through proxies that nobody here has written.

// outsider is a proxy of another make. A test fails where one ends that it has not
// killed.
type outsider struct {
	cmd    *exec.Cmd
	addr   string
	output string // the file that it writes to
	killed atomic.Bool
	ended  chan struct{} // closed when it has
}

// startOutsider runs a program that listens on a port that is free now, and waits
// until it does.
func startOutsider(t *testing.T, program string, arguments func(dir, port string) []string) *outsider {
	t.Helper()
	path := installed(t, program, "/usr/sbin/"+program)
	dir, port := t.TempDir(), freePort(t)
	o := &outsider{cmd: exec.Command(path, arguments(dir, port)...), addr: "127.0.0.1:" + port, output: filepath.Join(dir, "output")}
	o.cmd.Dir, o.cmd.SysProcAttr = dir, &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	t.Cleanup(func() {
		if t.Failed() {
			said, _ := os.ReadFile(o.output)
			t.Logf("%s on %s says:\n%s", program, o.addr, said)
		}
	})
	o.run(t)
	return o
}

// run starts the program, and returns when it listens.
func (o *outsider) run(t *testing.T) {
	t.Helper()
	output, err := os.OpenFile(o.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer output.Close()
	cmd, ended := o.cmd, make(chan struct{})
	cmd.Stdout, cmd.Stderr = output, output
	must(t, cmd.Start())
	o.ended = ended
	o.killed.Store(false)
	t.Cleanup(o.kill)
	go func() {
		defer close(ended)
		cmd.Wait()
		if !o.killed.Load() {
			t.Errorf("%s on %s ends by itself: %v", cmd.Path, o.addr, cmd.ProcessState)
		}
	}()
	again, late := time.NewTicker(10*time.Millisecond), time.After(20*time.Second)
	defer again.Stop()
	for {
		if c, err := net.Dial("tcp", o.addr); err == nil {
			c.Close()
			return
		}
		select {
		case <-again.C:
		case <-ended:
			t.FailNow() // with what was told of its end
		case <-late:
			t.Fatalf("%s does not listen on %s", cmd.Path, o.addr)
		}
	}
}

// again starts a program that was killed, on the port that it had.
func (o *outsider) again(t *testing.T) {
	t.Helper()
	cmd := exec.Command(o.cmd.Path, o.cmd.Args[1:]...)
	cmd.Dir, cmd.SysProcAttr = o.cmd.Dir, o.cmd.SysProcAttr
	o.cmd = cmd
	o.run(t)
}

func (o *outsider) kill() {
	if o.killed.CompareAndSwap(false, true) {
		syscall.Kill(-o.cmd.Process.Pid, syscall.SIGKILL)
	}
	<-o.ended
}

func startMicrosocks(t *testing.T, more ...string) *outsider {
	return startOutsider(t, "microsocks", func(_, port string) []string {
		return append([]string{"-i", "127.0.0.1", "-p", port}, more...)
	})
}

func startDante(t *testing.T) *outsider {
	users := "user.notprivileged: nobody"
	if os.Geteuid() == 0 {
		users = "user.privileged: root\nuser.unprivileged: nobody"
	}
	return startOutsider(t, "danted", func(dir, port string) []string {
		return []string{"-f", write(t, filepath.Join(dir, "danted.conf"), `errorlog: stderr
internal: 127.0.0.1 port = `+port+`
external: lo
clientmethod: none
socksmethod: none
`+users+`
client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
socks block { from: 0.0.0.0/0 to: 127.0.0.9/32 }
socks pass { from: 127.0.0.0/8 to: 127.0.0.0/8 command: connect udpassociate udpreply }
`), "-p", filepath.Join(dir, "danted.pid")}
	})
}

func startSquid(t *testing.T) *outsider {
	return startOutsider(t, "squid", func(dir, port string) []string {
		os.Chmod(dir, 0o777)
		t.Cleanup(func() { // what one that is killed leaves, by its name: two of one name disturb each other
			left, _ := filepath.Glob("/dev/shm/s" + port + "-*")
			for _, file := range left {
				os.Remove(file)
			}
		})
		return []string{"-N", "-d", "1", "-n", "s" + port, "-f", write(t, filepath.Join(dir, "squid.conf"), `http_port 127.0.0.1:`+port+`
http_access allow all
cache deny all
access_log none
cache_log `+dir+`/cache.log
pid_filename none
shutdown_lifetime 0 seconds
`)}
	})
}

func startTinyproxy(t *testing.T) *outsider {
	return startOutsider(t, "tinyproxy", func(dir, port string) []string {
		return []string{"-d", "-c", write(t, filepath.Join(dir, "tinyproxy.conf"), `Port `+port+`
Listen 127.0.0.1
BasicAuth alice horse
`)}
	})
}

// viaPolicy lets everything through by way of the upstreams that data.via names,
// and to loopback only.
const viaPolicy = `package sallyport.route

default allow := false

allow if input.request.command == "connect"

via := data.ways[input.target.host] if input.target.host in object.keys(data.ways)

else := data.ways["*"]

resolve := data.resolve
`

// startVia runs a proxy that knows upstreams.
func startVia(t *testing.T, config string, ways map[string]any, more ...string) *process {
	t.Helper()
	dir := t.TempDir()
	data, err := json.Marshal(map[string]any{"ways": ways})
	if err != nil {
		t.Fatal(err)
	}
	return start(t, append([]string{
		"--config", write(t, filepath.Join(dir, "sallyport.yaml"), config),
		"--policy", write(t, filepath.Join(dir, "route.rego"), viaPolicy), "--policy", dialPolicy(t),
		"--data", write(t, filepath.Join(dir, "data.json"), string(data)),
	}, more...)...)
}

// upstreamsFile is a configuration of upstreams by their URLs.
func upstreamsFile(urls map[string]string) string {
	text := "upstreams:\n"
	for name, url := range urls {
		text += fmt.Sprintf("  %s: {url: %q}\n", name, url)
	}
	return text
}

func TestChainsOfOthers(t *testing.T) {
	t.Parallel()
	micro, open, dante := startMicrosocks(t, "-u", "alice", "-P", "horse"), startMicrosocks(t), startDante(t)
	squid, tiny := startSquid(t), startTinyproxy(t)
	target := serveEcho(t, "0.0.0.0:0")
	secured := terminate(t, squid.addr)
	config := upstreamsFile(map[string]string{
		"micro": "socks5h://alice:horse@" + micro.addr, "open": "socks5://" + open.addr, "dante": "socks5://" + dante.addr,
		"dante4": "socks4a://" + dante.addr, "squid": "http://" + squid.addr, "tiny": "http://alice:horse@" + tiny.addr,
	}) + fmt.Sprintf("  secured:\n    url: \"https://%s\"\n    tls: {ca: %q, server_name: example.com}\n", secured.addr, secured.ca)
	chains := [][]string{
		{"micro"}, {"open"}, {"dante"}, {"dante4"}, {"squid"}, {"tiny"}, {"secured"},
		{"micro", "squid"}, {"squid", "micro"}, {"tiny", "dante", "micro"},
		{"dante4", "secured", "open"}, {"secured", "dante4", "tiny"},
		{"micro", "dante", "squid", "tiny", "open", "dante4", "secured"},
	}
	ways := map[string]any{}
	for i, chain := range chains {
		ways[fmt.Sprintf("127.0.1.%d", i+1)] = chain
	}
	s := startVia(t, config, ways)
	s.tellIfFailed(t)
	for i, chain := range chains {
		host := fmt.Sprintf("127.0.1.%d", i+1)
		c := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo(host, target.port)).hear("\x05\x00\x00")
		io.ReadFull(c, make([]byte, 7))
		c.say("early").hear("early").CloseWrite()
		if rest, err := c.rest(); rest != "" || err != nil {
			t.Errorf("%v: a half-close is followed by %q, %v", chain, rest, err)
		}
		r := s.sessionOf(t, host)
		if got := fmt.Sprint(r["via"]); r["outcome"] != "ok" || got != fmt.Sprint(chain) {
			t.Errorf("%v: the record says %v", chain, r)
		}
	}
	if s.says("horse") {
		t.Error("a password is in the log")
	}
}

// secured is a TLS server before another one.
type secured struct{ addr, ca string }

func terminate(t *testing.T, behind string) *secured {
	t.Helper()
	borrowed := httptest.NewUnstartedServer(nil)
	borrowed.StartTLS()
	t.Cleanup(borrowed.Close)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: borrowed.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				to, err := net.Dial("tcp", behind)
				if err != nil {
					return
				}
				defer to.Close()
				go func() {
					io.Copy(to, c)
					to.(*net.TCPConn).CloseWrite()
				}()
				io.Copy(c, to)
			}()
		}
	})
	ca := write(t, filepath.Join(t.TempDir(), "ca.pem"), pemOf(borrowed.Certificate().Raw))
	return &secured{l.Addr().String(), ca}
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// A request of plain HTTP goes through a tunnel, which the next one may use again.
func TestForwardThroughUpstreams(t *testing.T) {
	t.Parallel()
	micro, squid := startMicrosocks(t), startSquid(t)
	came := make(chan string, 10)
	o := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		came <- r.RemoteAddr
		fmt.Fprintf(w, "%v", r.Header)
	}))
	t.Cleanup(o.Close)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "route.rego"), "package sallyport.route\n\nallow := true\n\nvia := [\"micro\", \"squid\"]\n")
	s := start(t, "--policy", dir, "--policy", dialPolicy(t), "--config", write(t, filepath.Join(t.TempDir(), "c.yaml"), upstreamsFile(map[string]string{
		"micro": "socks5://" + micro.addr, "squid": "http://u:hunter2@" + squid.addr,
	})))
	out, code := curl(t, "-x", "http://"+s.addr, o.URL+"/a", o.URL+"/b")
	if code != 0 || strings.Contains(out, "hunter") || strings.Contains(out, "Proxy-Auth") {
		t.Errorf("curl exits %d and prints %s", code, out)
	}
	if first, second := <-came, <-came; first != second {
		t.Errorf("the second request comes from %s, the first from %s", second, first)
	}
	for i := range 2 {
		if r := s.wait(t, i, "request"); fmt.Sprint(r["via"]) != "[micro squid]" {
			t.Errorf("the record says %v", r)
		}
	}
	squid.kill()
	answer := exchange(t, s.addr, "GET "+o.URL+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 502 ") || !strings.Contains(answer, "error=connection_refused") {
		t.Errorf("without the second upstream the answer is %q", answer)
	}
}
