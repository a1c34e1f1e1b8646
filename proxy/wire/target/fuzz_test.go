package target

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// readsAsAddress is the most lenient reader of IPv4 addresses that there could
// be: any count of numbers, any base and size, digits that do not fit the base,
// "0x" for zero, and empty parts for zero. It shares no code with the package.
func readsAsAddress(s string) bool {
	number := false
	for _, part := range strings.Split(strings.ToLower(s), ".") {
		if part == "" {
			continue
		}
		set := "0123456789"
		if strings.HasPrefix(part, "0x") {
			part, set = part[2:], "0123456789abcdef"
		}
		for _, c := range part {
			if !strings.ContainsRune(set, c) {
				return false
			}
		}
		number = true
	}
	return number
}

// check holds what every host that left Parse must be.
func check(t *testing.T, asked string, h Host) {
	t.Helper()
	if (h.Name != "") == h.IP.IsValid() {
		t.Fatalf("Parse(%q) = %#v: both or neither of name and IP", asked, h)
	}
	if again, err := Parse(h.String()); err != nil || again != h {
		t.Fatalf("Parse(%q) = %v, but again %v, %v", asked, h, again, err)
	}
	if h.IP.IsValid() {
		if h.IP.Is4In6() || h.IP.Zone() != "" {
			t.Fatalf("Parse(%q) = %v: mapped or with a zone", asked, h)
		}
		return
	}
	if strings.HasSuffix(h.Name, ".") || len(h.Name) > 253 {
		t.Fatalf("Parse(%q) = %q: not canonical", asked, h.Name)
	}
	for _, c := range h.Name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_.", c) {
			t.Fatalf("Parse(%q) = %q: has %q", asked, h.Name, c)
		}
	}
	if ip, err := netip.ParseAddr(h.Name); err == nil {
		t.Fatalf("Parse(%q) = name %q, which is the address %v", asked, h.Name, ip)
	}
	if readsAsAddress(h.Name) {
		t.Fatalf("Parse(%q) = name %q, which may be read as an address", asked, h.Name)
	}
}

func FuzzParse(f *testing.F) {
	for _, table := range []map[string][]string{addresses, names} {
		for _, spellings := range table {
			for _, spelling := range spellings {
				f.Add(spelling)
			}
		}
	}
	for _, spelling := range refused {
		f.Add(spelling)
	}
	f.Fuzz(func(t *testing.T, asked string) {
		h, err := Parse(asked)
		if err != nil {
			if h != (Host{}) {
				t.Fatalf("Parse(%q) = %v beside %v", asked, h, err)
			}
			return
		}
		check(t, asked, h)
		if h.IP.IsValid() && h.IP.Is4() {
			if dotted, err := Parse(h.IP.String() + "."); err != nil || dotted != h {
				t.Fatalf("Parse(%q.) = %v, %v", h.IP, dotted, err)
			}
		}
	})
}

// FuzzNumbers spells one address in every way that inet_aton takes.
func FuzzNumbers(f *testing.F) {
	f.Add(uint32(0x7f000001), uint8(1), uint8(0), uint8(3))
	f.Add(uint32(0xa9fea9fe), uint8(4), uint8(0b10_01_00_11), uint8(0))
	f.Add(uint32(0xffffffff), uint8(2), uint8(0xff), uint8(20))
	f.Fuzz(func(t *testing.T, address uint32, parts, bases, zeros uint8) {
		want := netip.AddrFrom4([4]byte{byte(address >> 24), byte(address >> 16), byte(address >> 8), byte(address)})
		spelling := spell(address, int(parts%4)+1, bases, int(zeros%30))
		if h, err := Parse(spelling); err != nil || h != (Host{IP: want}) {
			t.Fatalf("Parse(%q) = %v, %v; want %v", spelling, h, err, want)
		}
	})
}

func spell(address uint32, parts int, bases uint8, zeros int) string {
	var b strings.Builder
	for i := range parts {
		n := address << (8 * i)
		if i < parts-1 {
			n >>= 24
		} else {
			n >>= 8 * i
		}
		if i > 0 {
			b.WriteByte('.')
		}
		padding := strings.Repeat("0", zeros)
		switch bases >> (2 * i) & 3 {
		case 0:
			fmt.Fprintf(&b, "%d", n)
		case 1:
			fmt.Fprintf(&b, "0%s%o", padding, n)
		case 2:
			fmt.Fprintf(&b, "0x%s%x", padding, n)
		case 3:
			fmt.Fprintf(&b, "0X%s%X", padding, n)
		}
	}
	return b.String()
}
