// Package telemetry lets the operator see what the proxy does. It watches and
// never decides: whoever lives a connection's life calls its methods, which
// count, log and return without waiting for anything.
//
// Metrics go through the OpenTelemetry SDK and are read as Prometheus text
// (telemetry.go, instruments.go). observe.go has what an observer is told, and
// spans.go makes a trace of what it is told of one session. Where the standard
// OTEL_… variables ask for it (signals.go), traces (tracer.go), metrics and the
// log (logs.go) go to a collector as well; queue.go bounds what waits for it and
// counts what is lost, and complaints.go has what the OpenTelemetry libraries
// have to say. Where nothing asks for traces, a session is told of without one
// allocation or reading of the clock for them.
//
// # The log
//
// The log is log/slog, a line an event, written by a goroutine of its own
// (writer.go), so that neither a full disk nor a dead pipe holds up a session.
// Each session leaves one line, whose message is "session" (record.go):
//
//	session.id                          the session, as in /v1/sessions
//	listener                            its name in the configuration
//	network.protocol.name               socks5, socks4 or http; left out where the client never showed it
//	client.address, client.port         who connected
//	authentication.failed               true where the credentials were wrong; else left out
//	user.name                           the identity; left out when anonymous
//	server.address, server.port         the target, after a redirect
//	asked.address, asked.port           the target before it; left out where they are the same
//	network.peer.address, .port         what was dialled
//	via                                 the upstreams that it went through; left out where it went directly
//	outcome                             ok, or in a word why not
//	cause                               why it ended, at length
//	reasons                             the policy's, where it refused
//	warnings                            the policy's `warn`
//	labels                              the policy's `labels`, an object
//	decision.admit, decision.route, …   the id of the stage's last decision
//	policy.revision                     of the last policy that answered
//	datagrams.up, .down, .dropped       of a UDP association
//	requests                            of plain HTTP: how many; what else is said is of the last one
//	bytes.up, bytes.down                from and to the client
//	started, duration                   a time, and seconds
//	trace_id, span_id                   its trace; left out where it is not sampled
//
// A rule that calls print leaves a line whose message is "policy print" (print.go),
// with stage, file, line, session.id and text.
//
// What is not known is left out. The names are those of OpenTelemetry's
// semantic conventions where it has one. The layout is flat, so that a line can
// be searched for without a parser. Text that a client or a policy chose is cut
// at 1 KiB and escaped by slog and the [Writer], so it can forge no line, nor steer
// the terminal that shows it.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
)

// Options are what New needs to know. Log and Process are required.
type Options struct {
	Log        *slog.Logger
	LogExport  *LogExport // of that log, closed by Shutdown; may be nil
	Process    *Process
	Prometheus bool // whether metrics can be scraped

	// Read at each scrape; what is nil is not measured.
	ActiveSessions     func() int64
	ActiveBans         func() int64
	LogDropped         func() int64 // lines of the log, since the start
	DecisionLogDropped func() int64 // events of the decision log, since the start
	AuditFailed        func() int64 // records of policies that could not be written, since the start
	StateFailed        func() int64 // writes of the state file that failed, since the start

	// GeoIP tells of each GeoIP database, by the name of its file and its type, how
	// long ago it was built.
	GeoIP func(observe func(database, kind string, age time.Duration))

	// Upstreams tells of each upstream whether it is healthy, and how long it takes
	// until it would take a request; 0: that was never measured.
	Upstreams func(observe func(upstream string, healthy bool, latency time.Duration))
}

// Telemetry counts, traces and logs what it is told. Its methods may be called
// from any goroutine, those about one session from one at a time; they do not
// block.
type Telemetry struct {
	log         *slog.Logger
	provider    *sdk.MeterProvider
	handler     http.Handler
	instruments *instruments
	tracer      *tracer    // nil: nothing is traced
	logExport   *LogExport // nil: the log is not exported
	alarms      alarms
	prints      prints
}

// New sets up instruments and, where the environment asks for them, exporters.
// It is an error when the standard variables cannot be read.
func New(ctx context.Context, o Options) (*Telemetry, error) {
	var err error
	t := &Telemetry{log: o.Log, logExport: o.LogExport, handler: http.NotFoundHandler()}
	if t.tracer, err = newTracer(ctx, o.Process); err != nil {
		return nil, err
	}
	settings := []sdk.Option{sdk.WithResource(o.Process.resource)}
	if t.tracer == nil { // there is nothing for exemplars to point at
		settings = append(settings, sdk.WithExemplarFilter(exemplar.AlwaysOffFilter))
	}
	if o.Prometheus {
		reader, handler, err := newScrape(o.Log)
		if err != nil {
			return nil, errors.Join(err, t.Shutdown(ctx))
		}
		settings = append(settings, sdk.WithReader(reader))
		t.handler = handler
	}
	if metrics.wanted() {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, errors.Join(metrics.failed(err), t.Shutdown(ctx))
		}
		settings = append(settings, sdk.WithReader(reader))
	}
	t.provider = sdk.NewMeterProvider(settings...)
	if t.instruments, err = newInstruments(t.provider.Meter("sallyport"), &o, t.tracer); err != nil {
		return nil, errors.Join(fmt.Errorf("telemetry: %w", err), t.Shutdown(ctx))
	}
	t.instruments.alarming()
	return t, nil
}

// newScrape is the reader of the metrics that a scrape goes through.
func newScrape(log *slog.Logger) (sdk.Reader, http.Handler, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := exporter.New(
		exporter.WithRegisterer(registry),
		exporter.WithoutScopeInfo(), // one scope, so it would say the same on every line
		exporter.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("telemetry: prometheus: %w", err)
	}
	return reader, promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
		Timeout:             10 * time.Second,
		EnableOpenMetrics:   true, // for those that ask for it: only that format has exemplars
	}), nil
}

// Handler serves the metrics in Prometheus' text format or as OpenMetrics, with
// those of the Go runtime and the process beside them. Without Prometheus it
// answers 404.
func (t *Telemetry) Handler() http.Handler { return t.handler }

// Shutdown ends measuring, tracing and the export of the log, and sends what is
// left unless ctx ends first. What is told afterwards is not sent.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var measured, seen, said error
	var ending sync.WaitGroup // at once, so that one that hangs leaves the others their time
	if t.provider != nil {
		ending.Go(func() { measured = t.provider.Shutdown(ctx) })
	}
	if t.tracer != nil {
		ending.Go(func() { seen = t.tracer.shutdown(ctx) })
	}
	if t.logExport != nil {
		ending.Go(func() { said = t.logExport.provider.Shutdown(ctx) })
	}
	ending.Wait()
	if err := errors.Join(measured, seen, said); err != nil {
		return fmt.Errorf("telemetry: %s", newSecrets(os.Environ()).redact(err.Error()))
	}
	return nil
}
