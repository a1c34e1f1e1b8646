package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A configuration that is discovered brings bundles; until it has come, and they
// have, nothing is allowed.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	target, _ := origin(t)
	server := serveBundles(t)
	dir := t.TempDir()
	opa := fmt.Sprintf(`
services: {web: {url: %q}}
discovery: {service: web, resource: discovery.tar.gz, persist: true, %s}
persistence_directory: %q
`, server.URL, longPolling, dir)
	s := startBundles(t, opa)
	if status, shown := s.get(t, "/readyz"); status != 503 || !strings.Contains(fmt.Sprint(shown["body"]), "awaiting discovery") {
		t.Errorf("ready: %d %v", status, shown)
	}
	if _, code := curl(t, "-p", "-x", "http://"+s.addr, target); code == 0 {
		t.Error("the default policy answers before the configuration is discovered")
	}
	server.put("discovery.tar.gz", pack(t, map[string]string{"data.json": `{"bundles": {"main": {"service": "web", "resource": "main.tar.gz", "persist": true,
			"polling": {"min_delay_seconds": 1, "max_delay_seconds": 1, "long_polling_timeout_seconds": 30}}}}`}))
	s.waitFor(t, "what is awaited", func(line map[string]any) bool { return fmt.Sprint(line["awaited"]) == "[bundle main]" })
	server.put("main.tar.gz", pack(t, routes("1", `"127.0.0.1"`)))
	s.wait(t, 0, "policy active")
	if out, code := curl(t, "-p", "-x", "http://"+s.addr, target); code != 0 {
		t.Errorf("curl exits %d: %s", code, out)
	}

	// A bundle that is taken away leaves its policy in force.
	server.put("discovery.tar.gz", pack(t, map[string]string{"data.json": `{"bundles": {}}`}))
	s.wait(t, 0, "a bundle is taken away")
	if line := s.wait(t, 0, "policy refused; the active one stays"); !strings.Contains(fmt.Sprint(line["error"]), "the bundle main has been taken away") {
		t.Errorf("refused: %v", line)
	}
	if out, code := curl(t, "-p", "-x", "http://"+s.addr, target); code != 0 {
		t.Errorf("curl exits %d: %s", code, out)
	}
	s.terminate(t)

	// Its copy on disk serves when the server is away, but not when somebody has been at it.
	server.CloseClientConnections()
	server.Close()
	kept, err := filepath.Glob(filepath.Join(dir, "bundles", "*", "bundle.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range kept {
		write(t, path, "somebody's")
	}
	s = startBundles(t, opa)
	if line := s.wait(t, 0, "policy refused; the active one stays"); line["trigger"] != "discovery" || !strings.HasPrefix(fmt.Sprint(line["error"]), "the copy on disk: ") {
		t.Errorf("refused: %v", line)
	}
	s.terminate(t)
}

// Traffic flows while bundles come that are good, that are not, and that are
// none; no decision fails or is another than one of the two good ones.
func TestTrafficWhileBundlesCome(t *testing.T) {
	t.Parallel()
	target, _ := origin(t)
	server := serveBundles(t)
	server.put("main.tar.gz", pack(t, sign(t, routes("0", `"127.0.0.1"`))))
	s := startBundles(t, fmt.Sprintf(`
services: {web: {url: %q}}
bundles: {main: {service: web, resource: main.tar.gz, signing: {keyid: ours}, polling: {min_delay_seconds: 1, max_delay_seconds: 1, long_polling_timeout_seconds: 30}}}
keys: {ours: {algorithm: HS256, key: %q}}
`, server.URL, signingKey))
	s.wait(t, 0, "policy active")
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if out, code := curl(t, "-p", "-x", "http://"+s.addr, target); code != 0 {
					t.Errorf("curl exits %d: %s", code, out)
					return
				}
			}
		})
	}
	wrong := sign(t, routes("w", `"evil.example"`))
	wrong["routes/data.json"] = `{"hosts": ["127.0.0.1"]}`
	refused := sign(t, map[string]string{
		".manifest":             `{"revision": "r", "roots": ["sallyport"]}`,
		"sallyport/rout/x.rego": "package sallyport.rout\n\nallow := true\n",
	})
	delta := map[string]string{
		".manifest":  `{"revision": "d", "roots": ["sallyport", "routes"]}`,
		"patch.json": `{"data": [{"op": "replace", "path": "/routes/hosts", "value": []}]}`,
	}
	for i, bad := range [][]byte{pack(t, wrong), pack(t, refused), []byte("garbage"), pack(t, wrong)[:100], pack(t, routes("u", "")), pack(t, delta)} {
		server.put("main.tar.gz", bad)
		if line := s.wait(t, i, "policy refused; the active one stays"); line["error"] == "" {
			t.Errorf("refused: %v", line)
		}
		revision := fmt.Sprint(i + 1)
		server.put("main.tar.gz", pack(t, sign(t, routes(revision, `"127.0.0.1"`))))
		if line := s.wait(t, i+1, "policy active"); line["policy.revision"] != revision {
			t.Errorf("active: %v", line)
		}
	}
	close(stop)
	clients.Wait()
	s.terminate(t)
}
