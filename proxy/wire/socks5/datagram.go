package socks5

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// ErrShort is a datagram that ends within its header.
var ErrShort = errors.New("the datagram ends within its header")

// MaxReplyHeader is the most that AppendDatagramHeader adds: that of an IPv6
// address.
const MaxReplyHeader = 4 + 16 + 2

// Datagram is what travels between a client and a UDP relay (RFC 1928 section
// 7). Either Name or IP is set.
type Datagram struct {
	Fragment byte       // 0: not a fragment
	Name     []byte     // domain name of 1 to 255 bytes, as sent: any bytes at all
	IP       netip.Addr // literal, as sent: an IPv4-mapped IPv6 address stays one
	Port     uint16
	Data     []byte
}

// ParseDatagram reads a datagram. Name and Data are parts of b.
//
// The reserved bytes are not looked at, like that of a request. Errors are bare,
// since whoever floods a relay must not cost it memory.
func ParseDatagram(b []byte) (Datagram, error) {
	if len(b) < 4 {
		return Datagram{}, ErrShort
	}
	d, kind, rest := Datagram{Fragment: b[2]}, b[3], b[4:]
	length := 0
	switch kind {
	case typeIPv4:
		length = 4
	case typeIPv6:
		length = 16
	case typeName:
		if len(rest) == 0 {
			return Datagram{}, ErrShort
		}
		if length, rest = int(rest[0]), rest[1:]; length == 0 {
			return Datagram{}, ErrEmptyName
		}
	default:
		return Datagram{}, ErrAddressType
	}
	if len(rest) < length+2 {
		return Datagram{}, ErrShort
	}
	host := rest[:length]
	if kind == typeName {
		d.Name = host
	} else {
		d.IP, _ = netip.AddrFromSlice(host) // of the right length
	}
	d.Port = binary.BigEndian.Uint16(rest[length:])
	d.Data = rest[length+2:]
	return d, nil
}

// AppendDatagram writes a datagram. ErrTooLong for a name that does not fit,
// ErrEmptyName where there is neither name nor IP.
func AppendDatagram(b []byte, d Datagram) ([]byte, error) {
	switch {
	case len(d.Name) > maxString:
		return b, wrap("write datagram", ErrTooLong)
	case len(d.Name) > 0:
		b = append(b, 0, 0, d.Fragment, typeName, byte(len(d.Name)))
		b = append(b, d.Name...)
		b = binary.BigEndian.AppendUint16(b, d.Port)
	case d.IP.IsValid():
		b = appendIP(append(b, 0, 0, d.Fragment), d.IP, d.Port)
	default:
		return b, wrap("write datagram", ErrEmptyName)
	}
	return append(b, d.Data...), nil
}

// AppendDatagramHeader writes what a relay puts before a datagram from a peer.
// An IPv4-mapped address is told as the IPv4 address that it is.
func AppendDatagramHeader(b []byte, from netip.AddrPort) []byte {
	return appendIP(append(b, 0, 0, 0), from.Addr().Unmap(), from.Port())
}
