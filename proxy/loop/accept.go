package loop

import (
	"encoding/binary"
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
		var c *Conn
		if failure == nil {
			c, failure = l.adopt(fd, nil, pending, true)
		}
		if failure != nil {
			ln.Close()
			return nil, failure
		}
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
	for {
		client, err := ln.next(c)
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
		for !c.sleep(pause) {
			if c.closed() {
				return
			}
			pause = failed(errNoWatch)
		}
	}
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
	client, err := ln.group.of(c.loop).adopt(int(fd), nil, anything, false)
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

var errNoWatch = errors.New("the kernel does not watch the listening socket")

// sleep lets time pass, in which others may accept, and reports whether the kernel
// watches the socket again after it.
func (c *Conn) sleep(d time.Duration) bool {
	l := c.loop
	_ = c.with("set", func(fd int) error { return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, fd, nil) }) // it may not be watched
	c.SetReadDeadline(time.Now().Add(max(d, time.Millisecond)))
	_ = c.until(&c.in, func(uintptr) bool { return false })
	c.SetReadDeadline(time.Time{})
	return c.with("set", func(fd int) error {
		l.mu.Lock()
		generation := l.slots[c.slot].generation
		l.mu.Unlock()
		return l.register(fd, c.slot, generation, pending)
	}) == nil
}

func localOf(fd int) (netip.AddrPort, error) {
	return nameOf(fd, unix.SYS_GETSOCKNAME, "getsockname")
}

func remoteOf(fd int) (netip.AddrPort, error) {
	return nameOf(fd, unix.SYS_GETPEERNAME, "getpeername")
}

func nameOf(fd int, call uintptr, name string) (netip.AddrPort, error) {
	var at unix.RawSockaddrAny
	length := uint32(unsafe.Sizeof(at))
	_, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&at)), uintptr(unsafe.Pointer(&length)))
	if errno != 0 {
		return netip.AddrPort{}, os.NewSyscallError(name, errno)
	}
	return addrPort(&at), nil
}

// addrPort is what a socket's address says, of IPv4 never in IPv6 form. The
// interface of a link-local address is left out: it means nothing elsewhere.
func addrPort(a *unix.RawSockaddrAny) netip.AddrPort {
	switch a.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), network(&in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom16(in.Addr).Unmap(), network(&in.Port))
	}
	return netip.AddrPort{}
}

// network is a port in the order of the network's bytes.
func network(port *uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(port))[:])
}

// sockaddr is the reverse of addrPort.
func sockaddr(at netip.AddrPort) (family int, raw unix.RawSockaddrAny, length uint32) {
	if at.Addr().Is4() {
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(&raw))
		in.Family, in.Addr = unix.AF_INET, at.Addr().As4()
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&in.Port))[:], at.Port())
		return unix.AF_INET, raw, unix.SizeofSockaddrInet4
	}
	in := (*unix.RawSockaddrInet6)(unsafe.Pointer(&raw))
	in.Family, in.Addr = unix.AF_INET6, at.Addr().As16()
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&in.Port))[:], at.Port())
	return unix.AF_INET6, raw, unix.SizeofSockaddrInet6
}
