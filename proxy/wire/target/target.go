// Package target brings what a client asked for into one canonical form, so
// that no spelling hides an address: an address in any spelling becomes that
// address, and what is neither a plain address nor a plain name is refused.
package target

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Host is a name or an address; exactly one is set.
type Host struct {
	Name string     // lower-case ASCII, without a trailing dot
	IP   netip.Addr // unmapped, without a zone
}

// Error says why a host is refused.
type Error struct{ Host, Reason string }

func (e *Error) Error() string { return fmt.Sprintf("target %.80q: %s", e.Host, e.Reason) }

// FromIP is the canonical form of a binary address.
func FromIP(ip netip.Addr) Host { return Host{IP: ip.Unmap().WithZone("")} }

// profile maps as browsers do (UTS #46) and leaves underscores alone.
var profile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false))

// Parse reads a host as a client spelled it.
func Parse(host string) (Host, error) {
	refuse := func(reason string) (Host, error) { return Host{}, &Error{host, reason} }
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return refuse("an address with a zone")
		}
		return FromIP(ip), nil
	}
	if !utf8.ValidString(host) {
		return refuse("not UTF-8")
	}
	for _, c := range []byte(host) {
		if c <= ' ' || c == 0x7f || strings.IndexByte("%[]:/@\\", c) >= 0 {
			return refuse("a character that no name has")
		}
	}
	name, err := profile.ToASCII(host)
	if err != nil {
		return refuse("not a valid internationalised name")
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if name == "" || len(name) > 253 {
		return refuse("empty or longer than 253 bytes")
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 {
			return refuse("a label that is empty or longer than 63 bytes")
		}
		for _, c := range []byte(l) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return refuse("a character that no name has")
			}
		}
	}
	if !number(labels[len(labels)-1]) {
		return Host{Name: name}, nil
	}
	// It ends in a number, so that a resolver may take it for an address, as
	// inet_aton(3) does: it is that address or nothing.
	ip, ok := inetAton(labels)
	if !ok {
		return refuse("ends in a number but is no address")
	}
	return Host{IP: ip}, nil
}

func number(label string) bool {
	_, ok := part(label)
	return ok || strings.Trim(label, "0123456789") == ""
}

// part reads decimal, octal (0…) and hexadecimal (0x…).
func part(s string) (uint64, bool) {
	base := 10
	switch {
	case strings.HasPrefix(s, "0x"):
		if s, base = s[2:], 16; s == "" {
			return 0, true
		}
	case len(s) > 1 && s[0] == '0':
		s, base = s[1:], 8
	}
	n, err := strconv.ParseUint(s, base, 64)
	return n, err == nil
}

func inetAton(labels []string) (netip.Addr, bool) {
	if len(labels) > 4 {
		return netip.Addr{}, false
	}
	var ip uint64
	for i, l := range labels {
		n, ok := part(l)
		last := i == len(labels)-1
		bits := 8
		if last {
			bits = 8 * (4 - i)
		}
		if !ok || n >= 1<<bits {
			return netip.Addr{}, false
		}
		ip = ip<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(ip >> 24), byte(ip >> 16), byte(ip >> 8), byte(ip)}), true
}
