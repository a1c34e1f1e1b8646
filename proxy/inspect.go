package proxy

import (
	"errors"
	"time"

	"sallyport/policy"
	"sallyport/proxy/relay"
	"sallyport/proxy/wire/sniff"
)

// patience is how long the client's first bytes are waited for, all of them.
const patience = 3 * time.Second

// inspection asks about the client's first bytes, once it has been granted. What
// the target says meanwhile is delivered, so that a server that speaks first is
// not held up; what the client says is held back until the answer.
func (l *life) inspection() relay.Inspection {
	return relay.Inspection{
		Most: sniff.MaxFlow, Wait: patience,
		Enough: func(first []byte) bool {
			_, more := sniff.Inspect(first)
			return !more
		},
		Judge: func(first []byte) error {
			seen, _ := sniff.Inspect(first)
			l.facts.Flow = policy.Flow{
				Protocol: seen.Protocol, ServerName: seen.ServerName, ALPN: seen.ALPN, Host: seen.Host,
			}
			d := l.ask(policy.Inspect)
			if d.Allowed() || !l.proxy.Decide.Asks(policy.Inspect) { // the stage has gone meanwhile
				return nil
			}
			return &refusal{d}
		},
	}
}

// inspected notes that the flow was ended by the policy.
func (l *life) inspected() {
	var r *refusal
	if !errors.As(l.err, &r) {
		return
	}
	l.outcome, l.reasons = endingOf(l.err).name, r.Reasons()
	if r.Verdict == policy.Denied {
		l.proxy.Guard.Denied(l.conn.Source.Addr(), l.identity)
	}
}
