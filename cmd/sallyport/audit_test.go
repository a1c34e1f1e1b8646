package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// audited is what `sallyport audit` says of a file, and its exit status.
func audited(t *testing.T, args ...string) (auditResult, string, int) {
	t.Helper()
	var said, complaint strings.Builder
	cmd := program(append([]string{"audit", "--format", "json"}, args...)...)
	cmd.Stdout, cmd.Stderr = &said, &complaint
	cmd.Run()
	var result auditResult
	if err := json.Unmarshal([]byte(said.String()), &result); err != nil {
		t.Fatal(err, said.String(), complaint.String())
	}
	return result, complaint.String(), cmd.ProcessState.ExitCode()
}

// told is the records of a file that has to hold, each as "outcome by".
func told(t *testing.T, file string) []string {
	t.Helper()
	result, complaint, code := audited(t, file)
	if code != 0 || !result.Verified || complaint != "" {
		t.Fatalf("exit %d, %+v, %s", code, result.Problem, complaint)
	}
	var all []string
	for _, r := range result.Records {
		all = append(all, strings.TrimSpace(string(r.Outcome)+" "+r.By))
	}
	return all
}

const (
	goodRule = "package sallyport.route\n\ndefault allow := false\n"
	badRule  = goodRule + "\nalow := true\n"
)

func TestAuditTellsWhatWasActive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rules := filepath.Join(dir, "policy", "route.rego")
	if err := os.Mkdir(filepath.Dir(rules), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, rules, goodRule)
	args := []string{"--policy", filepath.Dir(rules), "--set", "state.path=" + filepath.Join(dir, "state.db"),
		"--set", `management.tokens={ops: {token: "0123456789abcdef", roles: [admin]}}`}
	s := start(t, args...)
	file := filepath.Join(dir, "sallyport-audit.jsonl")
	api := "http://" + s.wait(t, 0, "management")["address"].(string)
	if got := told(t, file); !slices.Equal(got, []string{"started", "activated start"}) {
		t.Fatal(got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Error(info.Mode(), err)
	}

	// An edit that is refused, and the same again.
	write(t, rules, badRule)
	s.wait(t, 0, "policy refused; the active one stays")
	if status, body := call(t, "POST", api+"/v1/reload", "0123456789abcdef"); status != 422 {
		t.Error(status, body)
	}
	write(t, rules, goodRule+"# 2\n")
	s.wait(t, 1, "policy active")
	// The watch does not see what is written by another name.
	behind := filepath.Join(t.TempDir(), "behind.rego")
	if err := os.Link(rules, behind); err != nil {
		t.Fatal(err)
	}
	write(t, behind, goodRule+"# 3\n")
	s.cmd.Process.Signal(syscall.SIGHUP)
	s.wait(t, 2, "policy active")
	write(t, behind, goodRule+"# 4\n")
	if status, body := call(t, "POST", api+"/v1/reload", "0123456789abcdef"); status != 204 {
		t.Error(status, body)
	}
	head, _ := s.wait(t, 3, "policy active")["audit.hash"].(string)
	want := []string{"started", "activated start", "refused watch", "activated watch", "activated HUP", "activated the management API, token ops"}
	if got := told(t, file); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	result, _, _ := audited(t, file)
	if p := result.Records[2].Problems; len(p) != 1 || !strings.Contains(p[0], "route.rego:5") || !strings.Contains(p[0], "did you mean allow?") {
		t.Errorf("%q", p)
	}
	if r := result.Records[1]; !strings.HasPrefix(r.Revision, "files-") || r.Version == "" || r.Time.IsZero() {
		t.Errorf("%+v", r)
	}

	// Another process is told; this one is killed, and the next one goes on.
	second, err := program(append([]string{"run", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"}, args...)...).CombinedOutput()
	if err == nil || !strings.Contains(string(second), "sallyport: --set: state.path: audit log: "+file+": another process writes to it: give each its own by policy.audit, or by state.path") {
		t.Errorf("%v: %s", err, second)
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"time":"2026`)
	f.Close()
	if result, _, code := audited(t, file); code != 0 || result.Tail != "halved" {
		t.Errorf("%d, %+v", code, result)
	}
	s = start(t, args...)
	if got := told(t, file); !slices.Equal(got, append(want, "mended", "started", "activated start")) {
		t.Errorf("%q", got)
	}
	if result, _, code := audited(t, file, "--expect", head); code != 0 || !result.Verified {
		t.Errorf("%d, %+v", code, result.Problem)
	}

	// Without its last lines the chain holds, but for what was noted elsewhere.
	last := result.Records[len(result.Records)-1].Hash
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := write(t, filepath.Join(dir, "cut.jsonl"), strings.Join(strings.SplitAfter(string(text), "\n")[:5], ""))
	told(t, cut)
	if _, complaint, code := audited(t, cut, "--expect", last); code != 1 || !strings.Contains(complaint, "no record has the hash of --expect") {
		t.Errorf("%d, %s", code, complaint)
	}

	// A record that does not hold is not gone on with.
	s.cmd.Process.Kill()
	s.cmd.Wait()
	write(t, file, strings.Replace(string(text), "did you mean", "did we mean", 1))
	if result, complaint, code := audited(t, file); code != 1 || result.Problem.Line != 3 || !strings.HasPrefix(complaint, "sallyport: "+file+":3: was changed: ") {
		t.Errorf("%d, %+v, %s", code, result.Problem, complaint)
	}
	out, err := program(append([]string{"run", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"}, args...)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), file+":3: ") || !strings.Contains(string(out), "move the file away") {
		t.Errorf("%v: %s", err, out)
	}
}

// A record that cannot be written is an alarm, and the proxy goes on.
func TestAuditThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "audit.jsonl")
	rules := write(t, filepath.Join(dir, "route.rego"), goodRule)
	s := start(t, "--policy", rules, "--set", "policy.audit="+file)
	api := "http://" + s.wait(t, 0, "management")["address"].(string)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, rules, goodRule+"\nallow if input.target.port == 443\n")
	s.wait(t, 1, "policy active")
	if e := s.wait(t, 0, "a policy's record is not written"); e["level"] != "ERROR" {
		t.Errorf("%v", e)
	}
	if _, body := call(t, "GET", api+"/metrics", ""); !strings.Contains(body, "sallyport_audit_failed_total 1") {
		t.Error("the metric does not tell")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	write(t, rules, goodRule)
	s.wait(t, 2, "policy active")
	if got := told(t, file); !slices.Equal(got, []string{"continued", "activated watch"}) {
		t.Error(got)
	}
	if result, _, _ := audited(t, file); result.Records[1].Lost != 1 {
		t.Errorf("%+v", result.Records)
	}
}
