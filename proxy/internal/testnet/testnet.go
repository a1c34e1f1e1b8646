// Package testnet is what tests of sockets share.
package testnet

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Limit bounds what a test waits for; nothing is asserted about time.
const Limit = 30 * time.Second

// Eventually waits for something that has no other sign.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for begun := time.Now(); !done(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > Limit {
			t.Fatalf("never: %s", what)
		}
	}
}

// Descriptors counts those of this process.
func Descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Noise is n bytes without a pattern, the same ones each time.
func Noise(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(p)
	return p
}

// Same wants what came to be what was sent.
func Same(t testing.TB, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, %d were sent, or they differ", len(got), len(want))
	}
}

// BlackHole is an address of loopback that answers nothing, with a port of its own: a
// listener whose queue is full, so that the kernel drops what comes.
func BlackHole(t testing.TB, ip string) netip.AddrPort {
	t.Helper()
	at := netip.MustParseAddr(ip)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: at.As4()}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	hole := netip.AddrPortFrom(at, uint16(name.(*unix.SockaddrInet4).Port))
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(hole))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return hole
}
