//go:build !linux

package proxy

import "golang.org/x/sys/unix"

// hungUp tells whether the client of a socket has closed its side and has left
// nothing unread. It takes nothing from the stream.
func hungUp(fd uintptr) bool {
	n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == nil && n == 0 || err != nil && err != unix.EAGAIN
}
