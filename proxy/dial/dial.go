// Package dial reaches targets: it resolves a name once, and connects to
// exactly the addresses that it is given.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Why a target was not reached. Each wraps the error of the system.
var (
	ErrUnresolved         = errors.New("the name does not resolve")
	ErrRefused            = errors.New("connection refused")
	ErrHostUnreachable    = errors.New("host unreachable")
	ErrNetworkUnreachable = errors.New("network unreachable")
	ErrTimeout            = errors.New("timed out")
)

// Resolver asks the system's resolver.
type Resolver struct{}

// Lookup returns the addresses of an absolute name, both families, at most 32.
func (Resolver) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name+".")
	if ctx.Err() != nil {
		return nil, fmt.Errorf("resolve: %w: %w", ErrTimeout, ctx.Err())
	}
	if err != nil {
		return nil, fmt.Errorf("resolve: %w: %w", ErrUnresolved, err)
	}
	seen := map[netip.Addr]bool{}
	out := make([]netip.Addr, 0, len(found))
	for _, ip := range found {
		ip = ip.Unmap().WithZone("")
		if !seen[ip] && len(out) < 32 {
			seen[ip] = true
			out = append(out, ip)
		}
	}
	return out, nil
}

// Dialer connects over TCP.
type Dialer struct{}

// attempt is how long one address may take where others follow.
const attempt = 3 * time.Second

// Dial tries the addresses in turn, families interleaved, until one answers
// or ctx ends. An invalid from leaves the local address to the system.
func (Dialer) Dial(ctx context.Context, to []netip.AddrPort, from netip.Addr) (*net.TCPConn, error) {
	var last error = ErrNetworkUnreachable
	d := net.Dialer{KeepAlive: 30 * time.Second}
	d.SetMultipathTCP(false)
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	to = interleaved(to)
	for i, address := range to {
		if from.IsValid() && from.Is4() != address.Addr().Is4() {
			continue
		}
		one, cancel := ctx, context.CancelFunc(func() {})
		if i < len(to)-1 {
			one, cancel = context.WithTimeout(ctx, attempt)
		}
		conn, err := d.DialContext(one, "tcp", address.String())
		cancel()
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		last = fmt.Errorf("dial: %w: %w", kind(err), err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

func kind(err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return ErrRefused
	case errors.Is(err, syscall.EHOSTUNREACH):
		return ErrHostUnreachable
	case errors.As(err, &timeout) && timeout.Timeout():
		return ErrTimeout
	default:
		return ErrNetworkUnreachable
	}
}

// interleaved alternates the families, the first address's first (RFC 8305 §4).
func interleaved(to []netip.AddrPort) []netip.AddrPort {
	var a, b, out []netip.AddrPort
	for _, t := range to {
		if t.Addr().Is4() == to[0].Addr().Is4() {
			a = append(a, t)
		} else {
			b = append(b, t)
		}
	}
	for i := range max(len(a), len(b)) {
		if i < len(a) {
			out = append(out, a[i])
		}
		if i < len(b) {
			out = append(out, b[i])
		}
	}
	return out
}
