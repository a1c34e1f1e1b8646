package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// The first byte that a client sends says what becomes of the rest.
const (
	echo    = 'E' // it is sent back
	source  = 'S' // it is ignored, and zeros are sent for ever
	discard = 'D' // it is thrown away
)

const bulkChunk = 256 << 10

// target is where the clients want to go: servers on one port of several
// addresses, so that neither a client nor a proxy runs out of ports while those
// of earlier connections are in TIME_WAIT.
type target struct {
	addrs     []netip.AddrPort
	listeners []net.Listener
}

// loopbackTargets are addresses that every Linux machine has.
func loopbackTargets() (ips []netip.Addr) {
	for i := range 16 {
		ips = append(ips, netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i)}))
	}
	return ips
}

// listenTarget serves on all of the addresses until close.
func listenTarget(ctx context.Context, ips []netip.Addr) (*target, error) {
	var err error
	for range 20 { // the port that the first has may be taken at another
		t := &target{}
		if err = t.listen(ctx, ips); err == nil {
			return t, nil
		}
		t.close()
	}
	return nil, fmt.Errorf("target: %w", err)
}

func (t *target) listen(ctx context.Context, ips []netip.Addr) error {
	port := uint16(0)
	for _, ip := range ips {
		config := net.ListenConfig{KeepAlive: -1}
		l, err := config.Listen(ctx, "tcp", netip.AddrPortFrom(ip, port).String())
		if err != nil {
			return err
		}
		t.listeners = append(t.listeners, l)
		port = l.Addr().(*net.TCPAddr).AddrPort().Port()
		t.addrs = append(t.addrs, netip.AddrPortFrom(ip, port))
	}
	for _, l := range t.listeners {
		go serve(l) // until close
	}
	return nil
}

// close ends the listening. A connection ends with its client.
func (t *target) close() {
	for _, l := range t.listeners {
		l.Close()
	}
}

func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors
			time.Sleep(time.Millisecond)
			continue
		}
		go func() {
			defer c.Close()
			answer(c.(*net.TCPConn)) // it ends when the client does
		}()
	}
}

func answer(c *net.TCPConn) error {
	small := make([]byte, 1024) // which is all that an idle connection holds
	n, err := c.Read(small)
	if err != nil {
		return err
	}
	switch small[0] {
	case echo:
		return sendBack(c, small, n)
	case source:
		chunk := make([]byte, bulkChunk)
		for {
			if _, err := c.Write(chunk); err != nil {
				return err
			}
		}
	case discard:
		return throwAway(c, func(int) {})
	case get:
		return answerRequests(c, small[:n])
	}
	return fmt.Errorf("no mode %q", small[0])
}

// sendBack begins with what came in buf[1:n].
func sendBack(c net.Conn, buf []byte, n int) error {
	if _, err := c.Write(buf[1:n]); err != nil {
		return err
	}
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return err
		}
		if n == len(buf) && n < 64<<10 { // the messages are large
			buf = make([]byte, 64<<10)
		}
	}
}

// throwAway drops what arrives inside the kernel (MSG_TRUNC), so that it costs
// next to nothing, and counts it.
func throwAway(c *net.TCPConn, count func(int)) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	room := make([]byte, 1<<20) // never written to
	for {
		var n int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, _, failed = syscall.Recvfrom(int(fd), room, syscall.MSG_TRUNC|syscall.MSG_DONTWAIT)
			return failed != syscall.EAGAIN
		})
		if err = errors.Join(err, failed); err != nil {
			return err
		}
		if n == 0 {
			return io.EOF
		}
		count(n)
	}
}
