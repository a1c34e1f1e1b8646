// Package listen accepts connections and survives what accepting can meet.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Conn is an accepted connection.
type Conn struct {
	*net.TCPConn
	Listener string         // its name in the configuration
	Source   netip.AddrPort // the client, unmapped
}

// Listener is an open listening socket.
type Listener struct {
	name string
	tcp  *net.TCPListener
}

// Open listens on an address such as "127.0.0.1:1080".
func Open(ctx context.Context, name, address string) (*Listener, error) {
	lc := net.ListenConfig{KeepAlive: 30 * time.Second}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", name, err)
	}
	return &Listener{name, l.(*net.TCPListener)}, nil
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.tcp.Addr() }

// Close ends Serve.
func (l *Listener) Close() error { return l.tcp.Close() }

// Serve calls handle on a goroutine of its own for each connection, until the
// listener is closed. An error of accept, such as running out of descriptors,
// is waited out.
func (l *Listener) Serve(handle func(*Conn)) {
	pause := 5 * time.Millisecond
	for {
		conn, err := l.tcp.AcceptTCP()
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
			go handle(&Conn{conn, l.name, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())})
		case errors.Is(err, net.ErrClosed):
			return
		default:
			<-time.After(pause)
			pause = min(2*pause, time.Second)
		}
	}
}
