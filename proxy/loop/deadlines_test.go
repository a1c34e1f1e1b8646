package loop

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"
)

var errPast = os.ErrDeadlineExceeded

// The deadline that was set last holds, whenever that was, for the direction that
// it was set for.
func TestDeadlines(t *testing.T) {
	past, far := time.Unix(1, 0), func() time.Time { return time.Now().Add(time.Hour) }
	soon := func() time.Time { return time.Now().Add(20 * time.Millisecond) }
	for _, test := range []struct {
		name   string
		before func(c *Conn)
		during func(c *Conn) // while somebody reads
	}{
		{"past", func(c *Conn) { c.SetReadDeadline(past) }, nil},
		{"past of both", func(c *Conn) { c.SetDeadline(past) }, nil},
		{"comes", func(c *Conn) { c.SetReadDeadline(soon()) }, nil},
		{"comes of both", func(c *Conn) { c.SetDeadline(soon()) }, nil},
		{"the other's is later", func(c *Conn) { c.SetWriteDeadline(far()); c.SetReadDeadline(soon()) }, nil},
		{"the other's is earlier", func(c *Conn) { c.SetReadDeadline(soon()); c.SetWriteDeadline(past) }, nil},
		{"set to past", nil, func(c *Conn) { c.SetReadDeadline(past) }},
		{"set", nil, func(c *Conn) { c.SetReadDeadline(soon()) }},
		{"set to past from far", func(c *Conn) { c.SetDeadline(far()) }, func(c *Conn) { c.SetReadDeadline(past) }},
		{"shortened", func(c *Conn) { c.SetDeadline(far()) }, func(c *Conn) { c.SetDeadline(soon()) }},
		{"the other's is cleared", func(c *Conn) { c.SetDeadline(far()) }, func(c *Conn) { c.SetReadDeadline(soon()); c.SetWriteDeadline(time.Time{}) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			either(t, func(t *testing.T, g *Group, run func(*Conn, func()) chan struct{}) {
				c, peer := connect(t, g.loops[0])
				if test.before != nil {
					test.before(c)
				}
				ended := make(chan struct{})
				done := run(c, func() {
					_, err := c.Read(make([]byte, 1))
					fails(t, "read", err, errPast)
					close(ended)
					_, err = c.Read(make([]byte, 1))
					fails(t, "read", err, errPast)
					if err := c.SetDeadline(time.Time{}); err != nil {
						t.Error(err)
					}
					echo(c)
				})
				if test.during != nil {
					waited(t, c, &c.in)
					test.during(c)
				}
				await(t, "the deadline ends the read", ended)
				answers(t, peer) // a deadline that was cleared is forgotten
				peer.Close()
				await(t, "the echo ends", done)
			})
		})
	}
}

// A deadline does not come before its time.
func TestDeadlineIsNotEarly(t *testing.T) {
	either(t, func(t *testing.T, g *Group, run func(*Conn, func()) chan struct{}) {
		c, _ := connect(t, g.loops[0])
		for _, d := range []time.Duration{time.Microsecond, time.Millisecond, 30 * time.Millisecond} {
			at := time.Now().Add(d)
			c.SetReadDeadline(at)
			await(t, "the read ends", run(c, func() {
				_, err := c.Read(make([]byte, 1))
				fails(t, "read", err, errPast)
				if now := time.Now(); now.Before(at) {
					t.Errorf("a deadline in %v is %v early", d, at.Sub(now))
				}
			}))
		}
	})
}

// A deadline that was put off, or cleared, while somebody waits is none.
func TestDeadlineIsPutOff(t *testing.T) {
	first := time.Now().Add(time.Hour)
	for name, to := range map[string]time.Time{"put off": first.Add(time.Hour), "cleared": {}} {
		t.Run(name, func(t *testing.T) {
			either(t, func(t *testing.T, g *Group, run func(*Conn, func()) chan struct{}) {
				l := g.loops[0]
				c, peer := connect(t, l)
				other, _ := connect(t, l)
				done := run(c, func() {
					if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
						t.Error(err)
					}
				})
				waited(t, c, &c.in)
				c.SetDeadline(first)
				other.SetDeadline(first)
				c.SetDeadline(to)
				l.mu.Lock()
				l.due.pass(first) // as the loop does when its time has come
				l.mu.Unlock()
				if _, err := other.Read(make([]byte, 1)); !errors.Is(err, errPast) {
					t.Errorf("one that was not put off: %v, want %v", err, errPast)
				}
				peer.Write([]byte("x"))
				await(t, "the read ends", done)
			})
		})
	}
}

