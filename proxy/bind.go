package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
)

var errGone = errors.New("the client has hung up")

// bind opens a port for a peer that the client expects (RFC 1928 section 4,
// BIND), tells the client where, and waits for the peer. Whoever else connects
// is hung up on, and the wait goes on; so is a peer whose address dial does not
// allow.
func (l *life) bind(ctx context.Context, plan *policy.Decision) (*net.TCPConn, error) {
	if err := l.redirect(plan); err != nil {
		return nil, err
	}
	expected, err := l.expected(ctx)
	if err != nil {
		return nil, err
	}
	door := l.proxy.Bind[l.session.Listener]
	at, zone, err := l.bindAt(plan.SourceAddress.Unmap(), expected)
	if err != nil {
		return nil, err
	}
	listener, err := dial.Listen(ctx, at, zone, door.Ports)
	if err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	defer listener.Close()

	bound := netip.AddrPortFrom(at, listener.Addr().(*net.TCPAddr).AddrPort().Port())
	if err := l.dialect.Grant(door.told(bound)); err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	deadline := time.Now().Add(l.proxy.Limits.Bind)
	if err := errors.Join(l.conn.SetDeadline(time.Time{}), listener.SetDeadline(deadline)); err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	waiting, hurry := context.WithCancelCause(ctx)
	defer hurry(nil)
	defer context.AfterFunc(waiting, func() { listener.SetDeadline(time.Unix(1, 0)) })()
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := untilGone(l.reader); err != nil {
			hurry(err)
		}
	})
	peer, err := l.await(waiting, listener, expected)
	l.conn.SetReadDeadline(time.Unix(1, 0))
	watching.Wait()
	if err != nil {
		return nil, err
	}
	l.session.SetAddress(addrPortOf(peer.RemoteAddr()))
	return peer, nil
}

// expected are the addresses that the peer may have; none: any.
func (l *life) expected(ctx context.Context) ([]dial.Address, error) {
	t := &l.facts.Target
	switch {
	case t.Kind == "domain":
		ctx, cancel := context.WithTimeout(ctx, l.proxy.Limits.Dial)
		defer cancel()
		return l.resolve(ctx, t.Host)
	case t.IP.IsUnspecified():
		return nil, nil
	}
	return []dial.Address{{IP: t.IP.Addr}}, nil
}

// bindAt is the local address to listen at: the one that the policy names, or
// else the one from which the peer is reached, or else the one that the client
// has connected to.
func (l *life) bindAt(from netip.Addr, expected []dial.Address) (at netip.Addr, zone string, err error) {
	if from.IsValid() {
		return from, "", nil
	}
	for _, peer := range expected {
		if at, err = dial.LocalFor(peer.IP); err == nil {
			return at.WithZone(""), at.Zone(), nil
		}
	}
	if err != nil {
		return at, "", err
	}
	local := addrPortOf(l.conn.Plain().LocalAddr()).Addr()
	if !local.IsValid() {
		return at, "", errCommand // by a unix socket, for any peer: there is no address to choose
	}
	return local.WithZone(""), local.Zone(), nil
}

// await accepts connections until one is of a peer that is expected and allowed.
func (l *life) await(ctx context.Context, listener *net.TCPListener, expected []dial.Address) (*net.TCPConn, error) {
	l.proxy.Observe.Began(l.observed, "dial")
	var refused error
	for {
		c, err := listener.AcceptTCP()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case refused != nil:
			return nil, refused
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, fmt.Errorf("bind: no peer has come: %w", dial.ErrTimeout)
		default:
			return nil, fmt.Errorf("bind: %w", err)
		}
		ip := addrPortOf(c.RemoteAddr()).Addr().WithZone("")
		if len(expected) > 0 && !slices.ContainsFunc(expected, func(a dial.Address) bool { return a.IP == ip }) {
			c.Close()
			continue
		}
		l.names = namesOf(expected, ip)
		l.facts.Address = addressFacts(dial.Address{IP: ip, Names: l.names})
		d := l.ask(policy.Dial)
		l.proxy.Observe.AddressDecided(l.observed, ip, &l.answer)
		if d.Allowed() {
			return c, nil
		}
		c.Close()
		refused = &refusal{d}
		if len(expected) == 1 {
			return nil, refused
		}
	}
}

// untilGone returns when the client has hung up, or is to be read no more. What
// it has sent until then stays in the reader.
func untilGone(r *bufio.Reader) error {
	for n := r.Buffered() + 1; n <= r.Size(); n = r.Buffered() + 1 {
		if _, err := r.Peek(n); err != nil {
			return fmt.Errorf("%w: %w", errGone, err)
		}
	}
	return nil
}

func addrPortOf(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
