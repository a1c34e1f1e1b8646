package distribute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"sallyport/policy"
	"sallyport/policy/engine"
)

// TestLinesAreThePluginS: an event that no policy edits is written without
// OPA's plugin, and says what the plugin would have written.
func TestLinesAreThePluginS(t *testing.T) {
	values := []string{
		`{}`, `[]`, `null`, `true`, `[1,-2.5,1e3,12345678901234567890]`, `{"":"","b":{"a":[{}]}}`,
		`{"\"\\/\b\f\n\r\t\u0000\u001f\u007f\u2028<>&é\ud83d\ude00":"\"\\/\b\f\n\r\t\u0000\u001f\u007f\u2028<>&é\ud83d\ude00"}`,
	}
	events := everyKindOfEvent()
	for _, value := range values {
		e := event(value)
		e.Input, e.Result, e.Builtins = json.RawMessage(value), json.RawMessage(value), json.RawMessage(value)
		events = append(events, e)
	}
	broken := event("\xff\xfe broken \x00\n")
	broken.Session, broken.Decision.Revision = "s\"\n", "\u2029"
	broken.Decision.Err = errors.New("bad \xff")
	events = append(events, broken)

	traced := event("traced")
	traced.TraceID, traced.SpanID = trace.TraceID{1, 15: 2}, trace.SpanID{3, 7: 4}
	events = append(events, traced)

	var out bytes.Buffer
	sink := sinkOf(t, sinkOptions{opa: consoleConfig, LogOptions: LogOptions{Output: &out}})
	for _, e := range events {
		out.Reset()
		do(t, sink.event(e))
		want := parsed(t, out.Bytes())
		got := parsed(t, appendLine(nil, e, sink.labels))
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}
}

// everyKindOfEvent has and lacks each of the parts that an event may lack.
func everyKindOfEvent() []*engine.Event {
	full, bare := event("full"), event("bare")
	full.Decision.Memoised = true
	full.Bundles = []engine.Bundle{{Name: "a", Revision: "8"}, {Name: "b"}}
	full.Builtins = json.RawMessage(`{"time.now_ns":{"[]":1}}`)
	bare.Decision.Verdict, bare.Decision.Err, bare.Decision.Revision = policy.Fault, errors.New("out of time"), ""
	bare.Session, bare.Input, bare.Result = "", nil, nil
	return []*engine.Event{event("usual"), full, bare}
}

// sinkOf is a sink of the default policy, which nobody else uses.
func sinkOf(t testing.TB, o sinkOptions) *sink {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	o.id = "here"
	s, err := newSink(&o)
	if err != nil {
		t.Fatal(err)
	}
	s.follow(policyOf(t, ""))
	t.Cleanup(func() { s.close(context.Background()) })
	return s
}

func parsed(t *testing.T, line []byte) (event map[string]any) {
	t.Helper()
	if bytes.Count(line, []byte("\n")) != 1 || !bytes.HasSuffix(line, []byte("\n")) {
		t.Fatalf("not one line: %q", line)
	}
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber()
	if err := decoder.Decode(&event); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	return event
}

// egress is an engine with the example policy, and facts that it allows.
func egress(b *testing.B, o engine.Options) (*engine.Engine, *policy.Facts) {
	e, err := engine.New(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(e.Close)
	candidate, err := Load([]string{"../../bundles/egress"}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	s, problems := e.Compile(candidate)
	if s == nil {
		b.Fatal(problems)
	}
	e.Activate(s)
	return e, &policy.Facts{
		Session:     policy.Session{ID: "s1", Listener: "main", Protocol: "socks5"},
		Source:      policy.SourceOf(netip.MustParseAddrPort("192.0.2.7:50000")),
		Credentials: policy.Credentials{Method: "password", Username: "billing", Known: true, Verified: true},
		Identity:    policy.Identity{Name: "billing", Method: "password", Groups: []string{"services"}},
		Request:     policy.Request{Command: "connect"},
		Target:      policy.TargetName("payments.example.com", 443),
		Address:     policy.AddressOf(netip.MustParseAddr("93.184.216.34")),
	}
}

// connection is the events of one connection's four decisions.
func connection(b *testing.B) (events []*engine.Event) {
	e, facts := egress(b, engine.Options{Record: func(e *engine.Event) error { e.Complete(); events = append(events, e); return nil }})
	for _, stage := range connectionStages {
		e.Decide(b.Context(), stage, facts)
	}
	return events
}

var connectionStages = []policy.Stage{policy.Admit, policy.Authenticate, policy.Route, policy.Dial}

// BenchmarkRecord is what the log of the four decisions of a connection costs,
// by itself and by OPA's plugin.
func BenchmarkRecord(b *testing.B) {
	events := connection(b)
	sink := sinkOf(b, sinkOptions{opa: consoleConfig, LogOptions: LogOptions{Output: io.Discard}})
	b.Run("line", func(b *testing.B) {
		b.ReportAllocs()
		var line []byte
		for b.Loop() {
			for _, e := range events {
				line = appendLine(line[:0], e, sink.labels)
			}
		}
	})
	b.Run("plugin", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for _, e := range events {
				if err := sink.event(e); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
