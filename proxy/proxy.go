// Package proxy tells one connection's life.
//
// A client connects; the policy is asked whether it may (admit), who it is
// (authenticate), where it may go and by which way (route), and, once a name
// has been resolved, which of its addresses may be dialled (dial). Only what
// was allowed is done, and the bytes then flow until both sides have ended, or
// the policy does not like the first of them (inspect). The room gathers facts
// and enforces answers; it decides nothing.
//
// proxy.go has the life, ask.go the questions, handshake.go the conversation
// whatever the client speaks (secure.go is TLS before it, and socks5.go, socks4.go
// and http.go are its dialects), reach.go the way to the target, live.go the
// session once it is granted, inspect.go the question about its first bytes, and
// ending.go the one table that says how an end is told to a client and to a log.
//
// Three kinds of request go other ways behind route. bind.go waits for a peer.
// associate.go opens the relay of a client's datagrams, destinations.go has where
// they go, and datagram.go decides about each of those. forward.go and exchange.go
// have the requests of plain HTTP, of which a session has any number.
//
// hold.go is what is done about who asks, whatever is asked: bans, limits and
// delays. meter.go is what is told to the ledger of what they use. again.go asks
// about a live session again, and follow.go sees to it that all of them follow a new
// policy and their users.
package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
	"sallyport/proxy/guard"
	"sallyport/proxy/identity"
	"sallyport/proxy/listen"
	"sallyport/proxy/loop"
	"sallyport/proxy/relay"
	"sallyport/proxy/session"
	"sallyport/proxy/usage"
)

// Decider answers the questions. A decision that it cannot make is a fault.
type Decider interface {
	Decide(ctx context.Context, stage policy.Stage, facts *policy.Facts) policy.Decision
	// Recall is Decide where the answer is known already, and waits for nothing.
	Recall(ctx context.Context, stage policy.Stage, facts *policy.Facts) (policy.Decision, bool)
	// Asks tells whether a stage is answered by the policy that is active.
	Asks(stage policy.Stage) bool
}

// Observer is told what happens. It must not block. Of one session it is told
// by one goroutine at a time, with the context that Accepted has returned.
type Observer interface {
	Accepted(ctx context.Context, s *session.Session) context.Context
	Decided(ctx context.Context, d *policy.Decision, took time.Duration)
	Authenticated(method policy.Method, outcome string)
	HandshakeDone(ctx context.Context, claimed session.TraceContext, took time.Duration)
	// Began tells of a step: authenticate, resolve, dial or relay. It ends with
	// the next one, or with the session; a dial also with Dialled.
	Began(ctx context.Context, step string)
	// DecidedAgain tells of a decision about a live session. A fault is told once
	// for all of them, by Reasked.
	DecidedAgain(ctx context.Context, d *policy.Decision, took time.Duration)
	Reasked(r *session.Round)
	// Resolved ends the step resolve. The outcome is "ok" or a word for the failure.
	Resolved(ctx context.Context, outcome string, cached bool, took time.Duration)
	AddressDecided(ctx context.Context, ip netip.Addr, d *policy.Decision)
	Dialled(ctx context.Context, upstream, outcome string, to netip.AddrPort, took time.Duration)
	Refused(cause string)
	// Dropped tells of datagrams that were not relayed. Any goroutine may tell.
	Dropped(cause string, n int)
	// RequestEnded tells of one request of plain HTTP forwarding, before the
	// session ends.
	RequestEnded(ctx context.Context, r *session.Request)
	SessionEnded(ctx context.Context, r *session.Record)
}

// Verifier says what the user directory knows of a name and a password, and
// later what has become of a user that it has verified.
type Verifier interface {
	Verify(ctx context.Context, username, password string) (identity.Result, error)
	// Remembered is Verify where that needs no wait, and reports whether that is so.
	Remembered(username, password string) (identity.Result, bool)
	Lookup(username string) identity.Standing
}

// Resolver looks up a name that route has allowed.
type Resolver interface {
	Lookup(ctx context.Context, name string) (dial.Found, error)
}

// Dialer connects to one of the addresses that dial has allowed, and to no
// other.
type Dialer interface {
	Dial(ctx context.Context, to []netip.AddrPort, from netip.Addr) (*net.TCPConn, error)
	// DialOn is Dial for a task of a loop, which goes on meanwhile.
	// Where there is one address only, begun is told of the connection under way, which
	// a write deadline that has passed calls off, as the end of ctx does not.
	DialOn(ctx context.Context, t *loop.Task, until time.Time, to []netip.AddrPort, from netip.Addr, begun func(*loop.Conn)) (*loop.Conn, error)
}

// ProcessFinder says which process of this machine a client is, of a connection
// as it was accepted.
type ProcessFinder interface {
	Of(client net.Conn) policy.Process
}

// Limits are the configuration's; a policy's session_limits are bound by them.
type Limits struct {
	Handshake  time.Duration // from the first byte awaited to the request's last
	Handshakes int           // of one source at once; 0: any number
	Headers    int64         // bytes that long header blocks may take together while they are read; 0: any number
	Dial       time.Duration // resolving and connecting together
	Idle       time.Duration // no byte in either direction

	Bind       time.Duration // the wait for a peer
	Flows      int           // destinations of one UDP association
	FlowsTotal int           // destinations of all of them
	FlowIdle   time.Duration // no datagram to or from a destination: it is forgotten
}

