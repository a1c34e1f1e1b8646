package proxy

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/proxy/relay"
	"sallyport/proxy/wire/http"
)

// exchange is one request and its answer, between a client and an origin server.
// The request's body goes up on a goroutine of its own, since a server may answer
// before it has read all of it.
type exchange struct {
	life    *life
	dialect *httpDialect
	origin  *origin

	up       chan struct{} // closed when the body is sent, or cannot be; nil where there is none
	consumed atomic.Bool   // all of the body was read from the client
	received error         // why the client's body could not be read; known when up is closed
	sent     error         // why the server would not take it

	responses *http.Responses
	begun     bool // the client has been sent something of the last answer
}

var errNoAnswer = errors.New("closed the connection without an answer")

// pieces are what bodies are moved by.
var pieces = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// run sends the request and delivers the answer. It returns an error only where
// the client has been sent nothing but interim answers, and a connection where both go on in another
// protocol; all else ends in the record, and in whether the client may go on.
func (x *exchange) run() (net.Conn, error) {
	l, req := x.life, x.dialect.request
	head := http.AppendOnward(nil, req, l.hostField())
	if req.Body.Empty() {
		x.consumed.Store(true)
		x.sent = l.flow.Up(head)
	} else {
		l.unread.partly = true
		x.up = make(chan struct{})
		go x.upload(head)
	}
	following := l.follow()
	upgraded, err := x.deliver()
	x.stopUpload()
	l.unfollow(following)
	if x.consumed.Load() {
		l.unread = unread{}
	}
	if upgraded && err == nil {
		return x.switchOver()
	}
	if err != nil {
		x.origin.close()
		x.dialect.keep = false
		if !x.begun {
			return nil, x.blame(err)
		}
		l.outcome = "ok"
		switch {
		case l.ended():
		case errors.As(err, new(*clientError)):
			l.cause = relay.ClientReset
		default:
			l.err = x.blame(err)
		}
		abort(l.conn.Plain()) // the client must not take a part for the whole
	}
	return nil, nil
}

