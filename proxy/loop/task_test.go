package loop

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// ways are those in which a task can keep from its loop what others wait for.
var ways = map[string]func(t *Task, until <-chan struct{}){
	"aside": func(t *Task, until <-chan struct{}) { t.Aside(func() { <-until }) },
	"after it has left": func(t *Task, until <-chan struct{}) {
		t.Leave()
		<-until
	},
	"without saying so": func(_ *Task, until <-chan struct{}) { <-until },
	"computing": func(_ *Task, until <-chan struct{}) {
		for n := 0; ; {
			select {
			case <-until:
				return
			default:
				n++
			}
		}
	},
	"yielding": func(t *Task, until <-chan struct{}) {
		for {
			select {
			case <-until:
				return
			default:
				t.Yield()
			}
		}
	},
	"without saying so, and yielding": func(t *Task, until <-chan struct{}) {
		<-until
		t.Yield()
	},
	"letting be": func(t *Task, until <-chan struct{}) { // several at once
		t.Aside(func() { t.Aside(func() {}) })
		t.Yield()
		<-until
		t.Aside(func() { <-until })
	},
}

// While one task waits, or computes, a connection of the same loop is served, and
// afterwards the task goes on where it was: with its own connection, too.
func TestLoopGoesOn(t *testing.T) {
	for name, keep := range ways {
		for _, tasks := range []int{1, 20} {
			if name == "computing" && tasks > 1 {
				tasks = 2 // each takes a processor
			}
			t.Run(fmt.Sprintf("%s/%d", name, tasks), func(t *testing.T) {
				g := start(t)
				l := g.loops[0]
				served, client := connect(t, l)
				ended := make(chan struct{})
				served.Serve(func(t *Task) {
					t.Then(func() { close(ended) })
					echo(served)
				})
				answers(t, client)

				until, begun, done := make(chan struct{}), make(chan bool, 1), make(chan bool, tasks)
				var all sync.WaitGroup
				for i := range tasks {
					all.Add(1)
					c, peer := connect(t, l)
					c.Serve(func(task *Task) {
						task.Then(all.Done)
						if !task.On() || task.Loop() != l {
							t.Error("it is not on its loop")
						}
						if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
							t.Errorf("%d, %v", n, err)
						}
						begun <- true
						before := i
						keep(task, until)
						if before != i {
							t.Error("it has forgotten what it was at")
						}
						if on := name != "after it has left"; task.On() != on {
							t.Errorf("it is on its loop: %t", !on)
						}
						done <- true
						echo(c)
					})
					peer.Write([]byte("x"))
					defer func() {
						answers(t, peer) // it goes on
						peer.CloseWrite()
					}()
					<-begun
					answers(t, client)
				}
				for range 10 {
					answers(t, client)
				}
				// Nor has the loop to be taken from those that say so. On a busy machine it may
				// be, now and then, from one that is not quick enough.
				if says := name == "aside" || name == "after it has left"; says && tasks > 1 && g.Taken() >= int64(tasks)/2 {
					t.Errorf("of %d tasks %d had the loop taken away", tasks, g.Taken())
				}
				close(until)
				for range tasks {
					<-done
				}
				t.Cleanup(func() {
					client.Close()
					await(t, "the echo ends", ended)
					all.Wait()
				})
			})
		}
	}
}

// What is to come after a task comes once, when it is over, also where that was
// aside, and not for the next job of the same task.
func TestThen(t *testing.T) {
	for name, keep := range ways {
		t.Run(name, func(t *testing.T) {
			l := start(t).loops[0]
			until := make(chan struct{})
			close(until)
			var jobs, calls atomic.Int32
			for range 5 {
				ended := make(chan bool)
				l.Go(func(task *Task) {
					task.Then(func() { t.Error("it was replaced") })
					task.Then(func() {
						calls.Add(1)
						ended <- jobs.CompareAndSwap(1, 0)
					})
					keep(task, until)
					jobs.Add(1)
				})
				if !<-ended {
					t.Error("it came before the task was over")
				}
				next := make(chan bool)
				l.Go(func(task *Task) { next <- task.On() }) // nothing comes after this one
				if !<-next {
					t.Error("the next job is not on the loop")
				}
			}
			if n := calls.Load(); n != 5 {
				t.Errorf("%d calls of 5", n)
			}
		})
	}
}

// Code that runs on a goroutine has no task, and does at once what a task does
// aside.
func TestNoTask(t *testing.T) {
	var none *Task
	if none.On() {
		t.Error("it is on a loop")
	}
	called := false
	none.Aside(func() { called = true })
	if !called {
		t.Error("nothing was done")
	}
	none.Leave()
	none.Yield()
}

// Of many more tasks than are kept for the next jobs no more are left than those.
func TestTasksAreKeptAndEnded(t *testing.T) {
	before := runtime.NumGoroutine()
	g, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	l := g.loops[0]
	for deep, run := range []func(func(*Task)){l.Go, l.GoDeep} {
		for _, round := range []string{"first", "next"} {
			until := make(chan struct{})
			var begun, ended sync.WaitGroup
			for i := range 3 * maxIdle[deep] {
				begun.Add(1)
				ended.Add(1)
				run(func(task *Task) {
					task.Then(ended.Done)
					if i%2 == 0 {
						task.Leave()
					}
					task.Aside(func() {
						begun.Done()
						<-until
					})
				})
			}
			begun.Wait()
			close(until)
			ended.Wait()
			kept := func() int {
				l.mu.Lock()
				defer l.mu.Unlock()
				return len(l.idle[deep])
			}
			eventually(t, "as many tasks are kept as may be, in the "+round+" round", func() bool { return kept() == maxIdle[deep] })
			most := before + len(g.loops) + 1 + maxIdle[0] + deep*maxIdle[1]
			eventually(t, "the others are gone", func() bool { return runtime.NumGoroutine() <= most })
		}
	}
	g.Close()
	eventually(t, "all are gone", func() bool { return runtime.NumGoroutine() <= before })
}

