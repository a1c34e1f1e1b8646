package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// contender is what is measured: a proxy, or the way without one.
type contender struct {
	name string
	client
	processes                             // none: its processor time and memory are not known
	restart   func(context.Context) error // nil: others have started it
	loaded    bool                        // connections have grown its memory before
	chained   string                      // by what it leads through another one; empty: it does not
	bans      *bans                       // nil: it is not asked to ban anybody
	users     *users                      // nil: it has not been started by two
}

// figures are what one measurement found, by name.
type figures map[string]float64

// measurement is one kind of load.
type measurement struct {
	name string
	run  func(context.Context, *contender, settings) (figures, error)
}

// settings say how much load there is.
type settings struct {
	duration time.Duration // of each measurement
	settle   time.Duration // at most, between the end of a load and the reading of what it has cost
	idle     int           // connections
}

func measurements() []measurement {
	list := []measurement{
		{"idle", idle}, // which starts the proxy anew: it has no memory of its own to use again
		{"connect", connections},
		{"first-byte", firstByte},
	}
	for _, up := range []bool{false, true} {
		for _, streams := range []int{1, 8} {
			list = append(list, measurement{bulkName(up, streams), func(ctx context.Context, c *contender, s settings) (figures, error) {
				return bulk(ctx, c, s, up, streams)
			}})
		}
	}
	list = append(list, measurement{"bulk-idle", bulkIdle})
	for _, size := range []int{512, 16 << 10} {
		list = append(list, measurement{fmt.Sprintf("ping-pong-%d", size), func(ctx context.Context, c *contender, s settings) (figures, error) {
			return pingPong(ctx, c, s, size)
		}})
	}
	for _, size := range []int{64, 1200} {
		list = append(list, measurement{fmt.Sprintf("udp-%d", size), func(ctx context.Context, c *contender, s settings) (figures, error) {
			return datagrams(ctx, c, s, size)
		}})
	}
	return append(list, measurement{"forward", forward}, measurement{"flood", flood}, measurement{"verify", verify})
}

func bulkName(up bool, streams int) string {
	if up {
		return fmt.Sprintf("up-%d", streams)
	}
	return fmt.Sprintf("down-%d", streams)
}

// meter is the processor time of a proxy from a moment on.
type meter struct {
	of     *contender
	before time.Duration
	begun  time.Time
}

func newMeter(c *contender) meter { return meter{c, c.processor(), time.Now()} }

// each is the processor time for each of n units, in what a unit of time is.
func (m meter) each(f figures, name string, n float64, unit time.Duration) {
	if len(m.of.processes) > 0 && n > 0 {
		f[name] = float64(m.of.processor()-m.before) / float64(unit) / n
	}
}

// settle waits until a proxy has done what there is to do after a load: it uses
// next to no processor time any more, or has done so for long enough.
func (c *contender) settle(ctx context.Context, most time.Duration) {
	const look = 50 * time.Millisecond
	if len(c.processes) == 0 {
		pause(ctx, most)
		return
	}
	end := time.Now().Add(most)
	for used := c.processor(); ctx.Err() == nil && time.Now().Before(end); {
		pause(ctx, look)
		now := c.processor()
		if now-used < look/100 {
			return
		}
		used = now
	}
}

// first keeps the first error of several workers.
type first struct {
	mu  sync.Mutex
	err error
}

