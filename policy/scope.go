package policy

import (
	"encoding/binary"
	"net/netip"
)

// Scope is the part of the address space that an address belongs to.
type Scope string

// The scopes, worst first. An address that carries another inside itself takes
// the worse of the two.
const (
	ScopeMetadata    Scope = "metadata"    // where clouds keep their instance credentials
	ScopeLoopback    Scope = "loopback"    // RFC 1122, RFC 4291
	ScopeLinkLocal   Scope = "link_local"  // RFC 3927, RFC 4291
	ScopePrivate     Scope = "private"     // RFC 1918, RFC 4193, RFC 3879
	ScopeShared      Scope = "shared"      // RFC 6598, carrier-grade NAT
	ScopeUnspecified Scope = "unspecified" // RFC 1122 "this network", which Linux takes for itself
	ScopeMulticast   Scope = "multicast"   // RFC 5771, RFC 4291
	ScopeReserved    Scope = "reserved"    // IANA's special-purpose ranges, and IPv6 outside 2000::/3
	ScopePublic      Scope = "public"
)

// Scopes lists the scopes, worst first.
func Scopes() []Scope {
	return []Scope{
		ScopeMetadata, ScopeLoopback, ScopeLinkLocal, ScopePrivate, ScopeShared,
		ScopeUnspecified, ScopeMulticast, ScopeReserved, ScopePublic,
	}
}

type scopeRange struct {
	prefix netip.Prefix
	scope  Scope
}

func ranges(scope Scope, prefixes ...string) []scopeRange {
	out := make([]scopeRange, len(prefixes))
	for i, p := range prefixes {
		out[i] = scopeRange{netip.MustParsePrefix(p), scope}
	}
	return out
}

func concat(parts ...[]scopeRange) []scopeRange {
	var out []scopeRange
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// The first range that holds an address names its scope, so the narrow and the
// worse come first. Sources: the IANA IPv4 and IPv6 Special-Purpose Address
// Registries (RFC 6890), and the clouds' own documentation for metadata.
var (
	scopes4 = concat(
		ranges(ScopeMetadata,
			"169.254.169.254/32", // AWS, Azure, GCP, OpenStack, DigitalOcean, Oracle
			"169.254.169.253/32", // AWS: resolver and time
			"169.254.169.123/32", // AWS: time
			"169.254.170.2/32",   // AWS ECS: task credentials
			"169.254.170.23/32",  // AWS EKS: pod identity
			"169.254.0.23/32",    // Tencent
			"169.254.10.10/32",   // Tencent
			"100.100.100.200/32", // Alibaba
			"192.0.0.192/32",     // Oracle, classic
			"168.63.129.16/32",   // Azure: host node, a public address
		),
		ranges(ScopeLoopback, "127.0.0.0/8"),
		ranges(ScopeLinkLocal, "169.254.0.0/16"),
		ranges(ScopePrivate, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
		ranges(ScopeShared, "100.64.0.0/10"),
		ranges(ScopeUnspecified, "0.0.0.0/8"),
		ranges(ScopeMulticast, "224.0.0.0/4"),
		ranges(ScopeReserved,
			"192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24",
			"192.88.99.0/24", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
			"203.0.113.0/24", "240.0.0.0/4",
		),
		ranges(ScopePublic, "0.0.0.0/0"),
	)
	scopes6 = concat(
		ranges(ScopeMetadata,
			"fd00:ec2::254/128", // AWS
			"fd00:ec2::253/128", // AWS: resolver
			"fd00:ec2::123/128", // AWS: time
			"fd00:ec2::23/128",  // AWS EKS: pod identity
			"fd20:ce::254/128",  // GCP
		),
		ranges(ScopeLoopback, "::1/128"),
		ranges(ScopeLinkLocal, "fe80::/10"),
		ranges(ScopePrivate, "fc00::/7", "fec0::/10"),
		ranges(ScopeUnspecified, "::/128"),
		ranges(ScopeMulticast, "ff00::/8"),
		ranges(ScopeReserved,
			"2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
		),
		ranges(ScopePublic, "2000::/3"),
		ranges(ScopeReserved, "::/0"),
	)

	compatible = netip.MustParsePrefix("::/96")           // RFC 4291 §2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765 §2.1
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
)

// ScopeOf classifies an address; the zero Addr has no scope (""). An
// IPv4-mapped address is the IPv4 address that it maps, since that is where a
// connection to it goes.
func ScopeOf(ip netip.Addr) Scope {
	if !ip.IsValid() {
		return ""
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return first(scopes4, ip)
	}
	scope := first(scopes6, ip)
	for _, inner := range embedded(ip) {
		if inner.IsValid() {
			scope = worse(scope, first(scopes4, inner))
		}
	}
	return scope
}

func first(table []scopeRange, ip netip.Addr) Scope {
	for i := range table {
		if table[i].prefix.Contains(ip) {
			return table[i].scope
		}
	}
	return ScopeReserved
}

func worse(a, b Scope) Scope {
	for _, s := range Scopes() {
		if s == a || s == b {
			return s
		}
	}
	return a
}

// embedded finds the IPv4 addresses inside an IPv6 address. Unused places are
// the zero Addr.
func embedded(ip netip.Addr) (inner [2]netip.Addr) {
	b := ip.As16()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }
	switch {
	case ip == netip.IPv6Unspecified() || ip.IsLoopback(): // within ::/96, but not compatible addresses
	case compatible.Contains(ip), translated.Contains(ip), nat64.Contains(ip):
		inner[0] = at(12)
	case nat64Local.Contains(ip):
		// The operator's prefix may be a /48, whose IPv4 bits go around the
		// byte that RFC 6052 §2.2 leaves zero, or a /96 within it.
		inner[0] = netip.AddrFrom4([4]byte{b[6], b[7], b[9], b[10]})
		inner[1] = at(12)
	case sixToFour.Contains(ip):
		inner[0] = at(2)
	case teredo.Contains(ip):
		inner[0] = at(4) // the server
		var client [4]byte
		binary.BigEndian.PutUint32(client[:], ^binary.BigEndian.Uint32(b[12:]))
		inner[1] = netip.AddrFrom4(client)
	}
	return inner
}
