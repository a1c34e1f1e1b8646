package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"sallyport/policy/distribute"
	"sallyport/proxy/config"
	"sallyport/proxy/geo"
)

// openGeo opens the configured databases. A replacement is held beside the one
// that it replaces, so they get half of the memory. An error is a config.Problems.
func openGeo(c *config.Config) (*geo.Databases, error) {
	databases, err := geo.Open(c.GeoIP.Databases, int64(c.Limits.Memory)/2)
	if err == nil {
		return databases, nil
	}
	var problems config.Problems
	for _, refused := range geo.FileErrors(err) {
		key := fmt.Sprintf("geoip.databases[%d]", slices.Index(c.GeoIP.Databases, refused.Path))
		problems = append(problems, c.Problem(key, refused.Error()))
	}
	return nil, problems
}

// missing says why a fact that a policy reads will be empty: no database knows it.
func missing(d *geo.Databases) func(path ...string) string {
	return func(path ...string) string {
		if len(path) < 2 || path[1] != "geo" {
			return ""
		}
		switch {
		case len(d.List()) == 0:
			return "no GeoIP database is configured (geoip.databases)"
		case len(path) > 2 && !d.Knows(path[2]):
			return "none of the GeoIP databases knows it"
		}
		return ""
	}
}

// startGeo lets the proxy locate addresses, and has the databases read again when
// their files change, until ctx ends.
func (s *server) startGeo(ctx context.Context) error {
	if len(s.config.GeoIP.Databases) == 0 {
		return nil
	}
	for _, d := range s.geo.List() {
		s.logGeo(d)
	}
	s.proxy.Locator = s.geo
	if err := distribute.Watch(ctx, s.config.GeoIP.Databases, func() { s.reloadGeo() }); err != nil {
		return err
	}
	s.reloadGeo() // one may have been replaced since it was opened
	return nil
}

// reloadGeo reads the databases again whose files have changed. What is refused
// leaves the old one in place.
func (s *server) reloadGeo() error {
	replaced, err := s.geo.Reload()
	for _, d := range replaced {
		s.telemetry.GeoIPActivated(filepath.Base(d.Path), "ok")
		s.logGeo(d)
	}
	for _, refused := range geo.FileErrors(err) {
		s.telemetry.GeoIPActivated(filepath.Base(refused.Path), "refused")
		s.log.Error("geoip database refused; the active one stays", "file", refused.Path, "error", refused.Err.Error())
	}
	return err
}

func (s *server) logGeo(d geo.Info) {
	s.log.Info("geoip database active", "file", d.Path, "type", d.Type, "built", d.Built, "facts", d.Facts)
}

// geoAges tells the age of each database, for the metric.
func (s *server) geoAges(observe func(database, kind string, age time.Duration)) {
	for _, d := range s.geo.List() {
		observe(filepath.Base(d.Path), d.Type, time.Since(d.Built))
	}
}

// geoDatabases are what /v1/policy shows.
func (s *server) geoDatabases() []geoDatabase {
	var view []geoDatabase
	for _, d := range s.geo.List() {
		view = append(view, geoDatabase{d, int64(time.Since(d.Built).Seconds())})
	}
	return view
}

type geoDatabase struct {
	geo.Info
	Age int64 `json:"age_seconds"`
}
