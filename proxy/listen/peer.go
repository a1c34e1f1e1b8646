package listen

import (
	"net"

	"golang.org/x/sys/unix"
)

// User is the number of the user who has connected to a unix socket; false of
// any other client.
func (c *Conn) User() (uid int64, ok bool) {
	socket, ok := c.Plain().(*net.UnixConn)
	if !ok {
		return 0, false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, false
	}
	var who *unix.Ucred
	control := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || control != nil {
		return 0, false
	}
	return int64(who.Uid), true
}
