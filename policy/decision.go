package policy

import (
	"net/netip"
	"time"
)

// Decision is the answer to one question. The fields with a `field` tag are
// rules of the stage's package, under the tag's name; a field that the stage
// does not define has its zero value. The zero Decision denies.
//
// Tags of a field:
//
//	field    the rule's name
//	stages   the stages that have it
//	doc      what it means
type Decision struct {
	ID       string  // unique id, as told to the client and in every log
	Stage    Stage   // which question
	Verdict  Verdict // what it comes to
	Revision string  // of the policy that answered
	Memoised bool    // an equal question had been answered under this policy
	Err      error   // a fault's cause

	Allow         bool           `field:"allow" stages:"admit authenticate route dial inspect manage" doc:"whether the request is allowed"`
	Deny          Set            `field:"deny" stages:"admit authenticate route dial inspect manage" doc:"the reasons against it; any of them denies"`
	Reason        Texts          `field:"reason" stages:"admit authenticate route dial inspect manage" doc:"why, for the log; what the client is told where deny is empty"`
	Warn          Set            `field:"warn" stages:"admit authenticate route dial inspect manage" doc:"logged and counted, without effect"`
	Explain       bool           `field:"explain" stages:"admit authenticate route dial" doc:"whether the client is told the reasons"`
	Methods       Methods        `field:"methods" stages:"admit" doc:"the authentication methods that may be used"`
	Identity      IdentityChange `field:"identity" stages:"authenticate" doc:"who the client is: given keys replace what the credential source says"`
	Ban           Ban            `field:"ban" stages:"admit authenticate route" doc:"refuse this request, and all later ones of the source or the identity for that long"`
	Delay         Duration       `field:"delay" stages:"admit authenticate" doc:"wait this long before answering, and no longer than the handshake may take"`
	Limits        Limits         `field:"limits" stages:"admit authenticate" doc:"how much the source, or the identity, may do; what is left out is unlimited, and 0 is an error"`
	SessionLimits SessionLimits  `field:"session_limits" stages:"route" doc:"how long, how fast (up: from client to target, down: from target to client, each in bytes a second) and how much (bytes: both directions together) one session may go on, of plain HTTP all requests on a connection, of UDP all destinations of an association; what is left out is unlimited, and 0 is an error"`
	Redirect      Redirect       `field:"redirect" stages:"route" doc:"go there instead"`
	Via           Via            `field:"via" stages:"route" doc:"the upstreams to go through, the first one first; empty: directly"`
	Resolve       Resolution     `field:"resolve" stages:"route" doc:"local or remote: whether the name is looked up here or by the last upstream"`
	SourceAddress netip.Addr     `field:"source_address" stages:"route" doc:"the local address to dial from"`
	Labels        Labels         `field:"labels" stages:"admit authenticate route inspect" doc:"onto the session's log, trace and usage record"`
	Trace         *bool          `field:"trace" stages:"route" doc:"whether this session is traced, whatever the sampler says; where it is undefined the sampler says"`
}

// Allowed tells whether the request may go on.
func (d *Decision) Allowed() bool { return d.Verdict == Allowed }

// Reasons are what a log says, and a client where the policy explains itself:
// the members of deny, or reason where deny is empty.
func (d *Decision) Reasons() []string {
	if len(d.Deny) > 0 {
		return d.Deny
	}
	return d.Reason
}

// The types below are the kinds of a decision field. Each is read strictly
// from the rule's value: another type, an unknown key, or text that does not
// parse is a fault.

// Set is a Rego set of strings, sorted.
type Set []string

// Texts is a string or a set of strings, sorted.
type Texts []string

// Methods is an array or a set of method names. Nil is the default; empty but
// not nil, as a policy may say, is none.
type Methods []Method

// Labels is an object of strings.
type Labels map[string]string

// Method is a way to authenticate.
type Method string

// The methods, strongest first.
const (
	MethodCertificateAndPassword Method = "certificate+password"
	MethodCertificate            Method = "certificate"
	MethodPassword               Method = "password"
	MethodNone                   Method = "none"
)

