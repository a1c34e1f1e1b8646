package distribute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/policy"
	"sallyport/policy/engine"
)

var consoleConfig = map[string]any{
	"decision_logs": map[string]any{"console": true},
	"labels":        map[string]any{"region": "eu"},
}

// policyOf is a snapshot of one Rego file, or of the default policy.
func policyOf(t testing.TB, module string) *engine.Snapshot {
	t.Helper()
	return policyWith(t, module, `{}`)
}

func policyWith(t testing.TB, module, data string) *engine.Snapshot {
	t.Helper()
	var value map[string]any
	if err := json.Unmarshal([]byte(data), &value); err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	candidate := &engine.Candidate{Revision: "1", Documents: []engine.Document{{Path: "data.json", Value: value}}}
	if module != "" {
		candidate.Modules = []engine.Module{{Path: "a.rego", Text: []byte(module)}}
	}
	s, problems := e.Compile(candidate)
	if s == nil {
		t.Fatal(problems)
	}
	return s
}

// started is a log of the default policy, which masks nothing.
func started(t testing.TB, o sinkOptions, most int64) *DecisionLog {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.id = "here"
	l, err := newDecisionLog(&o, most)
	if err != nil {
		t.Fatal(err)
	}
	l.Follow(policyOf(t, ""))
	return l
}

func decisionLog(t testing.TB, output io.Writer, log io.Writer) *DecisionLog {
	t.Helper()
	return started(t, sinkOptions{opa: consoleConfig, LogOptions: LogOptions{Output: output, Log: slog.New(slog.NewTextHandler(log, nil))}}, queueBytes)
}

func event(id string) *engine.Event {
	return &engine.Event{
		Decision: &policy.Decision{ID: id, Stage: policy.Route, Verdict: policy.Allowed, Revision: "7"},
		Session:  "s-1",
		Time:     time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		Input:    json.RawMessage(`{"target":{"host":"a\nb.example","port":443},"session":{"id":"s-1"}}`),
		Result:   json.RawMessage(`{"allow":true,"reason":["a","b"],"labels":{"n":12345678901234567890}}`),
		Duration: 1500 * time.Nanosecond,
	}
}

// lines parses what a log has written.
func lines(t *testing.T, text string) (events []map[string]any) {
	t.Helper()
	for line := range strings.Lines(text) {
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.UseNumber()
		var event map[string]any
		if err := decoder.Decode(&event); err != nil || decoder.More() {
			t.Fatalf("not one JSON event a line: %q: %v", line, err)
		}
		events = append(events, event)
	}
	return events
}

func TestDecisionsAreOPAEvents(t *testing.T) {
	memoised, faulty := event("d-2"), event("d-3")
	memoised.Decision.Memoised = true
	memoised.Decision.Verdict = policy.Denied
	memoised.Bundles = []engine.Bundle{{Name: "main", Revision: "8"}}
	memoised.Builtins = json.RawMessage(`{"time.now_ns":{"[]":1}}`)
	faulty.Decision.Stage, faulty.Decision.Verdict = policy.Manage, policy.Fault
	faulty.Decision.Err = errors.New("out of time")
	faulty.Session, faulty.Result = "", nil

	var out, log bytes.Buffer
	l := decisionLog(t, &out, &log)
	for _, e := range []*engine.Event{event("d-1"), memoised, faulty} {
		l.Record(e)
	}
	do(t, l.Close(t.Context()))

	input := map[string]any{
		"target": map[string]any{"host": "a\nb.example", "port": json.Number("443")}, "session": map[string]any{"id": "s-1"},
	}
	result := map[string]any{
		"allow": true, "reason": []any{"a", "b"}, "labels": map[string]any{"n": json.Number("12345678901234567890")},
	}
	want := []map[string]any{
		{"decision_id": "d-1", "path": "sallyport/route", "input": input, "result": result,
			"custom": map[string]any{"verdict": "allow", "session": "s-1"}},
		{"decision_id": "d-2", "path": "sallyport/route", "input": input, "result": result,
			"bundles":          map[string]any{"main": map[string]any{"revision": "8"}},
			"nd_builtin_cache": map[string]any{"time.now_ns": map[string]any{"[]": json.Number("1")}},
			"custom":           map[string]any{"verdict": "deny", "session": "s-1", "memoised": true}},
		{"decision_id": "d-3", "path": "sallyport/manage", "input": input, "error": "out of time",
			"custom": map[string]any{"verdict": "fault"}},
	}
	got := lines(t, out.String())
	if len(got) != len(want) {
		t.Fatalf("%d events: %s", len(got), out.String())
	}
	for i, event := range got {
		labels, _ := event["labels"].(map[string]any)
		if labels["region"] != "eu" || labels["id"] == "" || labels["version"] == "" {
			t.Errorf("labels %v", labels)
		}
		delete(event, "labels")
		for key, value := range map[string]any{
			"type": "openpolicyagent.org/decision_logs", "revision": "7", "timestamp": "2026-01-02T03:04:05.000006Z",
			"metrics": map[string]any{"timer_rego_query_eval_ns": json.Number("1500")},
		} {
			want[i][key] = value
		}
		if !reflect.DeepEqual(event, want[i]) {
			t.Errorf("event %d\ngot  %v\nwant %v", i, event, want[i])
		}
	}
	if l.Dropped() != 0 || log.Len() != 0 {
		t.Errorf("%d dropped, log %s", l.Dropped(), log.String())
	}
}

