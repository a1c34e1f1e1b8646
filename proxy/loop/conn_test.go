package loop

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Large amounts go both ways at once and come as they were sent, through sockets
// that hold little, so that either side has to wait for the other all the time.
func TestBothWaysAtOnce(t *testing.T) {
	const up, down = 2<<20 + 1, 1 << 20
	for _, by := range []string{"two tasks", "two goroutines", "a task and a goroutine"} {
		t.Run(by, func(t *testing.T) {
			c, peer := connect(t, start(t).loops[0])
			err := rawConn{c}.Control(func(fd uintptr) {
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 16<<10)
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10)
			})
			if err != nil {
				t.Fatal(err)
			}
			peer.SetReadBuffer(16 << 10)
			peer.SetWriteBuffer(16 << 10)
			var all sync.WaitGroup
			all.Go(func() { peer.Write(noise(up)); peer.CloseWrite() })
			all.Go(func() {
				got, err := io.ReadAll(peer)
				if err != nil {
					t.Error(err)
				}
				same(t, got, noise(down))
			})
			all.Add(2)
			read := func() {
				defer all.Done()
				got, err := io.ReadAll(c)
				if err != nil {
					t.Error(err)
				}
				same(t, got, noise(up))
			}
			write := func() {
				defer all.Done()
				if n, err := c.Write(noise(down)); n != down || err != nil {
					t.Errorf("%d bytes were written: %v", n, err)
				}
				if err := c.CloseWrite(); err != nil {
					t.Error(err)
				}
			}
			if by == "two goroutines" {
				go read()
			} else {
				c.loop.Go(func(t *Task) { c.Reads(t); read() })
			}
			if by == "two tasks" {
				c.loop.Go(func(t *Task) { c.Writes(t); write() })
			} else {
				go write()
			}
			all.Wait()
		})
	}
}

// What one side has ended, the other goes on with.
func TestHalfClose(t *testing.T) {
	either(t, func(t *testing.T, g *Group, run func(*Conn, func()) chan struct{}) {
		for _, peerFirst := range []bool{true, false} {
			c, peer := connect(t, g.loops[0])
			answer := make(chan []byte, 1)
			done := run(c, func() {
				if !peerFirst {
					c.CloseWrite()
				}
				got, err := io.ReadAll(c)
				if err != nil {
					t.Error(err)
				}
				if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Errorf("after the end: %d, %v", n, err)
				}
				if peerFirst {
					c.Write(got)
					c.CloseWrite()
				}
				answer <- got
			})
			if !peerFirst {
				if got, err := io.ReadAll(peer); len(got) != 0 || err != nil {
					t.Errorf("%q, %v", got, err)
				}
			}
			peer.Write([]byte("question"))
			peer.CloseWrite()
			if peerFirst {
				got, err := io.ReadAll(peer)
				if err != nil {
					t.Error(err)
				}
				same(t, got, []byte("question"))
			}
			same(t, <-answer, []byte("question"))
			await(t, "it ends", done)
		}
	})
}

// flood is more than any sockets hold.
var flood = make([]byte, 64<<20)

// fails reports where an operation does not fail as it is to.
func fails(t *testing.T, op string, err error, want ...error) {
	t.Helper()
	var told *net.OpError
	if !errors.As(err, &told) || told.Op != op || told.Net != "tcp" || told.Addr == nil || told.Source == nil {
		t.Errorf("%s: %#v says too little", op, err)
	}
	for _, one := range want {
		if errors.Is(err, one) {
			return
		}
	}
	t.Errorf("%s: %v, want %v", op, err, want)
}

// A reset ends the wait of who reads and of who writes.
func TestReset(t *testing.T) {
	either(t, func(t *testing.T, g *Group, run func(*Conn, func()) chan struct{}) {
		c, peer := connect(t, g.loops[0])
		done := run(c, func() {
			_, err := c.Read(make([]byte, 1))
			fails(t, "read", err, syscall.ECONNRESET)
			_, err = c.Write([]byte("x"))
			fails(t, "write", err, syscall.EPIPE)
		})
		waited(t, c, &c.in)
		peer.SetLinger(0)
		peer.Close()
		await(t, "the reader has been told", done)

		c, peer = connect(t, g.loops[0])
		done = run(c, func() {
			n, err := c.Write(flood)
			if n == 0 {
				t.Error("nothing was written")
			}
			fails(t, "write", err, syscall.ECONNRESET)
		})
		waited(t, c, &c.out)
		peer.SetLinger(0)
		peer.Close()
		await(t, "the writer has been told", done)

		c, peer = connect(t, g.loops[0])
		await(t, "it is closed", run(c, func() {
			if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
				t.Error(err)
			}
		}))
		if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the peer was told %v", err)
		}
	})
}