// Who reads and who writes have deadlines of their own, also where both wait.
func TestDeadlinesAreSeparate(t *testing.T) {
	for name, test := range map[string]struct{ set func(c *Conn) }{
		"read first":  {func(c *Conn) { c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) }},
		"write first": {func(c *Conn) { c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)) }},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := connect(t, start(t).loops[0])
			read, written := make(chan error, 1), make(chan error, 1)
			c.loop.Go(func(t *Task) {
				c.Reads(t)
				_, err := c.Read(make([]byte, 1))
				t.Then(func() { read <- err })
			})
			c.loop.Go(func(t *Task) {
				c.Writes(t)
				_, err := c.Write(flood)
				t.Then(func() { written <- err })
			})
			waited(t, c, &c.in)
			waited(t, c, &c.out)
			c.SetDeadline(time.Now().Add(time.Hour))
			test.set(c)
			first, second := read, written
			op, other := "read", "write"
			end := c.SetWriteDeadline
			if name == "write first" {
				first, second, op, other, end = written, read, "write", "read", c.SetReadDeadline
			}
			select {
			case err := <-first:
				fails(t, op, err, errPast)
			case err := <-second:
				t.Errorf("it is the %s that ends: %v", other, err)
				return
			}
			select {
			case err := <-second:
				t.Errorf("%s ends, too: %v", other, err)
				return
			default:
			}
			end(time.Unix(1, 0))
			fails(t, other, <-second, errPast)
		})
	}
}

// Many have deadlines at once, and each has its own.
func TestManyDeadlines(t *testing.T) {
	g := start(t)
	var all sync.WaitGroup
	for i := range 200 {
		c, peer := connect(t, g.loops[i%2])
		at := time.Now().Add(time.Duration(rand.IntN(40)) * time.Millisecond)
		if i%4 == 0 {
			at = time.Now().Add(time.Hour)
		}
		c.SetReadDeadline(at)
		all.Add(1)
		c.Serve(func(task *Task) {
			task.Then(all.Done)
			_, err := c.Read(make([]byte, 1))
			if i%4 == 0 {
				if err != nil {
					t.Errorf("ended with %v long before the deadline", err)
				}
				return
			}
			fails(t, "read", err, errPast)
			if now := time.Now(); now.Before(at) {
				t.Errorf("%v early", at.Sub(now))
			}
		})
		if i%4 == 0 {
			defer peer.Write([]byte("x"))
		}
	}
	t.Cleanup(all.Wait)
}

// The list has the earliest first, whatever is put into it and taken out.
func TestDeadlinesAreInOrder(t *testing.T) {
	var d deadlines
	start := time.Unix(1e9, 0)
	conns := make([]Conn, 50)
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		c := &conns[r.IntN(len(conns))]
		due := start.Add(time.Duration(r.IntN(1000)) * time.Second)
		if r.IntN(3) == 0 {
			due = time.Time{}
		}
		d.set(c, due)
		var earliest time.Time
		count := 0
		for i := range conns {
			c := &conns[i]
			if c.due.IsZero() != (c.place == 0) || c.place > 0 && d[c.place-1] != c {
				t.Fatalf("connection %d, due %v, is at place %d of %d", i, c.due, c.place, len(d))
			}
			if c.due.IsZero() {
				continue
			}
			if count++; earliest.IsZero() || c.due.Before(earliest) {
				earliest = c.due
			}
		}
		if count != len(d) || count > 0 && !d[0].due.Equal(earliest) {
			t.Fatalf("%d of %d are there, and the first is due %v, not %v", len(d), count, d[0].due, earliest)
		}
	}
}

func TestWaitForDeadlines(t *testing.T) {
	now := time.Unix(1e9, 0)
	var d deadlines
	if got := d.wait(now); got != -1 {
		t.Errorf("%d ms until nothing", got)
	}
	var c Conn
	for left, want := range map[time.Duration]int{
		-time.Hour: 0, 0: 0, 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, time.Second: 1000, 1 << 62: 1<<31 - 1,
	} {
		d.set(&c, now.Add(left))
		if got := d.wait(now); got != want {
			t.Errorf("%d ms until %v, want %d", got, left, want)
		}
	}
}
