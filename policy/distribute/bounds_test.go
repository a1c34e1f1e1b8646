package distribute

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/hooks"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// archived is an archive of files, in pairs of a name and its content.
func archived(t *testing.T, files ...string) []byte {
	t.Helper()
	var archive bytes.Buffer
	zip := gzip.NewWriter(&archive)
	out := tar.NewWriter(zip)
	for i := 0; i < len(files); i += 2 {
		if err := out.WriteHeader(&tar.Header{Name: files[i], Mode: 0o600, Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(out, files[i+1])
	}
	out.Close()
	zip.Close()
	return archive.Bytes()
}

// bomb is an archive of under a megabyte with one file of size MiB.
func bomb(t *testing.T, name string, size int) []byte {
	t.Helper()
	var archive, zeros bytes.Buffer
	member := func(to *bytes.Buffer, content []byte) {
		zip, _ := gzip.NewWriterLevel(to, gzip.BestCompression)
		zip.Write(content)
		zip.Close()
	}
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(size) << 20}); err != nil {
		t.Fatal(err)
	}
	member(&archive, head.Bytes())
	member(&zeros, make([]byte, 1<<20)) // members that follow each other are one stream
	for range size {
		archive.Write(zeros.Bytes())
	}
	return archive.Bytes()
}

func TestWhatABundleMayCost(t *testing.T) {
	many := make([]string, 0, 2*(maxFiles+1))
	for i := range maxFiles + 1 {
		many = append(many, fmt.Sprintf("f%d/data.json", i), "{}")
	}
	deep := strings.Repeat(`{"a":`, maxNesting+1) + "1" + strings.Repeat("}", maxNesting+1)
	whole := archived(t, ".manifest", `{"revision": "1", "roots": ["a"]}`, "a/a.rego", "package a", "a/data.json", `{"s": "[[[\"[[["}`, "README", "x")
	delta := archived(t, "patch.json", `{"data": []}`)
	for name, c := range map[string]struct {
		archive []byte
		deltas  bool
		want    string
	}{
		"whole":                 {whole, false, ""},
		"truncated":             {whole[:len(whole)-20], false, "b: is not a whole bundle: unexpected EOF"},
		"garbage":               {[]byte("\x1f\x8bgarbage of a kind"), false, "b: is not a bundle: gzip: invalid header"},
		"files":                 {archived(t, many...), false, "b:/f10000/data.json: is more than the 10000 files and folders that a policy may have"},
		"bomb":                  {bomb(t, "data.json", 300), false, "b:/data.json: is more than the 256 MiB that a policy may have"},
		"bomb in a policy":      {bomb(t, "x.rego", 300), false, "b:/x.rego: is more than the 256 MiB that a policy may have"},
		"yaml":                  {archived(t, "a/data.yaml", strings.Repeat("- 1\n", 100), "b/data.yaml", strings.Repeat("- 1\n", maxYAML/4)), false, "b:/b/data.yaml: is more than the 1 MiB of YAML that a bundle may have: want JSON, as `opa build` makes it"},
		"large manifest":        {archived(t, ".manifest", `{"metadata": {"a": "`+strings.Repeat("x", maxManifest)+`"}}`), false, "b:/.manifest: is more than the 4 MiB that a manifest may have"},
		"bomb unread":           {bomb(t, "README", 600), false, "b: is more than the 256 MiB that a policy may have"},
		"nesting":               {archived(t, "x/data.json", deep), false, "b:/x/data.json: nests deeper than 128 levels"},
		"nesting in YAML":       {archived(t, "data.yaml", "a: "+deep), false, "b:/data.yaml: nests deeper than 128 levels"},
		"nesting in a manifest": {archived(t, ".manifest", deep), false, "b:/.manifest: nests deeper than 128 levels"},
		"manifest":              {archived(t, ".manifest", `{"rotos": []}`), false, `b:/.manifest: a manifest has no key "rotos": it has revision, roots, wasm, rego_version, file_rego_versions, metadata`},
		"compiled":              {archived(t, "policy.wasm", "x"), false, "b:/policy.wasm: is a compiled policy: build the bundle with `opa build --target rego`"},
		"delta":                 {delta, false, "b:/patch.json: makes this a delta bundle, which changes another: want a whole one"},
		"delta welcome":         {delta, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := inspect("b", bytes.NewReader(c.archive), c.deltas); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// hostile is a server that OPA's own client is sent to, bounded.
func hostile(t *testing.T, serve http.HandlerFunc, change func(*boundedTransport)) func(method, path string) (string, error) {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	g := newGuard(nil, Terms{}, false)
	raw, _ := json.Marshal(map[string]any{"services": map[string]any{"s": map[string]any{
		"url": server.URL, "headers": map[string]any{"X-Key": "secret"}, "credentials": map[string]any{"bearer": map[string]any{"token": "secret"}},
	}}})
	m, err := plugins.New(raw, "id", inmem.New(), plugins.WithHooks(hooks.New(g)), plugins.Logger(logging.NewNoOpLogger()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Stop(context.Background()) })
	g.attend(m)
	return func(method, path string) (string, error) {
		client := m.Client("s").WithHeader("Prefer", "modes=snapshot,delta")
		if change != nil {
			// The client is made at the first request.
			client.Do(context.Background(), "GET", "first")
			b := m.Plugin("bounds/1").(*bounded)
			change(b.latest.Transport.(*boundedTransport))
		}
		answer, err := client.Do(context.Background(), method, path)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		return fmt.Sprint(answer.StatusCode, " ", string(body)), err
	}
}

func TestWhatAServiceMayAnswer(t *testing.T) {
	whole := archived(t, "a.rego", "package a")
	delta := archived(t, "patch.json", "{}")
	do := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/whole":
			if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("X-Key") != "secret" {
				t.Error("without credentials")
			}
			w.Write(whole)
		case "/delta":
			w.Write(delta)
		case "/none":
			w.WriteHeader(http.StatusNotFound)
			w.Write(make([]byte, maxAnswer+1))
		case "/text":
			io.WriteString(w, "hello")
		case "/large":
			w.Write(make([]byte, maxAnswer+1))
		case "/huge":
			w.Write([]byte{0x1f, 0x8b})
			for chunk := make([]byte, 1<<20); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}
	}, nil)
	for path, want := range map[string]string{
		"whole": "200 " + string(whole),
		"delta": "the bundle:/patch.json: makes this a delta bundle, which changes another: want a whole one",
		"none":  "404 " + string(make([]byte, maxAnswer)),
		"text":  "200 hello",
		"large": "the answer is no bundle, and more than 4 MiB",
		"huge":  "the answer is more than the 128 MiB that a bundle may have",
	} {
		for range 2 { // the second time from memory
			got, err := do("GET", path)
			if err != nil {
				got = err.Error()
			}
			if !strings.HasSuffix(got, want) {
				t.Errorf("%s: got %.200q", path, got)
			}
		}
	}
	if got, err := do("HEAD", "none"); err != nil || got != "404 " {
		t.Error(got, err)
	}
}

