package telemetry

import (
	"context"
	"log/slog"
	"time"

	"sallyport/policy"
	"sallyport/proxy/session"
)

// Decided counts a decision and how long it took; a second telling of the same
// decision, whose verdict has changed since, comes with a zero duration. A fault
// is an alarm, since it is an error of the policy's author or of the machine.
func (t *Telemetry) Decided(d *policy.Decision, took time.Duration) {
	stage := string(d.Stage)
	t.instruments.decisions.add(1, stage, d.Verdict.String())
	if took > 0 {
		t.instruments.decision.record(took.Seconds(), stage)
	}
	if d.Verdict == policy.Fault {
		cause := "unknown"
		if d.Err != nil {
			cause = d.Err.Error()
		}
		t.alarm(slog.LevelError, "policy fault", d, cause)
	}
	if len(d.Warn) > 0 {
		t.instruments.warnings.add(int64(len(d.Warn)), stage)
		for _, warning := range d.Warn {
			t.alarm(slog.LevelWarn, "policy warning", d, warning)
		}
	}
}

// alarm logs what a decision says unless the same was said just now.
func (t *Telemetry) alarm(level slog.Level, message string, d *policy.Decision, cause string) {
	cause = clip(cause)
	suppressed, due := t.alarms.ring(alarm{message, string(d.Stage), cause}, time.Now())
	if !due {
		return
	}
	t.log.LogAttrs(context.Background(), level, message,
		slog.String("stage", string(d.Stage)),
		slog.String("cause", cause),
		slog.String("decision."+string(d.Stage), d.ID),
		slog.String("policy.revision", d.Revision),
		slog.Int("suppressed", suppressed),
	)
}

// Refused counts a connection that was turned away without asking the policy.
// The cause is "limit".
func (t *Telemetry) Refused(cause string) {
	t.instruments.refusals.add(1, cause)
	suppressed, due := t.alarms.ring(alarm{message: "connection refused", cause: cause}, time.Now())
	if due {
		t.log.LogAttrs(context.Background(), slog.LevelWarn, "connection refused",
			slog.String("cause", cause), slog.Int("suppressed", suppressed))
	}
}

// Authenticated counts a client that has presented credentials, or none. The
// outcome is the verdict's name.
func (t *Telemetry) Authenticated(method policy.Method, outcome string) {
	t.instruments.authentications.add(1, string(method), outcome)
}

// HandshakeDone records how long a client took to say what it wants.
func (t *Telemetry) HandshakeDone(took time.Duration) {
	t.instruments.handshake.record(took.Seconds())
}

// Dialled records how long it took to connect, or to fail, by the named
// upstream or "direct". The outcome is "ok" or a word for the failure.
func (t *Telemetry) Dialled(upstream, outcome string, took time.Duration) {
	t.instruments.dial.record(took.Seconds(), upstream, outcome)
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

// SessionEnded counts a session and its bytes, and writes its one line in the
// log. It keeps nothing of r.
func (t *Telemetry) SessionEnded(r *session.Record) {
	t.instruments.sessions.add(1, r.Listener, r.Protocol, r.Outcome)
	t.instruments.relayBytes.add(r.Bytes.Up, "up")
	t.instruments.relayBytes.add(r.Bytes.Down, "down")
	logSession(t.log, r)
}
