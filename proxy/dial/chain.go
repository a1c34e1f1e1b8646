package dial

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"
)

// Lookup finds the addresses of a hop that is named.
type Lookup interface {
	Lookup(ctx context.Context, name string) (Found, error)
}

// Watcher is told how a way through hops comes about: of each hop that it
// begins, and what has become of it. A hop is done once it would take a request,
// and the last one once it has answered for the target. At is the address of the
// first hop.
type Watcher interface {
	Began(hop string)
	Ready(hop string, took time.Duration) // it would take a request
	Done(hop string, at netip.AddrPort, took time.Duration, err error)
}

// Trip is what a way through hops is wanted for.
type Trip struct {
	To    []Endpoint // any of them will do; in this order
	From  netip.Addr // the local address to leave from; invalid: that of the first hop
	Key   string     // whom it is for: equal ones go the same way, where that is by hash
	Watch Watcher
}

// Way is a connection that leads through hops to a target.
type Way struct {
	Conn  net.Conn // *net.TCPConn, unless there is a hop with TLS
	Early []byte   // what the target has sent already
	Hops  []string // the upstreams that it leads through
	At    netip.AddrPort
	To    Endpoint       // of those that were wanted
	Bound netip.AddrPort // as the last hop tells it; invalid: it does not. Of Packets: the relay
}

// Through connects to a target through hops, of which there is at least one. The
// first is connected to, from the local address from if that is valid, and each is
// asked for the next one, or for the target. What a hop sends before it is asked
// for anything is an error. All of it is bounded by ctx, and every answer by a
// size.
//
// Names of hops are looked up by names, but for those behind a hop that is left to
// resolve names. An error is a *HopError, or a context.Canceled where ctx was
// called off.
func (d *Dialer) Through(ctx context.Context, names Lookup, hops []*Hop, to Endpoint, from netip.Addr, w Watcher) (Way, error) {
	return d.through(&chain{ctx: ctx, dialer: d, names: names, hops: hops, watch: w}, to, from)
}

func (d *Dialer) through(c *chain, to Endpoint, from netip.Addr) (Way, error) {
	way, err := c.reach(to, from)
	if err == nil {
		return way, nil
	}
	c.close()
	if errors.Is(c.ctx.Err(), context.Canceled) {
		return Way{}, context.Canceled
	}
	return Way{}, err
}

// chain is a way in the making.
type chain struct {
	ctx    context.Context
	dialer *Dialer
	names  Lookup
	hops   []*Hop
	watch  Watcher
	ahead  *Ahead // the connection to the first hop, where there is one already

	conn   net.Conn // to the hop that was reached last; nil: to none
	reader *bufio.Reader
	bound  netip.AddrPort
	hurry  func() bool // stops the hurry that comes with the end of ctx
}

func (c *chain) reach(to Endpoint, from netip.Addr) (Way, error) {
	way := Way{To: to}
	if to.Packets {
		if err := c.takesPackets(); err != nil {
			return way, c.blame(len(c.hops)-1, err)
		}
	}
	for i, hop := range c.hops {
		start := time.Now()
		c.watch.Began(hop.Name)
		err := c.come(i, from)
		if i == 0 && c.conn != nil {
			way.At = c.conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		}
		if err == nil {
			c.watch.Ready(hop.Name, time.Since(start))
			if i == len(c.hops)-1 {
				err = c.ask(hop, to)
			}
		}
		err = c.blame(i, err)
		c.watch.Done(hop.Name, way.At, time.Since(start), err)
		if err != nil {
			return way, err
		}
		way.Hops = append(way.Hops, hop.Name)
	}
	last := len(c.hops) - 1
	if !c.hurry() {
		return way, c.blame(last, c.ctx.Err())
	}
	if err := c.conn.SetDeadline(time.Time{}); err != nil {
		return way, c.blame(last, err)
	}
	if n := c.reader.Buffered(); n > 0 {
		way.Early = make([]byte, n)
		c.reader.Read(way.Early) // of what is buffered, all at once
	}
	way.Conn, way.Bound = c.conn, c.bound
	return way, nil
}

