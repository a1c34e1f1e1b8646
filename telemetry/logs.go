package telemetry

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/trace"
)

// LogExport sends the records of the log to where the environment says, beside
// the log itself.
type LogExport struct {
	provider *sdklog.LoggerProvider
	queue    *queue
}

// ExportLog returns a logger whose records go where those of log go and, from
// the level on, to the exporter that OTEL_LOGS_EXPORTER and its kin name. Where
// they name none it is log itself.
func ExportLog(ctx context.Context, log *slog.Logger, level slog.Level, process *Process) (*slog.Logger, *LogExport, error) {
	if !logs.wanted() {
		return log, nil, nil
	}
	exporter, err := autoexport.NewLogExporter(ctx)
	if err != nil {
		return nil, nil, logs.failed(err)
	}
	q := &queue{size: int64(queueSize("OTEL_BLRP_MAX_QUEUE_SIZE"))}
	batch := sdklog.NewBatchProcessor(logExit{exporter, q}, sdklog.WithMaxQueueSize(int(q.size)))
	provider := sdklog.NewLoggerProvider(sdklog.WithResource(process.resource), sdklog.WithProcessor(logEntry{batch, q}))
	bridge := otelslog.NewHandler("sallyport", otelslog.WithLoggerProvider(provider), otelslog.WithVersion(process.version))
	both := slog.NewMultiHandler(log.Handler(), levelled{bridge, level})
	return slog.New(both), &LogExport{provider, q}, nil
}

// levelled takes no record below a level.
type levelled struct {
	slog.Handler
	level slog.Level
}

func (h levelled) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level && h.Handler.Enabled(ctx, level)
}

func (h levelled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return levelled{h.Handler.WithAttrs(attrs), h.level}
}

func (h levelled) WithGroup(name string) slog.Handler {
	return levelled{h.Handler.WithGroup(name), h.level}
}

// traced puts the ids of the span that a record belongs to onto its line, where
// that span is sampled. Exported records have them by themselves.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsSampled() {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(attrs)} }
func (h traced) WithGroup(name string) slog.Handler       { return traced{h.Handler.WithGroup(name)} }
