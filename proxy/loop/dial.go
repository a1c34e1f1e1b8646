package loop

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Dial begins to connect to an address, from any of this machine's; options are
// set on the socket before. The task, one of the loop's, has both of the
// connection's directions. See [Conn.Connected].
func (l *Loop) Dial(t *Task, to netip.AddrPort, options func(fd int) error) (*Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	fd, err := connecting(to, options)
	var c *Conn
	if err == nil {
		c, err = l.adopt(fd, t, true)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	c.remote = to
	return c, nil
}

// connecting is a socket that connects.
func connecting(to netip.AddrPort, options func(fd int) error) (int, error) {
	family, peer, length := sockaddr(to)
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if errno != 0 {
		return 0, os.NewSyscallError("socket", errno)
	}
	err := options(int(fd))
	if err == nil {
		_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&peer)), uintptr(length))
		if errno != 0 && errno != unix.EINPROGRESS && errno != unix.EINTR {
			err = os.NewSyscallError("connect", errno)
		}
	}
	if err != nil {
		unix.Close(int(fd))
		return 0, err
	}
	return int(fd), nil
}

// Connected waits until a connection of Dial is there, or is not to be had.
func (c *Conn) Connected() error {
	if !c.enter() {
		return c.failed("dial", net.ErrClosed)
	}
	defer c.leave()
	err := c.wait(&c.out) // a socket that connects cannot be written to, or has failed, before it has (tcp_poll)
	if err != nil {
		return c.failed("dial", err)
	}
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		err = os.NewSyscallError("getsockopt", err)
	case code != 0:
		err = os.NewSyscallError("connect", syscall.Errno(code))
	default:
		c.local, err = localOf(c.fd)
	}
	if err == nil && c.remote.Addr().IsUnspecified() { // which Linux takes for this machine
		c.remote, err = remoteOf(c.fd)
	}
	if err == nil && c.local == c.remote {
		// Nobody listens there, and the kernel has happened to choose that very port
		// to connect from: two that open at once are connected (RFC 9293, 3.5).
		err = os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	if err != nil {
		return c.failed("dial", err)
	}
	return nil
}
