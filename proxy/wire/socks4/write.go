package socks4

import (
	"encoding/binary"
	"net/netip"
	"strings"
)

// AppendRequest asks for a request: by name in the form of 4A, with the address
// 0.0.0.1. The error is ErrTooLong, ErrNUL, or ErrAddress where the address is no
// IPv4 address or one that would be read as the mark of a name.
func AppendRequest(b []byte, r Request) ([]byte, error) {
	if len(r.UserID) > MaxString || len(r.Address.Host) > MaxString {
		return b, wrap("write request", ErrTooLong)
	}
	if strings.Contains(r.UserID, "\x00") || strings.Contains(r.Address.Host, "\x00") {
		return b, wrap("write request", ErrNUL)
	}
	ip := [4]byte{0, 0, 0, 1}
	if r.Address.Host == "" {
		if plain := r.Address.IP.Unmap(); plain.Is4() {
			ip = plain.As4()
		}
		if !r.Address.IP.IsValid() || marksName(ip) {
			return b, wrap("write request", ErrAddress)
		}
	}
	b = append(b, Version, byte(r.Command))
	b = binary.BigEndian.AppendUint16(b, r.Address.Port)
	b = append(b, ip[:]...)
	b = append(append(b, r.UserID...), 0)
	if r.Address.Host != "" {
		b = append(append(b, r.Address.Host...), 0)
	}
	return b, nil
}

// AppendReply answers a request and tells the address that was bound for it. One
// that is no IPv4 address cannot be told: then it is 0.0.0.0, and the port alone.
func AppendReply(b []byte, r Reply, bound netip.AddrPort) []byte {
	var ip [4]byte
	if plain := bound.Addr().Unmap(); plain.Is4() {
		ip = plain.As4()
	}
	b = append(b, 0, byte(r))
	b = binary.BigEndian.AppendUint16(b, bound.Port())
	return append(b, ip[:]...)
}
