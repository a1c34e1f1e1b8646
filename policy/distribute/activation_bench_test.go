package distribute

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/policy"
	"sallyport/policy/engine"
)

// BenchmarkActivation brings bundles with that many entries of data over HTTP
// while decisions are taken, and reports how long one takes from the request to
// the first decision by it, how much memory that takes at its peak as a multiple
// of what is in use at rest and of the data's JSON, and the 99th percentile and
// the longest of the decisions meanwhile, beside those at rest.
func BenchmarkActivation(b *testing.B) {
	for _, entries := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(entries), func(b *testing.B) { benchmarkActivation(b, entries) })
	}
}

func benchmarkActivation(b *testing.B, entries int) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as the program runs
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 30))
	packed := [2][]byte{}
	size := 0
	for i := range packed {
		packed[i], size = activationBundle(b, i, entries)
	}
	var serving atomic.Int64
	changed := sync.NewCond(&sync.Mutex{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
		defer context.AfterFunc(r.Context(), changed.Broadcast)()
		changed.L.Lock()
		for r.Header.Get("If-None-Match") == fmt.Sprint(serving.Load()) && r.Context().Err() == nil {
			changed.Wait()
		}
		changed.L.Unlock()
		n := serving.Load()
		w.Header().Set("ETag", fmt.Sprint(n))
		w.Write(packed[n%2])
	}))
	defer server.Close()

	active := make(chan struct{}, 1)
	e, err := engine.New(engine.Options{MemoSize: -1, Timeout: 10 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	m, err := New(Options{
		OPA: map[string]any{
			"services": map[string]any{"web": map[string]any{"url": server.URL}},
			"bundles": map[string]any{"main": map[string]any{"service": "web", "resource": "main", "polling": map[string]any{
				"min_delay_seconds": 1, "max_delay_seconds": 1, "long_polling_timeout_seconds": 60,
			}}},
		},
		Log: slog.New(slog.DiscardHandler),
		Decided: func(o *Outcome) {
			if o.Snapshot == nil {
				b.Error(o.Err)
				return
			}
			e.Activate(o.Snapshot)
			active <- struct{}{}
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := m.Start(b.Context(), e); err != nil {
		b.Fatal(err)
	}
	defer m.Close(b.Context())
	defer server.CloseClientConnections()
	<-active

	rest := measureDecisions(e, entries)
	time.Sleep(2 * time.Second)
	atRest, _ := rest.end()
	runtime.GC()
	inUse := heap()

	during := measureDecisions(e, entries)
	for b.Loop() {
		changed.L.Lock()
		serving.Add(1)
		changed.L.Unlock()
		changed.Broadcast()
		<-active
	}
	took := b.Elapsed() / time.Duration(b.N)
	meanwhile, peak := during.end()
	b.ReportMetric(float64(took.Milliseconds()), "ms/activation")
	b.ReportMetric(float64(size)/(1<<20), "MiB-of-JSON")
	b.ReportMetric(float64(inUse)/(1<<20), "MiB-at-rest")
	b.ReportMetric(float64(peak)/(1<<20), "MiB-peak")
	b.ReportMetric(float64(peak)/float64(inUse), "x-rest")
	b.ReportMetric(float64(during.live)/float64(inUse), "x-rest-live")
	for name, sorted := range map[string][]time.Duration{"rest": atRest, "activating": meanwhile} {
		b.ReportMetric(float64(sorted[len(sorted)*99/100].Microseconds()), "p99-µs-"+name)
		b.ReportMetric(float64(sorted[len(sorted)-1].Microseconds()), "max-µs-"+name)
	}
	b.ReportMetric(0, "ns/op")
}

// decisions are measured while somebody else is at work.
type decisions struct {
	stop, done chan struct{}
	took       []time.Duration
	peak, live uint64 // of the heap: with what is not collected yet, and without
}

func measureDecisions(e *engine.Engine, entries int) *decisions {
	d := &decisions{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(d.done)
		facts := &policy.Facts{
			Source: policy.SourceOf(netip.MustParseAddrPort("192.0.2.7:50000")), Request: policy.Request{Command: "connect"},
		}
		for i := 0; ; i++ {
			select {
			case <-d.stop:
				return
			default:
			}
			facts.Target = policy.TargetName(fmt.Sprintf("host-%d.example.com", i*7919%entries), 443)
			begun := time.Now()
			decision := e.Decide(context.Background(), policy.Route, facts)
			d.took = append(d.took, time.Since(begun))
			if decision.Verdict != policy.Allowed {
				panic(decision.Err)
			}
			d.peak, d.live = max(d.peak, heap()), max(d.live, read("/gc/heap/live:bytes"))
			time.Sleep(200 * time.Microsecond)
		}
	}()
	return d
}

func (d *decisions) end() (sorted []time.Duration, peak uint64) {
	close(d.stop)
	<-d.done
	slices.Sort(d.took)
	return d.took, d.peak
}

func heap() uint64 { return read("/memory/classes/heap/objects:bytes") }

func read(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func activationBundle(b *testing.B, revision, entries int) (packed []byte, size int) {
	var data bytes.Buffer
	data.WriteString("{")
	for i := range entries {
		if i > 0 {
			data.WriteString(",")
		}
		fmt.Fprintf(&data, `"host-%d.example.com":%d`, i, revision)
	}
	data.WriteString("}")
	var out bytes.Buffer
	zip, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	archive := tar.NewWriter(zip)
	for _, f := range []struct{ name, text string }{
		{"/.manifest", fmt.Sprintf(`{"revision": "%d", "roots": ["sallyport", "hosts"]}`, revision)},
		{"/hosts/data.json", data.String()},
		{"/sallyport/route/route.rego", `package sallyport.route

default allow := false

allow if {
	m := data.hosts
	some suffix in input.target.suffixes
	m[suffix] >= 0
}
`},
	} {
		if err := archive.WriteHeader(&tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(f.text))}); err != nil {
			b.Fatal(err)
		}
		io.WriteString(archive, f.text)
	}
	if err := archive.Close(); err != nil {
		b.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Bytes(), data.Len()
}
