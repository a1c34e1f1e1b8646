package loop

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is a TCP connection whose readiness a loop looks after. It is a net.Conn
// with what a *net.TCPConn has beyond that. Each of its directions is waited for by
// the task that has it (see [Conn.Reads] and [Conn.Writes]), or by any goroutine
// where none has; one at a time reads, and one writes.
type Conn struct {
	loop          *Loop
	fd            int
	slot          uint32
	generation    uint32
	shared        bool // others may have the socket, too, by other descriptors
	local, remote netip.AddrPort

	// users is how many are about to use fd, twice; odd once it is closed. What is
	// closed is given back to the kernel by the last of them, so that nobody uses
	// the descriptor of another.
	users atomic.Int32

	// Guarded by loop.mu.
	in, out side
	due     time.Time // the earlier deadline of both sides
	place   int       // among the deadlines, from 1; 0: it has none
}

// side is one direction, as who waits for it sees it.
type side struct {
	owner    *Task // nil: any goroutine
	ready    bool  // the kernel has told of something since this was last cleared
	dry      bool  // nothing was left when it was last tried: only news is worth another try
	closing  bool  // the end may lie behind what is left
	expired  bool  // the deadline has passed
	waiting  bool
	task     *Task      // who waits; nil: goroutines
	signal   *sync.Cond // for those; nil as long as none has waited
	deadline time.Time
}

// Everything that a connection may be ready for.
const anything = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI | edge

// adopt puts a connection's socket on the loop. See add.
func (l *Loop) adopt(fd int, t *Task, dry bool) (*Conn, error) {
	c := l.add(fd, t, dry)
	if err := c.watch(anything); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// add takes a socket, which does not block, without having the kernel tell of it
// yet. The task has both of its directions; a dry one is not worth a try before the
// kernel has told of something.
func (l *Loop) add(fd int, t *Task, dry bool) *Conn {
	l.open.Add(1)
	c := &Conn{loop: l, fd: fd}
	c.in = side{owner: t, dry: dry}
	c.out = c.in
	l.mu.Lock()
	if last := len(l.free) - 1; last >= 0 {
		c.slot = l.free[last]
		l.free = l.free[:last]
	} else {
		c.slot = uint32(len(l.slots))
		l.slots = append(l.slots, slot{})
	}
	of := &l.slots[c.slot]
	of.conn = c
	c.generation = of.generation
	l.mu.Unlock()
	return c
}

// watch has the kernel tell of these events.
func (c *Conn) watch(events uint32) error {
	return os.NewSyscallError("epoll_ctl", c.loop.register(c.fd, c.slot, c.generation, events))
}

// told notes what the kernel has to say. Called with mu held.
func (c *Conn) told(events uint32) {
	if events&^unix.EPOLLOUT != 0 {
		c.in.ready = true
		c.in.closing = c.in.closing || events&^(unix.EPOLLIN|unix.EPOLLOUT) != 0
		c.loop.notify(&c.in)
	}
	if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		c.out.ready = true
		c.loop.notify(&c.out)
	}
}

// notify has whoever waits look again. Called with mu held.
func (l *Loop) notify(s *side) {
	if !s.waiting {
		return
	}
	s.waiting = false
	if t := s.task; t != nil {
		s.task = nil
		l.wake(t)
	}
	if s.signal != nil {
		s.signal.Broadcast()
	}
}

// Loop is the one that the connection is on.
func (c *Conn) Loop() *Loop { return c.loop }

// Reads says that it is the task who reads from now on, and nobody else; nil: any
// goroutine.
func (c *Conn) Reads(t *Task) {
	c.loop.mu.Lock()
	defer c.loop.mu.Unlock()
	c.in.owner = t
}

// Writes says so of who writes.
func (c *Conn) Writes(t *Task) {
	c.loop.mu.Lock()
	defer c.loop.mu.Unlock()
	c.out.owner = t
}

// Belongs says so of both.
func (c *Conn) Belongs(t *Task) {
	c.loop.mu.Lock()
	defer c.loop.mu.Unlock()
	c.in.owner, c.out.owner = t, t
}

func (c *Conn) closed() bool { return c.users.Load()&1 != 0 }

