package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"sallyport/policy"
	"sallyport/proxy/session"
)

func described(t testing.TB) *Process {
	t.Helper()
	process, err := Describe("1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return process
}

func newTelemetry(t testing.TB, log *slog.Logger) *Telemetry {
	t.Helper()
	tel, err := New(t.Context(), Options{
		Log: log, Process: described(t), Prometheus: true,
		ActiveSessions:     func() int64 { return 7 },
		LogDropped:         func() int64 { return 3 },
		DecisionLogDropped: func() int64 { return 4 },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tel
}

func scrape(t *testing.T, tel *Telemetry) (map[string]*dto.MetricFamily, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	tel.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	text := recorder.Body.String()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("scrape: %v\n%s", err, text)
	}
	return families, text
}

// value of the one series that has exactly these labels: a counter's, a
// gauge's, or the number of a histogram's observations.
func value(families map[string]*dto.MetricFamily, name string, labels map[string]string) (float64, bool) {
	family := families[name]
	if family == nil {
		return 0, false
	}
	for _, m := range family.Metric {
		found := map[string]string{}
		for _, pair := range m.Label {
			found[pair.GetName()] = pair.GetValue()
		}
		if fmt.Sprint(found) != fmt.Sprint(labels) {
			continue
		}
		switch {
		case m.Counter != nil:
			return m.Counter.GetValue(), true
		case m.Gauge != nil:
			return m.Gauge.GetValue(), true
		case m.Histogram != nil:
			return float64(m.Histogram.GetSampleCount()), true
		}
	}
	return 0, false
}

func sampleRecord() *session.Record {
	return &session.Record{
		Snapshot: session.Snapshot{
			ID: "5f9c", Listener: "main", Protocol: "socks5", Identity: "alice",
			Source:    netip.MustParseAddrPort("198.51.100.77:40000"),
			Target:    session.Target{Host: "new.example.org", Port: 443},
			Address:   netip.MustParseAddrPort("203.0.113.9:443"),
			Decisions: session.Decisions{{Stage: "admit", ID: "a1"}, {Stage: "authenticate", ID: "b2"}, {Stage: "route", ID: "c3"}, {Stage: "dial", ID: "d4"}},
			Labels:    map[string]string{"team": "maroon", "cost": "42"},
			Bytes:     session.Bytes{Up: 1234, Down: 56789},
			Started:   time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Duration: 1.5000004,
		},
		Asked: session.Target{Host: "old.example.org", Port: 80}, Outcome: "ok", Revision: "r9",
	}
}

// observeOne is one connection's life as the proxy tells it.
func observeOne(tel *Telemetry, s *session.Session, r *session.Record) {
	tel.SessionEnded(observeUntilTheEnd(tel, s, r), r)
}

func observeUntilTheEnd(tel *Telemetry, s *session.Session, r *session.Record) context.Context {
	ctx := tel.Accepted(context.Background(), s)
	d := &policy.Decision{Verdict: policy.Allowed, Revision: r.Revision}
	decided := func(stage policy.Stage) {
		d.Stage, d.ID = stage, r.Decisions.Of(string(stage))
		tel.Decided(ctx, d, 3*time.Microsecond)
	}
	decided(policy.Admit)
	tel.Began(ctx, "authenticate")
	decided(policy.Authenticate)
	tel.Authenticated(policy.MethodPassword, "allow")
	tel.HandshakeDone(ctx, session.TraceContext{}, time.Millisecond)
	decided(policy.Route)
	tel.Began(ctx, "resolve")
	tel.Resolved(ctx, "ok", false, time.Millisecond)
	tel.Began(ctx, "dial")
	decided(policy.Dial)
	tel.AddressDecided(ctx, r.Address.Addr(), d)
	tel.Dialled(ctx, "direct", "ok", r.Address, 2*time.Millisecond)
	tel.Began(ctx, "relay")
	return ctx
}

func TestMetricsHaveTheNamesAndLabelsOfTheContract(t *testing.T) {
	tel := newTelemetry(t, slog.New(slog.DiscardHandler))
	observeOne(tel, &session.Session{}, sampleRecord())
	ctx := t.Context()
	tel.Decided(ctx, &policy.Decision{Stage: policy.Route}, time.Microsecond)
	tel.Decided(ctx, &policy.Decision{Stage: policy.Route, Verdict: policy.Fault, Err: errors.New("boom")}, 0)
	tel.Decided(ctx, &policy.Decision{Stage: policy.Route, Verdict: policy.Allowed, Warn: policy.Set{"a", "b"}}, time.Microsecond)
	tel.Refused("limit")
	tel.Activated("ok")
	tel.Activated("refused")
	tel.SessionEnded(ctx, &session.Record{Snapshot: session.Snapshot{Listener: "main"}, Outcome: "failed"})

	families, text := scrape(t, tel)
	type labels = map[string]string
	for _, want := range []struct {
		name   string
		labels labels
		value  float64
	}{
		{"sallyport_sessions_total", labels{"listener": "main", "protocol": "socks5", "outcome": "ok"}, 1},
		{"sallyport_sessions_total", labels{"listener": "main", "protocol": "unknown", "outcome": "failed"}, 1},
		{"sallyport_sessions_active", labels{}, 7},
		{"sallyport_decisions_total", labels{"stage": "admit", "verdict": "allow"}, 1},
		{"sallyport_decisions_total", labels{"stage": "route", "verdict": "allow"}, 2},
		{"sallyport_decisions_total", labels{"stage": "route", "verdict": "deny"}, 1},
		{"sallyport_decisions_total", labels{"stage": "route", "verdict": "fault"}, 1},
		{"sallyport_decision_duration_seconds", labels{"stage": "route"}, 3}, // the zero duration is not one
		{"sallyport_refusals_total", labels{"cause": "limit"}, 1},
		{"sallyport_authentications_total", labels{"method": "password", "outcome": "allow"}, 1},
		{"sallyport_handshake_duration_seconds", labels{}, 1},
		{"sallyport_dial_duration_seconds", labels{"upstream": "direct", "outcome": "ok"}, 1},
		{"sallyport_dns_lookups_total", labels{"outcome": "ok", "cached": "false"}, 1},
		{"sallyport_dns_duration_seconds", labels{"outcome": "ok"}, 1},
		{"sallyport_relay_bytes_total", labels{"direction": "up"}, 1234},
		{"sallyport_relay_bytes_total", labels{"direction": "down"}, 56789},
		{"sallyport_policy_activations_total", labels{"outcome": "ok"}, 1},
		{"sallyport_policy_activations_total", labels{"outcome": "refused"}, 1},
		{"sallyport_policy_warnings_total", labels{"stage": "route"}, 2},
		{"sallyport_log_dropped_total", labels{}, 3},
		{"sallyport_decision_log_dropped_total", labels{}, 4},
	} {
		if got, ok := value(families, want.name, want.labels); !ok || got != want.value {
			t.Errorf("%s%v = %v (found: %v), want %v", want.name, want.labels, got, ok, want.value)
		}
	}
	for _, beside := range []string{"go_goroutines", "process_open_fds", "target_info"} {
		if families[beside] == nil {
			t.Errorf("there is no %s", beside)
		}
	}
	for _, private := range []string{"198.51.100.77", "example.org", "203.0.113.9", "alice", "maroon"} {
		if strings.Contains(text, private) {
			t.Errorf("the metrics show %q", private)
		}
	}
	for name, family := range families {
		if strings.HasPrefix(name, "sallyport_") && family.GetHelp() == "" {
			t.Errorf("%s has no description", name)
		}
	}
}

// Prometheus sees no increase in a series that begins with its first event.
func TestAlarmsHaveTheirSeriesFromTheStart(t *testing.T) {
	families, _ := scrape(t, newTelemetry(t, slog.New(slog.DiscardHandler)))
	for _, c := range []struct {
		name   string
		labels map[string]string
	}{
		{"sallyport_decisions_total", map[string]string{"stage": "dial", "verdict": "fault"}},
		{"sallyport_decisions_total", map[string]string{"stage": "manage", "verdict": "deny"}},
		{"sallyport_policy_activations_total", map[string]string{"outcome": "refused"}},
		{"sallyport_policy_warnings_total", map[string]string{"stage": "route"}},
		{"sallyport_refusals_total", map[string]string{"cause": "limit"}},
	} {
		if got, ok := value(families, c.name, c.labels); got != 0 || !ok {
			t.Errorf("%s%v = %v, %t", c.name, c.labels, got, ok)
		}
	}
}

func TestLabelSetsAreBounded(t *testing.T) {
	tel := newTelemetry(t, slog.New(slog.DiscardHandler))
	for i := range 2 * maxLabelSets {
		tel.Refused(fmt.Sprint("made up ", i))
	}
	families, _ := scrape(t, tel)
	if n := len(families["sallyport_refusals_total"].Metric); n != maxLabelSets+1 {
		t.Errorf("%d series, want %d", n, maxLabelSets+1)
	}
	if got, _ := value(families, "sallyport_refusals_total", map[string]string{"cause": "other"}); got != maxLabelSets+2 { // the causes "limit" and "ban" are there from the start
		t.Errorf("other = %v, want %d", got, maxLabelSets+2)
	}
}

func TestWithoutPrometheusThereIsNothingToScrape(t *testing.T) {
	tel, err := New(t.Context(), Options{Log: slog.New(slog.DiscardHandler), Process: described(t)})
	if err != nil {
		t.Fatal(err)
	}
	observeOne(tel, &session.Session{}, sampleRecord())
	recorder := httptest.NewRecorder()
	tel.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	if recorder.Code != 404 {
		t.Errorf("status %d, want 404", recorder.Code)
	}
	if err := tel.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestAlarmsAreRateLimitedForEachStageAndCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		tel := newTelemetry(t, slog.New(slog.NewTextHandler(&out, nil)))
		fault := func(stage policy.Stage, cause string) {
			tel.Decided(t.Context(), &policy.Decision{ID: "id1", Stage: stage, Verdict: policy.Fault, Err: errors.New(cause), Revision: "r9"}, 1)
		}
		lines := func() []string {
			defer out.Reset()
			return strings.Split(strings.TrimSpace(out.String()), "\n")
		}
		for range 5 {
			fault(policy.Route, "conflict at a.rego:7")
		}
		fault(policy.Dial, "conflict at a.rego:7")
		fault(policy.Route, "another")
		tel.Decided(t.Context(), &policy.Decision{Stage: policy.Route, Verdict: policy.Allowed, Warn: policy.Set{"old client"}}, 1)
		tel.Decided(t.Context(), &policy.Decision{Stage: policy.Route, Verdict: policy.Allowed, Warn: policy.Set{"old client"}}, 1)
		got := lines()
		if len(got) != 4 {
			t.Fatalf("%d lines, want 4:\n%s", len(got), strings.Join(got, "\n"))
		}
		for _, part := range []string{"level=ERROR", `msg="policy fault"`, "stage=route", `cause="conflict at a.rego:7"`, "decision.route=id1", "policy.revision=r9", "suppressed=0"} {
			if !strings.Contains(got[0], part) {
				t.Errorf("%q lacks %q", got[0], part)
			}
		}
		if !strings.Contains(got[3], "level=WARN") || !strings.Contains(got[3], "old client") {
			t.Errorf("the warning is %q", got[3])
		}
		time.Sleep(alarmPause)
		fault(policy.Route, "conflict at a.rego:7")
		if got := lines(); len(got) != 1 || !strings.Contains(got[0], "suppressed=4") {
			t.Errorf("after the pause: %q, want one line with suppressed=4", got)
		}
	})
}

func TestDifferentAlarmsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		tel := newTelemetry(t, slog.New(slog.NewTextHandler(&out, nil)))
		flood := func(cause string) int {
			defer out.Reset()
			for i := range 4 * maxAlarms {
				tel.Decided(t.Context(), &policy.Decision{Stage: policy.Route, Verdict: policy.Fault, Err: fmt.Errorf("%s %d", cause, i)}, 1)
			}
			return strings.Count(out.String(), "\n")
		}
		if n := flood("first"); n != maxAlarms+1 {
			t.Errorf("%d lines, want %d and one for the rest", n, maxAlarms)
		}
		time.Sleep(alarmPause)
		if n := flood("second"); n < maxAlarms || n > maxAlarms+1 {
			t.Errorf("after the pause %d lines, want about %d: old alarms are to be forgotten", n, maxAlarms)
		}
		if n := len(tel.alarms.silent); n > maxAlarms+3 {
			t.Errorf("%d alarms are remembered", n)
		}
	})
}

// The budget is for one connection with its four decisions and its record.
func TestOneConnectionAllocatesLittle(t *testing.T) {
	tel := newTelemetry(t, slog.New(slog.NewJSONHandler(io.Discard, nil)))
	r := sampleRecord()
	r.Labels = nil
	s := &session.Session{ID: r.ID, Started: r.Started}
	if n := testing.AllocsPerRun(100, func() { observeUntilTheEnd(tel, s, r) }); n > 1 { // its own decision
		t.Errorf("%v allocations before the end: what is not traced costs nothing", n)
	}
	if n := testing.AllocsPerRun(100, func() { observeOne(tel, s, r) }); n > 8 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkOneConnection is what telemetry costs a connection, and what it
// costs beside, encoding and sending to a collector on this machine included:
// without traces, with traces of which the sampler wants none or one in ten,
// with all, and with all and the log sent as well.
func BenchmarkOneConnection(b *testing.B) {
	for _, bench := range []struct {
		name string
		env  []string
	}{
		{"off", nil},
		{"sampled=none", []string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_TRACES_SAMPLER=always_off"}},
		{"sampled=0.1", []string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.1"}},
		{"sampled=all", []string{"OTEL_TRACES_EXPORTER=otlp"}},
		{"sampled=all/logs", []string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_LOGS_EXPORTER=otlp"}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
			defer sink.Close()
			for _, variable := range bench.env {
				name, value, _ := strings.Cut(variable, "=")
				b.Setenv(name, value)
			}
			if bench.env != nil {
				b.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.URL)
				b.Setenv("OTEL_METRICS_EXPORTER", "none")
				if len(bench.env) == 1 || !strings.HasPrefix(bench.env[1], "OTEL_LOGS") {
					b.Setenv("OTEL_LOGS_EXPORTER", "none")
				}
			}
			log, w := NewLogger(slog.LevelInfo, "json", io.Discard)
			defer w.Close(context.Background())
			process := described(b)
			log, export, err := ExportLog(b.Context(), log, slog.LevelInfo, process)
			if err != nil {
				b.Fatal(err)
			}
			tel, err := New(b.Context(), Options{Log: log, LogExport: export, Process: process, Prometheus: true})
			if err != nil {
				b.Fatal(err)
			}
			r := sampleRecord()
			r.Labels = nil
			s := &session.Session{ID: r.ID, Started: r.Started}
			b.ReportAllocs()
			for b.Loop() {
				observeOne(tel, s, r)
			}
			if tel.tracer != nil {
				b.ReportMetric(float64(tel.tracer.queue.dropped.Load())/float64(b.N), "dropped/op")
			}
			if err := tel.Shutdown(context.Background()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// A round has one line. The faults of its decisions are counted without one.
func TestReasked(t *testing.T) {
	var out bytes.Buffer
	tel := newTelemetry(t, slog.New(slog.NewTextHandler(&out, nil)))
	fault := errors.New("conflict at a.rego:7")
	for range 5 {
		tel.DecidedAgain(t.Context(), &policy.Decision{Stage: policy.Route, Verdict: policy.Fault, Err: fault}, 1)
	}
	if out.Len() > 0 {
		t.Errorf("a fault is logged for each session: %s", &out)
	}
	tel.Reasked(&session.Round{Revision: "r9", Asked: 7, Cut: 2, Took: time.Second})
	tel.Reasked(&session.Round{Revision: "r10", Asked: 5, Faults: 5, Fault: fault})
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, parts := range [][]string{
		{"level=INFO", `msg="live sessions asked again"`, "policy.revision=r9", "sessions=7", "cut=2", "duration=1"},
		{"level=ERROR", `msg="policy fault on live sessions`, "policy.revision=r10", "faults=5", `cause="conflict at a.rego:7"`},
	} {
		for _, part := range parts {
			if !strings.Contains(lines[i], part) {
				t.Errorf("%q lacks %q", lines[i], part)
			}
		}
	}
	recorder := httptest.NewRecorder()
	tel.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	if want := `sallyport_decisions_total{stage="route",verdict="fault"} 5`; !strings.Contains(recorder.Body.String(), want) {
		t.Errorf("the metrics lack %s", want)
	}
}
