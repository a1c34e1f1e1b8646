package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// call makes one management call and returns status and body.
func call(t *testing.T, method, url, token string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestManagement(t *testing.T) {
	t.Parallel()
	target, settings := origin(t)
	dir := t.TempDir()
	s := start(t, "--data", write(t, filepath.Join(dir, "settings.json"), settings),
		"--set", "state.path="+filepath.Join(dir, "state.db"), "--set", "policy.opa.decision_logs.console=true")
	api := "http://" + s.wait(t, 0, "management")["address"].(string)
	file, _ := s.wait(t, 0, "management token")["file"].(string)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(text))

	if out, code := curl(t, "-x", "socks5h://"+s.addr, target); code != 0 {
		t.Fatalf("curl exits %d: %s", code, out)
	}
	s.wait(t, 0, "session")
	for _, c := range []struct {
		method, path, token string
		status              int
		want                string
	}{
		{"GET", "/livez", "", 200, ""},
		{"GET", "/readyz", "", 200, ""},
		{"GET", "/v1/policy", "", 401, "error"},
		{"GET", "/v1/policy", "wrong", 401, "error"},
		{"GET", "/v1/policy", token, 200, `"stage":"route","default":true`},
		{"GET", "/v1/sessions", token, 200, `"sessions":`},
		{"DELETE", "/v1/sessions/none", token, 404, "error"},
		{"POST", "/v1/reload", token, 204, ""},
		{"GET", "/metrics", "", 200, `sallyport_sessions_total{listener="main",outcome="ok",protocol="socks5"} 1`},
		{"GET", "/metrics", "", 200, `sallyport_decisions_total{stage="dial",verdict="allow"} 1`},
		{"GET", "/nothing", token, 404, "error"},
	} {
		status, body := call(t, c.method, api+c.path, c.token)
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.log {
		if raw, _ := e["raw"].(string); strings.Contains(raw, token) {
			t.Errorf("the token is in the log: %s", raw)
		}
	}
}

func TestDecisionLogOnTheConsole(t *testing.T) {
	t.Parallel()
	target, settings := origin(t)
	s := start(t, "--data", write(t, filepath.Join(t.TempDir(), "settings.json"), settings),
		"--set", "policy.opa.decision_logs.console=true")
	if out, code := curl(t, "-x", "http://"+s.addr, "-p", target); code != 0 {
		t.Fatalf("curl exits %d: %s", code, out)
	}
	lines := json.NewDecoder(s.stdout)
	for _, stage := range []string{"admit", "authenticate", "route", "dial"} {
		var event struct {
			DecisionID string         `json:"decision_id"`
			Path       string         `json:"path"`
			Result     map[string]any `json:"result"`
			Input      map[string]any `json:"input"`
		}
		if err := lines.Decode(&event); err != nil {
			t.Fatal(err)
		}
		if event.Path != "sallyport/"+stage || event.DecisionID == "" || event.Result["allow"] != true || event.Input["session"] == nil {
			t.Errorf("%s: %+v", stage, event)
		}
	}
}
