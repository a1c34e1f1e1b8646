package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"sallyport/policy"
	"sallyport/proxy/guard"
	"sallyport/proxy/identity"
	"sallyport/proxy/session"
	"sallyport/proxy/wire/sniff"
	"sallyport/proxy/wire/target"
)

// dialect is how one protocol hears a client and answers it. Its methods are
// called in this order, and Refuse or Reject at any point ends the talk.
type dialect interface {
	// Present reads what the client presents by the strongest of the methods
	// that it offers and that may be used; errNoMethod where there is none.
	Present(methods policy.Methods) (presented, error)
	// Reject tells the client that its credentials were missing or wrong.
	Reject(e *ending) error
	// Accept tells the client that it may ask.
	Accept() error
	// Request reads what the client asks for.
	Request() (request, error)
	// Refuse tells the client how its session ends.
	Refuse(e *ending) error
	// Grant tells the client that its request is fulfilled.
	Grant(bound netip.AddrPort) error
}

// presented is what a client shows of itself.
type presented struct {
	method             policy.Method
	username, password string         // of SOCKS4 a user id, which nothing proves
	token              string         // a bearer token of HTTP
	request            policy.Request // of HTTP, which asks and presents in one
}

// request is what a client asks for.
type request struct {
	facts policy.Request
	host  string     // a name, or an address in some spelling
	ip    netip.Addr // of a binary address; then host is empty
	port  uint16
	trace session.TraceContext // what the client says of it, in HTTP
}

var (
	errNoMethod      = errors.New("no acceptable authentication method")
	errUnknownClient = errors.New("the first byte is of no protocol that is spoken here")
	errNotSpoken     = errors.New("the listener does not speak the protocol")
	errAnnounced     = errors.New("a PROXY header that is not awaited: a second one, or from an address that the listener's proxy_protocol.trusted does not have")
	errSilent        = errors.New("the client sent nothing")
)

// barredTime is how long a client is heard that is only to be told that it is
// banned, or over a limit: many of them must not keep others out.
const barredTime = 2 * time.Second

// defaultMethods apply where admit names none.
var defaultMethods = policy.Methods{policy.MethodCertificate, policy.MethodPassword, policy.MethodNone}

// handshake hears the client out: who it is and what it wants. It has one
// deadline as a whole. On return without error the facts are those of route.
func (l *life) handshake(ctx context.Context, door *policy.Decision) (err error) {
	defer func() { err = hangsUp(err) }()
	start := time.Now()
	deadline := start.Add(l.proxy.Limits.Handshake)
	if l.dialect == nil {
		deadline = l.conn.Accepted.Add(l.proxy.Limits.Handshake)
	}
	if l.barred != nil {
		deadline = start.Add(min(deadline.Sub(start), barredTime))
	}
	if err := l.conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	l.session.OnCut(func() { l.conn.SetDeadline(time.Unix(1, 0)) })
	defer l.session.OnCut(nil)

	l.session.Hear(true)
	l.hearing.begin()
	defer func() { l.session.Hear(false); l.hearing.end(); l.visit.Heard() }()
	if l.dialect == nil { // else the connection has had a request before
		if err := l.secure(); err != nil {
			return err
		}
		if err := l.meet(); err != nil {
			return err
		}
	}
	if l.barred == nil && l.requests > 0 { // the source may have been banned since
		if refused := l.proxy.Guard.Banned(l.source); refused != nil {
			l.barred = refused
		} else if refused := l.proxy.short(); refused != nil {
			return refused // unheard, which would take more
		}
	}
	switch {
	case l.barred != nil:
		return l.turnAway(l.barred)
	case !door.Allowed():
		return l.turnAway(&refusal{*door})
	}
	methods := door.Methods
	if methods == nil {
		methods = defaultMethods
	}
	p, err := l.dialect.Present(methods)
	l.heard()
	if err != nil {
		return err
	}
	refused, err := l.authenticate(ctx, &p, deadline)
	if err != nil {
		return err
	}
	if refused != nil {
		l.release() // whether or not the client goes on to ask
	}
	if err := l.dialect.Accept(); err != nil {
		return err
	}
	asked, err := l.dialect.Request()
	if err != nil {
		return err
	}
	if refused != nil {
		return refused
	}
	if err := l.aim(&asked); err != nil {
		return err
	}
	l.proxy.Observe.HandshakeDone(l.observed, asked.trace, time.Since(start))
	return nil
}

