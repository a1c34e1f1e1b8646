package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// Why a name could not be looked up: the classes of a [LookupError]. A look-up
// that was called off is none of these but a context.Canceled.
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

// LookupError is why a name has no address.
type LookupError struct {
	// Outcome is a word for it: nxdomain, nodata or invalid where there is none to
	// find; servfail, refused, failed (another code), malformed, unreachable or
	// timeout where no server gave a usable answer.
	Outcome string

	class  error  // one of the errors above
	server string // who says so; "" where no server was asked
	text   string
}

func (e *LookupError) Error() string {
	text := e.class.Error() + ": " + e.text
	if e.server != "" {
		text += " (" + e.server + ")"
	}
	return text
}

// Unwrap is the class alone: what went wrong on the way to a server is told in
// words, lest it is taken for what the client did.
func (e *LookupError) Unwrap() error { return e.class }

// rank orders failures by how much they say, once that a family has no address
// is set aside: it says least, since the other may have some.
func (e *LookupError) rank() int {
	return slices.Index([]string{"nodata", "unreachable", "timeout", "malformed", "failed", "refused", "servfail", "nxdomain"}, e.Outcome)
}

func noAddress() *LookupError { return unresolved("nodata", "has no address of this family (NODATA)") }

func unresolved(outcome, text string) *LookupError {
	return &LookupError{Outcome: outcome, class: ErrUnresolved, text: "it " + text}
}
