package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"sallyport/policy/distribute"
	"sallyport/proxy/config"
	"sallyport/proxy/listen"
)

// doors.go opens what clients and callers come by: addresses, and the TLS on them.

// listen opens every listener, or none.
func (s *server) listen(ctx context.Context) ([]*listen.Listener, error) {
	var open []*listen.Listener
	for _, l := range s.config.Listeners {
		door := listen.Config{
			Name: l.Name, Address: l.Address, Loops: s.loops, Mode: config.SocketMode(l.Mode), TLS: s.tls[l.Name],
			OnError: func(err error) { s.log.Warn("accept", "listener", l.Name, "error", err) },
		}
		if l.ProxyProtocol != nil {
			door.Trusted, door.Header, door.Waiting = l.ProxyProtocol.Trusted, s.config.Limits.Handshake, s.config.Limits.Connections
		}
		one, err := listen.Open(ctx, door)
		if err != nil {
			for _, o := range open {
				o.Close()
			}
			return nil, err
		}
		open = append(open, one)
		s.log.Info("listening", "listener", l.Name, "address", one.String())
	}
	return open, nil
}

func openManagement(ctx context.Context, c *config.Management) (net.Listener, error) {
	if path, ok := strings.CutPrefix(c.Address, "unix:"); ok {
		return listen.OpenUnix(ctx, path, config.SocketMode(c.Mode))
	}
	return (&net.ListenConfig{}).Listen(ctx, "tcp", c.Address)
}

// loadTLS reads the certificates of every listener, and of the management API. An
// error is a config.Problems.
func loadTLS(c *config.Config, files *opened) (map[string]*listen.TLS, error) {
	all := map[string]*listen.TLS{}
	var problems config.Problems
	load := func(name, key string, t *config.TLS, http bool) {
		if t == nil {
			return
		}
		settings := listen.TLSFiles{
			Cert: t.Cert, Key: t.Key, ClientCA: t.ClientCA, Optional: t.ClientAuth == "optional", HTTP: http,
		}
		if t.MinVersion == "1.3" {
			settings.Least = tls.VersionTLS13
		}
		loaded, err := listen.LoadTLS(settings)
		var refused *listen.FileError
		if errors.As(err, &refused) {
			problems = append(problems, c.Problem(key+".tls."+refused.Of, refused.Err.Error()))
			return
		}
		all[name] = loaded
		files.date(c, key+".tls.cert", t.Cert, loaded.Certificate())
	}
	for i, l := range c.Listeners {
		load(l.Name, fmt.Sprintf("listeners[%d]", i), l.TLS, slices.Contains(l.Protocols, config.HTTP))
	}
	load("", "management", c.Management.TLS, true)
	if len(problems) > 0 {
		return nil, problems
	}
	return all, nil
}

// watchTLS has the certificates read again when their files change, until ctx ends.
func (s *server) watchTLS(ctx context.Context) error {
	var files []string
	for _, t := range s.tls {
		files = append(files, t.Names()...)
	}
	if len(files) == 0 {
		return nil
	}
	if err := distribute.Watch(ctx, files, func() { s.reloadTLS() }); err != nil {
		return err
	}
	return s.reloadTLS() // one may have been replaced since it was read
}

// reloadTLS reads the certificates again. What cannot be used leaves the old in
// place.
func (s *server) reloadTLS() error {
	var failed []error
	for name, t := range s.tls {
		shown := "listener " + name
		if name == "" {
			shown = "management"
		}
		if err := t.Reload(); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", shown, err))
			s.log.Error("certificate refused; the one in use stays", "of", shown, "error", err.Error())
			continue
		}
		shows := t.Certificate()
		s.log.Info("certificate active", "of", shown, "not_after", shows.NotAfter)
		if text := outOfDate(shows); text != "" {
			s.log.Warn("certificate is out of date", "of", shown, "problem", t.Names()[0]+" "+text)
		}
	}
	return errors.Join(failed...)
}
