package target

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

var label63 = strings.Repeat("a", 63)

// addresses are spellings that mean an address, and the address.
var addresses = map[string][]string{
	"127.0.0.1": {
		"127.0.0.1", "127.0.0.1.", "127.1", "127.1.", "127.0.1", "2130706433", "2130706433.",
		"0x7f.1", "0X7F.1", "0x7f.0.0.1", "0x7f000001", "0X7F000001", "0x7F000001.", "0x7f.0x0.0x0.0x1", "0x7f.0x1",
		"0177.0.0.1", "0177.1", "0177.0.01", "017700000001", "00177.00.00.01", "000000000000177.0.0.1",
		"127.0x1", "127.0.0x1", "127.00000000001", "127.0.0.00000001", "0x00000000000000007f.1", "0x7f.01",
		"１２７.０.０.１", "１２７．０．０．１", "127。0。0。1", "127｡0｡0｡1", "127.0.0.1。", "127.0.0.1．", "127.0.0.1｡", "127。1",
		"①②⑦.⓪.⓪.①", "①27.0.0.1", "𝟏𝟐𝟕.𝟎.𝟎.𝟏", "𝟙𝟚𝟟.𝟘.𝟘.𝟙", "𝟣𝟤𝟩.𝟢.𝟢.𝟣", "¹²⁷.0.0.1", "₁₂₇.₀.₀.₁", "０ｘ７ｆ.１", "０Ｘ７Ｆ．１", "0ⓧ7ⓕ.1", "２１３０７０６４３３",
		"127\u00ad.0.0.1", "127.0.0\u00ad.1", "127.0.0.1\u00ad", "127\u200b.0.0.1", "127\u2060.0.0.1", "\ufeff127.0.0.1", "127.0.0.\ufe0f1", "127\u034f.1",
		"::ffff:127.0.0.1", "::FFFF:127.0.0.1", "::ffff:7f00:1", "0:0:0:0:0:ffff:7f00:0001", "[::ffff:127.0.0.1]", "[::FFFF:7F00:1]", "0000:0000:0000:0000:0000:FFFF:127.0.0.1",
	},
	"0.0.0.0":         {"0", "0.", "0.0", "0.0.0.0", "0x0", "00", "0x00000000", "0000000000000", "０", "⓪", "[::ffff:0:0]"},
	"127.0.0.0":       {"127.0.0.", "127.0", "0x7f000000"},
	"0.0.0.1":         {"1", "0.1", "0x1", "01", "①"},
	"255.255.255.255": {"255.255.255.255", "4294967295", "0xffffffff", "037777777777", "255.16777215", "255.255.65535", "0xff.0xFFFFFF"},
	"169.254.169.254": {"169.254.169.254", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "169.254.43518", "169.16689662", "１６９．２５４．１６９．２５４", "[::ffff:a9fe:a9fe]"},
	"10.0.0.1":        {"10.0.0.1", "10.1", "012.0.0.1", "0xa.1", "167772161", "⑩.0.0.1", "１０.１"},
	"192.168.1.1":     {"192.168.1.1", "192.168.257", "192.11010305", "0300.0250.1.1", "0xc0a80101", "3232235777"},
	"8.0.0.1":         {"010.0.0.1", "8.1"},
	"100.2.3.4":       {"100.0x2.03.4"},
	"::1": {
		"::1", "[::1]", "0:0:0:0:0:0:0:1", "[0:0:0:0:0:0:0:1]", "0000:0000:0000:0000:0000:0000:0000:0001", "::0001", "0::1", "::0:1", "::0.0.0.1",
	},
	"::":               {"::", "[::]", "0:0:0:0:0:0:0:0", "::0.0.0.0"},
	"2001:db8::a":      {"2001:db8::a", "2001:DB8::A", "[2001:0db8:0:0:0:0:0:000A]"},
	"::7f00:1":         {"::127.0.0.1", "[::7f00:1]"},        // IPv4-compatible: IPv6, for the scope to judge
	"64:ff9b::7f00:1":  {"64:ff9b::127.0.0.1"},               // NAT64, likewise
	"2002:7f00:1::":    {"2002:7f00:1::", "[2002:7f00:1::]"}, // 6to4, likewise
	"fe80::1":          {"fe80::1", "FE80::1"},
	"fd00:ec2::254":    {"fd00:ec2::254", "[fd00:EC2:0::254]"},
	"::ffff:0:7f00:1":  {"::ffff:0:127.0.0.1"}, // IPv4-translated (SIIT), not mapped
	"203.0.113.200":    {"203.0.113.200"},
	"1.2.3.4":          {"1.2.3.4", "0x1.2.03.0x4", "1.2.772", "16909060"},
	"0.0.0.255":        {"255", "0xff", "0377", "255."},
	"127.255.255.255":  {"127.16777215", "0x7fffffff"},
	"128.0.0.0":        {"128.0", "0x80000000", "2147483648"},
	"0.0.0.9":          {"9", "⑨"},
	"8.8.8.8":          {"8.8.8.8", "134744072", "010.010.010.010", "８.８.８.８"},
	"127.0.0.2":        {"127.2", "127.0.2", "0177.0x2"},
	"0.127.0.1":        {"0.127.0.1", "0.127.1", "0x7f0001", "8323073"},
	"192.0.2.1":        {"192.0.2.1", "192.0.513"},
	"224.0.0.1":        {"224.1", "0340.0.0.1"},
	"172.16.0.1":       {"172.16.1", "0254.020.1", "0xac100001"},
	"100.64.0.1":       {"100.64.1", "0144.0100.0.1"},
	"198.18.0.1":       {"198.18.1", "0306.022.1"},
	"2001:db8::c0a8:1": {"2001:db8::192.168.0.1"},
}

