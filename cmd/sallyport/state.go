package main

import (
	"context"
	"time"

	"sallyport/proxy/store"
)

// openState opens what outlives a restart. A file that does not hold together,
// or that another process has open, ends the start; a disk that is full or
// read-only does not, since what is in force now needs no disk.
func (s *server) openState() error {
	var err error
	s.state, err = store.Open(s.config.State.Path)
	if s.state == nil {
		return failure{s.problem("state.path", err)}
	}
	if err != nil {
		s.log.Error("state is not kept", "error", s.problem("state.path", err))
	}
	if s.state.WasEmpty() {
		s.log.Warn("state file is empty: it begins anew; if there were bans or users in it, something has emptied it", "file", s.config.State.Path)
	}
	return nil
}

// closeState closes the file when nobody writes to it any longer.
func (s *server) closeState() {
	if s.state == nil {
		return
	}
	if err := s.state.Close(); err != nil {
		s.log.Error("state is not kept", "error", s.problem("state.path", err))
	}
}

// drawer is one kind of what the state file keeps.
type drawer struct {
	file *store.File
	kind string
}

func (d drawer) Each(visit func(key string, value []byte) error) error {
	return d.file.Each(d.kind, visit)
}

// Keep puts what there is and deletes what is nil, all of it or nothing.
func (d drawer) Keep(changes map[string][]byte) error {
	list := make([]store.Change, 0, len(changes))
	for key, value := range changes {
		list = append(list, store.Change{Kind: d.kind, Key: key, Value: value})
	}
	return d.file.Apply(list...)
}

func (s *server) restoreBans() error {
	if err := s.guard.Restore(drawer{s.state, "ban"}); err != nil {
		return failure{s.problem("state.path", err)}
	}
	return nil
}

// keepBans keeps what policies decide; what it returns writes what is left and
// ends it.
func (s *server) keepBans() func() {
	ctx, end := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.guard.Keep(ctx, s.unkept())
	}()
	return func() { end(); <-done }
}

// unkept logs that bans are not kept: at once, and each minute while that lasts.
func (s *server) unkept() func(error) {
	var last time.Time
	return func(err error) {
		switch {
		case err == nil:
			last = time.Time{}
			s.log.Info("bans are kept again")
		case time.Since(last) >= time.Minute:
			last = time.Now()
			s.log.Error("bans are in force and not kept", "error", err)
		}
	}
}
