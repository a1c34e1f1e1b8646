package target

import (
	"net/netip"
	"testing"
)

func TestSpellingsOfLoopback(t *testing.T) {
	for _, host := range []string{
		"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001",
		"127.0.0.1.", "0X7F.0.0.1", "１２７.０.０.１", "127。0。0。1", "①②⑦.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1",
	} {
		got, err := Parse(host)
		if err != nil || got.IP != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("%q: got %+v, %v", host, got, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, host := range []string{
		"", ".", "a..b", ".a", "[::1]", "fe80::1%eth0", "%31%32%37.0.0.1", "a b", "a\x00b", "a\r\nb", "u@h", "h:80", "h/p",
		"1.2.3.4.5", "256.1.1.1", "127.0.0.0x100", "99999999999", "08.1", "\xff", "a.09",
	} {
		if got, err := Parse(host); err == nil {
			t.Errorf("%q: got %+v", host, got)
		}
	}
}

func TestNames(t *testing.T) {
	for host, want := range map[string]string{
		"Example.COM.": "example.com", "_srv._tcp.a": "_srv._tcp.a", "bücher.example": "xn--bcher-kva.example",
		"1.example": "1.example", "0x.example": "0x.example",
	} {
		if got, err := Parse(host); err != nil || got.Name != want {
			t.Errorf("%q: got %+v, %v", host, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("127.1")
	f.Add("Bücher.example.")
	f.Fuzz(func(t *testing.T, host string) {
		got, err := Parse(host)
		if err != nil {
			return
		}
		if got.IP.IsValid() == (got.Name != "") {
			t.Fatalf("%q: not exactly one of name and address: %+v", host, got)
		}
		if got.Name != "" {
			again, err := Parse(got.Name)
			if err != nil || again != got {
				t.Fatalf("%q: %+v is read as %+v, %v", host, got, again, err)
			}
		}
	})
}