// names are spellings of a domain name.
var names = map[string][]string{
	"example.com": {
		"example.com", "example.com.", "EXAMPLE.com", "Example.Com.", "ｅｘａｍｐｌｅ．ｃｏｍ", "example。com", "example｡com", "example．com．",
		"exa\u00admple.com", "exa\u200bmple.com", "exa\u2060mple.com", "ⓔⓧⓐⓜⓟⓛⓔ.com", "𝐞𝐱𝐚𝐦𝐩𝐥𝐞.com", "example.com\ufeff", "ＥＸＡＭＰＬＥ.COM",
	},
	"localhost":                      {"localhost", "LOCALHOST", "localhost.", "ｌｏｃａｌｈｏｓｔ", "lo\u00adcalhost", "ⓛocalhost", "localho\u017ft"},
	"xn--bcher-kva.example":          {"bücher.example", "BÜCHER.example", "bu\u0308cher.example", "xn--bcher-kva.example", "XN--BCHER-KVA.Example", "Xn--bcher-kva.example"},
	"xn--fiq228c.xn--55qx5d":         {"中文.公司", "xn--fiq228c.xn--55qx5d", "中文。公司。"},
	"xn--strae-oqa.example":          {"straße.example"},
	"_sip._tcp.example.com":          {"_sip._tcp.example.com", "_SIP._tcp.example.com"},
	"r3---sn-apo3qvuoxuxbt.example":  {"r3---sn-apo3qvuoxuxbt.example"},
	"a":                              {"a", "A", "a.", "ａ"},
	"under_score.example":            {"under_score.example", "under＿score.example"},
	"1.example":                      {"1.example", "①.example"},
	"127.0.0.1.nip.io":               {"127.0.0.1.nip.io"},
	"127.0.0.1a":                     {"127.0.0.1a"},
	"127-0-0-1.example":              {"127-0-0-1.example"},
	"1e1":                            {"1e1"},
	"0xg":                            {"0xg"},
	"7f000001.x":                     {"7f000001.x"},
	"0x7f.0.0.1.example":             {"0x7f.0.0.1.example"},
	"7f":                             {"7f"},
	"x0":                             {"x0"},
	"123.a1":                         {"123.a1"},
	"kelvin.example":                 {"\u212aelvin.example"},
	label63 + "." + label63 + ".com": {label63 + "." + label63 + ".com"},
	strings.Repeat("a.", 126) + "a":  {strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 126) + "a.", strings.Repeat("ａ．", 126) + "ａ．"},
	"xn--p1ai.example":               {"xn--p1ai.example", "рф.example"},
	"api.internal":                   {"api.internal"},
	"0x.example":                     {"0x.example"},
	"xn--r3----ova.example":          {"r3---ü.example"},
	"a--b.example":                   {"a--b.example", "ａ－－b.example"},
	"_":                              {"_"},
	"metadata.google.internal":       {"metadata.google.internal", "METADATA.google.internal.", "metadata．google．internal"},
	"1.1.1.1.in-addr.arpa":           {"1.1.1.1.in-addr.arpa."},
	"dead.beef":                      {"dead.beef", "DEAD.BEEF"},
	"ff":                             {"ff", "ﬀ"},
}

