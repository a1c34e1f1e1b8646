package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"

	"sallyport/proxy/config"
	"sallyport/proxy/dial"
	"sallyport/proxy/listen"
	"sallyport/proxy/upstream"
	"sallyport/proxy/wire/target"
)

// openUpstreams reads the files of the configured upstreams' TLS. An error is a
// config.Problems.
func openUpstreams(c *config.Config, files *opened) (all []upstream.Upstream, err error) {
	var problems config.Problems
	for _, name := range slices.Sorted(maps.Keys(c.Upstreams)) {
		key := "upstreams." + name
		u := c.Upstreams[name]
		hop, below, err := hopOf(name, u)
		if err != nil {
			problems = append(problems, c.Problem(key+below, err.Error()))
			continue
		}
		probe, err := probeOf(u.Probe)
		if err != nil {
			problems = append(problems, c.Problem(key+".probe.address", err.Error()))
			continue
		}
		pool := u.Pool.WithDefaults()
		if hop.TLS != nil && len(hop.TLS.Certificates) > 0 {
			files.date(c, key+".tls.certificate", u.TLS.Certificate, hop.TLS.Certificates[0].Leaf)
		}
		all = append(all, upstream.Upstream{
			Hop: hop, Labels: u.Labels, Probe: probe, Pool: upstream.Pool{Idle: pool.Idle, MaxAge: pool.MaxAge},
		})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return all, nil
}

func probeOf(p config.Probe) (upstream.Probe, error) {
	if p.Address == "" {
		return upstream.Probe{}, nil
	}
	p = p.WithDefaults()
	text, port, err := net.SplitHostPort(p.Address)
	if err != nil {
		return upstream.Probe{}, errors.New("want HOST:PORT")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return upstream.Probe{}, errors.New("want a port from 1 to 65535")
	}
	host, err := target.Parse(text)
	if err != nil {
		return upstream.Probe{}, errors.New("its host is neither a name nor an address")
	}
	return upstream.Probe{
		To:       dial.Endpoint{Name: host.Name, IP: host.IP, Port: uint16(number)},
		Via:      p.Via,
		Interval: p.Interval, Timeout: p.Timeout, Rise: p.Rise, Fall: p.Fall,
	}, nil
}

// hopOf makes one upstream, or names the key below it that is wrong.
func hopOf(name string, u config.Upstream) (hop *dial.Hop, below string, err error) {
	parts, wrong := u.URL.Parts()
	if wrong != "" {
		return nil, ".url", errors.New(wrong)
	}
	host, err := target.Parse(parts.Host)
	if err != nil {
		return nil, ".url", errors.New("its host is neither a name nor an address")
	}
	hop = &dial.Hop{
		Name: name, At: dial.Endpoint{Name: host.Name, IP: host.IP, Port: parts.Port},
		Username: parts.Username, Password: parts.Password, Source: u.SourceAddress, Relays: u.UDPRelays,
	}
	switch parts.Scheme {
	case config.SchemeSOCKS5:
		hop.Protocol, hop.Local = dial.SOCKS5, true
	case config.SchemeSOCKS5H:
		hop.Protocol = dial.SOCKS5
	case config.SchemeSOCKS4A:
		hop.Protocol = dial.SOCKS4A
	case config.SchemeHTTP:
		hop.Protocol = dial.HTTP
	case config.SchemeHTTPS:
		hop.Protocol = dial.HTTP
		if hop.TLS, below, err = tlsOf(&u.TLS); err != nil {
			return nil, ".tls" + below, err
		}
		if hop.TLS.ServerName == "" {
			hop.TLS.ServerName = host.String()
		}
	}
	return hop, "", nil
}

func tlsOf(u *config.UpstreamTLS) (settings *tls.Config, below string, err error) {
	settings = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.ServerName, NextProtos: []string{"http/1.1"}}
	if u.CA != "" {
		pem, err := os.ReadFile(u.CA)
		if err != nil {
			return nil, ".ca", unreadable(u.CA, err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(pem) {
			return nil, ".ca", fmt.Errorf("%s has no certificate in PEM form", u.CA)
		}
	}
	if u.Certificate != "" {
		pair, err := listen.ReadKeyPair(u.Certificate, u.Key)
		var refused *listen.FileError
		if errors.As(err, &refused) {
			return nil, map[string]string{"cert": ".certificate", "key": ".key"}[refused.Of], refused.Err
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	return settings, "", nil
}

// unreadable names a file once.
func unreadable(what string, err error) error {
	var of *fs.PathError
	if errors.As(err, &of) {
		return fmt.Errorf("%s cannot be read: %w", of.Path, of.Err)
	}
	return fmt.Errorf("%s cannot be used: %w", what, err)
}
