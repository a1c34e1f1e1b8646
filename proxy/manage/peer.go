package manage

import (
	"context"
	"net"

	"sallyport/policy"
	"sallyport/proxy/process"
)

// knowing is a listener whose unix-socket connections know who has connected. A
// caller's credentials are the only address that it has there, so that is where
// they are kept: whoever wraps the connection passes that on.
type knowing struct{ net.Listener }

func (l knowing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if unix, ok := c.(*net.UnixConn); ok && err == nil {
		if peer, known := process.Peer(unix); known {
			return knownConn{unix, peerAddr{unix.RemoteAddr(), peer}}, nil
		}
	}
	return c, err
}

type knownConn struct {
	*net.UnixConn
	from peerAddr
}

func (c knownConn) RemoteAddr() net.Addr { return c.from }

type peerAddr struct {
	net.Addr
	peer policy.Peer
}

type peerKey struct{}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	if from, ok := c.RemoteAddr().(peerAddr); ok {
		return context.WithValue(ctx, peerKey{}, from.peer)
	}
	return ctx
}

// peerOf is who has connected to the unix socket; empty of any other caller.
func peerOf(ctx context.Context) policy.Peer {
	peer, _ := ctx.Value(peerKey{}).(policy.Peer)
	return peer
}
