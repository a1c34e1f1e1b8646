package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// Git's own protocol over HTTP: what is pushed goes in one long POST of chunks, after
// a short one that finds out whether the server lets it.
func TestGitPushesAndFetches(t *testing.T) {
	t.Parallel()
	where, err := exec.Command(installed(t, "git"), "--exec-path").Output()
	must(t, err)
	root := t.TempDir()
	backend := cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(where)), "git-http-backend"), Root: "/",
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=a"},
	}
	var chunked atomic.Bool
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "" || r.Header.Get("Proxy-Connection") != "" {
			t.Errorf("the server gets %v", r.Header)
		}
		chunked.Store(chunked.Load() || len(r.TransferEncoding) > 0)
		body, _ := io.ReadAll(r.Body) // since CGI knows no chunks
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		backend.ServeHTTP(w, r)
	})
	// Git sends credentials only when it is asked for them, for each connection anew.
	s := start(t, "--data", settings(t, loopback, port), "--data", usersFile(t, map[string]string{"ann": "right horse"}),
		"--policy", write(t, filepath.Join(t.TempDir(), "authenticate.rego"), `package sallyport.authenticate

default allow := false

allow if input.credentials.verified
`))
	git := func(environment []string, args ...string) {
		t.Helper()
		args = append([]string{"-C", root, "-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "init.defaultBranch=main"}, args...)
		if out, err := client(t, "", append(environment, "GIT_TERMINAL_PROMPT=0"), "git", args...); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	random := make([]byte, 3<<20) // beyond http.postBuffer
	rand.NewChaCha8([32]byte{1}).Read(random)
	for i, proxy := range []string{"http://", "socks5h://"} {
		name := fmt.Sprint("made", i)
		git(nil, "init", "-q", "--bare", name+".git")
		git(nil, "clone", "-q", name+".git", name)
		must(t, os.WriteFile(filepath.Join(root, name, "file"), random, 0o600))
		git(nil, "-C", name, "add", "file")
		git(nil, "-C", name, "commit", "-q", "-m", "First")
		url := "http://" + at + "/" + name + ".git"
		by := []string{"http_proxy=" + proxy + "ann:right%20horse@" + s.addr}
		git(by, "-C", name, "push", "-q", url, "main")
		git(by, "clone", "-q", url, name+".second")
		if got, err := os.ReadFile(filepath.Join(root, name+".second", "file")); err != nil || string(got) != string(random) {
			t.Errorf("by %s: %d bytes, %v", proxy, len(got), err)
		}
	}
	if !chunked.Load() {
		t.Error("nothing was pushed in chunks")
	}
	for i := range 4 { // at the least
		if r := s.wait(t, i, "session"); r["user.name"] != "ann" || r["outcome"] != "ok" {
			t.Errorf("a session is recorded as %v", r["raw"])
		}
	}
}
