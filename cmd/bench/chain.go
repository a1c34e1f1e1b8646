package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Chains: each contender leads through one and the same proxy far away, which is
// sallyport with a policy that allows everything, by one of these.
const (
	byHTTP   = "http"
	byHTTPS  = "https"  // TLS 1.3
	bySOCKS5 = "socks5" // with a user name and a password
)

// chains are the proxies that lead through the far one.
type chains struct {
	plain, secured *path  // to the far one
	ca             string // the file of who vouches for it
}

// What the far proxy's certificate says, and whom it knows.
const (
	farName     = "far.example"
	farUser     = "bench"
	farPassword = "right-horse"
)

// startFar starts the far proxy, and opens the ways to it.
func (s *stable) startFar(ctx context.Context, program string) (*chains, error) {
	c := &chains{}
	var secured string
	far, err := s.start(ctx, recipe{name: "far", scheme: "http", program: program, arguments: func(s *stable, dir, host, port string) ([]string, error) {
		more, err := freePort(host)
		if err != nil {
			return nil, err
		}
		secured = net.JoinHostPort(host, more)
		if c.ca, err = selfSigned(dir, farName); err != nil {
			return nil, err
		}
		hash := exec.CommandContext(ctx, program, "user", "hash")
		hash.Stdin = strings.NewReader(farPassword + "\n")
		hashed, err := hash.Output()
		if err != nil {
			return nil, fmt.Errorf("hash of a password: %w", err)
		}
		policy := filepath.Join(dir, "policy")
		err = errors.Join(writeAllowAll(policy),
			write(filepath.Join(policy, "data.json"), fmt.Sprintf(`{"users": {%q: {"password": %q}}}`, farUser, strings.TrimSpace(string(hashed)))),
			write(filepath.Join(policy, "admit.rego"), "package sallyport.admit\n\nallow := true\n\nmethods := {\"password\", \"none\"}\n"))
		arguments := sallyportRun(s, dir, host, port, "--policy", policy)
		at := slices.Index(arguments, "--listen") // which would go before all others
		return append(slices.Delete(arguments, at, at+2), "--set", fmt.Sprintf(
			"listeners=[{name: plain, address: '%s:%s'}, {name: secured, address: '%s', tls: {cert: '%s', key: '%s'}}]",
			host, port, secured, c.ca, filepath.Join(dir, "key.pem"))), err
	}})
	if err != nil {
		return nil, err
	}
	if c.plain, err = openPath(far.through.address); err != nil {
		return nil, err
	}
	if c.secured, err = openPath(secured); err != nil {
		c.plain.close()
		return nil, err
	}
	return c, nil
}

func (c *chains) close() {
	c.plain.close()
	c.secured.close()
}

// take has the way to the far proxy, there and back, take so long from now on.
func (c *chains) take(roundTrip time.Duration) {
	c.plain.roundTrip.Store(int64(roundTrip))
	c.secured.roundTrip.Store(int64(roundTrip))
}

// chained is a proxy that leads through the far one.
type chained struct {
	recipe
	by string
}

// recipes are of sallyport, without and with connections opened ahead, and of the
// peers that know of a proxy behind them. Several may be of one name, if they lead
// there by something else.
func (c *chains) recipes(program string) (all []chained) {
	for _, by := range []string{byHTTP, byHTTPS, bySOCKS5} {
		for _, idle := range []int{0, 4} {
			r := recipe{name: "sallyport", scheme: "http", program: program, arguments: c.sallyport(by, idle)}
			if idle > 0 {
				r.name = "sallyport-pool"
			}
			all = append(all, chained{r, by})
		}
	}
	return append(all,
		chained{recipe{name: "squid", scheme: "http", program: "squid", debian: "squid", arguments: c.squid("")}, byHTTP},
		chained{recipe{name: "squid-standby", scheme: "http", program: "squid", debian: "squid", arguments: c.squid(" standby=4")}, byHTTP},
		chained{recipe{name: "tinyproxy", scheme: "http", program: "tinyproxy", debian: "tinyproxy", arguments: c.tinyproxy("http %s")}, byHTTP},
		chained{recipe{name: "tinyproxy", scheme: "http", program: "tinyproxy", debian: "tinyproxy", arguments: c.tinyproxy("socks5 " + farUser + ":" + farPassword + "@%s")}, bySOCKS5},
	)
}

