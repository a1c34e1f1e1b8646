package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// clients_test.go has clients of others come through the door, each in every way
// that it knows. Where one is not installed its test is skipped, but not in CI.

// client runs somebody else's program, and returns what it prints.
func client(t *testing.T, input string, environment []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, installed(t, name), args...)
	c.Env = append(os.Environ(), append(environment, "NO_PROXY=", "no_proxy=")...)
	c.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.String(), err
}

// script runs one of Python, which uses a module.
func script(t *testing.T, module, text string, args ...string) string {
	t.Helper()
	out, err := client(t, "", nil, python(t, module), append([]string{"-c", text}, args...)...)
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return out
}

// openDoor is a running proxy with an origin server behind it, and a user, ann.
func openDoor(t *testing.T, handle http.HandlerFunc) (s *process, at, port string) {
	t.Helper()
	at, n := webOrigin(t, handle)
	s = start(t, "--data", settings(t, loopback, n), "--data", usersFile(t, map[string]string{"ann": "right horse"}))
	return s, at, fmt.Sprint(n)
}

// ways are how often each of the first n sessions came by which protocol, how it
// ended, and where it went.
func (s *process) ways(t *testing.T, n int) map[string]int {
	t.Helper()
	ways := map[string]int{}
	for i := range n {
		r := s.wait(t, i, "session")
		ways[fmt.Sprint(r["network.protocol.name"], " ", r["outcome"], " ", r["server.address"])]++
	}
	return ways
}

func TestCurlByEveryScheme(t *testing.T) {
	t.Parallel()
	s, at, port := openDoor(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d\n", r.Method, r.URL, len(body))
	})
	named := "http://localhost:" + port // a single label is in the hosts file
	big := write(t, filepath.Join(t.TempDir(), "big"), strings.Repeat("x", 1<<20))
	sessions := 0
	for _, proxy := range []string{"socks4://", "socks4a://", "socks5://", "socks5h://", "http://", "socks5h://ann:right%20horse@", "http://ann:right%20horse@"} {
		for _, way := range [][]string{nil, {"-p"}} {
			sessions++
			args := append(way, "-x", proxy+s.addr, named+"/a?b=c", named+"/d")
			if out, code := curl(t, args...); code != 0 || out != "GET /a?b=c 0\nGET /d 0\n" {
				t.Errorf("%v: curl exits %d and prints %q", args, code, out)
			}
		}
		sessions += 4
		for _, c := range []struct {
			args []string
			want string
		}{
			{[]string{"-d", "hello", named + "/post"}, "POST /post 5\n"},
			{[]string{"-T", big, named + "/put"}, "PUT /put 1048576\n"}, // waits for 100 (Continue)
			{[]string{"-H", "Transfer-Encoding: chunked", "--data-binary", "@" + big, named + "/chunked"}, "POST /chunked 1048576\n"},
			{[]string{"--http1.0", "-I", "-o", os.DevNull, "-w", "%{http_code} %header{content-length}\n", named + "/"}, "200 9\n"},
		} {
			if out, code := curl(t, append([]string{"-x", proxy + s.addr}, c.args...)...); code != 0 || out != c.want {
				t.Errorf("%s %v: curl exits %d and prints %q", proxy, c.args, code, out)
			}
		}
	}
	want := map[string]int{ // without the a or the h, curl looks the name up itself
		"socks4 ok 127.0.0.1": 6, "socks4 ok localhost": 6, "socks5 ok 127.0.0.1": 6, "socks5 ok localhost": 12, "http ok localhost": 12,
	}
	if ways := s.ways(t, sessions); !maps.Equal(ways, want) {
		t.Errorf("the sessions are %v, want %v", ways, want)
	}
	// One connection serves requests to several hosts, refused ones as well.
	out, code := curl(t, "-x", "http://"+s.addr, "-w", "%{stderr}%{http_code} %{num_connects}\n",
		"-o", os.DevNull, named+"/", "-o", os.DevNull, "http://"+at+"/", "-o", os.DevNull, "http://127.0.0.1:25/", "-o", os.DevNull, named+"/")
	if code != 0 || out != "200 1\n200 0\n403 0\n200 0\n" {
		t.Errorf("curl exits %d and prints %q", code, out)
	}
	if out, _ := curl(t, "-x", "http://ann:battery@"+s.addr, "-o", os.DevNull, "-w", "%{http_code}", named); out != "407" {
		t.Errorf("with a wrong password curl prints %q", out)
	}
	if out, code := curl(t, "-x", "http://"+s.addr, "--proxy-anyauth", "-U", "ann:right horse", named+"/any"); code != 0 || out != "GET /any 0\n" {
		t.Errorf("with any authentication curl exits %d and prints %q", code, out)
	}
}

