package loop

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/proxy/internal/testnet"
)

// eachWay runs a test with both of those who may dial: a task, and a goroutine, for
// whom it is nil. The job is not to end the test by Fatal: it may be a loop's.
func eachWay(t *testing.T, test func(t *testing.T, l *Loop, run func(job func(*Task)) (done chan struct{}))) {
	t.Run("task", func(t *testing.T) {
		l := start(t).loops[0]
		test(t, l, func(job func(*Task)) chan struct{} {
			done := make(chan struct{})
			l.Go(func(t *Task) {
				t.Then(func() { close(done) })
				job(t)
			})
			return done
		})
	})
	t.Run("goroutine", func(t *testing.T) {
		test(t, start(t).loops[0], func(job func(*Task)) chan struct{} {
			done := make(chan struct{})
			go func() {
				defer close(done)
				job(nil)
			}()
			return done
		})
	})
}

// reach dials and waits for the connection, which the caller closes also where that
// fails.
func reach(l *Loop, t *Task, to netip.AddrPort, options func(int) error) (*Conn, error) {
	c, err := l.Dial(t, to, options)
	if err == nil {
		err = c.Connected()
	}
	return c, err
}

// What is dialled is reached, and both sides agree upon the addresses. An IPv4
// address is never in IPv6 form.
func TestDial(t *testing.T) {
	eachWay(t, func(t *testing.T, l *Loop, run func(func(*Task)) chan struct{}) {
		for address, reached := range map[string]string{
			"127.0.0.1": "127.0.0.1", "127.8.7.6": "127.8.7.6", "::1": "::1", "::ffff:127.0.0.1": "127.0.0.1",
			"0.0.0.0": "127.0.0.1", "::": "::1", // which Linux takes for this machine
		} {
			at := netip.MustParseAddr(address)
			ln := listener(t, netip.AddrPortFrom(netip.MustParseAddr(reached), 0).String())
			to := netip.AddrPortFrom(at, ln.Addr().(*net.TCPAddr).AddrPort().Port())
			said := make(chan [2]netip.AddrPort, 1)
			done := run(func(task *Task) {
				c, err := reach(l, task, to, plain)
				if err != nil {
					t.Error(err)
					ln.Close()
					return
				}
				defer c.Close()
				if c.Loop() != l {
					t.Error("it is a connection of another loop")
				}
				said <- [2]netip.AddrPort{c.Local(), c.Remote()}
				echo(c)
			})
			peer, err := ln.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			answers(t, peer)
			peer.Close()
			await(t, "the echo ends", done)
			want := [2]netip.AddrPort{addrPort4(peer.RemoteAddr()), addrPort4(peer.LocalAddr())}
			if got := <-said; got != want || want[1].Addr() != netip.MustParseAddr(reached) {
				t.Errorf("%s: from and to %v, and the peer says %v", address, got, want)
			}
		}
	})
}

// The options come before the connection.
func TestDialOptions(t *testing.T) {
	eachWay(t, func(t *testing.T, l *Loop, run func(func(*Task)) chan struct{}) {
		ln := listener(t, "127.0.0.1:0")
		from := [4]byte{127, 0, 0, 77}
		await(t, "it is dialled", run(func(task *Task) {
			c, err := reach(l, task, addrPort4(ln.Addr()), func(fd int) error {
				return unix.Bind(fd, &unix.SockaddrInet4{Addr: from})
			})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if c.Local().Addr() != netip.AddrFrom4(from) {
				t.Errorf("it is from %s", c.Local())
			}
		}))
	})
}

