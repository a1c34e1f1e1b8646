package telemetry

import (
	"context"
	"sync/atomic"

	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/trace"
)

// queue counts what stands in a batch processor of the SDK, and what is lost:
// what finds no room, and what could not be delivered. The processors have a
// bound of their own, but tell nobody how much they drop; no more than that
// many are let in, so that they never do.
type queue struct {
	size          int64
	held, dropped atomic.Int64
}

// enter tells whether there is room for one more, and takes it.
func (q *queue) enter() bool {
	if q.held.Add(1) > q.size {
		q.held.Add(-1)
		q.dropped.Add(1)
		return false
	}
	return true
}

// leave is called with what the exporter has taken, and how that went.
func (q *queue) leave(n int, err error) {
	q.held.Add(-int64(n))
	if err != nil {
		q.dropped.Add(int64(n))
	}
}

// spanEntry and spanExit stand before and behind the batch processor of spans.
type (
	spanEntry struct {
		trace.SpanProcessor
		*queue
	}
	spanExit struct {
		trace.SpanExporter
		*queue
	}
)

func (e spanEntry) OnEnd(s trace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() && e.enter() {
		e.SpanProcessor.OnEnd(s)
	}
}

func (e spanExit) ExportSpans(ctx context.Context, spans []trace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	e.leave(len(spans), err)
	return err
}

// logEntry and logExit do the same for log records.
type (
	logEntry struct {
		*sdklog.BatchProcessor
		*queue
	}
	logExit struct {
		sdklog.Exporter
		*queue
	}
)

func (e logEntry) OnEmit(ctx context.Context, r *sdklog.Record) error {
	if !e.enter() {
		return nil
	}
	return e.BatchProcessor.OnEmit(ctx, r)
}

func (e logExit) Export(ctx context.Context, records []sdklog.Record) error {
	err := e.Exporter.Export(ctx, records)
	e.leave(len(records), err)
	return err
}