func TestPySocks(t *testing.T) {
	t.Parallel()
	s, at, port := openDoor(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	host, proxyPort, _ := strings.Cut(s.addr, ":")
	out := script(t, "socks", `
import socks, sys
proxy, port, target = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for kind in (socks.SOCKS4, socks.SOCKS5, socks.HTTP):
    for rdns in (True, False):
        for user, password in ((None, None), ("ann", "right horse")):
            s = socks.socksocket()
            s.settimeout(20)
            s.set_proxy(kind, proxy, port, rdns, user, password)
            try:
                s.connect(("localhost" if rdns else "127.0.0.1", target))
            except socks.ProxyError as e:
                print(kind, rdns, user, e)
                continue
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while part := s.recv(4096):
                answer += part
            print(kind, rdns, user, answer[-5:].decode())
            s.close()
`, host, proxyPort, port)
	want := ""
	for kind := 1; kind <= 3; kind++ {
		for _, rdns := range []string{"True", "False"} {
			want += fmt.Sprintf("%d %s None hello\n%d %s ann hello\n", kind, rdns, kind, rdns)
		}
	}
	if out != want {
		t.Errorf("PySocks prints\n%s\nwant\n%s", out, want)
	}
	_ = at
	names := map[any]int{}
	for i := range 12 {
		names[s.wait(t, i, "session")["user.name"]]++
	}
	if names["ann"] != 5 && names["ann"] != 6 { // PySocks sends no credentials to HTTP proxies in some releases
		t.Errorf("the sessions are of %v", names)
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	s, at, port := openDoor(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		http.SetCookie(w, &http.Cookie{Name: "n", Value: "v"})
		fmt.Fprintf(w, "%s %s %d %s", r.Method, r.URL, len(body), r.Header.Get("Cookie"))
	})
	out := script(t, "requests", `
import requests, sys
proxy, at, port = sys.argv[1:]
for scheme in ("http://", "http://ann:right%20horse@", "socks5://", "socks5h://", "socks4a://"):
    s = requests.Session()
    s.trust_env = False
    s.proxies = {"http": scheme + proxy}
    print(s.get("http://" + at + "/a", params={"q": "1"}).text)
    print(s.post("http://localhost:" + port + "/b", data=iter([b"he", b"llo"])).text)
    print(s.get("http://" + at + "/c").text)
    if scheme.startswith("http"):
        r = s.get("http://127.0.0.1:25/")
        print(r.status_code, r.headers["Proxy-Status"], "decision_id" in r.json())
print(requests.get("http://" + at + "/a", proxies={"http": "http://ann:battery@" + proxy}).status_code)
`, s.addr, at, port)
	one := "GET /a?q=1 0 \nPOST /b 5 \nGET /c 0 n=v\n"
	denied := "403 sallyport; error=http_request_denied True\n"
	if want := one + denied + one + denied + one + one + one + "407\n"; out != want {
		t.Errorf("requests prints\n%s\nwant\n%s", out, want)
	}
}

// The standard library's client, and the environment that it reads.
func TestUrllib(t *testing.T) {
	t.Parallel()
	_, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Method, r.URL, len(body))
	})
	names := serveNames(t, map[string][]string{"here.example.": {"127.0.0.1"}})
	s := start(t, "--data", settings(t, loopback, port), "--data", usersFile(t, map[string]string{"ann": "right horse"}), "--set", "dns.servers="+names.addr)
	for proxy, want := range map[string]string{
		"http://": "GET /a?b=c 0\nPOST /d 100000\n403\n", "http://ann:right%20horse@": "GET /a?b=c 0\nPOST /d 100000\n403\n", "http://ann:cow@": "407\n",
	} {
		out, err := client(t, "", []string{"http_proxy=" + proxy + s.addr}, python(t, "urllib.request"), "-c", `
import sys, urllib.error, urllib.request
try:
    for path, data in (("/a?b=c", None), ("/d", b"x" * 100000)):
        print(urllib.request.urlopen("http://here.example:" + sys.argv[1] + path, data, 20).read().decode())
    urllib.request.urlopen("http://here.example:25/", None, 20)
except urllib.error.HTTPError as e:
    print(e.code)
`, fmt.Sprint(port))
		if err != nil || out != want {
			t.Errorf("by %s urllib prints %q, %v", proxy, out, err)
		}
	}
}

func TestPythonWebSocket(t *testing.T) {
	t.Parallel()
	s, at, _ := openDoor(t, serveWebSocket)
	host, port, _ := strings.Cut(s.addr, ":")
	out := script(t, "socks, websocket", `
import sys, socks, websocket
at, host, port = sys.argv[1:]
def tunnels():
    yield dict(http_proxy_host=host, http_proxy_port=port, proxy_type="http", http_no_proxy=["none"])
    for kind in (socks.SOCKS4, socks.SOCKS5):
        target, _, number = at.partition(":")
        yield dict(socket=socks.create_connection((target, int(number)), 20, None, kind, host, int(port)))
for way in tunnels():
    ws = websocket.create_connection("ws://" + at + "/", timeout=20, **way)
    ws.send("hello")
    print(ws.recv())
    ws.close()
`, at, host, port)
	if out != "hello\nhello\nhello\n" {
		t.Errorf("it prints %q", out)
	}
}

