// Package listen accepts clients.
//
// [Open] binds one address, of TCP or a unix socket, and [Listener.Serve] hands
// each client over as a [Conn], on a task of a loop or a goroutine of its own.
// Serve returns when the last of the connections has been closed. A load balancer
// that is trusted tells before that whom it speaks for (announced.go). What a want
// of descriptors or memory does is settled here too: accepting slows down, says so
// once a second, and goes on, while the clients wait in the kernel's queue, which is
// the better place for them than a connection that is closed at once: they are
// served when descriptors come back.
package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/proxy/loop"
)

// Config is one listener's.
type Config struct {
	Name    string      // what policies see as input.session.listener
	Address string      // IP:PORT; :PORT is every address of this machine; port 0 a free one; or unix:PATH
	OnError func(error) // told of failed accepts and of refused PROXY headers, each at most once a second; nil: nobody is

	// Loops serve the clients of plain TCP that nobody speaks for; nil: goroutines do.
	Loops *loop.Group

	Mode fs.FileMode // of a unix socket's file; who may write to it may connect

	TLS *TLS // nil: none

	Trusted []netip.Prefix // peers that have to say by the PROXY protocol whom they speak for
	Header  time.Duration  // within which they have to
	Waiting int            // how many may be about to, before the next ones are closed
}

// Listener is a bound address.
type Listener struct {
	name      string
	onError   func(error)
	socket    socket
	tls       *TLS       // nil: none
	announced *announced // nil: nobody is trusted
}

// socket is a *net.TCPListener, a *net.UnixListener or, where loops serve the
// clients, a *loop.Listener.
type socket interface {
	Addr() net.Addr
	Close() error
}

// Open binds the address. From then on clients can connect, and wait for Serve.
// 0.0.0.0 is every IPv4 address and no IPv6 one; [::] and an empty host are
// both. Names are refused, since nothing is resolved here.
func Open(ctx context.Context, c Config) (*Listener, error) {
	l := &Listener{name: c.Name, onError: c.OnError, tls: c.TLS}
	if l.onError == nil {
		l.onError = func(error) {}
	}
	if len(c.Trusted) > 0 {
		l.announced = newAnnounced(&c, l.onError)
	}
	var err error
	if path, ok := strings.CutPrefix(c.Address, "unix:"); ok {
		l.socket, err = OpenUnix(ctx, path, c.Mode)
	} else {
		l.socket, err = openTCP(ctx, c.Address)
	}
	if tcp, ok := l.socket.(*net.TCPListener); ok && c.Loops != nil && l.tls == nil && l.announced == nil {
		l.socket, err = c.Loops.Listen(tcp)
	}
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", c.Name, err)
	}
	return l, nil
}

func openTCP(ctx context.Context, address string) (socket, error) {
	network, err := networkOf(address)
	if err != nil {
		return nil, err
	}
	lc := net.ListenConfig{KeepAlive: -1, Control: inherit}
	lc.SetMultipathTCP(false) // the relay's splice needs plain TCP
	return lc.Listen(ctx, network, address)
}

// networkOf checks the address. Go would take 0.0.0.0 for every IPv6 address
// as well, if the network were not named.
func networkOf(address string) (string, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if host == "" {
		return "tcp", nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", fmt.Errorf("address %q: not IP:PORT: %w", address, err)
	}
	if ip.Unmap().Is4() {
		return "tcp4", nil
	}
	return "tcp", nil
}

// inherit sets on the listening socket what accepted ones are to have. Linux
// passes it on, which saves the calls for each client. Keep-alive finds clients
// that vanished and keeps middle boxes from forgetting the flow.
func inherit(_, _ string, raw syscall.RawConn) error {
	var errs [4]error
	err := raw.Control(func(fd uintptr) {
		errs[0] = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		errs[1] = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60)
		errs[2] = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15)
		errs[3] = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	})
	return errors.Join(err, errors.Join(errs[:]...))
}

// Addr is the address that is bound, with the port that was chosen for port 0;
// the zero value for a unix socket.
func (l *Listener) Addr() netip.AddrPort { return plain(l.socket.Addr()) }

// String is the address as it is configured: IP:PORT or unix:PATH.
func (l *Listener) String() string {
	if at := l.socket.Addr(); at.Network() == "unix" {
		return "unix:" + at.String()
	}
	return l.Addr().String()
}

