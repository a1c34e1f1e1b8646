package relay

import (
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// noPipes reports whether not even a free pipe is left.
func noPipes() bool {
	pipes.mu.Lock()
	defer pipes.mu.Unlock()
	return pipes.open == 0
}

// inUse is the heap's memory without what pools keep.
func inUse() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// lent is how many pipes flows hold at this moment.
func lent() int {
	pipes.mu.Lock()
	defer pipes.mu.Unlock()
	return pipes.open - len(pipes.free)
}

// An idle flow holds two descriptors and neither buffer nor pipe, also when it
// has moved a lot.
func TestIdleFlowHoldsNothing(t *testing.T) {
	flows := 500
	if testing.Short() {
		flows = 50
	}
	eventually(t, "the pipes of other tests are closed", noPipes)
	before, heap := descriptors(t), inUse()
	var all []*relayed
	for i := range flows {
		r := begin(t, nil, Limits{Idle: time.Hour})
		all = append(all, r)
		exchange(t, r.client, r.target, []byte("question"))
		exchange(t, r.target, r.client, []byte("answer"))
		if i%(flows/5) == 0 {
			go r.target.Write(noise(8 << 20))
			io.CopyN(io.Discard, r.client, 8<<20)
		}
	}
	eventually(t, "no pipe is lent", func() bool { return lent() == 0 })
	eventually(t, "free pipes are closed", noPipes)
	now := descriptors(t)
	if each := (now - before) / flows; each != 4 { // two of the relay, two of the peers
		t.Errorf("an idle flow has %d descriptors with its peers'", each)
	}
	if each := (inUse() - heap) / flows; each > bufferSize/2 {
		t.Errorf("an idle flow has %d bytes of memory", each)
	}
	for _, r := range all {
		r.client.Close()
		r.target.Close()
		r.wait(t, Finished)
	}
	eventually(t, "all descriptors are given back", func() bool { return descriptors(t) <= before })
}

// Bulk goes through a pipe, and the pipe goes back.
func TestBulkSplices(t *testing.T) {
	r := begin(t, nil, Limits{})
	var sides sync.WaitGroup
	sides.Go(func() {
		for chunk, err := noise(64<<10), error(nil); err == nil; {
			_, err = r.client.Write(chunk)
		}
	})
	sides.Go(func() { io.Copy(io.Discard, r.target) })
	eventually(t, "a pipe is lent", func() bool { return lent() == 1 })
	r.client.SetWriteDeadline(longAgo)
	eventually(t, "the pipe is given back when the flow pauses", func() bool { return lent() == 0 })
	r.client.Close()
	sides.Wait()
	r.target.Close()
	r.wait(t, Finished)
}

// A flow that dies with bytes in its pipe does not leave them to the next.
func TestPipesAreClean(t *testing.T) {
	for range 20 {
		r := begin(t, nil, Limits{})
		r.fillUp(t)
		abort(r.target)
		r.client.Close()
		<-r.ended
		r = begin(t, nil, Limits{})
		go func() { r.client.Write(noise(1 << 20)); r.client.CloseWrite() }()
		same(t, readAll(t, r.target), noise(1<<20))
		r.target.Close()
		r.wait(t, Finished)
		if testing.Short() {
			break
		}
	}
}

func TestPipePool(t *testing.T) {
	p := new(pipePool)
	var got []*pipe
	for range maxPipes {
		one := p.get()
		if one == nil {
			t.Skip("the system has too few pipes for this test")
		}
		got = append(got, one)
	}
	if p.get() != nil {
		t.Errorf("there are more than %d pipes", maxPipes)
	}
	for i, one := range got {
		p.put(one, i%2 == 0)
	}
	if p.open != maxPipes/2 || len(p.free) != maxPipes/2 {
		t.Errorf("%d are open and %d free; those that held bytes should be gone", p.open, len(p.free))
	}
	eventually(t, "unwanted pipes are closed", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.open == 0 && !p.sweeping
	})
}

// Without pipes, because there are no descriptors or because the kernel gives
// only small ones, bulk is copied.
func TestNoPipes(t *testing.T) {
	eventually(t, "free pipes are closed", noPipes)
	pipes.mu.Lock()
	pipes.open += maxPipes
	pipes.mu.Unlock()
	defer func() {
		pipes.mu.Lock()
		pipes.open -= maxPipes
		pipes.mu.Unlock()
	}()
	r := begin(t, nil, Limits{})
	go func() { r.client.Write(noise(20 << 20)); r.client.CloseWrite() }()
	same(t, readAll(t, r.target), noise(20<<20))
	r.target.Close()
	r.wait(t, Finished)
}