// Close ends the waits, whoever calls it, and whatever comes after fails.
func TestClose(t *testing.T) {
	either(t, func(t *testing.T, g *Group, run func(*Conn, func()) chan struct{}) {
		before := descriptors(t)
		for name, wait := range map[string]func(c *Conn) error{
			"read":      func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err },
			"write":     func(c *Conn) error { _, err := c.Write(flood); return err },
			"raw-read":  func(c *Conn) error { return rawConn{c}.Read(func(uintptr) bool { return false }) },
			"raw-write": func(c *Conn) error { return rawConn{c}.Write(func(uintptr) bool { return false }) },
		} {
			c, peer := connect(t, g.loops[0])
			s := &c.in
			if name == "write" || name == "raw-write" {
				s = &c.out
			}
			done := run(c, func() { fails(t, name, wait(c), net.ErrClosed) })
			waited(t, c, s)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			await(t, name+" is told", done)
			peer.Close()

			for name, err := range map[string]error{
				"read":        failure(c.Read(make([]byte, 1))),
				"write":       failure(c.Write([]byte("x"))),
				"close":       c.CloseWrite(),
				"set":         c.SetLinger(0),
				"raw-read":    rawConn{c}.Read(func(uintptr) bool { return true }),
				"raw-write":   rawConn{c}.Write(func(uintptr) bool { return true }),
				"raw-control": rawConn{c}.Control(func(uintptr) { t.Error("it controls a descriptor of another") }),
				"dial":        c.Connected(),
			} {
				fails(t, name, err, net.ErrClosed)
			}
			fails(t, "set", c.SetDeadline(time.Time{}), net.ErrClosed)
			if err := c.Close(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("closed again: %v", err)
			}
		}
		if now := descriptors(t); now > before {
			t.Errorf("%d descriptors were open before, and %d are after", before, now)
		}
	})
}

func failure(_ int, err error) error { return err }

// Where several wait for the same, against the rules, none of them is forgotten by
// what ends their wait for good.
func TestAllWaitsEnd(t *testing.T) {
	const readers = 5
	for name, end := range map[string]func(c *Conn){
		"closed":   func(c *Conn) { c.Close() },
		"deadline": func(c *Conn) { c.SetReadDeadline(time.Unix(1, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := connect(t, start(t).loops[0])
			var ended sync.WaitGroup
			for range readers {
				ended.Go(func() { c.Read(make([]byte, 1)) })
			}
			eventually(t, "all are about to wait", func() bool { return c.users.Load() == 2*readers })
			waited(t, c, &c.in)
			end(c)
			done := make(chan struct{})
			go func() { ended.Wait(); close(done) }()
			await(t, "all readers return", done)
		})
	}
}

// A descriptor that is in use is closed by its last user, so that it cannot be
// given to somebody else meanwhile.
func TestDescriptorStaysWhileItIsUsed(t *testing.T) {
	l := start(t).loops[0]
	before := descriptors(t)
	c, peer := connect(t, l)
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		mine, err := unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for range 10 { // who would take the lowest descriptor that is free
			other, peer := connect(t, l)
			defer other.Close()
			defer peer.Close()
		}
		now, err := unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil || now != mine {
			t.Errorf("the descriptor is of socket %x, was of %x: %v", now, mine, err)
		}
	})
	if err != nil {
		t.Error(err)
	}
	if n, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer read %d, %v: it is not closed", n, err)
	}
	peer.Close()
	if now := descriptors(t); now > before {
		t.Errorf("%d descriptors were open before, and %d are after", before, now)
	}
}

// The same under pressure: connections are closed while they are read and written,
// their descriptors and their slots go to the next ones at once, and yet each
// carries only what is its own.
func TestDescriptorsAreReused(t *testing.T) {
	g := start(t)
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	var all sync.WaitGroup
	for worker := range 6 {
		all.Go(func() {
			for round := range rounds {
				mine := byte(worker<<5 | round&31)
				c, peer := connect(t, g.loops[(worker+round)%len(g.loops)])
				full := make([]byte, 64)
				for i := range full {
					full[i] = mine
				}
				only := func(who string, p []byte) {
					for _, b := range p {
						if b != mine {
							t.Errorf("%s has byte %x of another connection, its own are %x", who, b, mine)
							return
						}
					}
				}
				var users sync.WaitGroup
				users.Go(func() {
					p := make([]byte, 1024)
					for {
						n, err := peer.Read(p)
						only("the peer", p[:n])
						if err != nil {
							return
						}
					}
				})
				users.Go(func() {
					for {
						if _, err := peer.Write(full); err != nil {
							return
						}
					}
				})
				read := func() {
					defer users.Done()
					p := make([]byte, 1024)
					for {
						n, err := c.Read(p)
						only("the connection", p[:n])
						if err != nil {
							return
						}
					}
				}
				write := func() {
					defer users.Done()
					for {
						if _, err := c.Write(full); err != nil {
							return
						}
					}
				}
				users.Add(2)
				if round%2 == 0 {
					c.loop.Go(func(t *Task) { c.Reads(t); read() })
					c.loop.Go(func(t *Task) { c.Writes(t); write() })
				} else {
					go read()
					go write()
				}
				for range round % 7 {
					c.SetDeadline(time.Now().Add(limit))
				}
				c.Close()
				users.Wait()
				peer.Close()
			}
		})
	}
	all.Wait()
}

// What the kernel had to say of a connection that had the slot before is not taken
// for news of this one.
func TestEventsOfAnEarlierConnection(t *testing.T) {
	l, err := newLoop(&Group{}) // which nobody drives
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	adopted := func() *Conn {
		fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		c := l.add(fd, nil, true)
		if err := c.watch(unix.EPOLLIN | edge); err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := adopted()
	first.Close()
	second := adopted()
	defer second.Close()
	if first.slot != second.slot {
		t.Fatalf("slot %d is not used again, but %d", first.slot, second.slot)
	}
	stale, err := unix.Eventfd(1, unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stale)
	for generation, want := range []bool{false, true} {
		if err := l.register(stale, second.slot, uint32(generation), unix.EPOLLIN|edge); err != nil {
			t.Fatal(err)
		}
		l.mu.Lock()
		l.closed = true // so that it does not wait
		l.poll(make([]unix.EpollEvent, 8))
		if second.in.ready != want {
			t.Errorf("generation %d: the connection is told: %t", generation, second.in.ready)
		}
		l.mu.Unlock()
		if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, stale, nil); err != nil {
			t.Fatal(err)
		}
	}
}
