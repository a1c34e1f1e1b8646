package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/proxy/internal/testnet"
	"sallyport/proxy/loop"
)

// listen returns a listener that is never accepted from; the kernel's queue
// completes the handshakes.
func listen(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// closed returns an address at which nothing listens.
func closed(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// stream is a *net.TCPConn or a *loop.Conn.
type stream interface {
	net.Conn
	syscall.Conn
}

// dialling is one of the ways to dial.
type dialling func(ctx context.Context, d *Dialer, to []netip.AddrPort, from netip.Addr) (stream, error)

// eachWay runs a test with both.
func eachWay(t *testing.T, test func(t *testing.T, dial dialling)) {
	t.Run("goroutine", func(t *testing.T) {
		test(t, func(ctx context.Context, d *Dialer, to []netip.AddrPort, from netip.Addr) (stream, error) {
			return interfaceOf(d.Dial(ctx, to, from))
		})
	})
	t.Run("loop", func(t *testing.T) {
		_, l := aLoop(t)
		test(t, func(ctx context.Context, d *Dialer, to []netip.AddrPort, from netip.Addr) (s stream, err error) {
			done := make(chan struct{})
			l.GoDeep(func(task *loop.Task) {
				task.Then(func() { close(done) })
				s, err = interfaceOf(dialOn(ctx, d, task, time.Now().Add(time.Hour), to, from))
			})
			<-done
			if c, ok := s.(*loop.Conn); ok {
				c.Belongs(nil)
			}
			return s, err
		})
	})
}

// dialOn dials as the proxy does, which calls a single attempt off itself.
func dialOn(ctx context.Context, d *Dialer, t *loop.Task, until time.Time, to []netip.AddrPort, from netip.Addr) (*loop.Conn, error) {
	stop := func() bool { return true }
	defer func() { stop() }()
	c, err := d.DialOn(ctx, t, until, to, from, func(c *loop.Conn) {
		stop = context.AfterFunc(ctx, func() {
			if ctx.Err() == context.Canceled {
				c.SetWriteDeadline(time.Unix(1, 0))
			}
		})
	})
	if err != nil && len(to) == 1 && ctx.Err() == context.Canceled {
		err = ctx.Err()
	}
	return c, err
}

// interfaceOf is nil where there is no connection.
func interfaceOf[C stream](c C, err error) (stream, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// aLoop is one of a group's.
func aLoop(t *testing.T) (*loop.Group, *loop.Loop) {
	t.Helper()
	g, err := loop.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := g.Listen(socket.(*net.TCPListener))
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	accepted := make(chan *loop.Conn, 1)
	served.Go(func() {
		ln.Serve(func(c *loop.Conn) { accepted <- c }, func(error) time.Duration { return -1 })
	})
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := <-accepted
	client.Close()
	c.Close()
	ln.Close()
	served.Wait()
	return g, c.Loop()
}

func dialTo(t *testing.T, dial dialling, from netip.Addr, to ...netip.AddrPort) stream {
	t.Helper()
	c, err := dial(within(t, 10*time.Second), new(Dialer), to, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func remote(c net.Conn) netip.AddrPort { return c.RemoteAddr().(*net.TCPAddr).AddrPort() }

func TestDialReachesExactlyWhatItIsGiven(t *testing.T) {
	eachWay(t, func(t *testing.T, dial dialling) {
		for _, address := range []string{"127.0.0.1:0", "127.8.7.6:0", "[::1]:0"} {
			to := listen(t, address)
			if got := remote(dialTo(t, dial, netip.Addr{}, to)); got != to {
				t.Errorf("connected to %s, want %s", got, to)
			}
		}
		to := listen(t, "127.0.0.1:0")
		mapped := netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
		if got := remote(dialTo(t, dial, netip.Addr{}, mapped)); got != to {
			t.Errorf("%s: connected to %s, want %s", mapped, got, to)
		}
	})
}

func TestDialFallsOver(t *testing.T) {
	eachWay(t, func(t *testing.T, dial dialling) {
		v4, v6 := listen(t, "127.0.0.1:0"), listen(t, "[::1]:0")
		dead4, dead6 := closed(t, "127.0.0.1:0"), closed(t, "[::1]:0")
		hole := testnet.BlackHole(t, "127.0.0.3")
		for _, to := range [][]netip.AddrPort{
			{dead6, v4},
			{dead4, v6},
			{dead6, dead4, v4},
			{hole, v4},
			{hole, dead6, v4},
			{hole, hole, v6},
		} {
			if got := remote(dialTo(t, dial, netip.Addr{}, to...)); got != v4 && got != v6 {
				t.Errorf("%v: connected to %s", to, got)
			}
		}
	})
}

func TestDialPrefersTheFirst(t *testing.T) {
	eachWay(t, func(t *testing.T, dial dialling) {
		first, second := listen(t, "[::1]:0"), listen(t, "127.0.0.1:0")
		for range 20 {
			if got := remote(dialTo(t, dial, netip.Addr{}, first, second)); got != first {
				t.Fatalf("connected to %s, want %s", got, first)
			}
		}
	})
}

func TestDialFromSource(t *testing.T) {
	eachWay(t, func(t *testing.T, dial dialling) {
		v4, v6 := listen(t, "127.0.0.1:0"), listen(t, "[::1]:0")
		for _, source := range []string{"127.0.0.77", "::ffff:127.0.0.77", "::1"} {
			from := netip.MustParseAddr(source)
			for _, order := range [][]netip.AddrPort{{v4, v6}, {v6, v4}} {
				c := dialTo(t, dial, from, order...)
				if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); got != from.Unmap() {
					t.Errorf("left from %s, want %s", got, from)
				}
			}
		}
		for _, to := range []netip.AddrPort{v4, v6} {
			if got := option(t, dialTo(t, dial, to.Addr(), to), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT); got != 1 {
				t.Errorf("%s: IP_BIND_ADDRESS_NO_PORT is %d", to, got)
			}
		}
	})
}

func TestDialSocketOptions(t *testing.T) {
	eachWay(t, func(t *testing.T, dial dialling) {
		c := dialTo(t, dial, netip.Addr{}, listen(t, "127.0.0.1:0"))
		for _, o := range []struct{ level, name, want int }{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
			{unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
		} {
			if got := option(t, c, o.level, o.name); got != o.want {
				t.Errorf("option %d of level %d is %d, want %d", o.name, o.level, got, o.want)
			}
		}
	})
}

func option(t *testing.T, c syscall.Conn, level, name int) (value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) { value, optErr = unix.GetsockoptInt(int(fd), level, name) }); err != nil || optErr != nil {
		t.Fatal(err, optErr)
	}
	return value
}

func TestDialErrors(t *testing.T) {
	eachWay(t, func(t *testing.T, dial dialling) {
		v4, v6 := listen(t, "127.0.0.1:0"), listen(t, "[::1]:0")
		dead4, dead6 := closed(t, "127.0.0.1:0"), closed(t, "[::1]:0")
		hole := testnet.BlackHole(t, "127.0.0.4")
		none := netip.Addr{}
		for _, test := range []struct {
			name string
			to   []netip.AddrPort
			from netip.Addr
			want error
		}{
			{"nothing listens", []netip.AddrPort{dead4}, none, ErrRefused},
			{"nothing listens, IPv6", []netip.AddrPort{dead6}, none, ErrRefused},
			{"no answer", []netip.AddrPort{hole}, none, ErrTimeout},
			{"refused says more than silence", []netip.AddrPort{hole, dead4}, none, ErrRefused},
			{"in either order", []netip.AddrPort{dead4, hole}, none, ErrRefused},
			{"source of another machine", []netip.AddrPort{v4}, netip.MustParseAddr("192.0.2.1"), ErrSource},
			{"source of another machine, IPv6", []netip.AddrPort{v6}, netip.MustParseAddr("2001:db8::1"), ErrSource},
			{"source of another family", []netip.AddrPort{v4}, netip.MustParseAddr("::1"), ErrSource},
			{"source of another family, IPv6", []netip.AddrPort{v6, v6}, netip.MustParseAddr("127.0.0.1"), ErrSource},
			{"a loopback source cannot leave", []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:9")}, netip.MustParseAddr("127.0.0.1"), ErrSource},
		} {
			t.Run(test.name, func(t *testing.T) {
				before := testnet.Descriptors(t)
				c, err := dial(within(t, 600*time.Millisecond), new(Dialer), test.to, test.from)
				if !errors.Is(err, test.want) {
					t.Fatalf("got %v, %v; want %v", c, err, test.want)
				}
				if now := testnet.Descriptors(t); now > before {
					t.Errorf("%d descriptors were open before, and %d are after", before, now)
				}
			})
		}
		if c, err := dial(t.Context(), new(Dialer), nil, none); err == nil {
			t.Fatalf("connected to nothing: %v", c)
		}
	})
}

func TestDialTimeout(t *testing.T) {
	eachWay(t, func(t *testing.T, dial dialling) {
		d := Dialer{Timeout: 50 * time.Millisecond}
		if _, err := dial(t.Context(), &d, []netip.AddrPort{testnet.BlackHole(t, "127.0.0.5")}, netip.Addr{}); !errors.Is(err, ErrTimeout) {
			t.Fatalf("got %v, want %v", err, ErrTimeout)
		}
	})
}

func TestDialCalledOff(t *testing.T) {
	eachWay(t, func(t *testing.T, dial dialling) {
		hole, dead := testnet.BlackHole(t, "127.0.0.6"), closed(t, "127.0.0.1:0")
		for _, to := range [][]netip.AddrPort{{hole}, {hole, dead}, {dead, hole}} {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(300*time.Millisecond, cancel)
			_, err := dial(ctx, new(Dialer), to, netip.Addr{})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v: got %v, want %v", to, err, context.Canceled)
			}
			if errors.Is(err, ErrTimeout) {
				t.Errorf("%v: called off is told as a time-out: %v", to, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := dial(ctx, new(Dialer), []netip.AddrPort{hole, hole}, netip.Addr{}); !errors.Is(err, context.Canceled) {
			t.Errorf("before it began: got %v, want %v", err, context.Canceled)
		}
	})
}

// A connection of several attempts that is there as the dial is called off is nobody's,
// and is closed.
func TestDialCalledOffTooLate(t *testing.T) {
	eachWay(t, func(t *testing.T, dial dialling) {
		v4, v6 := listen(t, "127.0.0.1:0"), listen(t, "[::1]:0")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		before := testnet.Descriptors(t)
		for range 50 {
			if c, err := dial(ctx, new(Dialer), []netip.AddrPort{v4, v6}, netip.Addr{}); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v, %v; want %v", c, err, context.Canceled)
			}
		}
		if now := testnet.Descriptors(t); now > before {
			t.Errorf("%d descriptors were open before, and %d are after", before, now)
		}
	})
}

// On a loop a dial ends at the time that it is given, too, where its context has
// another or none.
func TestDialOnUntil(t *testing.T) {
	hole := testnet.BlackHole(t, "127.0.0.7")
	_, l := aLoop(t)
	for _, to := range [][]netip.AddrPort{{hole}, {hole, hole}} {
		for name, ctx := range map[string]context.Context{"none": t.Context(), "a later one": within(t, time.Hour)} {
			failed := make(chan error, 1)
			l.GoDeep(func(task *loop.Task) {
				_, err := dialOn(ctx, new(Dialer), task, time.Now().Add(20*time.Millisecond), to, netip.Addr{})
				failed <- err
			})
			if err := <-failed; !errors.Is(err, ErrTimeout) {
				t.Errorf("%d addresses, the context has %s: got %v, want %v", len(to), name, err, ErrTimeout)
			}
		}
	}
}

// However many dials wait on a loop, and however many of those that they were for wait
// for their targets then, it goes on without being taken from them.
func TestDialOnLeavesTheLoop(t *testing.T) {
	v4, v6 := listen(t, "127.0.0.1:0"), listen(t, "[::1]:0")
	hole := testnet.BlackHole(t, "127.0.0.8")
	for name, to := range map[string][]netip.AddrPort{"waiting": {hole}, "racing": {hole, hole}, "connected": {v4}, "connected first": {v6, v4}} {
		t.Run(name, func(t *testing.T) {
			const dials = 20
			g, l := aLoop(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var waiting atomic.Int32
			var ended sync.WaitGroup
			for range dials {
				ended.Add(1)
				l.GoDeep(func(task *loop.Task) {
					task.Then(ended.Done)
					waiting.Add(1)
					c, err := dialOn(ctx, new(Dialer), task, time.Now().Add(time.Hour), to, netip.Addr{})
					if to[0] == hole {
						if !errors.Is(err, context.Canceled) {
							t.Errorf("got %v, %v; want %v", c, err, context.Canceled)
						}
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					waiting.Add(1)
					defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
					if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("it reads %v", err)
					}
				})
			}
			want := int32(dials)
			if to[0] != hole {
				want *= 2
			}
			testnet.Eventually(t, "all are about to wait", func() bool { return waiting.Load() == want })
			served := make(chan struct{})
			l.Go(func(*loop.Task) { close(served) })
			<-served
			if n := g.Taken(); n >= dials/2 { // on a busy machine now and then one is too slow
				t.Errorf("%d dials have had the loop taken away %d times", dials, n)
			}
			cancel()
			ended.Wait()
		})
	}
}

// A port that another has taken meanwhile is worth another try, and nothing else is.
func TestAgain(t *testing.T) {
	taken, refused := os.NewSyscallError("connect", syscall.EADDRNOTAVAIL), os.NewSyscallError("connect", syscall.ECONNREFUSED)
	reached := new(net.TCPConn)
	for _, test := range []struct {
		fails    []error
		attempts int
	}{
		{nil, 1},
		{[]error{taken}, 2},
		{[]error{taken, taken}, 3},
		{[]error{taken, taken, taken}, 3},
		{[]error{taken, refused}, 2},
		{[]error{refused}, 1},
	} {
		attempts := 0
		c, err := again(func() (*net.TCPConn, error) {
			if attempts++; attempts <= len(test.fails) {
				return nil, test.fails[attempts-1]
			}
			return reached, nil
		})
		var want error
		if test.attempts <= len(test.fails) {
			want = test.fails[test.attempts-1]
		}
		if attempts != test.attempts || err != want || (c == reached) != (want == nil) {
			t.Errorf("%v: %d attempts, %v, %v", test.fails, attempts, c, err)
		}
	}
}

func TestClassify(t *testing.T) {
	for errno, want := range map[syscall.Errno]error{
		syscall.ECONNREFUSED:  ErrRefused,
		syscall.ETIMEDOUT:     ErrTimeout,
		syscall.EHOSTUNREACH:  ErrHostUnreachable,
		syscall.ENETUNREACH:   ErrNetworkUnreachable,
		syscall.EACCES:        ErrNetworkUnreachable,
		syscall.EINVAL:        ErrNetworkUnreachable,
		syscall.EADDRNOTAVAIL: ErrSource,
	} {
		err := classify(&net.OpError{Op: "dial", Err: errno}, netip.Addr{})
		if !errors.Is(err, want) || !errors.Is(err, errno) {
			t.Errorf("%v is told as %v, want %v", errno, err, want)
		}
	}
	all := []error{ErrRefused, ErrTimeout, ErrHostUnreachable, ErrNetworkUnreachable, ErrSource}
	for _, class := range all {
		if err := classify(&net.OpError{Op: "dial", Err: syscall.EMFILE}, netip.Addr{}); errors.Is(err, class) {
			t.Errorf("a want of descriptors is told as %v", class)
		}
	}
	for i, a := range all {
		for _, b := range all[i:] {
			if !errors.Is(moreTelling(a, b), a) || !errors.Is(moreTelling(b, a), a) {
				t.Errorf("of %v and %v, the first should be told", a, b)
			}
		}
	}
}

func TestAlternate(t *testing.T) {
	a := netip.MustParseAddrPort
	v6 := []netip.AddrPort{a("[2001:db8::1]:1"), a("[2001:db8::2]:1"), a("[2001:db8::3]:1")}
	v4 := []netip.AddrPort{a("192.0.2.1:1"), a("192.0.2.2:1"), a("192.0.2.3:1")}
	for _, test := range []struct{ to, want []netip.AddrPort }{
		{slices.Concat(v6, v4[:1]), []netip.AddrPort{v6[0], v4[0], v6[1], v6[2]}},
		{slices.Concat(v4[:1], v6), []netip.AddrPort{v4[0], v6[0], v6[1], v6[2]}},
		{slices.Concat(v6[:2], v4), []netip.AddrPort{v6[0], v4[0], v6[1], v4[1], v4[2]}},
		{v4, v4},
	} {
		if got := alternate(test.to); !slices.Equal(got, test.want) {
			t.Errorf("alternate(%v) = %v, want %v", test.to, got, test.want)
		}
	}
}

// The race's clock: the sockets of connect cannot be in a bubble, so attempts
// are played here.
func TestRaceStaggers(t *testing.T) {
	a := netip.MustParseAddrPort
	to := []netip.AddrPort{a("[2001:db8::1]:1"), a("192.0.2.1:1"), a("[2001:db8::2]:1"), a("192.0.2.2:1")}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var begun []time.Duration
		played := func(ctx context.Context, to netip.AddrPort, _ netip.Addr) (*net.TCPConn, error) {
			mu.Lock()
			begun = append(begun, time.Since(start))
			second := len(begun) == 2
			mu.Unlock()
			if second {
				time.Sleep(100 * time.Millisecond)
				return nil, ErrRefused
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := race(ctx, to, netip.Addr{}, played)
		if !errors.Is(err, ErrRefused) {
			t.Errorf("got %v", err)
		}
		ms := time.Millisecond
		if want := []time.Duration{0, 250 * ms, 350 * ms, 600 * ms}; !slices.Equal(begun, want) {
			t.Errorf("attempts began at %v, want %v", begun, want)
		}
	})
}

func TestRaceClosesLosers(t *testing.T) {
	address := listen(t, "127.0.0.1:0")
	late, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(address))
	if err != nil {
		t.Fatal(err)
	}
	winner := new(net.TCPConn)
	synctest.Test(t, func(t *testing.T) {
		var attempts atomic.Int32
		played := func(ctx context.Context, _ netip.AddrPort, _ netip.Addr) (*net.TCPConn, error) {
			if attempts.Add(1) == 1 {
				<-ctx.Done()
				return late, nil
			}
			return winner, nil
		}
		got, err := race(t.Context(), []netip.AddrPort{address, address}, netip.Addr{}, played)
		if got != winner || err != nil {
			t.Errorf("got %v, %v", got, err)
		}
	})
	if _, err := late.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the late connection is still open: %v", err)
	}
}
