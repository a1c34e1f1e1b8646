package dial

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// attemptDelay is the Connection Attempt Delay of RFC 8305, section 5.
const attemptDelay = 250 * time.Millisecond

// alternate interleaves the families, beginning with that of the first address
// (RFC 8305, section 4); within a family the order stays.
func alternate(to []netip.AddrPort) []netip.AddrPort {
	first := to[0].Addr().Unmap().Is4()
	var families [2][]netip.AddrPort
	for _, a := range to {
		family := 0
		if a.Addr().Unmap().Is4() != first {
			family = 1
		}
		families[family] = append(families[family], a)
	}
	mixed := make([]netip.AddrPort, 0, len(to))
	for i := range families[0] {
		mixed = append(mixed, families[0][i])
		if i < len(families[1]) {
			mixed = append(mixed, families[1][i])
		}
	}
	if len(families[1]) > len(families[0]) {
		mixed = append(mixed, families[1][len(families[0]):]...)
	}
	return mixed
}

// conn is a *net.TCPConn or a *loop.Conn.
type conn interface {
	net.Conn
	comparable
}

type connector[C conn] func(ctx context.Context, to netip.AddrPort, from netip.Addr) (C, error)

type attempt[C conn] struct {
	conn C
	err  error
}

// race is Happy Eyeballs (RFC 8305, section 5). It owns the attempts: before it
// returns all of them have ended, and of the connections that were made too
// late none is left open.
func race[C conn](ctx context.Context, to []netip.AddrPort, from netip.Addr, connect connector[C]) (C, error) {
	var none C
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan attempt[C])
	running := 0
	defer func() {
		cancel()
		for ; running > 0; running-- {
			if loser := <-ended; loser.conn != none {
				loser.conn.Close()
			}
		}
	}()

	timer := time.NewTimer(attemptDelay)
	defer timer.Stop()
	var worst error
	for {
		if len(to) > 0 && (worst == nil || ctx.Err() == nil) {
			next := to[0]
			to = to[1:]
			running++
			go func() {
				conn, err := connect(ctx, next, from)
				ended <- attempt[C]{conn, err}
			}()
			timer.Reset(attemptDelay)
		}
		if running == 0 {
			return none, worst
		}
		select {
		case a := <-ended:
			running--
			if a.err == nil {
				return a.conn, nil
			}
			worst = moreTelling(worst, a.err)
		case <-timer.C:
		}
	}
}
