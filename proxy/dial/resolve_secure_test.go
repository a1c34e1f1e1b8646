package dial

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// secure is a TLS certificate for example.com and 127.0.0.1, and who vouches.
func secure(t *testing.T) (tls.Certificate, *x509.CertPool) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.TLS.Certificates[0], roots
}

func TestLookupOverTLS(t *testing.T) {
	certificate, roots := secure(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{answer: of("$ A 127.0.0.9"), address: l.Addr().(*net.TCPAddr).AddrPort()}
	s.serve(t, &dns.Server{Listener: l})
	for _, test := range []struct {
		name  string // of the certificate
		roots *x509.CertPool
		works bool
	}{
		{"example.com", roots, true},
		{"", roots, true}, // the address stands in it
		{"other.example", roots, false},
		{"example.com", x509.NewCertPool(), false},
	} {
		before := len(s.questions())
		server := s.over(TLS)
		server.Name = test.name
		r := resolving(t, ResolverOptions{Servers: []Server{server}, Roots: test.roots, Timeout: 5 * time.Second})
		for range 2 {
			got, err := r.Lookup(t.Context(), "name.example")
			if works := err == nil && slices.Equal(texts(got), []string{"127.0.0.9"}); works != test.works {
				t.Errorf("%+v: got %v, %v", test, texts(got), err)
			}
			r.Forget()
		}
		if asked := len(s.questions()) > before; asked != test.works {
			t.Errorf("%+v: the server was asked: %v", test, asked)
		}
	}
}

func TestLookupOverHTTPS(t *testing.T) {
	whole := func(w http.ResponseWriter, reply []byte) {
		w.Header().Set("Content-Type", "application/dns-message")
		w.Write(reply)
	}
	for _, test := range []struct {
		name    string
		serve   func(w http.ResponseWriter, reply []byte)
		outcome string
	}{
		{"an answer", whole, ""},
		{"an HTTP error", func(w http.ResponseWriter, reply []byte) { w.WriteHeader(503) }, "malformed"},
		{"elsewhere", func(w http.ResponseWriter, reply []byte) {
			w.Header().Set("Location", "https://127.0.0.1:1/dns-query")
			w.WriteHeader(307)
		}, "malformed"},
		{"something else", func(w http.ResponseWriter, reply []byte) { w.Write(reply) }, "malformed"},
		{"no message", func(w http.ResponseWriter, reply []byte) { whole(w, reply[:5]) }, "malformed"},
		{"without end", func(w http.ResponseWriter, reply []byte) {
			for range 100 {
				whole(w, make([]byte, 1<<20))
			}
		}, "malformed"},
		{"too large", func(w http.ResponseWriter, reply []byte) { whole(w, append(reply, make([]byte, 1<<17)...)) }, "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var asked []string
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
				body, _ := io.ReadAll(request.Body)
				query := new(dns.Msg)
				if query.Unpack(body) != nil || query.Id != 0 || len(body) != 128 || request.Header.Get("Content-Type") != "application/dns-message" {
					w.WriteHeader(400)
					return
				}
				asked = append(asked, fmt.Sprintf("%s %s %s %s", request.Proto, request.Method, request.Host, request.URL.EscapedPath()))
				reply := new(dns.Msg).SetReply(query)
				packed, _ := of("$ A 127.0.0.9")(reply, "").Pack()
				test.serve(w, packed)
			}))
			s.EnableHTTP2 = true
			s.StartTLS()
			defer s.Close()
			roots := x509.NewCertPool()
			roots.AddCert(s.Certificate())
			server := Server{Transport: HTTPS, Address: netip.MustParseAddrPort(s.Listener.Addr().String()), Name: "example.com", Path: "/own%2Fpath"}
			r := resolving(t, ResolverOptions{Servers: []Server{server}, Roots: roots, Family: IPv4, Timeout: 5 * time.Second})
			got, err := r.Lookup(t.Context(), "name.example")
			outcome := ""
			var failed *LookupError
			if errors.As(err, &failed) {
				outcome = failed.Outcome
			}
			if outcome != test.outcome || err == nil && !slices.Equal(texts(got), []string{"127.0.0.9"}) {
				t.Errorf("got %v, %v", texts(got), err)
			}
			if err != nil && strings.Contains(err.Error(), "own%2Fpath") {
				t.Errorf("the path may be a secret: %v", err)
			}
			want := fmt.Sprintf("HTTP/2.0 POST example.com:%d /own%%2Fpath", server.Address.Port())
			if !slices.Equal(asked, []string{want}) {
				t.Errorf("asked %q, want %q", asked, want)
			}
		})
	}
}
