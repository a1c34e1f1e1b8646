package loop

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Listener accepts connections on all loops of a group.
type Listener struct {
	group   *Group
	local   netip.AddrPort
	sockets []*Conn // one for each loop
}

// Listen takes a listening socket over, which is closed for whoever had it.
func (g *Group) Listen(from *net.TCPListener) (*Listener, error) {
	defer from.Close()
	raw, err := from.SyscallConn()
	if err != nil {
		return nil, err
	}
	ln := &Listener{group: g, local: from.Addr().(*net.TCPAddr).AddrPort()}
	for _, l := range g.loops {
		var fd int
		var failure error
		if err := raw.Control(func(of uintptr) { fd, failure = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
			failure = err
		}
		if failure != nil {
			ln.Close()
			return nil, failure
		}
		c := l.add(fd, nil, true)
		c.shared = true
		ln.sockets = append(ln.sockets, c)
	}
	return ln, nil
}

// Addr is the address that is listened at.
func (ln *Listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(ln.local) }

// Close stops listening.
func (ln *Listener) Close() error {
	var errs []error
	for _, c := range ln.sockets {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// pending is what a listening socket has to tell: that somebody waits, as long as
// that is so, and to one loop rather than to all of them. A loop takes one at a
// time, so that those that it has get their turn.
const pending = unix.EPOLLIN | unix.EPOLLEXCLUSIVE

// Serve accepts until the listener is closed, and calls accepted for each connection,
// which nobody has yet: see [Conn.Serve]. Where accepting fails it asks what to do: to
// go on after a pause, or, where that is negative, to end. Either function may be
// called by several loops at once. Serve returns when no more is accepted.
func (ln *Listener) Serve(accepted func(*Conn), failed func(error) time.Duration) {
	done := make(chan struct{}, len(ln.sockets))
	for _, c := range ln.sockets {
		c.loop.Go(func(t *Task) {
			c.Reads(t)
			t.Then(func() { done <- struct{}{} })
			ln.accept(c, accepted, failed)
		})
	}
	for range ln.sockets {
		<-done
	}
}

func (ln *Listener) accept(c *Conn, accepted func(*Conn), failed func(error) time.Duration) {
	watched := false
	for {
		var client *Conn
		var err error
		if !watched {
			err = c.with("set", func(int) error { return c.watch(pending) })
			watched = err == nil
		}
		if watched {
			client, err = ln.next(c)
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			accepted(client)
			continue
		}
		pause := failed(err)
		if pause < 0 {
			ln.Close() // for the other loops, too
			return
		}
		if watched {
			watched = false
			_ = c.with("set", func(fd int) error { return unix.EpollCtl(c.loop.epoll, unix.EPOLL_CTL_DEL, fd, nil) })
		}
		c.sleep(pause)
	}
}

// sleep lets time pass, in which others may accept.
func (c *Conn) sleep(d time.Duration) {
	c.SetReadDeadline(time.Now().Add(max(d, time.Millisecond)))
	_ = c.until(&c.in, func(uintptr) bool { return false })
	c.SetReadDeadline(time.Time{})
}

// Serve has a task of the connection's loop serve it, which has both directions and
// a deep stack.
func (c *Conn) Serve(job func(*Task)) {
	c.loop.GoDeep(func(t *Task) {
		c.Belongs(t)
		job(t)
	})
}

// next waits for the next connection.
func (ln *Listener) next(c *Conn) (*Conn, error) {
	if !c.enter() {
		return nil, net.ErrClosed
	}
	defer c.leave()
	var fd uintptr
	var peer unix.RawSockaddrAny
	for {
		if err := c.wait(&c.in); err != nil {
			return nil, err
		}
		c.exhausted(&c.in) // one at a time: the kernel tells again of others
		length := uint32(unsafe.Sizeof(peer))
		var errno unix.Errno
		fd, _, errno = unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(c.fd), uintptr(unsafe.Pointer(&peer)), uintptr(unsafe.Pointer(&length)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno == 0 {
			break
		}
		if errno != unix.EAGAIN && errno != unix.EINTR && errno != unix.ECONNABORTED {
			return nil, os.NewSyscallError("accept4", errno)
		}
	}
	client, err := ln.group.of(c.loop).adopt(int(fd), nil, false)
	if err != nil {
		return nil, err
	}
	client.remote = addrPort(&peer)
	if client.local = ln.local; ln.local.Addr().IsUnspecified() {
		if client.local, err = localOf(int(fd)); err != nil {
			client.Close()
			return nil, err
		}
	}
	return client, nil
}
