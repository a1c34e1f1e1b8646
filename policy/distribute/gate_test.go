package distribute

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/storage"

	"sallyport/policy"
	"sallyport/policy/engine"
)

// gated is a manager of bundles in files, whose outcomes are kept.
type gated struct {
	*Manager
	engine *engine.Engine
	dir    string
	told   chan *Outcome
}

func startGated(t *testing.T, options Options, bundles ...string) *gated {
	t.Helper()
	g := &gated{dir: t.TempDir(), told: make(chan *Outcome, 100)}
	configured := map[string]any{}
	for _, name := range bundles {
		configured[name] = map[string]any{"resource": "file://" + filepath.Join(g.dir, name+".tar.gz")}
	}
	var err error
	g.engine, err = engine.New(engine.Options{Roots: options.Terms.Roots})
	do(t, err)
	t.Cleanup(g.engine.Close)
	if options.OPA == nil {
		options.OPA = map[string]any{"bundles": configured}
	}
	options.Log = slog.New(slog.DiscardHandler)
	options.Decided = func(o *Outcome) {
		if o.Snapshot != nil {
			g.engine.Activate(o.Snapshot)
		}
		g.told <- o
	}
	g.Manager, err = New(options)
	do(t, err)
	t.Cleanup(func() { g.Close(context.Background()) })
	return g
}

// put replaces a bundle's file.
func (g *gated) put(t *testing.T, name string, files map[string]string) {
	t.Helper()
	next := filepath.Join(g.dir, ".next")
	do(t, os.WriteFile(next, bundleOf(t, files), 0o600), os.Rename(next, filepath.Join(g.dir, name+".tar.gz")))
}

func (g *gated) outcome(t *testing.T) *Outcome {
	t.Helper()
	select {
	case o := <-g.told:
		return o
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is decided")
		return nil
	}
}

func bundleOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		do(t, archive.WriteHeader(&tar.Header{Name: "/" + name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(files[name]))}))
		io.WriteString(archive, files[name])
	}
	do(t, archive.Close(), zip.Close())
	return out.Bytes()
}

func policyFiles(revision, rule string) map[string]string {
	return map[string]string{
		".manifest":       `{"revision": "` + revision + `", "roots": ["sallyport"]}`,
		"route/r.rego":    "package sallyport.route\n\n" + rule + "\n",
		"sallyport/x.txt": "means nothing",
	}
}

// Whatever way a bundle comes, its content has one digest, and what was refused
// by it is not judged again.
func TestARefusalIsRemembered(t *testing.T) {
	var mu sync.Mutex
	checked := map[string]int{}
	g := startGated(t, Options{Check: func(a Arrived) error {
		mu.Lock()
		defer mu.Unlock()
		checked[a.Revision]++
		if a.Revision == "old" {
			return errors.New("is older")
		}
		return nil
	}}, "main")
	g.put(t, "main", policyFiles("1", "allow := true"))
	do(t, g.Start(t.Context(), g.engine))
	first := g.outcome(t)
	if first.Snapshot == nil || first.Revision != "1" || len(first.Bundles) != 1 || len(first.Bundles[0].Digest) != 64 || first.Trigger != "bundle main" {
		t.Fatalf("outcome %+v", first)
	}
	old := policyFiles("old", "allow := true")
	for range 3 {
		g.put(t, "main", old)
		do(t, expect(g.load(t), "bundle main: is older"))
	}
	o := g.outcome(t)
	if o.Snapshot != nil || o.Err.Error() != "bundle main: is older" || len(g.told) != 0 {
		t.Errorf("outcome %+v, and %d more", o, len(g.told))
	}
	mu.Lock()
	defer mu.Unlock()
	if checked["old"] != 1 || checked["1"] != 1 {
		t.Errorf("checked %v", checked)
	}
	if s := g.State(); s.Refusal == "" || s.Bundles[0].Refusal == "" || s.Bundles[0].Revision != "1" {
		t.Errorf("state %+v", s)
	}
	// The old content again is in force already, and takes the refusal back.
	g.put(t, "main", policyFiles("1", "allow := true"))
	do(t, g.load(t))
	if s := g.State(); s.Refusal != "" || s.Bundles[0].Refusal != "" || s.Bundles[0].Digest != first.Bundles[0].Digest {
		t.Errorf("state %+v", s)
	}
	// After that it is news again.
	g.put(t, "main", old)
	do(t, expect(g.load(t), "bundle main: is older"))
	if o := g.outcome(t); o.Snapshot != nil || len(g.told) != 0 {
		t.Errorf("outcome %+v, and %d more", o, len(g.told))
	}
}

