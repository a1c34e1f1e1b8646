package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The test binary is the program, too, where this variable is set.
const asProgram = "TEST_AS_SALLYPORT"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run())
	}
	os.Exit(testAndCountRaces(m))
}

// testAndCountRaces runs the tests, and fails where the race detector has found
// something in any program that they started, whatever became of the program. Of
// itself the detector would also hold up the end of each by a second.
func testAndCountRaces(m *testing.M) int {
	dir, err := os.MkdirTemp("", "races")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Setenv("GORACE", "atexit_sleep_ms=0 log_path="+filepath.Join(dir, "race"))
	code := m.Run()
	reports, err := filepath.Glob(filepath.Join(dir, "*"))
	for _, report := range reports {
		text, _ := os.ReadFile(report)
		fmt.Fprintf(os.Stderr, "a race in a sallyport that the tests started:\n%s\n", text)
	}
	if err != nil || len(reports) > 0 {
		code = 1
	}
	return code
}

func program(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), asProgram+"=1")
	return c
}

// curl returns the body, the status and curl's exit code.
func curl(t *testing.T, args ...string) (string, int) {
	t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("curl is not installed")
		}
		t.Skip("curl is not installed")
	}
	c := exec.Command(path, append([]string{"-sS", "--max-time", "20"}, args...)...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	c.Env = append(os.Environ(), "NO_PROXY=", "no_proxy=")
	c.Run()
	return out.String(), c.ProcessState.ExitCode()
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// origin is a server on loopback, and settings that let the default policy
// reach it.
func origin(t *testing.T) (target, settings string) {
	t.Helper()
	o := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "hello %d", len(body))
	}))
	t.Cleanup(o.Close)
	u, err := url.Parse(o.URL)
	if err != nil {
		t.Fatal(err)
	}
	return o.URL, fmt.Sprintf(`{"settings": {"allow_ports": [%s], "allow_private": ["127.0.0.0/8"]}}`, u.Port())
}

func TestCurlThroughTheDoor(t *testing.T) {
	t.Parallel()
	target, settings := origin(t)
	dir := t.TempDir()
	hash, err := func() ([]byte, error) {
		c := program("user", "hash")
		c.Stdin = strings.NewReader("right horse\n")
		return c.Output()
	}()
	if err != nil {
		t.Fatal(err)
	}
	users := fmt.Sprintf(`{"users": {"alice": {"password": %q, "groups": ["dev"]}}}`, strings.TrimSpace(string(hash)))
	s := start(t, "--data", write(t, filepath.Join(dir, "settings.json"), settings),
		"--data", write(t, filepath.Join(dir, "users.json"), users))
	port := target[strings.LastIndex(target, ":")+1:]

	for _, c := range []struct {
		name, proxy, target string
		code                int
		want                string
	}{
		{"socks5", "socks5://", target, 0, "hello"},
		// A single label is in the hosts file, so that no name server is asked.
		{"socks5h by name", "socks5h://", "http://localhost:" + port, 0, "hello"},
		{"socks4", "socks4://", target, 0, "hello"},
		{"socks4a by name", "socks4a://somebody@", "http://localhost:" + port, 0, "hello"},
		{"denied port by socks4", "socks4://", "http://127.0.0.1:25", 97, ""},
		{"private address by socks4a", "socks4a://", "http://10.0.0.1:80", 97, ""},
		{"user", "socks5h://alice:right%20horse@", target, 0, "hello"},
		{"wrong password", "socks5h://alice:battery@", target, 97, ""},
		{"unknown user", "socks5h://bob:right%20horse@", target, 97, ""},
		{"denied port", "socks5h://", "http://127.0.0.1:25", 97, ""},
		{"private address", "socks5h://", "http://10.0.0.1:80", 97, ""},
	} {
		out, code := curl(t, "-x", c.proxy+s.addr, c.target)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: curl exits %d and prints %q", c.name, code, out)
		}
	}
	for _, c := range []struct {
		name   string
		args   []string
		status string
	}{
		{"connect", []string{"-x", "http://" + s.addr, target}, "200"},
		{"connect as a user", []string{"-x", "http://alice:right%20horse@" + s.addr, target}, "200"},
		{"wrong password", []string{"-x", "http://alice:battery@" + s.addr, target}, "407"},
		{"denied port", []string{"-x", "http://" + s.addr, "http://127.0.0.1:25"}, "403"},
		{"denied address", []string{"-x", "http://" + s.addr, "http://10.0.0.1"}, "403"},
		{"unknown user", []string{"-x", "http://bob:battery@" + s.addr, target}, "407"},
	} {
		out, _ := curl(t, append(c.args, "-p", "-o", os.DevNull, "-w", "%{http_connect}")...)
		if !strings.Contains(out, c.status) {
			t.Errorf("http %s: %q", c.name, out)
		}
	}
	raw := exchange(t, s.addr, "CONNECT 127.1:22 HTTP/1.1\r\nHost: a\r\n\r\n")
	if !strings.Contains(raw, " 403 ") || !strings.Contains(raw, "Proxy-Status: sallyport; error=http_request_denied") ||
		!strings.Contains(raw, `"decision_id":"`) {
		t.Errorf("a refusal reads %q", raw)
	}
	if raw := exchange(t, s.addr, "GET / HTTP/1.0\r\nHost: a\r\n\r\n"); !strings.Contains(raw, " 400 ") || !strings.Contains(raw, "this is a proxy") {
		t.Errorf("GET of a path is answered by %q", raw)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.log {
		if raw, _ := e["raw"].(string); strings.Contains(raw, "horse") || strings.Contains(raw, "battery") {
			t.Errorf("a password is in the log: %s", raw)
		}
	}
}

