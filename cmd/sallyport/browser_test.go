package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// browser_test.go has Chromium load a page of many parts, by every kind of proxy
// that it knows.

// page asks for its parts at two hosts, by every means that a page has, and then
// reports what it has got.
const page = `<!DOCTYPE html><title>page</title>
<link rel=stylesheet href=/style.css>
<h1 id=styled>not yet</h1>
<script>
const got = []
let left = 24
function arrived(what) { got.push(what); if (--left == 0) more() }
const attempt = (what, f) => f().then(text => got.push(what + " " + text), e => got.push(what + " failed: " + e))
const letters = "x".repeat(300000)
async function more() {
  const other = location.protocol + "//localhost:" + location.port
  await attempt("style", async () => getComputedStyle(document.getElementById("styled")).color)
  await Promise.all([
    attempt("fetch", async () => (await (await fetch("/fetched?a=b", {headers: {"X-Asked": "yes"}})).json()).asked),
    attempt("post", async () => (await fetch("/length", {method: "POST", body: letters})).text()),
    attempt("put elsewhere", async () => (await fetch(other + "/length", {method: "PUT", body: letters, headers: {"X-Asked": "yes"}})).text()),
    attempt("stream", async () => {
      const reader = (await fetch("/stream")).body.getReader()
      let n = 0
      for (let part; !(part = await reader.read()).done;) n += part.value.length
      return n
    }),
    attempt("missing", async () => (await fetch("/missing")).status),
    attempt("event", () => new Promise((ok, fail) => {
      const s = new EventSource("/events")
      s.onmessage = e => { s.close(); ok(e.data) }
      s.onerror = () => { s.close(); fail("closed") }
    })),
    attempt("socket", () => new Promise((ok, fail) => {
      const s = new WebSocket(location.origin.replace("http", "ws") + "/socket")
      s.onopen = () => s.send("hello")
      s.onmessage = e => { ok(e.data); s.close() }
      s.onerror = () => fail("closed")
    })),
  ])
  fetch("/report", {method: "POST", body: got.sort().join("\n")})
}
</script>
PARTS
<img src="/held.svg">
`

// site serves it, and knows what was reported.
type site struct {
	mu       sync.Mutex
	asked    map[string]int
	protocol map[string]bool
	report   string
	reported chan struct{} // closed when the page is done
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked[r.Method+" "+r.Host[:strings.LastIndex(r.Host, ":")]+r.URL.Path]++
	s.protocol[r.Proto] = true
	reported := s.reported
	s.mu.Unlock()
	header := w.Header()
	switch path := r.URL.Path; {
	case path == "/":
		header.Set("Content-Type", "text/html")
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		var parts strings.Builder
		for i := range 8 {
			fmt.Fprintf(&parts, `<script async src="/%[1]d.js"></script><script async src="%[2]s://localhost%[3]s/%[1]d.js"></script><img src="/%[1]d.svg" onload="arrived('image')">`,
				i, scheme, r.Host[strings.LastIndex(r.Host, ":"):])
		}
		io.WriteString(w, strings.Replace(page, "PARTS", parts.String(), 1))
	case path == "/held.svg": // holds up the end of loading, and so of the browser
		select {
		case <-reported:
		case <-r.Context().Done():
		}
		http.NotFound(w, r)
	case path == "/report":
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.report = string(body)
		s.mu.Unlock()
		close(reported)
	case path == "/socket":
		serveWebSocket(w, r)
	case path == "/events":
		header.Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: happened\n\n")
		http.NewResponseController(w).Flush()
		select {
		case <-reported:
		case <-r.Context().Done():
		}
	case path == "/stream":
		for range 10 {
			w.Write(make([]byte, 10_000))
			http.NewResponseController(w).Flush()
		}
	case path == "/fetched":
		header.Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"asked": %q}`, r.Header.Get("X-Asked")+" "+r.URL.RawQuery)
	case path == "/length":
		header.Set("Access-Control-Allow-Origin", "*")
		header.Set("Access-Control-Allow-Headers", "X-Asked")
		header.Set("Access-Control-Allow-Methods", "PUT")
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	case strings.HasSuffix(path, ".js"):
		header.Set("Content-Type", "text/javascript")
		io.WriteString(w, "arrived('script')")
	case strings.HasSuffix(path, ".svg"):
		header.Set("Content-Type", "image/svg+xml")
		io.WriteString(w, `<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"></svg>`)
	case strings.HasSuffix(path, ".css"):
		header.Set("Content-Type", "text/css")
		io.WriteString(w, "h1 { color: rgb(1, 2, 3) }")
	default:
		http.NotFound(w, r)
	}
}

func TestChromium(t *testing.T) {
	t.Parallel()
	chromium := installed(t, "chromium-headless-shell", "chromium")
	pages := &site{}
	plain, secure := httptest.NewServer(pages), httptest.NewUnstartedServer(pages)
	secure.EnableHTTP2 = true
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // of connections that the browser closes unused
	secure.StartTLS()
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	var ports []uint16
	for _, o := range []*httptest.Server{plain, secure} {
		ports = append(ports, mustPort(t, o.URL[strings.LastIndex(o.URL, ":")+1:]))
	}
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	s := listening(t, fmt.Sprintf(`[{name: plain, address: "127.0.0.1:0"}, {name: tls, address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key),
		"--data", settings(t, loopback, ports...))
	doors := map[string]string{}
	for i := range 2 {
		l := s.wait(t, i, "listening")
		doors[l["listener"].(string)] = l["address"].(string)
	}
	want := strings.Join(append(append([]string{"event happened", "fetch yes a=b"}, strings.Split(strings.Repeat("image\n", 7)+"image", "\n")...),
		"missing 404", "post 300000", "put elsewhere 300000"), "\n") + strings.Repeat("\nscript", 16) + "\nsocket hello\nstream 100000\nstyle rgb(1, 2, 3)"

	for _, proxy := range []string{"socks4://", "socks5://", "http://", "https://"} {
		for _, origin := range []string{plain.URL, secure.URL} {
			t.Run(proxy+" to "+origin[:strings.Index(origin, ":")], func(t *testing.T) {
				pages.mu.Lock()
				pages.asked, pages.protocol, pages.report, pages.reported = map[string]int{}, map[string]bool{}, "", make(chan struct{})
				pages.mu.Unlock()
				door := doors["plain"]
				if proxy == "https://" {
					door = doors["tls"]
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				c := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir="+t.TempDir(),
					"--ignore-certificate-errors", "--proxy-server="+proxy+door, "--proxy-bypass-list=<-loopback>", "--dump-dom", origin+"/")
				said, err := c.CombinedOutput()
				pages.mu.Lock()
				defer pages.mu.Unlock()
				if pages.report != want {
					t.Errorf("the browser (%v) reports\n%s\nwant\n%s\nand says %.2000s", err, pages.report, want, said)
				}
				for i := range 8 {
					for _, part := range []string{fmt.Sprintf("GET 127.0.0.1/%d.js", i), fmt.Sprintf("GET localhost/%d.js", i), fmt.Sprintf("GET 127.0.0.1/%d.svg", i)} {
						if pages.asked[part] != 1 {
							t.Errorf("%s was asked for %d times", part, pages.asked[part])
						}
					}
				}
				if pages.asked["OPTIONS localhost/length"] != 1 || pages.protocol["HTTP/2.0"] != (origin == secure.URL) {
					t.Errorf("the server was asked %v by %v", pages.asked, pages.protocol)
				}
			})
		}
	}
}
