package loop

import (
	"fmt"
	"iter"
	"runtime"
	"runtime/debug"
	"sync/atomic"
)

// Task is straight code that a loop runs: a coroutine. A nil one stands for code
// that runs on a goroutine as usual, which may wait as it likes.
type Task struct {
	loop *Loop
	deep int // 1: it has a large stack
	next func() (said, bool)
	stop func()
	tell func(said) bool
	job  func(*Task)
	away atomic.Bool // it runs on a goroutine of its own, for now or for good

	then func()

	// Guarded by loop.mu.
	running bool
	woken   bool // while it ran
}

// said is what a task says when it gives its loop back.
type said uint8

const (
	over    said = iota // the job is done
	parked              // it waits, until somebody wakes it
	again               // it would go on, once others have had a turn
	leaving             // it goes on elsewhere
	back                // it has done what it left for
)

// maxIdle is how many tasks without a job a loop keeps, by depth.
var maxIdle = [2]int{128, 32}

// Go has a loop run the job. Any goroutine may call it.
func (l *Loop) Go(job func(*Task)) { l.start(0, job) }

// GoDeep is Go for a job that takes a deep stack, which the loop keeps for the next
// one: growing it costs as much as a few system calls.
func (l *Loop) GoDeep(job func(*Task)) { l.start(1, job) }

func (l *Loop) start(deep int, job func(*Task)) {
	l.mu.Lock()
	var t *Task
	if last := len(l.idle[deep]) - 1; last >= 0 {
		t = l.idle[deep][last]
		l.idle[deep][last] = nil
		l.idle[deep] = l.idle[deep][:last]
	} else {
		t = newTask(l, deep)
	}
	t.job = job
	l.ready.push(t)
	l.poke()
	l.mu.Unlock()
}

func newTask(l *Loop, deep int) *Task {
	t := &Task{loop: l, deep: deep}
	t.next, t.stop = iter.Pull(func(tell func(said) bool) {
		defer explain()
		t.tell = tell
		if deep == 1 {
			Roomy()
		}
		for {
			job := t.job
			t.job = nil
			job(t)
			if !tell(over) {
				return
			}
		}
	})
	return t
}

// explain keeps the stack of a task that panics. It goes on to do so on that of who
// drives, which tells nothing.
func explain() {
	if cause := recover(); cause != nil {
		panic(fmt.Sprintf("%v\n\n%s", cause, debug.Stack()))
	}
}

// Roomy gives whoever calls it at once the stack that a handshake and the policy's
// answers take. It would grow to that size in any case, but step by step, and each
// step copies what the stack has on it by then.
//
//go:noinline
func Roomy() {
	var room [9 << 10]byte
	runtime.KeepAlive(&room[0])
}

// step has a task go on until it gives the loop back. Called with mu held, which it
// gives up meanwhile.
func (l *Loop) step(t *Task) {
	t.running, t.woken = true, false
	l.mu.Unlock()
	word, _ := t.next()
	l.mu.Lock()
	t.running = false
	switch word {
	case over:
		l.finish(t)
	case again:
		l.ready.push(t)
	case leaving:
		t.away.Store(true)
		l.group.ended.Go(t.elsewhere)
	default:
		if t.woken {
			l.ready.push(t)
		}
	}
	l.poke() // there may be another driver now
}

// finish does what is to be done after a task, on the stack of who drives: it has
// grown once and for all. Called with mu held, which it gives up meanwhile.
func (l *Loop) finish(t *Task) {
	if then := t.then; then != nil {
		t.then = nil
		l.mu.Unlock()
		then()
		l.mu.Lock()
	}
	t.away.Store(false)
	if len(l.idle[t.deep]) < maxIdle[t.deep] {
		l.idle[t.deep] = append(l.idle[t.deep], t)
		return
	}
	t.stop()
}

// elsewhere goes on with a task on a goroutine of its own.
func (t *Task) elsewhere() {
	word, _ := t.next()
	l := t.loop
	l.mu.Lock()
	if word == over {
		l.finish(t)
	} else {
		t.away.Store(false)
		l.ready.push(t)
		l.poke()
	}
	l.mu.Unlock() // not deferred, as in drive
}

// On tells whether the task runs on its loop. A nil one does not.
func (t *Task) On() bool { return t != nil && !t.away.Load() }

// Loop is the task's.
func (t *Task) Loop() *Loop { return t.loop }

// Then has f called once the task is over. It must not wait for long.
func (t *Task) Then(f func()) { t.then = f }

// Aside does what may take long, or wait for anything: the loop goes on meanwhile.
// A nil task, or one that has left, does it at once.
func (t *Task) Aside(f func()) {
	if !t.On() {
		f()
		return
	}
	t.tell(leaving)
	f()
	t.tell(back)
}

// Leave has the rest of the task run aside. A nil task has done so before, and one
// that has left.
func (t *Task) Leave() {
	if t.On() {
		t.tell(leaving)
	}
}

// Yield lets others have a turn.
func (t *Task) Yield() {
	if !t.On() {
		runtime.Gosched()
		return
	}
	t.tell(again)
}

// wake has a parked task go on. Called with mu held.
func (l *Loop) wake(t *Task) {
	if t.running {
		t.woken = true
		return
	}
	l.ready.push(t)
	l.poke()
}
