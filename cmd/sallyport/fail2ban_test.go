package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const fail2ban = "../../deploy/fail2ban"

// matched is the addresses that the shipped filter finds in a log, in its order.
func matched(t *testing.T, log, mode string) []string {
	t.Helper()
	filter, err := filepath.Abs(filepath.Join(fail2ban, "filter.d/sallyport.conf"))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("fail2ban-regex", "--out", "ip", log, filter+"[mode="+mode+"]")
	c.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := c.Output()
	if err != nil && len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.Fields(string(out))
}

// The filter finds who has failed to log in and who was denied in lines that the
// program has written, in both of its formats, and nobody can write another's.
func TestFail2banFilter(t *testing.T) {
	need(t, "fail2ban-regex")
	// Names that would be lines or parts of lines. Their passwords are right.
	hostile := []string{
		`x","client.address":"9.9.9.9","client.port":1,"authentication.failed":true,"`,
		`x" client.address=9.9.9.9 client.port=1 authentication.failed=true outcome=denied cause="route denies" `,
		`x\" client.address=9.9.9.9 client.port=1 authentication.failed=true `,
		"x\n" + `time=2026-11-28T14:43:02.140Z level=INFO msg=session session.id=1 listener=main client.address=9.9.9.9 client.port=1 authentication.failed=true `,
		"x\n" + `{"time":"2026-11-28T14:42:59.1Z","level":"INFO","msg":"session","session.id":"1","listener":"main","client.address":"9.9.9.9","client.port":1,"authentication.failed":true,"":"`,
		"x\r" + `,"level":"INFO","msg":"session","session.id":"1","listener":"main","client.address":"9.9.9.9","client.port":1,"authentication.failed":true,"`,
		"\u2028\u0085level=INFO msg=session session.id=1 listener=main client.address=9.9.9.9 client.port=1 authentication.failed=true ",
	}
	passwords := map[string]string{"ann": "right"}
	for _, name := range hostile {
		passwords[name] = "right"
	}
	e := serveEcho(t, "127.0.0.1:0")
	data, users := settings(t, loopback, e.port), usersFile(t, passwords)
	policy := write(t, filepath.Join(t.TempDir(), "authenticate.rego"), `package sallyport.authenticate

default allow := false

allow if input.credentials.verified
`)
	for _, format := range []string{"json", "text"} {
		t.Run(format, func(t *testing.T) {
			cmd := program("run", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0", "--set", "log.format="+format,
				"--set", "state.path="+filepath.Join(t.TempDir(), "state.db"), "--data", data, "--data", users, "--policy", policy)
			stderr, err := cmd.StderrPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
			var log strings.Builder
			addr, lines := "", bufio.NewScanner(stderr)
			for addr == "" && lines.Scan() {
				log.WriteString(lines.Text() + "\n")
				if _, after, ok := strings.Cut(lines.Text(), "listening"); ok {
					addr = after[strings.LastIndex(after, "127.0.0.1:"):]
					addr = strings.TrimRight(addr, `"}`)
				}
			}
			var failed, denied []string
			say := func(from, text, want string) {
				t.Helper()
				if got, _ := dialFrom(t, from, addr).say(text).rest(); !strings.HasPrefix(got, want) {
					t.Errorf("%s: %q, want %q", from, got, want)
				}
			}
			http := "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n"
			say("127.0.7.1", "\x05\x01\x02"+login("ann", "wrong"), "\x05\x02\x01\x01")
			say("127.0.7.2", http+"Proxy-Authorization: Basic YW5uOndyb25n\r\n\r\n", "HTTP/1.1 407 ")
			say("127.0.7.3", http+"\r\n", "HTTP/1.1 407 ") // as browsers begin
			say("127.0.7.3", greeting, "\x05\xff")
			failed = append(failed, "127.0.7.1", "127.0.7.2")
			for i, name := range hostile {
				if len(name) > 255 {
					t.Fatalf("%d: a name of SOCKS5 has 255 bytes", i)
				}
				from := fmt.Sprintf("127.0.8.%d", i+1)
				say(from, "\x05\x01\x02"+login(name, "wrong"), "\x05\x02\x01\x01")
				failed = append(failed, from)
				from = fmt.Sprintf("127.0.9.%d", i+1)
				say(from, "\x05\x01\x02"+login(name, "right")+connectTo("127.0.0.1", 1), "\x05\x02\x01\x00"+replied(2))
				denied = append(denied, from)
			}
			cmd.Process.Signal(syscall.SIGTERM)
			for lines.Scan() {
				log.WriteString(lines.Text() + "\n")
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			file := write(t, filepath.Join(t.TempDir(), "sallyport.log"), log.String())
			for mode, want := range map[string][]string{"login": failed, "denied": denied, "all": slices.Concat(failed, denied)} {
				got := matched(t, file, mode)
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("%s: %v\nwant %v\n%s", mode, got, want, log.String())
				}
			}
		})
	}
}

