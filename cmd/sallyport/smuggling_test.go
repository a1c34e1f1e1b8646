package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// smuggling_test.go has servers of others tell which requests they have seen, of
// messages that can be read in more than one way. forward_test.go has what the
// proxy makes of each.

// misleading are messages whose parts say different things of where they end: a
// request for /N, for which the server stands at AT, and within it or behind it one
// for /smuggled.
func misleading(at string) []string {
	lengths := []string{
		"", "Content-Length: LEN\r\n", "Content-Length: 0\r\n", "Content-Length: 5\r\n", "content-length:LEN\r\nContent-Length: LEN\r\n",
		"Content-Length: 5\r\nContent-Length: LEN\r\n", "Content-Length: +LEN\r\n", "Content-Length: LEN, LEN\r\n", "Content-Length: 0LEN\t\r\n",
		"Content-Length: 0x5\r\n", "Content-Length: -1\r\n", "Content-Length: 5 5\r\n", "Content-Length : LEN\r\n", "Content_Length: LEN\r\n",
		"X: y\r\n Content-Length: LEN\r\n", "X: y\rContent-Length: LEN\r\n", "X: y\nContent-Length: LEN\r\n", "Content-Length: 99999999999999999999\r\n",
	}
	codings := []string{
		"", "Transfer-Encoding: chunked\r\n", "transfer-encoding:CHUNKED\r\n", "Transfer-Encoding:\tchunked \t\r\n", "Transfer-Encoding: identity\r\n",
		"Transfer-Encoding: chunked, identity\r\n", "Transfer-Encoding: identity, chunked\r\n", "Transfer-Encoding: chunked, chunked\r\n",
		"Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: chunked;q=1\r\n", "Transfer-Encoding: \"chunked\"\r\n", "Transfer-Encoding: ,chunked\r\n",
		"Transfer-Encoding: chun\u212aed\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n", "Transfer-Encoding:\x0bchunked\r\n",
		"Transfer-Encoding : chunked\r\n", " Transfer-Encoding: chunked\r\n", "X: y\r\n\tTransfer-Encoding: chunked\r\n", "X: y\nTransfer-Encoding: chunked\r\n",
		"X: y\rTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\x00\r\n", "Transfer\u2010Encoding: chunked\r\n", "Transfer_Encoding: chunked\r\n",
	}
	others := []string{"", "Connection: Content-Length, Transfer-Encoding\r\n", "Connection: keep-alive\r\n", "Expect: 100-continue\r\n", "Connection: chun\u212aed, close\r\n"}
	bodies := []string{
		"0\r\n\r\nGET http://AT/smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
		"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: AT\r\nX: ",
		"GET /smuggled HTTP/1.1\r\nHost: AT\r\n\r\n",
		"5;x\r\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: AT\r\n\r\n",
	}
	var all []string
	for i, length := range lengths {
		for j, coding := range codings {
			for k, body := range bodies {
				body = strings.ReplaceAll(body, "AT", at)
				length := strings.ReplaceAll(length, "LEN", fmt.Sprint(len(body)))
				version := []string{"1.1", "1.0"}[(i+j+k)%7/6]
				all = append(all, fmt.Sprintf("POST http://%s/%d HTTP/%s\r\nHost: %s\r\n%s%s%s\r\n%s", at, len(all), version, at, length, coding, others[(i+j*2+k*3)%len(others)], body))
			}
		}
	}
	return all
}

// nginx is the server that most others stand behind, and what it has logged.
func serveNginx(t *testing.T) (at string, seen func() []string) {
	t.Helper()
	program := installed(t, "nginx")
	dir := shortDir(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	at = l.Addr().String()
	l.Close()
	must(t, os.Chmod(dir, 0o755))
	config := write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`
daemon off; master_process off; pid nginx.pid; error_log stderr crit;
events {}
http {
	log_format seen "$request_uri";
	access_log seen.log seen;
	client_body_temp_path body; proxy_temp_path a; fastcgi_temp_path b; uwsgi_temp_path c; scgi_temp_path d;
	keepalive_requests 100000;
	server { listen %s; location / { return 200 "ok"; } }
}
`, at))
	cmd := exec.Command(program, "-p", dir, "-c", config, "-e", "stderr")
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for end := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("tcp", at)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("nginx does not listen: ", err)
		}
	}
	return at, func() []string {
		cmd.Process.Signal(os.Interrupt) // it logs what is left
		cmd.Wait()
		text, err := os.ReadFile(filepath.Join(dir, "seen.log"))
		must(t, err)
		return strings.Fields(string(text))
	}
}

