package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// packages_test.go has package managers fetch through the door, which is what most
// machines behind one do with it.

// apt asks for several files at once, one request behind the other on a connection.
func TestApt(t *testing.T) {
	t.Parallel()
	apt, build := installed(t, "apt-get"), installed(t, "dpkg-deb")
	root := t.TempDir()
	// A repository without folders, of packages that differ in size.
	repository := filepath.Join(root, "repository")
	must(t, os.Mkdir(repository, 0o755))
	var index strings.Builder
	var names []string
	for i := range 12 {
		name := fmt.Sprintf("made%d", i)
		names = append(names, name)
		tree := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Join(tree, "DEBIAN"), 0o755))
		control := fmt.Sprintf("Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.example>\nDescription: made\n", name)
		write(t, filepath.Join(tree, "DEBIAN", "control"), control)
		write(t, filepath.Join(tree, "file"), strings.Repeat(name, 1000*i*i))
		file := filepath.Join(repository, name+".deb")
		if out, err := exec.Command(build, "-Znone", "-b", tree, file).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		content, err := os.ReadFile(file)
		must(t, err)
		fmt.Fprintf(&index, "%sFilename: ./%s.deb\nSize: %d\nSHA256: %x\n\n", control, name, len(content), sha256.Sum256(content))
	}
	write(t, filepath.Join(repository, "Packages"), index.String())
	write(t, filepath.Join(repository, "Release"), fmt.Sprintf("Date: Mon, 01 Jan 2001 00:00:00 UTC\nSHA256:\n %x %d Packages\n", sha256.Sum256([]byte(index.String())), index.Len()))
	s, _, port := openDoor(t, http.FileServer(http.Dir(repository)).ServeHTTP)

	for i, proxy := range []string{"http://" + s.addr, "http://ann:right%20horse@" + s.addr, "socks5h://" + s.addr, "socks5h://ann:right%20horse@" + s.addr} {
		t.Run(proxy[:strings.LastIndexAny(proxy, "@/")], func(t *testing.T) {
			dir := filepath.Join(root, fmt.Sprint("apt", i))
			for _, folder := range []string{"state/lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/apt.conf.d", "got"} {
				must(t, os.MkdirAll(filepath.Join(dir, folder), 0o755))
			}
			write(t, filepath.Join(dir, "sources"), fmt.Sprintf("deb [trusted=yes] http://localhost:%s/ ./\n", port))
			write(t, filepath.Join(dir, "status"), "")
			config := write(t, filepath.Join(dir, "config"), fmt.Sprintf(`
Dir::State "%[1]s/state"; Dir::State::status "%[1]s/status"; Dir::Cache "%[1]s/cache"; Dir::Etc "%[1]s/etc";
Dir::Etc::SourceList "%[1]s/sources"; Dir::Etc::SourceParts "/dev/null"; Dir::Log "%[1]s";
APT::Sandbox::User ""; APT::Architecture "amd64"; Acquire::Languages "none"; Acquire::Retries "0";
Acquire::http::Proxy "%[2]s";
`, dir, proxy))
			s.forget("session")
			for _, args := range [][]string{{"update"}, append([]string{"download"}, names...)} {
				c := exec.Command(apt, args...)
				c.Dir, c.Env = filepath.Join(dir, "got"), append(os.Environ(), "APT_CONFIG="+config, "LC_ALL=C", "no_proxy=", "http_proxy=")
				if out, err := c.CombinedOutput(); err != nil || strings.Contains(string(out), "\nErr") || strings.Contains(string(out), "\nW:") {
					t.Fatalf("apt-get %s: %v\n%s", args[0], err, out)
				}
			}
			for _, name := range names {
				want, _ := os.ReadFile(filepath.Join(repository, name+".deb"))
				got, err := os.ReadFile(filepath.Join(dir, "got", name+"_1_all.deb"))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
				}
			}
			// One of the trial before may end after this one has begun.
			mine := func(r map[string]any) bool {
				return strings.HasPrefix(proxy, r["network.protocol.name"].(string)) && (r["user.name"] == "ann") == strings.Contains(proxy, "ann")
			}
			i, r := 0, s.wait(t, 0, "session")
			for !mine(r) {
				i++
				r = s.wait(t, i, "session")
			}
			if r["outcome"] != "ok" {
				t.Errorf("it is recorded as %v", r["raw"])
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Go's own command fetches a module, by the variables that it reads.
func TestGoCommand(t *testing.T) {
	t.Parallel()
	gocmd := installed(t, "go")
	const mod = "module made.example/one\n\ngo 1.21\n"
	var packed bytes.Buffer
	z := zip.NewWriter(&packed)
	for name, text := range map[string]string{"go.mod": mod, "one.go": "// Package one is made.\npackage one\n\n// Text is long.\nconst Text = `" + strings.Repeat("text ", 50_000) + "`\n"} {
		f, err := z.Create("made.example/one@v1.0.0/" + name)
		must(t, err)
		io.WriteString(f, text)
	}
	must(t, z.Close())
	var asked atomic.Int64
	_, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch r.URL.Path {
		case "/made.example/one/@v/v1.0.0.info":
			io.WriteString(w, `{"Version": "v1.0.0", "Time": "2020-01-01T00:00:00Z"}`)
		case "/made.example/one/@v/v1.0.0.mod":
			io.WriteString(w, mod)
		case "/made.example/one/@v/v1.0.0.zip":
			w.Write(packed.Bytes())
		default:
			http.NotFound(w, r)
		}
	})
	// To localhost, and to its addresses, it would go without a proxy.
	names := serveNames(t, map[string][]string{"modules.example.": {"127.0.0.1"}})
	s := start(t, "--data", settings(t, loopback, port), "--data", usersFile(t, map[string]string{"ann": "horse"}), "--set", "dns.servers="+names.addr)
	for i, proxy := range []string{"http://", "http://ann:horse@", "socks5://", "socks5h://ann:horse@"} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "go.mod"), "module asks\n\ngo 1.21\n")
		environment := []string{"HTTP_PROXY=" + proxy + s.addr, "http_proxy=", fmt.Sprintf("GOPROXY=http://modules.example:%d", port), "GOSUMDB=off",
			"GOFLAGS=-modcacherw", "GOTOOLCHAIN=local", "GOMODCACHE=" + filepath.Join(dir, "cache"), "GOWORK=off", "GOPRIVATE=", "GONOPROXY="}
		before := asked.Load()
		out, err := client(t, "", environment, gocmd, "-C", dir, "mod", "download", "-json", "made.example/one@v1.0.0")
		if err != nil || !strings.Contains(out, `"Sum": "h1:`) || asked.Load()-before != 3 {
			t.Errorf("%s: %v, %d requests: %s", proxy, err, asked.Load()-before, out)
		}
		if r := s.wait(t, i, "session"); r["server.address"] != "modules.example" || (r["user.name"] == "ann") != strings.Contains(proxy, "ann") {
			t.Errorf("%s is recorded as %v", proxy, r["raw"])
		}
	}
}