func TestSOCKS5Replies(t *testing.T) {
	t.Parallel()
	_, settings := origin(t)
	s := start(t, "--data", write(t, filepath.Join(t.TempDir(), "d.json"), strings.Replace(settings, "[", "[1, ", 1)))
	hello := "\x05\x01\x00"
	for _, c := range []struct{ name, send, want string }{
		{"no method", "\x05\x00", "\x05\xff"},
		{"a method that is not spoken", "\x05\x01\x01", "\x05\xff"},
		{"an unknown command", hello + "\x05\x09\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"bind, which the default policy denies", hello + "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"address type", hello + "\x05\x01\x00\x09", "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"denied by route", hello + "\x05\x01\x00\x01\x08\x08\x08\x08\x00\x19", "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"denied by dial", hello + "\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50", "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"refused", hello + "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x01", "\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"login failed", "\x05\x01\x02\x01\x01a\x01b" + hello, "\x05\x02\x01\x01"},
		{"another protocol", "\x16\x03\x01", ""},
	} {
		if got := exchange(t, s.addr, c.send); got != c.want {
			t.Errorf("%s: got % x, want % x", c.name, got, c.want)
		}
	}
}

func TestPolicyEditWhileATransferRuns(t *testing.T) {
	t.Parallel()
	target, settings := origin(t)
	dir := t.TempDir()
	policies := filepath.Join(dir, "policies")
	if err := os.Mkdir(policies, 0o700); err != nil {
		t.Fatal(err)
	}
	route := filepath.Join(policies, "route.rego")
	open := "package sallyport.route\n\ndefault allow := true\n"
	write(t, route, open)
	s := start(t, "--policy", policies, "--data", write(t, filepath.Join(dir, "settings.json"), settings))

	body, send := io.Pipe()
	proxy, _ := url.Parse("socks5h://" + s.addr)
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}}
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		response, err := client.Post(target, "text/plain", body)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		done <- result{string(text), err}
	}()
	chunk := make([]byte, 1<<20)
	send.Write(chunk)

	write(t, route, "package sallyport.route\n\ndefault allow := false\n\ndenny contains \"x\"\n")
	refused, _ := s.wait(t, 0, "policy refused; the active one stays")["error"].(string)
	if !strings.Contains(refused, "route.rego:5") || !strings.Contains(refused, "did you mean deny?") {
		t.Errorf("the broken edit is reported as %q", refused)
	}
	if out, code := curl(t, "-x", "socks5h://"+s.addr, target); code != 0 {
		t.Errorf("after a broken edit curl exits %d: %s", code, out)
	}
	// Nobody new; who is there is asked about again, and may go on.
	write(t, route, "package sallyport.route\n\ndefault allow := false\n\nallow if input.session.again\n")
	s.wait(t, 1, "policy active")
	if out, code := curl(t, "-x", "socks5h://"+s.addr, target); code != 97 {
		t.Errorf("after the edit curl exits %d: %s", code, out)
	}
	for range 63 {
		send.Write(chunk)
	}
	send.Close()
	if r := <-done; r.err != nil || r.text != fmt.Sprintf("hello %d", 64<<20) {
		t.Errorf("the transfer ended with %q, %v", r.text, r.err)
	}
	client.CloseIdleConnections()
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.wait(t, 0, "eof")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("after TERM: %v", err)
	}
}

