package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestPrintShowsInTheLog: what a policy prints is in the log with its place and
// its session, each time; the token that a client presents never is.
func TestPrintShowsInTheLog(t *testing.T) {
	t.Parallel()
	const token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
	dir := t.TempDir()
	write(t, filepath.Join(dir, "authenticate.rego"), `package sallyport.authenticate

default allow := false

allow if {
	print(input)
	print("token", input.credentials.token)
	[_, claims, _] := io.jwt.decode(input.credentials.token)
	print("claims", claims)
	claims.sub == "alice"
}

identity := {"name": "alice"}
`)
	write(t, filepath.Join(dir, "route.rego"), `package sallyport.route

default allow := false

reason := "nothing is allowed" if print("asked for", input.target.host)
`)
	s := start(t, "--policy", dir, "--set", "policy.opa.decision_logs.console=true", "--set", "log.level=debug")
	for range 2 {
		out, _ := curl(t, "-p", "-x", "http://"+s.addr, "--proxy-header", "Proxy-Authorization: Bearer "+token, "http://target.example/")
		if !strings.Contains(out, "403") {
			t.Fatal(out)
		}
	}
	var printed []string
	for i := range 8 {
		line := s.wait(t, i, "policy print")
		if line["level"] != "INFO" || line["session.id"] == "" || line["session.id"] == nil {
			t.Errorf("%v", line)
		}
		printed = append(printed, fmt.Sprintf("%v %s:%v %v %v", line["stage"], filepath.Base(line["file"].(string)), line["line"], line["text"], line["withheld"]))
	}
	want := []string{
		"authenticate authenticate.rego:6 <nil> true", "authenticate authenticate.rego:7 <nil> true", "authenticate authenticate.rego:9 <nil> true",
		"route route.rego:5 asked for target.example <nil>",
	}
	if got := strings.Join(printed, "\n"); got != strings.Join(append(want, want...), "\n") {
		t.Errorf("printed:\n%s", got)
	}
	s.wait(t, 1, "session")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.log {
		if text := fmt.Sprint(line); strings.Contains(text, token) || strings.Contains(text, "eyJzdWIiOiJhbGljZSJ9") {
			t.Errorf("the token is in the log: %s", text)
		}
	}
}
