package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/proxy/internal/testnet"
)

// patience bounds what a test waits for; nothing is asserted about time.
const patience = 20 * time.Second

var (
	eventually  = testnet.Eventually
	descriptors = testnet.Descriptors
	noise       = testnet.Noise
	same        = testnet.Same
)

// connect returns the two ends of a TCP connection over loopback.
func connect(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); a.Close() })
	return c.(*net.TCPConn), a.(*net.TCPConn)
}

// end is how a flow ended.
type end struct {
	cause Cause
	err   error
}

// relayed is a flow under test, with what its client and its target hold.
type relayed struct {
	client, target *net.TCPConn
	flow           *Flow
	counters       Counters
	cancel         context.CancelCauseFunc
	ended          chan end
}

// begin runs a flow, and closes both connections after it as its callers do.
func begin(t testing.TB, early []byte, limits Limits) *relayed {
	t.Helper()
	r := &relayed{ended: make(chan end, 1)}
	var inside, outside net.Conn
	r.client, inside, outside, r.target = between(t)
	for _, c := range []net.Conn{r.client, r.target} {
		c.SetDeadline(time.Now().Add(patience))
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancelCause(context.Background())
	t.Cleanup(func() { r.cancel(nil) })
	r.flow = Join(inside, outside, early, limits, &r.counters)
	go func() {
		cause, err := r.flow.Run(ctx)
		inside.Close()
		outside.Close()
		r.ended <- end{cause, err}
	}()
	return r
}

func (r *relayed) wait(t testing.TB, want Cause) error {
	t.Helper()
	select {
	case e := <-r.ended:
		if e.cause != want {
			t.Errorf("ended with %v (%v), want %v", e.cause, e.err, want)
		}
		return e.err
	case <-time.After(patience):
		stacks := make([]byte, 1<<16)
		t.Fatalf("the flow does not end; want %v\n%s", want, stacks[:runtime.Stack(stacks, true)])
		return nil
	}
}

// check sees whether the counters are right once the flow has ended.
func (r *relayed) check(t testing.TB, up, down int) {
	t.Helper()
	if u, d := r.counters.Up.Load(), r.counters.Down.Load(); u != int64(up) || d != int64(down) {
		t.Errorf("counted %d up, %d down; want %d, %d", u, d, up, down)
	}
}

func readAll(t testing.TB, c net.Conn) []byte {
	t.Helper()
	p, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("reading after %d bytes: %v", len(p), err)
	}
	return p
}

func reads(t testing.TB, c net.Conn, want error) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, want) {
		t.Errorf("read gives %v, want %v", err, want)
	}
}

func exchange(t testing.TB, from, to net.Conn, p []byte) {
	t.Helper()
	if _, err := from.Write(p); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(p))
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatal(err)
	}
	same(t, got, p)
}

