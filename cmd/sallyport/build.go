package main

import (
	"context"
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

	"sallyport/policy/audit"
	"sallyport/policy/distribute"
	"sallyport/policy/engine"
	"sallyport/proxy"
	"sallyport/proxy/config"
	"sallyport/proxy/dial"
	"sallyport/proxy/geo"
	"sallyport/proxy/guard"
	"sallyport/proxy/identity"
	"sallyport/proxy/listen"
	"sallyport/proxy/loop"
	"sallyport/proxy/manage"
	processes "sallyport/proxy/process"
	"sallyport/proxy/session"
	"sallyport/proxy/store"
	"sallyport/proxy/upstream"
	"sallyport/proxy/usage"
	"sallyport/telemetry"
)

// guarded is how many sources, user names and identities are remembered each.
const guarded = 65_536

// gcPercent trades memory, which limits.memory bounds, for fewer collections:
// decisions are short-lived garbage.
const gcPercent = 400

// headersShare is which part of limits.memory long header blocks may be while they
// are read. What is made of them takes twice as much.
const headersShare = 16

// server is the program, wired. build.go is the one file that knows every room.
type server struct {
	config    *config.Config
	log       *slog.Logger
	logLines  *telemetry.Writer
	logExport *telemetry.LogExport // nil: not asked for
	logFile   *telemetry.File      // nil: standard error
	manager   *distribute.Manager
	decisions *distribute.DecisionLog
	audit     *audit.Log
	state     *store.File
	usage     *usage.Ledger
	telemetry *telemetry.Telemetry
	engine    *engine.Engine
	geo       *geo.Databases
	tls       map[string]*listen.TLS // by the listener's name; the management API's by ""
	verifier  *identity.Verifier
	users     *identity.Directory
	loops     *loop.Group
	sessions  *session.Table
	guard     *guard.Guard
	memory    *guard.Memory
	upstreams *upstream.Set
	resolver  *dial.Resolver
	proxy     *proxy.Proxy

	draining atomic.Bool
}

