// Package dial reaches a target: it looks a name up once, and connects to
// addresses that were decided upon.
//
// The two are kept apart on purpose. Between them the policy is asked about
// every address that [Resolver.Lookup] found, and [Dialer.Dial] connects to the
// allowed ones and to nothing else: it takes addresses, never names, so a name
// that answers differently a moment later (DNS rebinding) has nothing to bind
// to. No other code of the program resolves names of targets.
//
// resolve.go has the look-up: resolve_local.go what is known without asking,
// resolve_cache.go what is remembered or being asked, resolve_exchange.go how a
// server is asked, and resolve_answer.go what of its reply is believed. dial.go has
// one connection attempt, race.go several of them (Happy Eyeballs, RFC 8305), and
// errors.go what can go wrong.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/proxy/loop"
)

// Dialer connects to the addresses that it is given. The zero value is ready.
type Dialer struct {
	// Timeout bounds one Dial as a whole; 0: only its context does.
	Timeout time.Duration
}

// keepAlive finds peers that vanished and keeps middle boxes from forgetting
// the flow. The count of lost probes is left to the system: one call less.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: -1}

// Dial connects to one of the addresses, whichever answers first: they are
// tried in the given order with the families alternating, the next one 250 ms
// after the last or as soon as one has failed.
//
// The connection leaves from the local address from, if that is valid; then
// only addresses of its family are tried. Of several failures the most telling
// is returned, by the order of the errors of this package. When Dial returns no
// attempt is left running.
func (d *Dialer) Dial(ctx context.Context, to []netip.AddrPort, from netip.Addr) (*net.TCPConn, error) {
	return first(ctx, d, to, from, connect)
}

// DialOn is Dial for a task of a loop, with a connection of that loop, of which the
// task has both directions. It has until a certain time; the loop goes on meanwhile.
// Where there is one address only, begun is told of the connection under way, which a
// write deadline that has passed calls off, as the end of ctx does not.
func (d *Dialer) DialOn(ctx context.Context, t *loop.Task, until time.Time, to []netip.AddrPort, from netip.Addr, begun func(*loop.Conn)) (c *loop.Conn, err error) {
	l := t.Loop()
	if len(to) == 1 {
		return first(ctx, d, to, from, func(ctx context.Context, to netip.AddrPort, from netip.Addr) (*loop.Conn, error) {
			return connectOn(ctx, l, t, until, to, from, begun)
		})
	}
	t.Aside(func() {
		c, err = first(ctx, d, to, from, func(ctx context.Context, to netip.AddrPort, from netip.Addr) (*loop.Conn, error) {
			stop := func() bool { return true }
			c, err := connectOn(ctx, l, nil, until, to, from, func(c *loop.Conn) {
				stop = context.AfterFunc(ctx, func() { c.SetWriteDeadline(time.Unix(1, 0)) })
			})
			if stop() {
				return c, err
			}
			if err == nil {
				c.Close()
			}
			return nil, classify(ctx.Err(), from)
		})
	})
	if err != nil {
		return nil, err
	}
	c.Belongs(t)
	return c, nil
}

// first connects to whichever of the addresses answers first.
func first[C conn](ctx context.Context, d *Dialer, to []netip.AddrPort, from netip.Addr, connect connector[C]) (C, error) {
	var none C
	if d.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	if len(to) == 0 {
		return none, errors.New("dial: no address to connect to")
	}
	from = from.Unmap()
	candidates := to
	if from.IsValid() {
		if candidates = sameFamily(to, from); len(candidates) == 0 {
			return none, fmt.Errorf("%w: %s is not of the family of any address of the target", ErrSource, from)
		}
	}
	if len(candidates) == 1 {
		return connect(ctx, candidates[0], from)
	}
	return race(ctx, alternate(candidates), from, connect)
}

func sameFamily(to []netip.AddrPort, from netip.Addr) []netip.AddrPort {
	var same []netip.AddrPort
	for _, a := range to {
		if a.Addr().Unmap().Is4() == from.Is4() {
			same = append(same, a)
		}
	}
	return same
}

// connect is one attempt at one address. TCP_NODELAY is Go's default. DialTCP
// takes addresses and no names, and costs less than DialContext, but binds in
// any case: hence bindWithoutPort.
func connect(ctx context.Context, to netip.AddrPort, from netip.Addr) (*net.TCPConn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive, Control: bindWithoutPort}
	d.SetMultipathTCP(false) // the relay's splice needs plain TCP
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	conn, err := d.DialTCP(ctx, "tcp", netip.AddrPortFrom(from, 0), to)
	if err != nil {
		return nil, classify(err, from)
	}
	return conn, nil
}

// connectOn is connect for a connection of a loop, of which the task has both
// directions; nil: any goroutine.
func connectOn(ctx context.Context, l *loop.Loop, t *loop.Task, until time.Time, to netip.AddrPort, from netip.Addr, begun func(*loop.Conn)) (*loop.Conn, error) {
	if before, ok := ctx.Deadline(); ok && before.Before(until) {
		until = before
	}
	c, err := again(func() (*loop.Conn, error) {
		c, err := l.Dial(t, to, func(fd int) error { return prepare(fd, from) })
		if err != nil {
			return nil, err
		}
		c.SetWriteDeadline(until)
		begun(c)
		if err := c.Connected(); err != nil {
			c.Close()
			return nil, err
		}
		c.SetWriteDeadline(time.Time{})
		return c, nil
	})
	if err != nil {
		return nil, classify(err, from)
	}
	return c, nil
}

// again has an attempt made up to three times, as net.Dialer does, where the kernel
// has chosen a port that another has taken meanwhile.
func again[C conn](attempt func() (C, error)) (c C, err error) {
	for range 3 {
		if c, err = attempt(); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			break
		}
	}
	return c, err
}

// prepare sets what net.Dialer sets for connect.
func prepare(fd int, from netip.Addr) error {
	for _, option := range [...]struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAlive.Idle / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAlive.Interval / time.Second)},
	} {
		if err := unix.SetsockoptInt(fd, option.level, option.name, option.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if !from.IsValid() {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	var local unix.Sockaddr
	if from.Is4() {
		local = &unix.SockaddrInet4{Addr: from.As4()}
	} else {
		local = &unix.SockaddrInet6{Addr: from.As16()}
	}
	return os.NewSyscallError("bind", unix.Bind(fd, local))
}

// bindWithoutPort leaves the choice of the local port to connect, which needs
// it to be unique for one target only; a bind would need one for all of them,
// and one source address would be good for 28,000 connections altogether.
func bindWithoutPort(_, _ string, raw syscall.RawConn) error {
	var err error
	controlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
	return errors.Join(controlErr, err)
}
