// Package session is the table of the connections that the server has open. It
// knows who is there, shows them, cuts one with a cause, and empties itself when
// the server is to stop. It takes no decision and knows no policy.
//
// The goroutine that lives a connection's life opens its session, tells it what
// becomes known, works under its context, and closes it:
//
//	s, err := table.Open(ctx, "main", source)
//	if err != nil { … }
//	defer s.Close()
//
// Everyone else may look at any session and cut it at any time.
package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Why Open refuses.
var (
	ErrFull     = errors.New("as many sessions are open as may be")
	ErrDraining = errors.New("the server is shutting down")
)

// ErrCut is the cause of a session's context when it was cut.
type ErrCut struct {
	Reason string // for the record and the log; it names no secret
}

func (e ErrCut) Error() string { return "cut: " + e.Reason }

// cutGrace is how long Drain waits for the sessions that it has cut to be
// closed by their owners, so that each still gets its record.
const cutGrace = 2 * time.Second

// Table holds the open sessions, at most so many.
type Table struct {
	max     int
	through through

	mu       sync.Mutex
	sessions map[string]*Session
	draining context.Context // ended by Drain
	drain    context.CancelFunc
	empty    chan struct{} // made by Drain, closed with the last session
}

// NewTable returns a table of at most max open sessions.
func NewTable(max int) *Table {
	t := &Table{max: max, sessions: make(map[string]*Session)}
	t.draining, t.drain = context.WithCancel(context.Background())
	return t
}

// Open begins a session below ctx. The error is ErrFull or ErrDraining.
func (t *Table) Open(ctx context.Context, listener string, source netip.AddrPort) (*Session, error) {
	s := &Session{ID: newID(), Started: time.Now(), Listener: listener, Source: source, table: t, state: Opening, heard: true}
	t.mu.Lock()
	switch {
	case t.draining.Err() != nil:
		t.mu.Unlock()
		return nil, ErrDraining
	case len(t.sessions) >= t.max:
		t.mu.Unlock()
		return nil, ErrFull
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	t.sessions[s.ID] = s
	t.mu.Unlock()
	return s, nil
}

func (t *Table) remove(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, open := t.sessions[s.ID]; !open {
		return
	}
	delete(t.sessions, s.ID)
	if t.empty != nil && len(t.sessions) == 0 {
		close(t.empty)
		t.empty = nil
	}
}

// Len returns how many sessions are open.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sessions)
}

// Get returns an open session.
func (t *Table) Get(id string) (*Session, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.sessions[id]
	return s, ok
}

// Each calls f with every session that is open now, in no order. The table is
// not held meanwhile: f may cut and close, and others open.
func (t *Table) Each(f func(*Session)) {
	t.mu.Lock()
	open := make([]*Session, 0, len(t.sessions))
	for _, s := range t.sessions {
		open = append(open, s)
	}
	t.mu.Unlock()
	for _, s := range open {
		f(s)
	}
}

// List returns all open sessions, oldest first. It is never nil.
func (t *Table) List() []Snapshot {
	list := []Snapshot{}
	t.Each(func(s *Session) { list = append(list, s.Snapshot()) })
	slices.SortFunc(list, func(a, b Snapshot) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Cut cancels a session's context with the cause, and reports whether it was
// open. Its owner closes it; the first cause stands.
func (t *Table) Cut(id string, cause error) bool {
	s, ok := t.Get(id)
	if ok {
		s.cancel(cause)
	}
	return ok
}

// CutHeard cuts the sessions whose clients are being heard with the cause, and says
// how many there were.
func (t *Table) CutHeard(cause error) (count int) {
	t.Each(func(s *Session) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.heard {
			s.cancel(cause)
			count++
		}
	})
	return count
}

// Draining ends when Drain is called: who only waits may as well stop.
func (t *Table) Draining() context.Context { return t.draining }

// Drain refuses new sessions from now on and waits until the open ones are
// closed. When ctx ends before that, it cuts the rest, idle tunnels as well,
// gives their owners a moment to close them, and says how many it cut.
func (t *Table) Drain(ctx context.Context) error {
	t.mu.Lock()
	t.drain()
	if len(t.sessions) == 0 {
		t.mu.Unlock()
		return nil
	}
	if t.empty == nil {
		t.empty = make(chan struct{})
	}
	empty := t.empty
	t.mu.Unlock()

	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	count := 0
	t.Each(func(s *Session) {
		count++
		s.cancel(ErrCut{Reason: ErrDraining.Error()})
	})
	timer := time.NewTimer(cutGrace)
	defer timer.Stop()
	select {
	case <-empty:
	case <-timer.C:
	}
	return fmt.Errorf("%d sessions cut: %w", count, context.Cause(ctx))
}
