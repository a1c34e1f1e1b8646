package listen

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
)

// announced hears from trusted peers whom they speak for, by the PROXY protocol,
// version 1 or 2 (haproxy's doc/proxy-protocol.txt). Such a peer has to: a
// balancer whose header is missing would lend its own address to everybody
// behind it. Of all others nothing is read, so that a header of theirs is what
// it looks like to whoever hears the client: no protocol that is spoken here.
type announced struct {
	trusted []netip.Prefix
	within  time.Duration
	places  chan struct{} // one for each header that is awaited
	onError func(error)

	mu   sync.Mutex
	told time.Time // when an error last was
}

func newAnnounced(c *Config, onError func(error)) *announced {
	return &announced{
		trusted: c.Trusted, within: c.Header, places: make(chan struct{}, max(c.Waiting, 1)),
		onError: onError,
	}
}

// by tells whether this peer is to announce its client.
func (a *announced) by(peer netip.Addr) bool {
	if a == nil {
		return false
	}
	for _, prefix := range a.trusted {
		if prefix.Contains(peer) {
			return true
		}
	}
	return false
}

var (
	errSilent    = errors.New("it sent nothing")
	errNoHeader  = errors.New("it sent no PROXY header, which a trusted peer has to")
	errNotStream = errors.New("its PROXY header tells no IP address of a TCP client")
	errWaiting   = errors.New("too many PROXY headers are awaited")
)

// headers hold a PROXY header and what comes with it. One of version 2 may be
// longer, and is then read in parts.
var headers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 1024) }}

// read reads the header, and notes what it says.
func (a *announced) read(ctx context.Context, c *Conn) error {
	select {
	case a.places <- struct{}{}:
		defer func() { <-a.places }()
	default:
		return errWaiting
	}
	if err := c.SetReadDeadline(c.Accepted.Add(a.within)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
	reader := headers.Get().(*bufio.Reader)
	defer headers.Put(reader)
	defer reader.Reset(nil)
	reader.Reset(c.Conn)
	if _, err := reader.Peek(1); err != nil {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	header, err := proxyproto.Read(reader) // at most 4 KiB
	switch {
	case errors.Is(err, proxyproto.ErrNoProxyProtocol):
		return errNoHeader
	case err != nil:
		return fmt.Errorf("its PROXY header cannot be read: %w", err)
	case header.Command == proxyproto.PROXY:
		source, _, ok := header.TCPAddrs()
		if !ok {
			return errNotStream
		}
		c.Source, c.Announced = plain(source), true
		if !c.Source.IsValid() {
			return errNotStream
		}
	default:
		// LOCAL, or version 1's UNKNOWN: the balancer speaks for itself, or cannot
		// say for whom. It is the client then.
	}
	if n := reader.Buffered(); n > 0 {
		early, _ := reader.Peek(n) // never fails for what is buffered
		c.early = append([]byte(nil), early...)
	}
	return c.SetReadDeadline(time.Time{})
}

// refuse closes, and says why once a second. Of a peer that has sent nothing, as
// those do that ask whether anybody listens, there is nothing to say.
func (a *announced) refuse(c *Conn, err error) {
	c.Close()
	if errors.Is(err, errSilent) {
		return
	}
	now := time.Now()
	a.mu.Lock()
	tell := now.Sub(a.told) >= reportPause
	if tell {
		a.told = now
	}
	a.mu.Unlock()
	if tell {
		a.onError(fmt.Errorf("%s is refused: %w", c.Source.Addr(), err))
	}
}
