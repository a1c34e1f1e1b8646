package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"sallyport/policy/distribute"
	"sallyport/policy/engine"
	"sallyport/proxy/config"
	"sallyport/proxy/geo"
	"sallyport/proxy/listen"
	"sallyport/proxy/upstream"
)

// opened.go reads the files that the configuration names, so that all that is
// wrong with any of them is told at once, each with the line that names it.

// opened is what those files hold, but for the policy, which is read again and
// again.
type opened struct {
	geo       *geo.Databases
	tls       map[string]*listen.TLS // by the listener's name; the management API's by ""
	upstreams []upstream.Upstream
	roots     *x509.CertPool // of dns.ca; nil: the system's

	dated config.Problems // certificates that are used though their time is over, or to come
}

// open reads a configuration and the files that it names. Where only these are
// wrong, there is a configuration beside the error: a policy can be judged by it.
func open(c *cobra.Command, o *config.Options) (*config.Config, *opened, error) {
	var read *config.Config
	var files *opened
	var beside config.Problems
	o.Beside = func(settings *config.Config) config.Problems {
		read = settings
		files, beside = openAll(settings)
		var ofOPA config.Problems
		if errors.As(checkOPA(settings), &ofOPA) {
			beside = append(beside, ofOPA...)
		}
		_, err := loadPolicy(settings)
		beside = append(beside, policyProblems(settings, err)...)
		return beside
	}
	settings, err := load(c, o)
	var problems config.Problems
	if errors.As(err, &problems) && len(problems) == len(beside) {
		return read, files, err
	}
	return settings, files, err
}

func openAll(c *config.Config) (*opened, config.Problems) {
	var all config.Problems
	failed := func(err error) {
		var problems config.Problems
		if errors.As(err, &problems) {
			all = append(all, problems...)
		}
	}
	files := &opened{}
	var err error
	if files.geo, err = openGeo(c); err != nil {
		failed(err)
	}
	if files.tls, err = loadTLS(c, files); err != nil {
		failed(err)
	}
	if files.upstreams, err = openUpstreams(c, files); err != nil {
		failed(err)
	}
	if files.roots, err = openRoots(c); err != nil {
		failed(err)
	}
	return files, all
}

// loadPolicy reads the policy's own files.
func loadPolicy(c *config.Config) (*engine.Candidate, error) {
	loaded, err := distribute.Load(c.Policy.Paths, c.Policy.Data, c.Decrypt)
	if err != nil {
		return nil, err
	}
	loaded.Partial = awaitsBundles(c)
	return loaded, nil
}

// policyProblems are what is wrong with the policy's files as far as they can be
// read at all, each with the line of the configuration that names it.
func policyProblems(c *config.Config, err error) (named config.Problems) {
	var found engine.Problems
	if !errors.As(err, &found) {
		return nil
	}
	for _, p := range found {
		key := ""
		for of, paths := range map[string][]string{"policy.paths": c.Policy.Paths, "policy.data": c.Policy.Data} {
			i := slices.IndexFunc(paths, func(path string) bool { return path != "" && filepath.Clean(path) == p.File })
			if i >= 0 && p.Row == 0 {
				key = fmt.Sprintf("%s[%d]", of, i)
			}
		}
		if key != "" {
			named = append(named, c.Problem(key, p.File+": "+p.Message))
		} else {
			named = append(named, config.Problem{File: p.File, Line: p.Row, Column: p.Column, Message: p.Message})
		}
	}
	return named
}

// date notes a certificate that nobody will take.
func (files *opened) date(c *config.Config, key, file string, shown *x509.Certificate) {
	if text := outOfDate(shown); text != "" {
		files.dated = append(files.dated, c.Problem(key, file+" "+text))
	}
}

// outOfDate says of a certificate why nobody takes it now; empty: it is in date.
func outOfDate(shown *x509.Certificate) string {
	switch now := time.Now(); {
	case now.After(shown.NotAfter):
		return "has expired on " + shown.NotAfter.UTC().Format(time.RFC3339)
	case now.Before(shown.NotBefore):
		return "is not valid before " + shown.NotBefore.UTC().Format(time.RFC3339)
	}
	return ""
}

// warn logs what check would have refused.
func (files *opened) warn(log *slog.Logger) {
	for _, p := range files.dated {
		log.Warn("certificate is out of date", "problem", p.String())
	}
}
