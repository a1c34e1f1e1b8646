package upstream

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
)

// server is a SOCKS5 proxy of a kind: it takes each connection as its script says.
type server struct {
	at    dial.Endpoint
	came  atomic.Int64
	open  sync.WaitGroup
	ended chan struct{} // something is sent for each connection that has ended
}

func serve(t testing.TB, script func(n int64, c *net.TCPConn)) *server {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	s := &server{at: dial.Endpoint{IP: netip.MustParseAddr("127.0.0.1"), Port: port}, ended: make(chan struct{}, 1000)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := s.came.Add(1)
			s.open.Go(func() {
				defer c.Close()
				script(n, c.(*net.TCPConn))
				s.ended <- struct{}{}
			})
		}
	}()
	return s
}

// obliging grants whatever is asked for.
func obliging(_ int64, c *net.TCPConn) {
	if greets(c) {
		grants(c)
	}
}

func greets(c *net.TCPConn) bool {
	if _, err := io.ReadFull(c, make([]byte, 3)); err != nil {
		return false
	}
	io.WriteString(c, "\x05\x00")
	return true
}

func grants(c *net.TCPConn) {
	if _, err := io.ReadFull(c, make([]byte, 10)); err == nil {
		io.WriteString(c, "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
		io.Copy(io.Discard, c)
	}
}

func pooled(at dial.Endpoint, pool Pool) *Set {
	return New(Options{
		Upstreams: []Upstream{{Hop: &dial.Hop{Name: "a", Protocol: dial.SOCKS5, At: at}, Pool: pool}},
		Dialer:    &dial.Dialer{}, Open: func(string) int64 { return 0 }, Log: slog.New(slog.DiscardHandler),
	})
}

// run looks after the upstreams until the test ends, or the function is called.
func run(t testing.TB, s *Set) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	end = func() { cancel(); <-ended }
	t.Cleanup(end)
	return end
}

// until waits for a state that will come.
func until(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come to it that %s", what)
		}
	}
}

var throughA = policy.Via{{Any: []string{"a"}}}

func reach(t testing.TB, s *Set, from string) (dial.Way, error) {
	trip := dial.Trip{To: []dial.Endpoint{{IP: netip.MustParseAddr("127.0.0.1"), Port: 80}}, Watch: nobody{}}
	if from != "" {
		trip.From = netip.MustParseAddr(from)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.Reach(ctx, throughA, trip)
}

func TestPoolIsUsedAndFilled(t *testing.T) {
	up := serve(t, obliging)
	s := pooled(up.at, Pool{Idle: 2, MaxAge: time.Minute})
	end := run(t, s)
	until(t, "the pool is full", func() bool { return s.known["a"].pool.len() == 2 })
	before := s.Upstreams()["a"].LatencyMS
	way, err := reach(t, s, "")
	if err != nil {
		t.Fatal(err)
	}
	defer way.Conn.Close()
	if before == 0 {
		t.Error("what was opened ahead was not measured")
	}
	until(t, "the pool is full again", func() bool { return s.known["a"].pool.len() == 2 && up.came.Load() == 3 })

	// From another local address a connection of its own is needed.
	other, err := reach(t, s, "127.0.0.77")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Conn.Close()
	if got := other.Conn.LocalAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.77" || s.known["a"].pool.len() != 2 {
		t.Errorf("it leaves from %s, and %d are left", got, s.known["a"].pool.len())
	}
	end()
	if n := s.known["a"].pool.len(); n != 0 {
		t.Errorf("%d are left in the end", n)
	}
	way.Conn.Close()
	other.Conn.Close()
	up.open.Wait() // every connection has ended, those that were idle too
}

// A connection that the upstream has closed, or that it has said something on, is
// thrown away, and a session gets another one.
func TestPoolThrowsAway(t *testing.T) {
	for name, spoil := range map[string]func(c *net.TCPConn){
		"closed":  func(c *net.TCPConn) {},
		"reset":   func(c *net.TCPConn) { c.SetLinger(0) },
		"written": func(c *net.TCPConn) { io.WriteString(c, "x"); io.Copy(io.Discard, c) },
	} {
		t.Run(name, func(t *testing.T) {
			spoilt := make(chan struct{})
			up := serve(t, func(n int64, c *net.TCPConn) {
				if !greets(c) {
					return
				}
				if n <= 2 {
					<-spoilt
					spoil(c)
					return
				}
				grants(c)
			})
			s := pooled(up.at, Pool{Idle: 2, MaxAge: time.Minute})
			run(t, s)
			until(t, "the pool is full", func() bool { return s.known["a"].pool.len() == 2 })
			close(spoilt)
			until(t, "they are gone, and others there", func() bool { return s.known["a"].pool.len() == 2 && up.came.Load() == 4 })
			way, err := reach(t, s, "")
			if err != nil {
				t.Fatal(err)
			}
			way.Conn.Close()
		})
	}
}