// Duration is a Go duration as text ("1m30s") or a number of seconds; never
// negative.
type Duration time.Duration

// Size is a number of bytes, or text such as "10MiB".
type Size int64

// Speed is a number of bytes a second, or text such as "10MiB/s".
type Speed int64

// IdentityChange replaces parts of the identity. A nil part keeps what the
// credential source says.
type IdentityChange struct {
	Name       *string    `key:"name"`
	Groups     *Groups    `key:"groups"`
	Attributes Attributes `key:"attributes"`
}

// Groups is an array or a set of strings.
type Groups []string

// SessionLimits bounds one session. A zero value is no bound, and is not for a
// policy to say: what has been worked out to be nothing is not without bound.
type SessionLimits struct {
	Idle     Duration `key:"idle" zero:"no"`     // no byte either way for this long ends it
	Duration Duration `key:"duration" zero:"no"` // from its start
	Until    int64    `key:"until" range:"1000000000000000000 9223372036854775807" unit:"nanoseconds since 1970"`
	Up       Speed    `key:"up" zero:"no"`    // client to target
	Down     Speed    `key:"down" zero:"no"`  // target to client
	Bytes    Size     `key:"bytes" zero:"no"` // both directions together
}

// Redirect changes the target. A zero part keeps what was asked.
type Redirect struct {
	Host string `key:"host"`
	Port int64  `key:"port" range:"1 65535"`
}

// Via is a way through upstreams, the first one first. Empty is the direct way.
type Via []Hop

// Hop is one upstream of a way: any of those that are named, tried in the order
// that By says. A name by itself is a hop of one.
type Hop struct {
	Any []string
	By  HopOrder // empty: ByOrder
	Key string   // of ByHash; empty: the identity's name, or else the client's address
}

// HopOrder says which of several upstreams is tried first, and which next where
// one fails.
type HopOrder string

// The orders.
const (
	ByOrder   HopOrder = "order"   // as they are named
	ByLatency HopOrder = "latency" // the quickest to set up first
	ByRandom  HopOrder = "random"
	ByHash    HopOrder = "hash" // the same for the same key, as long as it works
)

// Resolution says who looks a target's name up. Empty is the default of the way.
type Resolution string

// The resolutions.
const (
	ResolveLocal  Resolution = "local"
	ResolveRemote Resolution = "remote"
)

// Ban refuses whoever it is about for a while. For is 0 where the policy bans
// nobody.
type Ban struct {
	For      Duration     `key:"for" zero:"no" required:"yes"`
	Prefix   netip.Prefix `key:"prefix"`                               // one of the source's; the zero value is its address, of IPv6 the /64
	Identity bool         `key:"identity" stages:"authenticate route"` // instead of the source
}

// Limits bound what a source (of admit) or an identity (of authenticate) may do.
// A zero value is no bound, and is not for a policy to say.
type Limits struct {
	Connections int64        `key:"connections" range:"1 1000000000"`         // open at once
	Rate        Pace         `key:"rate" zero:"no"`                           // attempts, those included that are refused
	Burst       int64        `key:"burst" range:"1 1000000000" beside:"rate"` // attempts at once; 0: as many as the rate names
	Prefix      netip.Prefix `key:"prefix" stages:"admit"`                    // one of the source's, which is bound as a whole
	Quota       Quota        `key:"quota" stages:"authenticate" zero:"no"`    // of the identity
}

// Pace is so many in a time, as text ("20/s", "100/m", "1000/h"), or a number a
// second. The zero value is none.
type Pace struct {
	Count float64
	Per   time.Duration
}

// Quota bounds the bytes, in both directions, of all of an identity's sessions in a
// UTC day or month. The zero value is none; else it has both keys.
type Quota struct {
	Bytes Size   `key:"bytes" zero:"no" required:"yes"`
	Per   Period `key:"per" required:"yes"`
}

// Period is a span of the UTC calendar. Empty is none.
type Period string

// The periods.
const (
	PerDay   Period = "day"
	PerMonth Period = "month"
)
