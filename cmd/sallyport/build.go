package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/policy"
	"sallyport/policy/distribute"
	"sallyport/policy/engine"
	"sallyport/proxy"
	"sallyport/proxy/config"
	"sallyport/proxy/dial"
	"sallyport/proxy/geo"
	"sallyport/proxy/guard"
	"sallyport/proxy/identity"
	"sallyport/proxy/listen"
	"sallyport/proxy/manage"
	processes "sallyport/proxy/process"
	"sallyport/proxy/session"
	"sallyport/telemetry"
)

// guarded is how many sources, user names and identities are remembered each.
const guarded = 65_536

// gcPercent trades memory, which limits.memory bounds, for fewer collections:
// decisions are short-lived garbage.
const gcPercent = 400

// server is the program, wired. build.go is the one file that knows every room.
type server struct {
	config    *config.Config
	log       *slog.Logger
	logLines  *telemetry.Writer
	logExport *telemetry.LogExport // nil: not asked for
	logFile   *telemetry.File      // nil: standard error
	decisions *distribute.DecisionLog
	telemetry *telemetry.Telemetry
	engine    *engine.Engine
	geo       *geo.Databases
	tls       map[string]*listen.TLS // by the listener's name; the management API's by ""
	verifier  *identity.Verifier
	sessions  *session.Table
	proxy     *proxy.Proxy

	loading  sync.Mutex             // one candidate at a time
	refusal  atomic.Pointer[string] // why the latest candidate was refused
	draining atomic.Bool
}

// engineOptions are what the configuration says to the engine, and which geo
// facts there will be. Without databases, nil, nothing is said of those.
func engineOptions(c *config.Config, d *geo.Databases) engine.Options {
	o := engine.Options{
		Timeout: c.Policy.Timeout, Lenient: !c.Policy.Strict,
		Roots: c.Policy.Roots, Capabilities: c.Policy.Capabilities,
		CheckData: func(data map[string]any) []error {
			_, errs := identity.Parse(data["users"])
			return errs
		},
	}
	if d != nil {
		o.Missing = missing(d)
	}
	for _, name := range c.Policy.Stages {
		o.Required = append(o.Required, policy.Stage(name))
	}
	return o
}

// build wires the rooms, loads the policy and watches its files until ctx ends.
// It listens nowhere yet.
func build(ctx context.Context, c *config.Config) (s *server, err error) {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(int64(c.Limits.Memory))
	s = &server{config: c, sessions: session.NewTable(c.Limits.Connections)}
	if err := s.openLog(ctx); err != nil {
		return nil, err
	}
	begun := s // an error returns no server
	defer func() {
		if err != nil {
			begun.close()
		}
	}()

	if s.geo, err = openGeo(c); err != nil {
		return nil, err
	}
	if s.tls, err = loadTLS(c); err != nil {
		return nil, err
	}
	options := engineOptions(c, s.geo)
	s.decisions, err = distribute.NewDecisionLog(map[string]any{
		"decision_logs": map[string]any{"console": c.Policy.OPA.DecisionLogs.Console},
	}, os.Stdout, s.log)
	if err != nil {
		return nil, err
	}
	if s.decisions != nil {
		options.Record = s.decisions.Record
	}
	options.Print = func(p *engine.Printed) {
		s.telemetry.Printed(&telemetry.Print{
			Stage: string(p.Stage), Session: p.Session, File: p.File, Line: p.Line, Text: p.Text, Withheld: p.Withheld,
		})
	}
	if s.engine, err = engine.New(options); err != nil {
		return nil, err
	}
	s.verifier = identity.NewVerifier(runtime.GOMAXPROCS(0))
	s.telemetry, err = telemetry.New(ctx, telemetry.Options{
		Log: s.log, LogExport: s.logExport, Prometheus: c.Telemetry.Prometheus, Version: version,
		ActiveSessions: func() int64 { return int64(s.sessions.Len()) },
		LogDropped:     s.logLines.Dropped,
		GeoIP:          s.geoAges,
		DecisionLogDropped: func() int64 {
			if s.decisions == nil {
				return 0
			}
			return s.decisions.Dropped()
		},
	})
	if err != nil {
		return nil, err
	}
	s.proxy = &proxy.Proxy{
		Decide: s.engine, Observe: s.telemetry, Verify: s.verifier,
		Resolve: dial.NewResolver(c.DNS.Servers), Dial: &dial.Dialer{},
		Processes: processes.NewFinder(), Sessions: s.sessions, Guard: guard.New(guarded),
		Limits:    proxy.Limits{Handshake: c.Limits.Handshake, Dial: c.Limits.Dial, Idle: c.Limits.Idle},
		Protocols: map[string][]string{},
	}
	for _, l := range c.Listeners {
		s.proxy.Protocols[l.Name] = l.Protocols
	}
	if err := s.startGeo(ctx); err != nil {
		return nil, err
	}
	if err := s.watchTLS(ctx); err != nil {
		return nil, err
	}
	if watched := slices.Concat(c.Policy.Paths, c.Policy.Data); len(watched) > 0 {
		// Watching comes first, so that no edit falls between.
		if err := distribute.Watch(ctx, watched, func() { s.reload(ctx) }); err != nil {
			return nil, err
		}
	}
	return s, s.load()
}