// A server sees the requests that were decided upon, and no other, each once at most.
func TestServersSeeWhatWasDecided(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var handled []string
	own, _ := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		handled = append(handled, r.RequestURI)
		mu.Unlock()
		io.Copy(io.Discard, r.Body)
	})
	for name, serve := range map[string]func(t *testing.T) (string, func() []string){
		"nginx": serveNginx,
		"Go":    func(*testing.T) (string, func() []string) { return own, func() []string { return handled } },
	} {
		t.Run(name, func(t *testing.T) {
			at, seen := serve(t)
			_, port, _ := net.SplitHostPort(at)
			s := start(t, "--data", settings(t, loopback, mustPort(t, port)), "--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), `package sallyport.route

default allow := false

allow if input.request.path != "/smuggled"
`))
			messages := misleading(at)
			next := make(chan string)
			var clients sync.WaitGroup
			for range 8 {
				clients.Go(func() {
					for message := range next {
						c, err := net.Dial("tcp", s.addr)
						if err != nil {
							t.Error(err)
							return
						}
						c.SetDeadline(time.Now().Add(20 * time.Second))
						io.WriteString(c, message)
						c.(*net.TCPConn).CloseWrite()
						if _, err := io.Copy(io.Discard, c); err != nil && os.IsTimeout(err) {
							t.Errorf("no end of %q", message)
						}
						c.Close()
					}
				})
			}
			for _, message := range messages {
				next <- message
			}
			close(next)
			clients.Wait()
			times := map[string]int{}
			for _, path := range seen() {
				if times[path]++; path == "/smuggled" || times[path] > 1 {
					t.Errorf("the server has seen %s", path)
				}
			}
			if len(times) < 50 || len(times) > len(messages)/2 {
				t.Errorf("the server has seen %d of %d", len(times), len(messages))
			}
		})
	}
}

// Requests that are sent behind one another are answered in their order, each by
// itself, bodies and refusals between them or not.
func TestRequestsBehindOneAnother(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %q.", r.Method, r.URL.Path, body)
	})
	s := start(t, "--data", settings(t, loopback, port))
	to := "http://" + at
	got := exchange(t, s.addr, "POST "+to+"/a HTTP/1.1\r\nHost: a\r\nContent-Length: 36\r\n\r\nGET /inner HTTP/1.1\r\nHost: localhost"+
		"GET http://127.0.0.1:25/ HTTP/1.1\r\nHost: a\r\nContent-Length: 37\r\n\r\nGET /inner HTTP/1.1\r\nHost: localhost\n"+
		"\r\nPUT "+to+"/b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nGET\r\n3;x=\"y\"\r\n /x\r\n0\r\nX: y\r\n\r\n"+
		"HEAD "+to+"/c HTTP/1.1\r\nHost: a\r\n\r\n"+
		"GET "+to+"/d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET "+to+"/after HTTP/1.1\r\nHost: a\r\n\r\n")
	var said []string
	for _, part := range strings.Split(got, "HTTP/1.1 ")[1:] {
		head, body, _ := strings.Cut(part, "\r\n\r\n")
		if strings.HasPrefix(body, "{") {
			body = "refused"
		}
		said = append(said, head[:3]+" "+body)
	}
	want := `200 POST /a "GET /inner HTTP/1.1\r\nHost: localhost".|403 refused|200 PUT /b "GET /x".|200 |200 GET /d "".`
	if text := strings.Join(said, "|"); text != want {
		t.Errorf("the answers are\n%s\nwant\n%s", text, want)
	}
	for i, method := range []string{"POST", "GET", "PUT", "HEAD", "GET"} {
		if r := s.wait(t, i, "request"); r["http.request.method"] != method {
			t.Errorf("%d is recorded as %v", i, r["raw"])
		}
	}
}

// A proxy that is asked for itself gets a request that is none for a proxy, and so
// there is an end to it.
func TestAskedForItself(t *testing.T) {
	t.Parallel()
	s := start(t, "--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), "package sallyport.route\n\nallow := true\n"), "--policy", dialPolicy(t))
	got := exchange(t, s.addr, "GET http://"+s.addr+"/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "\r\nVia: 1.1 sallyport\r\n") {
		t.Errorf("it answers %q", got)
	}
	// By tunnels the client has to say each step of the way.
	step := "CONNECT " + s.addr + " HTTP/1.1\r\n\r\n"
	got = exchange(t, s.addr, strings.Repeat(step, 5)+"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if strings.Count(got, "HTTP/1.1 200 ") != 5 || strings.Count(got, "HTTP/1.1 400 ") != 1 {
		t.Errorf("it answers %q", got)
	}
	for i := range 2 + 6 {
		s.wait(t, i, "session")
	}
}
