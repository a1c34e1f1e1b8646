package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
	"sallyport/proxy/session"
)

// withdrawal is why a live session may not go on: the refusal, where it is the
// policy's, and the words for it.
type withdrawal struct {
	session.ErrCut
	refused *refusal
}

func (w *withdrawal) Unwrap() []error {
	if w.refused == nil {
		return []error{w.ErrCut}
	}
	return []error{w.ErrCut, w.refused}
}

// withdrawn is the cause of a cut, in words that follow on "policy REVISION".
func withdrawn(revision, why string, refused *refusal) error {
	return &withdrawal{session.ErrCut{Reason: "policy " + revision + why}, refused}
}

// asker asks about one live session after another, with facts of its own.
type asker struct {
	life   *life
	facts  policy.Facts
	answer policy.Decision
}

// again asks about a live session: route with what the client had asked for,
// then dial about the address in use. The error cuts the session, unless it is a
// fault. Neither admit and authenticate nor what is counted has a say.
func (a *asker) again(l *life) error {
	a.life = l
	l.mu.Lock()
	over := l.over // then the session may be at another request
	protocol, to, address := l.session.Way()
	l.mu.Unlock()
	if over {
		return nil
	}
	f := &a.facts
	*f = policy.Facts{Identity: l.who, Request: l.request}
	l.introduce(f)
	f.Session.Protocol, f.Session.Again = protocol, true
	f.Target = canonical(l.asked)
	f.Asked = askedFacts(l.asked)

	plan := a.ask(policy.Route)
	if !plan.Allowed() {
		return refusedAgain(plan)
	}
	limits := l.bounds(&plan.SessionLimits)
	if l.association != nil { // which asks about its destinations itself
		if why := l.way.astray(plan); why != "" {
			return withdrawn(plan.Revision, why, nil)
		}
		l.association.packets.Limit(limits)
		return nil
	}
	leads, err := redirected(f.Target, plan.Redirect)
	if err != nil {
		plan.Verdict, plan.Err = policy.Fault, err
		l.proxy.Observe.DecidedAgain(context.Background(), plan, 0)
		return refusedAgain(plan)
	}
	if leads.Host != to.Host || leads.Port != int64(to.Port) {
		why := fmt.Sprintf(" leads to %s", net.JoinHostPort(leads.Host, fmt.Sprint(leads.Port)))
		return withdrawn(plan.Revision, why, nil)
	}
	f.Target = leads
	if why := l.way.elsewhere(plan); why != "" {
		return withdrawn(plan.Revision, why, nil)
	}
	pinned := address.Addr()
	if len(l.way.hops) > 0 {
		pinned = l.way.pinned
	}
	if pinned.IsValid() { // else the name was left to an upstream
		f.Address = addressFacts(dial.Address{IP: pinned, Names: l.names})
		if dial := a.ask(policy.Dial); !dial.Allowed() {
			return refusedAgain(dial)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.flow.Limit(limits)
	}
	return nil
}

// ask asks one question. What the answer says of a session that has ended
// meanwhile is counted, but is no part of its record.
func (a *asker) ask(stage policy.Stage) *policy.Decision {
	l, start := a.life, time.Now()
	a.facts.Time = policy.MinuteOf(start)
	a.answer = l.proxy.Decide.Decide(l.observed, stage, &a.facts)
	took := time.Since(start)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		l.proxy.Observe.DecidedAgain(context.Background(), &a.answer, took)
		return &a.answer
	}
	l.proxy.Observe.DecidedAgain(l.observed, &a.answer, took)
	l.keep(&a.answer)
	l.relabel(&a.answer)
	return &a.answer
}

// refusedAgain is a fault as it is, and a denial as the cause of a cut.
func refusedAgain(d *policy.Decision) error {
	refused := &refusal{*d}
	if d.Verdict == policy.Fault {
		return refused
	}
	why := fmt.Sprintf(" denies (%s)", d.Stage)
	if reasons := d.Reasons(); len(reasons) > 0 {
		why += ": " + strings.Join(reasons, "; ")
	}
	return withdrawn(d.Revision, why, refused)
}

// attend does what is to be done about a live session: it looks after its user,
// and asks again where another policy has answered or the user is not as he was.
func (a *asker) attend(l *life) (asked bool, err error) {
	present := l.proxy.live.epoch.Load()
	if err = l.standing(present); err != nil {
		asked = l.answered != present
	} else if asked = l.user.changed || !l.answered.samePolicy(present); asked {
		err = a.again(l)
	}
	var cut session.ErrCut
	switch {
	case errors.As(err, &cut):
		if !l.cut(err) {
			return asked, nil
		}
	case err != nil:
		l.faulted = present
	default:
		l.answered, l.user.changed = present, false
	}
	return asked, err
}

// cut cuts the session, unless what was asked about is over: another request of
// the session has nothing to do with it.
func (l *life) cut(why error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.proxy.Sessions.Cut(l.session.ID, why)
	}
	return !l.over
}

// standing looks the client up in the user directory again, if that has vouched
// for it. What is said of the user there now replaces what was, but for what
// authenticate has given. A certificate that the client has shown counts for as
// long as it would be taken. The error cuts the session.
func (l *life) standing(under *epoch) error {
	if l.outlived() {
		return withdrawn(under.name(), ": the client's certificate has expired", nil)
	}
	if l.user.name == "" {
		return nil
	}
	now := l.proxy.Verify.Lookup(l.user.name)
	if now.Ended == "" && !now.Since.Equal(l.user.since) {
		now.Ended = "gone" // whoever has the name now is another one
	}
	if now.Ended != "" {
		why := "is " + now.Ended
		if now.Ended == "expired" {
			why = "has expired"
		}
		return withdrawn(under.name(), ": the user "+why, nil)
	}
	l.user.expires = l.until(now.Expires)
	groups, attributes := l.who.Groups, l.who.Attributes
	if l.user.groups {
		groups = now.Groups
	}
	if l.user.attributes {
		attributes = now.Attributes
	}
	if !slices.Equal(groups, l.who.Groups) || !reflect.DeepEqual(attributes, l.who.Attributes) {
		l.user.changed = true
		if l.association != nil && under != nil {
			l.association.since.Store(under.number)
		}
	}
	l.who.Groups, l.who.Attributes = groups, attributes
	return nil
}

// canonical makes the facts of a target that was parsed before.
func canonical(t session.Target) policy.Target {
	if t.Host == "" { // of an association
		return policy.Target{}
	}
	if ip, err := netip.ParseAddr(t.Host); err == nil {
		return policy.TargetAddress(ip, t.Port)
	}
	return policy.TargetName(t.Host, t.Port)
}