// openLog starts the log that everything else writes to.
func (s *server) openLog(ctx context.Context) error {
	var out io.Writer = os.Stderr
	if s.config.Log.File != "" {
		file, err := telemetry.OpenFile(s.config.Log.File)
		if err != nil {
			return err
		}
		s.logFile, out = file, file
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.config.Log.Level)); err != nil {
		return fmt.Errorf("log.level: %w", err)
	}
	s.log, s.logLines = telemetry.NewLogger(level, s.config.Log.Format, out)
	telemetry.LogComplaints(s.log, os.Environ())
	var err error
	s.log, s.logExport, err = telemetry.ExportLog(ctx, s.log, level, version)
	return err
}

// load reads the policy files, judges them, and makes them the policy that
// answers. What is refused changes nothing.
func (s *server) load() error {
	s.loading.Lock()
	defer s.loading.Unlock()
	snapshot, problems, err := candidate(s.engine, s.config)
	for _, p := range problems {
		if p.Warning {
			s.log.Warn("policy", "problem", p.String())
		}
	}
	if err != nil {
		text := err.Error()
		s.refusal.Store(&text)
		s.telemetry.Activated("refused")
		return err
	}
	users, errs := identity.Parse(snapshot.Data("users"))
	if len(errs) > 0 {
		return errors.Join(errs...) // the engine's check has seen them already
	}
	s.verifier.SetUsers(users)
	s.engine.Activate(snapshot)
	s.refusal.Store(nil)
	s.telemetry.Activated("ok")
	s.log.Info("policy active", "policy.revision", snapshot.Revision())
	return nil
}

// candidate loads and judges what the configuration names.
func candidate(e *engine.Engine, c *config.Config) (*engine.Snapshot, engine.Problems, error) {
	loaded, err := distribute.Load(c.Policy.Paths, c.Policy.Data)
	if err != nil {
		return nil, nil, err
	}
	snapshot, problems := e.Compile(loaded)
	if snapshot == nil {
		return nil, problems, problems
	}
	return snapshot, problems, nil
}

// reload is what HUP and the management API do: GeoIP databases that have changed,
// certificates and the policy are read again, and the log file opened again for those that
// rotate it. The configuration is read at the start only.
func (s *server) reload(context.Context) error {
	if s.logFile != nil {
		if err := s.logFile.Reopen(); err != nil {
			s.log.Error("log file is not reopened", "error", err)
		}
	}
	unread := join(s.reloadGeo(), s.reloadTLS())
	err := s.load()
	if err != nil {
		s.log.Error("policy refused; the active one stays", "error", err.Error())
	}
	return join(unread, err)
}

