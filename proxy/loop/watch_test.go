package loop

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// The watch dozes when there is nothing to watch, and looks again when there is: a
// task that blocks after a long time without anything is relieved as any other.
func TestWatchDozes(t *testing.T) {
	g := start(t)
	for range 3 {
		eventually(t, "the watch dozes", g.dozing.Load)
		for _, l := range g.loops {
			c, peer := connect(t, l)
			until, done := make(chan struct{}), make(chan struct{})
			l.Go(func(t *Task) {
				t.Then(func() { close(done) })
				<-until // which it does not say
			})
			ended := make(chan struct{})
			c.Serve(func(t *Task) {
				t.Then(func() { close(ended) })
				echo(c)
			})
			answers(t, peer)
			close(until)
			await(t, "the task goes on", done)
			peer.Close()
			await(t, "the echo ends", ended)
		}
	}
}

// A loop that wakes while the watch is about to doze is not forgotten. The test
// stops the watch at the last of the loops in the round in which it decides.
func TestWatchDozesNotTooSoon(t *testing.T) {
	g := start(t)
	first, last := g.loops[0], g.loops[len(g.loops)-1]
	const unseen = ^uint64(0)
	// round lets the watch look at the loop once, whose mu is held before and after. It
	// reports whether it has: it may be asleep, where the test was too slow to count.
	round := func(l *Loop) bool {
		for l.seen = unseen; l.seen == unseen && !g.dozing.Load(); {
			l.mu.Unlock()
			runtime.Gosched()
			l.mu.Lock()
		}
		return l.seen != unseen
	}
	decides := func() bool {
		// After a round in which one does not sleep they all do for all but one of
		// the rounds that it takes.
		last.sleeping = false
		awake := round(last)
		last.sleeping = true
		for i := 1; i < dozeAfter && awake; i++ {
			awake = round(last)
		}
		first.mu.Lock()
		defer first.mu.Unlock()
		return awake && round(first)
	}
	for begun := time.Now(); ; {
		last.mu.Lock()
		if decides() {
			break
		}
		last.mu.Unlock()
		if time.Since(begun) > limit {
			t.Skip("the watch is never caught")
		}
		woken := make(chan bool)
		first.Go(func(*Task) { woken <- true })
		<-woken
	}
	until, begun, done := make(chan struct{}), make(chan bool), make(chan struct{})
	release := sync.OnceFunc(func() { close(until) })
	defer release()
	first.Go(func(t *Task) {
		t.Then(func() { close(done) })
		begun <- true
		<-until
	})
	<-begun
	last.mu.Unlock()

	served := make(chan struct{})
	first.Go(func(*Task) { close(served) })
	await(t, "the loop goes on without the task", served)
	release()
	await(t, "the task goes on", done)
}
