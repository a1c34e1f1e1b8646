package engine

import (
	"encoding/json"
	"reflect"
	"slices"
	"sync"
	"time"
	"unsafe"

	"go.opentelemetry.io/otel/trace"

	"sallyport/policy"
)

// Event is one decision for the decision log. Its JSON may be kept, and must not
// be written to; secret facts are not in Input, which is there once Complete has
// been called.
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

	of *recorded // nil: Input is complete
}

// recorded is an event with what Complete makes its input from.
type recorded struct {
	Event
	decision policy.Decision
	facts    *policy.Facts // one of gathered
	logged   *plan
}

// gathered are facts that wait to be written to the log. They are large, and used
// again once they are.
var gathered = sync.Pool{New: func() any { return new(policy.Facts) }}

// Complete writes Input, if it is not there. A decision does not have to wait for
// that: it can be called later, by one goroutine.
func (e *Event) Complete() {
	r := e.of
	if r == nil {
		return
	}
	e.of = nil
	buffer := keys.Get().(*[]byte)
	defer keys.Put(buffer)
	input, err := r.logged.json((*buffer)[:0], reflect.ValueOf(r.facts).Elem())
	if *buffer = input; err != nil {
		input = []byte("{}")
	}
	e.Input = slices.Clone(input)
	*r.facts = policy.Facts{}
	gathered.Put(r.facts)
	r.facts = nil
}

// Size is what the event takes in memory, in bytes, more or less.
func (e *Event) Size() int {
	size := int(unsafe.Sizeof(recorded{})+unsafe.Sizeof(policy.Facts{})) + len(e.Input) + len(e.Result) + len(e.Builtins)
	if e.of == nil {
		return size
	}
	request := &e.of.facts.Request
	size += len(request.Path)
	for name, values := range request.Headers {
		size += len(name)
		for _, value := range values {
			size += len(value)
		}
	}
	return size
}
