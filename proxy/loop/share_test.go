package loop

import (
	"sync/atomic"
	"testing"
	"time"
)

// Loops that always have something to do let goroutines have their share: what a
// task does aside begins within a few turns, and not only when Go takes the
// processor away, which it does after 10 ms.
func TestGoroutinesHaveTheirShare(t *testing.T) {
	g := start(t)
	const turn = 50 * time.Microsecond
	var stop atomic.Bool
	var turns atomic.Int64
	for _, l := range g.loops {
		l.Go(func(t *Task) {
			for !stop.Load() {
				for begun := time.Now(); time.Since(begun) < turn; {
				}
				turns.Add(1)
				t.Yield()
			}
		})
	}
	const times = 50
	done := make(chan int64)
	g.loops[0].Go(func(t *Task) {
		before := turns.Load()
		for range times {
			t.Aside(func() {})
		}
		n := turns.Load() - before
		t.Then(func() { done <- n })
		t.Leave()
	})
	n := <-done
	stop.Store(true)
	if most := int64(5 * time.Millisecond / turn * time.Duration(len(g.loops)) * times); n > most {
		t.Errorf("%d turns of %s passed on %d loops while %d things were done aside, want at most %d", n, turn, len(g.loops), times, most)
	}
}