// A broken edit that is undone leaves what was active all the time, and the log
// does not end with the refusal.
func TestABrokenEditIsUndone(t *testing.T) {
	t.Parallel()
	route := filepath.Join(t.TempDir(), "route.rego")
	const good = "package sallyport.route\n\ndefault allow := false\n"
	write(t, route, good)
	s := start(t, "--policy", route)
	active := s.wait(t, 0, "policy active")["policy.revision"]
	for range 2 {
		write(t, route, good+"\ndenny contains \"x\"\n")
		s.wait(t, 0, "policy refused; the active one stays")
		s.forget("policy refused; the active one stays")
		write(t, route, good)
		if again := s.wait(t, 0, "policy active again: what was refused is taken back"); again["policy.revision"] != active {
			t.Errorf("logged: %v", again["raw"])
		}
		s.forget("policy active again: what was refused is taken back")
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	policies := 0
	policy := func(text string) []string {
		policies++
		path := filepath.Join(dir, fmt.Sprintf("%d.rego", policies))
		return []string{"check", "--policy", write(t, path, text)}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"fly"}, "unknown command"},
		{[]string{"check", "--policy", filepath.Join(dir, "none")}, "no such file"},
		{[]string{"schema", "rout"}, "is no stage"},
		{policy("package sallyport.route\nallow if input.identity.nmae == \"a\""), "did you mean input.identity.name?"},
		{policy("package sallyport.admit\nallow if input.identity.name == \"a\""), "sallyport.admit has no input.identity"},
		{policy("package sallyport.route\nf(x) := x.target\nallow if f(input)"), "input is passed on as a whole"},
		{policy("package sallyport.admit\nallow := true\nlimits := {\"quota\": {\"bytes\": 1, \"per\": \"day\"}}"), "limits.quota is for authenticate, not for admit"},
		{policy("package sallyport.route\nallow := true\nvia := [{\"any\": [\"a\"], \"by\": \"latncy\"}]"), "did you mean latency?"},
		{policy("package sallyport.route\nallow := true\nresolve := \"remotely\""), "did you mean remote?"},
		{policy("package sallyport.rout\nallow := true"), "did you mean sallyport.route?"},
		{policy("package salyport.route\nallow := true"), "did you mean sallyport"},
		{policy("package sallyport.route\n_x := true"), "decides nothing"},
		{policy("package sallyport\nroute.denny := true"), "did you mean deny?"},
		{policy("package sallyport.route\nallow := true\ndeny[\"x\"] := true"), "deny has to be a set of strings"},
		{policy("package sallyport.route\nallow if http.send({}).x"), "http.send"},
		{policy("package sallyport.route\nallow if {"), ".rego:2"},
		{[]string{"check", "--data", write(t, filepath.Join(dir, "d.json"), `{"sallyport": {"route": {"allow": true}}}`)}, "would be read as a decision"},
		{policy("package sallyport.route\nallow := \"yes\""), "allow"},
		{policy("package sallyport.route\nallow := true\nsession_limits := {\"byts\": 1}"), "byts"},
		{policy("package sallyport.route\nallow if input.target.host in data.nowhere"), "data.nowhere"},
		{[]string{"run", "--config", write(t, filepath.Join(dir, "c.yaml"), "limits:\n  conections: 5\n")}, "c.yaml:2: limits.conections: unknown"},
		{[]string{"check", "--config", write(t, filepath.Join(dir, "probe.yaml"), "upstreams:\n  a:\n    url: http://192.0.2.1\n    probe: {interval: 5s}\n")}, "probe.yaml:4: upstreams.a.probe: wants an address"},
		{[]string{"check", "--config", write(t, filepath.Join(dir, "scheme.yaml"), "upstreams:\n  a: {url: \"sock5://me:hunter2@192.0.2.1\"}\n")}, "scheme.yaml:2: upstreams.a.url: want the scheme socks5, socks5h, socks4a, http or https; did you mean socks5?"},
		{[]string{"check", "--config", write(t, filepath.Join(dir, "ca.yaml"), "upstreams:\n  a:\n    url: https://192.0.2.1\n    tls: {ca: /none}\n")}, "ca.yaml:4: upstreams.a.tls.ca: /none cannot be read"},
		{[]string{"run", "--listen", "nowhere"}, "--listen"},
		{[]string{"check", "--data", write(t, filepath.Join(dir, "u.json"), `{"users": {"a": {"password": "secret"}}}`)}, "sallyport user hash"},
	} {
		cmd := program(c.args...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(string(out), c.want) || !strings.HasPrefix(string(out), "sallyport: ") {
			t.Errorf("%v: exits %d and prints %s", c.args, code, out)
		}
	}
}
