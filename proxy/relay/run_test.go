package relay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"sallyport/proxy/loop"
)

// Run is Start for who waits.
func (f *Flow) Run(ctx context.Context) (cause Cause, err error) {
	done := make(chan struct{})
	f.Start(ctx, func(c Cause, e error) {
		cause, err = c, e
		close(done)
	})
	defer context.AfterFunc(ctx, f.Cut)()
	<-done
	return cause, err
}

// onLoops says which of a flow's connections are of a loop, in the tests that are run
// for it: none where it is not set.
const onLoops = "RELAY_TEST_ON_LOOPS"

const (
	together = "together" // both, of one
	half     = "half"     // the client's, and the target's is not: as through upstreams
	apart    = "apart"    // both, of two
)

// loops have the clients, and elsewhere the targets that are apart.
var (
	loops     *loop.Group
	elsewhere *loop.Loop
)

func TestMain(m *testing.M) {
	if os.Getenv(onLoops) != "" {
		loops = startLoops()
	}
	if os.Getenv(onLoops) == apart {
		c, accepted, err := accept(startLoops())
		if err != nil {
			panic(err)
		}
		c.Close()
		accepted.Close()
		elsewhere = accepted.Loop()
	}
	os.Exit(m.Run())
}

func startLoops() *loop.Group {
	g, err := loop.Start()
	if err != nil {
		panic(err)
	}
	return g
}

// noSockets are the tests that have none of a flow's.
const noSockets = "^(TestLimitOf.*|TestPause|TestPackets.*|TestJoin|TestPipePool|TestIdle|TestUntil|TestPace|TestPlainStream|TestMixedStreams|TestCauseString)$"

// Whatever holds of a flow holds on a loop, too, and of one that is partly on one.
func TestOnLoops(t *testing.T) {
	if loops != nil {
		t.Skip("these are on loops")
	}
	for _, which := range []string{together, half, apart} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			again := exec.Command(os.Args[0], "-test.timeout=5m", "-test.skip="+noSockets, fmt.Sprint("-test.short=", testing.Short() || which != together))
			again.Env = append(os.Environ(), onLoops+"="+which)
			if out, err := again.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// accept is a connection of one of the loops, and its other end.
func accept(g *loop.Group) (*net.TCPConn, *loop.Conn, error) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	ln, err := g.Listen(socket.(*net.TCPListener))
	if err != nil {
		return nil, nil, err
	}
	accepted := make(chan *loop.Conn, 1)
	var served sync.WaitGroup
	served.Go(func() {
		ln.Serve(func(c *loop.Conn) { accepted <- c }, func(error) time.Duration { return -1 })
	})
	defer served.Wait()
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	return c.(*net.TCPConn), <-accepted, nil
}

// between is the two inner ends of a flow, and the outer ones that are held by its
// client and its target.
func between(t testing.TB) (c *net.TCPConn, inside, outside net.Conn, target *net.TCPConn) {
	t.Helper()
	which := os.Getenv(onLoops)
	if which == "" || which == half {
		outside, target = connect(t)
	}
	if which == "" {
		c, inside = connect(t)
		return c, inside, outside, target
	}
	c, in, err := accept(loops)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); in.Close() })
	if which == half {
		return c, in, outside, target
	}

	from := in.Loop()
	if which == apart {
		from = elsewhere
	}
	far := listener(t)
	out, err := from.Dial(nil, far.Addr().(*net.TCPAddr).AddrPort(), func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Connected(); err != nil {
		t.Fatal(err)
	}
	if out.Local() == (netip.AddrPort{}) {
		t.Error("a connection has no local address")
	}
	target, err = far.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	far.Close()
	t.Cleanup(func() { target.Close(); out.Close() })
	return c, in, out, target
}

func listener(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l.(*net.TCPListener)
}
