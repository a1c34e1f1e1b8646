package loop

import (
	"runtime"
	"sync"
	"testing"
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
	// lock stops the watch as it comes out of a doze: before the first of the loops, and
	// with dozeAfter rounds to go.
	lock := func() bool {
		first.mu.Lock()
		last.mu.Lock()
		if g.rouse(); taken(g.kick) {
			return true
		}
		last.mu.Unlock()
		first.mu.Unlock()
		return false
	}
	eventually(t, "the watch dozes", func() bool { return g.dozing.Load() && lock() })
	// look lets the watch look at one of the two: at that of the other it is stopped.
	look := func(l *Loop) {
		const unseen = ^uint64(0)
		for l.seen = unseen; l.seen == unseen; {
			l.mu.Unlock()
			runtime.Gosched()
			l.mu.Lock()
		}
	}
	for range dozeAfter - 1 {
		look(first)
		look(last)
	}
	look(first)
	if g.dozing.Load() {
		t.Error("it dozes already")
	}
	first.mu.Unlock()
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

// taken reports whether somebody takes what the channel has, for which he waits already.
func taken(c chan struct{}) bool {
	for range 1000 {
		if len(c) == 0 {
			return true
		}
		runtime.Gosched()
	}
	return false
}
