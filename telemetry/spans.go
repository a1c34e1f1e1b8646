package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"sallyport/policy"
	"sallyport/proxy/session"
)

// A session's trace is settled when route has been answered, since only then it
// is known whether the policy wants it and whether the client's own trace
// context is to be believed. Until then the steps, of which there are few, are
// kept; what comes later is a span of its own at once, so that a long tunnel is
// seen before it ends.
//
// The latencies of a session that is not settled are kept as well, so that
// their exemplars point to a trace that there is.

// What stands in the decision log before that has to carry the ids of a span that
// is not there yet, and so they are chosen when the session is accepted: its
// context has a span that is nothing but those ids. Only where the policy believes
// the client's trace context the session becomes a part of another trace than the
// decisions before route were logged with; its span id stays.

// sessionTrace is one session's. It is used by the one goroutine that lives the
// session's life.
type sessionTrace struct {
	noop.Span // of the session's context

	session *session.Session
	claimed session.TraceContext

	kept      []decided // until it is settled; most sessions have three
	verifying time.Time // when the client's credentials were presented; zero: they are decided about
	handshake time.Duration

	ids     trace.SpanContext // of the session's span, be there one or not
	settled bool
	ctx     context.Context // has the session's span, where it is sampled
	tracer  trace.Tracer    // which made it; nil where it is not sampled
	step    trace.Span      // what goes on; nil between steps

	permits map[netip.Addr]string // decisions that allowed an address
	told    int                   // decisions, once it is settled
}

// decided is a decision, as a span.
type decided struct {
	stage, id, revision string
	verdict             policy.Verdict
	err                 error
	start, end          time.Time
	took                time.Duration // by the engine; the span of authenticate has the verifying too
}

// maxTold bounds the spans of decisions, and what is kept of addresses, of a session
// that may go on being decided about for long: a UDP association, or a connection with
// one forwarded request after another.
const maxTold = 128

// maxKept is more than the decisions before route.
const maxKept = 8

type traceKey struct{}

// SpanContext makes the session's context one of its span.
func (tr *sessionTrace) SpanContext() trace.SpanContext { return tr.ids }

// traceOf is the trace of the session that ctx belongs to; nil where nothing
// is traced.
func (t *Telemetry) traceOf(ctx context.Context) *sessionTrace {
	if t.tracer == nil {
		return nil
	}
	tr, _ := ctx.Value(traceKey{}).(*sessionTrace)
	return tr
}

// spanContext is a context with the session's span, for exemplars and the log.
func (tr *sessionTrace) spanContext() context.Context {
	if tr == nil || tr.ctx == nil {
		return context.Background()
	}
	return tr.ctx
}

// traceDecision takes a decision in.
func (t *Telemetry) traceDecision(tr *sessionTrace, d *policy.Decision, took time.Duration) {
	end := time.Now()
	this := decided{
		stage: string(d.Stage), id: d.ID, revision: d.Revision, verdict: d.Verdict, err: d.Err,
		start: end.Add(-took), end: end, took: took,
	}
	if d.Stage == policy.Authenticate && !tr.verifying.IsZero() {
		this.start, tr.verifying = tr.verifying, time.Time{}
	}
	if tr.settled {
		t.instruments.decision.record(tr.ctx, took.Seconds(), this.stage)
		if d.Stage != policy.Dial && tr.told < maxTold { // those are events of the span dial
			tr.told++
			tr.span(&this)
		}
		return
	}
	tr.kept = append(tr.kept, this)
	if d.Stage == policy.Route || len(tr.kept) == maxKept {
		t.settle(tr, d.Trace)
	}
}

