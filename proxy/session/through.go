package session

import "sync"

// through counts the open sessions by the upstreams that they go through. There
// are as many of these as the configuration names.
type through struct {
	mu    sync.Mutex
	count map[string]int64
}

// move has a session leave some upstreams and go through others.
func (t *through) move(from, to []string) {
	if len(from) == 0 && len(to) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count == nil {
		t.count = map[string]int64{}
	}
	for _, name := range from {
		t.count[name]--
	}
	for _, name := range to {
		t.count[name]++
	}
}

// Through counts the open sessions that go through an upstream.
func (t *Table) Through(upstream string) int64 {
	t.through.mu.Lock()
	defer t.through.mu.Unlock()
	return t.through.count[upstream]
}
