package policy

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"math"
	"time"
)

// CertificateOf is a certificate as a fact. Its chain has to have been verified.
func CertificateOf(c *x509.Certificate) Certificate {
	digest := sha256.Sum256(c.Raw)
	out := Certificate{
		Subject: Subject{
			CommonName: c.Subject.CommonName, Organization: c.Subject.Organization,
			OrganizationalUnit: c.Subject.OrganizationalUnit,
		},
		Issuer: c.Issuer.String(), DNSNames: c.DNSNames, NotAfter: math.MaxInt64,
		FingerprintSHA256: hex.EncodeToString(digest[:]),
	}
	if c.NotAfter.Before(time.Unix(0, math.MaxInt64)) { // RFC 5280 has 9999 for "never"
		out.NotAfter = c.NotAfter.UnixNano()
	}
	for _, uri := range c.URIs {
		out.URIs = append(out.URIs, uri.String())
	}
	return out
}

// Name is who the certificate says its holder is: the SPIFFE id where it has one,
// or else the common name, the first DNS name or the first URI; "" of a
// certificate without any.
func (c *Certificate) Name() string {
	for _, uri := range c.URIs {
		if len(uri) > len(spiffe) && uri[:len(spiffe)] == spiffe {
			return uri
		}
	}
	switch {
	case c.Subject.CommonName != "":
		return c.Subject.CommonName
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	case len(c.URIs) > 0:
		return c.URIs[0]
	}
	return ""
}

const spiffe = "spiffe://"
