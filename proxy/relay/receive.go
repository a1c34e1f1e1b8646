package relay

import (
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxReceive bounds a bulk source's receive buffer, so that a reader that
// stalls costs a known amount. It is above what Linux lets it grow to by
// default, 6 MiB, and matters where an administrator has allowed more.
const maxReceive = 8 << 20

// boundReceive keeps the kernel from growing a receive buffer past maxReceive.
// It only acts where the kernel would (net.ipv4.tcp_rmem) and can be told so
// (net.core.rmem_max): told a smaller size, it would keep the flow slow.
func boundReceive(fd uintptr) {
	if receiveNeedsBound() {
		// The kernel doubles the size for its own overhead (socket(7)).
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, maxReceive/2)
	}
}

var receiveNeedsBound = sync.OnceValue(func() bool {
	return lastNumber("/proc/sys/net/ipv4/tcp_rmem") > maxReceive &&
		lastNumber("/proc/sys/net/core/rmem_max") >= maxReceive/2
})

// lastNumber returns the last number in a file of the kernel's, 0 where there
// is none to be read.
func lastNumber(name string) int {
	text, _ := os.ReadFile(name)
	fields := strings.Fields(string(text))
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(fields[len(fields)-1])
	return n
}