// Proxy serves connections. All fields but Locator, Processes, Upstreams and Memory
// are required.
type Proxy struct {
	Decide    Decider
	Observe   Observer
	Verify    Verifier
	Resolve   Resolver
	Dial      Dialer
	Route     Router
	Locator   policy.Locator // nil: no address is located
	Processes ProcessFinder  // nil: no process is found
	Upstreams policy.Ways    // nil: there are none
	Sessions  *session.Table
	Guard     *guard.Guard
	Usage     *usage.Ledger
	Memory    *guard.Memory // nil: there is always enough
	Limits    Limits

	Protocols map[string][]string // by listener: what it speaks, of socks5, socks4 and http
	Associate map[string]Door     // by listener: where clients send their datagrams
	Bind      map[string]Door     // by listener: where peers connect to

	flows    atomic.Int64 // destinations of all associations
	deciding atomic.Int64 // of which so many are decided about
	held     atomic.Int64 // bytes that wait for that
	heard    atomic.Int64 // bytes of handshakes, beyond what each may have

	live live
}

// Serve lives one connection's life, and sees to it that the connection is
// closed at its end. When ctx ends the session is cut. It returns when the life
// has ended or the relay has begun: that has goroutines or tasks of its own, so that
// the stack which the handshake and the policy have grown is given back, and an
// idle session keeps small ones only.
func (p *Proxy) Serve(ctx context.Context, c *listen.Conn) {
	from := sourceOf(c)
	visit, refused := p.enter(from)
	if refused != nil && !mayTell(c, refused) {
		p.Observe.Refused(refused.Cause)
		c.Close()
		return
	}
	s, err := p.Sessions.Open(ctx, c.Listener, c.Source)
	if err != nil {
		visit.Leave()
		if errors.Is(err, session.ErrFull) { // and not that the server is stopping
			p.Observe.Refused("limit")
		}
		c.Close()
		return
	}
	l := p.begin(s, c, from, visit)
	if refused != nil {
		l.barred = refused
	}

	up, err := l.open(s.Context())
	if err != nil {
		if s.Context().Err() != nil { // whatever has failed did so because of that
			err = context.Cause(s.Context())
		}
		l.fail(err)
	}
	if up == nil && l.association == nil { // whatever the client had asked for has been answered
		l.end()
		return
	}
	l.live(up)
}

// open takes the session from its first byte to the moment before the relay.
// Without an error, an association or a connection to relay all has been done:
// requests of plain HTTP need no relay, and there may be several.
func (l *life) open(ctx context.Context) (net.Conn, error) {
	var door policy.Decision // closed
	if l.barred == nil {
		door = l.ask(policy.Admit)
		if err := l.admitted(ctx, &door); err != nil {
			return nil, err
		}
	}
	for {
		up, err := l.fulfil(ctx, &door)
		if up != nil {
			return up, nil
		}
		more, err := l.another(ctx, &door, err)
		if !more {
			return nil, err
		}
	}
}

// fulfil hears one request and does what it asks for.
func (l *life) fulfil(ctx context.Context, door *policy.Decision) (net.Conn, error) {
	if err := l.handshake(ctx, door); err != nil {
		return nil, err
	}

	if err := l.bannedSince(l.subject()); err != nil { // a client may take its time before it asks
		return nil, err
	}
	plan := l.ask(policy.Route) // the name is known, nothing is resolved
	if err := l.banned(&plan, l.subject()); err != nil {
		return nil, err
	}
	if !plan.Allowed() {
		return nil, &refusal{plan}
	}
	l.limits = l.bounds(&plan.SessionLimits)
	if l.facts.Request.Command != "connect" {
		l.conn.Leave()
	}
	if l.facts.Request.Command == "forward" {
		return l.forward(ctx, &plan)
	}
	l.stopForwarding() // there may have been some before

	if l.facts.Request.Command == "bind" && len(plan.Via) > 0 {
		return nil, errVia // and never directly
	}
	if l.facts.Request.Command == "associate" {
		return nil, l.associate(ctx, &plan)
	}
	up, bound, err := l.peer(ctx, &plan)
	if err != nil {
		return nil, err
	}
	l.meterOn() // before the client knows, so that what it asks for next is asked about with this
	if err := l.grant(bound); err != nil {
		up.Close()
		return nil, err
	}
	return up, nil
}

// peer is the connection to the other side, and the address that the client is
// told: this side's where the client connects, the other's where it has waited.
func (l *life) peer(ctx context.Context, plan *policy.Decision) (net.Conn, netip.AddrPort, error) {
	if l.facts.Request.Command == "bind" {
		up, err := l.bind(ctx, plan)
		if err != nil {
			return nil, netip.AddrPort{}, err
		}
		return up, addrPortOf(up.RemoteAddr()), nil
	}
	up, err := l.reach(ctx, plan) // resolve, ask dial about each address, connect to those
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	if len(l.way.hops) > 0 {
		return up, l.way.bound, nil
	}
	return up, addrPortOf(up.LocalAddr()), nil
}

// bounds joins the policy's limits with the configuration's: the strictest of
// both applies.
func (l *life) bounds(s *policy.SessionLimits) relay.Limits {
	limits := relay.Limits{
		Idle: l.proxy.Limits.Idle, Up: int64(s.Up), Down: int64(s.Down), Bytes: int64(s.Bytes), Budget: l.budget(),
	}
	if idle := time.Duration(s.Idle); idle > 0 && (limits.Idle == 0 || idle < limits.Idle) {
		limits.Idle = idle
	}
	if s.Duration > 0 {
		limits.Until = l.session.Started.Add(time.Duration(s.Duration))
	}
	if s.Until > 0 {
		if until := time.Unix(0, s.Until); limits.Until.IsZero() || until.Before(limits.Until) {
			limits.Until = until
		}
	}
	return limits
}
