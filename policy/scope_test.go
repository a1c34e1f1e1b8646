package policy

import (
	"net/netip"
	"strings"
	"testing"
)

// TestScope holds addresses of every range, with both of its ends and its
// neighbours, against their scope.
func TestScope(t *testing.T) {
	for want, addresses := range map[Scope]string{
		ScopeMetadata: `169.254.169.254 169.254.169.253 169.254.169.123 169.254.170.2 169.254.170.23
			169.254.0.23 169.254.10.10 100.100.100.200 192.0.0.192 168.63.129.16
			fd00:ec2::254 fd00:ec2::253 fd00:ec2::123 fd00:ec2::23 fd20:ce::254
			::ffff:169.254.169.254 ::169.254.169.254 64:ff9b::169.254.169.254 64:ff9b::a9fe:a9fe
			::ffff:0:a9fe:a9fe 2002:a9fe:a9fe:: 64:ff9b:1:a9fe:a9:fe00:: 64:ff9b:1::a9fe:a9fe
			2001:0:a9fe:a9fe:: 2001:0:808:808:0:0:5601:5601`,
		ScopeLoopback: `127.0.0.0 127.0.0.1 127.0.0.2 127.1.2.3 127.255.255.255 ::1 ::ffff:127.0.0.1
			::127.0.0.1 64:ff9b::127.0.0.1 2002:7f00:1:: 2002:7f00:1::1 64:ff9b:1:7f00:0:100::
			64:ff9b:1::7f00:1 ::ffff:0:7f00:1 2001:0:7f00:1::`,
		ScopeLinkLocal: `169.254.0.0 169.254.0.1 169.254.0.22 169.254.0.24 169.254.169.252 169.254.169.255
			169.254.255.255 fe80:: fe80::1 fe80::a9fe:a9fe febf:ffff::1 ::ffff:169.254.1.1 2002:a9fe:101::
			64:ff9b::169.254.1.1`,
		ScopePrivate: `10.0.0.0 10.0.0.1 10.255.255.255 172.16.0.0 172.16.0.1 172.31.255.255
			192.168.0.0 192.168.1.1 192.168.255.255 fc00:: fc00::1 fd00::1 fdff:ffff::1 fd00:ec2::1
			fd20:ce::1 fec0:: fec0::1 feff:ffff::1 ::ffff:10.0.0.1 ::10.0.0.1 ::192.168.1.1
			64:ff9b::10.0.0.1 64:ff9b::c0a8:101 2002:a00:1:: 2002:c0a8:101::1 2001:0:a00:1::
			64:ff9b:1:a00:0:100:: 64:ff9b:1::a00:1 ::ffff:0:a00:1 2001:0:808:808:0:0:f5ff:fffe`,
		ScopeShared: `100.64.0.0 100.64.0.1 100.100.100.199 100.100.100.201 100.127.255.255
			::ffff:100.64.0.1 64:ff9b::100.64.0.1 2002:6440:1::`,
		ScopeUnspecified: `0.0.0.0 0.0.0.1 0.1.2.3 0.255.255.255 :: ::ffff:0.0.0.0 ::0.0.0.2 64:ff9b::
			2002:: 64:ff9b:1:: ::ffff:0:0:0`,
		ScopeMulticast: `224.0.0.0 224.0.0.1 239.255.255.250 239.255.255.255 ff00:: ff02::1 ff0e::1 ffff::1
			::ffff:224.0.0.1 64:ff9b::e000:1 2002:e000:1::`,
		ScopeReserved: `192.0.0.0 192.0.0.1 192.0.0.8 192.0.0.9 192.0.0.10 192.0.0.170 192.0.0.191 192.0.0.193
			192.0.0.255 192.0.2.0 192.0.2.1 192.0.2.255 192.31.196.1 192.52.193.1 192.88.99.1 192.88.99.2
			192.175.48.1 198.18.0.0 198.18.0.1 198.19.255.255 198.51.100.0 198.51.100.255 203.0.113.0
			203.0.113.255 240.0.0.0 240.0.0.1 250.1.2.3 255.255.255.254 255.255.255.255
			2001:1::1 2001:2::1 2001:3::1 2001:4:112::1 2001:10::1 2001:20::1 2001:30::1 2001:1ff:ffff::
			2001:db8:: 2001:db8::1 2001:db8:ffff::1 2620:4f:8000::1 3fff:: 3fff::1 3fff:fff::1
			2002:808:808:: 2002:101:101::1 64:ff9b::808:808 64:ff9b::101:101 64:ff9b:1:808:8:800:808:808
			::ffff:0:808:808 ::8.8.8.8 100::1 100:0:0:1::1 5f00::1 4000::1 6000::1 8000::1 a000::1 c000::1
			e000::1 f000::1 f800::1 fe00::1 fe7f::1 200::1 400::1 1000::1 1fff:ffff::1 ::ffff:203.0.113.1
			2001:0:808:808:0:0:f7f7:f7f7`,
		ScopePublic: `1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0
			126.255.255.255 128.0.0.0 168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255
			172.32.0.0 191.255.255.255 192.0.1.0 192.0.1.255 192.0.3.0 192.88.98.255 192.88.100.0
			192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255
			203.0.114.0 223.255.255.255 ::ffff:8.8.8.8 ::ffff:1.1.1.1 2000::1 2001:200::1 2001:4860:4860::8888
			2001:db7:ffff::1 2001:db9::1 2003::1 2400:cb00::1 2606:4700:4700::1111 2620:4f:7fff::1
			2620:4f:8001::1 2a00:1450::1 3000::1 3ffe:ffff::1 3fff:1000::1`,
	} {
		for _, s := range strings.Fields(addresses) {
			ip, err := netip.ParseAddr(s)
			if err != nil { // a shorthand of the table that is none
				t.Errorf("%s: %v", s, err)
				continue
			}
			if got := ScopeOf(ip); got != want {
				t.Errorf("%s is %s, want %s", s, got, want)
			}
			if got := ScopeOf(ip.WithZone("eth0")); ip.Is6() && got != want {
				t.Errorf("%s with a zone is %s, want %s", s, got, want)
			}
		}
	}
	if got := ScopeOf(netip.Addr{}); got != "" {
		t.Errorf("no address is %q", got)
	}
}

