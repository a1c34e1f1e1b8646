package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

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

func TestOpenTelemetry(t *testing.T) {
	t.Parallel()
	binary := buildCollector(t)
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) { testSignals(t, startCollector(t, binary), protocol) })
	}
	t.Run("sampling", func(t *testing.T) { testSampling(t, startCollector(t, binary)) })
	t.Run("failures", func(t *testing.T) { testFailures(t, startCollector(t, binary)) })
	t.Run("tunnel", func(t *testing.T) { testTunnel(t, startCollector(t, binary)) })
	t.Run("hops", func(t *testing.T) { testHops(t, startCollector(t, binary)) })
	t.Run("requests", func(t *testing.T) { testRequests(t, startCollector(t, binary)) })
	t.Run("table", func(t *testing.T) { testTable(t, startCollector(t, binary)) })
}

// testSignals follows one session through all three signals.
func testSignals(t *testing.T, c *collector, protocol string) {
	target, settings := origin(t)
	port := target[strings.LastIndex(target, ":")+1:]
	data := write(t, filepath.Join(t.TempDir(), "settings.json"), settings)
	s := startWith(t, append(c.exported(protocol), "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20hunter2hunter2",
		"OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test"), "--data", data, "--set", "policy.opa.decision_logs.console=true")

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

	for decisions, n := json.NewDecoder(s.stdout), 0; n < 4; n++ {
		var event struct {
			Trace string `json:"trace_id"`
			Span  string `json:"span_id"`
		}
		if err := decisions.Decode(&event); err != nil || event.Trace != root.TraceID || event.Span != root.SpanID {
			t.Errorf("a decision is logged with %+v, want trace %s and span %s: %v", event, root.TraceID, root.SpanID, err)
		}
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
	// One process is one instance in all signals.
	instance := root.resource.get("service.instance.id")
	if !regexp.MustCompile("^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$").MatchString(instance) {
		t.Errorf("the instance is %q, which is no random UUID", instance)
	}
	if got := record.resource.get("service.instance.id"); got != instance {
		t.Errorf("the log is of the instance %q, the traces of %q", got, instance)
	}
	if page := scrape(t, s, "text/plain"); !strings.Contains(page, `service_instance_id="`+instance+`"`) {
		t.Errorf("target_info is not of the instance %q", instance)
	}
	c.mu.Lock()
	if got := c.metrics[0].resource.get("service.instance.id"); got != instance {
		t.Errorf("the metrics are of the instance %q, the traces of %q", got, instance)
	}
	if !slices.Equal(c.auth, []string{"Bearer hunter2hunter2"}) {
		t.Errorf("the collector was sent the credentials %q", c.auth)
	}
	c.mu.Unlock()
	s.terminate(t)
}

// sampled is a policy whose answers the client chooses by header fields.
const sampled = `package sallyport.route

default allow := false

allow if not input.request.headers["x-fault"]

allow if to_number(input.request.headers["x-fault"][0]) == 1

deny contains "not today" if input.request.headers["x-deny"]

trace := true if input.request.headers["x-trace"][0] == "yes"

trace := false if input.request.headers["x-trace"][0] == "no"
`

// stranger is a trace context that a client claims.
const (
	strangersTrace = "0af7651916cd43dd8448eb211c80319c"
	strangersSpan  = "b7ad6b7169203331"
)

func testSampling(t *testing.T, c *collector) {
	target, settings := origin(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "route.rego"), sampled)
	data := write(t, filepath.Join(dir, "settings.json"), settings)
	claim := func(version, flags string) string {
		return "traceparent: " + version + "-" + strangersTrace + "-" + strangersSpan + "-" + flags
	}
	long := "a=" + strings.Repeat("x", 250) + ",b=" + strings.Repeat("x", 250) + ",c=" + strings.Repeat("x", 250)
	type session struct {
		headers string // that the client sends
		sampled bool
		child   bool // of the client's span
		state   string
	}
	for sampler, sessions := range map[string][]session{
		"always_off": {
			{"", false, false, ""},
			{"x-trace: yes", true, false, ""},
			{"x-trace: yes; x-deny: 1", true, false, ""}, // refused, and seen
			{"x-trace: no", false, false, ""},
			{claim("00", "01"), false, false, ""}, // a stranger forces nothing
			{"x-trace: yes; " + claim("00", "00"), true, true, ""},
			{"x-trace: yes; tracestate: a=1; " + claim("00", "01"), true, true, "a=1"},
			{"x-trace: yes; tracestate: " + long + "; " + claim("00", "01"), true, true, ""},
			{"x-trace: yes; " + claim("00", "01") + "; " + claim("00", "01"), true, false, ""},
			{"x-trace: yes; " + claim("ff", "01"), true, false, ""},
			{"x-trace: yes; traceparent: 00-" + strings.Repeat("0", 32) + "-" + strangersSpan + "-01", true, false, ""},
			{"x-trace: yes; " + claim("00", "01") + strings.Repeat("0", 5000), true, false, ""},
		},
		"always_on": {
			{"", true, false, ""},
			{"x-trace: no", false, false, ""},
			{"x-trace: no; " + claim("00", "01"), false, false, ""},
			{claim("00", "00"), true, false, ""}, // nor does it prevent or place anything
		},
	} {
		// What is sent is sent at the end only.
		s := startWith(t, append(c.exported("http/protobuf"), "OTEL_TRACES_SAMPLER="+sampler,
			"OTEL_BSP_SCHEDULE_DELAY=3600000", "OTEL_BLRP_SCHEDULE_DELAY=3600000"), "--policy", dir, "--data", data)
		ids := make([]string, len(sessions))
		for i, session := range sessions {
			args := []string{"-p", "-x", "http://" + s.addr, target}
			for header := range strings.SplitSeq(session.headers, "; ") {
				args = append(args, "--proxy-header", header)
			}
			curl(t, args...)
			id, line := s.ended(t, i)
			if _, has := line["trace_id"]; has != session.sampled {
				t.Errorf("%s, %.80q: the line has a trace_id: %v", sampler, session.headers, has)
			}
			ids[i] = id
		}
		s.terminate(t)
		c.session(t, ids[len(ids)-1]) // the last one, so all have come
		c.wait(t, "the end of the log", func() bool {
			return slices.ContainsFunc(c.logs, func(l otlpLog) bool { return l.Body.StringValue == "draining" })
		})
		c.mu.Lock()
		for i, session := range sessions {
			at := slices.IndexFunc(c.spans, func(s otlpSpan) bool { return s.Attributes.get("session.id") == ids[i] })
			if (at >= 0) != session.sampled {
				t.Errorf("%s, %.80q: it is traced: %v", sampler, session.headers, at >= 0)
			}
			if at < 0 {
				continue
			}
			span := c.spans[at]
			if child := span.TraceID == strangersTrace; child != session.child || (span.ParentSpanID == strangersSpan) != session.child || span.TraceState != session.state {
				t.Errorf("%s, %.80q: trace %s, state %q, parent %q", sampler, session.headers, span.TraceID, span.TraceState, span.ParentSpanID)
			}
		}
		c.mu.Unlock()
	}
	instances := map[string]bool{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, span := range c.spans {
		instances[span.resource.get("service.instance.id")] = true
	}
	if len(instances) != 2 {
		t.Errorf("two processes are the instances %v", slices.Collect(maps.Keys(instances)))
	}
}

func testFailures(t *testing.T, c *collector) {
	target, settings := origin(t)
	closed := httptest.NewServer(nil)
	closed.Close()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "route.rego"), sampled)
	data := write(t, filepath.Join(dir, "settings.json"), settings)
	s := startWith(t, c.exported("grpc"), "--policy", dir, "--data", data)
	for i, test := range []struct {
		name, header, target, outcome string
		failed                        bool
		at                            string // the span that failed or ended it
	}{
		{"fault", "x-fault: one", target, "fault", true, "route"},
		{"denial", "x-deny: 1", target, "denied", false, "route"},
		{"denied address", "", "http://10.0.0.1:80", "denied", false, "dial"},
		{"refused", "", closed.URL, "refused", true, "dial"},
		{"unresolved", "", "http://nowhere.invalid", "", true, "resolve"},
	} {
		curl(t, "-p", "-x", "http://"+s.addr, "--proxy-header", test.header, test.target)
		id, line := s.ended(t, i)
		root, children := c.session(t, id)
		last, kind := children[test.at], test.outcome
		if kind == "" {
			kind = line["outcome"].(string)
		}
		if root.Attributes.get("outcome") != kind || len(children) < 3 {
			t.Errorf("%s: the outcome is %q, the children are %v", test.name, root.Attributes.get("outcome"), slices.Collect(maps.Keys(children)))
		}
		wantCode, wantType := 0, ""
		if test.failed {
			wantCode, wantType = 2, kind
		}
		for name, span := range map[string]otlpSpan{"session": root, test.at: last} {
			wantType := wantType
			if name == "resolve" { // tells more
				wantType = "nxdomain"
			}
			if span.Status.Code != wantCode || span.Attributes.get("error.type") != wantType {
				t.Errorf("%s: the status of %s is %d with error.type %q", test.name, name, span.Status.Code, span.Attributes.get("error.type"))
			}
		}
		if id := line["decision."+test.at]; id != nil && last.Attributes.get("opa.decision_id") != id {
			t.Errorf("%s: the decision of %s is %q, want %q", test.name, test.at, last.Attributes.get("opa.decision_id"), id)
		}
		if test.at == "dial" && (len(last.Events) != 1 || last.Events[0].Attributes.get("verdict") == "") {
			t.Errorf("%s: the events of dial are %+v", test.name, last.Events)
		}
	}
	s.terminate(t)
}

