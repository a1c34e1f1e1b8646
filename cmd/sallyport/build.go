package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"sallyport/policy/distribute"
	"sallyport/policy/engine"
	"sallyport/proxy"
	"sallyport/proxy/dial"
	"sallyport/proxy/identity"
	"sallyport/proxy/listen"
	"sallyport/proxy/session"
)

// settings are what the flags say.
type settings struct {
	listen, policy, data []string
}

// The limits that hold until there is a configuration file.
const (
	maxConnections = 10_000
	handshakeLimit = 10 * time.Second
	dialLimit      = 15 * time.Second
	shutdownGrace  = 30 * time.Second
)

// judged compiles a candidate, and reads the users out of its data.
func judged(e *engine.Engine, c *engine.Candidate) (*engine.Snapshot, *identity.Users, error) {
	snapshot, problems := e.Compile(c)
	if snapshot == nil {
		return nil, nil, problems
	}
	users, errs := identity.Parse(snapshot.Data("users"))
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	return snapshot, users, nil
}

// serve runs the proxy until a signal ends it.
func serve(ctx context.Context, s settings) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	decide := engine.New(engine.Options{})
	verify := identity.NewVerifier(runtime.GOMAXPROCS(0))
	var loading sync.Mutex
	load := func() error {
		loading.Lock()
		defer loading.Unlock()
		candidate, err := distribute.Load(s.policy, s.data)
		if err != nil {
			return err
		}
		snapshot, users, err := judged(decide, candidate)
		if err != nil {
			return err
		}
		verify.SetUsers(users)
		decide.Activate(snapshot)
		log.Info("policy active", "revision", snapshot.Revision())
		return nil
	}
	if err := load(); err != nil {
		return err
	}
	reload := func() {
		if err := load(); err != nil {
			log.Error("policy refused; the active one stays", "problems", err.Error())
		}
	}

	sessions := session.NewTable(maxConnections)
	p := &proxy.Proxy{
		Decide: decide, Verify: verify, Resolve: dial.NewResolver(nil), Dial: &dial.Dialer{},
		Sessions: sessions, Log: log, Limits: proxy.Limits{Handshake: handshakeLimit, Dial: dialLimit},
	}
	var listeners []*listen.Listener
	var accepting sync.WaitGroup
	stop := func() {
		for _, l := range listeners {
			l.Close()
		}
	}
	defer accepting.Wait() // for the last connection's record
	defer stop()
	for i, address := range s.listen {
		name := "main"
		if i > 0 {
			name = fmt.Sprintf("listener-%d", i+1)
		}
		l, err := listen.Open(ctx, listen.Config{Name: name, Address: address, OnError: func(err error) {
			log.Warn("accept", "listener", name, "error", err)
		}})
		if err != nil {
			return fmt.Errorf("%w: %w", errFailed, err)
		}
		listeners = append(listeners, l)
		accepting.Go(func() {
			if err := l.Serve(ctx, func(c *listen.Conn) { p.Serve(ctx, c) }); err != nil {
				log.Error("listener is broken", "listener", name, "error", err)
			}
		})
		log.Info("listening", "listener", name, "address", l.Addr().String())
	}

	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	if paths := append(append([]string{}, s.policy...), s.data...); len(paths) > 0 {
		go func() {
			if err := distribute.Watch(watching, paths, reload); err != nil {
				log.Error("policy files are not watched any more; HUP still reloads", "error", err)
			}
		}()
	}

	for sig := range signals {
		if sig == syscall.SIGHUP {
			reload()
			continue
		}
		break
	}
	log.Info("draining", "grace", shutdownGrace.String())
	stop()
	grace, cancel := context.WithTimeout(ctx, shutdownGrace)
	defer cancel()
	go func() {
		for sig := range signals {
			if sig != syscall.SIGHUP {
				cancel() // a second one stops at once
				return
			}
		}
	}()
	if err := sessions.Drain(grace); err != nil {
		log.Warn("drain", "error", err)
	}
	return nil
}
