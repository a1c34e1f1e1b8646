package dial

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/proxy/secret"
)

// silentWatcher sees nothing.
type silentWatcher struct{}

func (silentWatcher) Began(string)                                      {}
func (silentWatcher) Ready(string, time.Duration)                       {}
func (silentWatcher) Done(string, netip.AddrPort, time.Duration, error) {}

// saying is a server that says one thing to whoever comes and ends; what it has
// heard goes into heard.
func saying(t testing.TB, text []byte, heard chan<- string) Endpoint {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer l.Close()
		c, err := l.Accept()
		if err != nil {
			heard <- ""
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		c.Write(text)
		c.(*net.TCPConn).CloseWrite()
		all, _ := io.ReadAll(c)
		heard <- string(all)
	}()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	return Endpoint{IP: at.Addr(), Port: at.Port()}
}

// Whatever a hop says, there is a connection or an error that names the hop, the
// password is told to nobody who was not asked about it, and no byte of what came
// is in the error.
func FuzzThrough(f *testing.F) {
	for _, seed := range []string{
		"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50early", "\x05\x02\x01\x00\x05\x05\x00\x03\x01a\x00\x50", "\x05\x02\x01\x01", "\x05\xff",
		"\x00\x5a\x00\x00\x00\x00\x00\x00early", "\x00\x5b\x00\x00\x00\x00\x00\x00",
		"HTTP/1.1 200 OK\r\n\r\nearly", "HTTP/1.1 103 X\r\n\r\nHTTP/1.1 407 X\r\n\r\n", "HTTP/1.1 502 X\r\nProxy-Status: a;error=dns_error\r\n\r\n",
	} {
		for protocol := range byte(4) {
			f.Add(protocol, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, protocol byte, text []byte) {
		heard := make(chan string, 1)
		hop := &Hop{
			Name: "far", Protocol: []Protocol{SOCKS5, SOCKS4A, HTTP, SOCKS5}[protocol%4], At: saying(t, text, heard),
			Username: "me", Password: secret.New("hunter2"),
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		to := Endpoint{Name: "target.example", Port: 80}
		if protocol%4 == 3 {
			to = Endpoint{Packets: true}
		}
		way, err := new(Dialer).Through(ctx, nil, []*Hop{hop}, to, netip.Addr{}, silentWatcher{})
		if err != nil {
			var failed *HopError
			if !errors.As(err, &failed) || failed.Hop != "far" || failed.Failure == "" || errors.Unwrap(err) != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if failed.Failure == HopTimeout && !failed.Target {
				t.Fatalf("%q: waits for more than there is", text)
			}
		} else {
			if !strings.HasSuffix(string(text), string(way.Early)) {
				t.Fatalf("%q: early is %q", text, way.Early)
			}
			if to.Packets && (way.Bound.Addr() != hop.At.IP || way.Bound.Port() == 0) {
				t.Fatalf("%q: datagrams go to %s", text, way.Bound)
			}
			way.Conn.Close()
		}
		if said := <-heard; hop.Protocol != HTTP && strings.Contains(said, "hunter2") && (hop.Protocol != SOCKS5 || !strings.HasPrefix(string(text), "\x05\x02")) {
			t.Fatalf("%q: the password was told: %q", text, said)
		}
	})
}

func TestThroughIsCalledOff(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.ReadFull(c, make([]byte, 3)) // the greeting is there, and the answer awaited
		cancel()
		io.Copy(io.Discard, c)
	}()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	hop := &Hop{Name: "far", Protocol: SOCKS5, At: Endpoint{IP: at.Addr(), Port: at.Port()}}
	_, err = new(Dialer).Through(ctx, nil, []*Hop{hop}, Endpoint{Name: "target.example", Port: 80}, netip.Addr{}, silentWatcher{})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A source address is that of the hop, unless the policy has one.
func TestSourceOfAHop(t *testing.T) {
	for _, c := range []struct{ hop, policy, want string }{
		{"127.0.0.3", "", "127.0.0.3"}, {"127.0.0.3", "127.0.0.4", "127.0.0.4"}, {"", "127.0.0.4", "127.0.0.4"},
	} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		from := make(chan string, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				from <- err.Error()
				return
			}
			from <- c.RemoteAddr().(*net.TCPAddr).IP.String()
			c.Close()
		}()
		at := l.Addr().(*net.TCPAddr).AddrPort()
		hop := &Hop{Name: "far", Protocol: SOCKS5, At: Endpoint{IP: at.Addr(), Port: at.Port()}}
		hop.Source, _ = netip.ParseAddr(c.hop)
		pinned, _ := netip.ParseAddr(c.policy)
		new(Dialer).Through(context.Background(), nil, []*Hop{hop}, Endpoint{Name: "target.example", Port: 80}, pinned, silentWatcher{})
		if got := <-from; got != c.want {
			t.Errorf("%+v: from %s", c, got)
		}
		l.Close()
	}
}

// A hop that has taken the connection and resets it, before anybody has looked
// whether it came about, was there.
func TestResetAfterAccept(t *testing.T) {
	c := &chain{ctx: t.Context(), hops: []*Hop{{Name: "far"}}}
	for errno, want := range map[syscall.Errno]Failure{syscall.ECONNRESET: HopClosed, syscall.ECONNREFUSED: HopRefused} {
		met := &net.OpError{Op: "dial", Err: os.NewSyscallError("getsockopt", errno)}
		var failed *HopError
		if err := c.blame(0, classify(met, netip.Addr{})); !errors.As(err, &failed) || failed.Failure != want {
			t.Errorf("%v is told as %v", errno, err)
		}
	}
}
