// Package target brings what a client asked for into its one canonical form.
//
// It is the wall against spellings that hide an address. A policy that forbids
// 127.0.0.1 must not be passed by 0x7f.1, 2130706433, 127.1, １２７.0.0.1 or
// [::ffff:127.0.0.1], each of which some resolver somewhere takes for that
// address. So every host leaves here either as an address or as a name that no
// parser takes for an address, and nothing but what left here is ever decided
// upon, resolved, dialled or passed on.
//
// Where a spelling means one address, it becomes that address: the decision is
// then about where the connection would go. Where parsers disagree, or where
// the host is neither a name nor an address, it is refused.
//
// target.go has the order of things, address.go the numbers, name.go the names.
package target

import (
	"fmt"
	"net/netip"
	"strings"
)

// Host is the canonical form of a host: a name or an address, never both. The
// zero value is neither.
type Host struct {
	// Name is a domain name of 1 to 253 bytes out of a-z, 0-9, '-', '_' and
	// '.': lower case, IDNA in its ASCII form, no trailing dot.
	Name string
	// IP has no zone, and is never an IPv4-mapped IPv6 address.
	IP netip.Addr
}

// String is the host as Parse would take it again.
func (h Host) String() string {
	if h.IP.IsValid() {
		return h.IP.String()
	}
	return h.Name
}

// FromIP is the host of an address that came in binary form. A zone is dropped,
// since no protocol here can carry one.
func FromIP(ip netip.Addr) Host {
	return Host{IP: ip.Unmap().WithZone("")}
}

// Error says why a host was refused. Its message quotes the host, so that no
// byte of it can forge a line in a log.
type Error struct {
	Host   string // as the client sent it: any bytes at all
	Reason string
}

func (e *Error) Error() string {
	const enough = 80
	if len(e.Host) > enough {
		return fmt.Sprintf("host %q… refused: %s", e.Host[:enough], e.Reason)
	}
	return fmt.Sprintf("host %q refused: %s", e.Host, e.Reason)
}

// longest bounds the work on one host. The longest name has 253 letters, and
// one letter takes at most four bytes before it is mapped.
const longest = 4 * 254

// Parse brings a host, with no port, into canonical form. An error is always an
// *Error.
//
// IPv6 addresses are taken with and without brackets; a zone is refused, since
// its meaning is local to the client. IPv4 addresses are taken as inet_aton
// takes them. One trailing dot is dropped.
func Parse(host string) (Host, error) {
	h, reason := parse(host)
	if reason != "" {
		return Host{}, &Error{Host: host, Reason: reason}
	}
	return h, nil
}

// parse returns a reason instead of an error.
func parse(host string) (Host, string) {
	if len(host) > longest {
		return Host{}, "too long"
	}
	if strings.Contains(host, ":") {
		return parseIPv6(host)
	}
	name, reason := mapped(host)
	if reason != "" {
		return Host{}, reason
	}
	// Only now: what IDNA maps to a digit or a dot counts as one.
	name = strings.TrimSuffix(name, ".")
	if endsInNumber(name) {
		return parseIPv4(name)
	}
	return checkName(name)
}