func abort(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// Whoever half-closes first still gets every byte of the other's answer, which
// only begins once the end has been seen.
func TestHalfClose(t *testing.T) {
	for _, size := range []int{0, 1, 1000, 3 << 20} {
		for _, clientFirst := range []bool{true, false} {
			r := begin(t, nil, Limits{})
			first, second := r.client, r.target
			if !clientFirst {
				first, second = second, first
			}
			sent, answer := noise(size+1), noise(size)
			go func() {
				first.Write(sent)
				first.CloseWrite()
			}()
			same(t, readAll(t, second), sent)
			go func() {
				second.Write(answer)
				second.CloseWrite()
			}()
			same(t, readAll(t, first), answer)
			if err := r.wait(t, Finished); err != nil {
				t.Errorf("finished with %v", err)
			}
			if clientFirst {
				r.check(t, len(sent), len(answer))
			} else {
				r.check(t, len(answer), len(sent))
			}
		}
	}
}

// Both directions at once, each through the pipe, every byte checked.
func TestBulk(t *testing.T) {
	size := 64 << 20
	if testing.Short() {
		size = 8 << 20
	}
	r := begin(t, nil, Limits{})
	hash := func(c net.Conn) []byte {
		h := sha256.New()
		if n, err := io.Copy(h, c); err != nil || n != int64(size) {
			t.Errorf("%d bytes came: %v", n, err)
		}
		return h.Sum(nil)
	}
	sent := noise(size)
	want := sha256.Sum256(sent)
	var sides sync.WaitGroup
	for _, c := range []*net.TCPConn{r.client, r.target} {
		sides.Go(func() {
			if _, err := c.Write(sent); err != nil {
				t.Error(err)
			}
			c.CloseWrite()
		})
		sides.Go(func() {
			if !bytes.Equal(hash(c), want[:]) {
				t.Error("other bytes came than were sent")
			}
		})
	}
	sides.Wait()
	r.wait(t, Finished)
	r.check(t, size, size)
}

func TestEarly(t *testing.T) {
	early := noise(5000)
	for _, limits := range []Limits{{}, {Up: 1 << 20}} {
		r := begin(t, early, limits)
		r.client.Write([]byte("more"))
		r.client.CloseWrite()
		same(t, readAll(t, r.target), append(slices.Clone(early), "more"...))
		r.target.Close()
		r.wait(t, Finished)
		r.check(t, len(early)+4, 0)
	}
}

// A reset is a reset on the other side too, whatever the flow is doing.
func TestReset(t *testing.T) {
	states := map[string]func(r *relayed, from, to *net.TCPConn){
		"fresh": func(*relayed, *net.TCPConn, *net.TCPConn) {},
		"idle": func(r *relayed, from, to *net.TCPConn) {
			exchange(t, from, to, noise(100))
			exchange(t, to, from, noise(100))
		},
		"after bulk": func(r *relayed, from, to *net.TCPConn) {
			go from.Write(noise(4 << 20))
			io.CopyN(io.Discard, to, 4<<20)
		},
		"after its own end": func(r *relayed, from, to *net.TCPConn) {
			from.CloseWrite()
			reads(t, to, io.EOF)
		},
		"after the other's end": func(r *relayed, from, to *net.TCPConn) {
			to.CloseWrite()
			reads(t, from, io.EOF)
		},
	}
	for name, prepare := range states {
		for _, cause := range []Cause{ClientReset, TargetReset} {
			t.Run(name+"/"+cause.String(), func(t *testing.T) {
				r := begin(t, nil, Limits{})
				from, to := r.client, r.target
				if cause == TargetReset {
					from, to = to, from
				}
				prepare(r, from, to)
				abort(from)
				want := error(syscall.ECONNRESET)
				if name == "after its own end" {
					// The read has seen the end; a reset after it shows in a write.
					r.wait(t, cause)
					if _, err := to.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("write gives %v", err)
					}
					return
				}
				reads(t, to, want)
				r.wait(t, cause)
			})
		}
	}
}

// A reset under way, while both sides send: the other side sees a reset, never
// an orderly end, although a write may have taken the error from the reader.
func TestResetWhileSending(t *testing.T) {
	for range 30 {
		r := begin(t, nil, Limits{})
		sending, failed := make(chan struct{}), make(chan error, 1)
		go func() {
			chunk := noise(30000)
			for i := 0; ; i++ {
				if _, err := r.client.Write(chunk); err != nil {
					failed <- err
					return
				}
				if i == 20 {
					close(sending)
				}
			}
		}()
		go io.Copy(io.Discard, r.target)
		<-sending
		abort(r.target)
		// The client's own kernel tells only one of the two, and after an end it would tell EPIPE.
		_, read := io.ReadAll(r.client)
		write := <-failed
		if !errors.Is(read, syscall.ECONNRESET) && !errors.Is(write, syscall.ECONNRESET) {
			t.Errorf("the client reads %v and writes %v, want a reset", read, write)
		}
		r.wait(t, TargetReset)
	}
}

// A target that answers and closes for good, while the client goes on sending:
// the client gets the whole answer, however slowly it reads.
func TestTargetClosesWhileClientSends(t *testing.T) {
	for range 10 {
		r := begin(t, nil, Limits{})
		answer := noise(1 << 20)
		go func() {
			chunk := noise(10000)
			for {
				if _, err := r.client.Write(chunk); err != nil {
					return
				}
			}
		}()
		go func() {
			io.CopyN(io.Discard, r.target, 100000)
			r.target.Write(answer)
			r.target.CloseWrite()
			// Close only when all has left this socket, so that the kernel loses none of it itself.
			for r.counters.Down.Load() < int64(len(answer)) {
				io.CopyN(io.Discard, r.target, 10000)
			}
			r.target.Close()
		}()
		got := make([]byte, len(answer))
		for read := 0; read < len(got); {
			n, err := r.client.Read(got[read:min(read+50000, len(got))])
			if err != nil {
				t.Fatalf("after %d bytes: %v", read, err)
			}
			read += n
			runtime.Gosched()
		}
		same(t, got, answer)
		r.wait(t, TargetReset)
	}
}

