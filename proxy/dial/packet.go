package dial

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
)

// Ports is a range of local ports. The zero value leaves the choice to the
// system.
type Ports struct{ First, Last uint16 }

// ErrNoPort is that every port of a range is taken.
var ErrNoPort = errors.New("no port of the range is free")

// ListenPacket opens a UDP socket at a local address; one that is not specified
// stands for every address of its own family.
func ListenPacket(at netip.Addr, zone string, ports Ports) (*net.UDPConn, error) {
	network := "udp4"
	if at.Is6() {
		network = "udp6"
	}
	return inRange(ports, func(port uint16) (*net.UDPConn, error) {
		return net.ListenUDP(network, &net.UDPAddr{IP: at.AsSlice(), Zone: zone, Port: int(port)})
	})
}

// Listen opens a TCP socket, like ListenPacket. Its connections are as those of
// Dial.
func Listen(ctx context.Context, at netip.Addr, zone string, ports Ports) (*net.TCPListener, error) {
	network := "tcp4"
	if at.Is6() {
		network = "tcp6"
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	lc.SetMultipathTCP(false) // the relay's splice needs plain TCP
	return inRange(ports, func(port uint16) (*net.TCPListener, error) {
		l, err := lc.Listen(ctx, network, netip.AddrPortFrom(at.WithZone(zone), port).String())
		if err != nil {
			return nil, err
		}
		return l.(*net.TCPListener), nil
	})
}

// inRange tries the ports of a range, from any of them on.
func inRange[C any](ports Ports, listen func(port uint16) (C, error)) (C, error) {
	if ports == (Ports{}) {
		c, err := listen(0)
		if err != nil {
			return c, localError(err)
		}
		return c, nil
	}
	count := int(ports.Last) - int(ports.First) + 1
	start := rand.IntN(count)
	for i := range count {
		c, err := listen(ports.First + uint16((start+i)%count))
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return c, localError(err)
		}
	}
	var none C
	return none, fmt.Errorf("%w: %d to %d", ErrNoPort, ports.First, ports.Last)
}

func localError(err error) error {
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	return fmt.Errorf("listen: %w", err)
}

// LocalFor is the local address from which packets to another leave. Nothing is
// sent.
func LocalFor(to netip.Addr) (netip.Addr, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.Unmap(), 9)))
	if err != nil {
		return netip.Addr{}, classify(err, netip.Addr{})
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}
