package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// verify is about what arrives and not about how fast. On each connection the
// client sends random bytes, ends its direction, and reads on: every byte has to
// come back in order, and then the end. A proxy that ends both directions when
// the client ends one loses what is still on its way back.
func verify(_ context.Context, c *contender, _ settings) (figures, error) {
	const connections = 24
	var all sync.WaitGroup
	defer all.Wait()
	results := make([]error, connections)
	for i := range results {
		conn, err := c.open()
		if err != nil {
			return nil, err
		}
		all.Go(func() { results[i] = verifyOne(conn, i) })
	}
	all.Wait()
	intact := 0
	for _, err := range results {
		if err == nil {
			intact++
		}
	}
	return figures{"verified_percent": 100 * float64(intact) / connections}, nil
}

func verifyOne(conn *net.TCPConn, n int) error {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	size := int64(1) << n // 1 B to 8 MiB
	sent, got := sha256.New(), sha256.New()
	failed := make(chan error, 1)
	go func() { failed <- sendRandom(conn, uint64(n), size, sent) }()
	received, err := io.Copy(got, conn)
	if err := errors.Join(<-failed, err); err != nil {
		return fmt.Errorf("%d bytes of %d came back: %w", received, size, err)
	}
	if received != size || string(sent.Sum(nil)) != string(got.Sum(nil)) {
		return fmt.Errorf("%d bytes were sent, and %d others came back", size, received)
	}
	return nil
}

// sendRandom writes pieces of random sizes, with pauses between some, and ends
// its direction.
func sendRandom(conn *net.TCPConn, seed uint64, size int64, sum io.Writer) error {
	if _, err := conn.Write([]byte{echo}); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(seed, 0))
	bytes := rand.NewChaCha8([32]byte{byte(seed)})
	piece := make([]byte, 128<<10)
	for size > 0 {
		p := piece[:min(size, 1+random.Int64N(int64(len(piece))))]
		bytes.Read(p) // it never fails
		sum.Write(p)
		if _, err := conn.Write(p); err != nil {
			return err
		}
		size -= int64(len(p))
		if random.IntN(8) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return conn.CloseWrite()
}