// serveWebSocket sends back one short text (RFC 6455), and hangs up.
func serveWebSocket(w http.ResponseWriter, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	c, b, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	head := make([]byte, 6)
	if _, err := io.ReadFull(b, head); err != nil || head[1]&0x7f > 125 {
		return
	}
	text := make([]byte, head[1]&0x7f)
	if _, err := io.ReadFull(b, text); err != nil {
		return
	}
	for i := range text {
		text[i] ^= head[2+i%4]
	}
	c.Write(append([]byte{0x81, byte(len(text))}, text...))
	// The end is agreed on: the client's close, masked, and ours.
	if _, err := io.ReadFull(b, head); err == nil {
		c.Write([]byte{0x88, 0})
	}
	io.Copy(io.Discard, b)
}

// The standard library's client sends an upgrade through a proxy as a request.
func TestGoClients(t *testing.T) {
	t.Parallel()
	s, at, port := openDoor(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			c, b, _ := http.NewResponseController(w).Hijack()
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(c, b)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %d %s", r.URL, len(body), r.Trailer.Get("X-Asked"))
		w.Header().Set("X-Sum", fmt.Sprint(len(body)))
	})
	proxy, _ := url.Parse("http://ann:right%20horse@" + s.addr)
	c := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), MaxIdleConnsPerHost: 8}}
	defer c.CloseIdleConnections()

	// Many at once, each with what is its own.
	var asking sync.WaitGroup
	for i := range 8 {
		asking.Go(func() {
			for j := range 50 {
				host := []string{at, "localhost:" + port}[j%2]
				r, _ := http.NewRequest("POST", fmt.Sprintf("http://%s/%d/%d", host, i, j), io.LimitReader(&endless{}, int64(i*j*10)))
				r.Trailer = http.Header{"X-Asked": {"yes"}}
				res, err := c.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				want := fmt.Sprintf("/%d/%d %d yes", i, j, i*j*10)
				if err != nil || string(body) != want || res.Trailer.Get("X-Sum") != fmt.Sprint(i*j*10) {
					t.Errorf("%q, %v, %v, want %q", body, res.Trailer, err, want)
				}
			}
		})
	}
	asking.Wait()

	r, _ := http.NewRequest("GET", "http://"+at+"/", nil)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	res, err := c.Do(r)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("%v, %v", res, err)
	}
	tunnel := res.Body.(io.ReadWriteCloser)
	defer tunnel.Close()
	for _, text := range []string{"hello", "again"} {
		io.WriteString(tunnel, text)
		got := make([]byte, 5)
		if _, err := io.ReadFull(tunnel, got); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// endless is a body of letters.
type endless struct{}

func (*endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestTunnellingClients(t *testing.T) {
	t.Parallel()
	echo := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, echo.port), "--data", usersFile(t, map[string]string{"ann": "right horse"}))
	host, port, _ := net.SplitHostPort(s.addr)
	to := fmt.Sprint(echo.port)
	proxychains := func(line string) []string {
		path := filepath.Join(t.TempDir(), "proxychains.conf")
		return []string{"-q", "-f", write(t, path, "strict_chain\nproxy_dns\n[ProxyList]\n"+line+"\n")}
	}
	for name, c := range map[string]struct {
		program string
		args    []string
	}{
		"nc by SOCKS4":                 {"nc.openbsd", []string{"-N", "-X", "4", "-x", s.addr, "127.0.0.1", to}},
		"nc by SOCKS5":                 {"nc.openbsd", []string{"-N", "-X", "5", "-x", s.addr, "localhost", to}},
		"nc by CONNECT":                {"nc.openbsd", []string{"-N", "-X", "connect", "-x", s.addr, "localhost", to}},
		"ncat by SOCKS4":               {"ncat", []string{"--proxy", s.addr, "--proxy-type", "socks4", "127.0.0.1", to}},
		"ncat by SOCKS5":               {"ncat", []string{"--proxy", s.addr, "--proxy-type", "socks5", "--proxy-dns", "remote", "localhost", to}},
		"ncat by SOCKS5 as ann":        {"ncat", []string{"--proxy", s.addr, "--proxy-type", "socks5", "--proxy-auth", "ann:right horse", "127.0.0.1", to}},
		"ncat by CONNECT as ann":       {"ncat", []string{"--proxy", s.addr, "--proxy-type", "http", "--proxy-auth", "ann:right horse", "localhost", to}},
		"proxychains by SOCKS4":        {"proxychains4", append(proxychains("socks4 "+host+" "+port), "nc.openbsd", "-N", "127.0.0.1", to)},
		"proxychains by SOCKS5":        {"proxychains4", append(proxychains("socks5 "+host+" "+port+" ann righthorse"), "nc.openbsd", "-N", "127.0.0.1", to)},
		"proxychains by CONNECT":       {"proxychains4", append(proxychains("http "+host+" "+port), "nc.openbsd", "-N", "127.0.0.1", to)},
		"proxychains through it twice": {"proxychains4", append(proxychains("socks5 "+host+" "+port+"\nhttp "+host+" "+port), "nc.openbsd", "-N", "127.0.0.1", to)},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := client(t, "hello", nil, c.program, c.args...)
			switch {
			case name == "proxychains by SOCKS5" || name == "proxychains through it twice":
				if err == nil || out == "hello" { // a wrong password; and the proxy's own port is not allowed
					t.Errorf("%v: %q", err, out)
				}
			case err != nil || out != "hello":
				t.Errorf("%v: %q", err, out)
			}
		})
	}
}