// enter says that the descriptor is about to be used, unless it is closed.
func (c *Conn) enter() bool {
	for {
		n := c.users.Load()
		if n&1 != 0 {
			return false
		}
		if c.users.CompareAndSwap(n, n+2) {
			return true
		}
	}
}

// leave says that it was.
func (c *Conn) leave() {
	if c.users.Add(-2) == 1 {
		c.release()
	}
}

func (c *Conn) release() {
	l := c.loop
	l.open.Add(-1)
	l.mu.Lock()
	of := &l.slots[c.slot]
	of.conn = nil
	of.generation++
	l.free = append(l.free, c.slot)
	l.due.set(c, time.Time{})
	l.mu.Unlock()
	if c.shared {
		_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, c.fd, nil) // fails while it sleeps
	}
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(c.fd), 0, 0) // the kernel tells the loop of it no more, unless others have it
}

// until tries until there is nothing to wait for.
func (c *Conn) until(s *side, try func(fd uintptr) bool) error {
	if !c.enter() {
		return net.ErrClosed
	}
	defer c.leave()
	for {
		if err := c.wait(s); err != nil {
			return err
		}
		if try(uintptr(c.fd)) {
			return nil
		}
		c.exhausted(s)
	}
}

// wait waits until something is worth a try, and tells why there is nothing to be
// tried. What the kernel tells from then on is news.
func (c *Conn) wait(s *side) error {
	l := c.loop
	l.mu.Lock()
	for {
		var err error
		switch {
		case c.closed():
			err = net.ErrClosed
		case s.expired:
			err = os.ErrDeadlineExceeded
		}
		if err != nil || s.ready || !s.dry {
			s.ready, s.dry = false, false // whoever is next finds out by himself
			l.mu.Unlock()
			return err
		}
		s.waiting = true
		if t := s.owner; t.On() {
			s.task = t
			l.mu.Unlock()
			t.tell(parked)
			l.mu.Lock()
			continue
		}
		if s.signal == nil {
			s.signal = sync.NewCond(&l.mu)
		}
		s.signal.Wait()
	}
}

// exhausted notes that nothing was left.
func (c *Conn) exhausted(s *side) {
	c.loop.mu.Lock()
	s.dry = true
	c.loop.mu.Unlock()
}

// Drained says that a read through SyscallConn has brought less than it had room for:
// nothing was left (epoll(7)), unless the kernel has told, with what was read, of the
// end that comes behind it, or of urgent data, at which a read stops.
func (c *Conn) Drained() {
	c.loop.mu.Lock()
	c.in.dry = !c.in.closing
	c.loop.mu.Unlock()
}

// Read is io.Reader's. Where the connection was closed here it is net.ErrClosed,
// and os.ErrDeadlineExceeded after the deadline.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !c.enter() {
		return 0, c.failed("read", net.ErrClosed)
	}
	defer c.leave()
	for {
		if err := c.wait(&c.in); err != nil {
			return 0, c.failed("read", err)
		}
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(c.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch {
		case errno == 0 && n == 0:
			return 0, io.EOF
		case errno == 0:
			if int(n) < len(p) {
				c.Drained()
			}
			return int(n), nil
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			c.exhausted(&c.in)
		default:
			return 0, c.failed("read", os.NewSyscallError("read", errno))
		}
	}
}

// Write is io.Writer's, with the errors of Read.
func (c *Conn) Write(p []byte) (written int, err error) {
	if !c.enter() {
		return 0, c.failed("write", net.ErrClosed)
	}
	defer c.leave()
	for {
		if err := c.wait(&c.out); err != nil {
			return written, c.failed("write", err)
		}
		rest := p[written:]
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(c.fd), uintptr(unsafe.Pointer(unsafe.SliceData(rest))), uintptr(len(rest)))
		switch {
		case errno == 0:
			if written += int(n); written == len(p) {
				return written, nil
			}
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			c.exhausted(&c.out)
		default:
			return written, c.failed("write", os.NewSyscallError("write", errno))
		}
	}
}

func (c *Conn) failed(op string, err error) error {
	failed := &net.OpError{Op: op, Net: "tcp", Addr: c.RemoteAddr(), Err: err}
	if c.local.IsValid() {
		failed.Source = c.LocalAddr()
	}
	return failed
}

