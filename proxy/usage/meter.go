package usage

import (
	"slices"
	"strings"
	"sync/atomic"
)

// Kind is what a row is of.
type Kind int

// The kinds of rows.
const (
	User Kind = iota
	Target
	Country
	Upstream
	Labels
	kinds
)

var kindNames = [kinds]string{"user", "target", "country", "upstream", "labels"}

// ParseKind reads the name of a kind.
func ParseKind(name string) (Kind, bool) {
	i := slices.Index(kindNames[:], name)
	return Kind(i), i >= 0
}

// Kinds lists their names.
func Kinds() string { return strings.Join(kindNames[:], ", ") }

func (k Kind) String() string { return kindNames[k] }

// Of is whom and what something is counted for: the name of a row of each kind. An
// empty name is one, too.
type Of [kinds]string

// Bytes are those in each direction.
type Bytes struct {
	Up   int64 `json:"up"`   // client to target
	Down int64 `json:"down"` // target to client
}

// Counts is what was used.
type Counts struct {
	Connections int64 `json:"connections"` // sessions, and requests of plain HTTP, that were granted
	Bytes       Bytes `json:"bytes"`
	Denials     int64 `json:"denials"` // requests that the policy has denied
}

func (c *Counts) add(more Counts) {
	c.Connections += more.Connections
	c.Bytes.Up += more.Bytes.Up
	c.Bytes.Down += more.Bytes.Down
	c.Denials += more.Denials
}

// Meter is one session, or one request of plain HTTP, that has been granted. The
// zero value is one that has not begun.
type Meter struct {
	of       Of
	account  *Account // nil: of nobody
	up, down *atomic.Int64
	seen     Bytes
	at       int // in Ledger.live
	among    int // in Account.live
}

// Begin has a session counted, from what its counters have now, until End. Account is
// nil where there is no identity. Of a meter that runs only what it is of is changed.
func (l *Ledger) Begin(m *Meter, a *Account, of Of, up, down *atomic.Int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance()
	if m.up != nil {
		l.fold(m)
		m.of = of
		return
	}
	*m = Meter{of: of, account: a, up: up, down: down, seen: Bytes{up.Load(), down.Load()}, at: len(l.live)}
	l.live = append(l.live, m)
	if a != nil {
		m.among = len(a.live)
		a.live = append(a.live, m)
		for p := range a.periods {
			a.periods[p].connections++
		}
		l.changed[a] = struct{}{}
	}
	l.hour.add(&m.of, Counts{Connections: 1})
}

// Label changes the name of the row of labels that a session is counted in from now on.
func (l *Ledger) Label(m *Meter, labels string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance()
	if m.up != nil && m.of[Labels] != labels {
		l.fold(m)
		m.of[Labels] = labels
	}
}

// End ends that. Of a meter that does not run it does nothing.
func (l *Ledger) End(m *Meter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.up == nil {
		return
	}
	l.advance()
	l.fold(m)
	last := l.live[len(l.live)-1]
	l.live[m.at], last.at = last, m.at
	l.live[len(l.live)-1] = nil
	l.live = l.live[:len(l.live)-1]
	if a := m.account; a != nil {
		last := a.live[len(a.live)-1]
		a.live[m.among], last.among = last, m.among
		a.live[len(a.live)-1] = nil
		a.live = a.live[:len(a.live)-1]
	}
	*m = Meter{}
}

// Denied counts a request that the policy has denied.
func (l *Ledger) Denied(of Of) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance()
	l.hour.add(&of, Counts{Denials: 1})
}

// fold counts what has moved since a session was last looked at. Called with l.mu held.
func (l *Ledger) fold(m *Meter) {
	now := Bytes{m.up.Load(), m.down.Load()}
	moved := Bytes{now.Up - m.seen.Up, now.Down - m.seen.Down}
	if moved == (Bytes{}) {
		return
	}
	m.seen = now
	l.hour.add(&m.of, Counts{Bytes: moved})
	if a := m.account; a != nil {
		for p := range a.periods {
			a.periods[p].bytes += moved.Up + moved.Down
		}
		l.changed[a] = struct{}{}
	}
}
