package policy

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func prefixesOf(s string) []string {
	var out []string
	for p := range (Prefixes{netip.MustParseAddr(s)}).Each {
		out = append(out, p.String())
	}
	return out
}

func TestPrefixes(t *testing.T) {
	v4 := prefixesOf("10.1.2.3")
	if len(v4) != 33 || v4[0] != "10.1.2.3/32" || v4[8] != "10.1.2.0/24" || v4[24] != "10.0.0.0/8" || v4[32] != "0.0.0.0/0" {
		t.Errorf("%d prefixes: %v", len(v4), v4)
	}
	v6 := prefixesOf("2001:db8:1:2:3::1")
	if len(v6) != 66 || v6[0] != "2001:db8:1:2:3::1/128" || v6[1] != "2001:db8:1:2::/64" || v6[17] != "2001:db8:1::/48" || v6[65] != "::/0" {
		t.Errorf("%d prefixes: %v", len(v6), v6)
	}
	for range (Prefixes{}).Each {
		t.Error("no address has a prefix")
	}
	for p := range (Prefixes{netip.MustParseAddr("1.2.3.4")}).Each { // may be left early
		if p.Bits() < 30 {
			break
		}
	}
}

func TestSuffixes(t *testing.T) {
	for name, want := range map[string]string{
		"": "", "localhost": "localhost", "a.b.example": "a.b.example b.example example", "a..b": "a..b .b b",
	} {
		if got := strings.Join(slices.Collect(Suffixes(name).Each), " "); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestHeaders(t *testing.T) {
	sent := Headers{
		"x": {"a", "b\xff", "c"}, "authorization": {"s"}, "proxy-authorization": {"s"}, "cookie": {"s"}, "cookie2": {"d"}, "empty": {},
	}
	want := map[string][]string{"x": {"a", "b\ufffd", "c"}, "cookie2": {"d"}, "empty": {}}
	if got := maps.Collect(sent.Each); !reflect.DeepEqual(got, want) || sent["x"][1] != "b\xff" {
		t.Errorf("%v are shown of %q", got, sent)
	}
}

func TestMinuteAndFamily(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 59, 999, time.UTC)
	if got := time.Unix(0, int64(MinuteOf(at))).UTC(); !got.Equal(time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)) {
		t.Error(got)
	}
	for s, want := range map[string]Family{"1.2.3.4": "ipv4", "::ffff:1.2.3.4": "ipv4", "2001:db8::1": "ipv6"} {
		if got := FamilyOf(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %q", s, got)
		}
	}
	if FamilyOf(netip.Addr{}) != "" || (IP{}).Text() != "" {
		t.Error("no address has a family or a text")
	}
}

func TestFactsOfAddresses(t *testing.T) {
	source := SourceOf(netip.MustParseAddrPort("[::ffff:10.0.0.1]:99"))
	if source.IP.Text() != "10.0.0.1" || source.Port != 99 || source.Family != "ipv4" || source.Scope != ScopePrivate {
		t.Errorf("%+v", source)
	}
	if s := SourceOf(netip.MustParseAddrPort("[fe80::1%eth0]:99")); s.IP.Text() != "fe80::1" || s.Scope != ScopeLinkLocal {
		t.Errorf("%+v", s)
	}
	target := TargetAddress(netip.MustParseAddr("::ffff:127.0.0.1"), 80)
	if target.Host != "127.0.0.1" || target.Kind != "ipv4" || target.Scope != ScopeLoopback || target.Suffixes != "" {
		t.Errorf("%+v", target)
	}
	name := TargetName("a.example", 80)
	if name.Kind != "domain" || name.Suffixes != "a.example" || name.IP.IsValid() || name.Scope != "" {
		t.Errorf("%+v", name)
	}
}
