package config

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/proxy/secret"
)

// Schemes of an upstream's URL.
const (
	SchemeSOCKS5  = "socks5"  // the name of the next upstream is looked up here
	SchemeSOCKS5H = "socks5h" // the name of the next upstream is left to this one
	SchemeSOCKS4A = "socks4a"
	SchemeHTTP    = "http"
	SchemeHTTPS   = "https"
)

// Upstream is a proxy that sessions can be led through.
type Upstream struct {
	URL           URL            `key:"url" doc:"SCHEME://[USER[:PASSWORD]@]HOST[:PORT]; the scheme is socks5, socks5h, socks4a, http or https, see [Upstreams](upstreams.md)"`
	SourceAddress netip.Addr     `key:"source_address" doc:"the local address to connect to it from; the policy's source_address goes before it"`
	UDPRelays     []netip.Prefix `key:"udp_relays" doc:"of socks5 and socks5h: addresses and networks at which it may take datagrams beside its own address, such as 192.0.2.7"`
	TLS           UpstreamTLS    `key:"tls" doc:"of https: how it is known, and how this proxy is known to it"`

	Labels map[string]string `key:"labels" doc:"what policies see as input.upstreams[name].labels"`
	Probe  Probe             `key:"probe" doc:"how it is found out whether it works; without an address: by the sessions through it only"`
	Pool   Pool              `key:"pool" doc:"connections to it that are opened ahead"`
}

// Probe is how it is found out whether an upstream works. What is not said has a default.
type Probe struct {
	Address  string        `key:"address" doc:"HOST:PORT that the upstream is asked to connect to; a name is left to it"`
	Via      []string      `key:"via" doc:"the upstreams that a probe goes through before, the first one first, where this one is reached only through them; none: it goes to this one directly"`
	Interval time.Duration `key:"interval" doc:"the time between two probes, give or take a tenth; 0s: 10s"`
	Timeout  time.Duration `key:"timeout" doc:"how long a probe may take; 0s: 5s"`
	Rise     int           `key:"rise" doc:"successes in a row that make it healthy again; 0: 2"`
	Fall     int           `key:"fall" doc:"failures in a row after which it is not healthy any more; 0: 3"`
}

// Pool is the connections to an upstream that are opened ahead.
type Pool struct {
	Idle   int           `key:"idle" doc:"how many, at most 256; 0: none"`
	MaxAge time.Duration `key:"max_age" doc:"how old one may get that is not used; it has to be less than what the upstream allows before a request. 0s: 8s"`
}

// WithDefaults is the probe with all that was not said.
func (p Probe) WithDefaults() Probe {
	p.Interval, p.Timeout = cmp.Or(p.Interval, 10*time.Second), cmp.Or(p.Timeout, 5*time.Second)
	p.Rise, p.Fall = cmp.Or(p.Rise, 2), cmp.Or(p.Fall, 3)
	return p
}

// WithDefaults is the pool with all that was not said.
func (p Pool) WithDefaults() Pool {
	p.MaxAge = cmp.Or(p.MaxAge, 8*time.Second)
	return p
}

// UpstreamTLS says who an upstream has to be, and who this proxy is to it.
type UpstreamTLS struct {
	CA          string `key:"ca" doc:"a PEM file of the certification authorities that it may be vouched for by; empty: the system's"`
	Certificate string `key:"certificate" doc:"a PEM file of the certificate that this proxy shows"`
	Key         string `key:"key" doc:"a PEM file of that certificate's key"`
	ServerName  string `key:"server_name" doc:"the name that its certificate has to have; empty: the URL's host"`
}

// Direct is what metrics call the way without an upstream.
const Direct = "direct"

const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// URL is one that may hold a password.
type URL string

// Parts of an upstream's URL.
type Parts struct {
	Scheme   string
	Username string
	Password secret.String
	Host     string // a name, or an address without brackets
	Port     uint16
}

// Parts takes the URL apart. Why it cannot be is told without a byte of it.
func (u URL) Parts() (parts Parts, wrong string) {
	const shape = "want SCHEME://[USER[:PASSWORD]@]HOST[:PORT]"
	parsed, err := url.Parse(string(u))
	switch {
	case u == "":
		return parts, "must not be empty"
	case err != nil:
		return parts, shape + "; what is special in a user name or password is written as %XX"
	case parsed.Opaque != "" || parsed.Hostname() == "":
		return parts, shape
	case parsed.RawQuery != "" || parsed.Fragment != "" || parsed.ForceQuery || strings.Trim(parsed.Path, "/") != "":
		return parts, shape + ", and nothing after that"
	}
	parts.Scheme, parts.Host = parsed.Scheme, parsed.Hostname()
	password, _ := parsed.User.Password()
	parts.Username, parts.Password = parsed.User.Username(), secret.New(password)
	ports := map[string]uint16{SchemeSOCKS5: 1080, SchemeSOCKS5H: 1080, SchemeSOCKS4A: 1080, SchemeHTTP: 80, SchemeHTTPS: 443}
	port, known := ports[parts.Scheme]
	if !known {
		return parts, "want the scheme socks5, socks5h, socks4a, http or https" + didYouMean(parts.Scheme, slices.Sorted(maps.Keys(ports)))
	}
	if parts.Port = port; parsed.Port() != "" {
		number, err := strconv.ParseUint(parsed.Port(), 10, 16)
		if err != nil || number == 0 {
			return parts, "want a port from 1 to 65535"
		}
		parts.Port = uint16(number)
	}
	return parts, credentials(parts.Scheme, parts.Username, password)
}

