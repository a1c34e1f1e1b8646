package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/proxy/upstream"
)

// upstreams_health_test.go watches upstreams die and return.

// token is that of the management API.
func (s *process) token(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(s.wait(t, 0, "management token")["file"].(string))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// upstreams waits until what the management API says of the upstreams is so.
func (s *process) upstreams(t *testing.T, so func(map[string]upstream.Status) bool) map[string]upstream.Status {
	t.Helper()
	api, token := "http://"+s.wait(t, 0, "management")["address"].(string), s.token(t)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		status, body := call(t, "GET", api+"/v1/upstreams", token)
		var shown struct{ Upstreams []upstream.Status }
		if err := json.Unmarshal([]byte(body), &shown); err != nil || status != 200 {
			t.Fatalf("/v1/upstreams: %d %s %v", status, body, err)
		}
		byName := map[string]upstream.Status{}
		for _, u := range shown.Upstreams {
			byName[u.Name] = u
		}
		if so(byName) {
			return byName
		}
		if time.Now().After(end) {
			t.Fatalf("/v1/upstreams still says %s", body)
		}
	}
}

// through opens a tunnel and returns by which upstreams it was led.
func (s *process) through(t *testing.T, host string, target *echo) string {
	t.Helper()
	c := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo(host, target.port)).hear("\x05\x00\x00")
	io.ReadFull(c, make([]byte, 7))
	c.say("hello").hear("hello").CloseWrite()
	c.rest()
	return fmt.Sprint(s.sessionOf(t, host)["via"])
}

// healthPolicy goes through whoever is healthy in a country, the quickest first,
// and through anybody where that is nobody.
const healthPolicy = `package sallyport.route

default allow := false

allow if input.request.command == "connect"

_german contains name if {
	some name, u in input.upstreams
	u.labels.country == "de"
}

_healthy contains name if {
	some name in _german
	input.upstreams[name].healthy
}

default via := []

via := [{"any": sort(_healthy), "by": "order"}] if count(_healthy) > 0

else := [{"any": sort(_german), "by": "order"}]
`