// settle decides whether the session is traced: as the policy wishes or, where
// it does not say, as the sampler does. Then it tells what was kept.
func (t *Telemetry) settle(tr *sessionTrace, wish *bool) {
	tr.settled, tr.ctx = true, context.Background()
	if wish == nil || *wish {
		tracer, parent := t.tracer.sampled, tr.ctx
		if wish != nil {
			tracer, parent = t.tracer.forced, believed(tr.claimed)
		}
		s := tr.session
		transport := "tcp"
		if s.Command() == "associate" {
			transport = "udp"
		}
		_, span := tracer.Start(context.WithValue(parent, idsKey{}, tr.ids), "session",
			trace.WithTimestamp(s.Started), trace.WithSpanKind(trace.SpanKindServer),
			trace.WithAttributes(attribute.String("network.transport", transport)))
		if tr.ids = span.SpanContext(); tr.ids.IsSampled() {
			tr.ctx, tr.tracer = trace.ContextWithSpan(tr.ctx, span), tracer
		}
	}
	for i := range tr.kept {
		t.instruments.decision.record(tr.ctx, tr.kept[i].took.Seconds(), tr.kept[i].stage)
		tr.span(&tr.kept[i])
	}
	tr.kept, tr.claimed = nil, session.TraceContext{} // a tunnel may be long
	if tr.handshake > 0 {
		t.instruments.handshake.record(tr.ctx, tr.handshake.Seconds())
	}
}

// span tells a decision as a span.
func (tr *sessionTrace) span(d *decided) {
	if tr.tracer == nil {
		return
	}
	_, span := tr.tracer.Start(tr.ctx, d.stage, trace.WithTimestamp(d.start), trace.WithAttributes(
		attribute.String("opa.decision_id", d.id),
		attribute.String("policy.revision", d.revision),
		attribute.String("verdict", d.verdict.String()),
	))
	if d.verdict == policy.Fault {
		cause := "unknown"
		if d.err != nil {
			cause = d.err.Error()
		}
		fail(span, "fault", cause)
	}
	span.End(trace.WithTimestamp(d.end))
}

// begin ends the step that goes on, and begins the next. To authenticate is none, of
// the first request or of another: its span is the decision's, which begins here.
func (tr *sessionTrace) begin(step string) {
	tr.finish("ok")
	switch {
	case step == string(policy.Authenticate):
		tr.verifying = time.Now()
	case tr.tracer != nil:
		kind := trace.SpanKindInternal
		if step == "resolve" || step == "dial" {
			kind = trace.SpanKindClient
		}
		_, tr.step = tr.tracer.Start(tr.ctx, step, trace.WithSpanKind(kind))
	}
}

// finish ends the step that goes on, if one does.
func (tr *sessionTrace) finish(outcome string) {
	if tr.step == nil {
		return
	}
	if isFailure(outcome) {
		fail(tr.step, outcome, "")
	}
	tr.step.End()
	tr.step = nil
}

// resolved ends the step with how the look-up has ended.
func (tr *sessionTrace) resolved(outcome string, cached bool) {
	if tr.step == nil {
		return
	}
	tr.step.SetAttributes(attribute.Bool("cached", cached))
	tr.finish(outcome)
}

// address notes what was decided about an address of the target.
func (tr *sessionTrace) address(ip netip.Addr, d *policy.Decision) {
	if tr.step == nil {
		return
	}
	tr.step.AddEvent("decision", trace.WithAttributes(
		attribute.String("network.peer.address", ip.Unmap().String()),
		attribute.String("opa.decision_id", d.ID),
		attribute.String("policy.revision", d.Revision),
		attribute.String("verdict", d.Verdict.String()),
	))
	tr.step.SetAttributes(attribute.String("opa.decision_id", d.ID)) // the last one, until one is dialled
	if d.Verdict == policy.Allowed && len(tr.permits) < maxTold {
		if tr.permits == nil {
			tr.permits = map[netip.Addr]string{}
		}
		tr.permits[ip.Unmap()] = d.ID
	}
}

// request ends what goes on for one request of several.
func (tr *sessionTrace) request(r *session.Request) {
	tr.permits = nil
	if tr.step == nil {
		return
	}
	tr.step.SetAttributes(
		attribute.String("http.request.method", clip(r.Method)), attribute.String("url.path", clip(r.Path)),
		attribute.String("server.address", r.Target.Host), attribute.Int("server.port", int(r.Target.Port)),
	)
	if r.Status > 0 {
		tr.step.SetAttributes(attribute.Int("http.response.status_code", r.Status))
	}
	tr.finish(r.Outcome)
}

