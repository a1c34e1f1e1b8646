package loop

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen has the loops listen at an address.
func listen(t testing.TB, g *Group, address string) *Listener {
	t.Helper()
	ln, err := g.Listen(listener(t, address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// serve runs Serve and returns what is closed at its end.
func serve(ln *Listener, accepted func(*Conn), failed func(error) time.Duration) chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ln.Serve(accepted, failed)
	}()
	return ended
}

// never is for listeners that do not fail.
func never(t *testing.T) func(error) time.Duration {
	return func(err error) time.Duration {
		t.Errorf("accepting fails: %v", err)
		return -1
	}
}

func dial(t testing.TB, to net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	return c.(*net.TCPConn)
}

// watched is how many sockets the kernel tells a loop of, beside the eventfd.
func watched(t testing.TB, l *Loop) int {
	t.Helper()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", l.epoll))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(info), "tfd:") - 1
}

// Both addresses of a connection are those that the client sees, and an IPv4
// address is never in IPv6 form.
func TestAcceptedAddresses(t *testing.T) {
	g := start(t)
	for _, test := range []struct{ address, dial string }{
		{"127.0.0.1:0", "127.0.0.1"},
		{"[::1]:0", "::1"},
		{"[::]:0", "127.0.0.1"}, // arrives as ::ffff:127.0.0.1
		{"[::]:0", "::1"},
		{"0.0.0.0:0", "127.0.0.2"},
	} {
		ln := listen(t, g, test.address)
		got := make(chan *Conn, 1)
		ended := serve(ln, func(c *Conn) { got <- c }, never(t))
		at := netip.AddrPortFrom(netip.MustParseAddr(test.dial), uint16(ln.Addr().(*net.TCPAddr).Port))
		client := dial(t, net.TCPAddrFromAddrPort(at))
		c := <-got
		source := client.LocalAddr().(*net.TCPAddr).AddrPort()
		if c.Remote() != source || c.Local() != at {
			t.Errorf("%s: from %s to %s, want %s and %s", test.address, c.Remote(), c.Local(), source, at)
		}
		if c.RemoteAddr().String() != source.String() || c.LocalAddr().String() != at.String() {
			t.Errorf("%s: from %s to %s", test.address, c.RemoteAddr(), c.LocalAddr())
		}
		c.Close()
		ln.Close()
		await(t, "Serve ends", ended)
	}
}

// While a loop has something else to do the others accept, and each connection is
// served by the loop that has accepted it.
func TestAllLoopsAccept(t *testing.T) {
	g := start(t)
	ln := listen(t, g, "127.0.0.1:0")
	accepted, release := make(chan *Loop), make(chan struct{})
	var serving sync.WaitGroup
	ended := serve(ln, func(c *Conn) {
		serving.Add(1)
		c.Serve(func(task *Task) {
			task.Then(serving.Done)
			defer c.Close()
			if task.Loop() != c.Loop() {
				t.Error("it is served by another loop")
			}
			accepted <- task.Loop()
			<-release // which it does not say
			echo(c)
		})
	}, never(t))
	seen := map[*Loop]bool{}
	var clients []*net.TCPConn
	for begun := time.Now(); len(seen) < len(g.loops); {
		clients = append(clients, dial(t, ln.Addr()))
		seen[<-accepted] = true
		if time.Since(begun) > limit {
			t.Fatalf("%d loops of %d accept", len(seen), len(g.loops))
		}
	}
	close(release)
	for _, c := range clients {
		answers(t, c)
		c.Close()
	}
	ln.Close()
	await(t, "Serve ends", ended)
	serving.Wait()
}

// Many come at once, and each of them is served.
func TestManyAreAccepted(t *testing.T) {
	g := start(t)
	ln := listen(t, g, "127.0.0.1:0")
	var serving, clients sync.WaitGroup
	ended := serve(ln, func(c *Conn) {
		serving.Add(1)
		c.Serve(func(task *Task) {
			task.Then(serving.Done)
			defer c.Close()
			echo(c)
		})
	}, never(t))
	for range 20 {
		clients.Go(func() {
			for range 20 {
				c := dial(errorsOf{t}, ln.Addr())
				answers(errorsOf{t}, c)
				c.Close()
			}
		})
	}
	clients.Wait()
	ln.Close()
	await(t, "Serve ends", ended)
	serving.Wait()
}

// Close ends Serve, whenever it comes, and gives the socket back.
func TestListenerCloses(t *testing.T) {
	g := start(t)
	before := descriptors(t)
	for _, when := range []string{"before", "while it waits", "after the first", "while it pauses"} {
		t.Run(when, func(t *testing.T) {
			from := listener(t, "127.0.0.1:0")
			ln, err := g.Listen(from)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := from.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("who had the socket before can still use it: %v", err)
			}
			var ended chan struct{}
			switch when {
			case "before":
				ln.Close()
				ended = serve(ln, nil, never(t))
			case "while it waits":
				ended = serve(ln, nil, never(t))
				for _, c := range ln.sockets {
					waited(t, c, &c.in)
				}
				ln.Close()
			case "after the first":
				accepted := make(chan *Conn, 1)
				ended = serve(ln, func(c *Conn) { accepted <- c }, never(t))
				client := dial(t, ln.Addr())
				(<-accepted).Close()
				client.Close()
				ln.Close()
			case "while it pauses":
				told := make(chan error, len(g.loops))
				ended = serve(ln, nil, func(err error) time.Duration { told <- err; return time.Hour })
				raw := rawConn{ln.sockets[0]}
				raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RD) })
				for _, c := range ln.sockets {
					if err := <-told; !errors.Is(err, syscall.EINVAL) {
						t.Errorf("told of %v, want %v", err, syscall.EINVAL)
					}
					waited(t, c, &c.in)
				}
				// What it could be told of all the time it is not told of.
				for _, l := range g.loops {
					eventually(t, "the socket is left alone", func() bool { return watched(t, l) == 0 })
				}
				ln.Close()
			}
			await(t, "Serve ends", ended)
			if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("closed again: %v", err)
			}
			if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
				c.Close()
				t.Error("it still listens")
			}
		})
	}
	if now := descriptors(t); now > before {
		t.Errorf("%d descriptors were open before, and %d are after", before, now)
	}
}