// hangsUp says of a client that has reset its connection what is said of one that
// has closed it: balancers that only look whether somebody listens do either.
func hangsUp(err error) error {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return err
}

// meet learns from the first byte which dialect the client speaks.
func (l *life) meet() error {
	first, err := l.reader.Peek(1)
	if err != nil {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	if sniff.Announced(l.reader) {
		return errAnnounced
	}
	protocol := sniff.Dialect(first[0])
	switch protocol {
	case sniff.SOCKS5:
		l.dialect = &socks5Dialect{conn: l.conn, reader: l.reader, certified: l.certified()}
	case sniff.SOCKS4:
		l.dialect = &socks4Dialect{conn: l.conn, reader: l.reader, certified: l.certified()}
	case sniff.HTTP:
		l.dialect = &httpDialect{conn: l.conn, reader: l.reader, certified: l.certified()}
	default:
		return errUnknownClient
	}
	name := protocol.String()
	l.facts.Session.Protocol = name
	l.session.SetProtocol(name)
	if !slices.Contains(l.proxy.Protocols[l.session.Listener], name) {
		return fmt.Errorf("%w: %s", errNotSpoken, name)
	}
	return nil
}

// turnAway hears a client that was not admitted just far enough to tell it so
// in its own protocol: nothing that it presents is looked at.
func (l *life) turnAway(refused error) error {
	_, err := l.dialect.Present(policy.Methods{policy.MethodNone})
	l.heard()
	if err == nil {
		err = l.dialect.Accept()
	}
	if err == nil {
		_, err = l.dialect.Request()
	}
	if err != nil && unanswerable(err) {
		l.dialect = nil // it never asked
	}
	return refused
}

// authenticate verifies what was presented and asks who the client is. The
// refusal that it returns first is of a client that is told only in the reply
// to its request: one whose credentials are right, or a fault.
func (l *life) authenticate(ctx context.Context, p *presented, deadline time.Time) (refused, err error) {
	l.proxy.Observe.Began(l.observed, "authenticate")
	l.answered = l.proxy.live.epoch.Load() // users and policies that come later are yet to be asked
	var known identity.Result
	switch {
	case p.method == policy.MethodCertificate:
		p.username, known.Verified = l.facts.Source.Certificate.Name(), true
	case p.method == policy.MethodNone || p.token != "":
	default:
		if known, err = l.verify(ctx, p, deadline); err != nil {
			return nil, fmt.Errorf("verify credentials: %w", err)
		}
	}
	token := p.token
	if token == "" {
		token = p.password
	}
	l.facts.Request = p.request
	l.facts.Credentials = policy.Credentials{
		Method: string(p.method), Username: p.username,
		Known: known.Known, Verified: known.Verified,
		Token: identity.Token(token),
	}
	if known.Verified {
		l.facts.Credentials.Groups = known.Groups
		l.facts.Credentials.Attributes = known.Attributes
	}
	if p.username != "" {
		l.facts.Credentials.Failures = policy.Window(l.proxy.Guard.Username(p.username))
	}

	// Clients that came at the same time may have failed since, or earned a ban.
	if refused := l.proxy.Guard.Banned(l.source); refused != nil {
		return nil, refused
	}
	now := l.visit
	now.Again()
	l.facts.Source.Failures, l.facts.Source.Denials = policy.Window(now.Failures), policy.Window(now.Denials)
	name := guard.Subject{}
	if p.username != "" {
		name = guard.Identity(p.username, p.method == policy.MethodNone)
		if known.Verified {
			if refused := l.proxy.Guard.BannedIdentity(name); refused != nil {
				return refused, nil
			}
		}
	}
	who := l.ask(policy.Authenticate)
	l.facts.Credentials.Token = "" // of use to this one question only
	l.proxy.Observe.Authenticated(p.method, who.Verdict.String())
	fault := who.Verdict == policy.Fault
	if !who.Allowed() && !known.Verified && !fault && p.method != policy.MethodNone {
		l.proxy.Guard.Failed(l.source, p.username)
		l.session.SetFailed()
	}
	if who.Allowed() {
		l.identify(p, known, &who.Identity)
		name = l.subject()
	}
	banned := l.banned(&who, name)
	if err := l.delay(ctx, who.Delay, deadline); err != nil {
		return nil, err
	}
	late := known.Verified || p.method == policy.MethodNone // such a client is told in the reply to its request
	switch {
	case banned != nil && (late || who.Allowed()):
		return banned, nil
	case banned != nil:
		return nil, banned
	case who.Allowed():
		return l.holdIdentity(&who), nil
	case known.Verified || fault && late:
		return &refusal{who}, nil
	}
	return nil, &rejection{&refusal{who}}
}

// verify looks the client's password up, which may be remembered.
func (l *life) verify(ctx context.Context, p *presented, deadline time.Time) (known identity.Result, err error) {
	known, ok := l.proxy.Verify.Remembered(p.username, p.password)
	if ok {
		return known, nil
	}
	ctx, cancel := context.WithDeadline(ctx, deadline) // there may be a queue
	defer cancel()
	l.conn.Task.Aside(func() { known, err = l.proxy.Verify.Verify(ctx, p.username, p.password) })
	return known, err
}

// identify settles who the client is. A name that came with a wrong password is
// worth nothing, so it is left empty unless the policy gives one; the user id of
// SOCKS4 is all that its client can say, and its method tells that it is a claim.
// Claims are counted apart, so that nobody is held to what others do in his name.
func (l *life) identify(p *presented, known identity.Result, change *policy.IdentityChange) {
	who := policy.Identity{Method: string(p.method)}
	claimed := false
	switch {
	case known.Verified:
		who.Name, who.Groups, who.Attributes = p.username, known.Groups, known.Attributes
	case p.method == policy.MethodNone:
		who.Name, claimed = p.username, true
	}
	if known.Verified && known.Known { // and not by a certificate alone, which no directory can withdraw
		l.user = user{name: p.username, groups: change.Groups == nil, attributes: change.Attributes == nil, since: known.Since}
	}
	l.user.expires = l.until(known.Expires)
	if change.Name != nil {
		who.Name, claimed = *change.Name, false
	}
	if change.Groups != nil {
		who.Groups = *change.Groups
	}
	if change.Attributes != nil {
		who.Attributes = change.Attributes
	}
	if who.Name != "" {
		l.identity, l.claimed = who.Name, claimed
		if claimed {
			l.identity = "\x00" + who.Name
		}
		open, denials := l.proxy.Guard.Identify(l.identity)
		who.Open, who.Denials = open, policy.Window(denials)
		subject := guard.Identity(who.Name, claimed)
		l.charge(subject, !claimed)
		l.payer, l.used = subject.String(), &accountOnce{account: l.account}
		l.facts.Account = l.used
	}
	l.facts.Identity = who
	l.session.SetIdentity(who.Name)
}

// aim turns the request into the facts of route: its target in canonical form.
func (l *life) aim(r *request) error {
	l.facts.Request = r.facts
	l.session.SetCommand(r.facts.Command)
	if r.facts.Command == "associate" { // its address is the client's own
		l.stated = netip.AddrPortFrom(r.ip, r.port)
		return nil
	}
	host := target.FromIP(r.ip)
	if r.host != "" {
		var err error
		if host, err = target.Parse(r.host); err != nil {
			return err
		}
	}
	l.facts.Target = targetFacts(host, r.port)
	l.asked = session.Target{Host: l.facts.Target.Host, Port: r.port}
	l.facts.Asked = askedFacts(l.asked)
	l.session.SetTarget(l.asked.Host, l.asked.Port)
	return nil
}

func askedFacts(t session.Target) policy.Asked {
	return policy.Asked{Host: t.Host, Port: int64(t.Port)}
}

func targetFacts(host target.Host, port uint16) policy.Target {
	if host.IP.IsValid() {
		return policy.TargetAddress(host.IP, port)
	}
	return policy.TargetName(host.Name, port)
}

// grant tells the client that its request is fulfilled, and leaves the connection
// as the relay wants it: without a deadline.
func (l *life) grant(bound netip.AddrPort) error {
	if err := l.conn.SetDeadline(time.Now().Add(l.proxy.Limits.Handshake)); err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	if err := l.dialect.Grant(netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())); err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	if err := l.conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	return nil
}
