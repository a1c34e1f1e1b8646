// Package policy is the vocabulary that the proxy and its policies share: the
// stages at which a question is asked, the facts that go in, the decision that
// comes out, and the JSON Schemas that describe both to authors.
//
// It holds declarations and no rules. A fact is declared once, as a struct
// field with a `fact` tag; the schema, the engine's input builder, the mask of
// what a stage reads and the memo's key all derive from that line. A decision
// field is declared in the same way with a `field` tag. The package uses the
// standard library alone, so that everything may import it.
package policy

// Stage is one of the questions that a connection meets on its way. Its rules
// live in the Rego package "sallyport." + Stage.
type Stage string

// The stages, in the order in which a connection meets them.
const (
	Admit        Stage = "admit"        // a client has connected
	Authenticate Stage = "authenticate" // it has presented credentials, or none
	Route        Stage = "route"        // its request is known, nothing is resolved
	Dial         Stage = "dial"         // an address of the target is known
	Inspect      Stage = "inspect"      // the flow's first bytes are known
	Manage       Stage = "manage"       // a call of the management API
)

// Stages lists every stage, in order.
func Stages() []Stage {
	return []Stage{Admit, Authenticate, Route, Dial, Inspect, Manage}
}

// Package is the stage's Rego package: "sallyport.route".
func (s Stage) Package() string { return "sallyport." + string(s) }

// Verdict is what a decision comes to. The zero value denies.
type Verdict uint8

const (
	// Denied: the policy said no, or did not say yes.
	Denied Verdict = iota
	// Allowed: `allow` is true and `deny` is empty or absent.
	Allowed
	// Fault: the policy could not be asked or its answer could not be read. It
	// refuses like a denial, but it is an error of the policy's author or of
	// the machine, and it alarms.
	Fault
)

// String is the name that logs and metrics use.
func (v Verdict) String() string {
	switch v {
	case Allowed:
		return "allow"
	case Fault:
		return "fault"
	default:
		return "deny"
	}
}
