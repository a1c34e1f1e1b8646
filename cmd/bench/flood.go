package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// bans are those of a running sallyport, which it is asked for by its own command.
type bans struct{ program, management string }

func (b *bans) command(ctx context.Context, do string, more ...string) error {
	arguments := append([]string{"ban", do, floodSource.String(), "--management", b.management}, more...)
	if out, err := exec.CommandContext(ctx, b.program, arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("ban %s: %w: %s", do, err, out)
	}
	return nil
}

// floodSource is a client that nobody else is.
var floodSource = net.IPv4(127, 0, 0, 250)

// flood has a banned source come again and again, as fast as it is hung up on, and
// tells what each time costs the proxy. Beside that one honest client waits for its
// first bytes, as it does in firstByte. A proxy that bans nobody is not measured.
func flood(ctx context.Context, c *contender, s settings) (f figures, err error) {
	if c.bans == nil {
		return nil, nil
	}
	if err := c.bans.command(ctx, "add", "--for", "1h"); err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, c.bans.command(context.WithoutCancel(ctx), "remove"))
	}()

	const workers = 8 // which keep a core busy
	banned := client{through: c.through, targets: c.targets, from: floodSource}
	var refused atomic.Int64
	var failure first
	var all sync.WaitGroup
	defer all.Wait()
	flooding, stop := context.WithCancel(ctx)
	defer stop()
	for range workers {
		all.Go(func() {
			for flooding.Err() == nil {
				conn, err := banned.open()
				var unreached *dialError
				switch {
				case err == nil:
					conn.Close()
					failure.is(errors.New("a banned source was let in"))
					return
				case errors.As(err, &unreached):
					failure.is(err)
					return
				}
				refused.Add(1)
			}
		})
	}
	m := newMeter(c)
	pause(ctx, s.duration)
	n := float64(refused.Load())
	f = figures{"flood_per_second": n / time.Since(m.begun).Seconds()}
	m.each(f, "flood_cpu_us", n, time.Microsecond)
	took, err := awaitFirstBytes(ctx, &c.client, s.duration/2)
	if err != nil {
		return f, fmt.Errorf("beside a flood: %w", err)
	}
	f["flood_first_byte_p50_us"] = float64(took[len(took)/2]) / 1e3
	return f, failure.get()
}
