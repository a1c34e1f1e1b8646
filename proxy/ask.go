package proxy

import (
	"bufio"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"sallyport/policy"
	"sallyport/proxy/guard"
	"sallyport/proxy/listen"
	"sallyport/proxy/relay"
	"sallyport/proxy/session"
	"sallyport/proxy/usage"
)

// life is one session as those see it who run it: what is known, what was
// answered, and how it ends. Most of what is known until the session is granted
// is given back then, and the rest kept small: an idle session costs little.
type life struct {
	proxy   *Proxy
	session *session.Session
	conn    *listen.Conn

	// observed is the context with which the observer is told of this session.
	// It has what the observer keeps of it, and nothing is cancelled by it.
	observed context.Context

	*opening        // nil once the session is granted, or over
	kept            // what is known of the request for good
	way         way // through upstreams; the zero value is the direct one
	source      guard.Source
	visit       guard.Visit    // ends with the session
	requests    int            // of plain HTTP that were heard
	flow        *relay.Flow    // nil of an association, and of plain HTTP until a request is sent on
	association *association   // nil of all else
	identity    string         // counted by the guard until the end
	account     *usage.Account // what is used goes there; nil: there is none
	payer       string         // whom a report has it under; "": nobody
	meter       usage.Meter
	outcome     string      // for the record: the ending's name
	cause       relay.Cause // why a granted session ended
	reasons     []string    // the policy's, where it refused
	err         error

	// What asking about a live session has found goes here, until it is over.
	mu       sync.Mutex
	over     bool
	revision string   // of the policy that answered last
	warnings []string // of all answers
}

// opening is what a life needs until it is granted.
type opening struct {
	reader     *bufio.Reader // what the client sends, until the relay takes over
	hearing    hearing       // below the reader
	dialect    dialect       // nil until the first byte
	facts      policy.Facts
	answer     policy.Decision // the latest
	limits     relay.Limits
	barred     error          // the client is heard only to be told this
	claimed    bool           // nothing proves the identity's name
	stated     netip.AddrPort // where a client says that its datagrams come from
	forwarding                // of plain HTTP
}

// openings are used again. Their readers are large enough for every SOCKS
// message; longer HTTP header blocks are gathered by their codec.
var openings = sync.Pool{New: func() any { return &opening{reader: bufio.NewReaderSize(nil, 4096)} }}

// kept is what is known of the request for good: what it takes to ask about the
// session again with the facts as they were first given.
type kept struct {
	counts   guard.Counts // of the source, when it connected
	who      policy.Identity
	user     user
	request  policy.Request
	asked    session.Target
	names    []string     // by which the address in use was found
	client   *localClient // nil: not on this machine
	ways     *waysOnce    // nil: route was not asked yet, or there are no upstreams
	used     *accountOnce // nil: there is no identity
	secured  *secured     // nil: without TLS
	answered *epoch       // that of the policy and the users when they were first needed
	faulted  *epoch       // in which asking again has failed
}

// user is a client's entry in the user directory, where its password was
// verified there. What authenticate has given holds for the whole session.
type user struct {
	name       string    // as presented; "" where there is no entry
	groups     bool      // the identity has those of the entry
	attributes bool      // the identity has those of the entry
	expires    time.Time // the entry or the client's certificate, whichever does first; zero: never
	since      time.Time // another user of the name has another
	changed    bool      // groups or attributes are not those that were decided about
}

// begin gathers what is known when a client has connected.
func (p *Proxy) begin(s *session.Session, c *listen.Conn, from guard.Source, visit guard.Visit) *life {
	l := &life{proxy: p, session: s, conn: c, source: from, visit: visit, observed: p.Observe.Accepted(context.Background(), s)}
	l.opening = openings.Get().(*opening)
	l.hearing = hearing{conn: c, all: &p.heard, most: p.Limits.Headers}
	l.reader.Reset(&l.hearing)
	l.counts = visit.Counts
	if p.Processes != nil && c.Nearby() {
		l.client = &localClient{find: func() policy.Process { return p.Processes.Of(c.Plain()) }}
	}
	l.introduce(&l.facts)
	return l
}

