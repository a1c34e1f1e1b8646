package proxy

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"sallyport/policy"
	"sallyport/proxy/guard"
	"sallyport/proxy/listen"
	"sallyport/proxy/session"
)

// hold.go is what a decision says of who asks rather than of what is asked: bans,
// limits and delays. The guard remembers the first two, and refuses by them
// without another decision.

// sourceOf is whom a connection comes from: an address, or of a unix socket the
// user there.
func sourceOf(c *listen.Conn) guard.Source {
	if c.Source.IsValid() {
		return guard.Address(c.Source.Addr())
	}
	uid, known := c.User()
	if !known {
		uid = -1 // all of them are one
	}
	return guard.User(uid)
}

// enter asks the guard about a connection that has been accepted: first whether
// its source is banned, then whether there is memory for anybody, then what is
// remembered of limits.
func (p *Proxy) enter(from guard.Source) (guard.Visit, *guard.Refusal) {
	if refused := p.Guard.Banned(from); refused != nil {
		return guard.Visit{}, refused
	}
	if refused := p.short(); refused != nil {
		return guard.Visit{}, refused
	}
	return p.Guard.Enter(from, p.Limits.Handshakes)
}

// few is how many sessions there are always memory for: where it is short with so
// few, something else has it.
const few = 64

// short is the refusal of who comes when memory is scarce, or nil.
func (p *Proxy) short() *guard.Refusal {
	if !p.Memory.Scarce() || p.Sessions.Len() <= few {
		return nil
	}
	return &guard.Refusal{Cause: "limit", Retry: time.Second, Why: "memory is scarce: see limits.memory"}
}

// errGivenUp ends a handshake without a word, since to tell the client would take
// more of what there is too little of.
var errGivenUp = &guard.Refusal{Cause: "limit", Why: "memory is all but used up, and handshakes are given up: see limits.memory"}

// Relieve gives up all handshakes, since memory is all but used up. What has been
// granted goes on.
func (p *Proxy) Relieve() {
	if p.short() != nil {
		p.Sessions.CutHeard(errGivenUp)
	}
}

// mayTell tells whether a client is heard out to be told that it is refused. One
// with TLS is not: the handshake would cost more than the decision that is saved.
func mayTell(c *listen.Conn, refused *guard.Refusal) bool { return refused.Tell && c.TLS() == nil }

// banning is a decision that bans.
type banning struct {
	*refusal // or not: then it is the decision alone
	ban      *guard.Refusal
	long     time.Duration
}

func (b *banning) Error() string {
	return fmt.Sprintf("%s bans %s for %v", b.Stage, b.ban.Of, b.long)
}

func (b *banning) Unwrap() []error { return []error{b.ban, b.refusal} }

// banned puts a decision's ban in force, and is the refusal of the request that
// it was about; nil where the decision bans nobody. Name is whom a ban of the
// identity is of.
func (l *life) banned(d *policy.Decision, name guard.Subject) error {
	long := time.Duration(d.Ban.For)
	if d.Verdict == policy.Fault || long == 0 {
		return nil
	}
	of := l.source.Subject()
	switch {
	case d.Ban.Identity:
		of = name
	case d.Ban.Prefix.IsValid():
		of = guard.Of(d.Ban.Prefix)
	}
	refused := &banning{&refusal{*d}, &guard.Refusal{Cause: "ban", Of: of, Retry: long}, long}
	if of == (guard.Subject{}) { // an identity that nobody has: this request alone is refused
		return refused
	}
	cause := "policy " + d.Revision + ", " + string(d.Stage) + ", decision " + d.ID
	if err := l.proxy.Guard.Ban(of, long, cause); err != nil {
		return errors.Join(refused, err)
	}
	return refused
}

// subject is whom a ban of the identity is of, once it is known.
func (l *life) subject() guard.Subject {
	if l.facts.Identity.Name == "" {
		return guard.Subject{}
	}
	return guard.Identity(l.facts.Identity.Name, l.claimed)
}

