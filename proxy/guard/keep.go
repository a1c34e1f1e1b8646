package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// keep.go has bans outlive the process. What an operator sets or lifts is kept
// first and in force then, so that an answer means that it lasts; what a policy
// decides is in force at once and kept a moment later, together with what else
// has changed meanwhile, so that no connection waits for a disk.

// Keeper keeps bans by the text of their subject.
type Keeper interface {
	// Each visits all that is kept.
	Each(visit func(of string, ban []byte) error) error
	// Keep puts what there is, and deletes what is nil: all of it or nothing. It is
	// durable when it returns nil.
	Keep(changes map[string][]byte) error
}

// NotKeptError is that bans were to be kept and could not be; nothing has changed.
type NotKeptError struct{ Err error }

func (e *NotKeptError) Error() string { return "it could not be kept: " + e.Err.Error() }
func (e *NotKeptError) Unwrap() error { return e.Err }

const (
	gather    = 200 * time.Millisecond // how long what a policy decides waits for more of it
	keepAgain = 5 * time.Second        // after which it is tried again where it could not be kept
)

// keeping is what of the bans is still to be kept. The zero value keeps nothing.
type keeping struct {
	keeper  Keeper
	writing sync.Mutex    // held by who writes, and never by a connection
	changed chan struct{} // holds one: there is something to keep

	// Under the lock of the bans: whose bans have changed since they were kept, or,
	// where that were more than there may be bans, that all of it is to be written anew.
	stale map[Subject]struct{}
	anew  bool
}

// kept is a ban as it is kept, under its subject. How much it has refused is not.
type kept struct {
	Until time.Time `json:"until,omitzero"` // missing: until it is lifted
	Since time.Time `json:"since"`
	Cause string    `json:"cause"`
}

// encode fails for years that RFC 3339 has none of.
func encode(b *Ban) ([]byte, error) {
	return json.Marshal(kept{Until: b.Until.UTC(), Since: b.Since.UTC(), Cause: clip(b.Cause)})
}

// Restore puts in force what k keeps, and has k keep what is to come. Bans that are
// over by now refuse nobody, and are kept no longer. It is for a guard that has
// none yet.
func (g *Guard) Restore(k Keeper) error {
	s := &g.bans
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keeper, s.changed, s.stale = k, make(chan struct{}, 1), map[Subject]struct{}{}
	return k.Each(func(text string, value []byte) error {
		of, err := ParseSubject(text)
		var from kept
		if err = errors.Join(err, json.Unmarshal(value, &from)); err != nil {
			return fmt.Errorf("the ban of %q that is kept: %w", text, err)
		}
		if s.replace(&Ban{Of: of, Until: from.Until, Since: from.Since, Cause: from.Cause}) == nil {
			delete(s.stale, of)
		}
		return nil
	})
}

// Set bans each anew, all or none: what is set replaces the ban of the same
// subject. They are kept when it returns nil. It may be a [NotKeptError], or
// [ErrBansFull] where that would be more than there may be; of one alone, where
// it would be the first to give way.
func (g *Guard) Set(list ...Ban) error {
	s := &g.bans
	s.writing.Lock()
	defer s.writing.Unlock()
	now := time.Now()
	last := make(map[Subject]*Ban, len(list)) // where a subject is there twice, the latter counts
	for i := range list {
		b := &list[i]
		if b.Since.IsZero() || b.Since.After(now) {
			b.Since = now
		}
		last[b.Of] = b
	}
	changes := make(map[string][]byte, len(last))
	if err := s.room(last, now, changes); err != nil {
		return err
	}
	if err := s.keep(changes); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range last {
		// Policies may have banned so many meanwhile that it is the first to give way.
		_ = s.replace(b)
	}
	return nil
}

