// Package relay moves bytes between a client and its target. It is what the
// program spends its time in.
//
// A flow has two directions, and each ends by itself: when one side has closed
// its sending half, the other is told so by a half-close and may go on sending
// for as long as it likes. A reset is told as a reset. Bytes that were received
// are delivered before either is passed on. A flow that is ended from here is
// reset on both sides, so that none takes what it has got for the whole.
//
// Between two TCP connections nothing is held while nothing moves: a direction
// waits for its socket to become readable, then borrows a buffer, and a
// direction that fills its buffer again and again borrows a kernel pipe and goes
// on with splice(2), so that the bytes never enter this process. Both are given
// back as soon as the flow pauses. Any other stream is copied through a small
// buffer.
package relay

import (
	"net"
	"sync/atomic"
	"time"
)

// Counters counts the bytes that were handed to the receiving side's socket.
// They are live: others read them while bytes move.
type Counters struct {
	Up   atomic.Int64 // client to target
	Down atomic.Int64 // target to client
}

// Limits bounds one flow. The zero value bounds nothing.
type Limits struct {
	Idle  time.Duration // no byte in either direction for this long ends the flow; 0: none
	Until time.Time     // hard end; zero: none
	Up    int64         // bytes per second from client to target; 0: unpaced
	Down  int64         // bytes per second from target to client; 0: unpaced
	Bytes int64         // both directions together; 0: any number

	Budget Budget // of several flows; nil: none
}

// Budget is what several flows may deliver together. It is asked for every chunk,
// by all of them at once, and must not block.
type Budget interface {
	// Take takes n bytes, or what is left, and says how many that are. What is taken
	// may turn out not to be delivered, where the other side takes no more.
	Take(n int) int
}

// Cause says why a flow ended.
type Cause uint8

// The causes. The first one to happen is the flow's.
const (
	Failed      Cause = iota // a read or write failed in a way that is none of the below
	Finished                 // both sides have closed, everything was delivered
	ClientReset              // the client aborted, or closed while bytes were on their way to it
	TargetReset              // the target did
	IdleTimeout              // Limits.Idle
	Expired                  // Limits.Until
	BytesSpent               // Limits.Bytes: one more byte came
	QuotaSpent               // Limits.Budget: one more byte came
	Cut                      // the context was cancelled
)

// String returns the cause as it stands in records: lower case, underscores.
func (c Cause) String() string {
	switch c {
	case Finished:
		return "finished"
	case ClientReset:
		return "client_reset"
	case TargetReset:
		return "target_reset"
	case IdleTimeout:
		return "idle_timeout"
	case Expired:
		return "expired"
	case BytesSpent:
		return "bytes_spent"
	case QuotaSpent:
		return "quota_spent"
	case Cut:
		return "cut"
	default:
		return "failed"
	}
}

// Join makes a flow of a client and its target, which Start then carries. Early
// is what the client sent before the flow began: it goes to the target first
// and is counted like the rest.
//
// The caller keeps both connections and closes them when the flow is done. Only with a reset
// does the flow close one itself: to pass one on, and both where it was cut, its
// time was over or its bytes were spent. Closing it again does no harm. Neither may have a deadline when Start is called, and their
// deadlines are the flow's from then on. What the counters have counted before
// is part of what Limits.Bytes bounds.
//
// Join takes *net.TCPConn and *loop.Conn as such: a wrapper around one costs it splice(2) and
// the flow's idleness its buffer.
func Join(client, target net.Conn, early []byte, limits Limits, n *Counters) *Flow {
	f := &Flow{early: early, counters: n}
	f.up = direction{flow: f, reverse: &f.down, src: client, dst: target, reset: ClientReset, moved: &n.Up}
	f.down = direction{flow: f, reverse: &f.up, src: target, dst: client, reset: TargetReset, moved: &n.Down}
	f.most.Store(unbounded)
	f.granted.Store(n.Up.Load() + n.Down.Load())
	f.Limit(limits)
	return f
}
