package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// opaTool is OPA's own command of the release that we embed, as make builds it.
func opaTool(t *testing.T) string {
	t.Helper()
	tool, err := makeOPA()
	if err != nil {
		t.Fatal(err)
	}
	return tool
}

var makeOPA = sync.OnceValues(func() (string, error) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		return "", err
	}
	name := regexp.MustCompile(`(?m)^OPA\s*:= \$\(BIN\)/(.*)$`).FindSubmatch(makefile)
	if name == nil {
		return "", errors.New("the Makefile does not say which OPA")
	}
	if out, err := exec.Command("make", "-s", "-C", "../..", "bin/"+string(name[1])).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return filepath.Abs("../../bin/" + string(name[1]))
})

// signer signs bundles by `opa build`.
type signer struct {
	tool, private string
	public        string // PEM
}

func newSigner(t *testing.T, tool string) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return &signer{
		tool, write(t, filepath.Join(t.TempDir(), "private.pem"), encode("EC PRIVATE KEY", private)), encode("PUBLIC KEY", public),
	}
}

// opaBuild packs files by `opa build`, signed unless there is no signer.
func opaBuild(t *testing.T, tool string, by *signer, files map[string]string) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), text)
	}
	out := filepath.Join(t.TempDir(), "bundle.tar.gz")
	arguments := []string{"build", "--bundle", ".", "--output", out}
	if by != nil {
		arguments = append(arguments, "--signing-alg", "ES256", "--signing-key", by.private)
	}
	cmd := exec.Command(tool, arguments...)
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("opa build: %v: %s", err, said)
	}
	archive, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// heavy is an archive that is larger than it seems: count files of size bytes.
