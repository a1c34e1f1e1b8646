package relay

import (
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sallyport/proxy/loop"
)

const (
	bufferSize = 64 << 10

	// A direction that fills its buffer so many times in a row is bulk, and
	// goes through a pipe.
	fullReads = 3

	// A direction that so many times in a row brings less than thinRead through
	// the pipe is bulk no more: copying little is cheaper than splicing it.
	thinRead  = 16 << 10
	thinReads = 4

	// Where no pipe was to be had, so many full reads pass before the next try.
	noPipeReads = 64

	// How long a side that is to be reset is given to take what was received
	// for it before.
	settleTime = 5 * time.Second
)

// buffers and pipes are shared by all flows: memory and the pipes that the
// kernel allows a user are the process's, not a flow's.
var (
	buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
	pipes   pipePool
)

// tcp is a direction's way between two sockets. It holds a buffer or a pipe
// only between a read that brought something and the next that does not.
type tcp struct {
	source, sink syscall.RawConn // sink is nil where the destination is not plain TCP
	fill, drain  func(fd uintptr) bool
	moved        *atomic.Int64

	buffer *[bufferSize]byte
	pipe   *pipe
	room   int           // how much fill may take
	got    int           // what it took; 0: the end
	offset int           // what drain has delivered of it
	limit  int           // what it may deliver of it
	errno  syscall.Errno // what the last system call said

	bulk    bool
	bounded bool // boundReceive was called
	full    int  // full reads in a row, of a direction that is not bulk
	thin    int  // thin ones, of one that is
}

func (d *direction) copy() (received, sent error) {
	t := &d.tcp
	if t.source, received = rawOf(d.src); received != nil {
		return received, nil
	}
	if t.source == nil {
		return d.copyPlain()
	}
	if t.sink, sent = rawOf(d.dst); sent != nil {
		return nil, sent
	}
	t.moved = d.moved
	t.fill, t.drain = t.tryFill, t.tryDrain
	on, _ := d.src.(*loop.Conn)
	since := 0 // bytes
	defer t.release()
	for {
		if t.room, received = d.allowance(largePipe); received != nil {
			return received, nil
		}
		t.offset = 0
		received = t.source.Read(t.fill)
		if received == nil && t.errno != 0 {
			received = t.errno
		}
		if received != nil || t.got == 0 {
			return received, nil
		}
		if p := d.pace.Load(); p != nil {
			p.giveBack(t.room - t.got)
		}
		drained := on != nil && t.pipe == nil && t.got < min(t.room, bufferSize)
		if drained {
			on.Drained()
		}
		t.limit = d.grant(t.got)
		if t.sink != nil {
			sent = t.sink.Write(t.drain)
			if sent == nil && t.errno != 0 {
				sent = t.errno
			}
		} else {
			var n int
			n, sent = d.dst.Write(t.buffer[:t.limit])
			t.offset = n
			d.moved.Add(int64(n))
		}
		if sent != nil {
			return nil, sent
		}
		if t.limit < t.got {
			d.flow.spent()
			return errOver, nil
		}
		t.weigh()
		if drained {
			t.release() // the next read waits before it asks
		}
		if since += t.got; since >= bufferSize {
			since = 0
			d.task.Yield() // whoever has much to move lets others move a little between
		}
	}
}

// rawOf is the socket of a connection; nil where that is not plain TCP.
func rawOf(c net.Conn) (syscall.RawConn, error) {
	switch c := c.(type) {
	case *net.TCPConn:
		return c.SyscallConn()
	case *loop.Conn:
		return c.SyscallConn()
	}
	return nil, nil
}

// tryFill takes what the socket has. Where it has nothing, what was borrowed
// goes back, and the caller waits until there is something. Reading is also how
// one asks whether there is something: an edge of the poller may lie behind.
func (t *tcp) tryFill(fd uintptr) bool {
	if t.bulk && t.pipe == nil {
		if t.pipe = pipes.get(); t.pipe == nil {
			t.bulk, t.full = false, -noPipeReads
		}
	}
	for {
		if t.pipe != nil {
			t.got, t.errno = splice(int(fd), t.pipe.in, min(t.room, t.pipe.size))
		} else {
			if t.buffer == nil {
				t.buffer = buffers.Get().(*[bufferSize]byte)
			}
			t.got, t.errno = read(int(fd), t.buffer[:min(t.room, bufferSize)])
		}
		switch t.errno {
		case 0:
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			t.release()
			return false
		case syscall.EINVAL:
			if t.pipe == nil {
				return true
			}
			// The socket does not splice, for one because the kernel does TLS on it.
			t.release()
			t.bulk, t.full = false, math.MinInt
		default:
			return true
		}
	}
}

