package usage

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Store is where it is kept.
type Store interface {
	// Each visits what there is of a kind.
	Each(kind string, visit func(key string, value []byte) error) error
	// Write makes all of the changes or none, and returns when they are durable.
	Write(changes []Change) error
}

// Change puts a value under a key of a kind, or deletes it where there is none.
type Change struct {
	Kind, Key string
	Value     []byte
}

// kindAccount is the store's kind of the accounts, by identity.
const kindAccount = "usage.account"

// kindOf is the store's kind of the rows of an hour, whose name is their key. There is
// one for each kind of rows and day of the month, so that there are not many kinds,
// and few hours are read for a report about the last ones.
func kindOf(k Kind, hour string) string {
	return "usage." + k.String() + "." + hour[len("2006-01-"):][:2]
}

const (
	// mostFinished bounds the hours that wait for a store that takes nothing.
	mostFinished = 48

	// mostStored is how many bytes of hours the store has at the most: half of what it
	// holds, since others keep something there, too.
	mostStored = 64 << 20
)

// snapshot is what is to be written.
type snapshot struct {
	at       time.Time
	accounts []*Account
	records  []accountRecord // of those
	dropped  []string        // accounts
	hours    []*hour
	rows     [][kinds]copied // of those, but for what is encoded already
	expired  []string        // hours
}

// write writes what has changed, and reports whether that went well. What the store
// does not take is kept for the next time.
func (l *Ledger) write() bool {
	l.writing.Lock()
	defer l.writing.Unlock()
	s, lost := l.snapshot()
	if l.options.Store == nil {
		return true
	}
	if lost > 0 {
		l.options.Log.Error("usage: hours are lost that the store would not take", "hours", lost)
	}
	changes, sizes := s.changes(&l.encoder)
	var err error
	if len(changes) > 0 {
		err = l.options.Store.Write(changes)
	}
	if err != nil && !l.failing {
		l.options.Log.Error("usage is not written, and tried again", "error", err)
	} else if err == nil && l.failing {
		l.options.Log.Info("usage is written again")
	}
	l.failing = err != nil
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.takeBack(s)
		return false
	}
	l.written = s.at
	l.finished = slices.DeleteFunc(l.finished, func(h *hour) bool { return !h.dirty })
	for i, h := range s.hours {
		l.stored[h.name()] = sizes[i]
	}
	for _, name := range s.expired {
		delete(l.stored, name)
	}
	for _, a := range s.accounts {
		if a.written = true; l.accounts[a.key] != a { // it was given up meanwhile
			l.dropped = append(l.dropped, a.key)
		}
	}
	return true
}

// snapshot looks at all open sessions and takes what has changed, and says how many
// hours will never be written.
func (l *Ledger) snapshot() (s *snapshot, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.live {
		if m.account != nil && m.account.bound() {
			m.account.mark()
		}
	}
	l.sum()
	for _, m := range l.live {
		if m.account != nil {
			m.account.settle()
		}
	}
	if l.options.Store == nil {
		clear(l.changed)
		return nil, 0
	}
	s = &snapshot{at: time.Now().UTC(), dropped: l.dropped, hours: slices.Clone(l.finished)}
	if l.prune {
		s.expired, l.prune = l.expired(), false
	}
	if l.hour.dirty {
		s.hours = append(s.hours, l.hour)
	}
	for _, h := range s.hours {
		var all [kinds]copied
		for k := range h.tables {
			if !h.settled {
				all[k] = h.tables[k].copy()
			}
		}
		h.settled = h != l.hour
		s.rows = append(s.rows, all)
		h.dirty = false
	}
	for a := range l.changed {
		s.accounts = append(s.accounts, a)
		s.records = append(s.records, a.record())
	}
	clear(l.changed)
	lost, l.lost, l.dropped = l.lost, 0, nil
	return s, lost
}

// takeBack has all of that still to be written. Called with l.mu held.
func (l *Ledger) takeBack(s *snapshot) {
	for _, h := range s.hours {
		h.dirty = true
	}
	for _, a := range s.accounts {
		if l.accounts[a.key] == a {
			l.changed[a] = struct{}{}
		}
	}
	l.dropped = append(s.dropped, l.dropped...)
	l.prune = l.prune || len(s.expired) > 0
}

// changes are those of the store, and the size of each of the hours in it.
func (s *snapshot) changes(e *encoder) (changes []Change, sizes []int) {
	for _, key := range s.dropped {
		changes = append(changes, Change{Kind: kindAccount, Key: key})
	}
	for i, a := range s.accounts {
		changes = append(changes, Change{kindAccount, a.key, s.records[i].encode()})
	}
	for _, name := range s.expired {
		for k := range kinds {
			changes = append(changes, Change{Kind: kindOf(k, name), Key: name})
		}
	}
	for i, h := range s.hours {
		size := 0
		for k := range kinds {
			if s.rows[i][k].all != nil {
				h.encoded[k] = e.encode(s.rows[i][k].top())
			}
			size += len(h.encoded[k])
			changes = append(changes, Change{kindOf(k, h.name()), h.name(), h.encoded[k]})
		}
		sizes = append(sizes, size)
	}
	return changes, sizes
}

// expired are the hours of the store that are too old, or more than it is to have.
// Called with l.mu held.
func (l *Ledger) expired() []string {
	first := nameOf(l.hour.number - int64(l.options.Retention/time.Hour))
	names := slices.Sorted(maps.Keys(l.stored))
	slices.Reverse(names)
	total := 0
	for i, name := range names {
		if total += l.stored[name]; name < first || total > mostStored {
			return names[i:]
		}
	}
	return nil
}

// load reads the accounts of this month, the present hour, and which hours there are.
func (l *Ledger) load() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.options.Store.Each(kindAccount, func(key string, value []byte) error {
		r, err := decodeAccount(value)
		if err != nil {
			return fmt.Errorf("the account of %q: %w", key, err)
		}
		if r.Month.Of < l.periods[month] {
			l.dropped = append(l.dropped, key)
			return nil
		}
		a := l.add(key, !r.Other)
		a.written = true
		a.periods[day] = period{r.Day.Of, r.Day.Bytes, r.Day.Connections}
		a.periods[month] = period{r.Month.Of, r.Month.Bytes, r.Month.Connections}
		a.at = l.idle[a.class].accounts.PushBack(a)
		return nil
	})
	if err != nil {
		return err
	}
	for k := range kinds {
		for d := 1; d <= 31; d++ {
			kind := kindOf(k, fmt.Sprintf("0000-00-%02d", d))
			err := l.options.Store.Each(kind, func(name string, value []byte) error {
				if _, err := time.Parse(hourText, name); err != nil {
					return fmt.Errorf("%s has %q, which is no hour", kind, name)
				}
				l.stored[name] += len(value)
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return l.recall(l.hour)
}

// recall reads an hour. Called with l.mu held.
func (l *Ledger) recall(h *hour) error {
	for k := range kinds {
		wanted := func(name string) bool { return name == h.name() }
		err := l.read(kindOf(k, h.name()), wanted, func(r rows) { h.tables[k].fill(r) })
		if err != nil {
			return err
		}
	}
	return nil
}

// read visits the rows of the hours that are wanted.
func (l *Ledger) read(kind string, wanted func(name string) bool, visit func(rows)) error {
	return l.options.Store.Each(kind, func(name string, value []byte) error {
		if !wanted(name) {
			return nil
		}
		r, err := decodeRows(value)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", kind, name, err)
		}
		visit(r)
		return nil
	})
}