// What was received before a reset is delivered before it is passed on.
func TestResetAfterAnswer(t *testing.T) {
	r := begin(t, nil, Limits{})
	answer := noise(512 << 10) // more than the client's kernel takes before it reads
	r.target.Write(answer)
	for r.counters.Down.Load() < int64(len(answer)) {
		runtime.Gosched()
	}
	abort(r.target)
	got, err := io.ReadAll(r.client)
	same(t, got, answer)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("then %v, want a reset", err)
	}
	r.wait(t, TargetReset)
}

func TestCut(t *testing.T) {
	cause := errors.New("policy says so")
	busy := map[string]func(r *relayed){
		"idle": func(r *relayed) { exchange(t, r.client, r.target, []byte("x")) },
		"half-closed": func(r *relayed) {
			r.client.CloseWrite()
			reads(t, r.target, io.EOF)
		},
		"stalled": func(r *relayed) { r.fillUp(t) },
	}
	for name, prepare := range busy {
		t.Run(name, func(t *testing.T) {
			r := begin(t, nil, Limits{Up: 1 << 40})
			prepare(r)
			r.cancel(cause)
			if err := r.wait(t, Cut); err != cause {
				t.Errorf("the error is %v, want the cause", err)
			}
			if name == "half-closed" {
				r.target = nil // has had an end of the client's own
			}
			r.isReset(t)
		})
	}
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		a, b := net.Pipe()
		if got, err := Join(a, b, []byte("x"), Limits{}, new(Counters)).Run(ctx); got != Cut || err != cause {
			t.Errorf("ended with %v, %v", got, err)
		}
	})
	t.Run("waiting for its pace", func(t *testing.T) {
		r := begin(t, nil, Limits{Up: 1})
		go r.client.Write(noise(1000))
		io.ReadFull(r.target, make([]byte, 2))
		r.cancel(cause)
		r.wait(t, Cut)
		r.isReset(t)
	})
}

// isReset wants both sides to learn that something is missing.
func (r *relayed) isReset(t testing.TB) {
	t.Helper()
	for name, side := range map[string]*net.TCPConn{"client": r.client, "target": r.target} {
		if side == nil {
			continue
		}
		if n, err := io.Copy(io.Discard, side); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the %s reads %d bytes and %v, want a reset", name, n, err)
		}
	}
}

// fillUp sends from the client until nothing moves any more, and returns how
// much the relay and the sockets have taken. The target does not read.
func (r *relayed) fillUp(t testing.TB) int {
	t.Helper()
	raw, err := r.client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan int)
	go func() {
		chunk := noise(64 << 10)
		for total := 0; ; {
			n, err := r.client.Write(chunk)
			if total += n; err != nil {
				written <- total
				return
			}
		}
	}()
	var before [2]int64
	for still := 0; still < 5; still++ {
		time.Sleep(20 * time.Millisecond) // a kernel may keep an acknowledgement for twice as long
		queued := 0                       // bytes that the relay's socket has not taken
		if err := raw.Control(func(fd uintptr) { queued, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
			t.Fatal(err)
		}
		if now := [2]int64{int64(queued), r.counters.Up.Load()}; now != before || queued == 0 {
			still, before = 0, now
		}
	}
	defer r.client.SetWriteDeadline(time.Now().Add(patience))
	r.client.SetWriteDeadline(longAgo)
	return <-written
}

// A reader that stalls costs what the sockets and one pipe hold, and gets it
// all when it reads on.
func TestStalledReader(t *testing.T) {
	r := begin(t, nil, Limits{})
	total := r.fillUp(t)
	if total > 24<<20 {
		t.Errorf("a reader that stalls costs %d bytes", total)
	}
	r.client.CloseWrite()
	if n, err := io.Copy(io.Discard, r.target); err != nil || n != int64(total) {
		t.Errorf("%d of %d bytes came: %v", n, total, err)
	}
	r.target.Close()
	r.wait(t, Finished)
}