// come makes a hop ready for a request, through those before it.
func (c *chain) come(i int, from netip.Addr) error {
	if i == 0 && c.ahead != nil {
		c.hold(c.ahead.conn, c.ahead.reader)
		return nil
	}
	if err := c.approach(i, from); err != nil {
		return err
	}
	return c.meet(c.hops[i])
}

// approach opens a connection to a hop, through those before it.
func (c *chain) approach(i int, from netip.Addr) error {
	hop := c.hops[i]
	if i == 0 {
		return c.connect(hop, from)
	}
	before, to := c.hops[i-1], hop.At
	if to.Name != "" && before.Local {
		found, err := c.names.Lookup(c.ctx, to.Name)
		if err != nil {
			return lookupFailure(err)
		}
		to = Endpoint{IP: preferred(found.Addresses), Port: to.Port}
	}
	if err := c.ask(before, to); err != nil {
		var said *hopAnswer
		if errors.As(err, &said) && said.asked && said.failure != HopDenied && said.failure != HopUnsupported {
			return &hopAnswer{failure: said.failure, network: said.network, detail: "so says upstream " + before.Name}
		}
		return &atHop{i - 1, err}
	}
	if c.reader.Buffered() > 0 { // which TLS would not see
		return &hopAnswer{failure: HopMalformed, detail: "it speaks before it is asked"}
	}
	return nil
}

// preferred is an IPv4 address where there is one, which every hop can be asked
// for.
func preferred(found []Address) netip.Addr {
	for _, a := range found {
		if a.IP.Is4() {
			return a.IP
		}
	}
	return found[0].IP
}

// connect opens the connection to the first hop.
func (c *chain) connect(hop *Hop, from netip.Addr) error {
	addresses := []Address{{IP: hop.At.IP}}
	if hop.At.Name != "" {
		found, err := c.names.Lookup(c.ctx, hop.At.Name)
		if err != nil {
			return lookupFailure(err)
		}
		addresses = found.Addresses
	}
	to := make([]netip.AddrPort, len(addresses))
	for i, a := range addresses {
		to[i] = netip.AddrPortFrom(a.IP, hop.At.Port)
	}
	if !from.IsValid() {
		from = hop.Source
	}
	conn, err := c.dialer.Dial(c.ctx, to, from)
	if err != nil {
		return err
	}
	c.hold(conn, bufio.NewReaderSize(conn, readerSize))
	return nil
}

// hold has a connection end its waiting when ctx does.
func (c *chain) hold(conn net.Conn, reader *bufio.Reader) {
	c.conn, c.reader = conn, reader
	deadline, _ := c.ctx.Deadline()
	conn.SetDeadline(deadline)
	c.hurry = context.AfterFunc(c.ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
}

// readerSize holds every SOCKS message.
const readerSize = 1024

// meet makes a hop that is connected to ready for a request.
func (c *chain) meet(hop *Hop) error {
	if hop.TLS != nil {
		secured := tls.Client(c.conn, hop.TLS)
		if err := secured.HandshakeContext(c.ctx); err != nil {
			return &tlsFailure{err}
		}
		c.conn, c.reader = secured, bufio.NewReaderSize(secured, readerSize)
	}
	if hop.Protocol == SOCKS5 {
		return c.greet(hop)
	}
	return nil
}

func (c *chain) close() {
	if c.conn == nil {
		return
	}
	c.hurry()
	inner := c.conn
	for {
		secured, ok := inner.(*tls.Conn)
		if !ok {
			break
		}
		inner = secured.NetConn() // nobody waits for a farewell
	}
	inner.Close()
}

// tlsFailure keeps what goes wrong in a TLS handshake apart from what goes wrong
// in the protocol within.
type tlsFailure struct{ err error }

func (e *tlsFailure) Error() string { return e.err.Error() }
func (e *tlsFailure) Unwrap() error { return e.err }

// atHop is an error of another hop than the one that was to be reached.
type atHop struct {
	at  int
	err error
}

func (e *atHop) Error() string { return e.err.Error() }