func heavy(t *testing.T, count, size int) []byte {
	t.Helper()
	var out bytes.Buffer
	zip, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	archive := tar.NewWriter(zip)
	block := make([]byte, min(size, 1<<20))
	for i := range count {
		if err := archive.WriteHeader(&tar.Header{Name: fmt.Sprintf("f%d/data.json", i), Mode: 0o600, Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		for left := size; left > 0; left -= len(block) {
			archive.Write(block)
		}
	}
	archive.Close()
	zip.Close()
	return out.Bytes()
}

// traffic asks the proxy for what is allowed and what is not until stop, and
// counts what is answered wrongly.
type traffic struct {
	served, wrong atomic.Int64
	last          atomic.Pointer[string]
	stop          chan struct{}
	done          chan struct{}
}

func send(t *testing.T, proxy string, answers map[string]string) *traffic {
	f := &traffic{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		next := time.NewTicker(10 * time.Millisecond)
		defer next.Stop()
		for {
			for target, want := range answers {
				select {
				case <-f.stop:
					return
				case <-next.C:
				}
				got := answerOf(proxy, target)
				f.served.Add(1)
				if !strings.HasPrefix(got, want) {
					f.wrong.Add(1)
					f.last.Store(&got)
				}
			}
		}
	}()
	return f
}

func (f *traffic) end(t *testing.T) {
	t.Helper()
	close(f.stop)
	<-f.done
	if f.wrong.Load() > 0 || f.served.Load() == 0 {
		t.Errorf("%d of %d answers were wrong: %v", f.wrong.Load(), f.served.Load(), f.last.Load())
	}
}

// answerOf is the first line of the answer to a CONNECT.
func answerOf(proxy, target string) string {
	c, err := net.DialTimeout("tcp", proxy, 5*time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target)
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

// A bundle server does what it likes; the policy that was there before decides.
func TestABundleServerThatIsHostile(t *testing.T) {
	t.Parallel()
	tool := opaTool(t)
	ours, theirs := newSigner(t, tool), newSigner(t, tool)
	target, _ := origin(t)
	host := strings.TrimPrefix(target, "http://")
	files := func(revision string) map[string]string { return routes(revision, `"127.0.0.1"`) }
	good := opaBuild(t, tool, ours, files("1"))
	deep := pack(t, map[string]string{"data.json": strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200)})

	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("X-Key") != "" {
			t.Error("credentials are sent elsewhere")
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer elsewhere.Close()
	sends := func(body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }
	}
	fails := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
	}
	overlapping := files("overlapping")
	overlapping[".manifest"] = `{"revision": "overlapping", "roots": ["sallyport", "routes", "routes/hosts"]}`
	outside := files("outside")
	outside["other/data.json"] = `{"x": 1}`
	outside[".manifest"] = `{"revision": "outside", "roots": ["sallyport", "routes"]}`
	wrongTypes := files("types")
	wrongTypes["sallyport/route/route.rego"] += "\nvia := 7\n"

	var serve atomic.Pointer[http.HandlerFunc]
	now := func(h http.HandlerFunc) { serve.Store(&h) }
	now(sends(good))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*serve.Load())(w, r) }))
	t.Cleanup(server.Close)

	key := write(t, filepath.Join(t.TempDir(), "public.pem"), ours.public)
	s := startBundles(t, fmt.Sprintf(`
services: {web: {url: %q, response_header_timeout_seconds: 1, headers: {X-Key: secret}, credentials: {bearer: {token: "hunter2hunter2"}}}}
keys: {release: {algorithm: ES256, key: "${file:%s}"}}
bundles: {main: {service: web, resource: "main.tar.gz?sig=hunter3hunter3", signing: {keyid: release}, polling: {min_delay_seconds: 1, max_delay_seconds: 1}}}
`, server.URL, key))
	if line := s.wait(t, 0, "policy active"); line["policy.revision"] != "1" {
		t.Fatal(line)
	}
	flows := send(t, s.addr, map[string]string{host: "HTTP/1.1 200", "denied.example:80": "HTTP/1.1 403"})

	for _, attack := range []struct {
		name  string
		serve http.HandlerFunc
		want  string // of what the log and /v1/policy say
	}{
		{"not found", fails(404), "server replied with Not Found"},
		{"failing", fails(500), "server replied with Internal Server Error"},
		{"nothing new, though nobody asked", fails(304), ""},
		{"garbage", sends([]byte("<html>hello</html>")), "gzip: invalid header"},
		{"truncated", sends(good[:len(good)-4]), "the bundle: is not a whole bundle: unexpected EOF"},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(good)))
			w.Write(good[:100])
		}, "unexpected EOF"},
		{"unsigned", sends(opaBuild(t, tool, nil, files("unsigned"))), "bundle missing .signatures.json file"},
		{"signed by another", sends(opaBuild(t, tool, theirs, files("theirs"))), "failed to verify"},
		{"a bomb", sends(heavy(t, 1, 300<<20)), "/f0/data.json: is more than the 256 MiB that a policy may have"},
		{"100,000 files", sends(heavy(t, 100_000, 0)), "/f10000/data.json: is more than the 10000 files and folders that a policy may have"},
		{"deep", sends(deep), "/data.json: nests deeper than 128 levels"},
		{"a delta", sends(pack(t, map[string]string{"patch.json": `{"data": [{"op": "upsert", "path": "/routes/hosts", "value": ["denied.example"]}]}`})), "makes this a delta bundle"},
		{"silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "request failed: Get"},
		{"silent in the middle", func(w http.ResponseWriter, r *http.Request) {
			w.Write(good[:100])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, "the answer stalls: nothing came for 1s"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, "server replied with Forbidden"},
		{"in a circle", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusFound) }, "stopped after 10 redirects"},
		{"roots that overlap", sends(signedAs(t, ours, overlapping)), "manifest has overlapped roots"},
		{"data outside its roots", sends(signedAs(t, ours, outside)), "manifest roots"},
		{"a policy that we refuse", sends(opaBuild(t, tool, ours, wrongTypes)), "main:/sallyport/route/route.rego"},
		{"dropped", func(w http.ResponseWriter, _ *http.Request) {
			c, _, _ := w.(http.Hijacker).Hijack()
			c.Close()
		}, "EOF"},
	} {
		seen := s.lines()
		now(attack.serve)
		if attack.want != "" {
			s.waitAfter(t, seen, attack.name, func(line map[string]any) bool {
				return strings.Contains(fmt.Sprint(line["error"]), attack.want)
			})
		}
		_, shown := s.get(t, "/v1/policy")
		if said := fmt.Sprint(shown["refusal"], shown["bundles"]); shown["revision"] != "1" || !strings.Contains(said, attack.want) {
			t.Errorf("%s: %v", attack.name, shown)
		}
	}
	seen := s.lines()
	now(sends(good))
	s.waitAfter(t, seen, "that all is well", func(line map[string]any) bool {
		return line["msg"] == "the bundle comes as it should again"
	})
	if _, shown := s.get(t, "/v1/policy"); shown["refusal"] != nil || strings.Contains(fmt.Sprint(shown["bundles"]), "problem") {
		t.Errorf("not forgotten: %v", shown)
	}
	flows.end(t)

	now(sends(opaBuild(t, tool, ours, routes("2", ""))))
	if line := s.wait(t, 1, "policy active"); line["policy.revision"] != "2" {
		t.Error(line)
	}
	if got := answerOf(s.addr, host); !strings.HasPrefix(got, "HTTP/1.1 403") {
		t.Error(got)
	}
	flows = send(t, s.addr, map[string]string{host: "HTTP/1.1 403"})
	server.CloseClientConnections()
	server.Close()
	s.waitFor(t, "that the server is gone", func(line map[string]any) bool {
		return strings.Contains(fmt.Sprint(line["error"]), "connection refused")
	})
	flows.end(t)
	s.terminate(t)
	for _, secret := range []string{"hunter2", "hunter3"} {
		if s.says(secret) {
			t.Errorf("the log shows %s", secret)
		}
	}
}

// signedAs signs what `opa build` would refuse to build, by `opa sign`.
func signedAs(t *testing.T, by *signer, files map[string]string) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), text)
	}
	cmd := exec.Command(by.tool, "sign", "--bundle", ".", "--signing-alg", "ES256", "--signing-key", by.private)
	cmd.Dir = dir // the names that are signed begin here
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("opa sign: %v: %s", err, said)
	}
	signed := map[string]string{}
	for name, text := range files {
		signed[name] = text
	}
	signatures, err := os.Open(filepath.Join(dir, ".signatures.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer signatures.Close()
	text, err := io.ReadAll(signatures)
	if err != nil {
		t.Fatal(err)
	}
	signed[".signatures.json"] = string(text)
	return pack(t, signed)
}
