package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sallyport/proxy/loop"
)

// longAgo is a deadline that has passed: whoever reads or writes returns.
var longAgo = time.Unix(1, 0)

// errOver ends a direction whose flow is over for a reason that is known already.
var errOver = errors.New("the flow is over")

// Flow is one client's connection with its target: two directions, and what
// ends them both.
type Flow struct {
	ctx   context.Context    // Start's, or Open's
	stop  func() bool        // what Open has begun to do with it
	done  func(Cause, error) // Start's
	early []byte
	late  []byte

	inspection *Inspection // nil: the client is not inspected, or no more; it is up's

	counters *Counters
	granted  atomic.Int64 // bytes that were delivered, or are about to be
	most     atomic.Int64 // how many may be: Limits.Bytes, or unbounded
	budget   atomic.Pointer[Budget]
	stopped  chan struct{} // closed when the flow is over; made before the first pace, and nil without one
	up, down direction

	mu      sync.Mutex
	over    bool // someone is ending the flow: whatever fails from now on is a consequence
	named   bool // cause and err are set
	cause   Cause
	err     error
	limits  Limits
	running bool // Start or Open was called
	left    int  // directions that run
	paused  bool // nobody is to blame that nothing moves
	timer   *time.Timer
	moved   int64     // bytes, both directions, when the timer last looked
	movedAt time.Time // when it last saw that they had moved
}

// direction carries what one side sends to the other.
type direction struct {
	flow     *Flow
	reverse  *direction
	src, dst net.Conn
	reset    Cause // what it means when src resets
	moved    *atomic.Int64
	pace     atomic.Pointer[pace] // nil: unpaced; whoever carries this direction uses it
	copied   sync.WaitGroup
	task     *loop.Task // that runs it; nil: a goroutine does
	tcp      tcp

	// Guarded by flow.mu.
	ended  bool  // src has closed its sending half, and everything before that was delivered
	broken error // dst takes no more: the error of the write
}

// Start relays until both directions have ended, a limit is reached or it is cut, as
// it is where ctx was cancelled before, and then calls done with which of that it was.
// Whoever cancels ctx later calls Cut. Start is called once.
//
// The error says more only for Failed, where it is the one of the read or write,
// and for Cut, where it is context.Cause(ctx). Otherwise it is nil.
//
// Where both connections are of one loop the directions are tasks of it, and
// otherwise two goroutines. Either needs the smallest stack only; done has that of
// the loop.
func (f *Flow) Start(ctx context.Context, done func(Cause, error)) {
	f.ctx, f.done = ctx, done
	if f.ctx.Err() != nil {
		f.cutOff(Cut)
		done(Cut, context.Cause(f.ctx))
		return
	}
	f.startTimer()

	f.left = 2
	f.up.copied.Add(1)
	f.down.copied.Add(1)
	client, ok := f.up.src.(*loop.Conn)
	target, also := f.up.dst.(*loop.Conn)
	if !ok || !also || client.Loop() != target.Loop() {
		detach(f.up.src)
		detach(f.up.dst)
		go f.up.run(f.early)
		go f.down.run(f.late)
		return
	}
	// The tasks begin when this one has given the loop back.
	l := client.Loop()
	l.Go(func(t *loop.Task) {
		client.Reads(t)
		target.Writes(t)
		f.up.task = t
		f.up.run(f.early)
	})
	l.Go(func(t *loop.Task) {
		target.Reads(t)
		client.Writes(t)
		f.down.task = t
		f.down.run(f.late)
	})
}

// Late is what the target sent before the flow began, as some do through a proxy
// whose answer is read together with it. It goes to the client first, and is
// counted like the rest. To be called before Start.
func (f *Flow) Late(p []byte) { f.late = p }

// Cut ends the flow, whose context has been cancelled.
func (f *Flow) Cut() { f.halt(Cut, context.Cause(f.ctx)) }

// detach lets any goroutine use a connection.
func detach(c net.Conn) {
	if c, ok := c.(*loop.Conn); ok {
		c.Belongs(nil)
	}
}

// over ends the flow, of which this was the last direction that ran.
func (d *direction) over() {
	f := d.flow
	f.mu.Lock()
	if f.left--; f.left > 0 {
		f.mu.Unlock()
		return
	}
	f.over = true
	if f.timer != nil {
		f.timer.Stop()
	}
	cause, err := f.cause, f.err
	f.mu.Unlock()
	if cause == BytesSpent || cause == QuotaSpent {
		d.task.Leave() // what was allowed may take its time
	}
	f.cutOff(cause)
	detach(f.up.src) // the tasks are others' from now on
	detach(f.up.dst)
	if d.task == nil {
		f.done(cause, err)
		return
	}
	d.task.Then(func() { f.done(cause, err) })
}

// cutOff resets both sides of a flow that neither of them has ended, since an
// orderly end would have a part of something taken for the whole. What
// Limits.Bytes has allowed still arrives.
func (f *Flow) cutOff(cause Cause) {
	switch cause {
	case BytesSpent, QuotaSpent:
		f.up.settle(nil)
		f.down.settle(nil)
	case Cut, Expired, IdleTimeout:
	default:
		return
	}
	reset(f.up.src)
	reset(f.up.dst)
}

// run carries everything, then passes on how it ended.
func (d *direction) run(early []byte) {
	defer d.over()
	var received, sent error
	if d == &d.flow.up && d.flow.inspection != nil {
		early, received = d.inspect(d.flow.inspection, early)
	}
	if received == nil || received == io.EOF {
		ended := received != nil
		received, sent = d.send(early), nil
		switch {
		case received == nil && !ended:
			received, sent = d.copy()
		case received != nil && received != errOver:
			received, sent = nil, received
		}
	}
	if sent != nil {
		d.refused(sent)
		return
	}
	d.copied.Done()
	if received != nil {
		d.lost(received)
		return
	}
	d.finished()
}

