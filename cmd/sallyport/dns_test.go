package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// unbound is a name server that nobody here has written, of that make or another: a
// zone over UDP, TCP, TLS and HTTPS. It logs what it is asked.
type unbound struct {
	question          string // how its log has one for an address, in lower case; $ is the name
	plain, tls, https string // where it is
	ca                string // the file of who vouches for it, as dns.example
	mu                sync.Mutex
	log               strings.Builder
}

func serveUnbound(t *testing.T) *unbound { return serveUnboundAt(t, "127.0.0.1") }

func serveUnboundAt(t *testing.T, ip string) *unbound {
	t.Helper()
	path, dir := installed(t, "unbound", "/usr/sbin/unbound"), t.TempDir()
	u := &unbound{question: " $. a in", plain: freeAddressAt(t, ip), tls: freeAddressAt(t, ip), https: freeAddressAt(t, ip)}
	u.ca = selfSigned(t, dir)
	at := func(address string) string { return strings.Replace(address, ":", "@", 1) }
	_, tlsPort, _ := net.SplitHostPort(u.tls)
	_, httpsPort, _ := net.SplitHostPort(u.https)
	config := write(t, filepath.Join(dir, "unbound.conf"), `server:
  interface: `+at(u.plain)+`
  interface: `+at(u.tls)+`
  interface: `+at(u.https)+`
  access-control: 192.0.2.0/24 allow
  tls-port: `+tlsPort+`
  https-port: `+httpsPort+`
  tls-service-key: "`+filepath.Join(dir, "key.pem")+`"
  tls-service-pem: "`+u.ca+`"
  username: ""
  chroot: ""
  directory: "`+dir+`"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  log-queries: yes
  module-config: "iterator"
  num-threads: 1
  outgoing-range: 64
remote-control:
  control-enable: no
auth-zone:
  name: "corp.example."
  zonefile: "`+zoneFile(t, dir)+`"
  for-upstream: no
  for-downstream: yes
`)
	u.serve(t, "start of service", path, "-d", "-p", "-c", config)
	return u
}

// serveBind is the same by BIND.
func serveBind(t *testing.T) *unbound {
	t.Helper()
	path, dir := installed(t, "named", "/usr/sbin/named"), t.TempDir()
	u := &unbound{question: " query: $ in a ", plain: freeAddressAt(t, "127.0.0.1"), tls: freeAddressAt(t, "127.0.0.1"), https: freeAddressAt(t, "127.0.0.1")}
	u.ca = selfSigned(t, dir)
	port := func(address string) string { return address[strings.LastIndex(address, ":")+1:] }
	config := write(t, filepath.Join(dir, "named.conf"), `tls own { cert-file "`+u.ca+`"; key-file "`+filepath.Join(dir, "key.pem")+`"; };
options {
  directory "`+dir+`";
  pid-file none;
  session-keyfile none;
  recursion no;
  querylog yes;
  listen-on-v6 { none; };
  listen-on port `+port(u.plain)+` { 127.0.0.1; };
  listen-on port `+port(u.tls)+` tls own { 127.0.0.1; };
  listen-on port `+port(u.https)+` tls own http default { 127.0.0.1; };
};
controls { };
zone "corp.example" { type primary; file "`+zoneFile(t, dir)+`"; };
`)
	u.serve(t, " running", path, "-g", "-n", "1", "-c", config)
	return u
}

// zoneFile is what the servers know.
func zoneFile(t *testing.T, dir string) string {
	t.Helper()
	zone := `$ORIGIN corp.example.
@ 300 SOA ns host 1 3600 600 86400 40
@ 300 NS ns
ns 300 A 127.0.0.1
here 60 A 127.0.0.1
alias 60 CNAME middle
middle 60 CNAME here
outside 60 CNAME tracker
tracker 60 A 127.0.0.1
private 60 A 10.0.0.1
nothing 60 TXT "x"
denied 60 A 127.0.0.1
`
	for i := range 100 {
		zone += fmt.Sprintf("large 60 A 127.0.1.%d\n", i+1)
	}
	return write(t, filepath.Join(dir, "zone"), zone)
}

// serve runs a server until the test ends, and returns once its log says that it is
// ready.
func (u *unbound) serve(t *testing.T, ready, path string, arguments ...string) {
	t.Helper()
	c := exec.Command(path, arguments...)
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(stderr)
		for begun := false; lines.Scan(); {
			u.mu.Lock()
			fmt.Fprintln(&u.log, lines.Text())
			u.mu.Unlock()
			if !begun && strings.Contains(lines.Text(), ready) {
				begun = true
				close(started)
			}
		}
	}()
	t.Cleanup(func() { c.Process.Kill(); <-ended; c.Wait() })
	select {
	case <-started:
	case <-ended:
		t.Fatalf("%s: %s", path, u.said())
	}
}

func (u *unbound) said() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.log.String()
}

