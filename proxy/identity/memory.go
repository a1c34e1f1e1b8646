package identity

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	stdhash "hash"
	"sync"
)

// maxRemembered bounds the successes that are remembered.
const maxRemembered = 4096

// mark stands for a name, a password and a stored hash.
type mark [sha256.Size]byte

// memory knows which marks were verified, and which are being worked on.
type memory struct {
	key [sha256.Size]byte // made up by the process

	marking sync.Pool

	mu sync.Mutex
	// What is asked for again moves to recent; when that is half of what may
	// be remembered, what is older is forgotten.
	recent, older map[mark]struct{}
	working       map[mark]*work
}

// work is one verification in progress. The rest is set when done is closed.
type work struct {
	done     chan struct{}
	verified bool
	err      error
}

// marking is what it takes to make a mark: an HMAC costs as much to make as to use.
type marking struct {
	mac  stdhash.Hash
	said [512]byte // what the mark is of, where it is not longer
	sum  mark
}

func newMemory() *memory {
	m := &memory{recent: make(map[mark]struct{}), working: make(map[mark]*work)}
	rand.Read(m.key[:]) // never fails
	m.marking.New = func() any { return &marking{mac: hmac.New(sha256.New, m.key[:])} }
	return m
}

// mark says each part's length first, so that no two triples read the same.
func (m *memory) mark(parts ...string) (sum mark) {
	of := m.marking.Get().(*marking)
	defer m.marking.Put(of)
	said := of.said[:0]
	for _, part := range parts {
		said = binary.BigEndian.AppendUint64(said, uint64(len(part)))
		said = append(said, part...)
	}
	of.mac.Reset()
	of.mac.Write(said)
	of.mac.Sum(of.sum[:0])
	clear(said)
	return of.sum
}

// begin says whether the mark is remembered, and if not, whose work on it is to
// be waited for. If it is mine, the caller does it and then calls end.
func (m *memory) begin(k mark) (remembered bool, w *work, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.knows(k) {
		return true, nil, false
	}
	if w, ok := m.working[k]; ok {
		return false, w, false
	}
	w = &work{done: make(chan struct{})}
	m.working[k] = w
	return false, w, true
}

// recall says whether the mark is remembered.
func (m *memory) recall(k mark) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.knows(k)
}

// knows is recall with mu held.
func (m *memory) knows(k mark) bool {
	if _, ok := m.recent[k]; ok {
		return true
	}
	_, ok := m.older[k]
	if ok {
		m.remember(k)
	}
	return ok
}

// end tells the result to all who wait, and remembers a success.
func (m *memory) end(k mark, w *work, verified bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if verified {
		m.remember(k)
	}
	w.verified, w.err = verified, err
	delete(m.working, k)
	close(w.done)
}

// remember is called with mu held.
func (m *memory) remember(k mark) {
	if len(m.recent) == maxRemembered/2 {
		m.recent, m.older = make(map[mark]struct{}), m.recent
	}
	m.recent[k] = struct{}{}
}