// load has OPA read the file again, as a change of it does.
func (g *gated) load(t *testing.T) error {
	t.Helper()
	return bundle.Lookup(g.opa).Loaders()["main"].Trigger(t.Context())
}

func expect(err error, text string) error {
	if err == nil || !strings.Contains(err.Error(), text) {
		return errors.New("want the error " + text + ", got " + errorText(err))
	}
	return nil
}

func errorText(err error) string {
	if err == nil {
		return "none"
	}
	return err.Error()
}

func TestAPanicIsARefusal(t *testing.T) {
	g := startGated(t, Options{Check: func(a Arrived) error {
		if a.Revision == "2" {
			panic("boom")
		}
		return nil
	}}, "main")
	g.put(t, "main", policyFiles("1", "allow := true"))
	do(t, g.Start(t.Context(), g.engine))
	g.outcome(t)
	g.put(t, "main", policyFiles("2", "allow := true"))
	do(t, expect(g.load(t), "cannot be judged: boom"))
	g.put(t, "main", policyFiles("3", "allow := false"))
	do(t, g.load(t))
	if g.outcome(t).Snapshot != nil {
		t.Error("the panic is not told")
	}
	if o := g.outcome(t); o.Revision != "3" || o.Snapshot == nil {
		t.Errorf("outcome %+v", o)
	}
}

// Files and bundles are one policy: what changes in either is judged with the
// other as it is.
func TestFilesBesideABundle(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "dial.rego")
	do(t, os.WriteFile(file, []byte("package sallyport.dial\n\nallow := data.lib.yes\n"), 0o600))
	g := startGated(t, Options{Paths: []string{dir}}, "main")
	lib := map[string]string{".manifest": `{"roots": ["lib"]}`, "lib/data.json": `{"yes": true}`}
	do(t, g.Start(t.Context(), g.engine))
	if d := g.engine.Decide(t.Context(), policy.Dial, &policy.Facts{}); d.Verdict != policy.Fault || len(g.told) != 0 {
		t.Errorf("%v before the bundle is there", d.Verdict)
	}
	g.put(t, "main", lib)
	o := g.outcome(t)
	if o.Snapshot == nil || !strings.HasPrefix(o.Revision, "policy-") || g.engine.Decide(t.Context(), policy.Dial, &policy.Facts{}).Verdict != policy.Allowed {
		t.Fatalf("outcome %+v", o)
	}
	do(t, os.WriteFile(file, []byte("package sallyport.dial\n\nallow := data.lib.no\n"), 0o600), g.Reload(t.Context(), "reload"))
	if again := g.outcome(t); again.Trigger != "reload" || again.Digest == o.Digest || again.Bundles[0].Digest != o.Bundles[0].Digest {
		t.Errorf("outcome %+v", again)
	}
	do(t, os.WriteFile(file, []byte("package sallyport.dial\n\nalow := true\n"), 0o600), expect(g.Reload(t.Context(), "reload"), "did you mean allow"))
	g.outcome(t)
	// The files as they were last accepted are judged with what comes next.
	lib["lib/data.json"] = `{"no": true}`
	g.put(t, "main", lib)
	if o := g.outcome(t); o.Snapshot == nil || g.engine.Decide(t.Context(), policy.Dial, &policy.Facts{}).Verdict != policy.Allowed {
		t.Errorf("outcome %+v", o)
	}
}