func TestBytesSpent(t *testing.T) {
	for _, limit := range []int{1, 1000, 5 << 20} {
		r := begin(t, nil, Limits{Bytes: int64(limit)})
		go r.target.Write(noise(limit + 1))
		got, err := io.ReadAll(r.client)
		same(t, got, noise(limit + 1)[:limit])
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after the last byte comes %v, want a reset", err)
		}
		r.wait(t, BytesSpent)
		r.check(t, 0, limit)

		r = begin(t, nil, Limits{Bytes: int64(limit)})
		go func() {
			r.target.Write(noise(limit))
			r.target.CloseWrite()
		}()
		same(t, readAll(t, r.client), noise(limit))
		r.client.Close()
		r.wait(t, Finished)
	}
	r := begin(t, noise(100), Limits{Bytes: 60})
	if got, err := io.ReadAll(r.target); len(got) != 60 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d early bytes came, then %v", len(got), err)
	}
	r.wait(t, BytesSpent)

	// Both directions spend the same bytes.
	r = begin(t, nil, Limits{Bytes: 1 << 20})
	go r.target.Write(noise(1 << 20))
	go r.client.Write(noise(1 << 20))
	var up, down int64
	var sides sync.WaitGroup
	sides.Go(func() { up, _ = io.Copy(io.Discard, r.target) })
	sides.Go(func() { down, _ = io.Copy(io.Discard, r.client) })
	r.wait(t, BytesSpent)
	sides.Wait()
	if up+down > 1<<20 || r.counters.Up.Load()+r.counters.Down.Load() > 1<<20 {
		t.Errorf("%d bytes came", up+down)
	}
}

// streams returns a flow over net.Pipe, which a synctest bubble can hold.
func streams(limits Limits, n *Counters) (client, target net.Conn, ended chan end) {
	client, inside := net.Pipe()
	target, outside := net.Pipe()
	ended = make(chan end, 1)
	go func() {
		cause, err := Join(inside, outside, nil, limits, n).Run(context.Background())
		inside.Close()
		outside.Close()
		ended <- end{cause, err}
	}()
	return client, target, ended
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, target, ended := streams(Limits{Idle: time.Minute}, new(Counters))
		defer client.Close()
		defer target.Close()
		start := time.Now()
		for range 5 {
			time.Sleep(50 * time.Second)
			exchange(t, target, client, []byte("x"))
		}
		e := <-ended
		idle := time.Since(start) - 250*time.Second
		if e.cause != IdleTimeout || idle < time.Minute || idle > time.Minute*9/8 {
			t.Errorf("ended with %v after %v", e, idle)
		}
	})
}

// Between sockets, too, a flow ends when its time is over, and both sides learn that
// something is missing.
func TestTimeIsOver(t *testing.T) {
	for cause, limits := range map[Cause]Limits{
		IdleTimeout: {Idle: time.Millisecond},
		Expired:     {Until: time.Unix(1e9, 0)},
	} {
		t.Run(cause.String(), func(t *testing.T) {
			r := begin(t, nil, Limits{})
			exchange(t, r.client, r.target, noise(100))
			exchange(t, r.target, r.client, noise(100))
			r.flow.Limit(limits)
			r.wait(t, cause)
			r.isReset(t)

			r = begin(t, nil, limits) // from the beginning
			r.wait(t, cause)
			r.isReset(t)
		})
	}
}

func TestUntil(t *testing.T) {
	for _, idle := range []time.Duration{0, time.Hour, 8 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			client, target, ended := streams(Limits{Idle: idle, Until: start.Add(30 * time.Minute)}, new(Counters))
			defer client.Close()
			defer target.Close()
			if e := <-ended; e.cause != Expired || time.Since(start) != 30*time.Minute {
				t.Errorf("ended with %v after %v", e, time.Since(start))
			}
		})
	}
}

