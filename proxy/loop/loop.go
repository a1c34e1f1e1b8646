// Package loop lives many connections on few threads, without Go's scheduler
// between a socket and the code that waits for it.
//
// Go's way of a goroutine for each connection wakes one for every few bytes: the
// poller finds it, a queue takes it, a thread that may have to be woken runs it.
// Of a proxy's connection, which is short and mostly waiting, that is a third of
// what it costs. Here a [Loop] waits for its sockets itself (epoll(7)) and goes on
// at once, on its own thread, with who waited: a [Task] is straight code like a
// goroutine's, but a coroutine of its loop. Where it has to wait for one of its
// connections it gives the loop back, and has it again when there is something.
//
// What a task does between is the loop's time, which others wait for. So whatever
// may take long, or wait for anything but a connection of the loop, is done aside
// (see [Task.Aside]): the same code goes on, as any goroutine does. Where that was
// forgotten nothing stands still: a task that has not given its loop back within
// 10 to 20 ms is left to itself, and the loop goes on without it.
//
// loop.go has the loops, task.go what they run, conn.go the connections, accept.go
// and dial.go where those come from, address.go between whom they are, and
// deadlines.go when they have waited for long enough.
package loop

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// patience is the least time that a task may keep its loop, and half of the most.
const patience = 10 * time.Millisecond

// share is how long a loop that always has something to do keeps a processor of
// Go's before it lets the goroutines have it.
const share = time.Millisecond

// Group is the loops of a program, one for each of its processors.
type Group struct {
	loops  []*Loop
	taken  atomic.Int64
	dozing atomic.Bool   // the watch has nothing to watch
	kick   chan struct{} // ends that
	quit   chan struct{}
	ended  sync.WaitGroup
}

// Start starts them: as many as Go has processors by now (GOMAXPROCS).
func Start() (*Group, error) {
	g := &Group{kick: make(chan struct{}, 1), quit: make(chan struct{})}
	for range runtime.GOMAXPROCS(0) {
		l, err := newLoop(g)
		if err != nil {
			g.Close()
			return nil, err
		}
		g.loops = append(g.loops, l)
	}
	for _, l := range g.loops {
		g.ended.Go(l.drive)
	}
	g.ended.Go(g.watch)
	return g, nil
}

// Close ends the loops, and returns when they have. Whoever has connections or
// tasks on them has ended those before.
func (g *Group) Close() {
	close(g.quit)
	for _, l := range g.loops {
		l.mu.Lock()
		l.closed = true
		l.poke()
		l.mu.Unlock()
	}
	g.ended.Wait()
	for _, l := range g.loops {
		l.mu.Lock()
		for _, idle := range l.idle {
			for _, t := range idle {
				t.stop()
			}
		}
		l.mu.Unlock()
		l.release()
	}
}

// dozeAfter is how many times the watch looks at loops that all sleep before it
// does, too: an idle program is not to be woken for nothing.
const dozeAfter = 50

// watch takes a loop away from a task that keeps it for too long.
func (g *Group) watch() {
	tick := time.NewTicker(patience)
	defer tick.Stop()
	idle := 0
	for {
		select {
		case <-g.quit:
			return
		case <-tick.C:
		}
		asleep := true
		for _, l := range g.loops {
			l.mu.Lock()
			if l.busy && l.turn == l.seen {
				g.taken.Add(1)
				l.busy = false
				l.turn++ // it is nobody's, until the next driver has it
				g.ended.Go(l.drive)
			}
			l.seen = l.turn
			asleep = asleep && l.sleeping
			l.mu.Unlock()
		}
		if idle++; !asleep {
			idle = 0
		}
		if idle < dozeAfter {
			continue
		}
		idle = 0
		g.dozing.Store(true)
		if !g.asleep() { // one has woken before it could see that it has to tell
			g.dozing.Store(false)
			continue
		}
		select {
		case <-g.quit:
			return
		case <-g.kick:
		}
	}
}

func (g *Group) asleep() bool {
	for _, l := range g.loops {
		l.mu.Lock()
		sleeping := l.sleeping
		l.mu.Unlock()
		if !sleeping {
			return false
		}
	}
	return true
}

// Taken is how often a loop was taken away from a task that kept it for too long.
func (g *Group) Taken() int64 { return g.taken.Load() }

// slack is by how many connections, two to a session, a loop may have more than
// another before the next one that it accepts is the other's. Who is awake is the
// first to accept: with a large one all streams may be on one processor, and with
// none a second client that comes as the first one goes wakes another thread.
const slack = 4

// of is the loop that a connection is for which one of them has accepted.
func (g *Group) of(accepting *Loop) *Loop {
	best, fewest := accepting, accepting.open.Load()-slack
	for _, l := range g.loops {
		if n := l.open.Load(); n < fewest {
			best, fewest = l, n
		}
	}
	return best
}

