package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tls_test.go comes by TLS, with and without a certificate of its own.

// authority signs certificates.
type authority struct {
	dir  string
	file string // its certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.file, _ = a.issue(t, name, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	return a
}

// issue writes a certificate and its key to NAME.pem and NAME.key.
func (a *authority) issue(t *testing.T, name string, change func(*x509.Certificate)) (cert, key string) {
	t.Helper()
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.next++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if change != nil {
		change(template)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, made
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, made.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert == nil {
		a.key = made
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	private, err := x509.MarshalPKCS8PrivateKey(made)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return cert, key
}

// server issues a certificate for localhost.
func (a *authority) server(t *testing.T, name string) (cert, key string) {
	return a.issue(t, name, func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// overTLS is a client that speaks through TLS what it is told to.
func overTLS(t *testing.T, addr string, c *tls.Config) *tls.Conn {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 20 * time.Second}, "tcp", addr, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func hears(t *testing.T, c io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); string(got[:n]) != want {
		t.Fatalf("heard %q (%v), want %q", got[:n], err, want)
	}
}

const granted = chosen + "\x05\x00\x00\x01\x7f\x00\x00\x01"

func TestTLSListener(t *testing.T) {
	t.Parallel()
	target, settings := origin(t)
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key),
		"--data", write(t, filepath.Join(t.TempDir(), "d.json"), settings), "--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), `package sallyport.route

default allow := false

allow if input.session.tls.version in {"1.2", "1.3"}

labels := {"tls": input.session.tls.version}
`))
	port := s.addr[strings.LastIndex(s.addr, ":")+1:]
	for _, c := range []struct {
		name    string
		args    []string
		version string
	}{
		{"an HTTPS proxy", []string{"-p"}, "1.3"},
		{"and TLS 1.2", []string{"-p", "--proxy-ssl-reqd", "--proxy-tls13-ciphers", "TLS_AES_128_GCM_SHA256"}, "1.3"},
	} {
		args := append([]string{"--proxy-cacert", ca.file, "-x", "https://localhost:" + port}, c.args...)
		if c.name == "and TLS 1.2" {
			args = []string{"--proxy-cacert", ca.file, "-x", "https://localhost:" + port, "-p", "--proxy-tlsv1"}
		}
		if out, code := curl(t, append(args, target)...); code != 0 || !strings.HasPrefix(out, "hello") {
			t.Errorf("%s: curl exits %d: %s", c.name, code, out)
		}
		s.wait(t, 0, "session")
		s.forget("session")
	}
	// SOCKS5 through it, and what was sent at once is not lost.
	u, _ := url.Parse(target)
	number := mustPort(t, u.Port())
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := overTLS(t, s.addr, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost", MaxVersion: version})
		io.WriteString(c, greeting+connectTo("127.0.0.1", number)+"GET / HTTP/1.0\r\n\r\n")
		hears(t, c, granted)
		io.CopyN(io.Discard, c, 2)
		if got, _ := io.ReadAll(c); !bytes.Contains(got, []byte("hello")) {
			t.Errorf("heard %q", got)
		}
		c.Close()
	}
	for skip, want := range []string{"1.2", "1.3"} {
		if labels, _ := s.wait(t, skip, "session")["labels"].(map[string]any); labels["tls"] != want {
			t.Errorf("labels %v, want %s", labels, want)
		}
	}
	// What is too old, or no TLS, ends there; and ALPN has no HTTP/2.
	for _, c := range []*tls.Config{{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}, {NextProtos: []string{"h2"}}} {
		c.InsecureSkipVerify = true
		if conn, err := tls.Dial("tcp", s.addr, c); err == nil {
			conn.Close()
			t.Errorf("%v is spoken", c)
		}
	}
	c := overTLS(t, s.addr, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost", NextProtos: []string{"h2", "http/1.1"}})
	if got := c.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("ALPN chooses %q", got)
	}
	if got := exchange(t, s.addr, greeting+connectTo("127.0.0.1", number)); strings.Contains(got, "\x05\x00") {
		t.Errorf("without TLS it answers %q", got)
	}
	s.forget("session")
	if got := exchange(t, s.addr, "GET / HTTP/1.1\r\n\r\n"); strings.HasPrefix(got, "HTTP/1.1 4") {
		t.Errorf("without TLS it answers %q", got)
	}
	if r := s.wait(t, 0, "session"); r["outcome"] != "tls" {
		t.Errorf("it ends %v", r["raw"])
	}
}

func mustPort(t *testing.T, text string) uint16 {
	t.Helper()
	port, err := net.LookupPort("tcp", text)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// A handshake of TLS is a part of the handshake: it has no time of its own.
func TestStalledTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	target := serveEcho(t, "127.0.0.1:0")
	s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key),
		"--data", settings(t, loopback, target.port), "--set", "limits.handshake=1s")
	var hello bytes.Buffer
	tls.Client(&recorder{&hello}, &tls.Config{ServerName: "localhost"}).Handshake()
	var stalled []*talk
	for i := range 60 {
		d := dialDoor(t, s.addr)
		d.Write(hello.Bytes()[:[]int{0, 1, 5, 20, hello.Len() - 1, hello.Len()}[i%6]])
		stalled = append(stalled, d)
	}
	late := overTLS(t, s.addr, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost"}) // and no more
	c := overTLS(t, s.addr, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost"})
	io.WriteString(c, greeting+connectTo("127.0.0.1", target.port))
	hears(t, c, granted)
	for _, d := range stalled {
		if _, err := d.rest(); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a handshake that stalls is waited for")
		}
	}
	if _, err := io.ReadAll(late); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("a client that stalls behind TLS is waited for")
	}
}

// recorder takes what is written to it, and has nothing to say.
type recorder struct{ *bytes.Buffer }

func (*recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (*recorder) Close() error                     { return nil }
func (*recorder) LocalAddr() net.Addr              { return nil }
func (*recorder) RemoteAddr() net.Addr             { return nil }
func (*recorder) SetDeadline(time.Time) error      { return nil }
func (*recorder) SetReadDeadline(time.Time) error  { return nil }
func (*recorder) SetWriteDeadline(time.Time) error { return nil }

// How a side ends goes through TLS as it does through TCP.
func TestHowASideEndsOverTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	half := scripted(t, func(c *net.TCPConn) {
		got, err := io.ReadAll(c) // to its end, and only then
		if err != nil {
			fmt.Fprintf(c, "reset")
			return
		}
		fmt.Fprintf(c, "got %d", len(got))
		c.CloseWrite()
	})
	gone := scripted(t, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
		c.Close()
	})
	ends := make(chan error, 1)
	watch := func(c *net.TCPConn) {
		_, err := io.ReadAll(c)
		ends <- err
	}
	watching, again := scripted(t, watch), scripted(t, watch)
	s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key),
		"--data", settings(t, loopback, half, gone, watching, again))
	connect := func(port uint16) *tls.Conn {
		c := overTLS(t, s.addr, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost"})
		io.WriteString(c, greeting+connectTo("127.0.0.1", port))
		hears(t, c, granted)
		io.CopyN(io.Discard, c, 2)
		return c
	}
	c := connect(half)
	c.Write(make([]byte, 3_000_000))
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "got 3000000" || err != nil {
		t.Errorf("heard %q, %v", got, err)
	}
	c = connect(gone)
	c.Write([]byte("x"))
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the target's reset the client sees %v", err)
	}
	c = connect(watching)
	c.NetConn().(*net.TCPConn).SetLinger(0)
	c.NetConn().Close()
	if err := <-ends; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the client's reset the target sees %v", err)
	}
	// A stream that is cut off in the middle of something must not look whole.
	c = connect(again)
	io.WriteString(c.NetConn(), "\x17\x03\x03\x01\x00and no more")
	c.NetConn().(*net.TCPConn).CloseWrite()
	if err := <-ends; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the client was cut off the target sees %v", err)
	}
}

// A new certificate is used by the next connection, one that is broken by none.
func TestCertificateReload(t *testing.T) {
	t.Parallel()
	_, settings := origin(t)
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key),
		"--data", write(t, filepath.Join(t.TempDir(), "d.json"), settings))
	serial := func() int64 {
		c := overTLS(t, s.addr, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost"})
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	first := serial()
	s.wait(t, 0, "certificate active")
	s.forget("certificate active")
	ca.server(t, "door")
	for skip := 0; serial() == first; skip++ { // cert and key are two files
		s.wait(t, skip, "certificate active")
	}
	write(t, cert, "no certificate")
	s.wait(t, 0, "certificate refused; the one in use stays")
	if serial() == first {
		t.Error("the old certificate is back")
	}
	// And by HUP, where nothing has changed.
	s.forget("certificate refused; the one in use stays")
	s.cmd.Process.Signal(syscall.SIGHUP)
	s.wait(t, 0, "certificate refused; the one in use stays")
	out, _ := program("check", "--set", fmt.Sprintf(`listeners=[{address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key)).CombinedOutput()
	if !strings.Contains(string(out), "listeners[0].tls.cert: "+cert+" holds no certificate") {
		t.Errorf("check says %s", out)
	}
}

// certificates is a listener that takes client certificates, and a policy that
// says who it takes the client for.
func certificates(t *testing.T, ca *authority, more, admit string) (*process, *echo) {
	t.Helper()
	cert, key := ca.server(t, "door")
	target := serveEcho(t, "127.0.0.1:0")
	dir := t.TempDir()
	args := []string{"--data", settings(t, loopback, target.port), "--data", usersFile(t, map[string]string{"alice": "right horse"}),
		"--policy", write(t, filepath.Join(dir, "route.rego"), `package sallyport.route

default allow := true

labels := {
	"method": input.identity.method,
	"subject": json.marshal(input.source.certificate),
}
`)}
	if admit != "" {
		args = append(args, "--policy", write(t, filepath.Join(dir, "admit.rego"), "package sallyport.admit\n\nallow := true\n\nmethods := "+admit+"\n"))
	}
	return listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q, client_ca: %q%s}}]`, cert, key, ca.file, more), args...), target
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	forClients := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	cert, key := ca.issue(t, "runner", func(c *x509.Certificate) {
		forClients(c)
		c.Subject.Organization, c.Subject.OrganizationalUnit = []string{"Example"}, []string{"CI", "Jobs"}
		c.DNSNames = []string{"runner.example"}
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/ci/runner"}}
		c.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	})
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(pair.Certificate[0])
	fingerprint := hex.EncodeToString(digest[:])
	strange, strangeKey := other.issue(t, "runner", forClients)
	late, lateKey := ca.issue(t, "late", func(c *x509.Certificate) { forClients(c); c.NotAfter = time.Now().Add(-time.Minute) })
	wrong, wrongKey := ca.issue(t, "wrong", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	plain, plainKey := ca.issue(t, "plain", forClients)

	type client struct{ cert, key, say, hear, who, method string }
	with := func(c client) *tls.Config {
		config := &tls.Config{RootCAs: ca.pool(), ServerName: "localhost"}
		if c.cert != "" {
			pair, err := tls.LoadX509KeyPair(c.cert, c.key)
			if err != nil {
				t.Fatal(err)
			}
			// Whatever the server names as its authorities.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		return config
	}
	const ask = "ASK"
	try := func(t *testing.T, s *process, target *echo, c client) {
		t.Helper()
		s.forget("session")
		conn, err := tls.Dial("tcp", s.addr, with(c))
		if err == nil {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			if text, ok := strings.CutSuffix(c.say, ask); ok {
				c.say = text + connectTo("127.0.0.1", target.port)
			}
			io.WriteString(conn, c.say)
			if c.hear != "" {
				hears(t, conn, c.hear)
			} else if got, err := io.ReadAll(conn); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%+v: heard %q, %v", c, got, err)
			}
			conn.Close() // who has been turned away may take a moment to read why
		}
		r := s.wait(t, 0, "session")
		labels, _ := r["labels"].(map[string]any)
		method, _ := labels["method"].(string)
		who, _ := r["user.name"].(string)
		if who != c.who || method != c.method {
			t.Errorf("%+v is taken for %q by %q: %v", c, who, method, r["raw"])
		}
		if c.cert == cert && c.hear != "" {
			text, _ := labels["subject"].(string)
			for _, want := range []string{`"common_name":"runner"`, `"organization":["Example"]`, `"organizational_unit":["CI","Jobs"]`, `"issuer":"CN=ca"`,
				`"dns_names":["runner.example"]`, `"uris":["spiffe://example.org/ci/runner"]`, `"not_after":9223372036854775807`, `"fingerprint_sha256":"` + fingerprint + `"`} {
				if !strings.Contains(text, want) {
					t.Errorf("the certificate is %s, without %s", text, want)
				}
			}
		}
	}
	reply := "\x05\x00\x00\x01\x7f\x00\x00\x01"
	byPassword := "\x05\x01\x02" + login("alice", "right horse") + ask
	t.Run("required", func(t *testing.T) {
		s, target := certificates(t, ca, "", "")
		try(t, s, target, client{cert, key, greeting + ask, "\x05\x00" + reply, "spiffe://example.org/ci/runner", "certificate"})
		try(t, s, target, client{plain, plainKey, greeting + ask, "\x05\x00" + reply, "plain", "certificate"})
		try(t, s, target, client{plain, plainKey, "\x05\x02\x00\x02" + ask, "\x05\x00" + reply, "plain", "certificate"})
		try(t, s, target, client{plain, plainKey, byPassword, "\x05\x02\x01\x00" + reply, "alice", "password"})
		try(t, s, target, client{plain, plainKey, fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", target.port), "HTTP/1.1 200", "plain", "certificate"})
		for _, c := range []client{{}, {cert: strange, key: strangeKey}, {cert: late, key: lateKey}, {cert: wrong, key: wrongKey}} {
			c.say = greeting + ask
			try(t, s, target, c)
		}
	})
	t.Run("optional", func(t *testing.T) {
		s, target := certificates(t, ca, ", client_auth: optional", "")
		try(t, s, target, client{"", "", greeting + ask, "\x05\x00" + reply, "", "none"})
		try(t, s, target, client{plain, plainKey, greeting + ask, "\x05\x00" + reply, "plain", "certificate"})
		try(t, s, target, client{cert: strange, key: strangeKey, say: greeting + ask})
	})
	t.Run("both", func(t *testing.T) {
		s, target := certificates(t, ca, ", client_auth: optional", `["certificate+password"]`)
		try(t, s, target, client{plain, plainKey, byPassword, "\x05\x02\x01\x00" + reply, "alice", "certificate+password"})
		try(t, s, target, client{plain, plainKey, "\x05\x01\x02" + login("alice", "wrong"), "\x05\x02\x01\x01", "", ""})
		try(t, s, target, client{plain, plainKey, greeting + ask, "\x05\xff", "", ""})
		try(t, s, target, client{"", "", byPassword, "\x05\xff", "", ""})
		try(t, s, target, client{plain, plainKey, fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", target.port), "HTTP/1.1 407", "", ""})
	})
	t.Run("only", func(t *testing.T) {
		s, target := certificates(t, ca, ", client_auth: optional", `{"certificate"}`)
		try(t, s, target, client{plain, plainKey, greeting + ask, "\x05\x00" + reply, "plain", "certificate"})
		try(t, s, target, client{"", "", greeting + ask, "\x05\xff", "", ""})
		try(t, s, target, client{plain, plainKey, byPassword, "\x05\xff", "", ""})
	})
	t.Run("curl", func(t *testing.T) {
		origin, data := origin(t)
		doorCert, doorKey := ca.server(t, "door")
		s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q, client_ca: %q}}]`, doorCert, doorKey, ca.file),
			"--data", write(t, filepath.Join(t.TempDir(), "d.json"), data))
		args := []string{"-p", "--proxy-cacert", ca.file, "-x", "https://" + s.addr, origin}
		if out, code := curl(t, append(args, "--proxy-cert", plain, "--proxy-key", plainKey)...); code != 0 || !strings.HasPrefix(out, "hello") {
			t.Errorf("curl exits %d: %s", code, out)
		}
		if _, code := curl(t, args...); code == 0 {
			t.Error("without a certificate curl is served")
		}
	})
}

