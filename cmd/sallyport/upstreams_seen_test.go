package main

import (
	"bufio"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testHops looks for a span and a measurement of each hop that was tried.
func testHops(t *testing.T, c *collector) {
	micro, squid := startMicrosocks(t), startSquid(t)
	target := serveEcho(t, "127.0.0.1:0")
	dir := t.TempDir()
	s := startWith(t, c.exported("http/protobuf"), "--policy", write(t, filepath.Join(dir, "route.rego"), `package sallyport.route

allow := true

via := [{"any": ["gone", "micro"], "by": "order"}, "squid"]
`), "--policy", dialPolicy(t), "--config", write(t, filepath.Join(dir, "c.yaml"), upstreamsFile(map[string]string{
		"gone": "socks5h://127.0.0.1:1", "micro": "socks5h://" + micro.addr, "squid": "http://" + squid.addr,
	})))
	s.tellIfFailed(t)
	d := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.0.1", target.port)).hear("\x05\x00")
	io.ReadFull(d, make([]byte, 8))
	d.say("x").hear("x").Close()
	id, _ := s.ended(t, 0)
	root, _ := c.session(t, id)
	c.mu.Lock()
	var hops []string
	for _, span := range c.spans {
		if span.TraceID == root.TraceID && span.Name == "dial" {
			hops = append(hops, fmt.Sprint(span.Attributes.get("upstream"), " ", span.Attributes.get("error.type"), " ",
				span.Attributes.get("network.peer.port"), " ", span.Status.Code, " ", span.ParentSpanID == root.SpanID))
		}
	}
	c.mu.Unlock()
	_, first, _ := strings.Cut(micro.addr, ":")
	want := []string{"gone upstream_refused  2 true", "micro  " + first + " 0 true", "squid  " + first + " 0 true"}
	if !slices.Equal(hops, want) {
		t.Errorf("the spans of hops are %q, want %q", hops, want)
	}
	measured := scrape(t, s, "text/plain")
	for upstream, outcome := range map[string]string{"gone": "upstream_refused", "micro": "ok", "squid": "ok"} {
		found := false
		for line := range strings.Lines(measured) {
			found = found || strings.HasPrefix(line, "sallyport_dial_duration_seconds_count{") && strings.HasSuffix(line, " 1\n") &&
				strings.Contains(line, `upstream="`+upstream+`"`) && strings.Contains(line, `outcome="`+outcome+`"`)
		}
		if !found {
			t.Errorf("%s is not measured as %s", upstream, outcome)
		}
	}
	s.terminate(t)
}

// An https upstream may want a certificate instead of a password.
func TestCertificateForAnUpstream(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	cert, key := ca.issue(t, "egress", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	far, target := certificates(t, ca, "", `["certificate"]`)
	config := fmt.Sprintf(`upstreams:
  known: {url: "https://%[1]s", tls: {ca: %[2]q, server_name: localhost, certificate: %[3]q, key: %[4]q}}
  unknown: {url: "https://%[1]s", tls: {ca: %[2]q, server_name: localhost}}
`, far.addr, ca.file, cert, key)
	s := startVia(t, config, map[string]any{"127.0.0.1": []string{"known"}, "127.0.0.2": []string{"unknown"}})
	c := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.0.1", target.port)).hear("\x05\x00")
	io.ReadFull(c, make([]byte, 8))
	c.say("by certificate").hear("by certificate").Close()
	r := far.sessionOf(t, "127.0.0.1")
	if labels := fmt.Sprint(r["labels"]); r["outcome"] != "ok" || !strings.Contains(labels, "egress") || !strings.Contains(labels, "method:certificate") {
		t.Errorf("the upstream records %v", r["raw"])
	}
	dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.0.2", target.port)).hear("\x05\x01").Close()
	if r := s.sessionOf(t, "127.0.0.2"); r["outcome"] != "upstream_tls" || r["cause"] != "upstream unknown: tls: it ends TLS: tls: certificate required" {
		t.Errorf("without a certificate: %v", r["raw"])
	}
}

// Of several addresses an upstream is asked for one after the other, of those that
// dial has allowed.
func TestAddressesThroughUpstreams(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	near := serveNames(t, map[string][]string{
		"some.example.": {"127.0.0.2", "10.0.0.1", "127.0.0.1", "127.0.0.3"}, "none.example.": {"127.0.0.4", "10.0.0.2", "127.0.0.5", "127.0.0.6"},
	})
	far := start(t, "--data", settings(t, []string{"0.0.0.0/0"}, target.port))
	s := startVia(t, upstreamsFile(map[string]string{"far": "socks5h://" + far.addr}), map[string]any{"*": []string{"far"}},
		"--set", "dns.servers="+near.addr, "--set", "dns.family=ipv4", "--data", write(t, t.TempDir()+"/resolve.json", `{"resolve": "local"}`))
	dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("none.example", target.port)).hear("\x05\x05").Close()
	var asked []string // in an order that is left to chance
	for i := range 3 {
		asked = append(asked, fmt.Sprint(far.wait(t, i, "session")["server.address"]))
	}
	slices.Sort(asked)
	if want := []string{"127.0.0.4", "127.0.0.5", "127.0.0.6"}; !slices.Equal(asked, want) {
		t.Errorf("the upstream is asked for %q", asked)
	}
	if r := s.sessionOf(t, "none.example"); r["outcome"] != "refused" {
		t.Errorf("the record says %v", r["raw"])
	}
	c := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("some.example", target.port)).hear("\x05\x00")
	io.ReadFull(c, make([]byte, 8))
	c.say("x").hear("x").Close()
	if r := far.sessionOf(t, "127.0.0.1"); r["outcome"] != "ok" {
		t.Errorf("the upstream records %v", r["raw"])
	}
}