// TestScopeOfEmbedded: every way to write an IPv4 address into an IPv6 one is
// at least as bad as the address itself.
func TestScopeOfEmbedded(t *testing.T) {
	forms := map[string]func(v4 [4]byte) [16]byte{
		"mapped":     func(v [4]byte) [16]byte { return [16]byte{10: 0xff, 11: 0xff, 12: v[0], 13: v[1], 14: v[2], 15: v[3]} },
		"compatible": func(v [4]byte) [16]byte { return [16]byte{12: v[0], 13: v[1], 14: v[2], 15: v[3]} },
		"translated": func(v [4]byte) [16]byte {
			return [16]byte{8: 0xff, 9: 0xff, 12: v[0], 13: v[1], 14: v[2], 15: v[3]}
		},
		"nat64": func(v [4]byte) [16]byte {
			return [16]byte{1: 0x64, 2: 0xff, 3: 0x9b, 12: v[0], 13: v[1], 14: v[2], 15: v[3]}
		},
		"local nat64 /48": func(v [4]byte) [16]byte {
			return [16]byte{1: 0x64, 2: 0xff, 3: 0x9b, 5: 1, 6: v[0], 7: v[1], 9: v[2], 10: v[3]}
		},
		"local nat64 /96": func(v [4]byte) [16]byte {
			return [16]byte{1: 0x64, 2: 0xff, 3: 0x9b, 5: 1, 6: 8, 7: 8, 9: 8, 10: 8, 12: v[0], 13: v[1], 14: v[2], 15: v[3]}
		},
		"6to4": func(v [4]byte) [16]byte { return [16]byte{0: 0x20, 1: 2, 2: v[0], 3: v[1], 4: v[2], 5: v[3], 15: 1} },
		"teredo server": func(v [4]byte) [16]byte {
			return [16]byte{0: 0x20, 1: 1, 4: v[0], 5: v[1], 6: v[2], 7: v[3], 12: 0xf7, 13: 0xf7, 14: 0xf7, 15: 0xf7}
		},
		"teredo client": func(v [4]byte) [16]byte {
			return [16]byte{0: 0x20, 1: 1, 4: 8, 5: 8, 6: 8, 7: 8, 12: ^v[0], 13: ^v[1], 14: ^v[2], 15: ^v[3]}
		},
	}
	rank := map[Scope]int{}
	for i, s := range Scopes() {
		rank[s] = i
	}
	n := 0
	for a := 0; a < 256; a++ {
		for _, rest := range [][3]byte{{0, 0, 0}, {0, 0, 1}, {16, 0, 1}, {64, 1, 1}, {168, 1, 1}, {254, 169, 254}, {63, 129, 16}, {255, 255, 255}} {
			v4 := [4]byte{byte(a), rest[0], rest[1], rest[2]}
			inner := ScopeOf(netip.AddrFrom4(v4))
			for name, form := range forms {
				outer := ScopeOf(netip.AddrFrom16(form(v4)))
				// :: and ::1 are no compatible addresses.
				if name == "compatible" && a == 0 && (rest == [3]byte{} || rest == [3]byte{0, 0, 1}) {
					continue
				}
				if rank[outer] > rank[inner] {
					t.Errorf("%s %v is %s, but the address is %s", name, netip.AddrFrom4(v4), outer, inner)
				}
				n++
			}
		}
	}
	if n < 10000 {
		t.Errorf("%d forms tried", n)
	}
}