// A paced flow takes as long as it should, in steps of a fiftieth of a second,
// and never has more than a tenth of a second's worth ahead.
func TestPace(t *testing.T) {
	for _, rate := range []int64{10, 1000, 1 << 20, 1 << 27} {
		synctest.Test(t, func(t *testing.T) {
			var n Counters
			client, target, ended := streams(Limits{Down: rate}, &n)
			go func() {
				chunk := make([]byte, min(rate, 1<<16))
				for left := 4 * rate; left > 0; {
					w, err := target.Write(chunk[:min(left, int64(len(chunk)))])
					if err != nil {
						t.Error(err)
					}
					left -= int64(w)
				}
				target.Close()
			}()
			start := time.Now()
			most := float64(0)
			var got int64
			p := make([]byte, 1<<16)
			for {
				r, err := client.Read(p)
				got += int64(r)
				most = max(most, float64(got)-float64(rate)*time.Since(start).Seconds())
				if err != nil {
					break
				}
			}
			took := time.Since(start)
			client.Close()
			<-ended
			if got != 4*rate || took < 3800*time.Millisecond || took > 4200*time.Millisecond {
				t.Errorf("at %d a second, %d bytes took %v", rate, got, took)
			}
			if most > max(float64(rate)/10, 1)+1 {
				t.Errorf("at %d a second, it was %v bytes ahead", rate, most)
			}
		})
	}
}

// The same through sockets, buffer and pipe; only the bytes are checked.
func TestPaceTCP(t *testing.T) {
	r := begin(t, nil, Limits{Up: 8 << 20, Down: 512 << 20})
	var sides sync.WaitGroup
	sides.Go(func() {
		go func() { r.client.Write(noise(2 << 20)); r.client.CloseWrite() }()
		same(t, readAll(t, r.target), noise(2<<20))
	})
	sides.Go(func() {
		go func() { r.target.Write(noise(9 << 20)); r.target.CloseWrite() }()
		same(t, readAll(t, r.client), noise(9<<20))
	})
	sides.Wait()
	r.wait(t, Finished)
}

// A stream that is not TCP and knows no half-close: its end ends the flow.
func TestPlainStream(t *testing.T) {
	var n Counters
	client, target, ended := streams(Limits{}, &n)
	exchange(t, client, target, noise(100000)[:0])
	go client.Write(noise(100000))
	got := make([]byte, 100000)
	if _, err := io.ReadFull(target, got); err != nil {
		t.Fatal(err)
	}
	same(t, got, noise(100000))
	exchange(t, target, client, []byte("x"))
	client.Close()
	reads(t, target, io.EOF)
	if e := <-ended; e.cause != Finished || n.Up.Load() != 100000 || n.Down.Load() != 1 {
		t.Errorf("ended with %v", e)
	}
}

// hidden is a TCP connection that a flow does not know for one, as TLS would be.
type hidden struct{ *net.TCPConn }

func TestMixedStreams(t *testing.T) {
	for _, wrap := range [][2]bool{{true, false}, {false, true}, {true, true}} {
		client, inside := connect(t)
		outside, target := connect(t)
		var in, out net.Conn = inside, outside
		if wrap[0] {
			in = hidden{inside}
		}
		if wrap[1] {
			out = hidden{outside}
		}
		ended := make(chan Cause, 1)
		var n Counters
		go func() {
			cause, _ := Join(in, out, []byte("early"), Limits{}, &n).Run(context.Background())
			in.Close()
			out.Close()
			ended <- cause
		}()
		go func() { client.Write(noise(2 << 20)); client.CloseWrite() }()
		same(t, readAll(t, target), append([]byte("early"), noise(2<<20)...))
		go func() { target.Write(noise(3 << 20)); target.CloseWrite() }()
		same(t, readAll(t, client), noise(3<<20))
		if cause := <-ended; cause != Finished || n.Up.Load() != 2<<20+5 || n.Down.Load() != 3<<20 {
			t.Errorf("ended with %v, %d up, %d down", cause, n.Up.Load(), n.Down.Load())
		}
	}
}

func TestCauseString(t *testing.T) {
	seen := map[string]bool{}
	for c := Failed; c <= Cut; c++ {
		if s := c.String(); seen[s] || s != strings.ToLower(s) {
			t.Errorf("%d is %q", c, s)
		} else {
			seen[s] = true
		}
	}
}