// A fail2ban that runs bans who fails to log in, through the proxy's API, and
// lifts it.
func TestFail2ban(t *testing.T) {
	need(t, "fail2ban-server", "fail2ban-client")
	e := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, e.port), "--data", usersFile(t, map[string]string{"ann": "right"}))
	at := strings.TrimPrefix(s.api(t), "http://")
	dir := t.TempDir()
	log := write(t, filepath.Join(dir, "sallyport.log"), "")
	etc := filepath.Join(dir, "etc")
	if err := os.CopyFS(etc, os.DirFS(fail2ban)); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(etc, "fail2ban.conf"), "[Definition]\nloglevel = INFO\nlogtarget = STDOUT\nsyslogsocket = auto\ndbfile = "+filepath.Join(dir, "db")+"\ndbpurgeage = 1d\n")
	write(t, filepath.Join(etc, "jail.conf"), "[DEFAULT]\nbackend = polling\nusedns = no\n")
	write(t, filepath.Join(etc, "jail.local"), fmt.Sprintf("[sallyport]\nlogpath = %s\nignoreself = false\naction = sallyport[sallyport=\"%s\", management=\"%s\", tokenfile=\"%s\"]\n",
		log, self, at, s.wait(t, 0, "management token")["file"]))
	socket := filepath.Join(dir, "socket")
	server := exec.Command("fail2ban-server", "-c", etc, "-s", socket, "-p", filepath.Join(dir, "pid"), "-xf", "start")
	server.Env = append(os.Environ(), asProgram+"=1")
	out, err := server.StdoutPipe()
	if err == nil {
		server.Stderr = server.Stdout
		err = server.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	said := bufio.NewScanner(out)
	until := func(what string) {
		t.Helper()
		var all []string
		for said.Scan() {
			all = append(all, said.Text())
			if strings.Contains(said.Text(), what) {
				return
			}
		}
		t.Fatalf("fail2ban does not say %q:\n%s", what, strings.Join(all, "\n"))
	}
	until("Jail 'sallyport' started")

	wrong := "\x05\x01\x02" + login("ann", "wrong")
	right := "\x05\x01\x02" + login("ann", "right") + connectTo("127.0.0.1", e.port)
	granted := "\x05\x02\x01\x00\x05\x00\x00\x01"
	file, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for i := range 5 {
		dialFrom(t, "127.0.7.7", s.addr).say(wrong).hear("\x05\x02\x01\x01")
		fmt.Fprintln(file, s.wait(t, i, "session")["raw"])
	}
	until("[sallyport] Ban 127.0.7.7")
	s.wait(t, 0, "management call")
	b := s.banOf(t, "127.0.7.7")
	if b.Cause != "the management API, token generated: fail2ban, jail sallyport" || b.Until == nil || b.Until.Sub(b.Since).Round(1e9).String() != "1h1m0s" {
		t.Errorf("%+v", b)
	}
	if got, _ := dialFrom(t, "127.0.7.7", s.addr).say(right).rest(); got != "\x05\xff" {
		t.Errorf("who is banned: %q", got)
	}
	dialFrom(t, "127.0.7.8", s.addr).say(right).hear(granted)

	for range 2 { // the second time it is not there any longer
		lift := exec.Command("fail2ban-client", "-c", etc, "-s", socket, "set", "sallyport", "unbanip", "127.0.7.7")
		if text, err := lift.CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, text)
		}
	}
	dialFrom(t, "127.0.7.7", s.addr).say(right).hear(granted)
	if text, err := exec.Command("fail2ban-client", "-c", etc, "-s", socket, "stop").CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, text)
	}
	for said.Scan() {
		if strings.Contains(said.Text(), "ERROR") {
			t.Error(said.Text())
		}
	}
}

// banOf is a ban as the command shows it.
func (s *process) banOf(t *testing.T, who string) banned {
	t.Helper()
	c := program("ban", "export", "--management", strings.TrimPrefix(s.api(t), "http://"), "--token-file", s.wait(t, 0, "management token")["file"].(string))
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, `"of":"`+who) {
			var b banned
			if err := json.Unmarshal([]byte(line), &b); err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("there is no ban of %s in %s", who, out)
	return banned{}
}