// A forwarded request that goes on through an upstream is asked about again.
func TestForwardedRequestsThroughUpstreamsFollowThePolicy(t *testing.T) {
	t.Parallel()
	micro, squid := startMicrosocks(t), startSquid(t)
	release := make(chan struct{})
	at, _ := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "part")
		http.NewResponseController(w).Flush()
		<-release
		io.WriteString(w, "rest")
	})
	defer close(release)
	dir := t.TempDir()
	data := write(t, filepath.Join(dir, "data.json"), `{"ways": {"/stays": ["micro"], "/leaves": ["micro"]}}`)
	s := start(t, "--policy", write(t, filepath.Join(dir, "route.rego"), `package sallyport.route

default allow := false

allow if input.request.command == "forward"

via := data.ways[input.request.path]
`), "--policy", dialPolicy(t), "--data", data, "--config", write(t, filepath.Join(dir, "c.yaml"), upstreamsFile(map[string]string{
		"micro": "socks5h://" + micro.addr, "squid": "http://" + squid.addr,
	})))
	s.wait(t, 0, "policy active")
	answers := map[string]*http.Response{}
	for _, path := range []string{"/stays", "/leaves"} {
		d := dialDoor(t, s.addr).say("GET http://" + at + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(d), nil)
		if err != nil {
			t.Fatal(err)
		}
		io.CopyN(io.Discard, response.Body, 4)
		answers[path] = response
	}
	write(t, data, `{"ways": {"/stays": [{"any": ["squid", "micro"]}], "/leaves": ["squid"]}}`)
	if r := s.wait(t, 0, "live sessions asked again"); r["sessions"] != 2.0 || r["cut"] != 1.0 {
		t.Errorf("a round is told of as %v", r["raw"])
	}
	if rest, err := io.ReadAll(answers["/leaves"].Body); err == nil || len(rest) > 0 {
		t.Errorf("the answer that is cut ends with %q, %v", rest, err)
	}
	r := s.wait(t, 0, "request")
	if want := fmt.Sprintf("cut: policy %v leads through squid", r["policy.revision"]); r["outcome"] != "cut" || r["cause"] != want || fmt.Sprint(r["via"]) != "[micro]" {
		t.Errorf("it is recorded as %v", r["raw"])
	}
	release <- struct{}{}
	release <- struct{}{} // both servers
	if rest, err := io.ReadAll(answers["/stays"].Body); string(rest) != "rest" || err != nil {
		t.Errorf("one that may stay ends with %q, %v", rest, err)
	}
}
