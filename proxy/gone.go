package proxy

import "golang.org/x/sys/unix"

// hungUp tells whether the client of a socket has closed its side, with bytes of
// it unread or not. It takes nothing from the stream.
func hungUp(fd uintptr) bool {
	polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(polled, 0)
	return err == nil && n > 0
}