func TestUpstreamDiesAndReturns(t *testing.T) {
	t.Parallel()
	micro, squid, other := startMicrosocks(t, "-u", "alice", "-P", "horse"), startSquid(t), startMicrosocks(t)
	target := serveEcho(t, "0.0.0.0:0")
	probe := fmt.Sprintf(`probe: {address: "127.0.0.1:%d", interval: 1s, timeout: 2s, rise: 2, fall: 2}`, target.port)
	s := start(t, "--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), healthPolicy),
		"--policy", dialPolicy(t),
		"--config", write(t, filepath.Join(t.TempDir(), "c.yaml"), fmt.Sprintf(`upstreams:
  a: {url: "socks5h://alice:horse@%s", labels: {country: de}, %s}
  b: {url: "http://%s", labels: {country: de}, %s}
  c: {url: "socks5://%s", labels: {country: nl}}
`, micro.addr, probe, squid.addr, probe, other.addr)))
	if got := s.through(t, "127.0.1.1", target); got != "[a]" {
		t.Errorf("at first by %s", got)
	}
	measured := s.upstreams(t, func(u map[string]upstream.Status) bool { return u["a"].LatencyMS > 0 && u["b"].LatencyMS > 0 })
	if u := measured["a"]; !u.Healthy || u.Address != micro.addr || u.Protocol != "socks5" || u.Labels["country"] != "de" || !u.Probe || u.Reason != "" {
		t.Errorf("a is shown as %+v", u)
	}
	if u := measured["c"]; !u.Healthy || u.Probe || u.LatencyMS != 0 {
		t.Errorf("c is shown as %+v", u)
	}

	micro.kill()
	if line := s.wait(t, 0, "upstream is not healthy"); line["upstream"] != "a" || line["reason"] != "refused" || line["level"] != "WARN" {
		t.Errorf("the log says %v", line)
	}
	if got := s.through(t, "127.0.1.2", target); got != "[b]" {
		t.Errorf("after a has died by %s", got)
	}
	if u := s.upstreams(t, func(u map[string]upstream.Status) bool { return !u["a"].Healthy })["a"]; u.Reason != "refused" {
		t.Errorf("a is shown as %+v", u)
	}
	metrics := scrape(t, s, "")
	for _, want := range []string{`sallyport_upstream_healthy{upstream="a"} 0`, `sallyport_upstream_healthy{upstream="b"} 1`, `sallyport_upstream_latency_seconds{upstream="b"} 0.0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics have no %s", want)
		}
	}

	micro.again(t)
	if line := s.wait(t, 0, "upstream is healthy"); line["upstream"] != "a" || line["reason"] != "it works again" {
		t.Errorf("the log says %v", line)
	}
	if got := s.through(t, "127.0.1.3", target); got != "[a]" {
		t.Errorf("after a has returned by %s", got)
	}

	// A session that is there counts, and then does not.
	held := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.1.4", target.port)).hear("\x05\x00\x00")
	s.upstreams(t, func(u map[string]upstream.Status) bool { return u["a"].Open == 1 })
	held.Close()
	s.upstreams(t, func(u map[string]upstream.Status) bool { return u["a"].Open == 0 })

	// With all of them dead the session fails, and has asked all of them.
	micro.kill()
	squid.kill()
	s.upstreams(t, func(u map[string]upstream.Status) bool { return !u["a"].Healthy && !u["b"].Healthy })
	dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.1.5", target.port)).hear("\x05\x01")
	if s.says("horse") || strings.Contains(metrics, "horse") {
		t.Error("a password is shown")
	}
	status, _ := call(t, "GET", "http://"+s.wait(t, 0, "management")["address"].(string)+"/v1/upstreams", "")
	if status != 401 {
		t.Errorf("without a token the status is %d", status)
	}
}

// A probe's target that is down says nothing good of the upstream; sessions do.
func TestProbeTargetIsDown(t *testing.T) {
	t.Parallel()
	micro := startMicrosocks(t)
	target := serveEcho(t, "0.0.0.0:0")
	s := startVia(t, fmt.Sprintf("upstreams:\n  a: {url: \"socks5h://%s\", probe: {address: \"127.0.0.1:1\", interval: 1s, rise: 1, fall: 1}}\n", micro.addr),
		map[string]any{"*": []string{"a"}})
	if line := s.wait(t, 0, "upstream is not healthy"); !strings.HasPrefix(fmt.Sprint(line["reason"]), "it does not reach the probe's target: refused") {
		t.Errorf("the log says %v", line)
	}
	if got := s.through(t, "127.0.1.1", target); got != "[a]" {
		t.Errorf("the only upstream that there is was not tried: %s", got)
	}
	s.wait(t, 0, "upstream is healthy")
	s.wait(t, 1, "upstream is not healthy")
}

// An upstream that is behind another one is probed through that.
func TestProbeThroughAnotherUpstream(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	near, inner := startVia(t, "", map[string]any{"*": []any{}}), startSquid(t)
	s := startVia(t, fmt.Sprintf(`upstreams:
  near: {url: "socks5h://%s"}
  inner: {url: "http://%s", probe: {address: "127.0.0.1:%d", via: [near], interval: 1s, rise: 1, fall: 1}}
`, near.addr, inner.addr, target.port), map[string]any{"*": []string{"inner"}})
	_, port, _ := net.SplitHostPort(inner.addr)
	probed := func(outcome string) {
		t.Helper()
		near.waitFor(t, "a probe of inner", func(r map[string]any) bool {
			return r["msg"] == "session" && fmt.Sprint(r["server.port"]) == port && r["outcome"] == outcome
		})
	}
	probed("ok")
	<-target.peers
	inner.kill()
	probed("refused")
	if line := s.wait(t, 0, "upstream is not healthy"); line["upstream"] != "inner" || line["reason"] != "refused: so says upstream near" {
		t.Errorf("the log says %v", line)
	}
}

// Nobody can turn an upstream unhealthy by the targets that he asks for.
func TestTargetsSpeakAgainstNoUpstream(t *testing.T) {
	t.Parallel()
	dies := fmt.Sprintf("socks5h://%s", scriptedFor(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 100))
		io.WriteString(c, chosen)
		c.Read(make([]byte, 100))
	}))
	squid := startSquid(t)
	s := startVia(t, upstreamsFile(map[string]string{"dies": dies, "squid": "http://" + squid.addr}),
		map[string]any{"*": []string{"dies"}, "127.0.0.2": []string{"squid"}})
	for range 5 {
		dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.0.1", 1)).hear("\x05")
		dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.0.2", 1)).hear("\x05")
	}
	s.upstreams(t, func(u map[string]upstream.Status) bool { return u["dies"].Healthy && u["squid"].Healthy })
	squid.kill()
	for range 3 {
		dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.0.2", 1)).hear("\x05")
	}
	if line := s.wait(t, 0, "upstream is not healthy"); line["upstream"] != "squid" || line["reason"] != "refused" {
		t.Errorf("the log says %v", line)
	}
}

// scriptedFor is an upstream that treats every connection alike.
func scriptedFor(t *testing.T, script func(c *net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				script(c.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().String()
}

// Connections that were opened ahead serve every kind of upstream, also one that
// has been restarted meanwhile, and chains.
func TestPools(t *testing.T) {
	micro, dante, squid, tiny := startMicrosocks(t, "-u", "alice", "-P", "horse"), startDante(t), startSquid(t), startTinyproxy(t)
	secured := terminate(t, squid.addr)
	target := serveEcho(t, "0.0.0.0:0")
	urls := map[string]string{
		"micro": "socks5h://alice:horse@" + micro.addr, "dante": "socks5://" + dante.addr, "dante4": "socks4a://" + dante.addr,
		"squid": "http://" + squid.addr, "tiny": "http://alice:horse@" + tiny.addr, "secured": "https://" + secured.addr,
	}
	config, ways, names := "upstreams:\n", map[string]any{"127.0.2.1": []string{"micro", "dante", "squid"}}, map[string]string{}
	for name, url := range urls {
		config += fmt.Sprintf("  %s: {url: %q, pool: {idle: 3}", name, url)
		if name == "secured" {
			config += fmt.Sprintf(", tls: {ca: %q, server_name: example.com}", secured.ca)
		}
		config += "}\n"
		host := fmt.Sprintf("127.0.1.%d", len(names)+1)
		ways[host], names[host] = []string{name}, name
	}
	s := startVia(t, config, ways)
	full := func(u map[string]upstream.Status) bool {
		for name := range urls {
			if u[name].Pool != (upstream.PoolStatus{Idle: 3, Most: 3}) {
				return false
			}
		}
		return true
	}
	s.upstreams(t, full)
	for host, name := range names {
		for range 5 { // more than there are
			if got := s.through(t, host, target); got != "["+name+"]" {
				t.Errorf("%s: by %s", name, got)
			}
			s.forget("session")
		}
	}
	if got := s.through(t, "127.0.2.1", target); got != "[micro dante squid]" {
		t.Errorf("a chain by %s", got)
	}
	s.upstreams(t, full)

	micro.kill()
	s.upstreams(t, func(u map[string]upstream.Status) bool { return u["micro"].Pool.Idle == 0 }) // the kernel has said so
	micro.again(t)
	s.upstreams(t, full)
	for host, name := range names {
		s.forget("session")
		if got := s.through(t, host, target); got != "["+name+"]" {
			t.Errorf("%s: by %s", name, got)
		}
	}
	begun := time.Now()
	s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil || time.Since(begun) > 10*time.Second {
		t.Errorf("it ends with %v after %v", err, time.Since(begun))
	}
}