func (f *first) is(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *first) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// connections opens, has one byte echoed and closes, by many workers at once.
func connections(ctx context.Context, c *contender, s settings) (figures, error) {
	const workers = 64
	var done, failures atomic.Int64
	var failure first
	var all sync.WaitGroup
	m := newMeter(c)
	working, cancel := context.WithTimeout(ctx, s.duration)
	defer cancel()
	for range workers {
		all.Go(func() {
			for working.Err() == nil {
				if err := once(&c.client); err != nil {
					failures.Add(1)
					failure.is(err)
					pause(working, time.Millisecond)
					continue
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	f := figures{"connections_per_second": float64(done.Load()) / time.Since(m.begun).Seconds()}
	if len(c.processes) > 0 {
		f["load_mib"] = c.footprint().own / 1024
	}
	c.settle(ctx, s.settle) // closing costs, too
	m.each(f, "connect_cpu_us", float64(done.Load()), time.Microsecond)
	if n := failures.Load(); n > 0 {
		return f, fmt.Errorf("%d of %d connections failed: %w", n, n+done.Load(), failure.get())
	}
	return f, nil
}

func once(c *client) error {
	conn, err := c.open()
	if err != nil {
		return err
	}
	defer conn.Close()
	return ping(conn)
}

// firstByte is how long one client alone waits from connecting to the proxy to
// the target's first byte.
func firstByte(ctx context.Context, c *contender, s settings) (figures, error) {
	took, err := awaitFirstBytes(ctx, &c.client, s.duration/2)
	if err != nil {
		return nil, err
	}
	return figures{"first_byte_p50_us": float64(took[len(took)/2]) / 1e3}, nil
}

// awaitFirstBytes returns how long each took, the shortest first.
func awaitFirstBytes(ctx context.Context, c *client, duration time.Duration) ([]time.Duration, error) {
	var took []time.Duration
	for end := time.Now().Add(duration); ctx.Err() == nil && time.Now().Before(end); {
		begun := time.Now()
		if err := once(c); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
	}
	if len(took) == 0 {
		return nil, context.Cause(ctx)
	}
	slices.Sort(took)
	return took, nil
}

// bulk moves as many bytes as will go.
func bulk(ctx context.Context, c *contender, s settings, up bool, streams int) (figures, error) {
	var moved atomic.Int64
	var ending atomic.Bool
	var failure first
	var all sync.WaitGroup
	var open []*net.TCPConn
	defer func() {
		ending.Store(true)
		for _, conn := range open {
			conn.SetLinger(0) // what is under way is of no interest
			conn.Close()
		}
		all.Wait()
	}()
	for range streams {
		conn, err := c.open()
		if err != nil {
			return nil, err
		}
		conn.SetDeadline(time.Time{})
		open = append(open, conn)
		all.Go(func() {
			move := download
			if up {
				move = upload
			}
			if err := move(conn, func(n int) { moved.Add(int64(n)) }); !ending.Load() {
				failure.is(err)
			}
		})
	}
	pause(ctx, 200*time.Millisecond) // until the windows are open
	m, before := newMeter(c), moved.Load()
	pause(ctx, s.duration)
	gigabytes := float64(moved.Load()-before) / 1e9
	f := figures{bulkName(up, streams) + "_gbit_per_second": 8 * gigabytes / time.Since(m.begun).Seconds()}
	m.each(f, bulkName(up, streams)+"_cpu_s_per_gb", gigabytes, time.Second)
	if err := failure.get(); err != nil {
		return f, err
	}
	if gigabytes == 0 {
		return f, errors.New("not a byte was moved")
	}
	return f, nil
}

func download(c *net.TCPConn, count func(int)) error {
	if _, err := c.Write([]byte{source}); err != nil {
		return err
	}
	return throwAway(c, count)
}

func upload(c *net.TCPConn, count func(int)) error {
	if _, err := c.Write([]byte{discard}); err != nil {
		return err
	}
	chunk := make([]byte, bulkChunk)
	for {
		n, err := c.Write(chunk)
		count(n)
		if err != nil {
			return err
		}
	}
}

// pingPong sends a message and awaits it back, again and again, on many
// connections at once.
func pingPong(ctx context.Context, c *contender, s settings, size int) (figures, error) {
	const clients = 64
	var turns atomic.Int64
	var failure first
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer all.Wait()
	defer cancel()
	for range clients {
		conn, err := c.open()
		if err != nil {
			return nil, err
		}
		conn.SetDeadline(time.Now().Add(s.duration + patience))
		all.Go(func() {
			defer conn.Close()
			if err := ping(conn); err != nil {
				failure.is(err)
				return
			}
			for message := make([]byte, size); ctx.Err() == nil; turns.Add(1) {
				_, err := conn.Write(message)
				if err == nil {
					_, err = io.ReadFull(conn, message)
				}
				if err != nil {
					failure.is(err)
					return
				}
			}
		})
	}
	pause(ctx, 200*time.Millisecond)
	m, before := newMeter(c), turns.Load()
	pause(ctx, s.duration)
	n := float64(turns.Load() - before)
	name := fmt.Sprintf("ping_pong_%d", size)
	f := figures{name + "_per_second": n / time.Since(m.begun).Seconds()}
	m.each(f, name+"_cpu_us", n, time.Microsecond)
	return f, failure.get()
}

// idle holds connections open over which nothing moves any more, and as many again
// beside them, and closes them. It starts the proxy anew where it can, so that the
// first connections find no memory to use again; else these are told of once. What
// the further ones take is what a connection takes when there are many: what a
// proxy takes because there is work at all is in the first ones.
func idle(ctx context.Context, c *contender, s settings) (figures, error) {
	if c.restart != nil {
		if err := c.restart(ctx); err != nil {
			return nil, err
		}
		c.loaded = false
	}
	c.settle(ctx, s.settle) // earlier connections are being closed
	var held []*net.TCPConn
	defer func() {
		for _, conn := range held {
			conn.Close()
		}
	}()
	seen := []footprint{c.footprint()} // without, with the first ones, with all
	for range 2 {
		more, err := hold(ctx, &c.client, s.idle)
		held = append(held, more...)
		if err != nil {
			return nil, err
		}
		c.settle(ctx, s.settle)
		seen = append(seen, c.footprint())
	}
	for _, conn := range held { // one that was dropped meanwhile was not held
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte{'y'}); err != nil {
			return nil, err
		}
		if err := echoed(conn, 'y'); err != nil {
			return nil, err
		}
		conn.Close()
	}
	c.settle(ctx, s.settle)
	after := c.footprint()
	n := float64(s.idle)
	f := figures{"idle_kernel_kib": (seen[2].kernel - seen[0].kernel) / (2 * n)}
	if len(c.processes) > 0 {
		f["idle_descriptors"] = (seen[2].descriptors - seen[0].descriptors) / (2 * n)
		f["idle_descriptors_left"] = after.descriptors - seen[0].descriptors
		if !c.loaded {
			f["rest_mib"] = seen[0].own / 1024
			f["idle_first_pss_kib"] = (seen[1].pss - seen[0].pss) / n
			f["idle_pss_kib"] = (seen[2].pss - seen[1].pss) / n
		}
		c.loaded = true
	}
	return f, nil
}

// hold opens connections, over each of which a byte has gone there and back. The
// caller closes them, after an error too.
func hold(ctx context.Context, c *client, n int) ([]*net.TCPConn, error) {
	var held []*net.TCPConn
	var mu sync.Mutex
	var failure first
	var all sync.WaitGroup
	var begun atomic.Int64
	for range 32 {
		all.Go(func() {
			for begun.Add(1) <= int64(n) && ctx.Err() == nil {
				conn, err := c.open()
				if err == nil {
					mu.Lock()
					held = append(held, conn)
					mu.Unlock()
					err = ping(conn)
				}
				if err != nil {
					failure.is(err)
					return
				}
			}
		})
	}
	all.Wait()
	return held, errors.Join(failure.get(), ctx.Err())
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