// Clients may come before anybody serves them: the loops sleep until somebody does.
func TestClientsWaitForServe(t *testing.T) {
	g := start(t)
	ln := listen(t, g, "127.0.0.1:0")
	client := dial(t, ln.Addr())
	for _, l := range g.loops {
		if n := watched(t, l); n != 0 {
			t.Errorf("a loop is told of %d sockets that nobody serves", n)
		}
	}
	accepted := make(chan *Conn, 1)
	ended := serve(ln, func(c *Conn) { accepted <- c }, never(t))
	c := <-accepted
	if got := c.Remote(); got != addrPort4(client.LocalAddr()) {
		t.Errorf("a client at %s is served, want %s", got, client.LocalAddr())
	}
	c.Close()
	ln.Close()
	await(t, "Serve ends", ended)
}

// Another process may have the same socket, and go on with it: clients that come to
// that are none of the loops' business.
func TestSocketOfOthers(t *testing.T) {
	g := start(t)
	from := listener(t, "127.0.0.1:0")
	file, err := from.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ln, err := g.Listen(from)
	if err != nil {
		t.Fatal(err)
	}
	ended := serve(ln, func(c *Conn) { t.Error("it is accepted"); c.Close() }, never(t))
	ln.Close()
	await(t, "Serve ends", ended)
	dial(t, ln.Addr())
	for _, l := range g.loops {
		if n := watched(t, l); n != 0 {
			t.Errorf("a loop is still told of %d sockets", n)
		}
	}
}

// Where one loop is told to give up all do.
func TestServeGivesUp(t *testing.T) {
	g := start(t)
	ln := listen(t, g, "127.0.0.1:0")
	var told atomic.Int32
	ended := serve(ln, nil, func(error) time.Duration {
		if told.Add(1) == 1 {
			return -1
		}
		return time.Hour
	})
	rawConn{ln.sockets[0]}.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RD) })
	await(t, "Serve ends", ended)
	if told.Load() == 0 {
		t.Error("nobody was asked")
	}
}

// The process runs out of descriptors, and gets them back: the clients that came
// meanwhile are served, and none of the loops has tried more often than it was to.
func TestOutOfDescriptors(t *testing.T) {
	g := start(t)
	ln := listen(t, g, "127.0.0.1:0")
	clients := []*net.TCPConn{dial(t, ln.Addr()), dial(t, ln.Addr()), dial(t, ln.Addr())}

	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	restore := func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) }
	defer restore()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	const pause = 5 * time.Millisecond
	begun := time.Now()
	var calls atomic.Int32
	enough := make(chan struct{})
	ended := serve(ln, func(c *Conn) { io.WriteString(c, "hello"); c.Close() }, func(err error) time.Duration {
		if !errors.Is(err, syscall.EMFILE) {
			t.Errorf("told of %v, want %v", err, syscall.EMFILE)
		}
		if int(calls.Add(1)) == 10*len(g.loops) {
			close(enough)
		}
		return pause
	})
	await(t, "it tries again and again", enough)
	if took := time.Since(begun); took < 9*pause { // the first 10 of the one that has tried most often
		t.Errorf("10 times each in %v", took)
	}
	restore()
	for _, c := range clients {
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("a client was sent %q, %v", got, err)
		}
	}
	for range 3 * len(g.loops) { // the kernel watches the sockets again
		if got, err := io.ReadAll(dial(t, ln.Addr())); string(got) != "hello" || err != nil {
			t.Errorf("a later client was sent %q, %v", got, err)
		}
	}
	ln.Close()
	await(t, "Serve ends", ended)
}
