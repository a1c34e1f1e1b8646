package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

const (
	// maxAddresses bounds, for each family, what one name can make us ask the
	// policy about and dial. Neither family can crowd the other out.
	maxAddresses = 16

	// patience is how long a server of the configuration may take for one
	// exchange. After twice that the next server is asked: a lost datagram is
	// sent again once.
	patience = 2 * time.Second
)

// Resolver looks up names of targets. It keeps nothing: each look-up asks.
type Resolver struct {
	servers  []netip.AddrPort
	patience time.Duration
}

// NewResolver returns a resolver that asks the servers, in this order: the
// next one where one is silent or has no usable answer. Without servers it
// asks those of /etc/resolv.conf, with the times that are set there. Either way
// it is Go's resolver, which honours /etc/hosts, holds no thread while it
// waits, and can be called off.
func NewResolver(servers []netip.AddrPort) *Resolver {
	return &Resolver{servers: servers, patience: patience}
}

// Lookup returns the addresses of a name: of both families, IPv4 ones as such,
// without zones, each once, in the order of RFC 6724, and at most 16 of a
// family. The name is absolute, so search domains are never tried. The error is
// one of ErrUnresolved, ErrResolveTimeout, ErrResolveFailed, or a
// context.Canceled.
func (r *Resolver) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	name = strings.TrimSuffix(name, ".")
	found := fromHosts(ctx, name)
	if found != nil {
		return bounded(found), nil
	}
	found, err := r.lookup(ctx, name+".")
	if err != nil {
		return nil, classifyLookup(ctx, err)
	}
	return bounded(found), nil
}

// fromHosts finds names of one label, localhost above all, in /etc/hosts. Go's
// resolver looks for them there only if they are written without the dot that
// keeps it from the search domains; so they are, and no server can be reached.
func fromHosts(ctx context.Context, name string) []netip.Addr {
	if name == "" || strings.Contains(name, ".") {
		return nil
	}
	hosts := net.Resolver{
		PreferGo: true,
		Dial:     func(context.Context, string, string) (net.Conn, error) { return nil, os.ErrDeadlineExceeded },
	}
	found, _ := hosts.LookupNetIP(ctx, "ip", name)
	return found
}

func (r *Resolver) lookup(ctx context.Context, name string) (found []netip.Addr, err error) {
	if len(r.servers) == 0 {
		system := net.Resolver{PreferGo: true}
		return system.LookupNetIP(ctx, "ip", name)
	}
	for _, server := range r.servers {
		found, err = r.ask(ctx, server, name)
		var dns *net.DNSError
		if err == nil || (errors.As(err, &dns) && dns.IsNotFound) || ctx.Err() != nil {
			break // what a server says about a name, that it is unknown too, holds
		}
	}
	return found, err
}

// ask looks the name up at one server. Go's resolver goes through the servers
// of /etc/resolv.conf, several times; here all of these come to the one
// server, until its time is up. That is not told by a context, since Go's
// resolver would then drop the IPv4 addresses that it has when a server does
// not answer for IPv6.
func (r *Resolver) ask(ctx context.Context, server netip.AddrPort, name string) ([]netip.Addr, error) {
	end := time.Now().Add(2 * r.patience)
	one := net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			now := time.Now()
			if !now.Before(end) {
				return nil, os.ErrDeadlineExceeded
			}
			latest := earlier(now.Add(r.patience), end)
			if network == "udp" {
				var d net.Dialer
				conn, err := d.DialUDP(ctx, "udp", netip.AddrPort{}, server)
				if err != nil {
					return nil, err
				}
				return &hurriedUDP{conn, latest}, nil
			}
			d := net.Dialer{Deadline: latest, KeepAlive: -1}
			conn, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, server)
			if err != nil {
				return nil, err
			}
			return &hurriedTCP{conn, latest}, nil
		},
	}
	found, err := one.LookupNetIP(ctx, "ip", name)
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.Server != "" {
		dns.Server = server.String() // Go names the one of /etc/resolv.conf
	}
	return found, err
}

// hurriedUDP and hurriedTCP let Go's resolver wait no longer than until latest.
// There are two since it tells UDP from TCP by their methods.
type hurriedUDP struct {
	*net.UDPConn
	latest time.Time
}

func (c *hurriedUDP) SetDeadline(t time.Time) error {
	return c.UDPConn.SetDeadline(earlier(t, c.latest))
}

type hurriedTCP struct {
	*net.TCPConn
	latest time.Time
}

func (c *hurriedTCP) SetDeadline(t time.Time) error {
	return c.TCPConn.SetDeadline(earlier(t, c.latest))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// bounded brings what was found into the form that Lookup promises.
func bounded(found []netip.Addr) []netip.Addr {
	seen := make(map[netip.Addr]bool, len(found))
	var kept []netip.Addr
	var v4, v6 int
	for _, a := range found {
		a = a.Unmap().WithZone("")
		count := &v6
		if a.Is4() {
			count = &v4
		}
		if seen[a] || *count == maxAddresses {
			continue
		}
		seen[a] = true
		*count++
		kept = append(kept, a)
	}
	return kept
}