// A server that says nothing, or not all of it, is left.
func TestAServiceThatHangs(t *testing.T) {
	ended := make(chan struct{}, 10)
	serve := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/first":
			return
		case "/body":
			w.Write([]byte{0x1f, 0x8b})
			w.(http.Flusher).Flush()
		case "/error":
			w.WriteHeader(http.StatusInternalServerError)
			w.(http.Flusher).Flush()
		case "/drips":
			for r.Context().Err() == nil {
				w.Write([]byte{0x1f, 0x8b})
				w.(http.Flusher).Flush()
			}
		}
		<-r.Context().Done()
		ended <- struct{}{}
	}
	const short, long = 50 * time.Millisecond, time.Minute // so that only one of the two can be up
	for path, test := range map[string]struct {
		idle, whole time.Duration
		want        string
	}{
		"silent": {short, long, "no answer within 50ms"},
		"body":   {short, long, "the answer stalls: nothing came for 50ms"},
		"error":  {short, long, "the answer stalls: nothing came for 50ms"},
		"drips":  {long, short, "the answer takes longer than 50ms"},
	} {
		do := hostile(t, serve, func(b *boundedTransport) { b.header, b.idle, b.whole = 0, test.idle, test.whole })
		got, err := do("GET", path)
		if err == nil || !strings.HasSuffix(err.Error(), test.want) {
			t.Errorf("%s: %.100q, %v", path, got, err)
		}
		<-ended // the connection too
	}
}

// A redirect is followed without what is for the service alone.
func TestARedirectElsewhere(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			if strings.Contains(fmt.Sprint(values), "secret") {
				t.Errorf("%s is sent elsewhere", name)
			}
		}
		io.WriteString(w, "elsewhere "+r.Header.Get("Prefer"))
	}))
	defer elsewhere.Close()
	do := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		case "/on":
			http.Redirect(w, r, "/here", http.StatusFound)
		case "/here":
			if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("X-Key") != "secret" {
				t.Error("without credentials")
			}
			io.WriteString(w, "here")
		default:
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}
	}, nil)
	for path, want := range map[string]string{"away": "200 elsewhere modes=snapshot,delta", "on": "200 here"} {
		if got, err := do("GET", path); err != nil || got != want {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
	if _, err := do("GET", "circle"); err == nil || !strings.HasSuffix(err.Error(), "stopped after 10 redirects") {
		t.Error(err)
	}
	from := httptest.NewRequest("GET", "https://h/", nil)
	to := httptest.NewRequest("GET", "http://h/", nil)
	to.Response = &http.Response{Request: from}
	if err := (&boundedTransport{host: "h"}).redirected(to); err == nil {
		t.Error("goes on in the clear")
	}
}

// The scan agrees with a reading, wherever its input is cut.
func FuzzNesting(f *testing.F) {
	f.Add([]byte(`{"a": [1, "\"[\\"], "b\\\\": {}}`), 3)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		var value any
		if json.Unmarshal(text, &value) != nil {
			t.Skip()
		}
		n := &nesting{}
		cut = max(0, min(cut, len(text)))
		n.Write(text[:cut])
		n.Write(text[cut:])
		if nests(value, n.deepest) || n.deepest > 0 && !nests(value, n.deepest-1) && !bytes.Contains(text, []byte(`"`)) {
			t.Errorf("%s: %d", text, n.deepest)
		}
	})
}

func FuzzInspect(f *testing.F) {
	f.Add("data.json", []byte(`{"a": [1, "\"["]}`))
	f.Add(".manifest", []byte(`{"revision": "1"}`))
	f.Add("data.yaml", []byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		var archive bytes.Buffer
		zip := gzip.NewWriter(&archive)
		out := tar.NewWriter(zip)
		if out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content))}) != nil {
			t.Skip()
		}
		out.Write(content)
		out.Close()
		zip.Close()
		err := inspect("b", &archive, false)
		var value any
		if strings.HasSuffix(name, "data.json") && json.Unmarshal(content, &value) == nil && nests(value, maxNesting) && err == nil {
			t.Error("nests deeper than is said")
		}
		inspect("b", bytes.NewReader(content), true)
	})
}
