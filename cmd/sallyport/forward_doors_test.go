package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// forward_doors_test.go has requests of plain HTTP and SOCKS4 come by TLS and by
// unix sockets.

// over is a talk over any connection.
func over(t *testing.T, c net.Conn) (say func(string) *bufio.Reader) {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	return func(text string) *bufio.Reader {
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return r
	}
}

// answer reads one.
func answer(t *testing.T, r *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// Every protocol of the mixed port comes by TLS, and a certificate counts for each
// request. Inspect is asked about a tunnel and not about what was forwarded.
func TestForwardingOverTLS(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/socket":
			c, b, _ := http.NewResponseController(w).Hijack()
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(c, b)
		case "/broken":
			c, _, _ := http.NewResponseController(w).Hijack()
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
			c.Close()
		default:
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.Path, n)
		}
	})
	echo := serveEcho(t, "127.0.0.1:0")
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "route.rego"), `package sallyport.route

default allow := false

allow if {
	input.identity.name == "runner"
	input.identity.method == "certificate"
	input.source.certificate.subject.common_name == "runner"
	input.session.tls.version == "1.3"
	not input.request.headers["x-no"]
}

labels := {"as": input.session.protocol}
`)
	write(t, filepath.Join(dir, "inspect.rego"), `package sallyport.inspect

default allow := false

allow if input.flow.protocol == "ssh"
`)
	s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q, client_ca: %q}}]`, cert, key, ca.file),
		"--policy", dir, "--data", settings(t, loopback, port, echo.port))
	own, ownKey := ca.issue(t, "runner", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	pair, err := tls.LoadX509KeyPair(own, ownKey)
	if err != nil {
		t.Fatal(err)
	}
	open := func() net.Conn {
		return overTLS(t, s.addr, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost", Certificates: []tls.Certificate{pair}})
	}
	request := func(method, path, fields string) string {
		return method + " http://" + at + path + " HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n"
	}

	say := over(t, open())
	for i, c := range []struct {
		fields, body string
		status       int
		want         string
	}{
		{"", "", 200, "GET /a 0"},
		{"X-No: a\r\n", "", 403, ""},
		{"Content-Length: 100000\r\n", strings.Repeat("x", 100_000), 200, "POST /a 100000"},
		{"", "", 200, "GET /a 0"},
	} {
		method := "GET"
		if c.body != "" {
			method = "POST"
		}
		if res, body := answer(t, say(request(method, "/a", c.fields)+c.body), method); res.StatusCode != c.status || res.Close || !strings.Contains(body, c.want) {
			t.Errorf("%d is answered by %v %q", i, res, body)
		}
		if r := s.wait(t, i, "request"); r["user.name"] != "runner" {
			t.Errorf("%d is recorded as %v", i, r["raw"])
		}
	}
	// The tunnel behind them is inspected, and not let through.
	r := say(fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\nnothing known\r\n", echo.port))
	if head, err := r.ReadString('\n'); !strings.Contains(head, " 200 ") {
		t.Fatalf("CONNECT is answered by %q, %v", head, err)
	}
	if rest, _ := io.ReadAll(r); strings.Contains(string(rest), "nothing known") {
		t.Errorf("a tunnel that inspect denies has %q", rest)
	}
	if r := s.wait(t, 0, "session"); r["outcome"] != "denied" || r["decision.inspect"] == nil || r["requests"] != 4.0 {
		t.Errorf("it is recorded as %v", r["raw"])
	}

	// A WebSocket is not.
	say = over(t, open())
	r = say(request("GET", "/socket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"))
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("an upgrade is answered by %v, %v", res, err)
	}
	hears(t, say("nothing known"), "nothing known")

	// SOCKS4 by the same door, whose user id is not who it is.
	say = over(t, open())
	r = say(connect4("mallory", "127.0.0.1", echo.port) + "SSH-2.0-x\r\n")
	hears(t, r, granted4)
	io.CopyN(io.Discard, r, 6)
	hears(t, r, "SSH-2.0-x\r\n")

	// Nobody takes a part for the whole, of an answer that only the end ends.
	say = over(t, open())
	got, err := io.ReadAll(say("GET http://" + at + "/broken HTTP/1.0\r\n\r\n"))
	if !strings.HasSuffix(string(got), "\r\n\r\npart") || err == nil {
		t.Errorf("an answer that breaks off is %q, %v", got, err)
	}

	args := []string{"--proxy-cacert", ca.file, "--proxy-cert", own, "--proxy-key", ownKey, "-x", "https://" + s.addr}
	if out, code := curl(t, append(args, "http://"+at+"/one", "http://"+at+"/two")...); code != 0 || out != "GET /one 0GET /two 0" {
		t.Errorf("curl exits %d: %s", code, out)
	}
}

// A request that is not the first has a handshake's time of its own.
func TestLaterRequestsHaveTheirTime(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		io.WriteString(w, "ok")
	})
	s := start(t, "--data", settings(t, loopback, port), "--set", "limits.handshake=500ms")
	d := dialDoor(t, s.addr)
	d.say("GET http://" + at + "/slow HTTP/1.1\r\nHost: a\r\n\r\n")
	dialDoor(t, s.addr) // silent, and later: when its time is over that of the other is as well
	if r := s.wait(t, 0, "session"); r["outcome"] != "timeout" {
		t.Fatalf("%v", r["raw"])
	}
	close(release)
	for range 2 {
		res, err := http.ReadResponse(bufio.NewReader(d), nil)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%v, %v", res, err)
		}
		io.ReadAll(res.Body)
		// So long that it is read in several pieces.
		d.say("GET http://" + at + "/ HTTP/1.1\r\nHost: a\r\nX-Long: " + strings.Repeat("x", 10_000) + "\r\n\r\n")
	}
}

// By a unix socket each request knows its process.
func TestForwardingByUnixSocket(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s\n", r.Method, r.URL.Path) })
	echo := serveEcho(t, "127.0.0.1:0")
	dir := shortDir(t)
	door := filepath.Join(dir, "door")
	s := follow(t, program("run", "--listen", "unix:"+door, "--management", "127.0.0.1:0", "--data", settings(t, loopback, port, echo.port),
		"--policy", write(t, filepath.Join(dir, "route.rego"), fmt.Sprintf(`package sallyport.route

