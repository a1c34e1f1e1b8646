package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/proxy/wire/socks5"
)

// A load of datagrams: on each of some associations so many are under way, and
// every one that comes back sends the next.
const (
	associations = 8
	window       = 16
	silence      = 300 * time.Millisecond // after which what is under way is lost
)

// errNoUDP is a proxy that has no UDP relay for us.
var errNoUDP = errors.New("no UDP relay")

// datagrams measures what one datagram costs: an echo is two of them. A proxy
// that relays none has no figures.
func datagrams(ctx context.Context, c *contender, s settings, size int) (figures, error) {
	if c.through.scheme != "socks5" {
		return nil, nil
	}
	to := c.targets[0]
	target, err := echoPackets(to)
	if err != nil {
		return nil, err
	}
	defer target()
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	var echoes, lost atomic.Int64
	for range associations {
		a, err := c.associate(to)
		if errors.Is(err, errNoUDP) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		all.Go(func() {
			defer a.close()
			for round := uint64(1); ctx.Err() == nil; round++ {
				lost.Add(a.round(ctx, round, size, &echoes))
			}
		})
	}
	pause(ctx, 300*time.Millisecond)
	m, before, lostBefore := newMeter(c), echoes.Load(), lost.Load()
	pause(ctx, s.duration)
	n := float64(echoes.Load() - before)
	name := fmt.Sprintf("udp_%d", size)
	f := figures{name + "_per_second": 2 * n / time.Since(m.begun).Seconds()}
	m.each(f, name+"_cpu_us", 2*n, time.Microsecond)
	if n == 0 {
		return f, errors.New("no datagram came back")
	}
	f[name+"_lost_percent"] = 100 * float64(lost.Load()-lostBefore) / n
	return f, nil
}

// relayed is a client's end of a UDP relay.
type relayed struct {
	*net.UDPConn
	control net.Conn
	header  []byte
}

func (a *relayed) close() {
	a.UDPConn.Close()
	a.control.Close()
}

// associate asks for a relay. The client's port is told, which some insist on.
func (c *client) associate(to netip.AddrPort) (*relayed, error) {
	probe, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	local := probe.LocalAddr().(*net.UDPAddr)
	probe.Close()
	control, err := net.DialTimeout("tcp4", c.through.address, patience)
	if err != nil {
		return nil, err
	}
	control.SetDeadline(time.Now().Add(patience))
	at := local.AddrPort()
	bound, err := c.ask(control, socks5.Request{
		Command: socks5.Associate, Address: socks5.Address{IP: at.Addr().Unmap(), Port: at.Port()},
	})
	var refused replyError
	if errors.As(err, &refused) && (refused == replyError(socks5.CommandNotSupported) || refused == replyError(socks5.NotAllowed)) {
		err = errNoUDP
	}
	var socket *net.UDPConn
	if err == nil {
		socket, err = net.DialUDP("udp4", local, &net.UDPAddr{IP: bound.IP.AsSlice(), Port: int(bound.Port)})
	}
	var header []byte
	if err == nil {
		header, err = socks5.AppendDatagram(nil, socks5.Datagram{IP: to.Addr(), Port: to.Port()})
	}
	if err != nil {
		control.Close()
		return nil, err
	}
	socket.SetReadBuffer(4 << 20)
	socket.SetWriteBuffer(4 << 20)
	return &relayed{socket, control, header}, nil
}

// round keeps a window of datagrams under way until none comes back any more,
// and returns how many are lost. Each has the round's number, so that one that
// is late is not counted twice.
func (a *relayed) round(ctx context.Context, number uint64, size int, echoes *atomic.Int64) int64 {
	out := append(a.header, make([]byte, size)...)
	binary.BigEndian.PutUint64(out[len(a.header):], number)
	in := make([]byte, 2048)
	flight := int64(0)
	for range window {
		if _, err := a.Write(out); err == nil {
			flight++
		}
	}
	a.SetReadDeadline(time.Now().Add(silence))
	for n := 1; ctx.Err() == nil; n++ {
		k, err := a.Read(in)
		if err != nil {
			return flight
		}
		if k < size || binary.BigEndian.Uint64(in[k-size:]) != number {
			continue
		}
		echoes.Add(1)
		if n%64 == 0 {
			a.SetReadDeadline(time.Now().Add(silence))
		}
		if _, err := a.Write(out); err != nil {
			flight--
		}
	}
	return 0
}

// echoPackets sends datagrams back until it is ended.
func echoPackets(at netip.AddrPort) (end func(), err error) {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	c.SetReadBuffer(4 << 20)
	c.SetWriteBuffer(4 << 20)
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(b[:n], from)
		}
	})
	return func() { c.Close(); serving.Wait() }, nil
}
