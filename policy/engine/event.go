package engine

import (
	"encoding/json"
	"time"

	"go.opentelemetry.io/otel/trace"

	"sallyport/policy"
)

// Event is one decision for the decision log. Its JSON may be kept, and must not
// be written to; secret facts are not in Input.
type Event struct {
	Decision *policy.Decision
	Session  string          // id of the session; empty for a management call
	Time     time.Time       // when it was decided
	Input    json.RawMessage // the facts that the stage read, and those that are always logged
	Result   json.RawMessage // the stage's fields; nil after a fault
	Bundles  []Bundle        // whose revisions answered
	Duration time.Duration
	Builtins json.RawMessage // results of non-deterministic built-ins; nil when none was called

	// Of the span that the question belongs to, be it sampled or not; zero where
	// there is none.
	TraceID trace.TraceID
	SpanID  trace.SpanID
}
