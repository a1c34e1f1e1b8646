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
	processes        // none: its processor time and memory are not known
	chained   string // by what it leads through another one; empty: it does not
	held      bool   // idle connections have grown its memory before
	bans      *bans  // nil: it is not asked to ban anybody
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
	settle   time.Duration // between the end of a load and the reading of what it has cost
	idle     int           // connections
}

func measurements() []measurement {
	list := []measurement{
		{"idle", idle}, // while the proxy has little memory of its own to use again
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
	ctx, cancel := context.WithTimeout(ctx, s.duration)
	defer cancel()
	for range workers {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := once(&c.client); err != nil {
					failures.Add(1)
					failure.is(err)
					pause(ctx, time.Millisecond)
					continue
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	f := figures{"connections_per_second": float64(done.Load()) / time.Since(m.begun).Seconds()}
	time.Sleep(s.settle) // closing costs, too
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
	return f, failure.get()
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

// idle holds connections open over which nothing moves any more, and closes
// them. Memory is told of the first time alone: the next would use it again.
func idle(ctx context.Context, c *contender, s settings) (figures, error) {
	pause(ctx, s.settle) // earlier connections are being closed
	before := c.footprint()
	held := make([]*net.TCPConn, s.idle)
	defer func() {
		for _, conn := range held {
			if conn != nil {
				conn.Close()
			}
		}
	}()
	var next atomic.Int64
	var failure first
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(s.idle) && ctx.Err() == nil; i = next.Add(1) - 1 {
				conn, err := c.open()
				if err == nil {
					held[i] = conn
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
	if err := errors.Join(failure.get(), ctx.Err()); err != nil {
		return nil, err
	}
	pause(ctx, s.settle)
	during := c.footprint()
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
	pause(ctx, s.settle)
	after := c.footprint()
	n := float64(s.idle)
	f := figures{"idle_kernel_kib": (during.kernel - before.kernel) / n}
	if len(c.processes) > 0 {
		f["idle_descriptors"] = (during.descriptors - before.descriptors) / n
		f["idle_descriptors_left"] = after.descriptors - before.descriptors
		if !c.held {
			f["idle_pss_kib"] = (during.pss - before.pss) / n
		}
		c.held = true
	}
	return f, nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
