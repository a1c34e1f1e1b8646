package proxy

import (
	"errors"
	"net"

	"sallyport/policy"
	"sallyport/proxy/relay"
)

// live begins the relay of a session that has been granted, and gives back what
// only the opening needed.
func (l *life) live(up net.Conn) {
	l.who, l.request = l.facts.Identity, l.facts.Request
	if l.association == nil {
		var early []byte
		if n := l.reader.Buffered(); n > 0 {
			buffered, _ := l.reader.Peek(n) // never fails for what is buffered
			early = append(early, buffered...)
		}
		early = append(early, l.conn.Early()...)
		l.flow = relay.Join(l.conn.Conn, up, early, l.limits, &l.session.Bytes)
		l.flow.Late(l.way.late)
		l.way.late = nil
		if l.request.Command != "forward" && l.proxy.Decide.Asks(policy.Inspect) { // what was forwarded was seen by route
			l.flow.Inspect(l.inspection())
		}
	}
	l.giveBack()
	l.outcome = "ok"
	l.session.Granted()
	l.meterOn()
	l.proxy.Observe.Began(l.observed, "relay")
	l.proxy.live.add(l)
	if l.association != nil {
		go l.relayDatagrams()
		return
	}
	l.conn.Task = nil // the opening's
	// The relay needs so little stack that an idle session keeps two of the smallest.
	l.flow.Start(l.session.Context(), func(cause relay.Cause, err error) {
		l.cause, l.err = cause, err
		up.Close()
		l.finish()
	})
	l.session.OnCut(l.flow.Cut)
}

// relayDatagrams is relay for an association.
func (l *life) relayDatagrams() {
	l.cause, l.err = l.association.run(l.session.Context())
	l.finish()
}

// finish notes how the session ended, and ends it.
func (l *life) finish() {
	if l.cause == relay.Cut {
		l.cutShort()
	}
	l.end()
}

// cutShort notes for the record that the session was cut, or that inspect has
// refused what the client sent.
func (l *life) cutShort() {
	l.outcome = "cut"
	var r *refusal
	if !errors.As(l.err, &r) {
		return
	}
	l.reasons = r.Reasons()
	if r.Stage != policy.Inspect {
		return
	}
	l.outcome = endingOf(r).name
	if r.Verdict == policy.Denied {
		_, to, at := l.session.Way()
		l.denied(to.Host, at.Addr())
	}
}

// follow puts a forwarded request that has been sent on among the live sessions,
// so that a new policy is asked about it while it goes on. It is a life of its own
// there: the connection's goes on to other requests, whatever is being asked
// about this one.
func (l *life) follow() *life {
	one := &life{
		proxy: l.proxy, session: l.session, conn: l.conn, observed: l.observed,
		kept: l.kept, way: l.way, flow: l.flow, account: l.account, revision: l.revision, warnings: l.warnings,
	}
	one.who, one.request = l.facts.Identity, l.facts.Request
	l.proxy.live.add(one)
	return one
}

// unfollow ends that, and keeps for the record what was answered.
func (l *life) unfollow(one *life) {
	one.mu.Lock()
	defer one.mu.Unlock()
	one.over = true
	l.proxy.live.remove(one)
	l.revision, l.warnings = one.revision, one.warnings
}
