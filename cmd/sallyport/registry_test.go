package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const registryUser, registryPassword = "proxy", "hunter2hunter2"

// registry is the distribution project's own, with one user.
type registry struct {
	host string
	dir  string
}

func startRegistry(t *testing.T) *registry {
	t.Helper()
	binary, err := exec.LookPath("docker-registry")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("docker-registry is not installed")
		}
		t.Skip("docker-registry is not installed")
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(registryPassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	r := &registry{host: "127.0.0.1:" + freePort(t), dir: t.TempDir()}
	users := write(t, filepath.Join(r.dir, "htpasswd"), registryUser+":"+string(hash)+"\n")
	config := write(t, filepath.Join(r.dir, "config.yml"), fmt.Sprintf(`
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: %q}
auth: {htpasswd: {realm: registry, path: %q}}
`, filepath.Join(r.dir, "data"), r.host, users))
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, "serve", config)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
		if t.Failed() {
			t.Logf("registry: %s", said.String())
		}
	})
	next := time.NewTicker(20 * time.Millisecond)
	defer next.Stop()
	for end := time.After(20 * time.Second); ; {
		if answer, err := http.Get("http://" + r.host + "/v2/"); err == nil {
			answer.Body.Close()
			return r
		}
		select {
		case <-next.C:
		case <-end:
			t.Fatal("the registry does not answer")
		}
	}
}

// do asks the registry, and wants one of its answers for what is done.
func (r *registry) do(t *testing.T, method, url, kind string, body []byte) http.Header {
	t.Helper()
	if strings.HasPrefix(url, "/") {
		url = "http://" + r.host + url
	}
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(registryUser, registryPassword)
	request.Header.Set("Content-Type", kind)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	if answer.StatusCode > 299 {
		t.Fatalf("%s %s: %s: %s", method, url, answer.Status, text)
	}
	return answer.Header
}

// push puts a bundle under a tag, as an image of one layer, and returns its
// digest. These are the media types that OPA looks for.
func (r *registry) push(t *testing.T, tag string, bundle []byte) string {
	t.Helper()
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	blob := func(kind string, content []byte) descriptor {
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
		at, err := url.Parse(r.do(t, "POST", "/v2/team/policy/blobs/uploads/", "", nil).Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		query := at.Query()
		query.Set("digest", digest)
		at.RawQuery = query.Encode()
		r.do(t, "PUT", at.String(), "application/octet-stream", content)
		return descriptor{kind, digest, len(content)}
	}
	const kind = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": kind,
		"config": blob("application/vnd.oci.image.config.v1+json", []byte("{}")),
		"layers": []descriptor{blob("application/vnd.oci.image.layer.v1.tar+gzip", bundle)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.do(t, "PUT", "/v2/team/policy/manifests/"+tag, kind, manifest).Get("Docker-Content-Digest")
}

func TestBundlesFromARegistry(t *testing.T) {
	t.Parallel()
	tool := opaTool(t)
	by := newSigner(t, tool)
	target, _ := origin(t)
	host := strings.TrimPrefix(target, "http://")
	r := startRegistry(t)
	key := write(t, filepath.Join(t.TempDir(), "public.pem"), by.public)
	from := func(reference, password string) *process {
		return startBundles(t, fmt.Sprintf(`
services: {registry: {url: "http://%[1]s", type: oci, credentials: {bearer: {scheme: Basic, token: "%s:%s"}}}}
keys: {release: {algorithm: ES256, key: "${file:%s}"}}
bundles: {main: {service: registry, resource: "%[1]s/team/policy%[5]s", signing: {keyid: release}, persist: true, polling: {min_delay_seconds: 1, max_delay_seconds: 1}}}
persistence_directory: %[6]q
`, r.host, registryUser, password, key, reference, t.TempDir()))
	}
	fails := func(s *process, want string) {
		t.Helper()
		s.waitFor(t, want, func(line map[string]any) bool { return strings.Contains(fmt.Sprint(line["error"]), want) })
		// Who may see it is for the policy to decide.
		if status, shown := s.get(t, "/v1/policy"); status == 200 && !strings.Contains(fmt.Sprint(shown["bundles"]), want) {
			t.Errorf("%s: %v", want, shown)
		}
	}
	s := from(":stable", registryPassword)
	fails(s, "404 Not Found")
	if got := answerOf(s.addr, host); !strings.HasPrefix(got, "HTTP/1.1 503") {
		t.Errorf("before there is a policy: %s", got)
	}
	first := r.push(t, "stable", opaBuild(t, tool, by, routes("1", `"127.0.0.1"`)))
	if line := s.wait(t, 0, "policy active"); line["policy.revision"] != "1" {
		t.Error(line)
	}
	flows := send(t, s.addr, map[string]string{host: "HTTP/1.1 200", "denied.example:80": "HTTP/1.1 403"})
	r.push(t, "stable", opaBuild(t, tool, nil, routes("unsigned", "")))
	fails(s, "bundle missing .signatures.json file")
	r.push(t, "stable", heavy(t, 20_000, 0))
	fails(s, "/f10000/data.json: is more than the 10000 files and folders that a policy may have")
	flows.end(t)
	// The tag moves on.
	r.push(t, "stable", opaBuild(t, tool, by, routes("2", "")))
	if line := s.wait(t, 1, "policy active"); line["policy.revision"] != "2" {
		t.Error(line)
	}
	if got := answerOf(s.addr, host); !strings.HasPrefix(got, "HTTP/1.1 403") {
		t.Error(got)
	}
	s.terminate(t)

	// A digest does not.
	s = from("@"+first, registryPassword)
	if line := s.wait(t, 0, "policy active"); line["policy.revision"] != "1" {
		t.Error(line)
	}
	s.terminate(t)

	s = from(":stable", "wrong-hunter2")
	fails(s, "basic credential not found")
	if s.says("wrong-hunter2") {
		t.Error("the log shows the password")
	}
	s.terminate(t)
}
