package engine

import (
	"fmt"
	"strings"
	"testing"

	"sallyport/policy"
)

func remember(m *memo, key string) {
	m.put([]byte(key), &answered{decision: policy.Decision{Revision: key}})
}

func (m *memo) size() (answers, bytes int) {
	for i := range m.shards {
		s := &m.shards[i]
		if len(s.ring) != len(s.byKey) {
			panic("the ring and the map differ")
		}
		answers += len(s.ring)
		bytes += s.bytes
	}
	return answers, bytes
}

func TestMemoIsBounded(t *testing.T) {
	m := newMemo(160)
	for i := range 10_000 {
		key := fmt.Sprint("key ", i)
		remember(m, key)
		if got := m.get([]byte(key)); got == nil || got.decision.Revision != key || !got.decision.Memoised {
			t.Fatalf("%s: %+v", key, got)
		}
	}
	if n, _ := m.size(); n != 160 {
		t.Errorf("%d answers", n)
	}
	if m.get([]byte("never")) != nil {
		t.Error("an answer that nobody gave")
	}

	m = newMemo(1600)
	long := strings.Repeat("x", longestKey-10)
	for i := range 2000 {
		remember(m, fmt.Sprintf("%s%5d", long, i))
	}
	if n, bytes := m.size(); n < 16 || bytes > 1600*averageKey {
		t.Errorf("%d answers with %d bytes of keys", n, bytes)
	}
	tooLong := strings.Repeat("x", longestKey+1)
	remember(m, tooLong)
	if m.get([]byte(tooLong)) != nil {
		t.Error("a question of over 4 KiB was remembered")
	}
}

// TestMemoKeepsWhatIsUsed: a flood of questions that are asked once does not
// drive out the one that is asked all the time.
func TestMemoKeepsWhatIsUsed(t *testing.T) {
	m := newMemo(160)
	remember(m, "often")
	for i := range 10_000 {
		if m.get([]byte("often")) == nil {
			t.Fatalf("forgotten after %d others", i)
		}
		remember(m, fmt.Sprint("once ", i))
	}
}

func TestMemoKeepsTheFirstAnswer(t *testing.T) {
	m := newMemo(16)
	m.put([]byte("k"), &answered{decision: policy.Decision{Revision: "first"}})
	m.put([]byte("k"), &answered{decision: policy.Decision{Revision: "second"}})
	if got := m.get([]byte("k")); got.decision.Revision != "first" {
		t.Errorf("%+v", got)
	}
	if n, _ := m.size(); n != 1 {
		t.Errorf("%d answers", n)
	}
}