// Close stops listening: new clients are refused at once, and Serve returns
// when the handlers have. A unix socket's file is removed. It may be called at
// any time, and again.
func (l *Listener) Close() error {
	if err := l.socket.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("listener %s: %w", l.name, err)
	}
	return nil
}

// Serve accepts clients until ctx is done or the listener is closed, and calls
// handle for each, on a new goroutine or a task of a loop. It returns when all their
// connections have been closed, which may be after handle has returned, and with an
// error only if the socket is beyond use; the listener is closed then in any case.
// It does not hurry anybody: who wants clients gone cuts their sessions. Those that
// are not clients yet, since their PROXY header is awaited, are closed when ctx ends.
func (l *Listener) Serve(ctx context.Context, handle func(*Conn)) error {
	var open sync.WaitGroup
	defer open.Wait()
	defer l.Close()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()

	t := troubles{onError: l.onError}
	switch from := l.socket.(type) {
	case *loop.Listener:
		from.Serve(func(accepted *loop.Conn) {
			t.none()
			open.Add(1)
			c := &Conn{
				Conn: accepted, Source: plain(accepted.RemoteAddr()),
				Listener: l.name, Accepted: time.Now(), closed: open.Done,
			}
			accepted.Serve(func(t *loop.Task) {
				c.Task = t
				handle(c)
			})
		}, t.pause)
	case net.Listener:
		accept(ctx, from.Accept, &t, func(accepted net.Conn) {
			c := &Conn{Conn: accepted, Listener: l.name, Accepted: time.Now(), closed: open.Done}
			open.Add(1)
			if _, ok := accepted.(*net.TCPConn); ok {
				c.Source = plain(accepted.RemoteAddr())
				if !c.Source.IsValid() { // it is gone, and must not be taken for a unix socket's client
					c.Close()
					return
				}
			}
			go l.serve(ctx, c, handle)
		})
	}
	if t.fatal != nil && ctx.Err() == nil {
		return fmt.Errorf("listener %s: %w", l.name, t.fatal)
	}
	return nil
}

// serve hands a client over once it is known who that is.
func (l *Listener) serve(ctx context.Context, c *Conn, handle func(*Conn)) {
	loop.Roomy()
	if c.Source.IsValid() && l.announced.by(c.Source.Addr()) {
		if err := l.announced.read(ctx, c); err != nil {
			l.announced.refuse(c, err)
			return
		}
	}
	if l.tls != nil {
		c.secure(l.tls)
	}
	handle(c)
}

const (
	shortestPause = 5 * time.Millisecond
	longestPause  = time.Second
	reportPause   = time.Second
)

// accept is the loop. next is the socket's Accept.
func accept(ctx context.Context, next func() (net.Conn, error), t *troubles, serve func(net.Conn)) {
	for {
		c, err := next()
		if err == nil {
			t.none()
			serve(c)
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		pause := t.pause(err)
		if pause < 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// troubles are those of a socket in accepting, which several loops may do.
type troubles struct {
	onError func(error)

	last atomic.Int64 // the pause after the latest failure; 0: it has gone well since

	mu       sync.Mutex
	slowed   time.Time // when it became that long
	reported time.Time
	fatal    error // the socket is beyond use
}

// none says that accepting has gone well.
func (t *troubles) none() {
	if t.last.Load() != 0 {
		t.last.Store(0)
	}
}

// pause says what to do after a failure: to pause, the longer the more often it has
// failed, or to end, where it is negative. What several loops meet at once is one
// failure.
func (t *troubles) pause(err error) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if beyondUse(err) {
		t.fatal = err
		return -1
	}
	now := time.Now()
	if now.Sub(t.reported) >= reportPause {
		t.reported = now
		t.onError(err)
	}
	pause := time.Duration(t.last.Load())
	if pause == 0 || now.Sub(t.slowed) >= pause {
		pause = min(max(2*pause, shortestPause), longestPause)
		t.last.Store(int64(pause))
		t.slowed = now
	}
	return pause
}

// beyondUse tells errors of the socket itself from those of a client or of the
// machine, which pass: no descriptors or memory, an aborted connection, a
// packet filter, and the network errors that accept(2) may report.
func beyondUse(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func plain(a net.Addr) netip.AddrPort {
	// An accepted socket whose peer is already gone may have no address.
	tcp, ok := a.(*net.TCPAddr)
	if !ok || tcp == nil {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
