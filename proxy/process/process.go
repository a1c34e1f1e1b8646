// Package process says which program of this machine a client is: its process,
// its user and the file that it runs.
//
// Of a unix socket the kernel says who has connected. Of a connection over
// loopback it says by sock_diag(7) whose socket is at the other end; the process
// that holds it has to be looked for in /proc, which is bounded in time and done
// by one at a time. What cannot be found out is left empty: a server that is not
// root may not look into the processes of other users, of which it still learns
// the user.
//
// A file's path is told as the process sees it: a container has a /usr/bin/curl
// of its own.
package process

import (
	"net"
	"net/netip"
	"time"

	"sallyport/policy"
)

// patience is how long a look into /proc may take, waiting for its turn included. A
// look takes a millisecond or a few; on a machine that is busy it is not the look
// that takes long but the wait for a processor, for which nobody should be denied.
const patience = time.Second

// Finder finds processes, and remembers where it has found some, since a program
// that connects once does so again.
type Finder struct {
	turn     chan struct{} // who looks into /proc
	recent   []int         // process ids, the latest last; of who has the turn
	patience time.Duration
}

// NewFinder returns one.
func NewFinder() *Finder { return &Finder{turn: make(chan struct{}, 1), patience: patience} }

// Of is the process at the other end of a connection that was accepted, a
// *net.UnixConn or one of TCP from loopback; empty of any other.
func (f *Finder) Of(client net.Conn) policy.Process {
	if c, ok := client.(*net.UnixConn); ok {
		return ofUnix(c)
	}
	if from := addrPort(client.RemoteAddr()); from.Addr().IsLoopback() {
		return f.ofTCP(from, addrPort(client.LocalAddr()), time.Now().Add(f.patience))
	}
	return policy.Process{}
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || tcp == nil {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
