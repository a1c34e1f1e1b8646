package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// path is a way to a server on which everything takes time: a relay that passes
// on each piece some time after it has come. TCP's handshake with the relay is the
// kernel's and takes none, so that a connection waits for a round trip before its
// first byte instead.
type path struct {
	to        string
	roundTrip atomic.Int64 // a time.Duration, from the next connection on
	listener  net.Listener
}

func openPath(to string) (*path, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &path{to: to, listener: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.carry(c.(*net.TCPConn)) // it ends with the connection
		}
	}()
	return p, nil
}

func (p *path) address() string { return p.listener.Addr().String() }

func (p *path) close() { p.listener.Close() }

func (p *path) carry(c *net.TCPConn) {
	defer c.Close()
	roundTrip := time.Duration(p.roundTrip.Load())
	time.Sleep(roundTrip)
	far, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer far.Close()
	var up sync.WaitGroup
	up.Go(func() { delayed(far.(*net.TCPConn), c, roundTrip/2) })
	delayed(c, far.(*net.TCPConn), roundTrip/2)
	up.Wait()
}

// delayed copies until the end, which is passed on as well.
func delayed(to, from *net.TCPConn, by time.Duration) {
	type piece struct {
		due   time.Time
		bytes []byte
	}
	pieces := make(chan piece, 64)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 4096)
			n, err := from.Read(b)
			if n > 0 {
				pieces <- piece{time.Now().Add(by), b[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.bytes); err != nil {
			from.CloseRead() // so that nobody is left who reads
			io.Copy(io.Discard, from)
		}
	}
	time.Sleep(by)
	to.CloseWrite()
}