// Close is io.Closer's. Who waits for the connection waits no longer.
func (c *Conn) Close() error {
	before := c.users.Or(1)
	if before&1 != 0 {
		return net.ErrClosed
	}
	if before == 0 {
		c.release()
		return nil
	}
	c.loop.mu.Lock()
	c.loop.notify(&c.in)
	c.loop.notify(&c.out)
	c.loop.mu.Unlock()
	return nil
}

// CloseWrite tells the peer that no more will come.
func (c *Conn) CloseWrite() error {
	return c.with("close", func(fd int) error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0); errno != 0 {
			return os.NewSyscallError("shutdown", errno)
		}
		return nil
	})
}

// SetLinger is a *net.TCPConn's: with 0 Close resets the connection.
func (c *Conn) SetLinger(seconds int) error {
	return c.with("set", func(fd int) error {
		l := unix.Linger{Linger: int32(max(seconds, 0))}
		if seconds >= 0 {
			l.Onoff = 1
		}
		return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &l))
	})
}

// with does something with the descriptor.
func (c *Conn) with(op string, f func(fd int) error) error {
	if !c.enter() {
		return c.failed(op, net.ErrClosed)
	}
	defer c.leave()
	if err := f(c.fd); err != nil {
		return c.failed(op, err)
	}
	return nil
}

// LocalAddr is this side's address.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// Local is LocalAddr as a value. An IPv4 address is never in IPv6 form.
func (c *Conn) Local() netip.AddrPort { return c.local }

// Remote is RemoteAddr, likewise.
func (c *Conn) Remote() netip.AddrPort { return c.remote }

// SetDeadline is net.Conn's.
func (c *Conn) SetDeadline(at time.Time) error { return c.setDeadline(at, &c.in, &c.out) }

// SetReadDeadline is net.Conn's.
func (c *Conn) SetReadDeadline(at time.Time) error { return c.setDeadline(at, &c.in, nil) }

// SetWriteDeadline is net.Conn's.
func (c *Conn) SetWriteDeadline(at time.Time) error { return c.setDeadline(at, &c.out, nil) }

func (c *Conn) setDeadline(at time.Time, a, b *side) error {
	if !c.enter() {
		return c.failed("set", net.ErrClosed)
	}
	defer c.leave()
	l := c.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	passed := !at.IsZero() && !time.Now().Before(at)
	for _, s := range [...]*side{a, b} {
		if s == nil {
			continue
		}
		s.deadline, s.expired = at, passed
		if passed {
			s.deadline = time.Time{}
			l.notify(s)
		}
	}
	before := l.due.first()
	l.due.set(c, c.earlier())
	if first := l.due.first(); !first.IsZero() && (before.IsZero() || first.Before(before)) {
		l.poke() // it has to sleep for less
	}
	return nil
}

// earlier is the deadline of both sides that comes first.
func (c *Conn) earlier() time.Time {
	a, b := c.in.deadline, c.out.deadline
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// expire ends the wait of the sides whose deadline has passed. Called with mu held.
func (c *Conn) expire(now time.Time) {
	for _, s := range [...]*side{&c.in, &c.out} {
		if !s.deadline.IsZero() && !now.Before(s.deadline) {
			s.deadline, s.expired = time.Time{}, true
			c.loop.notify(s)
		}
	}
	c.loop.due.set(c, c.earlier())
}

// SyscallConn is a *net.TCPConn's.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return rawConn{c}, nil }

type rawConn struct{ c *Conn }

func (r rawConn) Control(f func(fd uintptr)) error {
	return r.c.with("raw-control", func(fd int) error { f(uintptr(fd)); return nil })
}

func (r rawConn) Read(try func(fd uintptr) bool) error {
	if err := r.c.until(&r.c.in, try); err != nil {
		return r.c.failed("raw-read", err)
	}
	return nil
}

func (r rawConn) Write(try func(fd uintptr) bool) error {
	if err := r.c.until(&r.c.out, try); err != nil {
		return r.c.failed("raw-write", err)
	}
	return nil
}
