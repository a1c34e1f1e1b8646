package relay

import (
	"context"
	"net"
	"time"
)

// Open starts a flow whose bytes the caller moves message by message, by Up and
// Down, where Start would have all of them moved: the flow counts and paces them, and
// ends as its limits say. Then, and when ctx is cancelled, both connections get a
// deadline that has passed, so that whoever reads or writes returns, and Over says
// why. Close stops that.
func (f *Flow) Open(ctx context.Context) {
	f.ctx = ctx
	f.stop = context.AfterFunc(ctx, func() { f.halt(Cut, context.Cause(ctx)) })
	f.startTimer()
}

// Turn makes target the one to which Up delivers, and which ends with the flow.
func (f *Flow) Turn(target net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.up.dst, f.down.src = target, target
	if f.over {
		_ = target.SetDeadline(longAgo)
	}
}

// Pause has the flow not be idle, though nothing moves, until Resume is called.
func (f *Flow) Pause() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused = true
}

// Resume has idleness count, from now on if it did not.
func (f *Flow) Resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || !f.paused {
		return
	}
	f.paused = false
	f.movedAt = time.Now()
	f.setTimer(f.movedAt)
}

// Up delivers bytes to the target, and Down to the client. An error is that of
// the write, or says that the flow is over.
func (f *Flow) Up(p []byte) error { return f.up.send(p) }

// Down is Up for the client.
func (f *Flow) Down(p []byte) error { return f.down.send(p) }

// Over reports whether the flow has been ended by its limits or its context, and
// by which, with the error that Start would tell. Of a context that has just been
// cancelled it does not wait to be told: others are, too, and may ask first.
func (f *Flow) Over() (Cause, error, bool) {
	if f.ctx.Err() != nil {
		f.halt(Cut, context.Cause(f.ctx))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cause, f.err, f.over
}

// Close ends what Open has begun. It leaves the connections alone.
func (f *Flow) Close() {
	f.stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	if f.timer != nil {
		f.timer.Stop()
	}
}
