package main

import (
	"fmt"

	"sallyport/proxy/store"
)

// openState opens what outlives a restart. A file that does not hold together,
// or that another process has open, ends the start; a disk that is full or
// read-only does not, since what is in force now needs no disk.
func (s *server) openState() error {
	var err error
	s.state, err = store.Open(s.config.State.Path)
	if s.state == nil {
		return failure{fmt.Errorf("state.path: %w", err)}
	}
	if err != nil {
		s.log.Error("state is not kept", "error", err)
	}
	return nil
}

// closeState closes the file when nobody writes to it any longer.
func (s *server) closeState() {
	if s.state == nil {
		return
	}
	if err := s.state.Close(); err != nil {
		s.log.Error("state is not kept", "error", err)
	}
}