// testTunnel looks at a session that goes on: how it began is seen already.
func testTunnel(t *testing.T, c *collector) {
	target, settings := origin(t)
	data := write(t, filepath.Join(t.TempDir(), "settings.json"), settings)
	s := startWith(t, c.exported("http/protobuf"), "--data", data)
	client, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	fmt.Fprintf(client, "CONNECT %s HTTP/1.1\r\n\r\n", strings.TrimPrefix(target, "http://"))
	if response, err := http.ReadResponse(bufio.NewReader(client), nil); err != nil || response.StatusCode != 200 {
		t.Fatal("the tunnel is not granted:", err)
	}
	c.wait(t, "how the tunnel began", func() bool {
		return slices.ContainsFunc(c.spans, func(s otlpSpan) bool { return s.Name == "dial" })
	})
	c.mu.Lock()
	if slices.ContainsFunc(c.spans, func(s otlpSpan) bool { return s.Name == "session" || s.Name == "relay" }) {
		t.Error("the tunnel has ended")
	}
	c.mu.Unlock()
	client.Close()
	id, _ := s.ended(t, 0)
	if _, children := c.session(t, id); children["relay"].Name == "" || children["dial"].Name == "" {
		t.Errorf("the session has below it %v", slices.Collect(maps.Keys(children)))
	}
	s.terminate(t)
}