// upload sends head and body to the server.
func (x *exchange) upload(head []byte) {
	defer close(x.up)
	l, req := x.life, x.dialect.request
	body := http.NewBody(l.reader, req.Body)
	x.received, x.sent = pump(head, body, l.reader, req.Body.Chunked, func(p []byte) error {
		if body.Done() {
			x.consumed.Store(true)
		}
		return l.flow.Up(p)
	})
	if x.received != nil {
		// The server must not take a part for the whole, and there is nothing to wait for.
		x.origin.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// stopUpload waits for the end of the body's way, and brings it about where the
// answer is there and the body is not through.
func (x *exchange) stopUpload() {
	if x.up == nil {
		return
	}
	select {
	case <-x.up:
		return
	default:
	}
	x.origin.conn.SetDeadline(time.Unix(1, 0))
	x.life.conn.SetReadDeadline(time.Unix(1, 0))
	<-x.up
	x.life.conn.SetReadDeadline(time.Time{})
}

// deliver passes the answer on to the client.
func (x *exchange) deliver() (upgraded bool, err error) {
	req := x.dialect.request
	x.responses = http.NewResponses(x.origin.reader)
	for {
		res, err := x.responses.Next()
		if err != nil {
			return false, err
		}
		switch {
		case res.Status == 101:
			if !req.WebSocket() || !res.Upgraded() {
				return false, &originError{502, "http_upgrade_failed", errors.New("switches protocols unasked")}
			}
			x.dialect.status = res.Status
			return true, x.send(http.AppendAnswer(nil, res, http.Answer{}))
		case res.Status >= 200:
			return false, x.final(res)
		case req.Proto == "HTTP/1.1": // RFC 9110 section 15.2: others know no interim answers
			if err := x.send(http.AppendAnswer(nil, res, http.Answer{})); err != nil {
				return false, err
			}
			x.begun = false // behind it an answer of our own may follow
		}
	}
}

func (x *exchange) send(p []byte) error {
	x.begun = true
	if err := x.life.flow.Down(p); err != nil {
		return &clientError{err}
	}
	return nil
}

// final passes on the answer that ends the exchange, and keeps of both
// connections what another request may use.
func (x *exchange) final(res *http.Response) error {
	l, req := x.life, x.dialect.request
	body, err := res.Body(req.Method)
	if err != nil {
		return err
	}
	x.dialect.status = res.Status
	x.dialect.keep = req.Persistent() && x.consumed.Load()
	down := body
	switch {
	case req.Proto == "HTTP/1.0":
		down.Chunked = false
	case body.Length < 0:
		down.Chunked = true
	}
	head := http.AppendAnswer(nil, res, http.Answer{Body: down, Close: !x.dialect.keep, Now: time.Now()})
	reader := http.NewBody(x.origin.reader, body)
	received, sent := pump(head, reader, x.origin.reader, down.Chunked, x.send)
	switch {
	case sent != nil:
		return sent
	case received != nil:
		return received
	}
	l.outcome, l.cause = "ok", relay.Finished

	if x.up != nil {
		select {
		case <-x.up:
		default:
			x.origin.close()
			return nil
		}
	}
	framed := body.Chunked || body.Length >= 0
	if x.sent == nil && framed && res.Persistent() && x.origin.reader.Buffered() == 0 {
		l.origin = x.origin
	} else {
		x.origin.close()
	}
	return nil
}

// clientError is that the client takes no more.
type clientError struct{ error }

func (e *clientError) Unwrap() error { return e.error }

// mayRepeat reports whether a request that failed on a used connection may be
// sent again: nothing has come back, nothing went to the client, and the server
// is why.
func (x *exchange) mayRepeat() bool {
	_, _, over := x.life.flow.Over()
	return !over && !x.begun && !x.responses.Begun() && x.dialect.request.Repeatable()
}

// blame says whose fault it is that an exchange has failed.
func (x *exchange) blame(err error) error {
	l := x.life
	if cause, why, over := l.flow.Over(); over {
		switch {
		case cause == relay.IdleTimeout:
			return &originError{504, "http_response_timeout", errors.New("has not answered")}
		case why != nil:
			return why
		}
		return &limitError{cause}
	}
	var origin *originError
	var wire *http.Error
	switch {
	case x.up != nil && x.received != nil && !errors.Is(x.received, os.ErrDeadlineExceeded):
		return x.received
	case errors.As(err, &origin):
		return err
	case errors.As(err, &wire):
		return &originError{502, cmp.Or(wire.Type, "http_protocol_error"), err}
	case x.begun:
		return &originError{502, "http_response_incomplete", err}
	case errors.Is(err, io.EOF) && x.sent == nil:
		return &originError{502, "connection_terminated", errNoAnswer}
	}
	return &originError{502, "connection_terminated", err}
}

// abort closes a connection so that its peer sees that something is missing.
// Below TLS there is then no close_notify.
func abort(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(seconds int) error }); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// pump sends a head and the body that follows it in from, a piece at a time and
// none later than it could be. An error is received where the body could not be
// read, and sent where send has failed.
func pump(head []byte, body *http.Body, from *bufio.Reader, chunked bool, send func([]byte) error) (received, sent error) {
	room := pieces.Get().(*[32 << 10]byte)
	defer pieces.Put(room)
	out := head
	for {
		if len(out) > 0 && from.Buffered() == 0 {
			if sent = send(out); sent != nil {
				return nil, sent
			}
			out = out[:0]
		}
		n, err := body.Read(room[http.ChunkHead : len(room)-http.ChunkTail])
		piece := room[http.ChunkHead : http.ChunkHead+n]
		if chunked && n > 0 {
			piece = http.Chunk(room[:], n)
		}
		if len(out) > 0 {
			out = append(out, piece...)
			piece = out
		}
		if err == io.EOF && chunked {
			piece = http.AppendLastChunk(piece, body.Trailer())
		}
		if len(piece) > 0 {
			if sent = send(piece); sent != nil {
				return nil, sent
			}
		}
		out = out[:0]
		switch {
		case err == io.EOF:
			return nil, nil
		case err != nil:
			return err, nil
		}
	}
}

// switchOver hands both connections over to the relay: what the server has sent
// beyond its answer goes to the client first.
func (x *exchange) switchOver() (net.Conn, error) {
	l, o := x.life, x.origin
	if n := o.reader.Buffered(); n > 0 {
		ahead, _ := o.reader.Peek(n) // never fails for what is buffered
		if err := l.flow.Down(ahead); err != nil {
			o.close()
			l.outcome, l.cause = "ok", relay.ClientReset
			l.ended()
			return nil, nil
		}
	}
	l.outcome, l.cause = "ok", relay.Finished
	l.stopForwarding()
	o.giveBack()
	o.conn.SetDeadline(time.Time{})
	l.conn.SetDeadline(time.Time{})
	return o.conn, nil
}
