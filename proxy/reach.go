package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
	"sallyport/proxy/loop"
	"sallyport/proxy/wire/target"
)

// direct is what metrics call the way without an upstream.
const direct = "direct"

// reach follows the plan: it applies a redirect, resolves the name, asks dial
// about each address, and connects to one of those that were allowed. Nothing
// resolves again after that. Where the plan names upstreams it goes through them.
func (l *life) reach(ctx context.Context, plan *policy.Decision) (net.Conn, error) {
	until := time.Now().Add(l.proxy.Limits.Dial)
	if err := l.redirect(plan); err != nil {
		return nil, err
	}
	if l.conn.Task == nil || len(plan.Via) > 0 || l.facts.Target.Kind == "domain" { // a loop needs no timer for one address
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	if len(plan.Via) > 0 {
		l.conn.Leave()
		return l.through(ctx, plan)
	}
	if plan.Resolve == policy.ResolveRemote && l.facts.Target.Kind == "domain" {
		return nil, l.fault(errNoUpstream)
	}

	found, allowed, err := l.known(ctx)
	if err != nil {
		return nil, err
	}

	start := time.Now()
	up, err := l.dial(ctx, until, allowed, plan.SourceAddress)
	if err != nil {
		l.proxy.Observe.Dialled(l.observed, direct, endingOf(err).name, netip.AddrPort{}, time.Since(start))
		return nil, err
	}
	to := addrPortOf(up.RemoteAddr())
	l.proxy.Observe.Dialled(l.observed, direct, "ok", to, time.Since(start))
	l.session.SetAddress(to)
	l.names = namesOf(found, to.Addr())
	return up, nil
}

// dial has the connection served like the client's, so that the relay between
// them is, too.
func (l *life) dial(ctx context.Context, until time.Time, to []netip.AddrPort, from netip.Addr) (net.Conn, error) {
	if l.conn.Task == nil {
		return plain(l.proxy.Dial.Dial(ctx, to, from))
	}
	defer l.session.OnCut(nil)
	up, err := plain(l.proxy.Dial.DialOn(ctx, l.conn.Task, until, to, from, func(c *loop.Conn) {
		l.session.OnCut(func() { c.SetWriteDeadline(time.Unix(1, 0)) })
	}))
	return up, calledOff(ctx, err)
}

// calledOff says of a dial that has failed that it was called off, where it was. The
// end of its time is the target's failure and stays one.
func calledOff(ctx context.Context, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("dial: %w", ctx.Err())
	}
	return err
}

// plain is the interface of what it is given; without it there is no nil one.
func plain[C net.Conn](c C, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// known looks the target's name up, if it has one, and returns what was found and
// the addresses of it that dial allows.
func (l *life) known(ctx context.Context) (found []dial.Address, allowed []netip.AddrPort, err error) {
	found = []dial.Address{{IP: l.facts.Target.IP.Addr}}
	if l.facts.Target.Kind == "domain" {
		if found, err = l.resolve(ctx, l.facts.Target.Host); err != nil {
			return nil, nil, err
		}
	}
	l.proxy.Observe.Began(l.observed, "dial")
	allowed, err = l.allowedOf(found)
	return found, allowed, err
}

// redirect changes the target where the plan says so. What it names passes
// dial like any other target.
func (l *life) redirect(plan *policy.Decision) error {
	if plan.Redirect == (policy.Redirect{}) {
		return nil
	}
	to, err := redirected(l.facts.Target, plan.Redirect)
	if err != nil {
		return l.fault(err)
	}
	l.facts.Target = to
	l.session.SetTarget(to.Host, uint16(to.Port))
	return nil
}

// redirected is where a redirect leads from a target.
func redirected(asked policy.Target, r policy.Redirect) (policy.Target, error) {
	port := cmp.Or(r.Port, asked.Port)
	if r.Host == "" {
		asked.Port = port
		return asked, nil
	}
	host, err := target.Parse(r.Host)
	if err != nil {
		return policy.Target{}, fmt.Errorf("route: redirect.host has to be a name or an address without scheme or port (the port goes into redirect.port): %w", err)
	}
	return targetFacts(host, uint16(port)), nil
}

// allowedOf asks dial about each address and keeps those that may be dialled.
// Where none may, a fault counts more than a denial, since it is an error.
func (l *life) allowedOf(addrs []dial.Address) ([]netip.AddrPort, error) {
	port := uint16(l.facts.Target.Port)
	allowed := make([]netip.AddrPort, 0, len(addrs))
	var refused *refusal
	for _, a := range addrs {
		l.facts.Address = addressFacts(a)
		d := l.ask(policy.Dial)
		l.proxy.Observe.AddressDecided(l.observed, a.IP, &l.answer)
		switch {
		case d.Allowed():
			allowed = append(allowed, netip.AddrPortFrom(a.IP, port))
		case refused == nil || (d.Verdict == policy.Fault && refused.Verdict != policy.Fault):
			refused = &refusal{d}
		}
	}
	if len(allowed) == 0 {
		return nil, refused
	}
	return allowed, nil
}
