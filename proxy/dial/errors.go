package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Why a name could not be looked up. The errors wrap what the resolver said.
// A look-up that was called off is none of these but a context.Canceled.
var (
	ErrUnresolved     = errors.New("the name does not resolve") // there is no such name, or it has no address
	ErrResolveTimeout = errors.New("the look-up timed out")
	ErrResolveFailed  = errors.New("the look-up failed") // no server gave a usable answer
)

// Why no connection came about, the most telling first: the further an attempt
// came, the more its failure says about the target. The errors wrap what the
// system said. A dial that was called off is none of these but a
// context.Canceled, and neither is a want of descriptors or memory.
var (
	ErrRefused            = errors.New("the target refused the connection")
	ErrTimeout            = errors.New("the connection timed out")
	ErrHostUnreachable    = errors.New("the host is unreachable")
	ErrNetworkUnreachable = errors.New("the network is unreachable")
	ErrSource             = errors.New("the local address cannot be used")
)

// classify puts one of the errors above in front of what net.Dialer returned.
func classify(err error, from netip.Addr) error {
	var class error
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("dial: %w", err)
	case errors.As(err, &timeout) && timeout.Timeout():
		class = ErrTimeout
	case errors.As(err, &errno):
		class = classOf(errno, from.IsValid())
	}
	if class == nil {
		return fmt.Errorf("dial: %w", err)
	}
	return fmt.Errorf("%w: %w", class, err)
}

func classOf(errno syscall.Errno, pinned bool) error {
	switch errno {
	case syscall.ECONNREFUSED, syscall.ECONNRESET:
		return ErrRefused
	case syscall.EHOSTUNREACH, syscall.EHOSTDOWN:
		return ErrHostUnreachable
	case syscall.EADDRNOTAVAIL: // not of this machine, or no port of it is left
		return ErrSource
	case syscall.EINVAL: // a loopback source cannot leave; or a route of type blackhole
		if pinned {
			return ErrSource
		}
		return ErrNetworkUnreachable
	case syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EAFNOSUPPORT,
		syscall.EACCES, syscall.EPERM: // a route of type prohibit, the local packet filter
		return ErrNetworkUnreachable
	}
	return nil
}

// moreTelling returns whichever of two failures says more, a if both say as
// much. That the dial was called off says most.
func moreTelling(a, b error) error {
	if a == nil {
		return b
	}
	for _, class := range []error{context.Canceled, ErrRefused, ErrTimeout, ErrHostUnreachable, ErrNetworkUnreachable, ErrSource} {
		if errors.Is(a, class) {
			return a
		}
		if errors.Is(b, class) {
			return b
		}
	}
	return a
}

// classifyLookup puts an error of a look-up in front of what net.Resolver
// returned.
func classifyLookup(ctx context.Context, err error) error {
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("look up: %w: %w", context.Canceled, err)
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Errorf("%w: %w", ErrUnresolved, err)
	case errors.As(err, &dns) && dns.IsTimeout, ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrResolveTimeout, err)
	}
	return fmt.Errorf("%w: %w", ErrResolveFailed, err)
}
