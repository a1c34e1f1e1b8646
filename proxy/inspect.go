package proxy

import (
	"time"

	"sallyport/policy"
	"sallyport/proxy/relay"
	"sallyport/proxy/wire/sniff"
)

// patience is how long the client's first bytes are waited for, all of them.
const patience = 3 * time.Second

// inspection asks about the client's first bytes, once it has been granted. What
// the target says meanwhile is delivered, so that a server that speaks first is
// not held up; what the client says is held back until the answer. It has facts
// of its own: those of the opening are given back, and what is kept may change
// meanwhile with a new policy.
func (l *life) inspection() relay.Inspection {
	facts := l.facts
	var look sniff.Look
	return relay.Inspection{
		Most: sniff.MaxFlow, Wait: patience,
		Enough: func(first []byte) bool {
			_, more := look.At(first)
			return !more
		},
		Judge: func(first []byte) error {
			seen, _ := sniff.Inspect(first)
			facts.Flow = policy.Flow{
				Protocol: seen.Protocol, ServerName: seen.ServerName, ALPN: seen.ALPN, Host: seen.Host,
			}
			return l.inspect(&facts)
		},
	}
}

// inspect asks aside of what relays, while the session may be asked about again
// elsewhere.
func (l *life) inspect(facts *policy.Facts) error {
	if !l.proxy.Decide.Asks(policy.Inspect) {
		return nil // the stage has gone since the session was granted
	}
	start := time.Now()
	facts.Time = policy.MinuteOf(start)
	answer := l.proxy.Decide.Decide(l.observed, policy.Inspect, facts)
	if !answer.Allowed() && !l.proxy.Decide.Asks(policy.Inspect) {
		return nil // it has gone at this very moment
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proxy.Observe.Decided(l.observed, &answer, time.Since(start))
	l.keep(&answer)
	l.relabel(&answer)
	if !answer.Allowed() {
		return &refusal{answer}
	}
	return nil
}
