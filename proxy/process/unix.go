package process

import (
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"sallyport/policy"
)

// Peer is what the kernel says of who has connected to a unix socket: the user
// and the process at that moment. It is false where the kernel does not say.
func Peer(c *net.UnixConn) (peer policy.Peer, ok bool) {
	var who *unix.Ucred
	raw, err := c.SyscallConn()
	if err != nil {
		return policy.Peer{}, false
	}
	control := raw.Control(func(fd uintptr) {
		who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || control != nil {
		return policy.Peer{}, false
	}
	return policy.Peer{UID: int64(who.Uid), PID: int64(who.Pid), SameUser: int(who.Uid) == os.Geteuid()}, true
}

func ofUnix(c *net.UnixConn) policy.Process {
	peer, ok := Peer(c)
	if !ok {
		return policy.Process{}
	}
	found := policy.Process{PID: peer.PID, UID: peer.UID}
	if peer.PID > 0 {
		if path, err := os.Readlink("/proc/" + strconv.Itoa(int(peer.PID)) + "/exe"); err == nil && alive(c) {
			found.Exe = path
		}
	}
	return found
}

// alive tells whether the process that has connected still runs, so that its
// number is not another's by now. A kernel older than 6.5 cannot say, and is
// believed not to give a number again so soon.
func alive(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	running := true
	err = raw.Control(func(fd uintptr) {
		process, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		if err != nil {
			running = err == unix.ENOPROTOOPT // else it has been reaped
			return
		}
		defer unix.Close(process)
		// One that has exited is readable.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 0)
		running = err == nil && n == 0
	})
	return err == nil && running
}