// A revoked authority is not believed any more, session tickets or not.
func TestAuthorityReload(t *testing.T) {
	t.Parallel()
	ca, next := newAuthority(t, "ca"), newAuthority(t, "next")
	cert, key := ca.server(t, "door")
	mine, myKey := ca.issue(t, "me", nil)
	trusted := filepath.Join(t.TempDir(), "trusted.pem")
	text, _ := os.ReadFile(ca.file)
	write(t, trusted, string(text))
	_, data := origin(t)
	s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q, client_ca: %q}}]`, cert, key, trusted),
		"--data", write(t, filepath.Join(t.TempDir(), "d.json"), data))
	pair, err := tls.LoadX509KeyPair(mine, myKey)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: ca.pool(), ServerName: "localhost", Certificates: []tls.Certificate{pair}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	served := func() (resumed, ok bool) {
		c, err := tls.Dial("tcp", s.addr, config)
		if err != nil {
			return false, false
		}
		defer c.Close()
		io.WriteString(c, "\x05\x01\x00")
		_, err = io.ReadFull(c, make([]byte, 2))
		return c.ConnectionState().DidResume, err == nil
	}
	served()
	if resumed, ok := served(); !ok || !resumed {
		t.Errorf("before: %v, %v", resumed, ok)
	}
	s.wait(t, 0, "certificate active")
	s.forget("certificate active")
	text, _ = os.ReadFile(next.file)
	write(t, trusted, string(text))
	s.wait(t, 0, "certificate active")
	if _, ok := served(); ok {
		t.Error("a certificate of an authority that is not trusted any more is believed")
	}
}

func TestManagementOverTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	mine, myKey := ca.issue(t, "ops", nil)
	dir := t.TempDir()
	s := follow(t, program("run", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0", "--set", "state.path="+filepath.Join(dir, "state.db"),
		"--set", "management.tls.cert="+cert, "--set", "management.tls.key="+key, "--set", "management.tls.client_ca="+ca.file, "--set", "management.tls.client_auth=optional"))
	api := "https://" + s.wait(t, 0, "management")["address"].(string) + "/v1/policy"
	if out, _ := curl(t, "--cacert", ca.file, api, "-w", "%{http_code}"); !strings.HasSuffix(out, "401") {
		t.Errorf("without a certificate: %s", out)
	}
	if out, _ := curl(t, "--cacert", ca.file, "--cert", mine, "--key", myKey, api, "-w", "%{http_code}"); !strings.HasSuffix(out, "200") {
		t.Errorf("with a certificate: %s", out)
	}
}

// openssl, ncat and socat speak SOCKS5 or HTTP through it.
func TestTLSTools(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	target := serveEcho(t, "127.0.0.1:0")
	s := listening(t, fmt.Sprintf(`[{address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key), "--data", settings(t, loopback, target.port))
	_, port, _ := net.SplitHostPort(s.addr)
	for name, args := range map[string][]string{
		"openssl": {"s_client", "-quiet", "-verify_return_error", "-CAfile", ca.file, "-connect", s.addr},
		"ncat":    {"--ssl-verify", "--ssl-trustfile", ca.file, "localhost", port},
		"socat":   {"-t", "20", "-", "OPENSSL:localhost:" + port + ",cafile=" + ca.file},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, installed(t, name), args...)
			in, _ := cmd.StdinPipe()
			out, _ := cmd.StdoutPipe()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer cmd.Process.Kill()
			fmt.Fprintf(in, "CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: a\r\n\r\nhello there", target.port)
			got := make([]byte, 0, 1000)
			for !bytes.HasSuffix(got, []byte("hello there")) {
				n, err := out.Read(got[len(got):cap(got)])
				got = got[:len(got)+n]
				if err != nil {
					t.Fatalf("%v: %q", err, got)
				}
			}
			in.Close()
		})
	}
}
