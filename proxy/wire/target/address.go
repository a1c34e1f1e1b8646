package target

import (
	"net/netip"
	"strconv"
	"strings"
)

// parseIPv6 takes what has a colon, which no name has.
func parseIPv6(host string) (Host, string) {
	bare := host
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if bare, ok = strings.CutSuffix(inner, "]"); !ok {
			return Host{}, "not an IPv6 address"
		}
	}
	ip, err := netip.ParseAddr(bare)
	switch {
	case err != nil:
		return Host{}, "not an IPv6 address"
	case ip.Zone() != "":
		return Host{}, "IPv6 zone"
	}
	return FromIP(ip), ""
}

// endsInNumber reports whether the last label is a number, so that the host is
// an IPv4 address or nothing. It is the rule of the WHATWG URL Standard ("ends
// in a number checker"); no top-level domain is a number.
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// parseIPv4 reads an address as inet_aton does: one to four numbers, each
// decimal, octal (0…) or hexadecimal (0x…), of which the last fills all the
// bytes that are left. What inet_aton refuses is refused, and so is a bare
// "0x", which some take for zero. The name is in lower case.
func parseIPv4(name string) (Host, string) {
	parts := strings.Split(name, ".")
	if len(parts) > 4 {
		return Host{}, "not an IPv4 address"
	}
	var address uint32
	for i, part := range parts {
		n, err := strconv.ParseUint(digits(part))
		left := 8 * (4 - i) // bits that are not filled yet
		if i < len(parts)-1 {
			if err != nil || n > 0xff {
				return Host{}, "not an IPv4 address"
			}
			address |= uint32(n) << (left - 8)
			continue
		}
		if err != nil || n >= 1<<left {
			return Host{}, "not an IPv4 address"
		}
		address |= uint32(n)
	}
	return Host{IP: netip.AddrFrom4([4]byte{
		byte(address >> 24), byte(address >> 16), byte(address >> 8), byte(address),
	})}, ""
}

// digits splits the prefix that tells the base from a number, as the three
// arguments of ParseUint. 34 bits are enough to see an overflow.
func digits(part string) (number string, base, bits int) {
	switch {
	case strings.HasPrefix(part, "0x"):
		return part[2:], 16, 34
	case len(part) > 1 && part[0] == '0':
		return part[1:], 8, 34
	}
	return part, 10, 34
}
