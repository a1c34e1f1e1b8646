package engine

import (
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// Event is one decision for the decision log. Input and Result are immutable
// and may be kept; secret facts are not in Input.
type Event struct {
	Decision *policy.Decision
	Session  string    // id of the session; empty for a management call
	Time     time.Time // when it was decided
	Input    ast.Value // the facts that the stage read, and those that are always logged
	Result   ast.Value // the stage's fields; nil after a fault
	Bundles  []Bundle  // whose revisions answered
	Duration time.Duration
	Builtins ast.Value // results of non-deterministic built-ins; nil when none was called
}
