package relay

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// A user without privileges may have 64 MiB of pipes
	// (pipe-user-pages-soft), after which each new one has 8 KiB. These are
	// 44 MiB at the most, and further directions copy. The larger a pipe, the
	// fewer wake-ups: a few streams alone go through large ones.
	largePipe  = 1 << 20 // pipe-max-size for users without privileges
	largePipes = 16
	smallPipe  = 512 << 10
	maxPipes   = largePipes + 56

	minPipe = 64 << 10 // smaller is not worth it

	// After a pipe could not be had, none is asked for this long.
	pipeRetry = time.Second

	// A pipe that nobody wanted for this long is closed.
	pipeKeep = time.Second
)

// pipe is a kernel pipe, whose ends are non-blocking.
type pipe struct {
	out, in int // descriptors: to read from, to write to
	size    int // bytes
}

// pipePool lends empty pipes, a bounded number at once.
type pipePool struct {
	mu       sync.Mutex
	free     []*pipe // the one used last is at the end
	open     int     // all of them, lent ones too
	unwanted int     // the fewest that were free at once since the last sweep
	sweeping bool
	refused  time.Time // when a pipe could not be had
}

// get returns an empty pipe, or nil where there is none to be had.
func (p *pipePool) get() *pipe {
	p.mu.Lock()
	if last := len(p.free) - 1; last >= 0 {
		lent := p.free[last]
		p.free = p.free[:last]
		p.unwanted = min(p.unwanted, last)
		p.mu.Unlock()
		return lent
	}
	if p.open >= maxPipes || (!p.refused.IsZero() && time.Since(p.refused) < pipeRetry) {
		p.mu.Unlock()
		return nil
	}
	size := largePipe
	if p.open >= largePipes {
		size = smallPipe
	}
	p.open++
	p.mu.Unlock()

	made := newPipe(size)
	if made == nil {
		p.mu.Lock()
		p.open--
		p.refused = time.Now()
		p.mu.Unlock()
	}
	return made
}

// put takes a pipe back, and closes it if it is not empty.
func (p *pipePool) put(lent *pipe, empty bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !empty {
		p.open--
		lent.close()
		return
	}
	p.free = append(p.free, lent)
	if !p.sweeping {
		p.sweeping = true
		p.unwanted = 0
		time.AfterFunc(pipeKeep, p.sweep)
	}
}

// sweep closes the pipes that were free all the time since the last sweep.
func (p *pipePool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, old := range p.free[:p.unwanted] {
		old.close()
	}
	p.open -= p.unwanted
	p.free = append(p.free[:0], p.free[p.unwanted:]...)
	p.unwanted = len(p.free)
	if p.sweeping = p.unwanted > 0; p.sweeping {
		time.AfterFunc(pipeKeep, p.sweep)
	}
}

// newPipe returns nil where the kernel gives none, or one that is too small.
func newPipe(size int) *pipe {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	made := &pipe{out: ends[0], in: ends[1]}
	// Where it may not grow it keeps the size that it has, which may do.
	_, _ = unix.FcntlInt(uintptr(made.in), unix.F_SETPIPE_SZ, size)
	size, err := unix.FcntlInt(uintptr(made.in), unix.F_GETPIPE_SZ, 0)
	if err != nil || size < minPipe {
		made.close()
		return nil
	}
	made.size = size
	return made
}

func (p *pipe) close() {
	_ = unix.Close(p.out)
	_ = unix.Close(p.in)
}
