package listen

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
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

// Reload reads the files again, for the connections to come. An error leaves what
// is in use as it is. Each time has session tickets of its own, so that none
// outlives the authorities that its holder was verified by.
func (t *TLS) Reload() error {
	pair, err := tls.LoadX509KeyPair(t.files.Cert, t.files.Key)
	if err != nil {
		return fmt.Errorf("tls: %s and %s: %w", t.files.Cert, t.files.Key, err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: max(t.files.Least, tls.VersionTLS12)}
	if t.files.HTTP {
		c.NextProtos = []string{"http/1.1"}
	}
	if t.files.ClientCA != "" {
		if c.ClientCAs, err = authorities(t.files.ClientCA); err != nil {
			return err
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
		if t.files.Optional {
			c.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	t.current.Store(c)
	return nil
}

func authorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("tls: %s: %w", file, errors.New("it holds no certificate in PEM"))
	}
	return pool, nil
}

// Names are the files that are read.
func (t *TLS) Names() []string { return t.files.names() }

// NotAfter is when the certificate in use ends.
func (t *TLS) NotAfter() time.Time { return t.current.Load().Certificates[0].Leaf.NotAfter }

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
