package engine

import (
	"fmt"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

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

// TestMemoKeepsEqualAnswersOnce: what a stranger who comes from many addresses
// makes the memo keep is his questions.
func TestMemoKeepsEqualAnswersOnce(t *testing.T) {
	m := newMemo(1600)
	put := func(key string, a answered) *answered {
		m.put([]byte(key), &a)
		return m.get([]byte(key))
	}
	denied := func(stage policy.Stage, reason, log string) answered {
		return answered{
			decision: policy.Decision{Stage: stage, Verdict: policy.Denied, Deny: policy.Set{reason}},
			logged:   []byte(log), result: ast.String(log),
		}
	}
	one := put("one", denied(policy.Admit, "no", "1"))
	if put("two", denied(policy.Admit, "no", "1")) != one {
		t.Error("an equal answer is kept twice")
	}
	if put("of another stage", denied(policy.Route, "no", "1")) == one || put("three", denied(policy.Admit, "no", "1")) != one {
		t.Error("what a stage has answered is taken for another's")
	}
	for _, other := range []answered{denied(policy.Admit, "never", "1"), denied(policy.Admit, "no", "2"), {decision: policy.Decision{Stage: policy.Admit}}} {
		key := fmt.Sprint(other)
		if got := put(key, other); got == one || fmt.Sprint(got.decision.Deny, string(got.logged)) != fmt.Sprint(other.decision.Deny, string(other.logged)) {
			t.Errorf("%+v is kept as %+v", other, got)
		}
	}
}
