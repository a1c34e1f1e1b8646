package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
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

// blackHole returns an address that answers nothing: a listener whose queue is
// full, so that the kernel drops what comes.
func blackHole(t *testing.T, ip [4]byte) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: ip}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	hole := netip.AddrPortFrom(netip.AddrFrom4(ip), uint16(name.(*unix.SockaddrInet4).Port))
	c, err := net.Dial("tcp", hole.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return hole
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func dialTo(t *testing.T, from netip.Addr, to ...netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := new(Dialer).Dial(within(t, 10*time.Second), to, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func remote(c *net.TCPConn) netip.AddrPort { return c.RemoteAddr().(*net.TCPAddr).AddrPort() }

func TestDialReachesExactlyWhatItIsGiven(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "127.8.7.6:0", "[::1]:0"} {
		to := listen(t, address)
		if got := remote(dialTo(t, netip.Addr{}, to)); got != to {
			t.Errorf("connected to %s, want %s", got, to)
		}
	}
	to := listen(t, "127.0.0.1:0")
	mapped := netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	if got := remote(dialTo(t, netip.Addr{}, mapped)); got != to {
		t.Errorf("%s: connected to %s, want %s", mapped, got, to)
	}
}

func TestDialFallsOver(t *testing.T) {
	v4, v6 := listen(t, "127.0.0.1:0"), listen(t, "[::1]:0")
	dead4, dead6 := closed(t, "127.0.0.1:0"), closed(t, "[::1]:0")
	hole := blackHole(t, [4]byte{127, 0, 0, 3})
	for _, to := range [][]netip.AddrPort{
		{dead6, v4},
		{dead4, v6},
		{dead6, dead4, v4},
		{hole, v4},
		{hole, dead6, v4},
		{hole, hole, v6},
	} {
		if got := remote(dialTo(t, netip.Addr{}, to...)); got != v4 && got != v6 {
			t.Errorf("%v: connected to %s", to, got)
		}
	}
}

func TestDialPrefersTheFirst(t *testing.T) {
	first, second := listen(t, "[::1]:0"), listen(t, "127.0.0.1:0")
	for range 20 {
		if got := remote(dialTo(t, netip.Addr{}, first, second)); got != first {
			t.Fatalf("connected to %s, want %s", got, first)
		}
	}
}

func TestDialFromSource(t *testing.T) {
	v4, v6 := listen(t, "127.0.0.1:0"), listen(t, "[::1]:0")
	for _, source := range []string{"127.0.0.77", "::ffff:127.0.0.77", "::1"} {
		from := netip.MustParseAddr(source)
		for _, order := range [][]netip.AddrPort{{v4, v6}, {v6, v4}} {
			c := dialTo(t, from, order...)
			if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); got != from.Unmap() {
				t.Errorf("left from %s, want %s", got, from)
			}
		}
	}
	for _, to := range []netip.AddrPort{v4, v6} {
		if got := option(t, dialTo(t, to.Addr(), to), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT); got != 1 {
			t.Errorf("%s: IP_BIND_ADDRESS_NO_PORT is %d", to, got)
		}
	}
}

func TestDialSocketOptions(t *testing.T) {
	c := dialTo(t, netip.Addr{}, listen(t, "127.0.0.1:0"))
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
}

func option(t *testing.T, c *net.TCPConn, level, name int) (value int) {
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
	v4, v6 := listen(t, "127.0.0.1:0"), listen(t, "[::1]:0")
	dead4, dead6 := closed(t, "127.0.0.1:0"), closed(t, "[::1]:0")
	hole := blackHole(t, [4]byte{127, 0, 0, 4})
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
		{"source of another family", []netip.AddrPort{v4}, netip.MustParseAddr("::1"), ErrSource},
		{"source of another family, IPv6", []netip.AddrPort{v6, v6}, netip.MustParseAddr("127.0.0.1"), ErrSource},
		{"a loopback source cannot leave", []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:9")}, netip.MustParseAddr("127.0.0.1"), ErrSource},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := new(Dialer).Dial(within(t, 600*time.Millisecond), test.to, test.from)
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, %v; want %v", c, err, test.want)
			}
		})
	}
	if c, err := new(Dialer).Dial(t.Context(), nil, none); err == nil {
		t.Fatalf("connected to nothing: %v", c)
	}
}

func TestDialTimeout(t *testing.T) {
	d := Dialer{Timeout: 50 * time.Millisecond}
	if _, err := d.Dial(t.Context(), []netip.AddrPort{blackHole(t, [4]byte{127, 0, 0, 5})}, netip.Addr{}); !errors.Is(err, ErrTimeout) {
		t.Fatalf("got %v, want %v", err, ErrTimeout)
	}
}

func TestDialCalledOff(t *testing.T) {
	hole, dead := blackHole(t, [4]byte{127, 0, 0, 6}), closed(t, "127.0.0.1:0")
	for _, to := range [][]netip.AddrPort{{hole}, {hole, dead}, {dead, hole}} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(300*time.Millisecond, cancel)
		_, err := new(Dialer).Dial(ctx, to, netip.Addr{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v: got %v, want %v", to, err, context.Canceled)
		}
		if errors.Is(err, ErrTimeout) {
			t.Errorf("%v: called off is told as a time-out: %v", to, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := new(Dialer).Dial(ctx, []netip.AddrPort{hole, hole}, netip.Addr{}); !errors.Is(err, context.Canceled) {
		t.Errorf("before it began: got %v, want %v", err, context.Canceled)
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