// run serves until stop is closed, then drains until the grace period ends or
// now is closed.
func (s *server) run(stop, now <-chan struct{}) error {
	defer s.close()
	ctx, end := context.WithCancel(context.Background())
	defer end()
	var serving sync.WaitGroup
	defer serving.Wait() // for the last session's record
	defer end()

	management, err := s.management(ctx)
	if err != nil {
		return err
	}
	listeners, err := s.listen(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	for _, l := range listeners {
		serving.Go(func() {
			if err := l.Serve(ctx, func(c *listen.Conn) { s.proxy.Serve(ctx, c) }); err != nil {
				s.log.Error("a listener is beyond use", "error", err)
			}
		})
	}
	serving.Go(func() {
		if err := management(); err != nil {
			s.log.Error("management", "error", err)
		}
	})

	<-stop
	s.draining.Store(true)
	s.log.Info("draining", "grace", s.config.Shutdown.Grace.String(), "sessions", s.sessions.Len())
	for _, l := range listeners {
		l.Close()
	}
	grace, cancel := context.WithTimeout(ctx, s.config.Shutdown.Grace)
	defer cancel()
	go func() {
		select {
		case <-now:
			cancel()
		case <-grace.Done():
		}
	}()
	if err := s.sessions.Drain(grace); err != nil {
		s.log.Warn("drained", "error", err)
	}
	return nil
}

// management opens the management API and returns the function that serves it.
func (s *server) management(ctx context.Context) (func() error, error) {
	c := s.config.Management
	tokens := map[string]manage.Token{}
	for name, t := range c.Tokens {
		tokens[name] = manage.Token{Secret: t.Token, Roles: t.Roles}
	}
	if len(tokens) == 0 {
		path := filepath.Join(filepath.Dir(s.config.State.Path), "sallyport.token")
		made, err := manage.TokenFile(path)
		if err != nil {
			return nil, fmt.Errorf("%w (a management.tokens entry makes the file unnecessary; state.path says where it goes)", err)
		}
		tokens["generated"] = manage.Token{Secret: made, Roles: []string{"admin"}}
		s.log.Info("management token", "file", path)
	}
	l, err := openManagement(ctx, &c)
	if err != nil {
		return nil, fmt.Errorf("management: %w", err)
	}
	shown := l.Addr().String()
	if l.Addr().Network() == "unix" {
		shown = c.Address
	}
	s.log.Info("management", "address", shown)
	options := manage.Options{
		Address: c.Address, Decide: s.engine, Observe: s.telemetry, Tokens: tokens, Sessions: s.sessions,
		Policy: s.policy, Ready: s.ready, Reload: s.reload, Log: s.log,
	}
	if t := s.tls[""]; t != nil {
		options.Secure = t.Listener
	}
	if s.config.Telemetry.Prometheus {
		options.Metrics = s.telemetry.Handler()
	}
	api := manage.New(options)
	return func() error { return api.Serve(ctx, l) }, nil
}

func (s *server) ready() error {
	switch {
	case s.draining.Load():
		return errors.New("draining")
	case s.engine.Active() == nil:
		return errors.New("no policy is active")
	}
	return nil
}

// policy is what /v1/policy shows.
func (s *server) policy() any {
	type stage struct {
		Stage   policy.Stage `json:"stage"`
		Default bool         `json:"default"`
		Fields  []string     `json:"fields"`
	}
	var view struct {
		Revision  string    `json:"revision"`
		Activated time.Time `json:"activated"`
		Stages    []stage   `json:"stages"`
		Refusal   string    `json:"refusal,omitempty"` // why the latest candidate was refused

		GeoIP []geoDatabase `json:"geoip,omitempty"`
	}
	view.GeoIP = s.geoDatabases()
	if active := s.engine.Active(); active != nil {
		view.Revision, view.Activated = active.Revision(), active.Activated()
		for _, i := range active.Stages() {
			view.Stages = append(view.Stages, stage{i.Stage, i.ByDefault, i.Fields})
		}
	}
	if text := s.refusal.Load(); text != nil {
		view.Refusal = *text
	}
	return view
}

// close ends what build started, the log last.
func (s *server) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if s.engine != nil {
		s.engine.Close()
	}
	if s.decisions != nil {
		if err := s.decisions.Close(ctx); err != nil {
			s.log.Warn("decision log", "error", err)
		}
	}
	if s.telemetry != nil {
		if err := s.telemetry.Shutdown(ctx); err != nil {
			s.log.Warn("telemetry", "error", err)
		}
	}
	// A collector that is away must not cost the log its last lines.
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.logLines.Close(last)
	if s.logFile != nil {
		s.logFile.Close()
	}
}
