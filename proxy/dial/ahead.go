package dial

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"
)

// Ahead is a connection to a first hop that was opened before anybody wanted it:
// with TLS, and with SOCKS5's greeting and authentication behind it, so that it
// would take a request at once. Until it is claimed it is Watch's.
type Ahead struct {
	hop    *Hop
	conn   net.Conn
	reader *bufio.Reader

	claimed chan struct{} // closed by the one who claims it
	watched chan struct{} // closed once nobody reads from it any more
	sound   bool          // nothing was read; set before watched is closed
}

// Prepare opens a connection to a hop ahead, and tells how long that took. An
// error is as of Through.
func (d *Dialer) Prepare(ctx context.Context, names Lookup, hop *Hop) (*Ahead, time.Duration, error) {
	c := &chain{ctx: ctx, dialer: d, names: names, hops: []*Hop{hop}}
	start := time.Now()
	err := c.connect(hop, netip.Addr{})
	if err == nil {
		err = c.meet(hop)
	}
	if err == nil && !c.hurry() {
		err = ctx.Err()
	}
	if err == nil {
		err = c.conn.SetDeadline(time.Time{})
	}
	if err == nil && c.reader.Buffered() > 0 {
		err = &hopAnswer{failure: HopMalformed, detail: "it speaks before it is asked"}
	}
	if err != nil {
		err = c.blame(0, err)
		c.close()
		return nil, 0, err
	}
	return &Ahead{
		hop: hop, conn: c.conn, reader: c.reader,
		claimed: make(chan struct{}), watched: make(chan struct{}),
	}, time.Since(start), nil
}

// Watched says why a connection is watched no longer.
type Watched int

const (
	Claimed Watched = iota // somebody uses it
	Aged                   // it has been idle for as long as it may be, or ctx has ended
	Broken                 // the hop has closed it, or has sent something
)

// Watch reads from a connection, which is to stay silent, until it is claimed, has
// been idle for as long as it may be, or ctx ends. The reading is also what takes
// in TLS's own messages, such as session tickets.
func (a *Ahead) Watch(ctx context.Context, age time.Duration) Watched {
	defer close(a.watched)
	a.conn.SetReadDeadline(time.Now().Add(age))
	stop := context.AfterFunc(ctx, a.wake)
	defer stop()
	select {
	case <-a.claimed: // before the deadline was set, perhaps
		a.wake()
	default:
	}
	_, err := a.reader.Peek(1)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return Broken
	}
	a.sound = true
	select {
	case <-a.claimed:
		return Claimed
	default:
		return Aged
	}
}

// wake ends the reading.
func (a *Ahead) wake() { a.conn.SetReadDeadline(time.Unix(1, 0)) }

// Claim takes a connection for use, or closes it and returns false where the hop
// has closed it or has sent something. It is called once, and not after Close.
func (a *Ahead) Claim() bool {
	close(a.claimed)
	a.wake()
	<-a.watched
	if !a.sound {
		a.Close()
	}
	return a.sound
}

// Leaves tells whether a connection leaves from where one is wanted to; an invalid
// address stands for wherever the hop's do.
func (a *Ahead) Leaves(from netip.Addr) bool { return !from.IsValid() || from == a.hop.Source }

// Close closes a connection that was not used.
func (a *Ahead) Close() { (&chain{conn: a.conn, hurry: func() bool { return true }}).close() }

// Onward is Through by a connection that was claimed, to the first of the hops. It
// is closed where that fails.
func (d *Dialer) Onward(ctx context.Context, names Lookup, ahead *Ahead, hops []*Hop, to Endpoint, w Watcher) (Way, error) {
	return d.through(&chain{ctx: ctx, dialer: d, names: names, hops: hops, watch: w, ahead: ahead}, to, netip.Addr{})
}