// rouse has the watch look again.
func (g *Group) rouse() {
	if g.dozing.Load() && g.dozing.CompareAndSwap(true, false) {
		select {
		case g.kick <- struct{}{}:
		default:
		}
	}
}

// Loop runs tasks, one at a time, and waits for their connections.
type Loop struct {
	group *Group
	epoll int
	event int          // an eventfd that ends the wait
	open  atomic.Int64 // connections

	mu       sync.Mutex
	closed   bool
	sleeping bool // in epoll_wait, with nothing to do
	poked    bool // and about to be woken
	busy     bool // with a task
	turn     uint64
	seen     uint64 // the turn that the watch has seen last
	left     int    // of the ready ones, before it is looked again for events
	ready    queue
	idle     [2][]*Task // that have nothing to do: shallow and deep ones
	slots    []slot
	free     []uint32
	due      deadlines
	shared   time.Time // when goroutines had their share last
}

// slot is where a connection is found when the kernel says something of it. Its
// generation tells events of a connection that had the slot before.
type slot struct {
	conn       *Conn
	generation uint32
}

func newLoop(g *Group) (*Loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, err
	}
	l := &Loop{group: g, epoll: epoll, event: event}
	l.slots = make([]slot, 1) // of the eventfd, which needs no more than an edge
	if err := l.register(event, 0, 0, unix.EPOLLIN|edge); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

func (l *Loop) release() {
	unix.Close(l.event)
	unix.Close(l.epoll)
}

// register has the kernel tell the loop of what a socket is ready for.
func (l *Loop) register(fd int, slot, generation uint32, events uint32) error {
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
		Events: events, Fd: int32(slot), Pad: int32(generation),
	})
}

// poke ends the loop's sleep. Called with mu held.
func (l *Loop) poke() {
	if l.sleeping && !l.poked {
		l.poked = true
		_, _ = unix.Write(l.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails where it is set already
	}
}

// drive runs tasks, until the loop ends or the watch has given it to another
// driver.
func (l *Loop) drive() {
	events := make([]unix.EpollEvent, 128)
	l.mu.Lock()
	for {
		if l.left == 0 || l.ready.len() == 0 {
			if l.closed && l.ready.len() == 0 {
				break
			}
			l.poll(events)
			l.left = l.ready.len()
			continue
		}
		l.left--
		t := l.ready.pop()
		l.busy = true
		l.turn++
		turn := l.turn
		l.step(t)
		if l.turn != turn {
			break
		}
		l.busy = false
	}
	l.mu.Unlock() // not deferred: a task that panics does so without it
}

// poll looks what the kernel has to tell, and waits for it if there is nothing
// else to do. Called with mu held, which it gives up meanwhile.
func (l *Loop) poll(events []unix.EpollEvent) {
	wait := 0 // milliseconds; -1: for any time
	if l.ready.len() == 0 && !l.closed {
		wait = l.due.wait(time.Now())
	}
	l.sleeping = wait != 0
	mine := time.Since(l.shared) < share
	l.mu.Unlock()
	n := peek(l.epoll, events)
	if n == 0 && wait != 0 {
		mine = false
		runtime.Gosched()
		n, _ = unix.EpollWait(l.epoll, events, wait) // whatever fails will again
	} else if !mine {
		runtime.Gosched()
	}
	l.mu.Lock()
	if l.sleeping {
		l.sleeping, l.poked = false, false
		l.group.rouse()
	}
	for i := range events[:max(n, 0)] {
		e := &events[i]
		if of := &l.slots[e.Fd]; of.conn != nil && of.generation == uint32(e.Pad) {
			of.conn.told(e.Events)
		}
	}
	now := time.Now()
	if !mine {
		l.shared = now
	}
	l.due.pass(now)
}

// edge has the kernel tell of each change once.
const edge = unix.EPOLLET & 0xffffffff

// peek is epoll_wait that does not wait. The scheduler need not know of it.
func peek(epoll int, events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// queue is a first-in-first-out list.
type queue struct {
	tasks []*Task
	first int
}

func (q *queue) len() int { return len(q.tasks) - q.first }

func (q *queue) push(t *Task) {
	if len(q.tasks) == cap(q.tasks) && 2*q.first > len(q.tasks) { // there is room at the front
		n := copy(q.tasks, q.tasks[q.first:])
		clear(q.tasks[n:])
		q.tasks, q.first = q.tasks[:n], 0
	}
	q.tasks = append(q.tasks, t)
}

func (q *queue) pop() *Task {
	t := q.tasks[q.first]
	q.tasks[q.first] = nil
	if q.first++; q.first == len(q.tasks) {
		q.tasks, q.first = q.tasks[:0], 0
	}
	return t
}