// testRequests follows a connection with several requests of plain HTTP, of which each
// has spans of its own, and the last one is denied.
func testRequests(t *testing.T, c *collector) {
	at, _ := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	s := startWith(t, c.exported("http/protobuf"), usagePolicies(t, usageAuthenticate, usagePolicy)...)
	d := dialDoor(t, s.addr)
	r := bufio.NewReader(d)
	get := func(path string, want int) {
		res, _ := d.ask(r, "GET", "GET http://"+path+" HTTP/1.1\r\nHost: a\r\n"+proxyAuthorization("ann", "right")+"\r\n")
		if res.StatusCode != want {
			t.Fatalf("%s is answered by %d, want %d", path, res.StatusCode, want)
		}
	}
	get(at+"/one", 200)
	get(at+"/two", 200)
	get("denied.test/three", 403)
	d.Close()
	id, _ := s.ended(t, 0)
	root, _ := c.session(t, id)

	var all []otlpSpan
	by := map[string][]otlpSpan{}
	c.mu.Lock()
	for _, span := range c.spans {
		if span.ParentSpanID == root.SpanID {
			all = append(all, span)
		}
	}
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b otlpSpan) int { return cmp.Compare(a.StartTimeUnixNano, b.StartTimeUnixNano) })
	var names []string
	for _, span := range all {
		names = append(names, span.Name)
		by[span.Name] = append(by[span.Name], span)
	}
	want := "admit authenticate route dial relay authenticate route dial relay authenticate route"
	if got := strings.Join(names, " "); got != want {
		t.Fatalf("the spans are %q, want %q", got, want)
	}
	for i := 1; i < len(all); i++ { // no step goes on while the next one does
		if all[i].StartTimeUnixNano < all[i-1].EndTimeUnixNano {
			t.Errorf("%d, %s, begins before %s has ended", i, all[i].Name, all[i-1].Name)
		}
	}
	for i, path := range []string{"/one", "/two", "/three"} {
		line := s.wait(t, i, "request")
		for _, stage := range []string{"authenticate", "route"} {
			if got := by[stage][i].Attributes.get("opa.decision_id"); got != line["decision."+stage] || got == "" {
				t.Errorf("%s: the decision of %s is %q, in the log %v", path, stage, got, line["decision."+stage])
			}
		}
		if i < len(by["relay"]) {
			relay := by["relay"][i].Attributes
			if relay.get("url.path") != path || relay.get("http.request.method") != "GET" || relay.get("http.response.status_code") != "200" {
				t.Errorf("%s has the relay %+v", path, relay)
			}
		}
	}
	for _, span := range all {
		if span.Name != "relay" && span.Attributes.get("url.path") != "" {
			t.Errorf("%s has the path %s", span.Name, span.Attributes.get("url.path"))
		}
	}
	s.terminate(t)
}