// Nothing is allocated per chunk, neither read nor spliced.
func TestNoAllocationPerChunk(t *testing.T) {
	r := begin(t, nil, Limits{})
	small, large := noise(512), noise(4<<20)
	got := make([]byte, len(large))
	round := func(p []byte) func() {
		return func() {
			r.client.Write(p)
			io.ReadFull(r.target, got[:len(p)])
		}
	}
	big := func() {
		var sent sync.WaitGroup
		sent.Go(func() { r.client.Write(large) })
		io.ReadFull(r.target, got)
		sent.Wait()
	}
	round(small)()
	if n := testing.AllocsPerRun(200, round(small)); n >= 1 {
		t.Errorf("%v allocations per small chunk", n)
	}
	big()
	if n := testing.AllocsPerRun(20, big); n > 6 { // the test's own goroutine, and a buffer after a collection
		t.Errorf("%v allocations per 4 MiB", n)
	}
}

// benchmark relays with a flow, or with io.Copy both ways as a plain Go proxy does.
func benchmark(b *testing.B, plain bool) (client, target *net.TCPConn) {
	if !plain {
		r := begin(b, nil, Limits{Idle: time.Hour})
		r.client.SetDeadline(time.Time{})
		r.target.SetDeadline(time.Time{})
		return r.client, r.target
	}
	client, inside := connect(b)
	outside, target := connect(b)
	go func() { io.Copy(outside, inside); outside.CloseWrite() }()
	go func() { io.Copy(inside, outside); inside.CloseWrite() }()
	return client, target
}

func forBoth(b *testing.B, f func(b *testing.B, plain bool)) {
	b.Run("relay", func(b *testing.B) { f(b, false) })
	b.Run("io.Copy", func(b *testing.B) { f(b, true) })
}

// processor reports the processor time of the process per operation. The two
// ends of the test are in it, the same in either case.
func processor(b *testing.B) func(operations float64, unit string) {
	used := func() float64 {
		var u unix.Rusage
		unix.Getrusage(unix.RUSAGE_SELF, &u)
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e3
	}
	before := used()
	return func(operations float64, unit string) { b.ReportMetric((used()-before)/operations, unit) }
}

func benchmarkBulk(b *testing.B, streams int) {
	forBoth(b, func(b *testing.B, plain bool) {
		const chunk = 1 << 20
		b.SetBytes(chunk)
		report := processor(b)
		var all sync.WaitGroup
		for range streams {
			client, target := benchmark(b, plain)
			share := b.N/streams + 1
			all.Go(func() {
				p := make([]byte, 128<<10)
				for range share * (chunk / len(p)) {
					target.Write(p)
				}
				target.CloseWrite()
			})
			all.Go(func() {
				p := make([]byte, 128<<10)
				raw, _ := client.SyscallConn()
				for n := 0; n < share*chunk; {
					raw.Read(func(fd uintptr) bool {
						r, _, err := syscall.Recvfrom(int(fd), p, unix.MSG_TRUNC) // nothing is copied
						n += max(r, 0)
						return err != syscall.EAGAIN
					})
				}
			})
		}
		all.Wait()
		report(float64(b.N), "µs-cpu/MiB")
	})
}

func BenchmarkBulk1(b *testing.B) { benchmarkBulk(b, 1) }
func BenchmarkBulk8(b *testing.B) { benchmarkBulk(b, 8) }

func benchmarkPingPong(b *testing.B, size int) {
	forBoth(b, func(b *testing.B, plain bool) {
		client, target := benchmark(b, plain)
		go func() {
			p := make([]byte, size)
			for {
				if _, err := io.ReadFull(target, p); err != nil {
					return
				}
				target.Write(p)
			}
		}()
		p := make([]byte, size)
		b.ReportAllocs()
		report := processor(b)
		for range b.N {
			client.Write(p)
			io.ReadFull(client, p)
		}
		report(float64(b.N), "µs-cpu/op")
	})
}

func BenchmarkPingPong512(b *testing.B) { benchmarkPingPong(b, 512) }
func BenchmarkPingPong16K(b *testing.B) { benchmarkPingPong(b, 16<<10) }

// BenchmarkFlow is what a flow costs that moves one small request and answer,
// with its four sockets.
func BenchmarkFlow(b *testing.B) {
	b.ReportAllocs()
	for range b.N {
		r := begin(b, nil, Limits{Idle: time.Hour})
		exchange(b, r.client, r.target, []byte("question"))
		exchange(b, r.target, r.client, []byte("answer"))
		r.client.CloseWrite()
		io.Copy(io.Discard, r.target)
		r.target.CloseWrite()
		io.Copy(io.Discard, r.client)
		<-r.ended
		r.client.Close()
		r.target.Close()
	}
}
