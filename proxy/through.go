package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
)

// Router leads sessions through the upstreams that route has named.
type Router interface {
	// Check returns an error that names the first upstream that there is not.
	Check(via policy.Via) error
	// Reach connects to one of the endpoints.
	Reach(ctx context.Context, via policy.Via, trip dial.Trip) (dial.Way, error)
}

// way is how a session that goes through upstreams was led.
type way struct {
	hops   []string   // the upstreams, the first one first; none: it went directly
	pinned netip.Addr // the target's address, which dial has allowed; invalid: a name was passed on
	late   []byte     // what the target had sent before the relay began
	bound  netip.AddrPort
}

var (
	errNoUpstream = errors.New("resolve is remote, but there is no upstream to leave the name to: via is empty")
	errVia        = errors.New("the command does not go through upstreams")
	errOneHop     = errors.New("datagrams go through a single upstream, and via has several hops")
)

// through is reach by the upstreams of the plan. Where the name is left to the
// last one it is not looked up here, and dial has no address to be asked about.
func (l *life) through(ctx context.Context, plan *policy.Decision) (net.Conn, error) {
	if err := l.proxy.Route.Check(plan.Via); err != nil {
		return nil, l.fault(fmt.Errorf("route: via: %w", err))
	}
	port := uint16(l.facts.Target.Port)
	trip := dial.Trip{
		From: plan.SourceAddress, Watch: &hopWatcher{life: l},
		Key: cmp.Or(l.identity, l.conn.Source.Addr().String()),
	}
	var found []dial.Address
	if l.facts.Target.Kind == "domain" && remote(plan) {
		l.proxy.Observe.Began(l.observed, "dial")
		trip.To = []dial.Endpoint{{Name: l.facts.Target.Host, Port: port}}
	} else {
		var allowed []netip.AddrPort
		var err error
		if found, allowed, err = l.known(ctx); err != nil {
			return nil, err
		}
		for _, to := range allowed {
			trip.To = append(trip.To, dial.Endpoint{IP: to.Addr(), Port: port})
		}
	}
	led, err := l.proxy.Route.Reach(ctx, plan.Via, trip)
	if err != nil {
		return nil, err
	}
	l.way = way{hops: led.Hops, pinned: led.To.IP, late: led.Early, bound: led.Bound}
	l.names = namesOf(found, led.To.IP)
	l.session.SetVia(led.Hops)
	l.session.SetAddress(led.At)
	return led.Conn, nil
}

// remote tells whether a name is left to the last upstream, as it is where the
// policy does not say.
func remote(plan *policy.Decision) bool { return plan.Resolve != policy.ResolveLocal }

// fault makes a fault of the latest answer, where it asks for what there is not.
func (l *life) fault(err error) error {
	l.answer.Verdict, l.answer.Err = policy.Fault, err
	l.proxy.Observe.Decided(l.observed, &l.answer, 0)
	return &refusal{l.answer}
}

// hopWatcher tells the observer of each hop. The first one's step has begun
// already, since dial was asked about the target in it.
type hopWatcher struct {
	life  *life
	begun bool
}

func (w *hopWatcher) Began(string) {
	if w.begun {
		w.life.proxy.Observe.Began(w.life.observed, "dial")
	}
	w.begun = true
}

func (w *hopWatcher) Ready(string, time.Duration) {}

func (w *hopWatcher) Done(hop string, at netip.AddrPort, took time.Duration, err error) {
	outcome := "ok"
	if err != nil {
		outcome = endingOf(err).name
	}
	w.life.proxy.Observe.Dialled(w.life.observed, hop, outcome, at, took)
}

// elsewhere tells why a session that was led one way may not stay where a new
// plan leads another one; empty where it may.
func (w *way) elsewhere(plan *policy.Decision) string {
	if why := w.astray(plan); why != "" {
		return why
	}
	if len(w.hops) > 0 && !w.pinned.IsValid() && !remote(plan) {
		return " has the name looked up here"
	}
	return ""
}

// astray is the part of elsewhere that is about the upstreams.
func (w *way) astray(plan *policy.Decision) string {
	if len(plan.Via) == 0 && len(w.hops) > 0 {
		return " leads directly"
	}
	stays := len(plan.Via) == len(w.hops)
	for i := 0; stays && i < len(w.hops); i++ {
		stays = slices.Contains(plan.Via[i].Any, w.hops[i])
	}
	if !stays {
		return " leads through " + viaText(plan.Via)
	}
	return ""
}

// leadsAlike tells whether a plan would lead the way that is there.
func (l *life) leadsAlike(w *way, plan *policy.Decision) bool {
	if len(plan.Via) > 0 && l.proxy.Route.Check(plan.Via) != nil {
		return false // reach says why
	}
	return w.elsewhere(plan) == ""
}

// allowedStill asks dial about the address of a connection that is used again; one
// that a name was passed on for has none.
func (l *life) allowedStill(o *origin) bool {
	ip := o.address.Addr()
	if len(o.way.hops) > 0 {
		ip = o.way.pinned
	}
	if !ip.IsValid() {
		return true
	}
	_, err := l.allowedOf([]dial.Address{{IP: ip.Unmap(), Names: o.names}})
	return err == nil
}

func viaText(via policy.Via) string {
	hops := make([]string, len(via))
	for i, hop := range via {
		hops[i] = strings.Join(hop.Any[:min(len(hop.Any), 8)], " or ")
	}
	return strings.Join(hops, ", then ")
}
