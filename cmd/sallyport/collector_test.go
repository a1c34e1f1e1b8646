package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// collector is the OpenTelemetry Collector's receiver in a process of its own,
// and what it was sent.
type collector struct {
	grpc, http string // where it listens
	stdin      io.Closer

	mu      sync.Mutex
	more    *sync.Cond
	spans   []otlpSpan
	logs    []otlpLog
	metrics []otlpMetric
	auth    []string // of the latest request
	ended   bool
}

// The parts of OTLP/JSON that matter here.
type (
	otlpAttributes []struct {
		Key   string
		Value struct {
			StringValue *string
			IntValue    *string
			DoubleValue *float64
			BoolValue   *bool
			ArrayValue  *struct{ Values []map[string]any }
			KvlistValue *struct{ Values otlpAttributes }
		}
	}
	otlpResource struct{ Attributes otlpAttributes }
	otlpSpan     struct {
		TraceID, SpanID, ParentSpanID, Name string
		TraceState                          string
		Kind                                int
		StartTimeUnixNano, EndTimeUnixNano  string
		Attributes                          otlpAttributes
		Events                              []struct {
			Name       string
			Attributes otlpAttributes
		}
		Status   struct{ Code int }
		resource otlpAttributes
	}
	otlpLog struct {
		TraceID, SpanID, SeverityText string
		Body                          struct{ StringValue string }
		Attributes                    otlpAttributes
		resource                      otlpAttributes
	}
	otlpMetric struct {
		Name     string
		resource otlpAttributes
		Sum      struct {
			DataPoints []struct {
				AsInt      string
				Attributes otlpAttributes
			}
		}
		Histogram struct {
			DataPoints []struct {
				Exemplars []struct{ TraceID, SpanID string }
			}
		}
	}
)

// get is an attribute as text; "" where there is none.
func (a otlpAttributes) get(key string) string {
	for _, pair := range a {
		if pair.Key != key {
			continue
		}
		switch v := pair.Value; {
		case v.StringValue != nil:
			return *v.StringValue
		case v.IntValue != nil:
			return *v.IntValue
		case v.DoubleValue != nil:
			return fmt.Sprint(*v.DoubleValue)
		case v.KvlistValue != nil:
			return fmt.Sprint(len(v.KvlistValue.Values), " members")
		case v.ArrayValue != nil:
			return fmt.Sprint(len(v.ArrayValue.Values), " values")
		}
	}
	return ""
}

// buildCollector takes half a minute where nothing of it is cached.
func buildCollector(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "collector")
	out, err := exec.Command("go", "build", "-C", filepath.Join("testdata", "collector"), "-o", binary, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("the collector cannot be built: %v\n%s", err, out)
	}
	return binary
}

func startCollector(t *testing.T, binary string) *collector {
	t.Helper()
	c := &collector{grpc: "127.0.0.1:" + freePort(t), http: "127.0.0.1:" + freePort(t)}
	c.more = sync.NewCond(&c.mu)
	cmd := exec.Command(binary, c.grpc, c.http)
	cmd.Stderr = os.Stderr
	c.stdin, _ = cmd.StdinPipe()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan bool, 1)
	go func() { // until the process ends
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 16<<20)
		ready <- lines.Scan()
		for lines.Scan() {
			c.take(t, lines.Bytes())
		}
		c.mu.Lock()
		c.ended = true
		c.mu.Unlock()
		c.more.Broadcast()
	}()
	t.Cleanup(func() {
		c.stdin.Close()
		cmd.Wait()
	})
	if !<-ready {
		t.Fatal("the collector does not start")
	}
	return c
}

func (c *collector) take(t *testing.T, line []byte) {
	var received struct {
		Authorization []string
		Message       struct {
			ResourceSpans []struct {
				Resource   otlpResource
				ScopeSpans []struct{ Spans []otlpSpan }
			}
			ResourceLogs []struct {
				Resource  otlpResource
				ScopeLogs []struct{ LogRecords []otlpLog }
			}
			ResourceMetrics []struct {
				Resource     otlpResource
				ScopeMetrics []struct{ Metrics []otlpMetric }
			}
		}
	}
	if err := json.Unmarshal(line, &received); err != nil {
		t.Errorf("the collector prints %s: %v", line, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.auth = received.Authorization
	for _, r := range received.Message.ResourceSpans {
		for _, scope := range r.ScopeSpans {
			for _, span := range scope.Spans {
				span.resource = r.Resource.Attributes
				c.spans = append(c.spans, span)
			}
		}
	}
	for _, r := range received.Message.ResourceLogs {
		for _, scope := range r.ScopeLogs {
			for _, record := range scope.LogRecords {
				record.resource = r.Resource.Attributes
				c.logs = append(c.logs, record)
			}
		}
	}
	for _, r := range received.Message.ResourceMetrics {
		for _, scope := range r.ScopeMetrics {
			for _, metric := range scope.Metrics {
				metric.resource = r.Resource.Attributes
				c.metrics = append(c.metrics, metric)
			}
		}
	}
	c.more.Broadcast()
}

// wait returns once the collector was sent what is asked for.
func (c *collector) wait(t *testing.T, what string, found func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, c.more.Broadcast)()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !found() {
		if ctx.Err() != nil || c.ended {
			var names []string
			for _, s := range c.spans {
				names = append(names, s.Name)
			}
			t.Fatalf("the collector was not sent %s, but the spans %v and %d log records", what, names, len(c.logs))
		}
		c.more.Wait()
	}
}

// session waits for the whole trace of a session: its span of that name, with
// what it has below it by name.
func (c *collector) session(t *testing.T, id string) (otlpSpan, map[string]otlpSpan) {
	t.Helper()
	var root otlpSpan
	c.wait(t, "the session "+id, func() bool {
		at := slices.IndexFunc(c.spans, func(s otlpSpan) bool { return s.Name == "session" && s.Attributes.get("session.id") == id })
		if at >= 0 {
			root = c.spans[at]
		}
		return at >= 0
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	children := map[string]otlpSpan{}
	for _, s := range c.spans {
		if s.TraceID == root.TraceID && s.ParentSpanID == root.SpanID {
			children[s.Name] = s
		}
	}
	return root, children
}
