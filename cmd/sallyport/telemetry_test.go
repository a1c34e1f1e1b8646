package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// hole is a collector that takes connections and never answers.
func hole(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// scrape reads the metrics, by default as Prometheus' text format.
func scrape(t *testing.T, s *process, accept string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.wait(t, 0, "management")["address"].(string)+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("status %d, %v", response.StatusCode, err)
	}
	return string(text)
}

// A collector that never answers holds up nobody, is told of, and costs what
// does not fit its queues. Its own time-outs are longer than the test waits.
func TestACollectorThatHangs(t *testing.T) {
	t.Parallel()
	target, settings := origin(t)
	data := write(t, filepath.Join(t.TempDir(), "settings.json"), settings)
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		s := startWith(t, []string{
			"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + hole(t), "OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol,
			"OTEL_EXPORTER_OTLP_TIMEOUT=600000", "OTEL_BSP_EXPORT_TIMEOUT=600000", "OTEL_BLRP_EXPORT_TIMEOUT=600000",
			"OTEL_METRIC_EXPORT_TIMEOUT=600000", "OTEL_METRIC_EXPORT_INTERVAL=10",
			"OTEL_BSP_MAX_QUEUE_SIZE=8", "OTEL_BLRP_MAX_QUEUE_SIZE=8",
		}, "--data", data)
		const sessions = 10
		for i := range sessions {
			if out, code := curl(t, "-x", "socks5h://"+s.addr, target); code != 0 {
				t.Fatalf("curl exits %d: %s", code, out)
			}
			s.ended(t, i)
		}
		text := scrape(t, s, "")
		for _, signal := range []string{"traces", "logs"} {
			var dropped int
			_, after, _ := strings.Cut(text, `sallyport_telemetry_dropped_total{signal="`+signal+`"} `)
			fmt.Sscan(after, &dropped)
			if dropped == 0 || dropped > 6*sessions-8 && signal == "traces" {
				t.Errorf("%s: %d %s are dropped", protocol, dropped, signal)
			}
		}
		s.terminate(t)
	}
}

// What is wrong with the variables is told at the start, and no secret in them.
func TestTelemetryVariables(t *testing.T) {
	t.Parallel()
	const secret = "hunter2hunter2"
	for _, test := range []struct {
		env  []string
		want string // on standard error
	}{
		{[]string{"OTEL_TRACES_EXPORTER=jaeger"}, `OTEL_TRACES_EXPORTER="jaeger"`},
		{[]string{"OTEL_METRICS_EXPORTER=statsd"}, `OTEL_METRICS_EXPORTER="statsd"`},
		{[]string{"OTEL_LOGS_EXPORTER=file"}, `OTEL_LOGS_EXPORTER="file"`},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=thrift"}, "invalid OTLP protocol"},
		{[]string{"OTEL_RESOURCE_ATTRIBUTES=nonsense"}, "resource"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_TRACES_SAMPLER=coin"}, "unsupported sampler: coin"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=half"}, "sampler argument"},
		// The OpenTelemetry libraries would write these values to standard error.
		{[]string{"OTEL_LOGS_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_HEADERS=authorization " + secret}, "OTEL_EXPORTER_OTLP_HEADERS"},
		{[]string{"OTEL_METRICS_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_HEADERS=a b=" + secret}, "parse headers"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_TRACES_HEADERS=a=%zz" + secret}, "escape header value"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_ENDPOINT=http://me:" + secret + "@[::1"}, "parse url"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1/?key=" + secret}, "listening"},
		// A collector may repeat what it was sent.
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + parrot(t), "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20" + secret,
			"OTEL_BLRP_SCHEDULE_DELAY=1"}, "[redacted]"},
	} {
		cmd := program("run", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0", "--set", "state.path="+filepath.Join(t.TempDir(), "state.db"))
		cmd.Env = append(cmd.Env, test.env...)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		deadline := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		text := readUntil(stderr, `"msg":"management"`, test.want)
		cmd.Process.Signal(os.Interrupt)
		rest, _ := io.ReadAll(stderr)
		cmd.Wait()
		deadline.Stop()
		text += string(rest)
		if !strings.Contains(text, test.want) {
			t.Errorf("%q: want %q in %s", test.env, test.want, text)
		}
		if strings.Contains(text, secret) {
			t.Errorf("%q: the secret is in %s", test.env, text)
		}
		refused := strings.HasPrefix(text, "sallyport: telemetry: ")
		if code := cmd.ProcessState.ExitCode(); refused && code != 2 || !refused && code != 0 {
			t.Errorf("%q: exits %d: %s", test.env, code, text)
		}
	}
}

// parrot is a collector that refuses, and repeats the credentials.
func parrot(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "not you, "+r.Header.Get("Authorization"), http.StatusUnauthorized)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return "http://" + l.Addr().String()
}

