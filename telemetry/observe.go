package telemetry

import (
	"context"
	"log/slog"
	"math"
	"net/netip"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"sallyport/policy"
	"sallyport/proxy/session"
)

// Accepted begins what is told of a session with the context that it returns.
// Where sessions are traced that context has the session's span, for those who
// note its ids; there is no more to it.
func (t *Telemetry) Accepted(ctx context.Context, s *session.Session) context.Context {
	if t.tracer == nil {
		return ctx
	}
	tr := &sessionTrace{session: s, ids: newIDs(), kept: make([]decided, 0, 3)}
	return context.WithValue(trace.ContextWithSpan(ctx, tr), traceKey{}, tr)
}

// Decided counts a decision and how long it took; a second telling of the same
// decision, whose verdict has changed since, comes with a zero duration. A fault
// is an alarm, since it is an error of the policy's author or of the machine.
func (t *Telemetry) Decided(ctx context.Context, d *policy.Decision, took time.Duration) {
	t.DecidedAgain(ctx, d, took)
	if d.Verdict == policy.Fault {
		cause := "unknown"
		if d.Err != nil {
			cause = d.Err.Error()
		}
		t.alarm(t.traceOf(ctx).spanContext(), slog.LevelError, "policy fault", d, cause)
	}
}

// DecidedAgain is Decided for a session that is live. A fault is no alarm here:
// there may be thousands, and Reasked has one for all of them.
func (t *Telemetry) DecidedAgain(ctx context.Context, d *policy.Decision, took time.Duration) {
	stage := string(d.Stage)
	t.instruments.decisions.add(1, stage, d.Verdict.String())
	tr := t.traceOf(ctx)
	switch {
	case took <= 0:
	case tr != nil:
		t.traceDecision(tr, d, took)
	default:
		t.instruments.decision.record(context.Background(), took.Seconds(), stage)
	}
	if len(d.Warn) > 0 {
		t.instruments.warnings.add(int64(len(d.Warn)), stage)
		for _, warning := range d.Warn {
			t.alarm(tr.spanContext(), slog.LevelWarn, "policy warning", d, warning)
		}
	}
}

// Reasked tells how many live sessions have been asked about again, and is the
// alarm where the policy has failed on some of them.
func (t *Telemetry) Reasked(r *session.Round) {
	level, message := slog.LevelInfo, "live sessions asked again"
	line := []slog.Attr{
		slog.String("policy.revision", r.Revision),
		slog.Int("sessions", r.Asked), slog.Int("cut", r.Cut),
		slog.Float64("duration", math.Round(r.Took.Seconds()*1e6)/1e6),
	}
	if r.Faults > 0 {
		level, message = slog.LevelError, "policy fault on live sessions, which are kept and asked again later"
		line = append(line, slog.Int("faults", r.Faults), slog.String("cause", clip(r.Fault.Error())))
	}
	t.log.LogAttrs(context.Background(), level, message, line...)
}

// alarm logs what a decision says unless the same was said just now.
func (t *Telemetry) alarm(ctx context.Context, level slog.Level, message string, d *policy.Decision, cause string) {
	cause = clip(cause)
	suppressed, due := t.alarms.ring(alarm{message, string(d.Stage), cause}, time.Now())
	if !due {
		return
	}
	t.log.LogAttrs(ctx, level, message,
		slog.String("stage", string(d.Stage)),
		slog.String("cause", cause),
		slog.String("decision."+string(d.Stage), d.ID),
		slog.String("policy.revision", d.Revision),
		slog.Int("suppressed", suppressed),
	)
}

// Refused counts a connection that was turned away without asking the policy.
// The cause is "limit" or "ban".
func (t *Telemetry) Refused(cause string) {
	t.instruments.refusals.add(1, cause)
	suppressed, due := t.alarms.ring(alarm{message: "connection refused", cause: cause}, time.Now())
	if due {
		t.log.LogAttrs(context.Background(), slog.LevelWarn, "connection refused",
			slog.String("cause", cause), slog.Int("suppressed", suppressed))
	}
}

