package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/bundle"
)

const (
	oldKey = "an-old-key-of-the-ci-that-signs-"
	ciKey  = "the-key-of-the-ci-that-signs-it-"
)

// signed is a bundle as `opa build` and `opa sign` would write it.
func signed(t *testing.T, keyID, key string, files map[string]string) []byte {
	t.Helper()
	b, err := bundle.NewReader(bytes.NewReader(pack(t, files))).Read()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.GenerateSignature(bundle.NewSigningConfig(key, "HS256", ""), keyID, false); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := bundle.Write(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// release is a policy with a sequence; below 0 it has none.
func release(revision string, sequence int) map[string]string {
	files := routes(revision, fmt.Sprintf("%q", revision+".example"))
	if sequence >= 0 {
		files[".manifest"] = fmt.Sprintf(`{"revision": %q, "roots": ["sallyport", "routes"], "metadata": {"sequence": %d}}`, revision, sequence)
	}
	return files
}

// refusalOf is what /v1/policy says of the revision in force and of the bundle
// that was refused.
func refusalOf(t *testing.T, s *process) (revision, refusal string) {
	t.Helper()
	_, shown := s.get(t, "/v1/policy")
	bundles, _ := shown["bundles"].([]any)
	if len(bundles) != 1 {
		t.Fatalf("policy %v", shown)
	}
	b := bundles[0].(map[string]any)
	revision, _ = shown["revision"].(string)
	refusal, _ = b["refusal"].(string)
	return revision, refusal
}

func TestAnOlderBundleIsRefused(t *testing.T) {
	t.Parallel()
	server := serveBundles(t)
	dir := t.TempDir()
	opa := fmt.Sprintf(`
services: {web: {url: %q}}
keys:
  ci: {algorithm: HS256, key: %q}
  old: {algorithm: HS256, key: %q}
bundles: {main: {service: web, resource: main.tar.gz, signing: {keyid: ci}, persist: PERSIST, %s}}
persistence_directory: %q
`, server.URL, ciKey, oldKey, longPolling, filepath.Join(dir, "persisted"))
	persisting := strings.Replace(opa, "PERSIST", "true", 1)
	opa = strings.Replace(opa, "PERSIST", "false", 1)
	state := []string{"--set", "state.path=" + filepath.Join(dir, "state.db")}
	put := func(revision string, sequence int) {
		server.put("main.tar.gz", signed(t, "ci", ciKey, release(revision, sequence)))
	}
	stop := func(s *process) { s.cmd.Process.Kill(); s.cmd.Wait() }

	put("one", 5)
	s := startBundles(t, persisting, state...)
	s.wait(t, 0, "policy active")
	put("two", 6)
	s.wait(t, 1, "policy active")

	// Validly signed, and older.
	put("one", 5)
	line := s.wait(t, 0, "policy refused; the active one stays")
	if text := fmt.Sprint(line["error"]); !strings.Contains(text, "bundle main: older: its metadata.sequence is 5, and 6 was active") {
		t.Error(text)
	}
	if revision, refusal := refusalOf(t, s); revision != "two" || !strings.Contains(refusal, "older") {
		t.Errorf("%s is active, refused: %s", revision, refusal)
	}
	// Another bundle of the same sequence.
	put("six", 6)
	line = s.wait(t, 1, "policy refused; the active one stays")
	if text := fmt.Sprint(line["error"]); !strings.Contains(text, "as that of another bundle") {
		t.Error(text)
	}
	// The way back in an emergency.
	put("one", 7)
	if line := s.wait(t, 2, "policy active"); line["policy.revision"] != "one" {
		t.Errorf("%v", line)
	}
	put("one", 6)
	s.wait(t, 2, "policy refused; the active one stays")
	stop(s)

	// What was persisted serves at once, and what the server has is still older.
	s = startBundles(t, persisting, state...)
	if line := s.wait(t, 0, "policy active"); line["policy.revision"] != "one" {
		t.Errorf("%v", line)
	}
	s.wait(t, 0, "policy refused; the active one stays")
	stop(s)

	// With nothing persisted nothing serves.
	s = startBundles(t, opa, state...)
	s.wait(t, 0, "policy refused; the active one stays")
	if status, shown := s.get(t, "/readyz"); status != 503 {
		t.Errorf("%d %v", status, shown)
	}
	stop(s)

	// Unless the operator allows it. What came back is not older than itself.
	s = startBundles(t, opa, append(state, "--set", "policy.rollback=allow")...)
	if line := s.wait(t, 0, "policy active"); line["policy.revision"] != "one" {
		t.Errorf("%v", line)
	}
	stop(s)
	s = startBundles(t, opa, state...)
	s.wait(t, 0, "policy active")
	put("zero", 3)
	s.wait(t, 0, "policy refused; the active one stays")
	put("none", -1)
	s.wait(t, 1, "policy refused; the active one stays")

	result, _, _ := audited(t, filepath.Join(dir, "sallyport-audit.jsonl"))
	var all []string
	for _, r := range result.Records {
		text := string(r.Outcome)
		for _, source := range r.Sources {
			text += " " + source.Revision
			if source.Sequence != nil {
				text += fmt.Sprint(" ", *source.Sequence)
			}
			if source.KeyID != "ci" || source.From != server.URL+"/main.tar.gz" || len(source.Digest) != 64 {
				t.Errorf("%+v", source)
			}
		}
		all = append(all, text)
	}
	want := `started
activated one 5
activated two 6
refused one 5
refused six 6
activated one 7
refused one 6
started
activated one 7
refused one 6
started
refused one 6
started
activated one 6
started
activated one 6
refused zero 3
refused none`
	if got := strings.Join(all, "\n"); got != want {
		t.Errorf("the record tells\n%s\nwant\n%s", got, want)
	}
	if r := result.Records[1]; r.By != "bundle main" || r.Revision == "" || len(r.Digest) != 64 {
		t.Errorf("%+v", r)
	}
}

// A sequence that is none is refused, whatever the operator allows.
func TestASequenceIsAWholeNumber(t *testing.T) {
	t.Parallel()
	server := serveBundles(t)
	files := routes("one", "")
	files[".manifest"] = `{"revision": "one", "roots": ["sallyport", "routes"], "metadata": {"sequence": "7"}}`
	server.put("main.tar.gz", pack(t, files))
	s := startBundles(t, fmt.Sprintf(`
services: {web: {url: %q}}
bundles: {main: {service: web, resource: main.tar.gz, %s}}
`, server.URL, longPolling), "--set", "policy.rollback=allow")
	line := s.wait(t, 0, "policy refused; the active one stays")
	if text := fmt.Sprint(line["error"]); !strings.Contains(text, "bundle main: metadata.sequence: want a whole number, got \"7\"") {
		t.Error(text)
	}
}

// Without a record an older bundle would not be known after the next start.
func TestTheOrderOfBundlesNeedsTheRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "sallyport.yaml"), `
policy:
  audit: `+filepath.Join(dir, "nowhere", "audit.jsonl")+`
  opa:
    services: {web: {url: "http://127.0.0.1:1"}}
    bundles: {main: {service: web, resource: main.tar.gz}}
state: {path: `+filepath.Join(dir, "state.db")+`}
`)
	args := []string{"--config", file, "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"}
	out, err := program(append([]string{"run"}, args...)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "sallyport: "+file+":3: policy.audit: audit log: ") || !strings.Contains(string(out), "policy.rollback: allow") {
		t.Errorf("%v: %s", err, out)
	}
	s := start(t, append(args, "--set", "policy.rollback=allow")...)
	if line := s.wait(t, 0, "a policy's record is not written"); line["level"] != "ERROR" {
		t.Errorf("%v", line)
	}
}

// Of several keys it is the signature that names one.
func TestTheRecordNamesTheSigner(t *testing.T) {
	t.Parallel()
	server := serveBundles(t)
	dir := t.TempDir()
	s := startBundles(t, fmt.Sprintf(`
services: {web: {url: %q}}
keys:
  ci: {algorithm: HS256, key: %q}
  old: {algorithm: HS256, key: %q}
bundles: {main: {service: web, resource: main.tar.gz, signing: {scope: ""}, %s}}
`, server.URL, ciKey, oldKey, longPolling), "--set", "state.path="+filepath.Join(dir, "state.db"))
	server.put("main.tar.gz", signed(t, "old", oldKey, release("one", 1)))
	s.wait(t, 0, "policy active")
	server.put("main.tar.gz", signed(t, "ci", ciKey, release("two", 2)))
	s.wait(t, 1, "policy active")
	result, _, _ := audited(t, filepath.Join(dir, "sallyport-audit.jsonl"))
	var keys []string
	for _, r := range result.Records[1:] {
		keys = append(keys, r.Sources[0].KeyID)
	}
	if got := strings.Join(keys, " "); got != "old ci" {
		t.Errorf("signed by %s", got)
	}
}