// finished passes the end of src on to dst.
func (d *direction) finished() {
	f := d.flow
	var unsound error
	f.mu.Lock()
	if !d.reverse.ended {
		f.mu.Unlock()
		unsound = d.unsoundEnd()
		f.mu.Lock()
	}
	if f.over {
		f.mu.Unlock()
		return
	}
	if d.reverse.broken == nil {
		d.reverse.broken = unsound
	}
	broken := d.reverse.broken
	if errors.Is(broken, syscall.ECONNRESET) {
		// Not an end but a reset, whose error the other direction's write took.
		f.name(d.reset, broken)
		f.mu.Unlock()
		f.abort(d, d.task)
		return
	}
	if broken == nil && d.reverse.ended { // the caller closes both
		d.ended = true
		f.end(Finished, nil)
		f.mu.Unlock()
		_ = d.dst.SetReadDeadline(longAgo) // the other direction may be watching
		return
	}
	f.mu.Unlock()

	half, ok := d.dst.(interface{ CloseWrite() error })
	if !ok {
		f.halt(Finished, nil) // dst cannot be told that there is no more but by closing it
		return
	}
	_ = half.CloseWrite() // where it fails dst is gone, which the other direction finds

	f.mu.Lock()
	d.ended = true
	broken, last := d.reverse.broken, d.reverse.ended
	if broken != nil {
		f.name(d.reset, broken)
	}
	f.mu.Unlock()
	switch {
	case broken != nil:
		f.abort(d, d.task) // src closed, and would not take what was still sent to it
	case last:
		f.mu.Lock()
		f.end(Finished, nil)
		f.mu.Unlock()
		_ = d.dst.SetReadDeadline(longAgo) // the other direction may be watching
	default:
		if err := d.watch(); err != nil {
			d.lost(err)
		}
	}
}

// lost ends the flow: src cannot be read any more, so that dst is reset.
func (d *direction) lost(err error) {
	f := d.flow
	f.mu.Lock()
	f.name(d.reset, err)
	f.mu.Unlock()
	f.abort(d, d.task)
}

// refused ends only this direction: dst takes no more, but what it has sent is
// still delivered. The reset is passed on by the direction that reads dst, when
// it comes to the end, or here if it has been there already.
func (d *direction) refused(err error) {
	f := d.flow
	f.mu.Lock()
	if !f.over {
		d.broken = err
		f.name(d.reverse.reset, err)
	}
	over := d.reverse.ended
	f.mu.Unlock()
	d.copied.Done()
	if over {
		f.abort(d.reverse, d.task)
	}
}

// name says why the flow ends, if nothing has before. The error is one that a
// side gave: reset is what it means if that was a reset. Called with f.mu held.
func (f *Flow) name(reset Cause, err error) {
	if f.over || f.named {
		return
	}
	f.named = true
	// A stream of TLS that stops in the middle of a record has been cut off.
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF) {
		f.cause = reset
	} else {
		f.cause, f.err = Failed, err
	}
}

// halt ends both directions where they are. The connections stay open.
func (f *Flow) halt(cause Cause, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end(cause, err) {
		_ = f.up.src.SetDeadline(longAgo)
		_ = f.up.dst.SetDeadline(longAgo)
	}
}

// abort ends the flow because d's source is gone, and passes that on to its
// destination as a reset, once that has taken what was sent to it before. It runs
// on the task.
func (f *Flow) abort(d *direction, t *loop.Task) {
	f.mu.Lock()
	first := f.end(Failed, nil)
	f.mu.Unlock()
	if !first {
		return
	}
	d.settle(t)
	reset(d.dst)
	_ = d.src.SetDeadline(longAgo)
}

// end marks the flow as over, and reports whether it was not before. Called
// with f.mu held.
func (f *Flow) end(cause Cause, err error) bool {
	if f.over {
		return false
	}
	f.over = true
	if !f.named {
		f.named, f.cause, f.err = true, cause, err
	}
	if f.stopped != nil {
		close(f.stopped)
	}
	return true
}

// reset closes a connection so that its peer sees a reset, or at least, below
// TLS, no orderly end.
func reset(c net.Conn) {
	for {
		above, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = above.NetConn()
	}
	if t, ok := c.(interface{ SetLinger(seconds int) error }); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// send delivers bytes that are in hand already.
func (d *direction) send(p []byte) error {
	for len(p) > 0 {
		room, err := d.allowance(len(p))
		if err != nil {
			return err
		}
		granted := d.grant(room)
		n, err := d.dst.Write(p[:granted])
		d.moved.Add(int64(n))
		if err != nil {
			return err
		}
		if granted < room {
			d.flow.spent()
			return errOver
		}
		p = p[n:]
	}
	return nil
}

// plainBuffers serves streams that are not plain TCP, which hold one while they
// wait. TLS hands out no more than 16 KiB at a time (RFC 8446, section 5.1).
var plainBuffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// copyPlain carries the bytes of any stream.
func (d *direction) copyPlain() (received, sent error) {
	buffer := plainBuffers.Get().(*[16 << 10]byte)
	defer plainBuffers.Put(buffer)
	for {
		room, err := d.allowance(len(buffer))
		if err != nil {
			return err, nil
		}
		n, err := d.src.Read(buffer[:room])
		granted := d.grant(n)
		if granted > 0 {
			written, err := d.dst.Write(buffer[:granted])
			d.moved.Add(int64(written))
			if err != nil {
				return nil, err
			}
		}
		if granted < n {
			d.flow.spent()
			return errOver, nil
		}
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
	}
}