// introduce fills in who has connected.
func (l *life) introduce(f *policy.Facts) {
	source := policy.SourceOf(l.conn.Source)
	source.Open = l.counts.Open
	source.Rate = policy.Rate{Second: l.counts.RateSecond, Minute: l.counts.RateMinute}
	source.Failures = policy.Window(l.counts.Failures)
	source.Denials = policy.Window(l.counts.Denials)
	f.Source, f.Locator = source, l.proxy.Locator
	s := l.session
	f.Session = policy.Session{ID: s.ID, Listener: s.Listener, Started: s.Started.UnixNano()}
	if l.client != nil {
		f.Client = l.client
	}
	if l.ways != nil {
		f.Ways = l.ways
	}
	if l.used != nil {
		f.Account = l.used
	}
	if l.secured != nil {
		l.secured.introduce(f)
	}
}

// waysOnce is how the upstreams were when a request was asked about. A policy that
// reads that later only, as it is asked again, sees them as they are then.
type waysOnce struct {
	ways  policy.Ways
	once  sync.Once
	found map[string]policy.Upstream
}

func (w *waysOnce) Upstreams() map[string]policy.Upstream {
	w.once.Do(func() { w.found, w.ways = w.ways.Upstreams(), nil })
	return w.found
}

// localClient is a client on this machine, whose process is looked for once.
type localClient struct {
	find  func() policy.Process
	once  sync.Once
	found policy.Process
}

func (c *localClient) Process() policy.Process {
	c.once.Do(func() { c.found = c.find() })
	return c.found
}

// ask asks one question with the facts gathered so far, and keeps what the
// record and the client will be told of the answer.
func (l *life) ask(stage policy.Stage) policy.Decision {
	start := time.Now()
	l.facts.Time = policy.MinuteOf(start)
	if stage == policy.Route && l.proxy.Upstreams != nil {
		l.ways = &waysOnce{ways: l.proxy.Upstreams}
		l.facts.Ways = l.ways
	}
	// The engine has a deadline of its own. A client that hangs up must not look
	// like a policy that fails, so the session's context has no say here. The
	// observer's has the span that the decision is logged with.
	known := false
	if l.conn.Task != nil {
		l.answer, known = l.proxy.Decide.Recall(l.observed, stage, &l.facts)
	}
	if !known {
		l.conn.Task.Aside(func() { l.answer = l.proxy.Decide.Decide(l.observed, stage, &l.facts) })
	}
	l.proxy.Observe.Decided(l.observed, &l.answer, time.Since(start))
	l.keep(&l.answer)
	return l.answer
}

// keep notes what the record will say of an answer.
func (l *life) keep(answer *policy.Decision) {
	l.session.Decided(string(answer.Stage), answer.ID)
	l.note(answer)
}

// note is keep without the decision's id: of those about datagrams there may be
// any number.
func (l *life) note(answer *policy.Decision) {
	l.session.AddLabels(answer.Labels)
	l.revision = answer.Revision
	for _, warning := range answer.Warn {
		if len(l.warnings) < maxWarnings && !slices.Contains(l.warnings, warning) {
			l.warnings = append(l.warnings, warning)
		}
	}
}

// maxWarnings bounds what a session that is asked about again and again keeps.
const maxWarnings = 64

// end gives everything back, writes the session's one record, and closes the
// client's connection.
func (l *life) end() {
	defer l.conn.Close()
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.proxy.live.remove(l)
	if l.opening != nil {
		l.stopForwarding()
	}
	l.giveBack()
	l.meterOff()
	if l.account != nil { // and it stays, for who is being asked about reads it
		l.proxy.Usage.Leave(l.account)
	}
	l.visit.Leave()
	l.release()
	l.session.Close()
	l.proxy.Observe.SessionEnded(l.observed, l.record())
}

// giveBack gives back what only the opening needs; the relay reads the
// connection itself.
func (l *life) giveBack() {
	if l.opening != nil {
		l.reader.Reset(nil)
		*l.opening = opening{reader: l.reader}
		openings.Put(l.opening)
		l.opening = nil
	}
}