// Dropped counts datagrams of a UDP association that were not relayed, by why.
func (t *Telemetry) Dropped(cause string, n int) {
	t.instruments.datagrams.add(int64(n), cause)
}

// Authenticated counts a client that has presented credentials, or none. The
// outcome is the verdict's name.
func (t *Telemetry) Authenticated(method policy.Method, outcome string) {
	t.instruments.authentications.add(1, string(method), outcome)
}

// HandshakeDone records how long a client took to say what it wants, and what
// it says of a trace.
func (t *Telemetry) HandshakeDone(ctx context.Context, claimed session.TraceContext, took time.Duration) {
	if tr := t.traceOf(ctx); tr != nil && !tr.settled {
		tr.claimed, tr.handshake = claimed, took
		return
	}
	t.instruments.handshake.record(context.Background(), took.Seconds())
}

// Began ends the step of the session that goes on, and begins the next.
func (t *Telemetry) Began(ctx context.Context, step string) {
	if tr := t.traceOf(ctx); tr != nil {
		tr.begin(step)
	}
}

// Resolved records how long a look-up of a name took, and how it ended: "ok" or a
// word for the failure. Cached ones have asked no server.
func (t *Telemetry) Resolved(ctx context.Context, outcome string, cached bool, took time.Duration) {
	tr := t.traceOf(ctx)
	t.instruments.lookups.add(1, outcome, strconv.FormatBool(cached))
	if !cached {
		t.instruments.lookup.record(tr.spanContext(), took.Seconds(), outcome)
	}
	if tr != nil {
		tr.resolved(outcome, cached)
	}
}

// AddressDecided is told what was decided about an address of the target.
func (t *Telemetry) AddressDecided(ctx context.Context, ip netip.Addr, d *policy.Decision) {
	if tr := t.traceOf(ctx); tr != nil {
		tr.address(ip, d)
	}
}

// Dialled records how long it took to connect, or to fail, by the named
// upstream or "direct". The outcome is "ok" or a word for the failure; to is
// what was connected to.
func (t *Telemetry) Dialled(ctx context.Context, upstream, outcome string, to netip.AddrPort, took time.Duration) {
	tr := t.traceOf(ctx)
	t.instruments.dial.record(tr.spanContext(), took.Seconds(), upstream, outcome)
	if tr != nil {
		tr.dialled(upstream, outcome, to)
	}
}

// RequestEnded logs a request of plain HTTP, and ends its step with how it went.
func (t *Telemetry) RequestEnded(ctx context.Context, r *session.Request) {
	tr := t.traceOf(ctx)
	logRequest(tr.spanContext(), t.log, r)
	if tr != nil {
		tr.request(r)
	}
}

// Activated counts a new policy that is in force ("ok") or not ("refused").
func (t *Telemetry) Activated(outcome string) {
	t.instruments.activations.add(1, outcome)
}

// GeoIPActivated counts a new GeoIP database, by the name of its file, that
// answers now ("ok") or was not taken ("refused").
func (t *Telemetry) GeoIPActivated(database, outcome string) {
	t.instruments.databases.add(1, database, outcome)
}

// SessionEnded counts a session and its bytes, writes its one line in the log,
// and ends its trace. It keeps nothing of r.
func (t *Telemetry) SessionEnded(ctx context.Context, r *session.Record) {
	tr := t.traceOf(ctx)
	if tr != nil && !tr.settled { // it never came to route
		t.settle(tr, nil)
	}
	t.instruments.sessions.add(1, r.Listener, r.Protocol, r.Outcome)
	t.instruments.relayBytes.add(r.Bytes.Up, "up")
	t.instruments.relayBytes.add(r.Bytes.Down, "down")
	logSession(tr.spanContext(), t.log, r)
	if tr != nil {
		tr.end(r)
	}
}
