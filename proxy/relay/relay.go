// Package relay moves bytes between a client and its target. Each direction
// ends by itself: a half-close is passed on as a half-close, a reset as a
// reset, and what was received is delivered first.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// Counters counts the bytes that were handed to the receiving side's socket.
// They are live for the early bytes, and else set when a direction ends.
type Counters struct {
	Up   atomic.Int64 // client to target
	Down atomic.Int64 // target to client
}

// Pipe relays until both directions have ended or ctx is cancelled. Early is
// what the client sent before the flow began. The caller closes both
// connections afterwards.
func Pipe(ctx context.Context, client, target *net.TCPConn, early []byte, n *Counters) error {
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		client.SetDeadline(past)
		target.SetDeadline(past)
	})
	defer stop()

	down := make(chan error, 1)
	go func() { down <- half(client, target, &n.Down) }()
	if _, err := target.Write(early); err != nil {
		reset(client)
		reset(target)
		<-down
		return fmt.Errorf("early bytes: %w", err)
	}
	n.Up.Add(int64(len(early)))
	up := half(target, client, &n.Up)
	err := errors.Join(up, <-down)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// half moves one direction to its end. The copy is splice(2) on Linux.
func half(to, from *net.TCPConn, n *atomic.Int64) error {
	moved, err := io.Copy(to, from)
	n.Add(moved)
	if err != nil {
		if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			reset(to)
			reset(from)
		} else {
			// Cut: wake the other direction too.
			to.SetDeadline(time.Unix(1, 0))
			from.SetDeadline(time.Unix(1, 0))
		}
		return err
	}
	if err := to.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return err
	}
	return nil
}

// reset closes a connection so that its peer sees a reset.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}
