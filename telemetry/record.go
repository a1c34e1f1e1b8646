package telemetry

import (
	"context"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport/proxy/session"
)

// A session's decisions, in the order of its life, and how each is called.
var (
	stages       = [...]string{"admit", "authenticate", "route", "dial", "inspect"}
	decisionKeys = [...]string{"decision.admit", "decision.authenticate", "decision.route", "decision.dial", "decision.inspect"}
)

// attributes are reused from one session to the next.
var attributes = sync.Pool{New: func() any { return new([32]slog.Attr) }}

// logSession writes the record as one line, in the layout of the package
// comment. ctx has the session's span, where it is sampled.
func logSession(ctx context.Context, to *slog.Logger, r *session.Record) {
	logLine(ctx, to, "session", func(line []slog.Attr) []slog.Attr { return sessionAttrs(line, r) })
}

// logRequest writes the record of one request of a session, in the same layout.
func logRequest(ctx context.Context, to *slog.Logger, r *session.Request) {
	logLine(ctx, to, "request", func(line []slog.Attr) []slog.Attr {
		line = append(line, slog.String("http.request.method", clip(r.Method)), slog.String("url.path", clip(r.Path)))
		if r.Status > 0 {
			line = append(line, slog.Int("http.response.status_code", r.Status))
		}
		return sessionAttrs(line, &r.Record)
	})
}

func logLine(ctx context.Context, to *slog.Logger, message string, fill func([]slog.Attr) []slog.Attr) {
	if !to.Enabled(ctx, slog.LevelInfo) {
		return
	}
	pooled := attributes.Get().(*[32]slog.Attr)
	line := fill(pooled[:0])
	// The handler is called as it is, since the logger would look up the line of
	// this file each time.
	record := slog.NewRecord(time.Now(), slog.LevelInfo, message, 0)
	// A group without a name lies flat, and is taken as it is where attributes
	// would be copied.
	record.AddAttrs(slog.Attr{Value: slog.GroupValue(line...)})
	_ = to.Handler().Handle(ctx, record) // the writer counts what is lost
	clear(line)
	attributes.Put(pooled)
}

func sessionAttrs(line []slog.Attr, r *session.Record) []slog.Attr {
	text := func(key, value string) {
		if value != "" {
			line = append(line, slog.String(key, clip(value)))
		}
	}
	endpoint := func(address, port, host string, number uint16) {
		if host != "" {
			line = append(line, slog.String(address, clip(host)), slog.Int(port, int(number)))
		}
	}
	list := func(key string, values []string) {
		if len(values) > 0 {
			line = append(line, slog.Any(key, clipAll(values)))
		}
	}
	text("session.id", r.ID)
	text("listener", r.Listener)
	text("network.protocol.name", r.Protocol)
	text("command", r.Command)
	if r.Source.IsValid() {
		endpoint("client.address", "client.port", r.Source.Addr().Unmap().String(), r.Source.Port())
	}
	if r.Failed {
		line = append(line, slog.Bool("authentication.failed", true))
	}
	text("user.name", r.Identity)
	endpoint("server.address", "server.port", r.Target.Host, r.Target.Port)
	if r.Asked != r.Target {
		endpoint("asked.address", "asked.port", r.Asked.Host, r.Asked.Port)
	}
	if r.Address.IsValid() {
		endpoint("network.peer.address", "network.peer.port", r.Address.Addr().Unmap().String(), r.Address.Port())
	}
	list("via", r.Via)
	text("outcome", r.Outcome)
	text("cause", r.Cause)
	list("reasons", r.Reasons)
	list("warnings", r.Warnings)
	if len(r.Labels) > 0 {
		line = append(line, slog.GroupAttrs("labels", labelAttrs(r.Labels)...))
	}
	for i, stage := range stages {
		text(decisionKeys[i], r.Decisions.Of(stage))
	}
	text("policy.revision", r.Revision)
	if n := r.Datagrams; n != nil {
		line = append(line, slog.Int64("datagrams.up", n.Up), slog.Int64("datagrams.down", n.Down), slog.Int64("datagrams.dropped", n.Dropped))
	}
	if r.Requests > 0 {
		line = append(line, slog.Int("requests", r.Requests))
	}
	return append(line,
		slog.Int64("bytes.up", r.Bytes.Up), slog.Int64("bytes.down", r.Bytes.Down),
		slog.Time("started", r.Started), slog.Float64("duration", math.Round(r.Duration*1e6)/1e6))
}

func labelAttrs(labels map[string]string) []slog.Attr {
	out := make([]slog.Attr, 0, min(len(labels), session.MaxLabels))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if len(out) == session.MaxLabels {
			break
		}
		out = append(out, slog.String(clip(key), clip(labels[key])))
	}
	return out
}

// A line of the log is bounded, however long a name a client or a policy makes
// up: texts in bytes, lists in members, and labels in those that a session keeps.
const (
	maxText   = 1 << 10
	maxListed = 32
)

func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

func clipAll(texts []string) []string {
	out := slices.Clone(texts[:min(len(texts), maxListed)])
	for i := range out {
		out[i] = clip(out[i])
	}
	return out
}
