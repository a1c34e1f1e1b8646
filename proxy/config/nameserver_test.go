package config

import (
	"strings"
	"testing"
)

func TestNameServers(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1":                            "192.0.2.1:53",
		"192.0.2.1:5353":                       "192.0.2.1:5353",
		"2001:db8::1":                          "[2001:db8::1]:53",
		"[2001:db8::1]":                        "[2001:db8::1]:53",
		"[2001:db8::1]:53":                     "[2001:db8::1]:53",
		"::ffff:192.0.2.1":                     "192.0.2.1:53",
		"fe80::1%eth0":                         "[fe80::1%eth0]:53",
		"udp://192.0.2.1":                      "192.0.2.1:53",
		"tcp://192.0.2.1":                      "tcp://192.0.2.1:53",
		"tcp://2001:db8::1":                    "tcp://[2001:db8::1]:53",
		"tls://192.0.2.1":                      "tls://192.0.2.1:853",
		"tls://192.0.2.1#DNS.example":          "tls://192.0.2.1:853#dns.example",
		"tls://[2001:db8::1]:8853#dns.example": "tls://[2001:db8::1]:8853#dns.example",
		"tls://dns.example":                    "tls://dns.example:853",
		"https://dns.example/own/path":         "https://dns.example:443/own/path",
		"https://dns.example":                  "https://dns.example:443/dns-query",
		"https://192.0.2.1:8443/q#dns.example": "https://192.0.2.1:8443/q#dns.example",
		"https://192.0.2.1":                    "https://192.0.2.1:443/dns-query",
		"https://[2001:db8::1]/p%2Fq#a.b":      "https://[2001:db8::1]:443/p%2Fq#a.b",
	} {
		s, err := ParseNameServer(text)
		if err != nil || s.String() != want {
			t.Errorf("%s: got %s, %v; want %s", text, s, err, want)
			continue
		}
		if again, err := ParseNameServer(want); err != nil || again != s {
			t.Errorf("%s: got %+v, %v; want %+v", want, again, err, s)
		}
	}
	for _, text := range []string{
		"", "dns.example", "dns.example:53", "udp://dns.example", "tcp://dns.example", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:x",
		"192.0.2.1#dns.example", "tcp://192.0.2.1#dns.example", "tls://192.0.2.1/path", "tls://a.example#b.example", "tls://192.0.2.1#a b",
		"tls://user@192.0.2.1", "https://user:pass@192.0.2.1/", "https://dns.example/dns-query?dns=x", "https://dns.example/?", "ftp://192.0.2.1",
		"http://192.0.2.1", "://192.0.2.1", "tls://", "tls://:853", "tls://-", "tls://a..b", "tls://a b", "https:///dns-query", "192.0.2.1 ",
	} {
		if s, err := ParseNameServer(text); err == nil {
			t.Errorf("%q is %s", text, s)
		}
	}
}

func TestNameServerProblems(t *testing.T) {
	t.Setenv("PLANTED", "tls://"+planted+".example")
	got := problems(t, Options{File: write(t, "c.yaml", `dns:
  servers:
    - tls://dns.exampel
    - https://other.test/q
    - 0.0.0.0
    - tlss://192.0.2.1
    - 7
    - 192.0.2.1
    - udp://192.0.2.1:53
    - ${env:PLANTED}
  bootstrap: {dns.example: [192.0.2.1, "::", x]}
  family: ipv5
  timeout: 11s
  cache: {entries: -1, min_ttl: 2h, max_ttl: 25h, negative_ttl: -1s}
`)})
	if want := `c.yaml:3: dns.servers[0]: nothing is looked up to reach a name server: write tls://ADDRESS#dns.exampel, or its addresses in dns.bootstrap; did you mean dns.example?
c.yaml:4: dns.servers[1]: nothing is looked up to reach a name server: write https://ADDRESS/PATH#other.test, or its addresses in dns.bootstrap
c.yaml:5: dns.servers[2]: no name server can have the address "0.0.0.0"
c.yaml:6: dns.servers[3]: want a name server such as 192.0.2.1 or tls://192.0.2.1#NAME (unknown transport; did you mean tls?), got "tlss://192.0.2.1"
c.yaml:7: dns.servers[4]: want a name server such as 192.0.2.1 or tls://192.0.2.1#NAME, got 7
c.yaml:9: dns.servers[6]: "192.0.2.1:53" is named twice
c.yaml:10: dns.servers[7]: nothing is looked up to reach a name server: write tls://ADDRESS#NAME, or its addresses in dns.bootstrap
c.yaml:11: dns.bootstrap."dns.example"[1]: no name server can have the address "::"
c.yaml:11: dns.bootstrap."dns.example"[2]: want an IP address, got "x"
c.yaml:12: dns.family: want any, prefer_ipv4, prefer_ipv6, ipv4 or ipv6, got "ipv5"; did you mean ipv4?
c.yaml:13: dns.timeout: must be at most 10s
c.yaml:14: dns.cache.entries: must be from 0 to 1000000
c.yaml:14: dns.cache.min_ttl: must be from 0s to 1h0m0s
c.yaml:14: dns.cache.max_ttl: must be from 0s to 24h0m0s
c.yaml:14: dns.cache.negative_ttl: must be from 0s to 1h0m0s`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	many := "192.0.2.1,"
	for port := range 9 {
		many += "192.0.2.2:" + string(rune('1'+port)) + ","
	}
	if got := problems(t, Options{Set: []string{"dns.servers=" + strings.TrimSuffix(many, ",")}}); got != "--set: dns.servers: want at most 8 servers, got 10" {
		t.Error(got)
	}
}

func FuzzNameServer(f *testing.F) {
	for _, text := range []string{"192.0.2.1:53", "[2001:db8::1]:53", "fe80::1%eth0", "tls://192.0.2.1#dns.example", "https://dns.example:8443/p%2Fq", "tcp://::1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseNameServer(text)
		if err != nil {
			return
		}
		if again, err := ParseNameServer(s.String()); err != nil || again != s {
			t.Fatalf("%q is %+v, whose text %q is %+v, %v", text, s, s.String(), again, err)
		}
	})
}