default allow := false

allow if {
	input.source.process.pid > 0
	input.source.process.uid == %d
	input.request.path != "/no"
}
`, os.Getuid())), "--policy", ownUser(t), "--set", "state.path="+filepath.Join(dir, "state.db")))
	dial := func() net.Conn {
		c, err := net.Dial("unix", door)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	say := over(t, dial())
	for path, status := range map[string]int{"/a": 200, "/no": 403, "/b": 200} {
		if res, body := answer(t, say("GET http://"+at+path+" HTTP/1.1\r\nHost: a\r\n\r\n"), "GET"); res.StatusCode != status || res.Close {
			t.Errorf("%s is answered by %v %q", path, res, body)
		}
	}
	say = over(t, dial())
	r := say(connect4("", "127.0.0.1", echo.port) + "early")
	hears(t, r, granted4)
	io.CopyN(io.Discard, r, 6)
	hears(t, r, "early")

	// curl sends what a proxy is sent where it is told to.
	args := []string{"--unix-socket", door, "--request-target", "http://" + at + "/curl", "http://localhost/"}
	if out, code := curl(t, args...); code != 0 || out != "GET /curl\n" {
		t.Errorf("curl exits %d: %s", code, out)
	}
	outcomes := map[string]int{}
	for i := range 4 {
		r := s.wait(t, i, "request")
		outcomes[fmt.Sprint(r["outcome"], " ", r["client.address"])]++
	}
	if !maps.Equal(outcomes, map[string]int{"ok <nil>": 3, "denied <nil>": 1}) {
		t.Errorf("the requests are %v", outcomes)
	}
}
