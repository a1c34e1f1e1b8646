package dial

import (
	"bufio"
	"bytes"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	hostsPath  = "/etc/hosts"
	resolvPath = "/etc/resolv.conf"

	maxLocalFile = 16 << 20 // some block advertisers by their hosts file
	pollEvery    = 5 * time.Second
)

// local answers for names that no server is to be asked about: what /etc/hosts
// has, localhost, and those that are reserved for not being in the DNS. Without
// addresses and error it is a name for the servers.
func (r *Resolver) local(name string) ([]Address, error) {
	found := r.hosts()[name]
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch {
	case found != nil:
	case last == "localhost": // RFC 6761, section 6.3
		found = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	case last == "invalid" || last == "onion" || last == "alt": // RFC 6761, RFC 7686, RFC 9476
		return nil, unresolved("nxdomain", "is not in the DNS: the domain "+last+" is reserved")
	}
	var wanted []Address
	for _, ip := range found {
		if f := r.options.Family; (f == IPv4 && !ip.Is4()) || (f == IPv6 && !ip.Is6()) {
			continue
		}
		wanted = append(wanted, Address{IP: ip})
	}
	if found != nil && wanted == nil {
		return nil, noAddress()
	}
	return wanted, nil
}

// parseHosts reads a hosts file: the addresses of each name. A line that makes
// no sense is passed over, as everybody does.
func parseHosts(file []byte) map[string][]netip.Addr {
	found := map[string][]netip.Addr{}
	lines := bufio.NewScanner(bytes.NewReader(file))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		ip, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		ip = ip.Unmap().WithZone("")
		for _, name := range fields[1:] {
			if name = strings.ToLower(strings.TrimSuffix(name, ".")); isHostName(name) && len(found[name]) < 2*maxAddresses {
				found[name] = append(found[name], ip)
			}
		}
	}
	return found
}

// parseResolv reads the servers of /etc/resolv.conf. Where it names none, they
// are on this machine.
func parseResolv(file []byte) []Server {
	var found []Server
	if c, err := dns.ClientConfigFromReader(bytes.NewReader(file)); err == nil {
		for _, text := range c.Servers {
			if ip, err := netip.ParseAddr(text); err == nil && len(found) < 3 { // as many as the C library takes
				found = append(found, Server{Transport: UDP, Address: netip.AddrPortFrom(ip.Unmap(), 53)})
			}
		}
	}
	if found == nil {
		for _, ip := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
			found = append(found, Server{Transport: UDP, Address: netip.AddrPortFrom(ip, 53)})
		}
	}
	return found
}

// polled returns a function that has what a file says, and looks every few
// seconds whether the file is another one. While it cannot be read, what it said
// last holds.
func polled[T any](path string, parse func([]byte) T) func() T {
	var mu sync.Mutex
	var checked time.Time
	var seen os.FileInfo
	value := parse(nil)
	return func() T {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if now.Sub(checked) < pollEvery && !checked.IsZero() {
			return value
		}
		checked = now
		info, err := os.Stat(path)
		if err != nil || seen != nil && os.SameFile(info, seen) && info.ModTime().Equal(seen.ModTime()) && info.Size() == seen.Size() {
			return value
		}
		file, err := os.Open(path)
		if err != nil {
			return value
		}
		defer file.Close()
		if content, err := io.ReadAll(io.LimitReader(file, maxLocalFile)); err == nil {
			value, seen = parse(content), info
		}
		return value
	}
}
