// Package telemetry lets the operator see what the proxy does. It watches and
// never decides: whoever lives a connection's life calls its methods, which
// count, log and return without waiting for anything.
//
// Metrics go through the OpenTelemetry SDK and are read as Prometheus text
// (telemetry.go, instruments.go). observe.go has what an observer is told.
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
//	user.name                           the identity; left out when anonymous
//	server.address, server.port         the target, after a redirect
//	asked.address, asked.port           the target before it; left out where they are the same
//	network.peer.address, .port         what was dialled
//	outcome                             ok, or in a word why not
//	cause                               why it ended, at length
//	reasons                             the policy's, where it refused
//	warnings                            the policy's `warn`
//	labels                              the policy's `labels`, an object
//	decision.admit, decision.route, …   the id of the stage's last decision
//	policy.revision                     of the last policy that answered
//	bytes.up, bytes.down                from and to the client
//	started, duration                   a time, and seconds
//
// A rule that calls print leaves a line whose message is "policy print" (print.go),
// with stage, file, line, session.id and text.
//
// What is not known is left out. The names are those of OpenTelemetry's
// semantic conventions where it has one. The layout is flat, so that a line can
// be searched for without a parser. Text that a client or a policy chose is cut
// at 1 KiB and escaped by slog, so it can forge no line.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/otel/attribute"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
)

// Options are what New needs to know. Log is required.
type Options struct {
	Log        *slog.Logger
	Prometheus bool   // whether metrics can be scraped
	Version    string // of the program

	// Read at each scrape; what is nil is not measured.
	ActiveSessions     func() int64
	LogDropped         func() int64 // lines of the log, since the start
	DecisionLogDropped func() int64 // events of the decision log, since the start

	// GeoIP tells of each GeoIP database, by the name of its file and its type, how
	// long ago it was built.
	GeoIP func(observe func(database, kind string, age time.Duration))
}

// Telemetry counts and logs what it is told. Its methods may be called from
// any goroutine; they do not block.
type Telemetry struct {
	log         *slog.Logger
	provider    *metric.MeterProvider
	handler     http.Handler
	instruments *instruments
	alarms      alarms
	prints      prints
}

// New sets up the instruments. The standard variables OTEL_SERVICE_NAME and
// OTEL_RESOURCE_ATTRIBUTES name this process; it is an error when they cannot
// be read.
func New(o Options) (*Telemetry, error) {
	process, err := resource.New(context.Background(),
		resource.WithTelemetrySDK(),
		resource.WithAttributes(
			attribute.String("service.name", "sallyport"),
			attribute.String("service.version", o.Version),
		),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("telemetry: resource: %w", err)
	}
	settings := []metric.Option{
		metric.WithResource(process),
		metric.WithExemplarFilter(exemplar.AlwaysOffFilter), // there are no traces to point at yet
	}
	handler := http.NotFoundHandler()
	if o.Prometheus {
		registry := prometheus.NewRegistry()
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		reader, err := exporter.New(
			exporter.WithRegisterer(registry),
			exporter.WithoutScopeInfo(), // one scope, so it would say the same on every line
			exporter.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
		)
		if err != nil {
			return nil, fmt.Errorf("telemetry: prometheus: %w", err)
		}
		settings = append(settings, metric.WithReader(reader))
		handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{
			ErrorLog:            slog.NewLogLogger(o.Log.Handler(), slog.LevelError),
			ErrorHandling:       promhttp.ContinueOnError,
			MaxRequestsInFlight: 4,
			Timeout:             10 * time.Second,
		})
	}
	provider := metric.NewMeterProvider(settings...)
	instruments, err := newInstruments(provider.Meter("sallyport"), &o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("telemetry: %w", err), provider.Shutdown(context.Background()))
	}
	return &Telemetry{log: o.Log, provider: provider, handler: handler, instruments: instruments}, nil
}

// Handler serves the metrics in Prometheus' text format, with those of the Go
// runtime and the process beside them. Without Prometheus it answers 404.
func (t *Telemetry) Handler() http.Handler { return t.handler }

// Shutdown ends the measuring. What is told afterwards is not counted.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	return nil
}