// Delta bundles change data in place; what decides shares nothing with that.
func TestDeltaBundles(t *testing.T) {
	delta := bundleOf(t, map[string]string{
		".manifest":  `{"revision": "2", "roots": ["sallyport", "hosts"]}`,
		"patch.json": `{"data": [{"op": "upsert", "path": "/hosts/b", "value": true}]}`,
	})
	whole := map[string]string{
		".manifest":              `{"revision": "1", "roots": ["sallyport", "hosts"]}`,
		"sallyport/route/r.rego": "package sallyport.route\n\ndefault allow := false\n\nallow if data.hosts[input.target.host]\n",
		"hosts/data.json":        `{"a": true}`,
	}
	for _, allowed := range []bool{false, true} {
		serve := make(chan []byte, 3)
		serve <- bundleOf(t, whole)
		serve <- delta
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
			select {
			case content := <-serve:
				w.Write(content)
			case <-r.Context().Done():
			}
		}))
		g := startGated(t, Options{Deltas: allowed, OPA: map[string]any{
			"services": map[string]any{"web": map[string]any{"url": server.URL}},
			"bundles": map[string]any{"main": map[string]any{"service": "web", "resource": "main", "polling": map[string]any{
				"min_delay_seconds": 1, "max_delay_seconds": 1, "long_polling_timeout_seconds": 30,
			}}},
		}})
		do(t, g.Start(t.Context(), g.engine))
		stop := make(chan struct{})
		var deciding sync.WaitGroup
		deciding.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					g.engine.Decide(context.Background(), policy.Route, &policy.Facts{Target: policy.TargetName("a", 1)})
				}
			}
		})
		if o := g.outcome(t); o.Revision != "1" {
			t.Fatalf("outcome %+v", o)
		}
		o := g.outcome(t)
		if allowed {
			if o.Snapshot == nil || o.Revision != "2" || g.engine.Decide(t.Context(), policy.Route, &policy.Facts{Target: policy.TargetName("b", 1)}).Verdict != policy.Allowed {
				t.Errorf("outcome %+v", o)
			}
		} else if o.Snapshot != nil || !strings.Contains(o.Err.Error(), "delta bundle") {
			t.Errorf("outcome %+v", o)
		}
		close(stop)
		deciding.Wait()
		server.CloseClientConnections()
		g.Close(t.Context())
		server.Close()
	}
}

// A digest tells contents apart, and nothing else.
func TestDigests(t *testing.T) {
	sums := map[string]string{}
	for name, b := range map[string]*stored{
		"text":    {documents: []engine.Document{{Path: "p", Value: map[string]any{"a": "1"}}}},
		"list":    {documents: []engine.Document{{Path: "p", Value: map[string]any{"a": []any{"1"}}}}},
		"nested":  {documents: []engine.Document{{Path: "p", Value: map[string]any{"a": map[string]any{"1": nil}}}}},
		"null":    {documents: []engine.Document{{Path: "p", Value: map[string]any{"a": nil}}}},
		"true":    {documents: []engine.Document{{Path: "p", Value: map[string]any{"a": true}}}},
		"keys":    {documents: []engine.Document{{Path: "p", Value: map[string]any{"a": "", "1": ""}}}},
		"key":     {documents: []engine.Document{{Path: "p", Value: map[string]any{"a1": ""}}}},
		"module":  {modules: []engine.Module{{Path: "p", Text: []byte("a1")}}},
		"longer":  {modules: []engine.Module{{Path: "p", Text: []byte("a")}, {Path: "1"}}},
		"other":   {Arrived: Arrived{Metadata: map[string]any{"sequence": "2"}}},
		"nothing": {},
	} {
		b.sum()
		if same := sums[b.Digest]; same != "" {
			t.Errorf("%s and %s have one digest", name, same)
		}
		sums[b.Digest] = name
	}
}

// A store's transaction that is refused leaves nothing behind, and the next can
// be opened.
func TestTheGateAborts(t *testing.T) {
	refusal := errors.New("no")
	s := newStore(func(ctx context.Context, c *commit) error {
		if c.compiler == nil {
			c.abort(ctx)
			return refusal
		}
		return c.apply(ctx)
	})
	ctx := t.Context()
	for range 2 {
		err := storage.Txn(ctx, s, storage.WriteParams, func(txn storage.Transaction) error {
			return s.Write(ctx, txn, storage.AddOp, storage.MustParsePath("/a"), "b")
		})
		if !errors.Is(err, refusal) {
			t.Errorf("error %v", err)
		}
	}
	if _, err := storage.ReadOne(ctx, s, storage.MustParsePath("/a")); !storage.IsNotFound(err) {
		t.Errorf("error %v", err)
	}
}