// What cannot be reached fails and says why, and leaves nothing.
func TestDialFails(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name, address string
		options       func(int) error
		want          error
	}{
		{"refused", "127.0.0.1", plain, syscall.ECONNREFUSED},
		{"refused by IPv6", "::1", plain, syscall.ECONNREFUSED},
		{"unreachable", "255.255.255.255", plain, syscall.ENETUNREACH}, // for TCP, and on any machine
		{"options", "127.0.0.1", func(int) error { return broken }, broken},
		{"source", "127.0.0.1", func(fd int) error { return unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}}) }, syscall.EADDRNOTAVAIL},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, l *Loop, run func(func(*Task)) chan struct{}) {
				at := netip.MustParseAddr(test.address)
				loopback := "127.0.0.1:0"
				if at.Is6() {
					loopback = "[::1]:0"
				}
				ln := listener(t, loopback)
				to := netip.AddrPortFrom(at, addrPort4(ln.Addr()).Port())
				if test.name != "options" {
					ln.Close()
				}
				before := descriptors(t)
				await(t, "it is dialled", run(func(task *Task) {
					c, err := reach(l, task, to, test.options)
					if c != nil {
						defer c.Close()
					}
					var told *net.OpError
					if !errors.Is(err, test.want) || !errors.As(err, &told) || told.Op != "dial" || told.Net != "tcp" || told.Addr.String() != to.String() {
						t.Errorf("%v, want %v", err, test.want)
					}
				}))
				if now := descriptors(t); now > before {
					t.Errorf("%d descriptors were open before, and %d are after", before, now)
				}
			})
		})
	}
}

// A socket that is connected with itself has reached nobody.
func TestDialItself(t *testing.T) {
	eachWay(t, func(t *testing.T, l *Loop, run func(func(*Task)) chan struct{}) {
		ln := listener(t, "127.0.0.1:0")
		ln.Close()
		to := addrPort4(ln.Addr())
		await(t, "it is dialled", run(func(task *Task) {
			c, err := reach(l, task, to, func(fd int) error {
				return unix.Bind(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
			})
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%v, want %v", err, syscall.ECONNREFUSED)
			}
			if c != nil {
				c.Close()
			}
		}))
	})
}

// Who waits for a connection that does not come is called off, by a deadline or by
// Close, from anywhere.
func TestDialIsCalledOff(t *testing.T) {
	for name, test := range map[string]struct {
		off  func(*Conn)
		want error
	}{
		"past":   {func(c *Conn) { c.SetWriteDeadline(time.Unix(1, 0)) }, errPast},
		"future": {func(c *Conn) { c.SetWriteDeadline(time.Now().Add(5 * time.Millisecond)) }, errPast},
		"close":  {func(c *Conn) { c.Close() }, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, l *Loop, run func(func(*Task)) chan struct{}) {
				hole := testnet.BlackHole(t, "127.0.0.1")
				before := descriptors(t)
				dialled := make(chan *Conn)
				done := run(func(task *Task) {
					c, err := l.Dial(task, hole, plain)
					if err != nil {
						t.Error(err)
						close(dialled)
						return
					}
					task.Aside(func() { dialled <- c })
					err = c.Connected()
					var told *net.OpError
					if !errors.Is(err, test.want) || !errors.As(err, &told) || told.Op != "dial" {
						t.Errorf("%v, want %v", err, test.want)
					}
				})
				c := <-dialled
				if c == nil {
					return
				}
				waited(t, c, &c.out)
				test.off(c)
				await(t, "the wait ends", done)
				c.Close()
				if now := descriptors(t); now > before {
					t.Errorf("%d descriptors were open before, and %d are after", before, now)
				}
			})
		})
	}
}

// Who calls off before anybody waits has done so, too, and also where the
// connection has been made by then.
func TestDialIsCalledOffBefore(t *testing.T) {
	eachWay(t, func(t *testing.T, l *Loop, run func(func(*Task)) chan struct{}) {
		ln := listener(t, "127.0.0.1:0")
		for _, to := range []netip.AddrPort{testnet.BlackHole(t, "127.0.0.1"), addrPort4(ln.Addr())} {
			await(t, "it is called off", run(func(task *Task) {
				c, err := l.Dial(task, to, plain)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				c.SetWriteDeadline(time.Unix(1, 0))
				if err := c.Connected(); !errors.Is(err, errPast) {
					t.Errorf("%v, want %v", err, errPast)
				}
			}))
		}
	})
}
