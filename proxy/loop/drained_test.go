package loop

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// byRaw reads as who uses SyscallConn does.
type byRaw struct{ *Conn }

func (r byRaw) Read(p []byte) (n int, err error) {
	raw, err := r.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		n, failure = unix.Read(int(fd), p)
		return !errors.Is(failure, unix.EAGAIN)
	})
	switch {
	case err != nil || failure != nil:
		return 0, errors.Join(err, failure)
	case n == 0:
		return 0, io.EOF
	case n < len(p):
		r.Drained()
	}
	return n, nil
}

// A read that brings less than it has room for is followed by no other before there
// is news, and yet nothing that lies behind is waited for in vain: neither an end,
// nor what follows urgent data.
func TestNothingIsLeftBehind(t *testing.T) {
	urgent := func(t *testing.T, peer *net.TCPConn) {
		raw, err := peer.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) })
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, send := range map[string]func(t *testing.T, peer *net.TCPConn){
		"the end": func(_ *testing.T, peer *net.TCPConn) {
			peer.Write([]byte("abcdef"))
			peer.CloseWrite()
		},
		"a reset": func(_ *testing.T, peer *net.TCPConn) {
			peer.Write([]byte("abcdef"))
			peer.SetLinger(0)
			peer.Close()
		},
		"urgent data": func(t *testing.T, peer *net.TCPConn) {
			peer.Write([]byte("abc"))
			urgent(t, peer)
			peer.Write([]byte("def"))
		},
		"piece by piece": func(_ *testing.T, peer *net.TCPConn) {
			for _, b := range []byte("abcdef") {
				peer.Write([]byte{b})
			}
			peer.CloseWrite()
		},
	} {
		for _, first := range []string{"sent before", "sent while somebody waits"} {
			t.Run(name+", "+first, func(t *testing.T) {
				either(t, func(t *testing.T, g *Group, run func(*Conn, func()) chan struct{}) {
					for _, wrap := range []func(*Conn) io.Reader{
						func(c *Conn) io.Reader { return c },
						func(c *Conn) io.Reader { return byRaw{c} },
					} {
						c, peer := connect(t, g.loops[0])
						if first == "sent before" {
							send(t, peer)
							eventually(t, "it has come", func() bool {
								c.loop.mu.Lock()
								defer c.loop.mu.Unlock()
								return c.in.ready && (name == "piece by piece" || c.in.closing)
							})
						}
						done := run(c, func() {
							p, got := make([]byte, 100), ""
							for name == "the end" || name == "piece by piece" || name == "a reset" || len(got) < 6 {
								n, err := wrap(c).Read(p)
								got += string(p[:n])
								if err != nil {
									break
								}
							}
							if got != "abcdef" && name != "a reset" { // which may overtake
								t.Errorf("%q came", got)
							}
						})
						if first != "sent before" {
							waited(t, c, &c.in)
							send(t, peer)
						}
						await(t, "all is read", done)
					}
				})
			})
		}
	}
}

// Where nothing is left the next read asks the kernel for nothing before there is
// news.
func TestDrained(t *testing.T) {
	c, peer := connect(t, start(t).loops[0])
	peer.Write([]byte("abc"))
	for _, test := range []struct {
		room  int
		tried bool
	}{{2, true}, {2, false}} { // the second brings less than it has room for
		if _, err := (byRaw{c}).Read(make([]byte, test.room)); err != nil {
			t.Fatal(err)
		}
		tried := false
		c.SetReadDeadline(time.Now().Add(time.Hour))
		done := make(chan struct{})
		go func() {
			defer close(done)
			rawConn{c}.Read(func(uintptr) bool { tried = true; return true })
		}()
		if !test.tried {
			waited(t, c, &c.in)
			c.SetReadDeadline(time.Unix(1, 0))
		}
		await(t, "the wait ends", done)
		if tried != test.tried {
			t.Errorf("after a read of %d bytes at most it is tried again: %t", test.room, tried)
		}
	}
}
