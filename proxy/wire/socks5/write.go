package socks5

import (
	"encoding/binary"
	"net/netip"
)

// AppendGreeting offers methods, of which at most the first 255 fit.
func AppendGreeting(b []byte, methods ...Method) []byte {
	methods = methods[:min(len(methods), 255)]
	b = append(b, Version, byte(len(methods)))
	for _, m := range methods {
		b = append(b, byte(m))
	}
	return b
}

// AppendMethod selects a method. After NoAcceptable the server must close.
func AppendMethod(b []byte, m Method) []byte {
	return append(b, Version, byte(m))
}

// AppendCredentials presents a user name and a password. ErrTooLong where one
// does not fit.
func AppendCredentials(b []byte, c Credentials) ([]byte, error) {
	if len(c.Username) > maxString || len(c.Password) > maxString {
		return b, wrap("write credentials", ErrTooLong)
	}
	b = append(b, authVersion, byte(len(c.Username)))
	b = append(b, c.Username...)
	b = append(b, byte(len(c.Password)))
	return append(b, c.Password...), nil
}

// AppendStatus tells how the credentials were taken: 0 is success; after
// anything else the server must close (RFC 1929 section 2).
func AppendStatus(b []byte, status byte) []byte {
	return append(b, authVersion, status)
}

// AppendRequest asks for a request. ErrTooLong for a name that does not fit,
// ErrEmptyName where the address has neither name nor IP.
func AppendRequest(b []byte, r Request) ([]byte, error) {
	switch host := r.Address.Host; {
	case len(host) > maxString:
		return b, wrap("write request", ErrTooLong)
	case host != "":
		b = append(b, Version, byte(r.Command), 0, typeName, byte(len(host)))
		b = append(b, host...)
		return binary.BigEndian.AppendUint16(b, r.Address.Port), nil
	case !r.Address.IP.IsValid():
		return b, wrap("write request", ErrEmptyName)
	}
	b = append(b, Version, byte(r.Command), 0)
	return appendIP(b, r.Address.IP, r.Address.Port), nil
}

// AppendReply answers a request and tells the address that was bound for it.
// An IPv4-mapped address is told as the IPv4 address that it is, an invalid one
// (there is none to tell) as 0.0.0.0:0.
func AppendReply(b []byte, r Reply, bound netip.AddrPort) []byte {
	if !bound.Addr().IsValid() {
		bound = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	b = append(b, Version, byte(r), 0)
	return appendIP(b, bound.Addr().Unmap(), bound.Port())
}

// appendIP writes address type, address and port. A zone has no place there.
func appendIP(b []byte, ip netip.Addr, port uint16) []byte {
	if ip.Is4() {
		v4 := ip.As4()
		b = append(append(b, typeIPv4), v4[:]...)
	} else {
		v6 := ip.As16()
		b = append(append(b, typeIPv6), v6[:]...)
	}
	return binary.BigEndian.AppendUint16(b, port)
}
