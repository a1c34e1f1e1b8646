package telemetry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"sallyport/policy"
)

// Bucket bounds in seconds. A memoised decision takes about a microsecond, a
// name and a connection up to the longest deadline.
var (
	decisionSeconds = []float64{
		1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1,
	}
	networkSeconds = []float64{
		1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30,
	}
)

// instruments are the metrics, each counter and histogram with its labels. No
// client's address and no host's name is ever a label.
type instruments struct {
	sessions        counter
	decisions       counter
	refusals        counter
	authentications counter
	warnings        counter
	activations     counter
	databases       counter
	relayBytes      counter
	datagrams       counter
	decision        histogram
	handshake       histogram
	dial            histogram
	lookups         counter
	lookup          histogram
}

func newInstruments(meter metric.Meter, o *Options, tracer *tracer) (*instruments, error) {
	var problems []error
	count := func(name, unit, doc string, labels ...string) counter {
		c := counter{newLabelSets(labels)}
		_, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(doc),
			metric.WithInt64Callback(c.observe))
		problems = append(problems, err)
		return c
	}
	measure := func(name, doc string, buckets []float64, labels ...string) histogram {
		h, err := meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(doc),
			metric.WithExplicitBucketBoundaries(buckets...))
		problems = append(problems, err)
		return histogram{h, newLabelSets(labels)}
	}
	instruments := &instruments{
		sessions: count("sallyport.sessions", "{session}",
			"Sessions that have ended, by how.", "listener", "protocol", "outcome"),
		decisions: count("sallyport.decisions", "{decision}",
			"Decisions of the policy.", "stage", "verdict"),
		refusals: count("sallyport.refusals", "{connection}",
			"Connections refused without asking the policy.", "cause"),
		authentications: count("sallyport.authentications", "{authentication}",
			"Clients that have presented credentials, or none.", "method", "outcome"),
		warnings: count("sallyport.policy.warnings", "{warning}",
			"Warnings of the policy.", "stage"),
		activations: count("sallyport.policy.activations", "{activation}",
			"New policies that became active or were refused.", "outcome"),
		databases: count("sallyport.geoip.activations", "{activation}",
			"New GeoIP databases that became active or were refused.", "database", "outcome"),
		relayBytes: count("sallyport.relay.bytes", "By",
			"Bytes relayed from clients (up) and to clients (down), counted when a session ends.", "direction"),
		datagrams: count("sallyport.datagrams.dropped", "{datagram}",
			"Datagrams of UDP associations that were not relayed, by why.", "cause"),
		decision: measure("sallyport.decision.duration",
			"Time that a decision takes, memoised ones included.", decisionSeconds, "stage"),
		handshake: measure("sallyport.handshake.duration",
			"Time from a connection to its complete request.", networkSeconds),
		dial: measure("sallyport.dial.duration",
			"Time that it takes to connect to a target.", networkSeconds, "upstream", "outcome"),
		lookups: count("sallyport.dns.lookups", "{lookup}",
			"Names that were looked up, by how that has ended.", "outcome", "cached"),
		lookup: measure("sallyport.dns.duration",
			"Time that a look-up takes that has to ask a server.", networkSeconds, "outcome"),
	}
	problems = append(problems, observe(meter, o), observeQueues(meter, o.LogExport, tracer))
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("instruments: %w", err)
	}
	return instruments, nil
}

// alarming begins the series that people set alarms on: one that begins with
// its first event has no increase that Prometheus could see.
func (i *instruments) alarming() {
	for _, stage := range policy.Stages() {
		for _, verdict := range []policy.Verdict{policy.Allowed, policy.Denied, policy.Fault} {
			i.decisions.add(0, string(stage), verdict.String())
		}
		i.warnings.add(0, string(stage))
	}
	i.activations.add(0, "ok")
	i.activations.add(0, "refused")
	i.refusals.add(0, "limit")
	i.refusals.add(0, "ban")
}

// observe registers what is read at each scrape rather than told.
func observe(meter metric.Meter, o *Options) error {
	read := func(value func() int64) metric.Int64Callback {
		return func(_ context.Context, observer metric.Int64Observer) error {
			observer.Observe(value())
			return nil
		}
	}
	var problems []error
	if o.ActiveSessions != nil {
		_, err := meter.Int64ObservableUpDownCounter("sallyport.sessions.active", metric.WithUnit("{session}"),
			metric.WithDescription("Sessions that are open now."), metric.WithInt64Callback(read(o.ActiveSessions)))
		problems = append(problems, err)
	}
	if o.ActiveBans != nil {
		_, err := meter.Int64ObservableUpDownCounter("sallyport.bans.active", metric.WithUnit("{ban}"),
			metric.WithDescription("Bans that are in force now."), metric.WithInt64Callback(read(o.ActiveBans)))
		problems = append(problems, err)
	}
	if o.LogDropped != nil {
		_, err := meter.Int64ObservableCounter("sallyport.log.dropped", metric.WithUnit("{line}"),
			metric.WithDescription("Lines of the log that were lost, since they could not be written in time."),
			metric.WithInt64Callback(read(o.LogDropped)))
		problems = append(problems, err)
	}
	if o.DecisionLogDropped != nil {
		_, err := meter.Int64ObservableCounter("sallyport.decision_log.dropped", metric.WithUnit("{event}"),
			metric.WithDescription("Events of the decision log that were lost, since they could not be written in time."),
			metric.WithInt64Callback(read(o.DecisionLogDropped)))
		problems = append(problems, err)
	}
	if o.AuditFailed != nil {
		_, err := meter.Int64ObservableCounter("sallyport.audit.failed", metric.WithUnit("{record}"),
			metric.WithDescription("Records of policies that could not be written to the audit log."),
			metric.WithInt64Callback(read(o.AuditFailed)))
		problems = append(problems, err)
	}
	if o.StateFailed != nil {
		_, err := meter.Int64ObservableCounter("sallyport.state.failed", metric.WithUnit("{write}"),
			metric.WithDescription("Writes of the state file that failed."),
			metric.WithInt64Callback(read(o.StateFailed)))
		problems = append(problems, err)
	}
	if o.GeoIP != nil {
		_, err := meter.Float64ObservableGauge("sallyport.geoip.age", metric.WithUnit("s"),
			metric.WithDescription("Time since a GeoIP database was built."),
			metric.WithFloat64Callback(func(_ context.Context, observer metric.Float64Observer) error {
				o.GeoIP(func(database, kind string, age time.Duration) {
					observer.Observe(age.Seconds(), metric.WithAttributes(
						attribute.String("database", database), attribute.String("type", kind)))
				})
				return nil
			}))
		problems = append(problems, err)
	}
	if o.Upstreams != nil {
		problems = append(problems, observeUpstreams(meter, o.Upstreams))
	}
	return errors.Join(problems...)
}