func freeAddressAt(t *testing.T, ip string) string {
	t.Helper()
	return net.JoinHostPort(ip, freePort(t))
}

// selfSigned writes key.pem, and the certificate of dns.example whose file it
// returns.
func selfSigned(t *testing.T, dir string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "dns.example"}, DNSNames: []string{"dns.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	return write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

func TestNamesByUnbound(t *testing.T) {
	t.Parallel()
	testNames(t, serveUnbound(t))
}

func TestNamesByBind(t *testing.T) {
	t.Parallel()
	testNames(t, serveBind(t))
}

func testNames(t *testing.T, u *unbound) {
	target, _ := origin(t)
	at, _ := url.Parse(target)
	data := write(t, filepath.Join(t.TempDir(), "d.json"), `{"settings": {"allow_private": ["127.0.0.0/8"]}}`)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "route.rego"), `package sallyport.route
default allow := false
allow if input.request.command == "connect"
deny contains "denied" if startswith(input.target.host, "denied.")
`)
	write(t, filepath.Join(dir, "dial.rego"), `package sallyport.dial
default allow := false
allow if input.address.scope == "loopback"
deny contains sprintf("is %s", [name]) if {
	some name in input.address.names
	name == "tracker.corp.example"
}
explain := true
`)
	_, tlsPort, _ := net.SplitHostPort(u.tls)
	_, httpsPort, _ := net.SplitHostPort(u.https)
	for _, server := range []string{
		u.plain, "tcp://" + u.plain,
		"tls://" + u.tls + "#dns.example", "tls://dns.example:" + tlsPort,
		"https://" + u.https + "/dns-query#dns.example", "https://dns.example:" + httpsPort,
	} {
		t.Run(server, func(t *testing.T) {
			config := "dns: {servers: ['" + server + "'], ca: " + u.ca
			if strings.Contains(server, "//dns.example") {
				config += ", bootstrap: {dns.example: 127.0.0.1}"
			}
			before := len(u.said())
			s := start(t, "--config", write(t, filepath.Join(t.TempDir(), "c.yaml"), config+"}"), "--policy", dir, "--data", data)
			for name, want := range map[string]string{
				"here": "hello 0", "alias": "hello 0", "large": "hello 0",
				"unknown": `rcode="NXDOMAIN"`, "nothing": `rcode="NOERROR"`, "private": "destination_ip_prohibited",
				"outside": `is tracker.corp.example`, "denied": "http_request_denied",
			} {
				to := "http://" + name + ".corp.example:" + at.Port()
				if name == "large" { // listen on all of them
					to = "http://large.corp.example:" + everywhere(t)
				}
				got, _ := curl(t, "-i", "--proxytunnel", "--proxy", "http://"+s.addr, to)
				if !strings.Contains(got, want) {
					t.Errorf("%s: %s", name, got)
				}
				said, code := curl(t, "--proxy", "socks5h://"+s.addr, to)
				if (code == 0) != (want == "hello 0") {
					t.Errorf("%s by SOCKS5: %d, %s", name, code, said)
				}
			}
			asked := u.said()[before:]
			for _, name := range []string{"here", "alias", "large", "unknown", "nothing", "private", "outside"} {
				if n := strings.Count(strings.ToLower(asked), strings.ReplaceAll(u.question, "$", name+".corp.example")); n != 1 && (n != 2 || name != "large" || server != u.plain) {
					t.Errorf("%s was asked about %d times", name, n)
				}
			}
			if strings.Contains(strings.ToLower(asked), "denied") {
				t.Errorf("a denied name was looked up:\n%s", asked)
			}
		})
	}
	t.Run("another's certificate", func(t *testing.T) {
		config := "dns: {servers: ['tls://" + u.tls + "#other.example', 'https://" + u.https + "#other.example'], ca: " + u.ca + "}"
		before := len(u.said())
		s := start(t, "--config", write(t, filepath.Join(t.TempDir(), "c.yaml"), config), "--policy", dir, "--data", data)
		got, _ := curl(t, "-i", "--proxytunnel", "--proxy", "http://"+s.addr, "http://here.corp.example:"+at.Port())
		if !strings.Contains(got, "502") || !strings.Contains(got, "dns_error") || strings.Contains(u.said()[before:], "corp.example") {
			t.Errorf("%s\n%s", got, u.said()[before:])
		}
		if _, line := s.ended(t, 0); line["outcome"] != "resolver" || !strings.Contains(fmt.Sprint(line["cause"]), "certificate") {
			t.Errorf("%v", line)
		}
	})
}

// everywhere is the port of a server like origin's on every address of loopback.
func everywhere(t *testing.T) string {
	t.Helper()
	return fmt.Sprint(serve(t, "0.0.0.0:0", func(c *net.TCPConn) {
		bufio.NewReader(c).ReadString('\n')
		fmt.Fprint(c, "HTTP/1.0 200 OK\r\n\r\nhello 0")
	}))
}
