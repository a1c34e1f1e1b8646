package main

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// opened_test.go has files that the configuration names and that cannot be used.

// chmod sets a mode, and tells the file's name.
func chmod(t *testing.T, path string, mode os.FileMode) string {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// complaints are what a command that fails prints, a line each.
func complaints(t *testing.T, args ...string) []string {
	t.Helper()
	c := program(args...)
	out, err := c.CombinedOutput()
	if err == nil || c.ProcessState.ExitCode() != 2 {
		t.Errorf("%v: exits %d and prints %s", args, c.ProcessState.ExitCode(), out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// Whatever is wrong is told at once, and where it is written.
func TestFilesAreJudgedWithAllElse(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	config := fmt.Sprintf(`limits:
  idle: soon
listeners:
- address: 127.0.0.1:0
  tls:
    cert: %s
    key: none.key
- name: second
  address: 127.0.0.1:0
  tls:
    cert: %s
    key: %s
    client_ca: none.pem
management:
  tls: {cert: "", key: none.key}
upstreams:
  far:
    url: https://127.0.0.1:1
    tls:
      certificate: none.pem
      key: none.key
dns:
  ca: none.pem
geoip:
  databases:
  - none.mmdb
policy:
  paths:
  - none
  data:
  - settings.json
`, cert, cert, key)
	write(t, "c.yaml", config)
	write(t, "settings.json", "{\n\"a\": 1,\n}")
	want := []string{
		`c.yaml:2: limits.idle: `,
		`c.yaml:7: listeners[0].tls.key: private key "none.key" cannot be read: no such file or directory`,
		`c.yaml:13: listeners[1].tls.client_ca: certificate "none.pem" cannot be read: no such file or directory`,
		`c.yaml:15: management.tls.cert: must not be empty`,
		`c.yaml:20: upstreams.far.tls.certificate: certificate "none.pem" cannot be read: no such file or directory`,
		`c.yaml:23: dns.ca: cannot be read: no such file or directory`,
		`c.yaml:26: geoip.databases[0]: none.mmdb: no such file or directory`,
		`c.yaml:29: policy.paths[0]: none: no such file or directory`,
		`settings.json:3: `,
	}
	for _, command := range []string{"check", "run"} {
		lines := complaints(t, command, "--config", "c.yaml")
		for i, line := range want {
			if i >= len(lines) || !strings.HasPrefix(lines[i], "sallyport: "+line) {
				t.Errorf("%s: want as line %d %q of\n%s", command, i, line, strings.Join(lines, "\n"))
			}
		}
		if len(lines) != len(want) {
			t.Errorf("%s prints %d lines, want %d", command, len(lines), len(want))
		}
	}
	// Where only files are wrong, check has what is wrong with the policy, too.
	write(t, "route.rego", "package sallyport.route\n\nallow if input.identity.nmae == \"a\"\n")
	lines := complaints(t, "check", "--set", "geoip.databases=none.mmdb", "--policy", "route.rego")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "sallyport: --set: geoip.databases[0]: ") || !strings.HasPrefix(lines[1], "sallyport: route.rego:3:") {
		t.Errorf("check prints %q", lines)
	}
}

// A private key that others can read is refused as any other secret, wherever it
// is named and whatever file it is in. Certificates are for everybody.
func TestPrivateKeysOpenToOthers(t *testing.T) {
	t.Chdir(t.TempDir())
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	both := write(t, "both.pem", readFile(t, cert)+readFile(t, key))
	chmod(t, cert, 0o644)
	for _, c := range []struct{ name, set string }{
		{"listeners[0].tls.%s", `listeners=[{address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`},
		{"management.tls.%s", `management.tls={cert: %q, key: %q}`},
		{"upstreams.u.tls.%s", `upstreams.u={url: "https://127.0.0.1:1", tls: {certificate: %q, key: %q}}`},
	} {
		named := "cert"
		if strings.HasPrefix(c.name, "upstreams") {
			named = "certificate"
		}
		for _, f := range []struct {
			cert, key, lax string
			mode           os.FileMode
			refused        string
		}{
			{cert, key, key, 0o600, ""},
			{cert, key, key, 0o640, ""},
			{cert, key, key, 0o644, fmt.Sprintf(fmt.Sprintf(c.name, "key")+": private key %q is open to others (mode 0644): run chmod 600 %s", key, key)},
			{cert, key, key, 0o660, fmt.Sprintf(fmt.Sprintf(c.name, "key")+": private key %q is open to others (mode 0660): run chmod 600 %s", key, key)},
			{both, both, both, 0o600, ""},
			{both, both, both, 0o644, fmt.Sprintf(c.name, named) + `: certificate "both.pem" is open to others (mode 0644): run chmod 600 both.pem`},
			{both, key, both, 0o644, fmt.Sprintf(c.name, named) + `: certificate "both.pem" is open to others (mode 0644): run chmod 600 both.pem`},
		} {
			chmod(t, key, 0o600)
			chmod(t, f.lax, f.mode)
			out, err := program("check", "--set", fmt.Sprintf(c.set, f.cert, f.key)).CombinedOutput()
			if (err == nil) != (f.refused == "") || !strings.Contains(string(out), f.refused) {
				t.Errorf("%s, %s of mode %04o: %v, %s", fmt.Sprintf(c.name, ""), f.lax, f.mode, err, out)
			}
			chmod(t, f.lax, 0o600)
		}
	}
	// One that is opened to others while it is in use is not taken again.
	s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key))
	chmod(t, key, 0o644)
	s.cmd.Process.Signal(syscall.SIGHUP)
	if refused := s.wait(t, 0, "certificate refused; the one in use stays"); !strings.Contains(fmt.Sprint(refused["error"]), "run chmod 600 ") {
		t.Errorf("logged: %v", refused["raw"])
	}
}

// A certificate that nobody takes any more, or not yet, is used, but not without
// a word.
func TestCertificatesOutOfDate(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	ca := newAuthority(t, "ca")
	expired := time.Date(2020, 2, 29, 12, 0, 0, 0, time.UTC)
	old, oldKey := ca.issue(t, "old", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = expired.Add(-time.Hour), expired })
	early, earlyKey := ca.issue(t, "early", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2121, 1, 1, 0, 0, 0, 0, time.UTC)
	})
	write(t, "c.yaml", fmt.Sprintf(`listeners:
- address: 127.0.0.1:0
  tls:
    cert: %s
    key: %s
management:
  address: 127.0.0.1:0
  tls: {cert: %s, key: %s}
upstreams:
  far:
    url: https://127.0.0.1:1
    tls: {certificate: %s, key: %s}
state: {path: %s}
`, old, oldKey, early, earlyKey, old, oldKey, filepath.Join(dir, "state.db")))
	want := []string{
		"c.yaml:4: listeners[0].tls.cert: " + old + " has expired on 2020-02-29T12:00:00Z",
		"c.yaml:8: management.tls.cert: " + early + " is not valid before 2120-01-01T00:00:00Z",
		"c.yaml:12: upstreams.far.tls.certificate: " + old + " has expired on 2020-02-29T12:00:00Z",
	}
	lines := complaints(t, "check", "--config", "c.yaml")
	s := follow(t, program("run", "--config", "c.yaml"))
	for i, line := range want {
		if i >= len(lines) || lines[i] != "sallyport: "+line {
			t.Errorf("check prints %q, want %q", lines, line)
		}
		warned := s.wait(t, i, "certificate is out of date")
		if warned["problem"] != line || warned["level"] != "WARN" {
			t.Errorf("run logs %v, want %q", warned["raw"], line)
		}
	}
	out, _ := program("check", "--config", "c.yaml", "--format", "json").Output()
	if !strings.Contains(string(out), `"file":"c.yaml","line":4,`) || strings.Count(string(out), `"warning":true`) != 3 {
		t.Errorf("as JSON check prints %s", out)
	}
	// And where it is read again.
	s.cmd.Process.Signal(syscall.SIGHUP)
	s.wait(t, 5, "certificate is out of date")
}
