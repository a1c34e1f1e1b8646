package policy

import (
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The types below are the leaves of [Facts] that are more than a string, a
// number or a list: each says by its type how a fact is shown to a policy.
// Beside them a leaf may be a string or a named string, a bool, an int64, a
// []string, a map of strings to strings, to []string or to structs of facts.

// Minute is a time in nanoseconds since 1970, truncated to the minute, so that
// two decisions within a minute have equal facts.
type Minute int64

// MinuteOf truncates t.
func MinuteOf(t time.Time) Minute { return Minute(t.Truncate(time.Minute).UnixNano()) }

// IP is shown as text; the zero value as "".
type IP struct{ netip.Addr }

// Text is the address as a policy sees it.
func (ip IP) Text() string {
	if !ip.IsValid() {
		return ""
	}
	return ip.String()
}

// Prefixes is an address, shown as the list of CIDR prefixes that hold it,
// longest first: of IPv4 every length from 32 to 0, of IPv6 128 and every
// length from 64 to 0. The zero value is shown as [].
type Prefixes struct{ netip.Addr }

// Each calls yield with each prefix, longest first.
func (p Prefixes) Each(yield func(netip.Prefix) bool) {
	if !p.IsValid() {
		return
	}
	top := 32
	if p.Is6() {
		if !yield(netip.PrefixFrom(p.Addr, 128)) {
			return
		}
		top = 64
	}
	for bits := top; bits >= 0; bits-- {
		prefix, err := p.Prefix(bits)
		if err != nil || !yield(prefix) {
			return
		}
	}
}

// Suffixes is a domain name, shown as the list of itself and each of its
// parents. The zero value is shown as [].
type Suffixes string

// Each calls yield with each suffix, longest first.
func (s Suffixes) Each(yield func(string) bool) {
	rest := string(s)
	for rest != "" {
		if !yield(rest) {
			return
		}
		rest = parent(rest)
	}
}

func parent(name string) string {
	for i := range len(name) {
		if name[i] == '.' {
			return name[i+1:]
		}
	}
	return ""
}

// Headers are the fields of an HTTP request by their names in lower case, shown
// without those that carry secrets, Authorization, Proxy-Authorization and
// Cookie, and with U+FFFD for bytes that are no UTF-8. They are taken apart only
// where a rule reads them, and never written to once they are a fact.
type Headers map[string][]string

// Each calls yield with each field that is shown, in no order. The values are not
// to be written to.
func (h Headers) Each(yield func(name string, values []string) bool) {
	for name, values := range h {
		switch name {
		case "authorization", "proxy-authorization", "cookie":
			continue
		}
		for i := range values {
			if utf8.ValidString(values[i]) {
				continue
			}
			values = slices.Clone(values)
			for ; i < len(values); i++ {
				values[i] = strings.ToValidUTF8(values[i], "\uFFFD")
			}
			break
		}
		if !yield(name, values) {
			return
		}
	}
}

// Attributes is a JSON object of the user directory or of a decision: its
// values are nil, bool, string, json.Number, float64, []any and map[string]any.
// It is never written to once it is a fact.
type Attributes map[string]any

// Family is an address family: ipv4, ipv6, or empty.
type Family string

// FamilyOf names the family of an address.
func FamilyOf(ip netip.Addr) Family {
	switch {
	case !ip.IsValid():
		return ""
	case ip.Unmap().Is4():
		return "ipv4"
	default:
		return "ipv6"
	}
}
