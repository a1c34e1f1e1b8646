package telemetry

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// tracer makes spans in two ways, which share one queue to one exporter.
type tracer struct {
	sampled trace.Tracer // as OTEL_TRACES_SAMPLER says
	forced  trace.Tracer // whatever it says
	queue   *queue

	shutdown func(context.Context) error
}

// newTracer is nil where the environment asks for no traces.
func newTracer(ctx context.Context, process *Process) (*tracer, error) {
	if !traces.wanted() {
		return nil, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, traces.failed(err)
	}
	q := &queue{size: int64(queueSize("OTEL_BSP_MAX_QUEUE_SIZE"))}
	batch := sdk.NewBatchSpanProcessor(spanExit{exporter, q}, sdk.WithMaxQueueSize(int(q.size)))
	common := []sdk.TracerProviderOption{sdk.WithResource(process.resource), sdk.WithIDGenerator(ids{}), sdk.WithSpanProcessor(spanEntry{batch, q})}
	scope := []trace.TracerOption{trace.WithInstrumentationVersion(process.version), trace.WithSchemaURL(semconv.SchemaURL)}
	always := append(slices.Clone(common), sdk.WithSampler(sdk.AlwaysSample()))
	return &tracer{
		sampled:  sdk.NewTracerProvider(common...).Tracer("sallyport", scope...),
		forced:   sdk.NewTracerProvider(always...).Tracer("sallyport", scope...),
		queue:    q,
		shutdown: batch.Shutdown,
	}, nil
}

// ids generates random ids, as W3C Trace Context has them, but for a span whose
// ids were chosen before it began. They name a span and open nothing, so they
// need not be hard to guess.
type ids struct{}

type idsKey struct{}

func newIDs() trace.SpanContext {
	traceID, spanID := ids{}.NewIDs(context.Background())
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID})
}

// NewIDs is for a span without a parent.
func (g ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if chosen, ok := ctx.Value(idsKey{}).(trace.SpanContext); ok {
		return chosen.TraceID(), chosen.SpanID()
	}
	var traceID trace.TraceID
	binary.BigEndian.PutUint64(traceID[:8], rand.Uint64())
	binary.BigEndian.PutUint64(traceID[8:], rand.Uint64()|1) // none is all zeros
	return traceID, g.NewSpanID(ctx, traceID)
}

// NewSpanID is for a span with a parent.
func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if chosen, ok := ctx.Value(idsKey{}).(trace.SpanContext); ok {
		return chosen.SpanID()
	}
	var spanID trace.SpanID
	binary.BigEndian.PutUint64(spanID[:], rand.Uint64()|1)
	return spanID
}
