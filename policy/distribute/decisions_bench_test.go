package distribute

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"sallyport/policy"
	"sallyport/policy/engine"
)

// BenchmarkEventOnThePath is what the decision log adds to a decision, which
// waits for it: to remembered ones, where it shows best. What the log does later
// is not in it: nothing is written as long as no policy is followed.
func BenchmarkEventOnThePath(b *testing.B) {
	const thread = 1 // RUSAGE_THREAD: the one that decides, and collects garbage in proportion
	const most = 500 // connections, whose events have room
	run := func(e *engine.Engine, facts *policy.Facts, n int) time.Duration {
		before := used(b, thread)
		for range n {
			for _, stage := range connectionStages {
				e.Decide(context.Background(), stage, facts)
			}
		}
		return used(b, thread) - before
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as the program has it
	var log atomic.Pointer[DecisionLog]
	quiet, facts := egress(b, engine.Options{})
	logged, _ := egress(b, engine.Options{Record: func(e *engine.Event) error { return log.Load().Record(e) }})
	var added time.Duration
	for left := b.N; left > 0; left -= most {
		l, err := newDecisionLog(&sinkOptions{opa: consoleConfig, LogOptions: LogOptions{Output: io.Discard, Log: slog.New(slog.DiscardHandler)}}, queueBytes)
		if err != nil {
			b.Fatal(err)
		}
		log.Store(l)
		n := min(left, most)
		run(quiet, facts, 10)
		added -= run(quiet, facts, n)
		run(logged, facts, 10)
		added += run(logged, facts, n)
		if l.Dropped() != 0 {
			b.Fatal("the log is full")
		}
		l.Close(context.Background())
	}
	b.ReportMetric(float64(added)/float64(len(connectionStages)*b.N), "cpu-ns/event")
}

// BenchmarkEventInAll is the processor time that an event takes until a server
// has it: by the log, and by OPA's own plugin with OPA's event buffer alone, which
// is given events that are values already.
func BenchmarkEventInAll(b *testing.B) {
	events := connection(b)
	b.Run("log", func(b *testing.B) {
		l := started(b, sinkOptions{opa: toDiscard(b), LogOptions: LogOptions{Wait: time.Minute}}, queueBytes)
		measured(b, func() {
			for i := range b.N {
				if err := l.Record(events[i%len(events)]); err != nil {
					b.Fatal(err)
				}
			}
			if err := l.Close(context.Background()); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("opa", func(b *testing.B) {
		ctx := context.Background()
		m, err := plugins.New(encode(toDiscard(b)), "here", inmem.New(), plugins.Logger(logging.NewNoOpLogger()))
		if err != nil {
			b.Fatal(err)
		}
		trigger := plugins.TriggerManual
		config, err := logs.NewConfigBuilder().WithBytes(m.Config.DecisionLogs).WithServices(m.Services()).WithTriggerMode(&trigger).Parse()
		if err != nil {
			b.Fatal(err)
		}
		p := logs.New(config, m)
		m.Register(logs.Name, p)
		if err := m.Start(ctx); err != nil {
			b.Fatal(err)
		}
		var infos []*server.Info
		for _, e := range events {
			info, err := describe(e, true)
			if err != nil {
				b.Fatal(err)
			}
			infos = append(infos, info)
		}
		measured(b, func() {
			for i := range b.N {
				info := *infos[i%len(infos)] // nothing masks it
				err := storage.Txn(ctx, m.Store, storage.TransactionParams{}, func(txn storage.Transaction) error {
					info.Txn = txn
					return p.Log(ctx, &info)
				})
				if err != nil {
					b.Fatal(err)
				}
				if i%5000 == 4999 || i == b.N-1 {
					if err := p.Trigger(ctx); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
		m.Stop(ctx)
	})
}

// toDiscard is OPA's configuration for a server on loopback that takes all and
// keeps nothing.
func toDiscard(b *testing.B) map[string]any {
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	b.Cleanup(s.Close)
	return map[string]any{
		"services":      map[string]any{"logs": map[string]any{"url": s.URL}},
		"decision_logs": map[string]any{"service": "logs", "reporting": map[string]any{"buffer_type": "event"}},
	}
}

// measured reports the processor time of f for one of b.N.
func measured(b *testing.B, f func()) {
	b.ReportAllocs()
	b.ResetTimer()
	before := used(b, syscall.RUSAGE_SELF)
	f()
	b.ReportMetric(float64(used(b, syscall.RUSAGE_SELF)-before)/float64(b.N), "cpu-ns/event")
}

// used is the processor time that the process or the thread has taken: unlike the
// clock it does not run for neighbours.
func used(b *testing.B, whose int) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(whose, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