// One job after the other is done by one task.
func TestTasksAreReused(t *testing.T) {
	l := start(t).loops[0]
	tasks := map[*Task]bool{}
	for range 100 {
		ended := make(chan *Task)
		l.Go(func(task *Task) { task.Then(func() { ended <- task }) })
		tasks[<-ended] = true
		eventually(t, "it is kept", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.idle[0]) == len(tasks)
		})
	}
	if len(tasks) != 1 {
		t.Errorf("%d tasks did what one can", len(tasks))
	}
}

// The queue gives out what it was given, in that order, whatever it has copied to
// make room.
func TestQueue(t *testing.T) {
	var q queue
	var want []*Task
	r := rand.New(rand.NewPCG(3, 4))
	for range 10_000 {
		if r.IntN(200) == 0 { // all that there is, so that it begins anew
			for len(want) > 0 {
				if got := q.pop(); got != want[0] {
					t.Fatal("another one comes out")
				}
				want = want[1:]
			}
		}
		if r.IntN(5) < 3 {
			task := new(Task)
			q.push(task)
			want = append(want, task)
		} else if len(want) > 0 {
			if got := q.pop(); got != want[0] {
				t.Fatal("another one comes out")
			}
			want = want[1:]
		}
		if q.len() != len(want) {
			t.Fatalf("it has %d, want %d", q.len(), len(want))
		}
	}
}

// Who yields comes after the others that are ready.
func TestYield(t *testing.T) {
	l := start(t).loops[0]
	done := make(chan []int)
	l.Go(func(task *Task) {
		var order []int
		for i := range 3 {
			l.Go(func(task *Task) {
				order = append(order, i)
				task.Yield()
				order = append(order, i+3)
			})
		}
		task.Yield()
		order = append(order, -1)
		task.Yield()
		task.Then(func() { done <- order })
	})
	if got, want := <-done, []int{0, 1, 2, -1, 3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// News that comes when a task has decided to wait, and still has the loop, is not
// lost.
func TestWokenWhileItRuns(t *testing.T) {
	l := start(t).loops[0]
	c, peer := connect(t, l)
	decided, told, done := make(chan *Task), make(chan struct{}), make(chan struct{})
	c.Serve(func(task *Task) {
		task.Then(func() { close(done) })
		tell := task.tell
		task.tell = func(word said) bool {
			task.tell = tell
			decided <- task
			<-told
			return tell(word)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
	task := <-decided
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	if !task.running {
		t.Error("the task has given the loop back")
	}
	c.told(unix.EPOLLIN) // unless the watch has had another driver tell
	if c.in.waiting {
		t.Error("the task waits on")
	}
	l.mu.Unlock()
	close(told)
	await(t, "the task goes on", done)
}

// Everything at once, on all loops: nothing is lost, and nothing stands still.
func TestStorm(t *testing.T) {
	g := start(t)
	var all sync.WaitGroup
	for i := range 60 {
		l := g.loops[i%len(g.loops)]
		c, peer := connect(t, l)
		all.Add(2)
		c.Serve(func(task *Task) {
			task.Then(all.Done)
			r := rand.New(rand.NewPCG(uint64(i), 1))
			p := make([]byte, 8)
			for {
				n, err := c.Read(p)
				if err != nil {
					return
				}
				pause := make(chan struct{})
				switch r.IntN(40) {
				case 0: // says nothing
					go close(pause)
					<-pause
				case 1, 2:
					task.Yield()
				case 3, 4:
					task.Aside(func() { go close(pause); <-pause })
				case 5:
					over := make(chan struct{})
					l.Go(func(other *Task) { other.Leave(); close(over) })
					task.Aside(func() { <-over })
				}
				if _, err := c.Write(p[:n]); err != nil {
					return
				}
				if r.IntN(100) == 0 {
					task.Leave()
				}
			}
		})
		go func() {
			defer all.Done()
			for range 100 {
				answers(errorsOf{t}, peer)
			}
			peer.Close()
		}()
	}
	all.Wait()
}

// errorsOf is a test whose errors are told by a goroutine of it.
type errorsOf struct{ testing.TB }

func (e errorsOf) Fatal(args ...any) {
	e.Error(args...)
	runtime.Goexit()
}

// A task that panics ends the program, as a goroutine does, and says why and where.
func TestPanic(t *testing.T) {
	const inside = "LOOP_TEST_PANIC"
	for name, job := range map[string]func(*Task){
		"on":          func(*Task) { breaks() },
		"aside":       func(t *Task) { t.Aside(breaks) },
		"gone":        func(t *Task) { t.Leave(); breaks() },
		"after":       func(t *Task) { t.Then(breaks) },
		"gone, after": func(t *Task) { t.Then(breaks); t.Leave() },
	} {
		if os.Getenv(inside) == name {
			start(t).loops[0].Go(job)
			select {}
		}
		if os.Getenv(inside) != "" {
			continue
		}
		again := exec.Command(os.Args[0], "-test.run=^TestPanic$")
		again.Env = append(os.Environ(), inside+"="+name)
		out, err := again.CombinedOutput()
		if got := string(out); err == nil || !strings.Contains(got, "panic: the reason") ||
			!strings.Contains(got, "loop.breaks(") || strings.Contains(got, "fatal error") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func breaks() { panic("the reason") }
