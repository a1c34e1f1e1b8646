package loop

import (
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/proxy/internal/testnet"
)

const limit = testnet.Limit

var (
	eventually  = testnet.Eventually
	descriptors = testnet.Descriptors
	noise       = testnet.Noise
	same        = testnet.Same
)

// There is a choice of loops on any machine.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), 3))
	os.Exit(m.Run())
}

// start starts loops for a test, whose connections and tasks end before it does.
func start(t testing.TB) *Group {
	t.Helper()
	g, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func listener(t testing.TB, address string) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// connect returns a connection of the loop, of which any goroutine may have either
// direction, and its peer.
func connect(t testing.TB, l *Loop) (*Conn, *net.TCPConn) {
	t.Helper()
	ln := listener(t, "127.0.0.1:0")
	defer ln.Close()
	c, err := l.Dial(nil, ln.Addr().(*net.TCPAddr).AddrPort(), plain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Connected(); err != nil {
		t.Fatal(err)
	}
	peer, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	peer.SetDeadline(time.Now().Add(limit))
	return c, peer
}

// plain sets no options.
func plain(int) error { return nil }

// echo serves a connection: what comes goes back, until the peer ends.
func echo(c *Conn) {
	p := make([]byte, 512)
	for {
		n, err := c.Read(p)
		if err != nil {
			return
		}
		if _, err := c.Write(p[:n]); err != nil {
			return
		}
	}
}

// answers has the peer of an echo ask, so that the loop of that is known to go on.
func answers(t testing.TB, peer *net.TCPConn) {
	t.Helper()
	asked, got := []byte("question"), make([]byte, 8)
	if _, err := peer.Write(asked); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(peer, got); err != nil {
		t.Fatal(err)
	}
	same(t, got, asked)
}

// either runs a test with both of those who may use a connection. The job is not
// to end the test by Fatal: it may be a loop's.
func either(t *testing.T, test func(t *testing.T, g *Group, run func(c *Conn, job func()) (done chan struct{}))) {
	t.Run("task", func(t *testing.T) {
		test(t, start(t), func(c *Conn, job func()) chan struct{} {
			done := make(chan struct{})
			c.Serve(func(t *Task) {
				t.Then(func() { close(done) })
				job()
			})
			return done
		})
	})
	t.Run("goroutine", func(t *testing.T) {
		test(t, start(t), func(c *Conn, job func()) chan struct{} {
			done := make(chan struct{})
			go func() {
				defer close(done)
				job()
			}()
			return done
		})
	})
}

// await waits for the end of something.
func await(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("never: %s", what)
	}
}

// waited waits until somebody waits for this direction of the connection.
func waited(t testing.TB, c *Conn, s *side) {
	t.Helper()
	eventually(t, "somebody waits for the connection", func() bool {
		c.loop.mu.Lock()
		defer c.loop.mu.Unlock()
		return s.waiting
	})
}

func addrPort4(a net.Addr) netip.AddrPort {
	at := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// A group that was used and is closed is gone: nothing of it runs, and its
// descriptors are given back.
func TestGroupCloses(t *testing.T) {
	answered := func(t *testing.T, g *Group) {
		for _, l := range g.loops {
			c, peer := connect(t, l)
			done := make(chan struct{})
			c.Serve(func(t *Task) {
				t.Then(func() { close(done) })
				echo(c)
			})
			answers(t, peer)
			peer.Close()
			await(t, "the echo ends", done)
			c.Close()
		}
	}
	for name, use := range map[string]func(*testing.T, *Group) (check func()){
		"unused": func(*testing.T, *Group) func() { return nil },
		"used":   func(t *testing.T, g *Group) func() { answered(t, g); return nil },
		"with tasks that left": func(t *testing.T, g *Group) func() {
			left := make(chan bool, 100)
			var over atomic.Int32
			for i := range cap(left) {
				g.loops[i%len(g.loops)].Go(func(t *Task) {
					t.Then(func() {
						left <- true
						for range 1000 { // they are still about to end when it closes
							runtime.Gosched()
						}
						over.Add(1)
					})
					t.Leave()
				})
			}
			for range cap(left) {
				<-left
			}
			return func() {
				if n := over.Load(); int(n) != cap(left) {
					t.Errorf("of %d tasks only %d were over when it was closed", cap(left), n)
				}
			}
		},
		"asleep": func(t *testing.T, g *Group) func() {
			answered(t, g)
			eventually(t, "the watch dozes", g.dozing.Load)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			goroutines, files := runtime.NumGoroutine(), descriptors(t)
			g, err := Start()
			if err != nil {
				t.Fatal(err)
			}
			if len(g.loops) != runtime.GOMAXPROCS(0) {
				t.Errorf("there are %d loops for %d processors", len(g.loops), runtime.GOMAXPROCS(0))
			}
			check := use(t, g)
			g.Close()
			if check != nil {
				check()
			}
			if now := descriptors(t); now > files {
				t.Errorf("%d descriptors were open before, and %d are after", files, now)
			}
			eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
		})
	}
}
