package listen

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"sync/atomic"

	"sallyport/proxy/secret"
)

// TLSFiles is what a listener shows of itself, and what it wants to see of its
// clients. All files are PEM.
type TLSFiles struct {
	Cert     string // the certificate, then those between it and its root
	Key      string
	ClientCA string // the authorities whose client certificates count; empty: none is asked for
	Optional bool   // a client may do without a certificate
	HTTP     bool   // HTTP is spoken within, which ALPN is to say
	Least    uint16 // the oldest version; 0: 1.2
}

func (f *TLSFiles) names() []string {
	names := []string{f.Cert, f.Key}
	if f.ClientCA != "" {
		names = append(names, f.ClientCA)
	}
	return names
}

// TLS is a listener's side of TLS, whose files may be read again at any time.
type TLS struct {
	files   TLSFiles
	current atomic.Pointer[tls.Config]
}

// LoadTLS reads the files.
func LoadTLS(files TLSFiles) (*TLS, error) {
	t := &TLS{files: files}
	return t, t.Reload()
}

// FileError is what is wrong with one of the files.
type FileError struct {
	Of  string // "cert", "key" or "client_ca"
	Err error  // names the file
}

func (e *FileError) Error() string { return "tls: " + e.Err.Error() }
func (e *FileError) Unwrap() error { return e.Err }

// Reload reads the files again, for the connections to come. An error, which is a
// [FileError], leaves what is in use as it is. Each time has session tickets of its
// own, so that none outlives the authorities that its holder was verified by.
func (t *TLS) Reload() error {
	pair, err := ReadKeyPair(t.files.Cert, t.files.Key)
	if err != nil {
		return err
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: max(t.files.Least, tls.VersionTLS12)}
	if t.files.HTTP {
		c.NextProtos = []string{"http/1.1"}
	}
	if t.files.ClientCA != "" {
		if c.ClientCAs, err = authorities(t.files.ClientCA); err != nil {
			return &FileError{"client_ca", err}
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
		if t.files.Optional {
			c.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	t.current.Store(c)
	return nil
}

// ReadKeyPair reads a certificate, with those between it and its root, and its
// private key. A file with a private key must not be open to others. The error is a
// [FileError].
func ReadKeyPair(cert, key string) (tls.Certificate, error) {
	shown, err := secret.ReadPEM("certificate", cert)
	if err != nil {
		return tls.Certificate{}, &FileError{"cert", err}
	}
	if block, _ := pem.Decode(shown); block == nil {
		return tls.Certificate{}, &FileError{"cert", fmt.Errorf("%s holds no certificate in PEM form", cert)}
	}
	private, err := secret.ReadPEM("private key", key)
	if err != nil {
		return tls.Certificate{}, &FileError{"key", err}
	}
	pair, err := tls.X509KeyPair(shown, private)
	if err != nil {
		return tls.Certificate{}, &FileError{"key", fmt.Errorf("%s and %s: %w", cert, key, err)}
	}
	return pair, nil
}

func authorities(file string) (*x509.CertPool, error) {
	text, err := secret.ReadPEM("certificate", file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return pool, nil
}

// Names are the files that are read.
func (t *TLS) Names() []string { return t.files.names() }

// Certificate is the one in use.
func (t *TLS) Certificate() *x509.Certificate { return t.current.Load().Certificates[0].Leaf }

// Server is the server's side of a connection: its first Read, Write or Handshake
// does the handshake.
func (t *TLS) Server(c net.Conn) *tls.Conn { return tls.Server(c, t.current.Load()) }

// Listener is l with TLS on each connection.
func (t *TLS) Listener(l net.Listener) net.Listener { return secured{l, t} }

type secured struct {
	net.Listener
	tls *TLS
}

func (s secured) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return s.tls.Server(c), nil
}
