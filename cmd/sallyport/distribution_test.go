package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Two bundles decide together: the first alone does not, and is not refused for
// what it lacks.
func TestTwoBundlesWithRoots(t *testing.T) {
	t.Parallel()
	target, _ := origin(t)
	server := serveBundles(t)
	teams := map[string]string{
		".manifest":                  `{"revision": "t1", "roots": ["routes"]}`,
		"routes/data.json":           `{"hosts": ["127.0.0.1"]}`,
		"routes/lib/lib.rego":        "package routes.lib\n\nok(host) if host == \"127.0.0.1\"\n",
		"routes/lib_test/thing.rego": "package routes.lib_test\n\ntest_ok if data.routes.lib.ok(\"127.0.0.1\")\n",
	}
	main := routes("m1", "")
	main[".manifest"] = `{"revision": "m1", "roots": ["sallyport"]}`
	delete(main, "routes/data.json")
	server.put("main.tar.gz", pack(t, main))
	s := startBundles(t, fmt.Sprintf(`
services: {web: {url: %q}}
bundles:
  main: {service: web, resource: main.tar.gz, %s}
  teams: {service: web, resource: teams.tar.gz, %[2]s}
`, server.URL, longPolling), "--set", "policy.roots={main: [sallyport], teams: [routes]}", "--set", "policy.stages=route,dial")
	s.waitFor(t, "the first is there", func(line map[string]any) bool { return fmt.Sprint(line["awaited"]) == "[bundle teams]" })
	if status, shown := s.get(t, "/readyz"); status != 503 || !strings.Contains(fmt.Sprint(shown["body"]), "awaiting bundle teams") {
		t.Errorf("ready: %d %v", status, shown)
	}

	server.put("teams.tar.gz", pack(t, teams))
	if line := s.wait(t, 0, "policy active"); !strings.HasPrefix(fmt.Sprint(line["policy.revision"]), "policy-") {
		t.Errorf("active: %v", line)
	}
	if out, code := curl(t, "-p", "-x", "http://"+s.addr, target); code != 0 {
		t.Errorf("curl exits %d: %s", code, out)
	}
	_, shown := s.get(t, "/v1/policy")
	bundles, _ := shown["bundles"].([]any)
	if len(bundles) != 2 || bundles[0].(map[string]any)["revision"] != "m1" || bundles[1].(map[string]any)["revision"] != "t1" {
		t.Errorf("policy %v", shown)
	}

	// What the roots do not permit, and what is only for the one that owns sallyport.
	for i, test := range []struct{ manifest, file, text, want string }{
		{`{"revision": "t2", "roots": ["routes", "users"]}`, "users/data.json", `{"eve": {"groups": ["admin"]}}`, "policy.roots does not give it"},
		{`{"revision": "t3", "roots": ["routes", "sallyport/route"]}`, "x.txt", ``, "sallyport/route"},
	} {
		teams[".manifest"], teams[test.file] = test.manifest, test.text
		server.put("teams.tar.gz", pack(t, teams))
		s.waitFor(t, test.want, func(line map[string]any) bool { return strings.Contains(fmt.Sprint(line["error"]), test.want) })
		delete(teams, test.file)
		teams[".manifest"] = fmt.Sprintf(`{"revision": "back%d", "roots": ["routes"]}`, i)
		server.put("teams.tar.gz", pack(t, teams))
		s.wait(t, i+1, "policy active")
	}
	s.terminate(t)
}

// What was kept on disk serves while the server is away, but not when somebody
// has been at it.
func TestStartWithTheServerAway(t *testing.T) {
	t.Parallel()
	target, _ := origin(t)
	server := serveBundles(t)
	dir := t.TempDir()
	server.put("main.tar.gz", pack(t, sign(t, routes("1", `"127.0.0.1"`))))
	opa := fmt.Sprintf(`
services: {web: {url: %q}}
bundles: {main: {service: web, resource: main.tar.gz, persist: true, signing: {keyid: ours}, %s}}
keys: {ours: {algorithm: HS256, key: %q}}
persistence_directory: %q
`, server.URL, longPolling, signingKey, dir)
	s := startBundles(t, opa)
	s.wait(t, 0, "policy active")
	server.until(t, "asked again", func() bool { return server.asked["/main.tar.gz 200"] > 0 })
	s.terminate(t)
	server.CloseClientConnections()
	server.Close()

	s = startBundles(t, opa)
	if line := s.wait(t, 0, "policy active"); line["policy.revision"] != "1" {
		t.Errorf("active: %v", line)
	}
	if out, code := curl(t, "-p", "-x", "http://"+s.addr, target); code != 0 {
		t.Errorf("curl exits %d: %s", code, out)
	}
	s.terminate(t)

	kept := filepath.Join(dir, "bundles", "main", "bundle.tar.gz")
	tampered := sign(t, routes("1", `"127.0.0.1"`))
	tampered["routes/data.json"] = `{"hosts": ["127.0.0.1", "evil.example"]}`
	if err := os.WriteFile(kept, pack(t, tampered), 0o600); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(dir, "record.jsonl")
	s = startBundles(t, opa, "--set", "policy.audit="+record)
	if status, shown := s.get(t, "/readyz"); status != 503 || !strings.Contains(fmt.Sprint(shown["body"]), "awaiting bundle main") {
		t.Errorf("ready: %d %v", status, shown)
	}
	if _, code := curl(t, "-p", "-x", "http://"+s.addr, target); code == 0 {
		t.Error("a copy that somebody changed serves")
	}
	refused := s.wait(t, 0, "policy refused; the active one stays")
	why, _ := refused["error"].(string)
	if refused["trigger"] != "bundle main" || !strings.HasPrefix(why, "the copy on disk: ") {
		t.Errorf("it is told as %v", refused["raw"])
	}
	if _, shown := s.get(t, "/readyz"); !strings.Contains(fmt.Sprint(shown["body"]), "what came as main was refused") {
		t.Errorf("shown: %v", shown)
	}
	s.terminate(t)
	history, err := program("audit", record).CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?m)refused .* bundle main .*the copy on disk`).Match(history) {
		t.Errorf("the record of policies: %v\n%s", err, history)
	}
}

// OPA's status says in our words why a bundle was refused.
func TestStatusReports(t *testing.T) {
	t.Parallel()
	server := serveBundles(t)
	server.put("main.tar.gz", pack(t, routes("1", "")))
	s := startBundles(t, fmt.Sprintf(`
