package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"sallyport/proxy/config"
	"sallyport/proxy/dial"
)

// openResolver makes the resolver that the configuration asks for. It asks
// nothing yet.
func openResolver(c *config.Config) (*dial.Resolver, error) {
	o := dial.ResolverOptions{
		Family: dial.Family(c.DNS.Family), Timeout: c.DNS.Timeout,
		Entries: c.DNS.Cache.Entries, MinTTL: c.DNS.Cache.MinTTL, MaxTTL: c.DNS.Cache.MaxTTL, NegativeTTL: c.DNS.Cache.NegativeTTL,
	}
	for _, s := range c.DNS.Servers {
		for _, address := range c.DNS.Addresses(s) {
			o.Servers = append(o.Servers, dial.Server{
				Transport: dial.Transport(s.Transport), Address: address, Name: s.Name, Path: s.Path,
			})
		}
	}
	if c.DNS.CA != "" {
		roots, err := readAuthorities(c.DNS.CA)
		if err != nil {
			return nil, config.Problems{c.Problem("dns.ca", err.Error())}
		}
		o.Roots = roots
	}
	return dial.NewResolver(o), nil
}

func readAuthorities(path string) (*x509.CertPool, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", errors.Unwrap(err))
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(file) {
		return nil, errors.New("the file has no certificate in PEM form")
	}
	return roots, nil
}
