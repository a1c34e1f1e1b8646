package main

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// ownNetwork gives the rest of a test, and every program that it starts from its
// own goroutine, a loopback interface of its own: each port of it is free, whoever
// else listens on this machine, and nothing leads out. It tells whether it could,
// which is up to whether the test may; root may.
func ownNetwork(t *testing.T) bool {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the goroutine, and the network with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return false
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	lo, err := unix.NewIfreq("lo")
	must(t, err)
	lo.SetUint16(unix.IFF_UP)
	must(t, errors.Join(unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo), unix.Close(socket)))
	return true
}