func observeUpstreams(meter metric.Meter, each func(func(upstream string, healthy bool, latency time.Duration))) error {
	healthy, err := meter.Int64ObservableGauge("sallyport.upstream.healthy",
		metric.WithDescription("1 where an upstream is thought to work, or else 0."))
	if err != nil {
		return err
	}
	latency, err := meter.Float64ObservableGauge("sallyport.upstream.latency", metric.WithUnit("s"),
		metric.WithDescription("Moving average of the time until an upstream would take a request."))
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, observer metric.Observer) error {
		each(func(upstream string, works bool, took time.Duration) {
			label := metric.WithAttributes(attribute.String("upstream", upstream))
			value := int64(0)
			if works {
				value = 1
			}
			observer.ObserveInt64(healthy, value, label)
			if took > 0 {
				observer.ObserveFloat64(latency, took.Seconds(), label)
			}
		})
		return nil
	}, healthy, latency)
	return err
}

// observeQueues registers what the exporters have lost.
func observeQueues(meter metric.Meter, logs *LogExport, tracer *tracer) error {
	queues := map[string]*queue{}
	if tracer != nil {
		queues["traces"] = tracer.queue
	}
	if logs != nil {
		queues["logs"] = logs.queue
	}
	if len(queues) == 0 {
		return nil
	}
	_, err := meter.Int64ObservableCounter("sallyport.telemetry.dropped", metric.WithUnit("{item}"),
		metric.WithDescription("Spans and log records that were lost, since the collector did not take them in time."),
		metric.WithInt64Callback(func(_ context.Context, observer metric.Int64Observer) error {
			for signal, q := range queues {
				observer.Observe(q.dropped.Load(), metric.WithAttributes(attribute.String("signal", signal)))
			}
			return nil
		}))
	return err
}

// counter counts by itself and tells at each scrape: there are several for each
// connection, and an atomic addition is a tenth of what an instrument's takes.
type counter struct {
	labels *labelSets
}

func (c *counter) add(n int64, values ...string) { c.labels.of(values).count.Add(n) }

func (c *counter) observe(_ context.Context, observer metric.Int64Observer) error {
	for _, set := range *c.labels.known.Load() {
		observer.Observe(set.count.Load(), set.labels)
	}
	if n := c.labels.other.count.Load(); n != 0 {
		observer.Observe(n, c.labels.other.labels)
	}
	return nil
}

type histogram struct {
	metric.Float64Histogram
	labels *labelSets
}

// record takes an exemplar where ctx has a span that is sampled.
func (h *histogram) record(ctx context.Context, seconds float64, values ...string) {
	h.Record(ctx, seconds, h.labels.of(values).record...)
}

// maxLabels is the most labels that an instrument has, maxLabelSets the most
// combinations of their values. Values come from the configuration and from our
// own lists, so the latter is never reached; it bounds a mistake.
const (
	maxLabels    = 3
	maxLabelSets = 512
)

// labelSets keeps one instrument's label sets ready-made, since building one
// costs more than counting. Reading takes no lock; a new set copies the map.
type labelSets struct {
	names []string
	other *labelSet // stands for every combination beyond the bound

	mu    sync.Mutex // held to add one
	known atomic.Pointer[map[[maxLabels]string]*labelSet]
}

// labelSet is a label set as the two kinds of instruments take it.
type labelSet struct {
	count  atomic.Int64 // of a counter
	labels metric.MeasurementOption
	record []metric.RecordOption
}

func newLabelSets(names []string) *labelSets {
	l := &labelSets{names: names, other: newLabelSet(names, [maxLabels]string{"other", "other", "other"})}
	l.known.Store(&map[[maxLabels]string]*labelSet{})
	return l
}

func newLabelSet(names []string, values [maxLabels]string) *labelSet {
	labels := make([]attribute.KeyValue, len(names))
	for i, name := range names {
		labels[i] = attribute.String(name, values[i])
		if values[i] == "" {
			labels[i] = attribute.String(name, "unknown")
		}
	}
	set := metric.WithAttributeSet(attribute.NewSet(labels...))
	return &labelSet{labels: set, record: []metric.RecordOption{set}}
}

// of finds the set of these values, which are in the order of the names.
func (l *labelSets) of(values []string) *labelSet {
	var key [maxLabels]string
	copy(key[:], values)
	if set, ok := (*l.known.Load())[key]; ok {
		return set
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	known := *l.known.Load()
	if set, ok := known[key]; ok {
		return set
	}
	if len(known) >= maxLabelSets {
		return l.other
	}
	known = maps.Clone(known)
	known[key] = newLabelSet(l.names, key)
	l.known.Store(&known)
	return known[key]
}
