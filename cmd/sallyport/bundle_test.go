package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// pack is a bundle as `opa build` would write it, unsigned.
func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		header := &tar.Header{Name: "/" + name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(files[name]))}
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		io.WriteString(archive, files[name])
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// bundleServer is a bundle server that knows ETags and long polling, and a sink
// for status reports.
type bundleServer struct {
	*httptest.Server
	mu      sync.Mutex
	changed *sync.Cond
	bundles map[string][]byte // by path
	asked   map[string]int    // requests, by path and status
	status  []map[string]any
}

func serveBundles(t *testing.T) *bundleServer {
	t.Helper()
	s := &bundleServer{bundles: map[string][]byte{}, asked: map[string]int{}}
	s.changed = sync.NewCond(&s.mu)
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *bundleServer) put(name string, content []byte) {
	s.mu.Lock()
	s.bundles["/"+name] = content
	s.mu.Unlock()
	s.changed.Broadcast()
}

func (s *bundleServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/status") {
		var report map[string]any
		json.NewDecoder(r.Body).Decode(&report)
		s.mu.Lock()
		s.status = append(s.status, report)
		s.mu.Unlock()
		s.changed.Broadcast()
		return
	}
	tag := func() string {
		if content, ok := s.bundles[r.URL.Path]; ok {
			return fmt.Sprintf("%q", fmt.Sprint(len(content), hashOf(content)))
		}
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer context.AfterFunc(r.Context(), s.changed.Broadcast)()
	if strings.Contains(r.Header.Get("Prefer"), "wait=") {
		w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
		for tag() != "" && r.Header.Get("If-None-Match") == tag() && r.Context().Err() == nil {
			s.changed.Wait()
		}
	}
	status := 200
	switch content, ok := s.bundles[r.URL.Path]; {
	case !ok:
		status = 404
		w.WriteHeader(404)
	case r.Header.Get("If-None-Match") == tag():
		status = 304
		w.WriteHeader(304)
	default:
		w.Header().Set("ETag", tag())
		w.Write(content)
	}
	s.asked[fmt.Sprint(r.URL.Path, " ", status)]++
	s.changed.Broadcast()
}

func hashOf(content []byte) (sum uint32) {
	for _, b := range content {
		sum = sum*16777619 ^ uint32(b)
	}
	return sum
}

// until waits for something to be true of the server.
func (s *bundleServer) until(t *testing.T, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, s.changed.Broadcast)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !f() {
		if ctx.Err() != nil {
			t.Fatalf("not %s: asked %v, status %v", what, s.asked, s.status)
		}
		s.changed.Wait()
	}
}

const longPolling = `polling: {min_delay_seconds: 1, max_delay_seconds: 1, long_polling_timeout_seconds: 30}`

// routes is a policy that decides everything by host, and what it allows.
func routes(revision, hosts string, ports ...string) map[string]string {
	return map[string]string{
		".manifest": fmt.Sprintf(`{"revision": %q, "roots": ["sallyport", "routes"]}`, revision),
		"sallyport/route/route.rego": `package sallyport.route

default allow := false

allow if input.target.host in data.routes.hosts
`,
		"sallyport/dial/dial.rego": "package sallyport.dial\n\nallow := true\n",
		"routes/data.json":         fmt.Sprintf(`{"hosts": [%s]}`, hosts),
	}
}

// startBundles starts the proxy with a policy.opa of that YAML, and what follows
// at the end of policy.
func startBundles(t *testing.T, opa string, args ...string) *process {
	t.Helper()
	file := write(t, filepath.Join(t.TempDir(), "sallyport.yaml"), "policy:\n  opa:\n"+indent(opa, "    "))
	return start(t, append([]string{"--config", file}, args...)...)
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by) + "\n"
}

func TestABundleOverHTTP(t *testing.T) {
	t.Parallel()
	target, _ := origin(t)
	server := serveBundles(t)
	s := startBundles(t, fmt.Sprintf(`
services: {web: {url: %q}}
bundles: {main: {service: web, resource: main.tar.gz, %s}}
`, server.URL, longPolling))

	// Before it has come everything is refused, and by a fault.
	server.until(t, "asked for", func() bool { return server.asked["/main.tar.gz 404"] > 0 })
	if status, shown := s.get(t, "/readyz"); status != 503 || !strings.Contains(shown["body"].(string), "awaiting bundle main") {
		t.Errorf("ready: %d %v", status, shown)
	}
	if _, code := curl(t, "-p", "-x", "http://"+s.addr, target); code == 0 {
		t.Error("something is allowed before there is a policy")
	}

	server.put("main.tar.gz", pack(t, routes("1", `"127.0.0.1"`)))
	if line := s.wait(t, 0, "policy active"); line["policy.revision"] != "1" {
		t.Errorf("active: %v", line)
	}
	if status, shown := s.get(t, "/readyz"); status != 200 {
		t.Errorf("ready: %d %v", status, shown)
	}
	if out, code := curl(t, "-p", "-x", "http://"+s.addr, target); code != 0 {
		t.Errorf("curl exits %d: %s", code, out)
	}

	// One that our checks refuse changes nothing.
	broken := routes("2", `"nowhere.example"`)
	broken["sallyport/route/route.rego"] += "denny contains \"x\" if input.target.port == 1\n"
	server.put("main.tar.gz", pack(t, broken))
	line := s.wait(t, 0, "policy refused; the active one stays")
	if text, _ := line["error"].(string); !strings.Contains(text, "main:/sallyport/route/route.rego:6") || !strings.Contains(text, "did you mean") {
		t.Errorf("refused: %v", line)
	}
	if out, code := curl(t, "-p", "-x", "http://"+s.addr, target); code != 0 {
		t.Errorf("curl exits %d: %s", code, out)
	}
	_, shown := s.get(t, "/v1/policy")
	bundles, _ := shown["bundles"].([]any)
	if refusal, _ := shown["refusal"].(string); shown["revision"] != "1" || !strings.Contains(refusal, "denny") || len(bundles) != 1 {
		t.Errorf("policy %v", shown)
	} else if b := bundles[0].(map[string]any); b["name"] != "main" || b["revision"] != "1" || len(fmt.Sprint(b["digest"])) != 64 ||
		!strings.Contains(fmt.Sprint(b["refusal"]), "denny") || b["activated"] == nil {
		t.Errorf("bundle %v", b)
	}

	server.put("main.tar.gz", pack(t, routes("3", "")))
	if line := s.wait(t, 1, "policy active"); line["policy.revision"] != "3" {
		t.Errorf("active: %v", line)
	}
	if _, code := curl(t, "-p", "-x", "http://"+s.addr, target); code == 0 {
		t.Error("the new policy does not decide")
	}
	if _, shown := s.get(t, "/v1/policy"); shown["refusal"] != nil {
		t.Errorf("policy %v", shown)
	}
}
