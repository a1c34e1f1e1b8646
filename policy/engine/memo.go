package engine

import (
	"bytes"
	"hash/maphash"
	"reflect"
	"sync"
)

// memo remembers the answers of one snapshot. It is bounded in number and in
// the bytes of its keys; when it is full, an answer that has not been used
// since the hand last came by makes room (the CLOCK algorithm).
type memo struct {
	seed   maphash.Seed
	shards [16]shard
	latest sync.Map // by stage: the *answered that was kept last
}

const (
	// longestKey keeps questions with much of a stranger's text out.
	longestKey = 4 << 10
	// averageKey bounds the memory of all keys together.
	averageKey = 512
)

type shard struct {
	mu      sync.Mutex
	byKey   map[string]*remembered
	ring    []*remembered
	hand    int
	bytes   int // of the keys
	most    int // answers
	largest int // bytes
}

// remembered is one answer and its place in the ring.
type remembered struct {
	key    string
	answer *answered
	used   bool
}

func newMemo(size int) *memo {
	m := &memo{seed: maphash.MakeSeed()}
	for i := range m.shards {
		most := max(1, size/len(m.shards))
		m.shards[i].byKey = map[string]*remembered{}
		m.shards[i].most, m.shards[i].largest = most, max(longestKey, most*averageKey)
	}
	return m
}

func (m *memo) shard(key []byte) *shard {
	return &m.shards[maphash.Bytes(m.seed, key)%uint64(len(m.shards))]
}

// get finds the answer to an equal question, nil where there is none.
func (m *memo) get(key []byte) *answered {
	if len(key) > longestKey {
		return nil
	}
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.byKey[string(key)]
	if r == nil {
		return nil
	}
	r.used = true
	return r.answer
}

// put remembers an answer, marked as remembered.
func (m *memo) put(key []byte, a *answered) {
	if len(key) > longestKey {
		return
	}
	r := &remembered{key: string(key), answer: m.keep(a)}
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.byKey[r.key]; old != nil { // an equal question was answered meanwhile
		return
	}
	for len(s.ring) > 0 && (len(s.ring) >= s.most || s.bytes+len(key) > s.largest) {
		s.evict()
	}
	s.byKey[r.key] = r
	s.ring = append(s.ring, r)
	s.bytes += len(key)
}

// keep is an answer as it is remembered. A stage answers most of those who ask
// alike, however many there are, and an answer is much larger than a question: one
// that is equal to the latest is that.
func (m *memo) keep(a *answered) *answered {
	kept := *a
	kept.decision.Memoised, kept.result = true, nil // which is for who has it evaluated
	if latest, _ := m.latest.Load(a.decision.Stage); latest != nil && latest.(*answered).equals(&kept) {
		return latest.(*answered)
	}
	m.latest.Store(a.decision.Stage, &kept)
	return &kept
}

func (a *answered) equals(b *answered) bool {
	return reflect.DeepEqual(&a.decision, &b.decision) && bytes.Equal(a.logged, b.logged) && bytes.Equal(a.builtins, b.builtins)
}

// evict moves the hand to the next answer that was not used since it last
// came by, and forgets that one.
func (s *shard) evict() {
	for {
		s.hand %= len(s.ring)
		r := s.ring[s.hand]
		if !r.used {
			break
		}
		r.used = false
		s.hand++
	}
	last := len(s.ring) - 1
	r := s.ring[s.hand]
	s.ring[s.hand], s.ring[last] = s.ring[last], nil
	s.ring = s.ring[:last]
	delete(s.byKey, r.key)
	s.bytes -= len(r.key)
}