// bannedSince is the refusal of a client that asks for something after its source,
// or who it is, was banned; nil where neither is.
func (l *life) bannedSince(name guard.Subject) error {
	if refused := l.proxy.Guard.Banned(l.source); refused != nil {
		return refused
	}
	if name == (guard.Subject{}) {
		return nil
	}
	if refused := l.proxy.Guard.BannedIdentity(name); refused != nil {
		return refused
	}
	return nil
}

// admitted does what admit says of the source, beside letting it in. The error
// ends the session before the client is heard.
func (l *life) admitted(ctx context.Context, door *policy.Decision) error {
	if err := l.banned(door, guard.Subject{}); err != nil {
		l.barred = err
	}
	if door.Verdict != policy.Fault { // which says nothing, and what is remembered stays
		if refused := l.visit.Hold(limitsOf(&door.Limits)); refused != nil && door.Allowed() && l.barred == nil {
			l.barred = refused
		}
	}
	return l.delay(ctx, door.Delay, l.conn.Accepted.Add(l.proxy.Limits.Handshake))
}

// holdIdentity holds a client that has been identified against bans and against
// the limits of the decision about it. One without a name is held by its source.
func (l *life) holdIdentity(who *policy.Decision) error {
	if name := l.subject(); name != (guard.Subject{}) {
		if refused := l.proxy.Guard.BannedIdentity(name); refused != nil {
			return refused
		}
	}
	if err := l.holdQuota(who.Limits.Quota); err != nil {
		return err
	}
	if limitsOf(&who.Limits) == (guard.Limits{}) {
		return nil
	}
	others := l.facts.Identity.Open
	if l.identity == "" {
		l.identity = "\x01" + l.source.Subject().String()
		others, _ = l.proxy.Guard.Identify(l.identity)
	}
	if refused := l.proxy.Guard.HoldIdentity(l.identity, limitsOf(&who.Limits), others); refused != nil {
		return refused
	}
	return nil
}

// release takes the session off those that its identity has open. A client that
// takes its time to hang up, when it has been answered, must not keep others of its
// identity out.
func (l *life) release() {
	if l.identity != "" {
		l.proxy.Guard.Release(l.identity)
		l.identity = ""
	}
}

func limitsOf(l *policy.Limits) guard.Limits {
	limits := guard.Limits{Connections: l.Connections, Prefix: l.Prefix}
	if l.Rate.Count > 0 {
		limits.Rate = l.Rate.Count / l.Rate.Per.Seconds()
		limits.Burst = float64(l.Burst)
		if l.Burst == 0 {
			limits.Burst = max(l.Rate.Count, 1)
		}
	}
	return limits
}

// delay keeps the client waiting, and holds nothing for it but its connection
// and its task or goroutine. It ends early enough for the client to be heard out and
// answered within the handshake's time, and with an error when the client hangs
// up, the session is cut, or the server drains.
func (l *life) delay(ctx context.Context, long policy.Duration, deadline time.Time) error {
	if long == 0 {
		return nil
	}
	until := time.Now().Add(time.Duration(long))
	if last := deadline.Add(-min(barredTime, l.proxy.Limits.Handshake/2)); until.After(last) {
		until = last
	}
	plain := l.conn.Plain()
	socket, ok := plain.(syscall.Conn)
	if !ok {
		return fmt.Errorf("delay: a %T cannot be waited for", plain)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("delay: %w", err)
	}
	if err := plain.SetReadDeadline(until); err != nil {
		return fmt.Errorf("delay: %w", err)
	}
	draining := l.proxy.Sessions.Draining()
	wake := func() { plain.SetReadDeadline(time.Unix(1, 0)) }
	defer context.AfterFunc(ctx, wake)()
	defer context.AfterFunc(draining, wake)()
	// Readable or not, only the client's end is waited for: what it has sent is for
	// later, and each change of the socket calls this again.
	err = raw.Read(hungUp)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case draining.Err() != nil:
		return session.ErrCut{Reason: session.ErrDraining.Error()}
	case err == nil:
		return fmt.Errorf("%w while it was kept waiting", errGone)
	}
	if err := plain.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("delay: %w", err)
	}
	return nil
}
