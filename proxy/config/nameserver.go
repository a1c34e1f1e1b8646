package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// NameServer is one of dns.servers: how it is spoken to, where it is, and whom its certificate has to name.
type NameServer struct {
	Transport string         // udp, tcp, tls or https
	Address   netip.AddrPort // of one that is given by its name the port alone; its addresses are in dns.bootstrap
	Name      string         // that the certificate has to have; empty: the address
	Path      string         // of https
}

// transports are the schemes of name servers, and their ports.
var transports = map[string]uint16{"udp": 53, "tcp": 53, "tls": 853, "https": 443}

// ParseNameServer reads an IP, IP:PORT, or TRANSPORT://HOST[:PORT][/PATH][#NAME]. HOST is an address, or for tls and
// https a name; NAME is whom the certificate of an address has to name.
func ParseNameServer(text string) (NameServer, error) {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		scheme, rest = "udp", text
	}
	port, known := transports[scheme]
	if !known {
		return NameServer{}, fmt.Errorf("unknown transport%s", didYouMean(scheme, []string{"udp", "tcp", "tls", "https"}))
	}
	at, err := netip.ParseAddrPort(rest)
	if ip, without := netip.ParseAddr(rest); without == nil { // an IPv6 address without brackets too
		at, err = netip.AddrPortFrom(ip, port), nil
	}
	if err == nil {
		if at.Port() == 0 {
			return NameServer{}, errPort
		}
		s := NameServer{Transport: scheme, Address: netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), Path: defaultPath(scheme)}
		return s, checkZone(at.Addr())
	}
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil || u.Hostname() == "" {
		return NameServer{}, errNameServer
	}
	if text := u.Port(); text != "" {
		number, err := strconv.ParseUint(text, 10, 16)
		if err != nil || number == 0 {
			return NameServer{}, errPort
		}
		port = uint16(number)
	}
	s := NameServer{Transport: scheme, Name: strings.ToLower(strings.TrimSuffix(u.Fragment, ".")), Path: u.EscapedPath()}
	secure := scheme == "tls" || scheme == "https"
	ip, err := netip.ParseAddr(u.Hostname())
	switch {
	case u.User != nil || u.RawQuery != "" || u.ForceQuery:
		return NameServer{}, errors.New("neither a user nor a query can be given")
	case scheme != "https" && s.Path != "":
		return NameServer{}, errors.New("only https has a path")
	case s.Name != "" && (!secure || !isName(s.Name)):
		return NameServer{}, errors.New("after # stands the name of a certificate, of tls and https only")
	case err == nil && checkZone(ip) != nil:
		return NameServer{}, errNameServer
	case err == nil:
		s.Address = netip.AddrPortFrom(ip.Unmap(), port)
	case !secure || !isName(strings.ToLower(u.Hostname())):
		return NameServer{}, errNameServer
	case s.Name != "":
		return NameServer{}, errors.New("write one name, before or after #")
	default:
		s.Name = strings.ToLower(u.Hostname())
		s.Address = netip.AddrPortFrom(netip.Addr{}, port)
	}
	if s.Path == "" {
		s.Path = defaultPath(scheme)
	}
	return s, nil
}

var (
	errNameServer = errors.New("a server has an address; of tls and https it may be a name")
	errPort       = errors.New("a port is 1 to 65535")
)

// checkZone refuses zones that no network interface has.
func checkZone(ip netip.Addr) error {
	if zone := ip.Zone(); zone != "" && !isName(strings.ToLower(zone)) {
		return errNameServer
	}
	return nil
}

func defaultPath(scheme string) string {
	if scheme == "https" {
		return "/dns-query"
	}
	return ""
}

