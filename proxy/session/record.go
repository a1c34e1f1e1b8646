package session

import "time"

// Record is what is said of a session once, at its end.
type Record struct {
	Snapshot
	Asked    Target   // what the client asked for; differs from Target after a redirect
	Outcome  string   // ok, denied, fault, … : a small set, used as a metric's label
	Cause    string   // why a granted session ended, or what went wrong; "" where the outcome says it all
	Reasons  []string // the policy's, where it refused
	Warnings []string // the policy's, report-only
	Revision string   // of the policy that answered last
	Requests int      // that were heard, of plain HTTP; what else is said is of the last one
}

// Request is what is said of each request of plain HTTP forwarding, at its end,
// on a connection that may have several. Started, Duration and Bytes are its own.
type Request struct {
	Record
	Method string
	Path   string // without the query
	Status int    // of the answer; 0: there was none
}

// Round is what is said once of the live sessions that were asked about again
// under a new policy. Each that was cut has its Record as well.
type Round struct {
	Revision string // of the policy
	Asked    int    // sessions
	Cut      int    // of those: the policy, or the user directory, has them no more
	Faults   int    // of those: the policy failed, so that they are kept, and asked about again later
	Fault    error  // the first one
	Took     time.Duration
}

// TraceContext is what a client says of the trace that its request belongs to:
// the values of the header fields of W3C Trace Context, as sent. Anybody can
// claim anything, so it counts for nothing until the policy says so.
type TraceContext struct {
	Parent []string // traceparent
	State  []string // tracestate
}
