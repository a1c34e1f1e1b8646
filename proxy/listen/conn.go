package listen

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"time"

	"sallyport/proxy/loop"
)

// Conn is a client's connection. It is the handler's, who closes it.
type Conn struct {
	// Conn is the stream: a *net.TCPConn, *loop.Conn or *net.UnixConn as it was accepted,
	// for who can do more with that than read and write, or the *tls.Conn above it, whose
	// handshake is the handler's to do. What has been read of it already is with
	// Conn, who gives it to readers first: see Early.
	net.Conn
	Listener string         // the name of the listener that accepted it
	Source   netip.AddrPort // the client; an IPv4 address is never in IPv6 form; invalid of a unix socket
	Accepted time.Time

	// Task is what serves a connection of a loop, a *loop.Conn; nil: a goroutine does.
	Task *loop.Task

	Announced bool // Source is what a trusted peer has said

	early  []byte // of the stream, read and not given to anybody yet
	close  sync.Once
	closed func() // tells the listener
}

// Leave has a goroutine serve the connection from now on: it may wait for anything.
func (c *Conn) Leave() {
	if of, ok := c.Conn.(*loop.Conn); ok {
		of.Belongs(nil)
	}
	c.Task.Leave()
	c.Task = nil
}

// Read gives what has been read before, and then what comes.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// Early takes what has been read of the stream and not been given by Read, for
// who goes on with the stream itself.
func (c *Conn) Early() []byte {
	early := c.early
	c.early = nil
	return early
}

// Nearby tells whether the client is a process of this machine: one that has
// connected to a unix socket, or by itself over loopback.
func (c *Conn) Nearby() bool {
	return !c.Announced && (!c.Source.IsValid() || c.Source.Addr().IsLoopback())
}

// secure puts TLS above the stream.
func (c *Conn) secure(t *TLS) {
	below := c.Conn
	if early := c.Early(); len(early) > 0 {
		below = &replayed{below, early}
	}
	c.Conn = t.Server(below)
}

// replayed is a stream of which something has been read before.
type replayed struct {
	net.Conn
	early []byte
}

func (r *replayed) Read(p []byte) (int, error) {
	if len(r.early) > 0 {
		n := copy(p, r.early)
		r.early = r.early[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

func (r *replayed) NetConn() net.Conn { return r.Conn }

// TLS is the stream's TLS; nil where there is none.
func (c *Conn) TLS() *tls.Conn {
	t, _ := c.Conn.(*tls.Conn)
	return t
}

// Plain is the stream as it was accepted.
func (c *Conn) Plain() net.Conn {
	below := c.Conn
	for {
		above, ok := below.(interface{ NetConn() net.Conn })
		if !ok {
			return below
		}
		below = above.NetConn()
	}
}

// CloseWrite tells the client that no more will come. A client whose TLS
// handshake has failed is told by the stream itself.
func (c *Conn) CloseWrite() error {
	if t := c.TLS(); t != nil && !t.ConnectionState().HandshakeComplete {
		if half, ok := c.Plain().(interface{ CloseWrite() error }); ok {
			return half.CloseWrite()
		}
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return net.ErrClosed
}

// Close closes the connection. It may be called again.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.close.Do(c.closed)
	return err
}
