package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// An upstream that dies in the middle of a transfer ends it, one that dies while it
// connects to the target costs its session one reply, or the other upstream's success;
// and the next session goes by that one. Whoever has made it.
func TestKilledUpstream(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(t *testing.T) (url string, kill func()){
		"dante":      func(t *testing.T) (string, func()) { o := startDante(t); return "socks5h://" + o.addr, o.kill },
		"dante4":     func(t *testing.T) (string, func()) { o := startDante(t); return "socks4a://" + o.addr, o.kill },
		"microsocks": func(t *testing.T) (string, func()) { o := startMicrosocks(t); return "socks5h://" + o.addr, o.kill },
		"squid":      func(t *testing.T) (string, func()) { o := startSquid(t); return "http://" + o.addr, o.kill },
		"tinyproxy": func(t *testing.T) (string, func()) {
			o := startTinyproxy(t)
			return "http://alice:horse@" + o.addr, o.kill
		},
		"sallyport": func(t *testing.T) (string, func()) {
			s := startVia(t, "", map[string]any{"*": []any{}})
			return "socks5h://" + s.addr, func() { s.cmd.Process.Kill(); s.cmd.Wait() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, kill := begin(t)
			spare := startMicrosocks(t)
			scheme, at := splitURL(url)
			tapped, passed := tap(t, at)
			s := startVia(t, upstreamsFile(map[string]string{"victim": scheme + tapped, "spare": "socks5h://" + spare.addr}), map[string]any{
				"127.0.0.1": []string{"victim"}, "127.0.0.2": []any{map[string]any{"any": []string{"victim", "spare"}, "by": "order"}},
			})
			source := scripted(t, func(c *net.TCPConn) { io.Copy(c, zeros{}) })
			transfer := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.0.1", source)).hear("\x05\x00")
			io.ReadFull(transfer, make([]byte, 1<<20))
			full, drain := fullListener(t)
			for len(passed) > 0 {
				<-passed
			}
			alone := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.0.1", full))
			either := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.0.2", full))
			messages := 1
			if scheme == "socks5h://" {
				messages = 2
			}
			for range 2 * messages {
				<-passed
			}

			kill()
			if n, err := io.Copy(io.Discard, transfer); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after the upstream's death %d bytes come, and then nothing", n)
			}
			transfer.Close()
			alone.hear("\x05\x01\x00")
			io.ReadFull(alone, make([]byte, 7))
			if rest, err := alone.rest(); rest != "" || err != nil {
				t.Errorf("after the reply come %q, %v", rest, err)
			}
			drain()
			either.hear("\x05\x00\x00")
			io.ReadFull(either, make([]byte, 7))
			either.say("hello").hear("hello").Close()
			for _, want := range []string{"127.0.0.1 ok [victim]", "127.0.0.1 upstream_closed <nil>", "127.0.0.2 ok [spare]"} {
				s.waitFor(t, want, func(r map[string]any) bool {
					return r["msg"] == "session" && fmt.Sprint(r["server.address"], " ", r["outcome"], " ", r["via"]) == want
				})
			}
			s.forget("session")
			next := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo("127.0.0.2", full)).hear("\x05\x00\x00")
			io.ReadFull(next, make([]byte, 7))
			next.say("hello").hear("hello").Close()
			if r := s.wait(t, 0, "session"); fmt.Sprint(r["via"]) != "[spare]" {
				t.Errorf("the next session is recorded as %v", r)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// splitURL is a URL before its host, and from there on.
func splitURL(url string) (scheme, at string) {
	for i := len(url) - 1; ; i-- {
		if url[i] == '@' || url[i] == '/' {
			return url[:i+1], url[i+1:]
		}
	}
}

// tap is another way to a server. Each message to it is told of once it has been
// passed on, while there is room. It ends with the server: nobody else listens then.
func tap(t *testing.T, to string) (address string, passed chan struct{}) {
	t.Helper()
	passed = make(chan struct{}, 1000)
	return scriptedFor(t, func(c *net.TCPConn) {
		far, err := net.Dial("tcp", to)
		if err != nil {
			c.SetLinger(0)
			return
		}
		defer far.Close()
		go func() {
			message := make([]byte, 64<<10)
			for {
				n, err := c.Read(message)
				if err != nil {
					far.(*net.TCPConn).CloseWrite()
					return
				}
				far.Write(message[:n])
				select {
				case passed <- struct{}{}:
				default:
				}
			}
		}()
		io.Copy(c, far)
	}), passed
}

// fullListener listens, but takes no connection before it is drained: its queue is
// full, and the kernel does not answer. Afterwards it is an echo.
func fullListener(t *testing.T) (port uint16, drain func()) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	port = l.Addr().(*net.TCPAddr).AddrPort().Port()
	filler, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { filler.Close() })
	return port, func() {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					io.Copy(c, c)
				}()
			}
		}()
	}
}