// tabled is a policy by which a session has all that one can have.
const tabled = `package sallyport.route

default allow := true

deny contains "denied" if input.target.host == "denied.test"

warn contains "seen"

labels := {"team": "blue"}

redirect := {"host": "localhost"} if input.target.host == "moved.test"

default via := []

via := ["far"] if input.identity.name == "ann"
`

// testTable holds what the document says that spans have against what they have in
// sessions of every kind.
func testTable(t *testing.T, c *collector) {
	document, err := os.ReadFile("../../docs/telemetry.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{}
	names := func(cell string) []string {
		var found []string
		for _, match := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
			found = append(found, match[1])
		}
		return found
	}
	heading := ""
	for line := range strings.Lines(string(document)) {
		cells := strings.Split(line, "|")
		switch {
		case len(cells) < 3:
			heading = ""
		case heading == "":
			heading = strings.TrimSpace(cells[1])
		case heading == "span":
			for _, span := range names(cells[1]) {
				documented[span] = append(documented[span], names(cells[3])...)
			}
		case heading == "attributes of `session`":
			documented["session"] = append(documented["session"], names(cells[1])...)
		}
	}

	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	packets, far := servePackets(t, "127.0.0.1:0"), openRelay(t, "--policy", write(t, filepath.Join(t.TempDir(), "connect.rego"), `package sallyport.route

allow if input.request.command == "connect"
`))
	dir := t.TempDir()
	s := startWith(t, append(c.exported("http/protobuf"), "OTEL_RESOURCE_ATTRIBUTES=service.instance.id=mine"),
		append(usagePolicies(t, usageAuthenticate, tabled),
			"--policy", write(t, filepath.Join(dir, "inspect.rego"), "package sallyport.inspect\n\ndefault allow := true\n"),
			"--config", write(t, filepath.Join(dir, "c.yaml"), upstreamsFile(map[string]string{"far": "socks5://" + far.addr})))...)
	ended := 0
	for _, args := range [][]string{
		{"-x", "socks5h://" + s.addr, fmt.Sprintf("http://moved.test:%d", port)},
		{"-x", "socks5://ann:right@" + s.addr, "http://" + at},
		{"-x", "socks5://ann:wrong@" + s.addr, "http://" + at},
		{"-x", "http://" + s.addr, "http://" + at},
		{"-x", "http://" + s.addr, "http://denied.test"},
	} {
		curl(t, args...)
		ended++
	}
	a := associate(t, s.addr)
	a.send(packets.at, "x").want("x", packets.at)
	a.control.Close()
	seen := map[string][]string{}
	for n := range ended + 1 {
		id, _ := s.ended(t, n)
		c.session(t, id)
	}
	s.terminate(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, span := range c.spans {
		if got := span.resource.get("service.instance.id"); got != "mine" {
			t.Fatalf("the instance is %q", got)
		}
		for _, attribute := range span.Attributes {
			key := attribute.Key
			if strings.HasPrefix(key, "labels.") {
				key = "labels.NAME"
			}
			seen[span.Name] = append(seen[span.Name], key)
		}
	}
	const failing = "error.type" // of any
	for _, of := range []map[string][]string{documented, seen} {
		for span, keys := range of {
			slices.Sort(keys)
			of[span] = slices.DeleteFunc(slices.Compact(keys), func(key string) bool { return key == failing })
		}
	}
	for _, span := range slices.Sorted(maps.Keys(seen)) {
		if !slices.Equal(seen[span], documented[span]) {
			t.Errorf("%s has\n%q, documented is\n%q", span, seen[span], documented[span])
		}
	}
	if len(documented) != len(seen) {
		t.Errorf("documented are the spans %q, seen %q", slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(seen)))
	}
}
