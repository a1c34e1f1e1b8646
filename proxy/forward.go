package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/policy"
	"sallyport/proxy/guard"
	"sallyport/proxy/relay"
	"sallyport/proxy/session"
	"sallyport/proxy/wire/http"
)

// A client of plain HTTP sends one request after another on one connection, each
// to any host. It is one session, and each of its requests is heard, authenticated
// and decided upon by itself, as if it were the first.

// forwarding is what a session of such requests keeps from one to the next, beside
// its flow, which counts and bounds all of them together.
type forwarding struct {
	origin *origin   // the connection of the latest request, where another may use it
	begun  time.Time // of the request that goes on; zero: none does
	moved  session.Bytes
	unread unread
}

// unread is what is still to be read of a request.
type unread struct {
	http.Framing
	partly bool // some of it has been read already
}

// origin is a connection to an origin server. It serves one session only, and of
// that one identity, since there are servers that authenticate connections.
type origin struct {
	conn    net.Conn
	reader  *bufio.Reader
	by      string // the life's identity
	target  session.Target
	address netip.AddrPort
	names   []string   // by which the address was found
	from    netip.Addr // the policy's source_address
	way     way        // through upstreams
}

// originReaders are for the answers. A longer header is gathered by its codec.
var originReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4096) }}

func (o *origin) close() {
	o.conn.Close()
	o.giveBack()
}

// giveBack gives back the reader alone.
func (o *origin) giveBack() {
	o.reader.Reset(nil)
	originReaders.Put(o.reader)
}

