package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestUpstreamURLs(t *testing.T) {
	for text, want := range map[URL]Parts{
		"socks5://192.0.2.1":                  {Scheme: "socks5", Host: "192.0.2.1", Port: 1080},
		"socks5h://[2001:db8::1]:9050":        {Scheme: "socks5h", Host: "2001:db8::1", Port: 9050},
		"socks4a://me@proxy.example":          {Scheme: "socks4a", Host: "proxy.example", Username: "me", Port: 1080},
		"http://proxy.example/":               {Scheme: "http", Host: "proxy.example", Port: 80},
		"HTTPS://u@proxy.example":             {Scheme: "https", Host: "proxy.example", Username: "u", Port: 443},
		"socks5://a%40b:c%3Ad%2F@192.0.2.1:1": {Scheme: "socks5", Host: "192.0.2.1", Username: "a@b", Port: 1},
	} {
		got, wrong := text.Parts()
		if secret := got.Password.Reveal(); (secret != "") != strings.Contains(string(text), "%3A") || secret != "" && secret != "c:d/" {
			t.Errorf("%s: password %q", text, secret)
		}
		got.Password = want.Password
		if got != want || wrong != "" {
			t.Errorf("%s: %+v, %q", text, got, wrong)
		}
	}
	for text, want := range map[string]string{
		"":                 "must not be empty",
		"socks6://h":       "did you mean socks5?",
		"ftp://h":          "want the scheme",
		"192.0.2.1:1080":   "want SCHEME://",
		"socks5:192.0.2.1": "want SCHEME://",
		"http://:80":       "want SCHEME://",
		"http://h/path":    "and nothing after that",
		"http://h?":        "and nothing after that",
		"http://h#f":       "and nothing after that",
		"http://h:0":       "want a port",
		"http://h:65536":   "want a port",
		"socks5://u@h":     "a user name and a password, or neither",
		"socks5://:p@h":    "a user name and a password, or neither",
		"socks5://" + strings.Repeat("u", 256) + ":p@h": "more than 255",
		"socks4a://u:p@h":   "no passwords",
		"socks4a://u%00x@h": "no such user id",
		"http://a%3Ab:c@h":  "with a colon",
	} {
		if _, wrong := URL(text).Parts(); !strings.Contains(wrong, want) {
			t.Errorf("%s: %q", text, wrong)
		}
	}
}

func TestUpstreams(t *testing.T) {
	got := problems(t, Options{File: write(t, "c.yaml", `upstreams:
  direct: {url: "http://h"}
  a.b: {url: "http://h"}
  c: {}
  d: {url: "socks5://h", tls: {ca: x}}
  e: {url: "https://h", tls: {certificate: x}, source_address: "0.0.0.0"}
  f: {ulr: "https://h"}
  g: {url: "http://h", pool: {idle: 4}, probe: {address: "x:80"}, labels: {a: b}}
  h: {url: "http://h", pool: {idle: 257, max_age: 1ms}, labels: {a: [b]}, probe: {interval: 9s}}
  i: {url: "http://h", probe: {address: "h", interval: 1ms, timeout: 1ms, rise: -1, fall: 101}}
  j: {url: "http://h", probe: {address: "h:0"}}
  k: {url: "http://h", probe: {address: "h:1", via: [g, k, nobody]}}
  l: {url: "http://h", probe: {via: [g]}}
  n: {url: "socks5://h", udp_relays: [192.0.2.7, 192.0.2.1/24, "::ffff:192.0.2.0/120"]}
  o: {url: "http://h", udp_relays: [192.0.2.7]}
  m: {url: "http://h", probe: {address: "h:1", via: [g, g, g, g, g, g, g, g, g]}}
`)})
	want := `c.yaml:2: upstreams.direct: want a name of at most 60 letters, digits, hyphens and underscores, and not direct
c.yaml:3: upstreams."a.b": want a name of at most 60 letters, digits, hyphens and underscores, and not direct
c.yaml:4: upstreams.c.url: must not be empty
c.yaml:5: upstreams.d.tls: counts for https:// only, and this is socks5://
c.yaml:6: upstreams.e.tls: want both certificate and key, or neither
c.yaml:6: upstreams.e.source_address: want an address of this machine
c.yaml:7: upstreams.f.url: must not be empty
c.yaml:7: upstreams.f.ulr: unknown key; did you mean url?
c.yaml:9: upstreams.h.pool.idle: want 0 to 256
c.yaml:9: upstreams.h.pool.max_age: want at least 1s
c.yaml:9: upstreams.h.labels.a: want a string, got a list
c.yaml:9: upstreams.h.probe: wants an address
c.yaml:10: upstreams.i.probe.address: want HOST:PORT
c.yaml:10: upstreams.i.probe.interval: want at least 1s
c.yaml:10: upstreams.i.probe.timeout: want at least 100ms
c.yaml:10: upstreams.i.probe.rise: want 1 to 100
c.yaml:10: upstreams.i.probe.fall: want 1 to 100
c.yaml:11: upstreams.j.probe.address: want a port from 1 to 65535
c.yaml:12: upstreams.k.probe.via: there is no other upstream "k"
c.yaml:12: upstreams.k.probe.via: there is no other upstream "nobody"
c.yaml:13: upstreams.l.probe: wants an address
c.yaml:14: upstreams.n.udp_relays[1]: "192.0.2.1/24" has bits behind its prefix; want "192.0.2.0/24"
c.yaml:14: upstreams.n.udp_relays[2]: want an IPv4 network, such as 10.0.0.0/8
c.yaml:15: upstreams.o.udp_relays: counts for SOCKS5 only, and this is http://
c.yaml:16: upstreams.m.probe.via: want at most 8 upstreams`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestUpstreamURLsAreRedacted(t *testing.T) {
	t.Setenv("PLANTED", planted)
	c := load(t, Options{File: write(t, "c.yaml", `upstreams:
  a: {url: "socks5://me:`+planted+`@192.0.2.1:1080"}
  b: {url: "http://me:${env:PLANTED}@192.0.2.1"}
`)})
	shown := fmt.Sprint(c.Redacted())
	if strings.Contains(shown, planted) || !strings.Contains(shown, "socks5://[redacted]@192.0.2.1:1080") {
		t.Error(shown)
	}
	if parts, _ := c.Upstreams["b"].URL.Parts(); parts.Password.Reveal() != planted {
		t.Error("not expanded")
	}
}
