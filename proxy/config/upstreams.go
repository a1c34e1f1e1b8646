package config

import (
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

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
	URL           URL         `key:"url" doc:"SCHEME://[USER[:PASSWORD]@]HOST[:PORT]; the scheme is socks5, socks5h, socks4a, http or https, see [Upstreams](upstreams.md)"`
	SourceAddress netip.Addr  `key:"source_address" doc:"the local address to connect to it from; the policy's source_address goes before it"`
	TLS           UpstreamTLS `key:"tls" doc:"of https: how it is known, and how this proxy is known to it"`
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

// isPendingOfUpstream tells of a key of an upstream whether it is documented but
// does nothing yet.
func isPendingOfUpstream(key string) bool { return key == "probe" || key == "pool" || key == "labels" }

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
	}
}