// What goes wrong on a connection that was opened ahead, once it is used, is tried
// on a new one, but only once; and it is no mark against the upstream.
func TestPoolFallsBack(t *testing.T) {
	for name, c := range map[string]struct {
		bad   int64 // connections
		spoil func(c *net.TCPConn)
		want  string
	}{
		"once":     {1, func(c *net.TCPConn) { c.Read(make([]byte, 10)) }, ""},
		"nonsense": {1, func(c *net.TCPConn) { c.Read(make([]byte, 10)); io.WriteString(c, "HTTP/1.1 408 No\r\n\r\n") }, ""},
		"always":   {1000, func(c *net.TCPConn) { c.Read(make([]byte, 10)) }, "upstream a: closed: it hangs up before its answer"},
		"an answer about the target is believed": {1, func(c *net.TCPConn) {
			c.Read(make([]byte, 10))
			io.WriteString(c, "\x05\x05\x00\x01\x7f\x00\x00\x01\x00\x50")
		}, "upstream a does not reach the target: refused: connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			up := serve(t, func(n int64, conn *net.TCPConn) {
				if !greets(conn) {
					return
				}
				if n <= c.bad {
					c.spoil(conn)
					return
				}
				grants(conn)
			})
			s := pooled(up.at, Pool{Idle: 1, MaxAge: time.Minute})
			run(t, s)
			until(t, "the pool is full", func() bool { return s.known["a"].pool.len() == 1 })
			way, err := reach(t, s, "")
			if err == nil {
				way.Conn.Close()
			}
			if got := fmt.Sprint(err); err == nil && c.want != "" || err != nil && got != c.want {
				t.Errorf("%v, want %q", err, c.want)
			}
			if !s.Upstreams()["a"].Healthy {
				t.Error("it is not healthy any more")
			}
		})
	}
}

func TestPoolAges(t *testing.T) {
	up := serve(t, obliging)
	s := pooled(up.at, Pool{Idle: 1, MaxAge: 20 * time.Millisecond})
	run(t, s)
	for range 3 {
		<-up.ended // by us, though nobody has used it
	}
}

// While an upstream is not healthy nothing is opened ahead.
func TestPoolHeedsHealth(t *testing.T) {
	up := serve(t, obliging)
	s := pooled(up.at, Pool{Idle: 1, MaxAge: time.Minute})
	for range fall {
		s.note(s.known["a"], "refused")
	}
	end := run(t, s)
	s.note(s.known["a"], "")
	until(t, "the pool is full", func() bool { return s.known["a"].pool.len() == 1 })
	for range fall {
		s.note(s.known["a"], "refused")
	}
	ahead := s.known["a"].pool.take(netip.Addr{})
	if ahead == nil {
		t.Fatal("there is none")
	}
	ahead.Close()
	<-up.ended
	end()
	if up.came.Load() != 1 {
		t.Errorf("%d were opened", up.came.Load())
	}
}

// Sessions that come all at once each get one, from the pool or not.
func TestPoolInABurst(t *testing.T) {
	up := serve(t, obliging)
	s := pooled(up.at, Pool{Idle: 4, MaxAge: 5 * time.Millisecond}) // they age while they are taken
	end := run(t, s)
	var sessions sync.WaitGroup
	for range 200 {
		sessions.Go(func() {
			way, err := reach(t, s, "")
			if err != nil {
				t.Error(err)
				return
			}
			way.Conn.Close()
		})
	}
	sessions.Wait()
	end()
	up.open.Wait()
}

// BenchmarkSetUp measures how long a session takes to be led through an upstream
// that is far away.
func BenchmarkSetUp(b *testing.B) {
	const oneWay = 10 * time.Millisecond
	up := serve(b, obliging)
	far := distant(b, up, oneWay)
	for _, idle := range []int{0, 4} {
		b.Run(fmt.Sprintf("idle=%d", idle), func(b *testing.B) {
			s := pooled(far.at, Pool{Idle: idle, MaxAge: time.Minute})
			end := run(b, s)
			defer end()
			for b.Loop() {
				b.StopTimer()
				until(b, "the pool is full", func() bool { return s.known["a"].pool.len() == idle })
				b.StartTimer()
				way, err := reach(b, s, "")
				if err != nil {
					b.Fatal(err)
				}
				way.Conn.Close()
			}
		})
	}
}

// distant is another way to a server, with a delay in each direction; the TCP
// handshake is the kernel's and has none, so that each connection waits for one
// round trip before its first byte.
func distant(t testing.TB, to *server, oneWay time.Duration) *server {
	return serve(t, func(_ int64, c *net.TCPConn) {
		time.Sleep(2 * oneWay) // the handshake's
		up, err := net.Dial("tcp", netip.AddrPortFrom(to.at.IP, to.at.Port).String())
		if err != nil {
			return
		}
		defer up.Close()
		go func() {
			delayed(up, c, oneWay)
			up.(*net.TCPConn).CloseWrite()
		}()
		delayed(c, up, oneWay)
	})
}

// delayed copies, each piece some time after it has come.
func delayed(to io.Writer, from io.Reader, by time.Duration) {
	type piece struct {
		due   time.Time
		bytes []byte
	}
	pieces := make(chan piece, 100)
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
		to.Write(p.bytes)
	}
}

// An upstream that closes what is idle is not connected to again at once.
func TestPoolPauses(t *testing.T) {
	up := serve(t, func(_ int64, c *net.TCPConn) { greets(c) })
	s := pooled(up.at, Pool{Idle: 1, MaxAge: time.Minute})
	if s.openOne(t.Context(), s.known["a"]) {
		t.Error("it goes on without a pause")
	}
	if n := s.known["a"].pool.len(); n != 0 {
		t.Errorf("%d are left", n)
	}
}