services: {web: {url: %q}}
labels: {region: eu}
bundles: {main: {service: web, resource: main.tar.gz, %s}}
status: {service: web}
`, server.URL, longPolling))
	reported := func(f func(bundle map[string]any) bool) func() bool {
		return func() bool {
			for _, report := range server.status {
				bundles, _ := report["bundles"].(map[string]any)
				main, _ := bundles["main"].(map[string]any)
				labels, _ := report["labels"].(map[string]any)
				if main != nil && labels["region"] == "eu" && f(main) {
					return true
				}
			}
			return false
		}
	}
	server.until(t, "told of the first", reported(func(b map[string]any) bool { return b["active_revision"] == "1" && b["message"] == nil }))
	server.until(t, "told that nothing is awaited", func() bool {
		for _, report := range server.status {
			states, ready := report["plugins"].(map[string]any)
			for _, state := range states {
				of, _ := state.(map[string]any)
				ready = ready && of["state"] == "OK"
			}
			if ready {
				return true
			}
		}
		return false
	})
	broken := routes("2", "")
	broken["sallyport/route/route.rego"] += "allow if input.tarrget.port == 1\n"
	server.put("main.tar.gz", pack(t, broken))
	server.until(t, "told of the second", reported(func(b map[string]any) bool {
		text := fmt.Sprint(b["message"])
		return b["active_revision"] == "1" && strings.Contains(text, "main:/sallyport/route/route.rego:6") && strings.Contains(text, "did you mean")
	}))
	// It is offered again and again, but judged, told and counted once.
	before := 0
	server.until(t, "asked again", func() bool {
		if before == 0 {
			before = server.asked["/main.tar.gz 200"]
		}
		return server.asked["/main.tar.gz 200"] > before+1
	})
	metrics := scrape(t, s, "")
	if !strings.Contains(metrics, `sallyport_policy_activations_total{outcome="refused"} 1`) || !strings.Contains(metrics, `outcome="ok"} 1`) {
		t.Errorf("metrics: %s", lineWith(metrics, "policy_activations"))
	}
	told := 0
	s.mu.Lock()
	for _, line := range s.log {
		if strings.Contains(fmt.Sprint(line["raw"]), "tarrget") {
			told++
		}
	}
	s.mu.Unlock()
	if told != 1 {
		t.Errorf("it is told %d times", told)
	}
	s.terminate(t)
}

func lineWith(text, part string) (found string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			found += line
		}
	}
	return found
}

// A bundle's own tests decide on whether it is active.
func TestABundleWhoseTestsFail(t *testing.T) {
	t.Parallel()
	server := serveBundles(t)
	tested := routes("1", `"a.example"`)
	test := `package sallyport.route_test

test_a if data.sallyport.route.allow with input as {"target": {"host": "a.example"}}
`
	tested["sallyport/route_test.rego"] = test
	server.put("main.tar.gz", pack(t, tested))
	s := startBundles(t, fmt.Sprintf(`
services: {web: {url: %q}}
bundles: {main: {service: web, resource: main.tar.gz, %s}}
`, server.URL, longPolling), "--set", "policy.run_tests=true")
	s.wait(t, 0, "policy active")
	tested = routes("2", `"b.example"`)
	tested["sallyport/route_test.rego"] = test
	server.put("main.tar.gz", pack(t, tested))
	line := s.wait(t, 0, "policy refused; the active one stays")
	if text := fmt.Sprint(line["error"]); !strings.Contains(text, "main:/sallyport/route_test.rego:3") || !strings.Contains(text, "test_a fails") {
		t.Errorf("refused: %v", line)
	}
	if _, shown := s.get(t, "/v1/policy"); shown["revision"] != "1" {
		t.Errorf("policy %v", shown)
	}
	s.terminate(t)
}

// Nor do files whose tests fail become active, whoever has them read.
func TestFilesWhoseTestsFail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rules := func(host string) string {
		return fmt.Sprintf("package sallyport.route\n\nallow if input.target.host == %q\n", host)
	}
	write(t, filepath.Join(dir, "route.rego"), rules("a.example"))
	write(t, filepath.Join(dir, "route_test.rego"), `package sallyport.route_test