// credentials judges whether a protocol can present them.
func credentials(scheme, username, password string) (wrong string) {
	socks5 := scheme == SchemeSOCKS5 || scheme == SchemeSOCKS5H
	switch {
	case socks5 && (len(username) > 255 || len(password) > 255):
		return "SOCKS5 has no user names and passwords of more than 255 bytes"
	case socks5 && username == "" && password != "", socks5 && username != "" && password == "":
		return "SOCKS5 wants a user name and a password, or neither"
	case scheme == SchemeSOCKS4A && password != "":
		return "SOCKS4 has no passwords"
	case scheme == SchemeSOCKS4A && (len(username) > 255 || strings.Contains(username, "\x00")):
		return "SOCKS4 has no such user id"
	case strings.HasPrefix(scheme, "http") && strings.Contains(username, ":"):
		return "HTTP has no user names with a colon"
	}
	return ""
}

// String is the URL without whom it names.
func (u URL) String() string { return redactURL(string(u)) }

// upstreams judges the upstreams.
func (v *validator) upstreams() {
	for _, name := range slices.Sorted(maps.Keys(v.config.Upstreams)) {
		upstream, key := v.config.Upstreams[name], join("upstreams", name)
		if name == "" || name == Direct || len(name) > 60 || strings.Trim(name, nameLetters) != "" {
			v.add(key, "want a name of at most 60 letters, digits, hyphens and underscores, and not %s", Direct)
		}
		parts, wrong := upstream.URL.Parts()
		if wrong != "" {
			v.add(key+".url", "%s", wrong)
		}
		tls := upstream.TLS
		if wrong == "" && parts.Scheme != SchemeHTTPS && tls != (UpstreamTLS{}) {
			v.add(key+".tls", "counts for https:// only, and this is %s://", parts.Scheme)
		}
		if (tls.Certificate == "") != (tls.Key == "") {
			v.add(key+".tls", "want both certificate and key, or neither")
		}
		if upstream.SourceAddress.IsUnspecified() || upstream.SourceAddress.IsMulticast() {
			v.add(key+".source_address", "want an address of this machine")
		}
		if len(upstream.UDPRelays) > 0 && wrong == "" && parts.Scheme != SchemeSOCKS5 && parts.Scheme != SchemeSOCKS5H {
			v.add(key+".udp_relays", "counts for SOCKS5 only, and this is %s://", parts.Scheme)
		}
		for i, network := range upstream.UDPRelays {
			v.network(index(key+".udp_relays", i), network)
		}
		v.probe(name, key+".probe", upstream.Probe)
		v.pool(key+".pool", upstream.Pool)
	}
}

func (v *validator) probe(name, key string, p Probe) {
	if p.Address == "" {
		if !reflect.ValueOf(p).IsZero() {
			v.add(key, "wants an address")
		}
		return
	}
	for i, before := range p.Via {
		if _, known := v.config.Upstreams[before]; !known || before == name {
			v.add(key+".via", "there is no other upstream %s", v.show(index(key+".via", i), before))
		}
	}
	if len(p.Via) > mostBefore {
		v.add(key+".via", "want at most %d upstreams", mostBefore)
	}
	if host, port, err := net.SplitHostPort(p.Address); err != nil || host == "" {
		v.add(key+".address", "want HOST:PORT")
	} else if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		v.add(key+".address", "want a port from 1 to 65535")
	}
	full := p.WithDefaults()
	if full.Interval < time.Second {
		v.add(key+".interval", "want at least 1s")
	}
	if full.Timeout < 100*time.Millisecond {
		v.add(key+".timeout", "want at least 100ms")
	}
	if full.Rise < 1 || full.Rise > mostMarks {
		v.add(key+".rise", "want 1 to %d", mostMarks)
	}
	if full.Fall < 1 || full.Fall > mostMarks {
		v.add(key+".fall", "want 1 to %d", mostMarks)
	}
}

// mostBefore bounds how far an upstream may be that is probed.
const mostBefore = 8

// mostMarks bounds how long an upstream that has changed is taken for what it was.
const mostMarks = 100

func (v *validator) pool(key string, p Pool) {
	const most = 256
	if p.Idle < 0 || p.Idle > most {
		v.add(key+".idle", "want 0 to %d", most)
	}
	if p.WithDefaults().MaxAge < time.Second {
		v.add(key+".max_age", "want at least 1s")
	}
}
