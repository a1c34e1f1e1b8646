package guard

import (
	"math"
	"sync"
	"time"
)

// table holds entries by the hash of what they count. It is cut into shards so
// that connections on several cores do not wait for one another.
type table struct {
	shards []shard
}

// shard is one part of a table: at most size entries, and those that are open.
type shard struct {
	mu      sync.Mutex
	size    int
	entries map[uint64]*entry
	idle    entry // head of the ring of entries that are not open: idle.next was used last, idle.previous longest ago
}

// entry is what is counted of one source, user name or identity. Not all of it
// is used of each; one shape is worth the few bytes. About 120 bytes.
type entry struct {
	key            uint64
	seen           time.Duration // when it was last used: what the windows are relative to
	previous, next *entry        // in the ring, while nothing is open
	open           uint32
	unheard        uint32 // of those
	attemptsSecond sliding
	attemptsMinute sliding
	failures       slidings
	denials        slidings
	limit          *limit // nil: nothing is remembered
}

func newTable(size int) *table {
	count := 16
	if size < 64*count {
		count = 1 // too small to be cut up: the shards would fill unevenly
	}
	t := &table{shards: make([]shard, count)}
	for i := range t.shards {
		s := &t.shards[i]
		s.size = max(size/count, 1)
		s.entries = make(map[uint64]*entry)
		s.idle.previous, s.idle.next = &s.idle, &s.idle
	}
	return t
}

func (t *table) shard(key uint64) *shard { return &t.shards[key%uint64(len(t.shards))] }

// open adds one to what the entry has open, and hands it to f.
func (t *table) open(key uint64, now time.Duration, f func(*entry)) {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil {
		s.makeRoom()
		e = s.insert(key)
	}
	if e.open == 0 {
		e.unlink()
	}
	e.open++
	e.roll(now)
	f(e)
}

// openKnown is open of an entry that has limits, and reports whether there is one.
func (t *table) openKnown(key uint64, now time.Duration, f func(*entry)) bool {
	s := t.shard(key)
	s.mu.Lock()
	e := s.entries[key]
	known := e != nil && e.limit != nil
	s.mu.Unlock()
	if known {
		t.open(key, now, f)
	}
	return known
}

// close takes one from what the entry has open.
func (t *table) close(key uint64, now time.Duration) {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil || e.open == 0 {
		return
	}
	e.open--
	e.roll(now)
	if e.open == 0 {
		s.pushIdle(e)
		if len(s.entries) > s.size {
			s.makeRoom()
		}
	}
}

// touch hands the entry to f, a new one if need be. Where every entry is open
// and none can be given up, nothing is counted.
func (t *table) touch(key uint64, now time.Duration, f func(*entry)) {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil {
		if !s.makeRoom() {
			return
		}
		e = s.insert(key)
	}
	if e.open == 0 {
		e.unlink()
		s.pushIdle(e)
	}
	e.roll(now)
	f(e)
}

// look hands the entry to f if there is one. Being asked about does not count
// as use.
func (t *table) look(key uint64, now time.Duration, f func(*entry)) {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[key]; e != nil {
		e.roll(now)
		f(e)
	}
}

// makeRoom gives up entries that are not open, the one used longest ago first,
// until another fits, and reports whether it does.
func (s *shard) makeRoom() bool {
	for len(s.entries) >= s.size {
		oldest := s.idle.previous
		if oldest == &s.idle {
			return false
		}
		oldest.unlink()
		delete(s.entries, oldest.key)
	}
	return true
}

func (s *shard) insert(key uint64) *entry {
	e := &entry{key: key}
	s.entries[key] = e
	s.pushIdle(e)
	return e
}

func (s *shard) pushIdle(e *entry) {
	e.previous, e.next = &s.idle, s.idle.next
	e.previous.next, e.next.previous = e, e
}

func (e *entry) unlink() {
	e.previous.next, e.next.previous = e.next, e.previous
	e.previous, e.next = nil, nil
}

// roll brings the windows to the present.
func (e *entry) roll(now time.Duration) {
	e.attemptsSecond.roll(e.seen, now, second)
	e.attemptsMinute.roll(e.seen, now, minute)
	e.failures.roll(e.seen, now)
	e.denials.roll(e.seen, now)
	e.seen = max(e.seen, now)
}

const (
	second = time.Second
	minute = time.Minute
	hour   = time.Hour
	day    = 24 * time.Hour
)

// sliding counts in two whole periods: the present one and the one before.
type sliding struct {
	present, before uint32
}

func (s *sliding) add() {
	if s.present++; s.present == 0 {
		s.present-- // it stays at the greatest rather than begin again
	}
}

// roll moves on from the period of seen to that of now.
func (s *sliding) roll(seen, now, period time.Duration) {
	switch passed := now/period - seen/period; {
	case passed <= 0:
	case passed == 1:
		*s = sliding{before: s.present}
	default:
		*s = sliding{}
	}
}

// count is how many there were in the period that ends now.
func (s *sliding) count(now, period time.Duration) int64 {
	left := period - now%period // of the period before: how much still lies in the window
	share := math.Ceil(float64(s.before) * float64(left) / float64(period))
	return int64(s.present) + int64(share)
}

// slidings counts the same by minute, hour and day.
type slidings struct {
	minute, hour, day sliding
}

func (s *slidings) add() {
	s.minute.add()
	s.hour.add()
	s.day.add()
}

func (s *slidings) roll(seen, now time.Duration) {
	s.minute.roll(seen, now, minute)
	s.hour.roll(seen, now, hour)
	s.day.roll(seen, now, day)
}

func (s *slidings) window(now time.Duration) Window {
	return Window{Minute: s.minute.count(now, minute), Hour: s.hour.count(now, hour), Day: s.day.count(now, day)}
}
