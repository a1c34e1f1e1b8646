package relay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
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

// loops carry the flows of the tests; nil: goroutines do.
var loops *loop.Group

const onLoops = "RELAY_TEST_ON_LOOPS"

func TestMain(m *testing.M) {
	if os.Getenv(onLoops) != "" {
		var err error
		if loops, err = loop.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// Whatever holds of a flow holds on a loop, too.
func TestOnLoops(t *testing.T) {
	if loops != nil {
		t.Skip("these are on loops")
	}
	t.Parallel()
	again := exec.Command(os.Args[0], "-test.timeout=5m")
	again.Env = append(os.Environ(), onLoops+"=1")
	if out, err := again.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// between is the two inner ends of a flow, and the outer ones that are held by its
// client and its target.
func between(t testing.TB) (client *net.TCPConn, inside, outside net.Conn, target *net.TCPConn) {
	t.Helper()
	if loops == nil {
		client, inside := connect(t)
		outside, target := connect(t)
		return client, inside, outside, target
	}
	accepted := make(chan *loop.Conn, 1)
	ln, err := loops.Listen(listener(t))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		ln.Serve(func(c *loop.Conn) { accepted <- c }, func(error) time.Duration { return -1 })
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in := <-accepted
	ln.Close()
	<-served

	far := listener(t)
	out, err := in.Loop().Dial(nil, far.Addr().(*net.TCPAddr).AddrPort(), func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Connected(); err != nil {
		t.Fatal(err)
	}
	if out.Local() == (netip.AddrPort{}) {
		t.Error("a connection has no local address")
	}
	a, err := far.Accept()
	if err != nil {
		t.Fatal(err)
	}
	far.Close()
	t.Cleanup(func() { c.Close(); a.Close(); in.Close(); out.Close() })
	return c.(*net.TCPConn), in, out, a.(*net.TCPConn)
}

func listener(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l.(*net.TCPListener)
}
