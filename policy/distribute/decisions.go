package distribute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"sallyport/policy/engine"
)

const (
	// queueBytes bounds the decisions that wait to be logged: what they take in
	// memory, more or less.
	queueBytes = 16 << 20
	// leastBytes is less than any event takes.
	leastBytes = 1 << 10
)

// LogOptions are what the configuration says of the decision log.
type LogOptions struct {
	// Output is the console: one JSON event a line. A closed pipe has to be an
	// error of it and not a signal.
	Output io.Writer
	Log    *slog.Logger // is told what goes wrong
	// Wait is how long a decision waits for room where the log has none. After
	// that, and where an event can't be written, it is refused. Zero: it doesn't
	// wait, and its event is dropped.
	Wait time.Duration
}

// DecisionLog writes decisions by OPA's decision_logs plugin, in OPA's event
// format, to where OPA's configuration says. A decision is put into a bounded
// queue, and what is to be done for it is done by a goroutine of the log's own:
// masking, encoding, writing (sink.go) and uploading (upload.go).
//
// What a policy wants to be left out of the log is known once there is a policy,
// so that nothing is written before.
type DecisionLog struct {
	log  *slog.Logger
	wait time.Duration
	sink *sink

	room    *semaphore.Weighted // bytes of the queue
	most    int64               // bytes
	queue   chan queued         // always has room for those that have taken theirs
	dropped atomic.Int64
	failure atomic.Pointer[error] // why events can't be written at the moment; nil when they can

	policy  atomic.Pointer[engine.Snapshot]
	known   chan struct{} // closed when there is a policy
	first   sync.Once
	close   sync.Once
	closing chan struct{}   // closed when no more is to come
	quit    context.Context // ends when what is left is given up
	giveUp  context.CancelFunc
	done    chan struct{} // closed when the queue is no longer read
}

var errClosed = errors.New("the decision log is closed")

// NewDecisionLog begins to write the decisions that are recorded, to where the
// manager's configuration of OPA says. Where that asks for no decision log the
// result is nil. The log is to be closed before the manager.
func NewDecisionLog(m *Manager, o LogOptions) (*DecisionLog, error) {
	return newDecisionLog(&sinkOptions{
		LogOptions: o, opa: m.o.OPA, id: m.opa.ID, secrets: m.o.Terms.Secrets, uploaded: m.uploadedDecisions,
	}, queueBytes)
}

func newDecisionLog(o *sinkOptions, most int64) (*DecisionLog, error) {
	sink, err := newSink(o)
	if sink == nil || err != nil {
		return nil, err
	}
	l := &DecisionLog{
		log: o.Log, wait: o.Wait, sink: sink,
		room: semaphore.NewWeighted(most), most: most, queue: make(chan queued, most/leastBytes+1),
		known: make(chan struct{}), closing: make(chan struct{}), done: make(chan struct{}),
	}
	l.quit, l.giveUp = context.WithCancel(context.Background())
	go l.run()
	return l, nil
}

// Follow makes the log heed what a policy says of events: which are to be
// dropped, and what of them is to be masked. It is called with each policy that
// becomes active; what was decided before and is not written yet is subject to
// it as well.
func (l *DecisionLog) Follow(s *engine.Snapshot) {
	l.policy.Store(s)
	l.first.Do(func() { close(l.known) })
}

// Waits tells whether Record waits for room.
func (l *DecisionLog) Waits() bool { return l.wait > 0 }

// queued is an event and the room that it takes.
type queued struct {
	*engine.Event
	size int64
}

// Record takes a decision for the log. Where there is no room it is dropped and
// counted or, if the log is told to wait, it waits; the error then says that in
// the end there was none, or why nothing can be written.
func (l *DecisionLog) Record(e *engine.Event) error {
	err := l.take(e)
	if err == nil {
		return nil
	}
	l.dropped.Add(1)
	if l.wait > 0 {
		return fmt.Errorf("the decision can't be logged: %w", err)
	}
	return nil
}

var errFull = errors.New("the log has no room")

func (l *DecisionLog) take(e *engine.Event) error {
	select {
	case <-l.closing:
		return errClosed
	default:
	}
	size := min(int64(e.Size()), l.most)
	if l.wait > 0 {
		if failure := l.failure.Load(); failure != nil {
			return *failure
		}
		e.Complete()
		if size, most := jsonOf(e), l.sink.largest(); size > most {
			return fmt.Errorf("its event has %d bytes and more, and may have %d", size, most)
		}
	}
	switch {
	case l.room.TryAcquire(size):
	case l.wait == 0:
		return errFull
	default:
		ctx, cancel := context.WithTimeout(l.quit, l.wait)
		defer cancel()
		if l.room.Acquire(ctx, size) != nil {
			return fmt.Errorf("%w, for %v now", errFull, l.wait)
		}
	}
	l.queue <- queued{e, size}
	return nil
}

// jsonOf is the length of an event as JSON, more or less.
func jsonOf(e *engine.Event) int64 {
	return int64(leastBytes + len(e.Input) + len(e.Result) + len(e.Builtins))
}

// Dropped is how many decisions were recorded and are not in the log, and will
// not be. Those that a policy wants to be dropped are not among them.
func (l *DecisionLog) Dropped() int64 { return l.dropped.Load() + l.sink.dropped() }

// Reopen has a log file opened again, for those that move it away.
func (l *DecisionLog) Reopen() error { return l.sink.reopen() }

// Close writes what is in the queue and uploads what there is to upload, for as
// long as ctx allows.
func (l *DecisionLog) Close(ctx context.Context) error {
	l.close.Do(func() { close(l.closing) })
	defer context.AfterFunc(ctx, l.giveUp)()
	select {
	case <-l.done:
		if err := l.sink.close(ctx); err != nil {
			return fmt.Errorf("decision log: what is not uploaded yet: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("decision log: %d decisions not written: %w", len(l.queue), ctx.Err())
	}
}

func (l *DecisionLog) run() {
	defer close(l.done)
	select {
	case <-l.known:
	case <-l.closing:
		select {
		case <-l.known:
		default:
			l.dropped.Add(int64(len(l.queue))) // how to mask them is not known
			return
		}
	}
	failing := false // as the log has been told
	for {
		var e queued
		select {
		case e = <-l.queue:
		case <-l.closing:
			select {
			case e = <-l.queue:
			default:
				return
			}
		}
		e.Complete()
		failing = l.deliver(e.Event, failing)
		l.room.Release(e.size)
	}
}

// deliver writes an event. One that can't be written is dropped or, where
// decisions would rather be refused, tried again until it can: what has been
// answered must not be missing from the log. It tells whether it failed.
func (l *DecisionLog) deliver(e *engine.Event, failing bool) bool {
	for delay := 50 * time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		err := l.sink.write(l.quit, e, l.policy.Load())
		if err == nil {
			l.failure.Store(nil)
			if failing {
				l.log.Info("the decision log is written again")
			}
			return false
		}
		lost := l.wait == 0 || errors.Is(err, errUnwritable)
		if !lost {
			l.failure.Store(&err)
		}
		// Once for each time that it stops working, and not for each event.
		if !failing {
			l.log.Error("the decision log is not written", "error", err)
		}
		failing = true
		if lost {
			l.dropped.Add(1)
			return true
		}
		again := time.NewTimer(delay)
		select {
		case <-again.C:
		case <-l.quit.Done():
			again.Stop()
			l.dropped.Add(1)
			return true
		}
	}
}