// tryDrain delivers what was taken, as far as the socket takes it.
func (t *tcp) tryDrain(fd uintptr) bool {
	short := false // the last splice moved less than it was asked to
	for t.offset < t.limit {
		var n int
		if t.pipe != nil {
			n, t.errno = splice(t.pipe.out, int(fd), t.limit-t.offset)
		} else {
			n, t.errno = write(int(fd), t.buffer[t.offset:t.limit])
		}
		switch t.errno {
		case 0:
			t.offset += n
			t.moved.Add(int64(n))
			short = t.pipe != nil && t.offset < t.limit
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		case syscall.EPIPE:
			// A splice that meets an error halfway tells what it has moved, and the
			// error of the socket is gone. It can only have been a reset.
			if short {
				t.errno = syscall.ECONNRESET
			}
			return true
		default:
			return true
		}
	}
	t.errno = 0
	return true
}

// weigh decides from the last chunk how the next one goes.
func (t *tcp) weigh() {
	switch {
	case t.bulk && t.got < thinRead:
		if t.thin++; t.thin >= thinReads {
			t.bulk, t.full = false, 0
			t.release()
		}
	case t.bulk:
		t.thin = 0
	case t.got < bufferSize:
		t.full = min(t.full, 0)
	default:
		if t.full++; t.full >= fullReads && t.sink != nil {
			t.bulk, t.thin = true, 0
			t.release()
			if !t.bounded {
				t.bounded = true
				_ = t.source.Control(boundReceive)
			}
		}
	}
}

// release gives back what is borrowed. A pipe that still holds bytes is closed.
func (t *tcp) release() {
	if t.buffer != nil {
		buffers.Put(t.buffer)
		t.buffer = nil
	}
	if t.pipe != nil {
		pipes.put(t.pipe, t.offset == t.got)
		t.pipe = nil
	}
}

// The system calls of the relay do not tell the scheduler that they are made.
// None of them waits, each is over within the time of copying its bytes, and
// the scheduler, told of calls that take more than 20 µs, would wake a thread
// to use the processor meanwhile, which it cannot: the call is using it.

// splice moves up to n bytes between a socket and a pipe.
func splice(from, to, n int) (int, syscall.Errno) {
	moved, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return max(int(moved), 0), errno
}

func read(fd int, p []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return max(int(n), 0), errno
}

func write(fd int, p []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return max(int(n), 0), errno
}

// watch waits, holding nothing, until a source that has closed its sending half
// resets, and returns the error; nil where that cannot be seen. It is woken by a
// deadline when the flow ends.
func (d *direction) watch() error {
	if d.tcp.source == nil {
		return nil
	}
	var failure error
	err := d.tcp.source.Read(func(fd uintptr) bool {
		failure = socketError(int(fd))
		return failure != nil
	})
	if failure != nil {
		return failure
	}
	return err
}

// unsoundEnd tells an end from a reset whose error the other direction's write
// has taken, after which a read finds an end. If so it waits until the other
// direction has said which it was; an error that no one has taken it returns.
func (d *direction) unsoundEnd() error {
	if d.tcp.source == nil {
		return nil
	}
	var failure error
	var state uint8
	_ = d.tcp.source.Control(func(fd uintptr) {
		// The first byte of struct tcp_info is all that is wanted of it.
		if info, err := unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_INFO); err == nil {
			first := int32(info)
			state = *(*byte)(unsafe.Pointer(&first))
		}
		if state == unix.BPF_TCP_CLOSE {
			failure = socketError(int(fd))
		}
	})
	if state == unix.BPF_TCP_CLOSE && failure == nil {
		d.task.Aside(d.reverse.copied.Wait)
	}
	return failure
}

// settle waits, for a while, until the destination has acknowledged what was
// sent to it, since a reset would drop it. It runs on the task.
func (d *direction) settle(t *loop.Task) {
	raw, err := rawOf(d.dst)
	if err != nil || raw == nil {
		return
	}
	queued := func() bool {
		n := 0
		err := raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		return err == nil && n > 0
	}
	if !queued() {
		return
	}
	t.Leave()
	deadline := time.Now().Add(settleTime)
	for pause := time.Millisecond; queued() && time.Now().Before(deadline); pause = min(2*pause, 100*time.Millisecond) {
		select {
		case <-d.flow.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func socketError(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return syscall.Errno(code)
	}
	return nil
}