// isName tells names of hosts, in lower case.
func isName(text string) bool {
	if len(text) > 253 {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// String is the server as ParseNameServer reads it.
func (s NameServer) String() string {
	host, port := s.Name, strconv.Itoa(int(s.Address.Port()))
	if s.Address.Addr().IsValid() {
		host = s.Address.Addr().String()
	}
	text := s.Transport + "://" + net.JoinHostPort(strings.ReplaceAll(host, "%", "%25"), port) + s.Path
	if s.Name != "" && s.Address.Addr().IsValid() {
		text += "#" + s.Name
	}
	if s.Transport == "udp" {
		return s.Address.String()
	}
	return text
}

// Addresses are where a server is: one of its own, or those of dns.bootstrap.
func (d DNS) Addresses(s NameServer) []netip.AddrPort {
	if s.Address.Addr().IsValid() {
		return []netip.AddrPort{s.Address}
	}
	var all []netip.AddrPort
	for _, ip := range d.Bootstrap[s.Name] {
		all = append(all, netip.AddrPortFrom(ip, s.Address.Port()))
	}
	return all
}

// maxNameServers is how many may be asked one after the other about one name.
const maxNameServers = 8

// dns judges what names are resolved by.
func (v *validator) dns() {
	d := &v.config.DNS
	count := 0
	for i, server := range d.Servers {
		key := index("dns.servers", i)
		switch ip := server.Address.Addr(); {
		case server.Transport == "": // a problem already
			continue
		case !ip.IsValid() && len(d.Bootstrap[server.Name]) == 0:
			v.add(key, "nothing is looked up to reach a name server: write %s, or its addresses in dns.bootstrap%s",
				bySample(server, v.config.origins[key].secret), v.suggest(key, server.Name, slices.Sorted(maps.Keys(d.Bootstrap))))
		case ip.IsValid() && !canServe(ip):
			v.add(key, "no name server can have the address %s", v.show(key, ip.String()))
		case slices.Index(d.Servers, server) < i:
			v.add(key, "%s is named twice", v.show(key, server.String()))
		}
		count += len(d.Addresses(server))
	}
	if count > maxNameServers {
		v.add("dns.servers", "want at most %d servers, got %d", maxNameServers, count)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Bootstrap)) {
		for i, ip := range d.Bootstrap[name] {
			if key := index(join("dns.bootstrap", name), i); ip.IsValid() && !canServe(ip) {
				v.add(key, "no name server can have the address %s", v.show(key, ip.String()))
			}
		}
	}
	v.oneOf("dns.family", d.Family, []string{"any", "prefer_ipv4", "prefer_ipv6", "ipv4", "ipv6"})
	v.dnsTimes(d)
}

// dnsTimes judges how long is waited and remembered.
func (v *validator) dnsTimes(d *DNS) {
	v.duration("dns.timeout", d.Timeout, 10*time.Second)
	if d.Cache.Entries < 0 || d.Cache.Entries > 1_000_000 {
		v.add("dns.cache.entries", "must be from 0 to 1000000")
	}
	for _, t := range []struct {
		key         string
		value, most time.Duration
	}{
		{"min_ttl", d.Cache.MinTTL, time.Hour}, {"max_ttl", d.Cache.MaxTTL, 24 * time.Hour}, {"negative_ttl", d.Cache.NegativeTTL, time.Hour},
	} {
		if t.value < 0 || t.value > t.most {
			v.add("dns.cache."+t.key, "must be from 0s to %v", t.most)
		}
	}
	if d.Cache.MinTTL > d.Cache.MaxTTL {
		v.add("dns.cache.min_ttl", "must not be longer than dns.cache.max_ttl, %v", d.Cache.MaxTTL)
	}
}

// bySample shows how to write a server with its address.
func bySample(s NameServer, secret bool) string {
	name, path := s.Name, ""
	if secret {
		name = "NAME"
	}
	if s.Transport == "https" {
		path = "/PATH"
	}
	return s.Transport + "://ADDRESS" + path + "#" + name
}

func canServe(ip netip.Addr) bool { return !ip.IsUnspecified() && !ip.IsMulticast() }
