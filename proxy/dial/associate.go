package dial

import (
	"net"
	"net/netip"
	"slices"

	"sallyport/proxy/wire/socks5"
)

// associateRequest asks for a relay of datagrams, from wherever this side will send
// them: the port is not known yet.
var associateRequest = socks5.Request{Command: socks5.Associate, Address: socks5.Address{IP: netip.IPv4Unspecified()}}

// takesPackets tells whether a way may be one of datagrams. They do not go the way
// of a connection: through several hops each would have to be sent what the next
// one is to be sent, and would have to reach a relay whose client is another.
func (c *chain) takesPackets() error {
	switch {
	case len(c.hops) > 1:
		return &hopAnswer{failure: HopNoUDP, asked: true, detail: "datagrams go through a single upstream"}
	case c.hops[0].Protocol != SOCKS5:
		return &hopAnswer{failure: HopNoUDP, asked: true, detail: "only SOCKS5 relays datagrams"}
	}
	return nil
}

// bindRelay takes in where a hop wants its datagrams. That is at its own address,
// whether it says so or leaves it out, or at one that the configuration knows of: one
// that could name any other would have this machine send to where no policy was asked
// about.
func (c *chain) bindRelay(hop *Hop, bound socks5.Address) error {
	own := c.conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	ip := bound.IP.Unmap()
	if bound.Host == "" && (ip.IsUnspecified() || ip == own.WithZone("")) {
		ip = own
	}
	switch {
	case bound.Port == 0:
		return &hopAnswer{failure: HopMalformed, detail: "its relay has no port"}
	case ip == own:
	case !hop.relaysAt(ip) || ip.Is4() != own.Is4():
		return &hopAnswer{failure: HopMalformed, detail: "its relay is at another address than it is itself, which its udp_relays do not have"}
	}
	c.bound = netip.AddrPortFrom(ip, bound.Port)
	return nil
}

// relaysAt tells whether the configuration knows of relays at an address, which may
// be none.
func (h *Hop) relaysAt(ip netip.Addr) bool {
	return slices.ContainsFunc(h.Relays, func(network netip.Prefix) bool { return network.Contains(ip) })
}
