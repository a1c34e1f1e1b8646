package session

// Record is what is said of a session once, at its end.
type Record struct {
	Snapshot
	Asked    Target   // what the client asked for; differs from Target after a redirect
	Outcome  string   // ok, denied, fault, … : a small set, used as a metric's label
	Cause    string   // why a granted session ended, or what went wrong; "" where the outcome says it all
	Reasons  []string // the policy's, where it refused
	Warnings []string // the policy's, report-only
	Revision string   // of the policy that answered last
}

// TraceContext is what a client says of the trace that its request belongs to:
// the values of the header fields of W3C Trace Context, as sent. Anybody can
// claim anything, so it counts for nothing until the policy says so.
type TraceContext struct {
	Parent []string // traceparent
	State  []string // tracestate
}
