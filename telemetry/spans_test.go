package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"sallyport/policy"
	"sallyport/proxy/session"
)

// newTraced is a telemetry whose spans are kept.
func newTraced(t *testing.T) (*Telemetry, *tracetest.SpanRecorder) {
	t.Helper()
	tel := newTelemetry(t, slog.New(slog.DiscardHandler))
	spans := tracetest.NewSpanRecorder()
	made := sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)).Tracer("sallyport")
	tel.tracer = &tracer{sampled: made, forced: made, queue: &queue{}, shutdown: func(context.Context) error { return nil }}
	return tel, spans
}

// ended is the one span of that name, and its attributes.
func ended(t *testing.T, spans *tracetest.SpanRecorder, name string) (sdk.ReadOnlySpan, map[attribute.Key]string) {
	t.Helper()
	var found sdk.ReadOnlySpan
	for _, s := range spans.Ended() {
		if s.Name() == name {
			if found != nil {
				t.Fatalf("there are several spans %s", name)
			}
			found = s
		}
	}
	if found == nil {
		t.Fatalf("there is no span %s", name)
	}
	attributes := map[attribute.Key]string{}
	for _, a := range found.Attributes() {
		attributes[a.Key] = a.Value.String()
	}
	return found, attributes
}

func TestTheSessionsSpanHasWhatItsLineHas(t *testing.T) {
	tel, spans := newTraced(t)
	r := sampleRecord()
	r.Reasons, r.Cause = []string{"a", "b"}, strings.Repeat("x", 2*maxText)
	observeOne(tel, &session.Session{ID: r.ID, Started: r.Started}, r)
	_, got := ended(t, spans, "session")
	for key, want := range map[attribute.Key]string{
		"session.id": "5f9c", "user.name": "alice", "server.address": "new.example.org", "asked.address": "old.example.org",
		"asked.port": "80", "network.peer.address": "203.0.113.9", "network.peer.port": "443", "network.transport": "tcp",
		"labels.team": "maroon", "labels.cost": "42", "bytes.up": "1234", "bytes.down": "56789", "policy.revision": "r9",
		"reasons": `["a","b"]`, "cause": strings.Repeat("x", maxText) + "…",
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	for key := range got {
		if strings.HasPrefix(string(key), "decision.") || key == "started" || key == "duration" {
			t.Errorf("the span has %s", key)
		}
	}
}

// A name with several addresses has a decision for each; the span of dial names
// the one that let it go where it went.
func TestTheDialNamesTheDecisionOfItsAddress(t *testing.T) {
	first, second, third := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("10.0.0.1")
	for _, test := range []struct {
		outcome string
		to      netip.Addr
		want    string
	}{
		{"ok", netip.MustParseAddr("::ffff:203.0.113.1"), "d1"},
		{"ok", second, "d2"},
		{"refused", netip.Addr{}, "d3"},
	} {
		tel, spans := newTraced(t)
		ctx := tel.Accepted(t.Context(), &session.Session{})
		tel.Decided(ctx, &policy.Decision{Stage: policy.Route, Verdict: policy.Allowed}, 1)
		tel.Began(ctx, "dial")
		for i, ip := range []netip.Addr{first, second, third} {
			d := &policy.Decision{ID: fmt.Sprint("d", i+1), Stage: policy.Dial, Verdict: policy.Allowed}
			if ip == third {
				d.Verdict = policy.Denied
			}
			tel.Decided(ctx, d, 1)
			tel.AddressDecided(ctx, ip, d)
		}
		to := netip.AddrPort{}
		if test.to.IsValid() {
			to = netip.AddrPortFrom(test.to, 443)
		}
		tel.Dialled(ctx, "direct", test.outcome, to, time.Millisecond)
		tel.SessionEnded(ctx, &session.Record{Outcome: test.outcome})
		span, got := ended(t, spans, "dial")
		if got["opa.decision_id"] != test.want || len(span.Events()) != 3 {
			t.Errorf("%s, %v: the decision is %s, with %d events", test.outcome, test.to, got["opa.decision_id"], len(span.Events()))
		}
	}
}

// Whatever is told, a session keeps few steps and ends all its spans.
func TestStepsAreBoundedAndEnd(t *testing.T) {
	tel, spans := newTraced(t)
	ctx := tel.Accepted(t.Context(), &session.Session{})
	for range 100 {
		tel.Decided(ctx, &policy.Decision{Stage: policy.Authenticate}, 1)
	}
	if kept := cap(tel.traceOf(ctx).kept); kept > maxKept {
		t.Errorf("%d decisions are kept", kept)
	}
	tel.Began(ctx, "resolve")
	tel.Resolved(ctx, "servfail", true, time.Millisecond)
	tel.Began(ctx, "dial")
	tel.SessionEnded(ctx, &session.Record{Outcome: "timeout"})
	if started, ended := len(spans.Started()), len(spans.Ended()); started != ended || started != 103 {
		t.Errorf("%d spans have begun and %d have ended", started, ended)
	}
	if _, got := ended(t, spans, "resolve"); got["error.type"] != "servfail" || got["cached"] != "true" {
		t.Errorf("resolve has %v", got)
	}
	if _, got := ended(t, spans, "dial"); got["error.type"] != "timeout" {
		t.Errorf("the dial that never ended has error.type %q", got["error.type"])
	}
}

// stuck is an exporter that takes spans when it is told to.
type stuck struct {
	entered chan int
	answer  chan error
}

func (s stuck) ExportSpans(_ context.Context, spans []sdk.ReadOnlySpan) error {
	s.entered <- len(spans)
	return <-s.answer
}

func (s stuck) Shutdown(context.Context) error { return nil }

func TestWhatFindsNoRoomIsCounted(t *testing.T) {
	s := stuck{make(chan int), make(chan error)}
	q := &queue{size: 8}
	batch := sdk.NewBatchSpanProcessor(spanExit{s, q}, sdk.WithMaxQueueSize(8), sdk.WithMaxExportBatchSize(4), sdk.WithExportTimeout(0))
	made := sdk.NewTracerProvider(sdk.WithSpanProcessor(spanEntry{batch, q})).Tracer("")
	spans := func(n int) {
		for range n {
			_, span := made.Start(t.Context(), "x")
			span.End()
		}
	}
	spans(4)
	if n := <-s.entered; n != 4 {
		t.Fatalf("%d spans are exported", n)
	}
	spans(100) // 4 are on their way, so 4 find room
	if held, dropped := q.held.Load(), q.dropped.Load(); held != 8 || dropped != 96 {
		t.Errorf("%d are held and %d dropped, want 8 and 96", held, dropped)
	}
	s.answer <- errors.New("the collector is away")
	if n := <-s.entered; n != 4 {
		t.Fatalf("%d spans are exported", n)
	}
	if held, dropped := q.held.Load(), q.dropped.Load(); held != 4 || dropped != 100 {
		t.Errorf("%d are held and %d dropped, want 4 and 100", held, dropped)
	}
	s.answer <- nil
	if err := batch.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if held, dropped := q.held.Load(), q.dropped.Load(); held != 0 || dropped != 100 {
		t.Errorf("at the end %d are held and %d dropped", held, dropped)
	}
}

// Whatever a client claims, it is a trace of its own words or none.
func FuzzBelieved(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=1,b=2")
	f.Add("01-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x", "=")
	f.Add("00-00000000000000000000000000000000-0000000000000000-00", strings.Repeat("a=1,", 200))
	f.Fuzz(func(t *testing.T, parent, state string) {
		span := trace.SpanContextFromContext(believed(session.TraceContext{Parent: []string{parent}, State: []string{state}}))
		if !span.IsValid() {
			if span.HasTraceID() || span.HasSpanID() {
				t.Errorf("half of %q is believed: %v", parent, span)
			}
			return
		}
		if !strings.Contains(parent, span.TraceID().String()) || !strings.Contains(parent, span.SpanID().String()) || !span.IsRemote() {
			t.Errorf("%q is understood as %v", parent, span)
		}
		if text := span.TraceState().String(); len(text) > maxTracestate {
			t.Errorf("%d bytes of state", len(text))
		}
	})
}

// A header's value is in no complaint, however it is written.
func FuzzSecrets(f *testing.F) {
	f.Add("authorization=Bearer%20hunter2", "hunter2")
	f.Add("a=b=c,d=efgh", "é")
	f.Fuzz(func(t *testing.T, headers, text string) {
		s := newSecrets([]string{"OTEL_EXPORTER_OTLP_TRACES_HEADERS=" + headers, "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + text})
		for header := range strings.SplitSeq(headers, ",") {
			_, value, _ := strings.Cut(header, "=")
			value = strings.TrimSpace(value)
			if len(value) < minSecret || strings.Contains("[redacted]", value) {
				continue
			}
			if got := s.redact(text + value + text); strings.Contains(strings.ReplaceAll(got, "[redacted]", ""), value) {
				t.Errorf("%q is left in %q", value, got)
			}
		}
	})
}