// untouched reports that the server has neither closed an idle connection nor
// sent anything that nobody has asked for.
func (o *origin) untouched() bool {
	if o.reader.Buffered() > 0 {
		return false
	}
	tcp, plain := o.conn.(*net.TCPConn)
	if !plain { // within TLS there is no telling
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	var peeked error
	err = raw.Control(func(fd uintptr) {
		_, _, peeked = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return err == nil && errors.Is(peeked, unix.EAGAIN)
}

// smallBody is how much of a refused request's body is read for the sake of the
// next request.
const smallBody = 64 << 10

// another ends one request and waits for the next one on the connection. It
// reports whether there is one; the error is still to be told.
func (l *life) another(ctx context.Context, door *policy.Decision, err error) (bool, error) {
	d, ok := l.dialect.(*httpDialect)
	if !ok || d.request == nil || d.shown.Command != "forward" {
		return false, err
	}
	if err != nil {
		if !l.mayGoOn(ctx, door, d, err) {
			return false, err
		}
		d.keep = true
		e := l.settle(err)
		told := l.tell(err, &e)
		if told == nil {
			_, told = io.Copy(io.Discard, http.NewBody(l.reader, l.unread.Framing))
		}
		d.keep = told == nil // else the client has gone
	}
	l.requestEnded()
	if !d.keep {
		l.release()
		l.conn.SetDeadline(time.Now().Add(2 * time.Second))
		defer context.AfterFunc(ctx, func() { l.conn.SetDeadline(time.Unix(1, 0)) })()
		l.hangUp()
		return false, nil
	}
	if !l.awaitAnother(ctx) || l.outlived() {
		return false, nil
	}
	l.renew(door, d)
	return true, nil
}

// mayGoOn reports whether the client may be told of an error by an answer after
// which its connection is good for another request: what it has sent was
// understood, and what is still to be read of it is little. Who has failed to log
// in is to come by admit again.
func (l *life) mayGoOn(ctx context.Context, door *policy.Decision, d *httpDialect, err error) bool {
	var refused *guard.Refusal
	if errors.As(err, &refused) && refused.Cause == "ban" {
		return false
	}
	if _, bad := malformed(err); bad || unanswerable(err) || ctx.Err() != nil || !door.Allowed() {
		return false
	}
	var rejected *rejection
	if errors.As(err, &rejected) && l.facts.Credentials.Method != string(policy.MethodNone) {
		return false
	}
	if l.flow != nil {
		if _, _, over := l.flow.Over(); over {
			return false
		}
	}
	return d.request.Persistent() && !l.unread.partly && !l.unread.Chunked && l.unread.Length <= smallBody &&
		(l.unread.Empty() || !d.request.ExpectsContinue())
}

// awaitAnother waits for the first byte of another request: for as long as the
// session may be idle, or a handshake's time where nothing was granted yet.
func (l *life) awaitAnother(ctx context.Context) bool {
	var deadline time.Time
	if l.flow == nil {
		deadline = time.Now().Add(l.proxy.Limits.Handshake)
	}
	l.conn.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { l.conn.SetDeadline(time.Unix(1, 0)) })()
	if l.flow != nil {
		l.flow.Resume()
		defer l.flow.Pause() // the handshake and the way to the target have limits of their own
	}
	if l.ended() {
		return false
	}
	_, err := l.reader.Peek(1)
	switch {
	case l.ended():
		return false
	case errors.Is(err, unix.ECONNRESET):
		l.cause = relay.ClientReset
	case err == nil:
		return true
	}
	return false
}

// ended reports whether the session's limits or a cut have ended it, and notes
// which.
func (l *life) ended() bool {
	if l.flow == nil {
		return false
	}
	cause, err, over := l.flow.Over()
	if over {
		l.cause, l.err = cause, err
	}
	if over && cause == relay.Cut {
		l.reasons = nil // those of a refusal before
		l.cutShort()
	}
	return over
}

// renew forgets one request for the sake of the next.
func (l *life) renew(door *policy.Decision, d *httpDialect) {
	d.request, d.status, d.keep = nil, 0, false
	l.session.Renew()
	l.discharge()
	l.release()
	l.way = way{}
	protocol := l.facts.Session.Protocol
	l.visit.Again()
	l.facts, l.kept = policy.Facts{}, kept{
		counts: l.visit.Counts, client: l.client, secured: l.secured,
	}
	l.introduce(&l.facts)
	l.facts.Session.Protocol = protocol
	l.outcome, l.cause, l.reasons, l.err, l.answer, l.warnings = "", 0, nil, nil, *door, nil
	l.note(door)
}

// heard begins the record of a request that is to be forwarded, if that is what
// the client has sent.
func (l *life) heard() {
	d, ok := l.dialect.(*httpDialect)
	if !ok || d.request == nil || d.shown.Command != "forward" {
		return
	}
	l.requests++
	l.unread = unread{Framing: d.request.Body}
	l.begun = time.Now()
	l.moved = l.session.Snapshot().Bytes
}

// requestEnded writes the record of the request that goes on, if one does.
func (l *life) requestEnded() {
	l.meterOff()
	d, ok := l.dialect.(*httpDialect)
	if !ok || l.begun.IsZero() {
		return
	}
	r := &session.Request{Record: *l.record(), Status: d.status, Method: d.shown.Method, Path: d.shown.Path}
	r.Requests = 0
	r.Started, r.Duration = l.begun, time.Since(l.begun).Seconds()
	r.Bytes.Up -= l.moved.Up
	r.Bytes.Down -= l.moved.Down
	l.begun = time.Time{}
	l.proxy.Observe.RequestEnded(l.observed, r)
}

// stopForwarding gives back what is kept between requests, for the session has
// no more of them.
func (l *life) stopForwarding() {
	l.requestEnded()
	if l.flow != nil {
		l.flow.Close()
		l.flow = nil
	}
	if l.origin != nil {
		l.origin.close()
		l.origin = nil
	}
}

// forward sends one request on and its answer back. It returns a connection only
// where both sides go on in another protocol, and an error only while the client
// can still be told of it.
func (l *life) forward(ctx context.Context, plan *policy.Decision) (net.Conn, error) {
	d := l.dialect.(*httpDialect)
	hops, err := d.request.MaxForwards()
	switch {
	case err != nil:
		return nil, err
	case hops == 0 && d.request.Method == "OPTIONS": // RFC 9110 section 7.6.2: this is where it ends
		return nil, l.answerOptions(d)
	case hops == 0:
		return nil, errCommand
	}
	if err := l.redirect(plan); err != nil {
		return nil, err
	}
	o, used := l.usable(plan, d.request), true
	for {
		if o == nil {
			used = false
			if o, err = l.connect(ctx, plan); err != nil {
				return nil, err
			}
		}
		l.attach(ctx, o)
		x := exchange{life: l, dialect: d, origin: o}
		up, err := x.run()
		if err != nil && used && x.mayRepeat() {
			o = nil // the server closed it at the very moment when it was used again
			continue
		}
		return up, err
	}
}

// usable is the kept connection, if it leads where the request is to go, and
// there is no risk in finding out that it does not any more.
func (l *life) usable(plan *policy.Decision, r *http.Request) *origin {
	o := l.origin
	l.origin = nil
	if o == nil {
		return nil
	}
	to := session.Target{Host: l.facts.Target.Host, Port: uint16(l.facts.Target.Port)}
	alike := o.by == l.identity && o.target == to && o.from == plan.SourceAddress && l.leadsAlike(&o.way, plan)
	if alike && r.Repeatable() && o.untouched() {
		l.proxy.Observe.Began(l.observed, "dial")
		if l.allowedStill(o) {
			l.way = o.way
			l.session.SetVia(o.way.hops)
			l.session.SetAddress(o.address)
			l.names = o.names
			return o
		}
	}
	o.close()
	return nil
}

// connect reaches the target anew.
func (l *life) connect(ctx context.Context, plan *policy.Decision) (*origin, error) {
	conn, err := l.reach(ctx, plan)
	if err != nil {
		return nil, err
	}
	o := &origin{
		conn: conn, reader: originReaders.Get().(*bufio.Reader), by: l.identity,
		target:  session.Target{Host: l.facts.Target.Host, Port: uint16(l.facts.Target.Port)},
		address: conn.RemoteAddr().(*net.TCPAddr).AddrPort(), names: l.names, from: plan.SourceAddress, way: l.way,
	}
	o.reader.Reset(io.MultiReader(bytes.NewReader(l.way.late), conn))
	l.way.late, o.way.late = nil, nil
	return o, nil
}

// attach has the session's flow count, pace and end what goes between the client
// and this server from now on.
func (l *life) attach(ctx context.Context, o *origin) {
	l.conn.SetDeadline(time.Time{})
	if l.flow == nil {
		l.flow = relay.Join(l.conn.Conn, o.conn, nil, l.limits, &l.session.Bytes)
		l.flow.Open(ctx)
		l.session.Granted()
	} else {
		l.flow.Turn(o.conn)
		l.flow.Limit(l.limits)
		l.flow.Resume()
	}
	l.meterOn()
	l.proxy.Observe.Began(l.observed, "relay")
}

// hostField is the Host that the origin server is told: the target as the client
// asked for it, in canonical form.
func (l *life) hostField() string {
	host := l.facts.Asked.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if l.facts.Asked.Port == 80 {
		return host
	}
	return host + ":" + strconv.FormatInt(l.facts.Asked.Port, 10)
}

// answerOptions answers for the server that the request was not to reach.
func (l *life) answerOptions(d *httpDialect) error {
	if l.mayGoOn(l.session.Context(), &policy.Decision{Verdict: policy.Allowed}, d, nil) {
		_, err := io.Copy(io.Discard, http.NewBody(l.reader, l.unread.Framing))
		d.keep = err == nil
	}
	d.status, l.outcome = 200, "ok"
	text := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
	if !d.keep {
		text += "Connection: close\r\n"
	}
	if _, err := io.WriteString(l.conn, text+"\r\n"); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	l.cause = relay.Finished
	return nil
}