test_a if data.sallyport.route.allow with input as {"target": {"host": "a.example"}}
`)
	s := start(t, "--policy", dir, "--set", "policy.run_tests=true",
		"--set", `management.tokens={ops: {token: "0123456789abcdef", roles: [admin]}}`)
	first := s.wait(t, 0, "policy active")["policy.revision"]
	write(t, filepath.Join(dir, "route.rego"), rules("b.example"))
	line := s.wait(t, 0, "policy refused; the active one stays")
	if text := fmt.Sprint(line["error"]); line["trigger"] != "watch" || !strings.Contains(text, "route_test.rego:3") || !strings.Contains(text, "test_a fails") {
		t.Errorf("refused: %v", line)
	}
	api := "http://" + s.wait(t, 0, "management")["address"].(string)
	if status, body := call(t, "POST", api+"/v1/reload", "0123456789abcdef"); status != 422 || !strings.Contains(body, "test_a fails") {
		t.Errorf("reload: %d %s", status, body)
	}
	if _, shown := call(t, "GET", api+"/v1/policy", "0123456789abcdef"); !strings.Contains(shown, fmt.Sprintf(`"revision":%q`, first)) {
		t.Errorf("policy %s, want the revision %v", shown, first)
	}
	write(t, filepath.Join(dir, "route_test.rego"), "package sallyport.route_test\n")
	s.wait(t, 1, "policy active")
	s.terminate(t)
}

// A policy whose server is silent for too long allows nothing, until it is heard
// again.
func TestAPolicyThatIsTooOld(t *testing.T) {
	t.Parallel()
	target, _ := origin(t)
	server := serveBundles(t)
	server.put("main.tar.gz", pack(t, routes("1", `"127.0.0.1"`)))
	s := startBundles(t, fmt.Sprintf(`
services: {web: {url: %q}}
bundles: {main: {service: web, resource: main.tar.gz, polling: {min_delay_seconds: 1, max_delay_seconds: 1}}}
`, server.URL), "--set", "policy.max_age=2s")
	s.wait(t, 0, "policy active")
	server.until(t, "asked again", func() bool { return server.asked["/main.tar.gz 304"] > 1 })
	if out, code := curl(t, "-p", "-x", "http://"+s.addr, target); code != 0 {
		t.Fatalf("curl exits %d: %s", code, out)
	}
	server.mu.Lock()
	content := server.bundles["/main.tar.gz"]
	delete(server.bundles, "/main.tar.gz")
	server.mu.Unlock()
	line := s.wait(t, 0, "the policy is too old: nothing is allowed any more")
	if text := fmt.Sprint(line["error"]); !strings.Contains(text, "bundle main") || !strings.Contains(text, "policy.max_age is 2s") {
		t.Errorf("told: %v", line)
	}
	if out, code := curl(t, "-p", "-x", "http://"+s.addr, target); code == 0 {
		t.Errorf("allowed: %s", out)
	}
	api := "http://" + s.wait(t, 0, "management")["address"].(string)
	if status, body := call(t, "GET", api+"/readyz", ""); status != 503 || !strings.Contains(body, "last heard") {
		t.Errorf("ready: %d %s", status, body)
	}
	server.put("main.tar.gz", content)
	s.wait(t, 0, "the policy is young enough again")
	if out, code := curl(t, "-p", "-x", "http://"+s.addr, target); code != 0 {
		t.Errorf("curl exits %d: %s", code, out)
	}
	s.terminate(t)
}

// A bundle in a file is read again when it changes, and held to what a bundle
// among the policy files is.
func TestABundleInAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "main.tar.gz")
	put := func(files map[string]string) {
		next := filepath.Join(dir, ".next")
		if err := os.WriteFile(next, pack(t, files), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
	}
	put(routes("1", ""))
	s := startBundles(t, fmt.Sprintf(`bundles: {main: {resource: "file://%s"}}`, path), "--set", "policy.max_age=1ms")
	s.wait(t, 0, "policy active")
	put(routes("2", ""))
	if line := s.wait(t, 1, "policy active"); line["policy.revision"] != "2" {
		t.Errorf("active: %v", line)
	}
	twice := routes("3", "")
	twice["routes/data.json"] = `{"hosts": [], "hosts": ["evil.example"]}`
	put(twice)
	if line := s.wait(t, 0, "policy refused; the active one stays"); !strings.Contains(fmt.Sprint(line["error"]), "there twice") {
		t.Errorf("refused: %v", line)
	}
	if status, _ := s.get(t, "/readyz"); status != 200 { // files do not age
		t.Errorf("ready: %d", status)
	}
	s.terminate(t)
}
