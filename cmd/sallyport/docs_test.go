package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// TestDocuments plays every document as its reader would, from top to bottom in
// one folder. What it makes of a fenced block goes by the block's first line:
//
//	rego, json, yaml  written to the file that the text before it names; a
//	                  policy is judged by check, with what lies in its folder
//	                  and the configuration (sallyport.yaml) that was written
//	                  before; that is judged as well, with the key server.key if
//	                  there is one, and a workflow's steps are
//	                  run. Rules without a package are fragments
//	                  (docs_rego_test.go)
//	sh                run by sh -e; a `sallyport run`, which may have variables
//	                  before it, goes on in the background until the next one or
//	                  the end
//	sh beside         a `sallyport run` that goes on beside the one before
//	sh fails          the same, and the last command has to fail
//	sh network        the same, but its names do not resolve here: the proxy has
//	                  to have been asked for them
//	text              what the block before printed; … stands for anything
//	text log          lines of the running proxy's log and of its output, of both
//	                  where there are two
//
// The folder has a GeoIP database, country.mmdb, and the facts of a client with a
// token, token.json.
// No query for a name leaves the machine. make is a stand-in that knows the
// Makefile's targets. Each document has a network of its own, with the ports that
// it names; where a test may have none, other ports stand for them.
func TestDocuments(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	documents, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(documents) == 0 {
		t.Fatal("there are no documents", err)
	}
	bundles, _ := filepath.Glob(filepath.Join(root, "bundles", "*", "README.md"))
	documents = append(slices.Concat(documents, bundles), filepath.Join(root, "README.md"))
	for _, document := range documents {
		name, err := filepath.Rel(root, document)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "docs/distribution.md" {
				need(t, "nginx", "jq", "openssl", "git")
			}
			if name == "docs/guard.md" {
				need(t, "openssl")
			}
			if name == "docs/secrets.md" {
				need(t, "age", "age-keygen")
			}
			text, err := os.ReadFile(document)
			if err != nil {
				t.Fatal(err)
			}
			r := newReader(t, root)
			for _, b := range blocks(name, string(text)) {
				r.play(t, b)
			}
			r.stop(t)
		})
	}
}

// need skips a test where a program is not installed, but in CI.
func need(t *testing.T, programs ...string) {
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") == "" {
			t.Skip(name + " is not installed")
		}
	}
}

// block is a fenced block of a document.
type block struct {
	place string // file:line of its first line
	kind  string
	file  string // the last file that the text before it names
	text  string
	asked []string // of a fragment
}

func blocks(document, text string) []block {
	fileName := regexp.MustCompile("`([\\w./-]+\\.(?:rego|json|yaml))`")
	var found []block
	var open *block
	named := ""
	for i, line := range strings.Split(text, "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && open == nil:
			open = &block{place: fmt.Sprintf("%s:%d", document, i+2), kind: fence, file: named}
		case isFence:
			found = append(found, *open)
			open, named = nil, ""
		case open != nil:
			open.text += line + "\n"
		default:
			if question, ok := strings.CutPrefix(line, "<!-- ask "); ok && len(found) > 0 {
				last := &found[len(found)-1]
				last.asked = append(last.asked, strings.TrimSuffix(question, " -->"))
			}
			for _, match := range fileName.FindAllStringSubmatch(line, -1) {
				named = match[1]
			}
		}
	}
	return found
}

// reader does what a document says.
type reader struct {
	dir         string
	environment []string
	ports       map[string]string // of the document, by others that are free; nil: they are free
	running     []*process        // the second one beside the first
	printed     string            // by the last block
}