// dialled ends the step with the address that was connected to.
func (tr *sessionTrace) dialled(upstream, outcome string, to netip.AddrPort) {
	if tr.step == nil {
		return
	}
	tr.step.SetAttributes(attribute.String("upstream", upstream), attribute.String("network.transport", "tcp"))
	if to.IsValid() {
		ip := to.Addr().Unmap()
		tr.step.SetAttributes(
			attribute.String("network.peer.address", ip.String()),
			attribute.Int("network.peer.port", int(to.Port())),
		)
		if id, ok := tr.permits[ip]; ok {
			tr.step.SetAttributes(attribute.String("opa.decision_id", id))
		}
	}
	tr.finish(outcome)
}

// end ends the session's span, which has what the session's line in the log
// has.
func (tr *sessionTrace) end(r *session.Record) {
	if tr.tracer == nil {
		return
	}
	tr.finish(r.Outcome)
	span := trace.SpanFromContext(tr.ctx)
	pooled := attributes.Get().(*[32]slog.Attr)
	line := sessionAttrs(pooled[:0], r)
	span.SetAttributes(spanAttributes(line)...)
	clear(line)
	attributes.Put(pooled)
	if isFailure(r.Outcome) {
		fail(span, r.Outcome, r.Cause)
	}
	span.End()
}

// spanAttributes are those of a line in the log, but for what a span has by
// itself: its decisions are its children, and its times its own.
func spanAttributes(line []slog.Attr) []attribute.KeyValue {
	out := make([]attribute.KeyValue, 0, len(line)+4)
	for _, a := range line {
		if a.Key == "started" || a.Key == "duration" || strings.HasPrefix(a.Key, "decision.") {
			continue
		}
		switch v := a.Value; v.Kind() {
		case slog.KindString:
			out = append(out, attribute.String(a.Key, v.String()))
		case slog.KindInt64:
			out = append(out, attribute.Int64(a.Key, v.Int64()))
		case slog.KindBool:
			out = append(out, attribute.Bool(a.Key, v.Bool()))
		case slog.KindGroup:
			for _, member := range v.Group() {
				out = append(out, attribute.String(a.Key+"."+member.Key, member.Value.String()))
			}
		default:
			if list, ok := v.Any().([]string); ok {
				out = append(out, attribute.StringSlice(a.Key, list))
			} else {
				out = append(out, attribute.String(a.Key, v.String()))
			}
		}
	}
	return out
}

// isFailure tells outcomes that are the proxy's, the policy's or the network's
// failure from those that are as they should be, or the client's doing.
func isFailure(outcome string) bool {
	switch outcome {
	case "ok", "denied", "malformed", "unsupported", "limit":
		return false
	}
	return true
}

// fail marks a span as failed.
func fail(span trace.Span, kind, cause string) {
	span.SetAttributes(attribute.String("error.type", kind))
	span.SetStatus(codes.Error, clip(cause))
}

// A trace context is short: the field traceparent has 55 bytes in the one
// version that there is, and of tracestate 512 bytes have to be kept (W3C Trace
// Context, sections 3.2 and 3.3.1.5).
const (
	maxTraceparent = 128
	maxTracestate  = 512
)

// believed is a context with the client's trace context, where it is one.
func believed(claimed session.TraceContext) context.Context {
	ctx := context.Background()
	if len(claimed.Parent) != 1 || len(claimed.Parent[0]) > maxTraceparent {
		return ctx
	}
	carrier := propagation.HeaderCarrier(http.Header{})
	carrier.Set("traceparent", claimed.Parent[0])
	if state := strings.Join(claimed.State, ","); len(state) <= maxTracestate {
		carrier.Set("tracestate", state)
	}
	return propagation.TraceContext{}.Extract(ctx, carrier)
}
