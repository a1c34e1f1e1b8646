package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"time"

	"sallyport/policy"
)

// secure.go is TLS with the client: its handshake, what it has shown, and what
// that is worth among the methods to authenticate by.

// tlsError is a TLS handshake that failed.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return "tls handshake: " + e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// secure does the TLS handshake where the listener has TLS, within the deadline of
// the handshake as a whole, and notes what the client has shown.
func (l *life) secure() error {
	c := l.conn.TLS()
	if c == nil {
		return nil
	}
	if err := c.Handshake(); err != nil {
		return &tlsError{err}
	}
	state := c.ConnectionState()
	l.secured = &secured{version: versionOf(state.Version)}
	if leaf := verified(&state); leaf != nil {
		l.secured.certificate = policy.CertificateOf(leaf)
	}
	l.secured.introduce(&l.facts)
	return nil
}

// secured is what TLS has told of a client.
type secured struct {
	version     string
	certificate policy.Certificate // the zero value: it has shown none
}

// introduce fills in what is known of the client by TLS.
func (s *secured) introduce(f *policy.Facts) {
	f.Session.TLS.Version, f.Source.Certificate = s.version, s.certificate
}

func versionOf(version uint16) string {
	if version == tls.VersionTLS12 {
		return "1.2"
	}
	return "1.3" // nothing older is spoken
}

// verified is the client's certificate, of a verified chain.
func verified(state *tls.ConnectionState) *x509.Certificate {
	if len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return nil
	}
	return state.VerifiedChains[0][0]
}

// certified tells whether the client has shown a certificate that counts.
func (l *life) certified() bool {
	return l.secured != nil && l.secured.certificate.FingerprintSHA256 != ""
}

// until is when the client is no longer who it has shown to be, by what the user
// directory says and by its certificate; zero: never.
func (l *life) until(entry time.Time) time.Time {
	if !l.certified() {
		return entry
	}
	if shown := time.Unix(0, l.secured.certificate.NotAfter); entry.IsZero() || shown.Before(entry) {
		return shown
	}
	return entry
}

// outlived tells whether the certificate that the client has shown has expired.
func (l *life) outlived() bool {
	shown := l.until(time.Time{})
	return !shown.IsZero() && !time.Now().Before(shown)
}

// strongest chooses, of the methods that a client can be asked for and that may be
// used, the first in the contract's order: those with a certificate where it has
// shown one, those with a password where it offers that, the others where it can
// do without.
func strongest(may policy.Methods, certified, password, without bool) (policy.Method, bool) {
	for _, m := range []struct {
		name policy.Method
		can  bool
	}{
		{policy.MethodCertificateAndPassword, certified && password},
		{policy.MethodCertificate, certified && without},
		{policy.MethodPassword, password},
		{policy.MethodNone, without},
	} {
		if m.can && slices.Contains(may, m.name) {
			return m.name, true
		}
	}
	return "", false
}