// room sees whether the bans fit in, and tells what is to be kept of them. One
// that is in force already keeps the time since when it is.
func (s *bans) room(list map[Subject]*Ban, now time.Time, changes map[string][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	more := 0
	for of, b := range list {
		if old := s.of[of]; old != nil && old.Since.Before(b.Since) {
			b.Since = old.Since
		} else if old == nil {
			more++
		}
		text, err := encode(b)
		if err != nil {
			return fmt.Errorf("%s: %w", of, err)
		}
		changes[of.String()] = text
	}
	switch room := s.size - len(s.ends); {
	case more <= room:
		return nil
	case more > 1:
		return ErrBansFull
	}
	for of, b := range list { // the one that is new: another gives way, if it ends sooner
		if s.of[of] == nil && (ends{&banned{Ban: *b}, s.ends[0]}).Less(0, 1) {
			return ErrBansFull
		}
	}
	return nil
}

// Lift ends the bans of these, and tells how many there were. That is kept when it
// returns without an error, which may be a [NotKeptError]: then all are in force.
func (g *Guard) Lift(subjects ...Subject) (int, error) {
	s := &g.bans
	s.writing.Lock()
	defer s.writing.Unlock()
	changes := map[string][]byte{}
	s.mu.Lock()
	s.expire(time.Now())
	for _, of := range subjects {
		if s.of[of] != nil {
			changes[of.String()] = nil
		}
	}
	s.mu.Unlock()
	if len(changes) == 0 {
		return 0, nil
	}
	if err := s.keep(changes); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range subjects {
		if b := s.of[of]; b != nil {
			s.drop(b)
		}
	}
	return len(changes), nil
}

// keep writes what an operator has asked for.
func (s *bans) keep(changes map[string][]byte) error {
	if s.keeper == nil {
		return nil
	}
	if err := s.keeper.Keep(changes); err != nil {
		return &NotKeptError{err}
	}
	return nil
}

// touched notes that a ban has to be kept, or no longer.
func (s *bans) touched(of Subject) {
	if s.keeper == nil {
		return
	}
	if s.stale[of] = struct{}{}; len(s.stale) > 2*s.size {
		clear(s.stale)
		s.anew = true
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Keep writes what policies have decided until ctx ends, and then what is left.
// What cannot be written is tried again; failed is told why each time, and nil
// once it is written.
func (g *Guard) Keep(ctx context.Context, failed func(error)) {
	s := &g.bans
	failing, last := false, false
	for !last {
		pause := keepAgain
		if !failing {
			select {
			case <-s.changed:
			case <-ctx.Done():
			}
			pause = gather
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		last = ctx.Err() != nil
		err := s.flush()
		if err != nil || failing {
			failed(err)
		}
		failing = err != nil
	}
}

// flush keeps what has changed.
func (s *bans) flush() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	now := map[Subject]*Ban{} // nil: there is none. A ban is replaced, and never changed
	s.mu.Lock()
	s.expire(time.Now())
	stale, anew := s.stale, s.anew
	s.stale, s.anew = map[Subject]struct{}{}, false
	if anew {
		for of, b := range s.of {
			now[of] = &b.Ban
		}
	}
	s.mu.Unlock()
	for of := range stale { // one by one, since every connection wants the lock
		s.mu.RLock()
		b := s.of[of]
		s.mu.RUnlock()
		if now[of] = nil; b != nil {
			now[of] = &b.Ban
		}
	}

	err := s.write(now, anew) // what has changed meanwhile is stale again
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.anew = s.anew || anew
		for of := range stale {
			s.touched(of)
		}
	}
	return err
}

// write keeps these bans, and where it is written anew none but these.
func (s *bans) write(now map[Subject]*Ban, anew bool) error {
	changes := make(map[string][]byte, len(now))
	for of, b := range now {
		if changes[of.String()] = nil; b != nil {
			var err error
			if changes[of.String()], err = encode(b); err != nil {
				return err
			}
		}
	}
	if anew {
		if err := s.keeper.Each(func(of string, _ []byte) error {
			if _, there := changes[of]; !there {
				changes[of] = nil
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return s.keeper.Keep(changes)
}