func newReader(t *testing.T, root string) *reader {
	dir, tools, opa := t.TempDir(), t.TempDir(), opaTool(t)
	r := &reader{dir: dir}
	if !ownNetwork(t) {
		r.ports = map[string]string{}
		for _, port := range []string{"1080", "9080", "1081", "9081", "8080"} {
			r.ports[port] = freePort(t)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{
		filepath.Join(tools, "sallyport"): self,
		filepath.Join(tools, "opa"):       opa,
		filepath.Join(dir, "bundles"):     filepath.Join(root, "bundles"),
		filepath.Join(dir, "policy"):      filepath.Join(root, "policy"),
	} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "country.mmdb"), string(countries(t, map[string]string{"8.8.8.0/24": "US", "1.1.1.0/24": "AU", "192.0.2.0/24": "NL"})))
	write(t, filepath.Join(dir, "token.json"), `{"credentials": {"method": "password", "token": "`+guideToken+`"}}`)
	script := "#!/bin/sh\nexec grep -q \"^$1:.*##\" '" + root + "/Makefile'\n"
	if err := os.WriteFile(filepath.Join(tools, "make"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	r.environment = append(os.Environ(), asProgram+"=1", "PWD="+dir,
		"PATH="+tools+string(os.PathListSeparator)+os.Getenv("PATH"),
		"LOGS_TOKEN=of a decision-log service",
		"SALLYPORT_DNS_SERVERS=127.0.0.1:1") // where nobody answers
	for _, name := range []string{"http_proxy", "https_proxy", "all_proxy", "no_proxy"} {
		r.environment = append(r.environment, name+"=", strings.ToUpper(name)+"=")
	}
	return r
}

// command is one that the reader enters.
func (r *reader) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = r.dir, r.environment
	return c
}

func (r *reader) sallyport(t *testing.T, args ...string) *exec.Cmd {
	return r.command(t.Context(), os.Args[0], args...)
}

// has tells whether a file is in the reader's folder.
func (r *reader) has(file string) bool {
	_, err := os.Stat(filepath.Join(r.dir, file))
	return err == nil
}

// picked has the ports that tests were given and do not listen on yet, or not any more.
var picked sync.Map

// freePort is a port that no listener on port 0 is given, those are from 32768, and
// that no other test is given before this one ends.
func freePort(t *testing.T) string {
	for range 100 {
		port := fmt.Sprint(20000 + rand.IntN(12000))
		if _, taken := picked.LoadOrStore(port, true); taken {
			continue
		}
		t.Cleanup(func() { picked.Delete(port) })
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

func (r *reader) play(t *testing.T, b block) {
	var ports []string
	for port, free := range r.ports {
		ports = append(ports, port, free)
	}
	text := strings.NewReplacer(ports...).Replace(b.text)
	if isFragment(b) {
		r.fragment(t, b, text)
		return
	}
	switch kind, how, _ := strings.Cut(b.kind, " "); kind {
	case "rego", "json", "yaml":
		r.write(t, b, kind, text)
	case "sh":
		line := strings.ReplaceAll(text, "\\\n", " ")
		if parts := regexp.MustCompile(`^((?:[A-Z_]+=\S+\s+)*)sallyport run(.*)\n$`).FindStringSubmatch(line); parts != nil {
			r.run(t, b, how == "beside", strings.Fields(parts[1]), parts[2])
			return
		}
		r.shell(t, b, how, text)
	case "text":
		if how == "log" {
			r.logged(t, b, text)
		} else if missing := unprinted(text, r.printed); missing != "" {
			t.Errorf("%s: nothing like %q in:\n%s", b.place, missing, r.printed)
		}
	case "", "ini":
	default:
		t.Errorf("%s: nobody knows what to do with %s", b.place, b.kind)
	}
}

func (r *reader) write(t *testing.T, b block, kind, text string) {
	file := b.file
	if file == "" {
		file = filepath.Join(strings.ReplaceAll(b.place, ":", "."), "unnamed."+kind)
	}
	path := filepath.Join(r.dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, text)
	var judge *exec.Cmd
	switch {
	case kind == "rego":
		judge = r.sallyport(t, "check", "--policy", filepath.Dir(file))
		if r.has("sallyport.yaml") {
			judge.Args = append(judge.Args, "--config", "sallyport.yaml")
		}
	case strings.HasPrefix(file, "sallyport"):
		judge = r.sallyport(t, "check", "--config", file)
		if r.has("server.key") {
			judge.Args = append(judge.Args, "--age-identity", "server.key")
		}
	case strings.HasPrefix(file, ".github/"):
		r.workflow(t, b, text)
		return
	default:
		return
	}
	if out, err := judge.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", b.place, err, out)
	}
}

// run starts a proxy, in place of those that run or beside them. The second one
// has its addresses from the document.
func (r *reader) run(t *testing.T, b block, beside bool, variables []string, arguments string) {
	if strings.ContainsAny(arguments, "'\"$") {
		t.Fatalf("%s: keep quotes out of a `sallyport run`", b.place)
	}
	if !beside {
		r.stop(t)
		if r.ports != nil {
			arguments = "--listen 127.0.0.1:" + r.ports["1080"] + " --management 127.0.0.1:" + r.ports["9080"] + " " + arguments
		}
	}
	cmd := r.sallyport(t, strings.Fields("run "+arguments)...)
	cmd.Env = slices.Concat(cmd.Env, variables)
	s := follow(t, cmd)
	r.running = append(r.running, s)
	go func() { // until the process ends
		lines := bufio.NewScanner(s.stdout)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			s.mu.Lock()
			s.log = slices.Insert(s.log, 0, map[string]any{"raw": lines.Text()})
			s.mu.Unlock()
			s.more.Broadcast()
		}
	}()
	s.wait(t, 0, "management")
}

// workflow runs the steps of a workflow as GitHub would for a push to main, but
// for the actions of others, in a fresh clone of a repository that holds what the
// document has written. What it publishes has to be a bundle.
func (r *reader) workflow(t *testing.T, b block, text string) {
	var workflow struct {
		Jobs map[string]struct {
			Steps []struct {
				Name, Uses, Run string
				Env             map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(text), &workflow); err != nil || len(workflow.Jobs) != 1 {
		t.Fatalf("%s: no workflow of one job: %v", b.place, err)
	}
	clone, home, tools := t.TempDir(), t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	key := readFile(t, filepath.Join(r.dir, "signing.pem"))
	values := strings.NewReplacer(
		"${{ vars.SALLYPORT_URL }}", "file://"+self,
		"${{ secrets.SIGNING_KEY }}", strings.TrimSpace(key),
		"${{ secrets.POLICY_URL }}", "file://"+filepath.Join(home, "published.tar.gz"),
	)
	setUp := r.command(t.Context(), "sh", "-e", "-c", `cp -r egress "$0" && cd "$0" && git init -q && git add . &&
		git -c user.name=t -c user.email=t@example.com commit -qm one`, clone)
	if out, err := setUp.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", b.place, err, out)
	}
	for _, job := range workflow.Jobs {
		for _, step := range job.Steps {
			if step.Uses != "" {
				continue
			}
			run := r.command(t.Context(), "bash", "-e", "-o", "pipefail", "-c", step.Run)
			run.Dir = clone
			run.Env = append(slices.Clone(r.environment), "PWD="+clone, "HOME="+home, "GITHUB_PATH="+filepath.Join(tools, "path"))
			for name, value := range step.Env {
				run.Env = append(run.Env, name+"="+values.Replace(value))
			}
			if out, err := run.CombinedOutput(); err != nil {
				t.Fatalf("%s: the step %q: %v\n%s", b.place, step.Name, err, out)
			}
		}
	}
	published := r.sallyport(t, "check", "--policy", filepath.Join(home, "published.tar.gz"))
	if out, err := published.CombinedOutput(); err != nil {
		t.Errorf("%s: what was published: %v\n%s", b.place, err, out)
	}
	if _, err := os.Stat(filepath.Join(clone, "signing.pem")); err == nil {
		t.Errorf("%s: the key is left behind", b.place)
	}
}

func (r *reader) stop(t *testing.T) {
	for _, s := range r.running {
		s.cmd.Process.Signal(syscall.SIGTERM)
		s.wait(t, 0, "eof")
		if err := s.cmd.Wait(); err != nil {
			t.Errorf("sallyport run, when stopped: %v", err)
		}
	}
	r.running = nil
}

func (r *reader) shell(t *testing.T, b block, how, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	// For the network the lines are run one by one, since each fails.
	scripts := []string{text}
	if how == "network" {
		scripts = strings.SplitAfter(strings.TrimSpace(text), "\n")
	}
	for _, script := range scripts {
		if strings.Contains(script, "sallyport run") {
			t.Fatalf("%s: a `sallyport run` has a block of its own", b.place)
		}
		command := r.command(ctx, "sh", "-e", "-c", script)
		command.Stdout, command.Stderr = &out, &out
		command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
		err := command.Run()
		if failed := err != nil; failed != (how != "") {
			t.Errorf("%s: %v\n%s%s", b.place, err, script, out.String())
		}
		if how == "network" {
			host := regexp.MustCompile(`https?://([\w.-]+)/`).FindStringSubmatch(script)
			if host == nil {
				t.Fatalf("%s: there is no address in %q", b.place, script)
			}
			r.logged(t, b, `{…"server.address":"`+host[1]+`"…}`)
		}
	}
	r.printed = out.String()
}

// logged waits until the running proxy has written each line.
func (r *reader) logged(t *testing.T, b block, text string) {
	if len(r.running) == 0 {
		t.Fatalf("%s: no proxy runs", b.place)
	}
	for _, s := range r.running {
		s.logged(t, b, text)
	}
}

func (s *process) logged(t *testing.T, b block, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, s.more.Broadcast)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(text) {
		for !slices.ContainsFunc(s.log, func(e map[string]any) bool {
			raw, _ := e["raw"].(string)
			return unprinted(line, raw) == ""
		}) {
			if ctx.Err() != nil {
				log, _ := json.MarshalIndent(s.log, "", " ")
				t.Fatalf("%s: nothing like %s in the log: %s", b.place, line, log)
			}
			s.more.Wait()
		}
	}
}

// unprinted returns the first line of a document's text that is not among
// those that were printed, in order.
func unprinted(text, printed string) string {
	lines := strings.Split(strings.ReplaceAll(printed, "\r", ""), "\n")
	for want := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*") + "$")
		at := slices.IndexFunc(lines, pattern.MatchString)
		if at < 0 {
			return want
		}
		lines = lines[at+1:]
	}
	return ""
}
