package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"sallyport/proxy/config"
	"sallyport/proxy/dial"
)

// newResolver makes the resolver that the configuration asks for. It asks
// nothing yet.
func newResolver(c *config.Config, roots *x509.CertPool) *dial.Resolver {
	o := dial.ResolverOptions{
		Roots:  roots,
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
	return dial.NewResolver(o)
}

// openRoots reads who may vouch for name servers; nil: those of the system. An
// error is a config.Problems.
func openRoots(c *config.Config) (*x509.CertPool, error) {
	if c.DNS.CA == "" {
		return nil, nil
	}
	file, err := os.ReadFile(c.DNS.CA)
	if err != nil {
		return nil, config.Problems{c.Problem("dns.ca", fmt.Sprintf("cannot be read: %v", errors.Unwrap(err)))}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(file) {
		return nil, config.Problems{c.Problem("dns.ca", "the file has no certificate in PEM form")}
	}
	return roots, nil
}