// refused are hosts that are neither, or that parsers disagree on.
var refused = []string{
	// empty
	"", ".", "..", "。", "．", "\u00ad", "\u200b.", "[]", "[", "]",
	// empty labels
	".example.com", "example..com", "example.com..", "example.com。.", "a..", "..a", "127.0.0.1..", "127..1", ".127.0.0.1", ".1", "1..",
	"a.\u00ad.b", "a。。b",
	// numbers that overflow or are none
	"256.0.0.1", "1.2.3.256", "1.2.65536", "1.16777216", "4294967296", "0x100000000", "040000000000", "99999999999999999999999", "1.2.3.4.5", "1.2.3.4.5.",
	"0x7f.0.0.256", "300.1", "0400.1", "0x100.1", "127.0.0.0x100", "18446744073709551617", "0x1000000007f000001",
	"08", "09.1", "0189.0.0.1", "127.0.0.08", "127.0.0.09", "1.2.3.08", "0x", "0x.0x.0x.0x", "1.0x", "127.0.0.0x", "0x.1", "127.0x.0.1",
	"foo.1", "example.com.1", "foo.0x1", "foo.0x", "foo.08", "127.0.0.1.5", "a.127.0.0.1", "1.2.3.a.4", "foo.①", "foo.１", "0xg.1", "1_0.1", "0x_1.1", "0b1.1", "0o7.1", "1e1.1",
	"-1", "+1", "127.0.0.-1", "127.0.0.+1", "127.+0.0.1", "--1", "-127.0.0.1", "0x+7f.1",
	// characters and escapes
	"127.0.0.1%00", "127%2e0.0.1", "%31%32%37.0.0.1", "ex%61mple.com", "%", "example.com%", "%00", "127.0.0.1%eth0",
	"example.com\x00", "\x00example.com", "exa\x00mple.com", "\x00", "127.0.0.1\x00", "127.0.0.1\x00.example.com", "localhost\x00.example.com",
	"example.com\r\n", "example.com\n", "a\r\nb", "\r", "\n", "127.0.0.1\n", "127.0.0.1\r\nX: y", "\texample.com", "a\tb", "\x1b[31m", "\x7f",
	" ", " example.com", "example.com ", "a b", "127.0.0.1 ", " 127.0.0.1", "127.0.0. 1", "127.0.0.1 example.com", "\u00a0example.com", "a\u3000b", "127.0.0.1\u00a0", "\u2028", "a\u2003b",
	"user@example.com", "a@b", "user:pw@127.0.0.1", "@", "127.0.0.1@example.com", "example.com@127.0.0.1", "a＠b", "a﹫b",
	"example.com:80", "127.0.0.1:80", ":80", "a:", "a：80", "127.0.0.1：80", "[::1]:80", "[::1]:", "2130706433:80", "a﹕b",
	"http://example.com", "//example.com", "/", "/etc/passwd", "example.com/", "a/b", "127.0.0.1/8", "::1/128", "a\\b", "\\\\a", "a／b", "a?b", "a#b", "a？b", "a＃b", "℀.com", "a℅b",
	"*", "*.example.com", "a*b", "a,b", "a;b", "a'b", `a"b`, "a`b", "$(id)", "a|b", "a&b", "a=b", "a<b>", "a!b", "a~b", "a^b", "{a}", "(a)", "⑴.1", "⒈2.3.4", "⒈⒉⒊⒋", "127.0.0.⒈", "1⒉",
	"‥", "a…b",
	// IPv6
	"[127.0.0.1]", "[example.com]", "[::1", "::1]", "[[::1]]", "[::1]a", "a[::1]", "[::1].", "::1.", "[:]", ":", ":::", "::1::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "12345::", "::g",
	"fe80::1%eth0", "[fe80::1%eth0]", "fe80::1%25eth0", "[fe80::1%25eth0]", "fe80::1%", "::1%lo", "::ffff:127.0.0.1%lo", "::1%\r\n", "fe80::1%1",
	"::ffff:0x7f.1", "::ffff:127.1", "::ffff:0177.0.0.1", "::ffff:256.0.0.1", "::ffff:127.0.0.1.", "::00001", "：：1", "［::1］", "［：：１］", "::１", "::①", "::ffff:１２７.0.0.1", "0x0:0:0:0:0:0:0:1", "::1 ", " ::1", "::1\x00", "::1\n", "[::1\x00]",
	"v1.fe80::a", "[v1.fe80::a]", "::127.0.0.01",
	// not UTF-8
	"\xff", "ex\xffmple.com", "\xc0\xaeexample", "127\xc0\xae0.0.1", "\xed\xa0\x80", "bücher\xc3", "b\xfccher.example", "\xe3\x80",
	// hyphens at an edge
	"-", "-a", "a-", "-example.com", "example-.com", "example.-com", "example.com-", "a.-.b", "-oProxyCommand=x", "-oProxyCommand", "a－.com", "--",
	// lengths
	strings.Repeat("a", 64), strings.Repeat("a", 64) + ".com", "a." + strings.Repeat("b", 64), strings.Repeat("a.", 127) + "a", strings.Repeat("a.", 126) + "ab", strings.Repeat("ü", 60) + ".example" + strings.Repeat(".a", 100),
	strings.Repeat("a", 253), strings.Repeat("a", 2000), strings.Repeat("1", 2000), strings.Repeat("0", 2000), strings.Repeat(".", 500), strings.Repeat("ü", 63),
	// A-labels that are not what they seem
	"xn--", "xn--.com", "xn--a", "xn--example-.com", "xn--127-.0.0.1", "xn--a-ecp.ru", "xn--0.com", "xn--\u00fc", "XN--.example", "XN--a", "Xn--0.com", "xn--1-.1", "xn--999999999",
	// joiners out of place, disallowed and unassigned characters, mixed direction
	"a\u200cb", "a\u200db.com", "\u200d", "a\u202eb.com", "a\u2066b", "\ufffd.com", "a\ufffdb", "\U000e0041", "\ue000", "a\u0378", "\u0300a", "א1a.com", "1א.com", "abcא", "\U000e0001.com",
}