// One proxy is reached through another, and curl through proxychains.
func TestChains(t *testing.T) {
	t.Parallel()
	last, at, port := openDoor(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s\n", r.Method, r.URL) })
	_, own, _ := net.SplitHostPort(last.addr)
	first := start(t, "--data", settings(t, loopback, mustPort(t, own), mustPort(t, port)))
	for _, kind := range []string{"socks4", "socks5", "http"} {
		for _, way := range [][]string{{"-x", "http://" + last.addr}, {"-p", "-x", "http://ann:right%20horse@" + last.addr}} {
			if out, code := curl(t, append(way, "--preproxy", strings.Replace(kind, "http", "socks5h", 1)+"://"+first.addr, "http://"+at+"/a", "http://"+at+"/b")...); code != 0 || out != "GET /a\nGET /b\n" {
				t.Errorf("by %s and %v curl exits %d and prints %q", kind, way, code, out)
			}
		}
		config := fmt.Sprintf("strict_chain\nproxy_dns\n[ProxyList]\n%s %s\nsocks5 %s\n", kind, strings.Replace(first.addr, ":", " ", 1), strings.Replace(last.addr, ":", " ", 1))
		path := write(t, filepath.Join(t.TempDir(), "proxychains.conf"), config)
		if out, err := client(t, "", nil, "proxychains4", "-q", "-f", path, installed(t, "curl"), "-sS", "http://"+at+"/c"); err != nil || out != "GET /c\n" {
			t.Errorf("by %s proxychains: %v, %q", kind, err, out)
		}
	}
	for i := range 3 * 3 { // each has come by both
		first.wait(t, i, "session")
		last.wait(t, i, "session")
	}
}

func TestGitAndWget(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	git := func(dir string, args ...string) {
		t.Helper()
		args = append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "init.defaultBranch=main"}, args...)
		if out, err := client(t, "", nil, "git", args...); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git(root, "init", "-q", "made")
	write(t, filepath.Join(root, "made", "file"), strings.Repeat("some text\n", 1000))
	git(filepath.Join(root, "made"), "add", "file")
	git(filepath.Join(root, "made"), "commit", "-q", "-m", "First")
	git(root, "clone", "-q", "--bare", "made", "made.git")
	git(filepath.Join(root, "made.git"), "update-server-info")
	files := http.FileServer(http.Dir(root))
	s, at, _ := openDoor(t, files.ServeHTTP)
	for i, proxy := range []string{"http://", "http://ann:right%20horse@", "socks4a://", "socks5h://"} {
		clone := filepath.Join(root, fmt.Sprint(i))
		git(root, "-c", "http.proxy="+proxy+s.addr, "clone", "-q", "http://"+at+"/made.git", clone)
		if text, err := os.ReadFile(filepath.Join(clone, "file")); err != nil || len(text) != 10_000 {
			t.Errorf("%s: %d bytes, %v", proxy, len(text), err)
		}
	}
	for i, proxy := range []string{"http://" + s.addr, "http://ann:right%20horse@" + s.addr} {
		page := filepath.Join(root, fmt.Sprint("page", i))
		out, err := client(t, "", []string{"http_proxy=" + proxy}, "wget", "-nv", "-O", page, "http://"+at+"/made/file", "http://"+at+"/made/file")
		if text, _ := os.ReadFile(page); err != nil || len(text) != 20_000 {
			t.Errorf("wget by %s: %d bytes, %v\n%s", proxy, len(text), err, out)
		}
	}
	if out, err := client(t, "", []string{"http_proxy=http://" + s.addr}, "wget", "-nv", "-O", os.DevNull, "http://127.0.0.1:25/"); err == nil || !strings.Contains(out, "403") {
		t.Errorf("a refusal is told by wget as %q, %v", out, err)
	}
}