// readUntil reads until all the texts have come, or the end.
func readUntil(r io.Reader, texts ...string) string {
	var got []byte
	buffer := make([]byte, 4096)
	for slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(string(got), text) }) {
		n, err := r.Read(buffer)
		got = append(got, buffer[:n]...)
		if err != nil {
			break
		}
	}
	return string(got)
}

// Nothing is sent unless a variable says so.
func TestNothingIsExportedUnasked(t *testing.T) {
	t.Parallel()
	target, settings := origin(t)
	data := write(t, filepath.Join(t.TempDir(), "settings.json"), settings)
	for _, env := range [][]string{
		{"OTEL_SERVICE_NAME=x", "OTEL_TRACES_SAMPLER=always_on", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"},
		{"OTEL_SDK_DISABLED=true", "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + hole(t), "OTEL_TRACES_EXPORTER=otlp"},
		{"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none", "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + hole(t)},
		{"OTEL_METRICS_EXPORTER=prometheus"},
	} {
		s := startWith(t, env, "--data", data)
		curl(t, "-x", "socks5h://"+s.addr, target)
		if _, line := s.ended(t, 0); line["trace_id"] != nil {
			t.Errorf("%q: a trace of %v", env, line["trace_id"])
		}
		text := scrape(t, s, "application/openmetrics-text")
		if strings.Contains(text, "telemetry_dropped") || strings.Contains(text, "trace_id") || !strings.Contains(text, "sallyport_sessions_total") {
			t.Errorf("%q: the metrics are %s", env, text)
		}
		s.terminate(t)
	}
}

// A real Prometheus scrapes, counts sessions and keeps exemplars.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("prometheus is not installed")
		}
		t.Skip("prometheus is not installed")
	}
	target, settings := origin(t)
	dir := t.TempDir()
	s := startWith(t, []string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + hole(t), "OTEL_BSP_EXPORT_TIMEOUT=10"},
		"--data", write(t, filepath.Join(dir, "settings.json"), settings))
	management := s.wait(t, 0, "management")["address"].(string)
	address := "127.0.0.1:" + freePort(t)
	config := write(t, filepath.Join(dir, "prometheus.yml"), fmt.Sprintf(
		"scrape_configs: [{job_name: sallyport, scrape_interval: 250ms, scrape_timeout: 250ms, static_configs: [{targets: [%q]}]}]", management))
	cmd := exec.Command(prometheus, "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "tsdb"),
		"--web.listen-address", address, "--enable-feature=exemplar-storage", "--log.level=error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})

	for range 2 {
		if out, code := curl(t, "-x", "socks5h://"+s.addr, target); code != 0 {
			t.Fatalf("curl exits %d: %s", code, out)
		}
	}
	_, first := s.ended(t, 0)
	_, second := s.ended(t, 1)
	ids := []string{first["trace_id"].(string), second["trace_id"].(string)}

	answer := askPrometheus(t, address, "/api/v1/query", url.Values{"query": {`sallyport_sessions_total{outcome="ok"}`}}, func(text string) bool {
		return strings.Contains(text, `"2"]`)
	})
	var sessions struct {
		Data struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if err := json.Unmarshal([]byte(answer), &sessions); err != nil || len(sessions.Data.Result) != 1 {
		t.Fatalf("%v: %s", err, answer)
	}
	if m := sessions.Data.Result[0].Metric; m["listener"] != "main" || m["protocol"] != "socks5" || m["job"] != "sallyport" {
		t.Errorf("the sessions are counted as %v", m)
	}
	for _, name := range []string{"decision", "handshake", "dial"} {
		answer := askPrometheus(t, address, "/api/v1/query_exemplars", url.Values{
			"query": {"sallyport_" + name + "_duration_seconds_bucket"},
			"start": {"0"}, "end": {fmt.Sprint(time.Now().Add(time.Hour).Unix())},
		}, func(text string) bool { return strings.Contains(text, "trace_id") })
		found := regexp.MustCompile(`"trace_id":"([0-9a-f]+)"`).FindStringSubmatch(answer)
		if !slices.Contains(ids, found[1]) {
			t.Errorf("the exemplar of %s is %v, want one of %v", name, found[1], ids)
		}
	}
	if text := scrape(t, s, "application/openmetrics-text"); !regexp.MustCompile(`(?m)^sallyport_dial_duration_seconds_bucket\{.*\} \d+ # \{.*trace_id="`+ids[0]).MatchString(text) &&
		!strings.Contains(text, ids[1]) {
		t.Errorf("there are no exemplars in %s", text)
	}
}

// askPrometheus asks until the answer has come; there is nothing that it
// could be waited by.
func askPrometheus(t *testing.T, address, path string, query url.Values, enough func(string) bool) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	var text []byte
	for {
		request, err := http.NewRequestWithContext(ctx, "GET", "http://"+address+path+"?"+query.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			text, _ = io.ReadAll(response.Body)
			response.Body.Close()
			if enough(string(text)) {
				return string(text)
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("%s %v: %s", path, query, text)
		}
	}
}