func TestAddresses(t *testing.T) {
	for want, spellings := range addresses {
		for _, spelling := range spellings {
			h, err := Parse(spelling)
			if err != nil || h != (Host{IP: netip.MustParseAddr(want)}) {
				t.Errorf("Parse(%q) = %v, %v; want the address %s", spelling, h, err, want)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for want, spellings := range names {
		for _, spelling := range spellings {
			if h, err := Parse(spelling); err != nil || h != (Host{Name: want}) {
				t.Errorf("Parse(%q) = %v, %v; want the name %s", spelling, h, err, want)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for _, spelling := range refused {
		h, err := Parse(spelling)
		var refusal *Error
		if !errors.As(err, &refusal) || h != (Host{}) || refusal.Host != spelling || refusal.Reason == "" {
			t.Errorf("Parse(%q) = %v, %v; want a refusal", spelling, h, err)
		}
	}
}

func TestFromIP(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "fe80::1%eth0": "fe80::1", "::1": "::1", "::ffff:192.0.2.1%eth0": "192.0.2.1",
	} {
		if h := FromIP(netip.MustParseAddr(from)); h != (Host{IP: netip.MustParseAddr(want)}) {
			t.Errorf("FromIP(%s) = %v, want %s", from, h, want)
		}
	}
	if h := FromIP(netip.Addr{}); h != (Host{}) || h.String() != "" {
		t.Errorf("FromIP of no address = %v", h)
	}
}

// A message may go to a log: one line, printable, bounded.
func TestErrorIsSafe(t *testing.T) {
	for _, spelling := range append(refused, "a\u202e\u2066b c\r\nlevel=error", strings.Repeat("\x00", 1<<16)) {
		_, err := Parse(spelling)
		if err == nil {
			t.Errorf("Parse(%q) was not refused", spelling)
			continue
		}
		message := err.Error()
		if len(message) > 500 {
			t.Errorf("message for %.20q… has %d bytes", spelling, len(message))
		}
		for _, c := range message {
			if c < ' ' || c == 0x7f || c == '\u202e' || c == '\u2028' || c == '\ufeff' {
				t.Errorf("message %q has %U", message, c)
			}
		}
	}
	_, err := Parse("a b")
	if got, want := err.Error(), `host "a b" refused: character that no domain name has`; got != want {
		t.Errorf("message is %s, want %s", got, want)
	}
}