func (c *chains) sallyport(by string, idle int) func(s *stable, dir, host, port string) ([]string, error) {
	return func(s *stable, dir, host, port string) ([]string, error) {
		url := "http://" + c.plain.address()
		switch by {
		case byHTTPS:
			url = "https://" + c.secured.address()
		case bySOCKS5:
			url = "socks5h://" + farUser + ":" + farPassword + "@" + c.plain.address()
		}
		config := fmt.Sprintf("upstreams:\n  far: {url: %q, pool: {idle: %d}", url, idle)
		if by == byHTTPS {
			config += fmt.Sprintf(", tls: {ca: %q, server_name: %s}", c.ca, farName)
		}
		policy, file := filepath.Join(dir, "policy"), filepath.Join(dir, "sallyport.yaml")
		return sallyportRun(s, dir, host, port, "--policy", policy, "--config", file), errors.Join(
			writeAllowAll(policy), write(file, config+"}\n"),
			write(filepath.Join(policy, "route.rego"), "package sallyport.route\n\nallow := true\n\nvia := [\"far\"]\n"))
	}
}

// squid asks a parent for everything, by CONNECT.
func (c *chains) squid(options string) func(s *stable, dir, host, port string) ([]string, error) {
	return func(s *stable, dir, host, port string) ([]string, error) {
		arguments, err := squid(s, dir, host, port)
		parent, at, err2 := net.SplitHostPort(c.plain.address())
		return append(arguments, "-n", "chain"+port), errors.Join(err, err2, appendTo(filepath.Join(dir, "squid.conf"), fmt.Sprintf(
			"cache_peer %s parent %s 0 no-query no-digest default%s\nnever_direct allow all\n", parent, at, options)))
	}
}

// tinyproxy has one upstream for everything.
func (c *chains) tinyproxy(upstream string) func(s *stable, dir, host, port string) ([]string, error) {
	return func(s *stable, dir, host, port string) ([]string, error) {
		arguments, err := tinyproxy(s, dir, host, port)
		return arguments, errors.Join(err, appendTo(filepath.Join(dir, "tinyproxy.conf"), "Upstream "+fmt.Sprintf(upstream, c.plain.address())+"\n"))
	}
}

// startChains starts all of them that are installed, and wanted.
func (s *stable) startChains(ctx context.Context, c *chains, program string, wanted func(string) bool) (all []*contender, err error) {
	for _, r := range c.recipes(program) {
		name := r.name
		if !wanted(name) {
			continue
		}
		r.name += "-by-" + r.by // of which there is one
		found, err := s.start(ctx, r.recipe)
		if errors.Is(err, errNotInstalled) && r.debian != "" {
			continue // which the other contenders tell
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		found.name, found.chained = name, r.by
		all = append(all, found)
	}
	return all, nil
}

// chainMeasurements are for contenders that lead through the far proxy.
func chainMeasurements() []measurement {
	return []measurement{{"chained", setUp}, {"chained-cpu", chainedProcessor}}
}

// setUp is how long one client alone waits until it is told that its tunnel is
// there.
func setUp(ctx context.Context, c *contender, s settings) (figures, error) {
	var took []time.Duration
	for end := time.Now().Add(s.duration); ctx.Err() == nil && time.Now().Before(end); {
		begun := time.Now()
		conn, err := c.open()
		if err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
		conn.Close()
	}
	if len(took) == 0 {
		return nil, context.Cause(ctx)
	}
	slices.Sort(took)
	return figures{"chained_" + c.chained + "_p50_ms": float64(took[len(took)/2]) / 1e6}, nil
}

// chainedProcessor is what many connections at once cost the proxy before the far
// one.
func chainedProcessor(ctx context.Context, c *contender, s settings) (figures, error) {
	found, err := connections(ctx, c, s)
	return figures{"chained_" + c.chained + "_cpu_us": found["connect_cpu_us"]}, err
}

// selfSigned writes key.pem, and the certificate of a name whose file it returns.
func selfSigned(dir, name string) (file string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "cert.pem")
	return file, errors.Join(
		write(filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))),
		write(file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))))
}
