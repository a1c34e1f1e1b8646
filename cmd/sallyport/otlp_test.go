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
	"strings"
	"sync"
	"syscall"
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
		Name string
		Sum  struct {
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
			c.metrics = append(c.metrics, scope.Metrics...)
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

// exported has the program export by a protocol, quickly.
func (c *collector) exported(protocol string) []string {
	endpoint := "http://" + c.http
	if protocol == "grpc" {
		endpoint = "http://" + c.grpc
	}
	return []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol,
		"OTEL_BSP_SCHEDULE_DELAY=10", "OTEL_BLRP_SCHEDULE_DELAY=10", "OTEL_METRIC_EXPORT_INTERVAL=50",
	}
}

// startWith starts the program with variables in its environment.
func startWith(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	cmd := program(append([]string{"run", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0",
		"--set", "state.path=" + filepath.Join(t.TempDir(), "state.db")}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	return follow(t, cmd)
}

// ended waits for the n-th session's line in the log.
func (s *process) ended(t *testing.T, n int) (id string, line map[string]any) {
	t.Helper()
	line = s.wait(t, n, "session")
	id, _ = line["session.id"].(string)
	return id, line
}

func (s *process) terminate(t *testing.T) {
	t.Helper()
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.wait(t, 0, "eof")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("after TERM: %v", err)
	}
}

func TestACollectorIsSentTracesMetricsAndLogs(t *testing.T) {
	binary := buildCollector(t)
	target, settings := origin(t)
	port := target[strings.LastIndex(target, ":")+1:]
	data := write(t, filepath.Join(t.TempDir(), "settings.json"), settings)
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(strings.Split(protocol, "/")[0], func(t *testing.T) {
			c := startCollector(t, binary)
			s := startWith(t, append(c.exported(protocol), "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20hunter2hunter2",
				"OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test"), "--data", data)

			if out, code := curl(t, "-x", "socks5h://"+s.addr, "http://localhost:"+port); code != 0 {
				t.Fatalf("curl exits %d: %s", code, out)
			}
			id, line := s.ended(t, 0)
			root, children := c.session(t, id)
			var names []string
			for name := range children {
				names = append(names, name)
			}
			slices.Sort(names)
			if want := []string{"admit", "authenticate", "dial", "relay", "resolve", "route"}; !slices.Equal(names, want) {
				t.Errorf("the spans below the session are %v, want %v", names, want)
			}
			for key, want := range map[string]string{
				"client.address": "127.0.0.1", "server.address": "localhost", "server.port": port,
				"network.peer.address": "127.0.0.1", "network.transport": "tcp", "network.protocol.name": "socks5",
				"listener": "main", "outcome": "ok", "error.type": "",
				"policy.revision": fmt.Sprint(line["policy.revision"]), "client.port": fmt.Sprint(line["client.port"]),
			} {
				if got := root.Attributes.get(key); got != want {
					t.Errorf("the session's %s is %q, want %q", key, got, want)
				}
			}
			if root.ParentSpanID != "" || root.Kind != 2 || root.Status.Code != 0 {
				t.Errorf("the session's span is %+v", root)
			}
			for key, want := range map[string]string{
				"service.name": "sallyport", "service.version": "devel", "deployment.environment.name": "test", "telemetry.sdk.name": "opentelemetry",
			} {
				if got := root.resource.get(key); got != want {
					t.Errorf("the resource's %s is %q, want %q", key, got, want)
				}
			}
			for _, stage := range []string{"admit", "authenticate", "route", "dial"} {
				if got, want := children[stage].Attributes.get("opa.decision_id"), line["decision."+stage]; got != want {
					t.Errorf("the decision of %s is %q, want %q", stage, got, want)
				}
			}
			for name, span := range children {
				if span.StartTimeUnixNano < root.StartTimeUnixNano || span.EndTimeUnixNano > root.EndTimeUnixNano || span.EndTimeUnixNano < span.StartTimeUnixNano {
					t.Errorf("%s lasts from %s to %s, its session from %s to %s", name,
						span.StartTimeUnixNano, span.EndTimeUnixNano, root.StartTimeUnixNano, root.EndTimeUnixNano)
				}
			}
			if line["trace_id"] != root.TraceID || line["span_id"] != root.SpanID {
				t.Errorf("the log has trace %v and span %v, want %s and %s", line["trace_id"], line["span_id"], root.TraceID, root.SpanID)
			}

			var record otlpLog
			c.wait(t, "the session's log record", func() bool {
				at := slices.IndexFunc(c.logs, func(l otlpLog) bool { return l.Body.StringValue == "session" })
				if at >= 0 {
					record = c.logs[at]
				}
				return at >= 0
			})
			if record.TraceID != root.TraceID || record.SpanID != root.SpanID || record.SeverityText != "INFO" ||
				record.Attributes.get("session.id") != id || record.Attributes.get("trace_id") != "" || record.resource.get("service.name") != "sallyport" {
				t.Errorf("the log record is %+v", record)
			}
			c.wait(t, "sallyport.sessions, and exemplars", func() bool {
				counted := slices.ContainsFunc(c.metrics, func(m otlpMetric) bool {
					return m.Name == "sallyport.sessions" && len(m.Sum.DataPoints) == 1 && m.Sum.DataPoints[0].AsInt == "1" &&
						m.Sum.DataPoints[0].Attributes.get("outcome") == "ok"
				})
				for _, name := range []string{"sallyport.decision.duration", "sallyport.handshake.duration", "sallyport.dial.duration"} {
					counted = counted && slices.ContainsFunc(c.metrics, func(m otlpMetric) bool {
						return m.Name == name && len(m.Histogram.DataPoints[0].Exemplars) > 0 &&
							m.Histogram.DataPoints[0].Exemplars[0].TraceID == root.TraceID
					})
				}
				return counted
			})
			c.mu.Lock()
			if !slices.Equal(c.auth, []string{"Bearer hunter2hunter2"}) {
				t.Errorf("the collector was sent the credentials %q", c.auth)
			}
			c.mu.Unlock()
			s.terminate(t)
		})
	}
}
