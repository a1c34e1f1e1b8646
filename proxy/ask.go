package proxy

import (
	"bufio"
	"context"
	"sync"
	"time"

	"sallyport/policy"
	"sallyport/proxy/guard"
	"sallyport/proxy/listen"
	"sallyport/proxy/relay"
	"sallyport/proxy/session"
)

// life is one session as its own goroutines see it: what is known, what was
// answered, and how it ends.
type life struct {
	proxy   *Proxy
	session *session.Session
	conn    *listen.Conn

	// observed is the context with which the observer is told of this session.
	// It has what the observer keeps of it, and nothing is cancelled by it.
	observed context.Context

	reader     *bufio.Reader // what the client sends, until the relay takes over
	forwarding               // of plain HTTP
	dialect    dialect       // nil until the first byte
	facts      policy.Facts

	answer   policy.Decision // the latest
	warnings []string        // of all answers
	identity string          // counted by the guard until the end
	limits   relay.Limits
	early    []byte // sent by the client before it was granted

	outcome string      // for the record: the ending's name
	cause   relay.Cause // why a granted session ended
	reasons []string    // the policy's, where it refused
	err     error
}

// readers hold what a client sends before the relay: enough for every SOCKS
// message; longer HTTP header blocks are gathered by their codec.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4096) }}

// begin gathers what is known when a client has connected.
func (p *Proxy) begin(s *session.Session, c *listen.Conn) *life {
	l := &life{proxy: p, session: s, conn: c, observed: p.Observe.Accepted(context.Background(), s)}
	l.reader = readers.Get().(*bufio.Reader)
	l.reader.Reset(c.TCPConn)

	l.introduce(p.Guard.Enter(c.Source.Addr()))
	return l
}

// introduce fills in who has connected.
func (l *life) introduce(counts guard.Counts) {
	source := policy.SourceOf(l.conn.Source)
	source.Open = counts.Open
	source.Rate = policy.Rate{Second: counts.RateSecond, Minute: counts.RateMinute}
	source.Failures = policy.Window(counts.Failures)
	source.Denials = policy.Window(counts.Denials)
	l.facts.Source, l.facts.Locator = source, l.proxy.Locator
	s := l.session
	l.facts.Session = policy.Session{ID: s.ID, Listener: s.Listener, Started: s.Started.UnixNano(), Protocol: l.facts.Session.Protocol}
}

// ask asks one question with the facts gathered so far, and keeps what the
// record and the client will be told of the answer.
func (l *life) ask(stage policy.Stage) policy.Decision {
	start := time.Now()
	l.facts.Time = policy.MinuteOf(start)
	// The engine has a deadline of its own. A client that hangs up must not look
	// like a policy that fails, so the session's context has no say here.
	l.answer = l.proxy.Decide.Decide(context.Background(), stage, &l.facts)
	l.proxy.Observe.Decided(l.observed, &l.answer, time.Since(start))
	l.session.Decided(string(stage), l.answer.ID)
	l.session.AddLabels(l.answer.Labels)
	l.warnings = append(l.warnings, l.answer.Warn...)
	return l.answer
}

// end gives everything back, writes the session's one record, and closes the
// client's connection.
func (l *life) end() {
	defer l.conn.Close()
	l.stopForwarding()
	l.giveBack()
	l.proxy.Guard.Leave(l.conn.Source.Addr())
	if l.identity != "" {
		l.proxy.Guard.Release(l.identity)
	}
	l.session.Close()
	l.proxy.Observe.SessionEnded(l.observed, l.record())
}

// giveBack returns the reader to the pool; the relay reads the connection
// itself.
func (l *life) giveBack() {
	if l.reader != nil {
		l.reader.Reset(nil)
		readers.Put(l.reader)
		l.reader = nil
	}
}
