package relay

import (
	"context"
	"net"
	"time"
)

// Open starts a flow whose bytes the caller moves message by message, by Up and
// Down, where Run would move all of them: the flow counts and paces them, and
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

// Bind puts other limits in the place of those that the flow has. Bytes counts
// from the beginning of the counters.
func (f *Flow) Bind(l Limits) {
	f.mu.Lock()
	before := f.limits
	f.limits = l
	if l.Up != before.Up {
		f.up.pace = newPace(l.Up)
	}
	if l.Down != before.Down {
		f.down.pace = newPace(l.Down)
	}
	if f.stopped == nil && (l.Up > 0 || l.Down > 0) {
		f.stopped = make(chan struct{})
	}
	f.spare.Store(max(0, l.Bytes-f.counters.Up.Load()-f.counters.Down.Load()))
	started := f.timer != nil
	if started {
		f.timer.Reset(f.nextLook(time.Now()))
	}
	f.mu.Unlock()
	if !started {
		f.startTimer()
	}
}

// Up delivers bytes to the target, and Down to the client. An error is that of
// the write, or says that the flow is over.
func (f *Flow) Up(p []byte) error { return f.up.send(p) }

// Down is Up for the client.
func (f *Flow) Down(p []byte) error { return f.down.send(p) }

// Over reports whether the flow has been ended by its limits or its context, and
// by which, with the error that Run would return.
func (f *Flow) Over() (Cause, error, bool) {
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