// build wires the rooms and the files that are open, loads the policy and watches its files until ctx ends.
// It listens nowhere yet.
func build(ctx context.Context, c *config.Config, files *opened) (s *server, err error) {
	debug.SetGCPercent(gcPercent)
	memory := min(debug.SetMemoryLimit(-1), int64(c.Limits.Memory)) // GOMEMLIMIT may be lower
	debug.SetMemoryLimit(memory)
	s = &server{config: c, geo: files.geo, tls: files.tls, sessions: session.NewTable(c.Limits.Connections), memory: guard.NewMemory(memory)}
	process, err := telemetry.Describe(version)
	if err != nil {
		return nil, err
	}
	if err := s.openLog(ctx, process); err != nil {
		return nil, err
	}
	begun := s // an error returns no server
	defer func() {
		if err != nil {
			begun.close()
		}
	}()

	files.warn(s.log)
	if err := s.openAudit(); err != nil {
		return nil, err
	}
	if err := s.openState(); err != nil {
		return nil, err
	}
	if err := s.openUsage(); err != nil {
		return nil, err
	}
	options := engineOptions(c, s.geo, true)
	if s.manager, err = distribute.New(s.managerOptions()); err != nil {
		return nil, err
	}
	if s.decisions, err = distribute.NewDecisionLog(s.manager, s.logOptions()); err != nil {
		return nil, err
	}
	if s.decisions != nil {
		options.Record, options.RecordWaits = s.decisions.Record, s.decisions.Waits()
	}
	options.Print = func(p *engine.Printed) {
		s.telemetry.Printed(&telemetry.Print{
			Stage: string(p.Stage), Session: p.Session, File: p.File, Line: p.Line, Text: p.Text, Withheld: p.Withheld,
		})
	}
	if s.engine, err = engine.New(options); err != nil {
		return nil, err
	}
	s.guard = guard.New(guarded)
	if err := s.restoreBans(); err != nil {
		return nil, err
	}
	s.resolver = newResolver(c, files.roots)
	dialer := &dial.Dialer{}
	s.upstreams = upstream.New(upstream.Options{
		Upstreams: files.upstreams, Names: s.resolver, Dialer: dialer, Open: s.sessions.Through, Log: s.log,
	})
	s.verifier = identity.NewVerifier(runtime.GOMAXPROCS(0))
	if s.users, err = identity.NewDirectory(s.verifier, s.state, func() { s.proxy.Recheck() }); err != nil {
		return nil, err
	}
	s.telemetry, err = telemetry.New(ctx, telemetry.Options{
		Log: s.log, LogExport: s.logExport, Process: process, Prometheus: c.Telemetry.Prometheus,
		ActiveSessions: func() int64 { return int64(s.sessions.Len()) },
		ActiveBans:     s.guard.ActiveBans,
		LogDropped:     s.logLines.Dropped,
		AuditFailed:    s.audit.Failed,
		StateFailed:    s.state.Failed,
		GeoIP:          s.geoAges,
		Upstreams:      s.upstreams.Observe,
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
		Resolve: s.resolver, Dial: dialer, Route: s.upstreams, Upstreams: s.upstreams,
		Processes: processes.NewFinder(), Sessions: s.sessions, Guard: s.guard, Memory: s.memory, Usage: s.usage,
		Limits: proxy.Limits{Handshake: c.Limits.Handshake, Handshakes: c.Limits.Handshakes, Headers: memory / headersShare,
			Dial: c.Limits.Dial, Idle: c.Limits.Idle,
			Bind: c.Limits.Bind, Flows: c.Limits.Flows, FlowsTotal: c.Limits.FlowsTotal, FlowIdle: c.Limits.FlowIdle,
		},
		Protocols: map[string][]string{}, Associate: map[string]proxy.Door{}, Bind: map[string]proxy.Door{},
	}
	for _, l := range c.Listeners {
		s.proxy.Protocols[l.Name] = l.Protocols
		s.proxy.Associate[l.Name] = door(l.UDP)
		s.proxy.Bind[l.Name] = door(l.Bind)
	}
	if err := s.startGeo(ctx); err != nil {
		return nil, err
	}
	if err := s.watchTLS(ctx); err != nil {
		return nil, err
	}
	if watched := slices.Concat(c.Policy.Paths, c.Policy.Data); len(watched) > 0 {
		// Watching comes first, so that no edit falls between.
		if err := distribute.Watch(ctx, watched, func() { s.reload(ctx, "watch") }); err != nil {
			return nil, err
		}
	}
	return s, s.manager.Start(ctx, s.engine)
}

func door(d config.Door) proxy.Door {
	first, last := d.Ports.Bounds()
	return proxy.Door{Advertise: d.Advertise, Ports: dial.Ports{First: first, Last: last}}
}

// problem is an error of a file that a setting names, and with it the place of that.
func (s *server) problem(key string, err error) error {
	return config.Problems{s.config.Problem(key, err.Error())}
}

// openLog starts the log that everything else writes to.
func (s *server) openLog(ctx context.Context, process *telemetry.Process) error {
	var out io.Writer = os.Stderr
	if s.config.Log.File != "" {
		file, err := telemetry.OpenFile(s.config.Log.File)
		if err != nil {
			return s.problem("log.file", err)
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
	s.log, s.logExport, err = telemetry.ExportLog(ctx, s.log, level, process)
	return err
}

// reload is what HUP and the management API do: GeoIP databases that have changed,
// certificates and the policy are read again, what is remembered of names is
// forgotten, and the log file opened again for those that rotate it. The
// configuration is read at the start only. by is who asks for it.
func (s *server) reload(ctx context.Context, by string) error {
	if s.logFile != nil {
		if err := s.logFile.Reopen(); err != nil {
			s.log.Error("log file is not reopened", "error", s.problem("log.file", err))
		}
	}
	if s.decisions != nil {
		if err := s.decisions.Reopen(); err != nil {
			s.log.Error("decision log file is not reopened", "error", err)
		}
	}
	if by != "watch" {
		s.resolver.Forget()
	}
	err := join(join(s.reloadGeo(), s.reloadTLS()), s.manager.Reload(ctx, by))
	if err == nil && by != "watch" { // whoever asked wants to see that it was done
		s.log.Info("reloaded", "by", by)
	}
	return err
}

// run serves until stop is closed, then drains until the grace period ends or
// now is closed.
func (s *server) run(stop, now <-chan struct{}) error {
	defer s.close()
	ctx, end := context.WithCancel(context.Background())
	defer end()
	loops, err := loop.Start()
	if err != nil {
		return err
	}
	s.loops = loops
	defer loops.Close()
	defer s.keepBans()() // until the last session has ended
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
	serving.Go(func() { s.proxy.Follow(ctx) })
	serving.Go(func() { s.usage.Run(ctx) })
	serving.Go(func() { s.memory.Watch(ctx, s.relief()) })
	tending, leave := context.WithCancel(ctx)
	defer leave()
	serving.Go(func() { s.upstreams.Run(tending) })
	serving.Go(func() {
		if err := management(); err != nil {
			s.log.Error("management", "error", err)
		}
	})

	<-stop
	s.draining.Store(true)
	leave() // what is opened ahead now, nobody will use
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
		switch made, err := manage.TokenFile(path); {
		case store.Passing(err):
			s.log.Error("there is no management token", "error", s.problem("state.path", err)) // and so no call that needs one
		case err != nil:
			return nil, s.problem("state.path", fmt.Errorf("%w (a management.tokens entry makes the file unnecessary)", err))
		default:
			tokens["generated"] = manage.Token{Secret: made, Roles: []string{"admin"}}
			s.log.Info("management token", "file", path)
		}
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
		Address: c.Address, Decide: s.engine, Observe: s.telemetry, Tokens: tokens, Sessions: s.sessions, Bans: s.guard, Users: s.users, Usage: s.usage,
		Policy: s.policy, Upstreams: func() any { return s.upstreams.List() }, Ready: s.ready, Reload: s.reload, Log: s.log,
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

// close ends what build started, the log last.
func (s *server) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if s.resolver != nil {
		s.resolver.Close()
	}
	if s.engine != nil {
		s.engine.Close()
	}
	if s.decisions != nil {
		if err := s.decisions.Close(ctx); err != nil {
			s.log.Warn("decision log", "error", err)
		}
	}
	if s.manager != nil {
		s.manager.Close(ctx)
	}
	if s.audit != nil {
		s.audit.Close()
	}
	if s.usage != nil {
		s.usage.Close()
	}
	s.closeState()
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
