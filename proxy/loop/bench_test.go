package loop

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// What 512 bytes there and back cost, beside Go's own way.
func BenchmarkRoundTrip(b *testing.B) {
	rounds := func(b *testing.B, to net.Addr) {
		c, err := net.Dial("tcp", to.String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		p := make([]byte, 512)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Write(p); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(c, p); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("loop", func(b *testing.B) {
		ln := listen(b, start(b), "127.0.0.1:0")
		var serving sync.WaitGroup
		ended := serve(ln, func(c *Conn) {
			serving.Add(1)
			c.Serve(func(t *Task) {
				t.Then(serving.Done)
				defer c.Close()
				echo(c)
			})
		}, func(error) time.Duration { return -1 })
		rounds(b, ln.Addr())
		ln.Close()
		<-ended
		serving.Wait()
	})
	b.Run("net", func(b *testing.B) {
		ln := listener(b, "127.0.0.1:0")
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			p := make([]byte, 512)
			for {
				n, err := c.Read(p)
				if err != nil {
					return
				}
				if _, err := c.Write(p[:n]); err != nil {
					return
				}
			}
		}()
		rounds(b, ln.Addr())
	})
}

// A connection that is served for long leaves nothing for the collector.
func TestRoundTripAllocatesNothing(t *testing.T) {
	either(t, func(t *testing.T, g *Group, run func(*Conn, func()) chan struct{}) {
		c, peer := connect(t, g.loops[0])
		done := run(c, func() { echo(c) })
		p := make([]byte, 512)
		n := testing.AllocsPerRun(1000, func() {
			peer.Write(p)
			io.ReadFull(peer, p)
			c.SetReadDeadline(time.Now().Add(time.Hour))
		})
		if n >= 1 {
			t.Errorf("%v allocations for each round", n)
		}
		peer.Close()
		await(t, "the echo ends", done)
	})
}
