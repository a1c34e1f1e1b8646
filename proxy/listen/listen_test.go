package listen

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/proxy/loop"
)

// eachWay runs a test with clients that goroutines serve, and with clients of loops.
func eachWay(t *testing.T, test func(t *testing.T, loops *loop.Group)) {
	t.Run("goroutines", func(t *testing.T) { test(t, nil) })
	t.Run("loops", func(t *testing.T) {
		loops, err := loop.Start()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(loops.Close)
		test(t, loops)
	})
}

func open(t *testing.T, c Config) *Listener {
	t.Helper()
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve runs Serve and returns what waits for its end.
func serve(t *testing.T, l *Listener, ctx context.Context, handle func(*Conn)) (wait func() error) {
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(ctx, handle) }()
	return func() error { return <-ended }
}

func dial(t *testing.T, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestServeHandsConnectionsOver(t *testing.T) {
	eachWay(t, func(t *testing.T, loops *loop.Group) {
		for _, test := range []struct{ address, dial string }{
			{"127.0.0.1:0", "127.0.0.1"},
			{"[::1]:0", "::1"},
			{"[::]:0", "127.0.0.1"}, // arrives as ::ffff:127.0.0.1
			{"[::]:0", "::1"},
			{":0", "127.0.0.1"},
			{"0.0.0.0:0", "127.0.0.1"},
		} {
			t.Run(test.address+" "+test.dial, func(t *testing.T) {
				l := open(t, Config{Name: "main", Address: test.address, Loops: loops})
				got := make(chan *Conn, 1)
				wait := serve(t, l, t.Context(), func(c *Conn) {
					if (c.Task != nil) != (loops != nil) {
						t.Errorf("its task is %v", c.Task)
					}
					got <- c
				})
				client := dial(t, netip.AddrPortFrom(netip.MustParseAddr(test.dial), l.Addr().Port()))
				c := <-got
				defer c.Close()
				if c.Listener != "main" || c.Source != client.LocalAddr().(*net.TCPAddr).AddrPort() ||
					c.LocalAddr().String() != client.RemoteAddr().String() {
					t.Errorf("got %q, %s, %s", c.Listener, c.Source, c.LocalAddr())
				}
				for _, o := range []struct{ level, name, want int }{
					{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
					{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
					{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60},
					{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
					{unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
				} {
					if got := option(t, c.Conn.(syscall.Conn), o.level, o.name); got != o.want {
						t.Errorf("option %d of level %d is %d, want %d", o.name, o.level, got, o.want)
					}
				}
				l.Close()
				c.Close() // Serve waits for this, though its handler has returned
				c.Close()
				if err := wait(); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// Loops have the clients of plain TCP that speak for themselves, and no others.
func TestOthersAreNotOfLoops(t *testing.T) {
	loops, err := loop.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loops.Close)
	for name, c := range map[string]Config{
		"unix":      {Address: "unix:" + filepath.Join(t.TempDir(), "s"), Mode: 0o600},
		"TLS":       {Address: "127.0.0.1:0", TLS: new(TLS)},
		"announced": {Address: "127.0.0.1:0", Trusted: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
	} {
		t.Run(name, func(t *testing.T) {
			c.Loops = loops
			l := open(t, c)
			served := make(chan *loop.Task, 1)
			wait := serve(t, l, t.Context(), func(c *Conn) {
				served <- c.Task
				c.Close()
			})
			at := l.socket.Addr()
			client, err := net.Dial(at.Network(), at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if task := <-served; task != nil {
				t.Error("it is of a loop")
			}
			l.Close()
			if err := wait(); err != nil {
				t.Error(err)
			}
		})
	}
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

func TestIPv4WildcardIsNotIPv6(t *testing.T) {
	eachWay(t, func(t *testing.T, loops *loop.Group) {
		l := open(t, Config{Address: "0.0.0.0:0", Loops: loops})
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv6Loopback(), l.Addr().Port())))
		if err == nil {
			c.Close()
			t.Fatal("0.0.0.0 is open on IPv6 too")
		}
	})
}

func TestOpenFails(t *testing.T) {
	eachWay(t, func(t *testing.T, loops *loop.Group) {
		taken := open(t, Config{Address: "127.0.0.1:0", Loops: loops})
		for _, address := range []string{"", "127.0.0.1", "localhost:0", "127.1:0", "127.0.0.1:x", "192.0.2.1:0", taken.Addr().String()} {
			l, err := Open(t.Context(), Config{Name: "main", Address: address, Loops: loops})
			if err == nil {
				l.Close()
				t.Errorf("%q: opened", address)
			} else if !strings.HasPrefix(err.Error(), "listener main: ") {
				t.Errorf("%q: %v does not name the listener", address, err)
			}
		}
	})
}

func TestServeEnds(t *testing.T) {
	eachWay(t, func(t *testing.T, loops *loop.Group) {
		for name, end := range map[string]func(*Listener, context.CancelFunc){
			"by its context": func(_ *Listener, cancel context.CancelFunc) { cancel() },
			"by Close":       func(l *Listener, _ context.CancelFunc) { l.Close() },
		} {
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				l := open(t, Config{Address: "127.0.0.1:0", Loops: loops})
				begun, finish, finished := make(chan bool), make(chan bool), false
				var first sync.Once
				wait := serve(t, l, ctx, func(c *Conn) {
					c.Leave()
					defer c.Close()
					first.Do(func() { // others were accepted while the listener was closing
						begun <- true
						<-finish
						io.WriteString(c, "bye")
						finished = true
					})
				})
				client := dial(t, l.Addr())
				<-begun
				end(l, cancel)
				for { // closing takes a moment in the background
					c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(l.Addr()))
					if err != nil {
						break
					}
					c.Close()
				}
				close(finish)
				if err := wait(); err != nil || !finished {
					t.Errorf("Serve returned %v; the handler had returned: %t", err, finished)
				}
				if got, err := io.ReadAll(client); string(got) != "bye" || err != nil {
					t.Errorf("the client was sent %q, %v", got, err)
				}
				if err := l.Close(); err != nil {
					t.Errorf("closed again: %v", err)
				}
			})
		}
	})
}

func TestServeTellsThatItsSocketIsBeyondUse(t *testing.T) {
	eachWay(t, func(t *testing.T, loops *loop.Group) {
		told := make(chan error, 1)
		l := open(t, Config{Name: "main", Address: "127.0.0.1:0", Loops: loops, OnError: func(err error) { told <- err }})
		wait := serve(t, l, t.Context(), func(c *Conn) { c.Close() })
		if err := unix.Shutdown(socketOf(t, l), unix.SHUT_RD); err != nil {
			t.Fatal(err)
		}
		if err := wait(); !errors.Is(err, syscall.EINVAL) || !strings.HasPrefix(err.Error(), "listener main: ") {
			t.Errorf("got %v, want %v", err, syscall.EINVAL)
		}
		select {
		case err := <-told:
			t.Errorf("told of %v as if it might pass", err)
		default:
		}
	})
}

// socketOf finds a descriptor of the socket that listens.
func socketOf(t *testing.T, l *Listener) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on != 1 {
			continue
		}
		name, err := unix.Getsockname(fd)
		if at, ok := name.(*unix.SockaddrInet4); err == nil && ok && at.Port == int(l.Addr().Port()) {
			return fd
		}
	}
	t.Fatal("no socket listens")
	return 0
}

// The process runs out of descriptors, and gets them back: the client that came
// meanwhile is served.
func TestServeOutOfDescriptors(t *testing.T) {
	eachWay(t, func(t *testing.T, loops *loop.Group) {
		told := make(chan error, 100)
		l := open(t, Config{Address: "127.0.0.1:0", Loops: loops, OnError: func(err error) { told <- err }})
		client := dial(t, l.Addr())

		var before syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Fatal(err)
		}
		restore := func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) }
		defer restore()
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: before.Max}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		wait := serve(t, l, ctx, func(c *Conn) { io.WriteString(c, "hello"); c.Close() })
		if err := <-told; !errors.Is(err, syscall.EMFILE) {
			t.Errorf("told of %v, want %v", err, syscall.EMFILE)
		}
		restore()
		if got, err := io.ReadAll(client); string(got) != "hello" || err != nil {
			t.Errorf("the client was sent %q, %v", got, err)
		}
		cancel()
		if err := wait(); err != nil {
			t.Error(err)
		}
	})
}

func TestAcceptSlowsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		attempts, told := 0, 0
		next := func() (net.Conn, error) {
			attempts++
			return nil, &net.OpError{Op: "accept", Err: syscall.ENOBUFS}
		}
		go accept(ctx, next, &troubles{onError: func(error) { told++ }}, nil)

		time.Sleep(time.Minute)
		cancel()
		synctest.Wait()
		// 5, 10, 20 … 640 ms, then each second.
		if attempts < 60 || attempts > 70 {
			t.Errorf("%d attempts in a minute", attempts)
		}
		if told < 55 || told > 61 {
			t.Errorf("told %d times in a minute", told)
		}
	})
}

// Of several who accept from one socket each tries as often as one alone would.
func TestAcceptSlowsDownTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		shared := troubles{onError: func(error) {}}
		var attempts [8]int
		for i := range attempts {
			next := func() (net.Conn, error) {
				attempts[i]++
				return nil, syscall.EMFILE
			}
			go accept(ctx, next, &shared, nil)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if attempts != [8]int{5, 5, 5, 5, 5, 5, 5, 5} { // at 0, 5, 15, 35 and 75 ms
			t.Errorf("%v attempts in 100 ms", attempts)
		}
		cancel()
		synctest.Wait()
	})
}

func TestAcceptIsQuickAgainAfterASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		next := func() (net.Conn, error) {
			switch attempts++; {
			case attempts == 21:
				return nil, nil
			case attempts == 23:
				return nil, net.ErrClosed
			}
			return nil, syscall.EMFILE
		}
		var success time.Time
		accept(t.Context(), next, &troubles{onError: func(error) {}}, func(net.Conn) { success = time.Now() })
		if pause := time.Since(success); pause != shortestPause {
			t.Errorf("paused %v after the first failure, want %v", pause, shortestPause)
		}
	})
}