// stalled blocks in each Write until it is released.
type stalled struct {
	writing chan struct{}
	release chan struct{}
	bytes.Buffer
}

func (s *stalled) Write(p []byte) (int, error) {
	select {
	case s.writing <- struct{}{}:
	default:
	}
	<-s.release
	return s.Buffer.Write(p)
}

func TestAStalledOutputStallsNoDecision(t *testing.T) {
	out := &stalled{writing: make(chan struct{}, 1), release: make(chan struct{})}
	const length, extra = 20, 100
	size := int64(event("first").Size())
	l := started(t, sinkOptions{opa: consoleConfig, LogOptions: LogOptions{Output: out}}, (length+1)*size) // one is being written
	l.Record(event("first"))
	<-out.writing
	for range length + extra {
		l.Record(event("none"))
	}
	if got := l.Dropped(); got != extra {
		t.Errorf("%d dropped, want %d", got, extra)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Close(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "20 decisions") {
		t.Errorf("Close: %v", err)
	}
	close(out.release)
	do(t, l.Close(t.Context()))
	if got := len(lines(t, out.String())); got != length+1 {
		t.Errorf("%d events written, want %d", got, length+1)
	}
	l.Record(event("late"))
	if got := l.Dropped(); got != extra+1 {
		t.Errorf("%d dropped after the end, want %d", got, extra+1)
	}
}

// broken fails from the second Write to the third.
type broken struct {
	writes int
	bytes.Buffer
}

func (b *broken) Write(p []byte) (int, error) {
	if b.writes++; b.writes == 2 || b.writes == 3 {
		return 0, io.ErrClosedPipe
	}
	return b.Buffer.Write(p)
}

func TestABrokenOutputIsToldOnce(t *testing.T) {
	out := &broken{}
	var log bytes.Buffer
	l := decisionLog(t, out, &log)
	for _, id := range []string{"1", "2", "3", "4"} {
		l.Record(event(id))
	}
	do(t, l.Close(t.Context()))
	if got := lines(t, out.String()); len(got) != 2 || got[1]["decision_id"] != "4" {
		t.Errorf("events %v", got)
	}
	if l.Dropped() != 2 || strings.Count(log.String(), "level=ERROR") != 1 || !strings.Contains(log.String(), "closed pipe") {
		t.Errorf("%d dropped, log %s", l.Dropped(), log.String())
	}
}

func TestRecordFromEverywhere(t *testing.T) {
	var out bytes.Buffer
	l := decisionLog(t, &out, io.Discard)
	shared := event("shared")
	var recorders sync.WaitGroup
	for range 8 {
		recorders.Go(func() {
			for range 50 {
				l.Record(shared)
			}
		})
	}
	recorders.Wait()
	do(t, l.Close(t.Context()))
	if got := len(lines(t, out.String())); got != 400 {
		t.Errorf("%d events, want 400", got)
	}
}
