package proxy

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
	"sallyport/proxy/guard"
	"sallyport/proxy/identity"
	"sallyport/proxy/internal/testnet"
	"sallyport/proxy/listen"
	"sallyport/proxy/loop"
	"sallyport/proxy/session"
)

// door is a proxy with a listener, a target that says back what it hears, and a
// place to stop at each step of a session's life.
type door struct {
	*Proxy
	policies
	observer
	directory
	address, target string
	at              func(step string)         // called at each step
	hosts           map[string][]dial.Address // by name; all others are at 127.0.0.1
	recalls         func() bool               // whether an answer, or a password, is known already; nil: never
	loops           *loop.Group               // nil: goroutines serve its clients
}

// doorway is how a door serves its clients.
type doorway string

const (
	onGoroutines doorway = "goroutines"
	onLoops      doorway = "loops"
	recalling    doorway = "loops, recalling" // all answers, and the password
)

var doorways = []doorway{onGoroutines, onLoops, recalling}

func (d *door) reached(step string) {
	if d.at != nil {
		d.at(step)
	}
}

func (d *door) Decide(ctx context.Context, stage policy.Stage, f *policy.Facts) policy.Decision {
	reached := d.reached
	if f.Session.Again {
		reached = func(string) {}
	}
	reached(string(stage))
	answer := d.policies.Decide(ctx, stage, f)
	if stage == policy.Route && f.Target.Host == "asked.test" {
		answer.Redirect = policy.Redirect{Host: "there.test"}
	}
	reached(string(stage) + " answered")
	return answer
}

func (d *door) Recall(ctx context.Context, stage policy.Stage, f *policy.Facts) (policy.Decision, bool) {
	if d.recalls == nil || !d.recalls() {
		return policy.Decision{}, false
	}
	return d.Decide(ctx, stage, f), true
}

func (d *door) Verify(ctx context.Context, name, password string) (identity.Result, error) {
	d.reached("verify")
	result, err := d.directory.Verify(ctx, name, password)
	d.reached("verified")
	return result, err
}

func (d *door) Remembered(name, password string) (identity.Result, bool) {
	if d.recalls == nil || !d.recalls() {
		return identity.Result{}, false
	}
	result, err := d.Verify(context.Background(), name, password)
	return result, err == nil
}

func (d *door) Lookup(name string) identity.Standing { return d.directory.Lookup(name) }

func (d *door) DialOn(ctx context.Context, t *loop.Task, until time.Time, to []netip.AddrPort, from netip.Addr, begun func(*loop.Conn)) (*loop.Conn, error) {
	t.Aside(func() { d.reached("connect") })
	c, err := (&dial.Dialer{}).DialOn(ctx, t, until, to, from, func(c *loop.Conn) {
		begun(c)
		d.reached("connecting")
	})
	t.Aside(func() { d.reached("connected") })
	return c, err
}

func (d *door) Dial(ctx context.Context, to []netip.AddrPort, from netip.Addr) (*net.TCPConn, error) {
	d.reached("connect")
	c, err := (&dial.Dialer{}).Dial(ctx, to, from)
	d.reached("connected")
	return c, err
}

// resolver looks names up for a door.
type resolver struct{ *door }

func (r resolver) Lookup(_ context.Context, name string) (dial.Found, error) {
	r.reached("resolve")
	found, ok := r.hosts[name]
	if !ok {
		found = []dial.Address{{IP: netip.MustParseAddr("127.0.0.1")}}
	}
	r.reached("resolved")
	return dial.Found{Addresses: found}, nil
}

// openDoor opens one on loops. at is called at each step of each session; it may be nil.
func openDoor(t *testing.T, at func(step string)) *door {
	t.Helper()
	return onLoops.open(t, &door{at: at})
}

// open opens one. Its limits may be set.
func (w doorway) open(t *testing.T, d *door) *door {
	t.Helper()
	d.directory = directory{users: map[string]identity.Standing{"ann": {Groups: []string{"dev"}}}}
	limits := Limits{Handshake: 20 * time.Second, Dial: 20 * time.Second}
	if d.Proxy != nil {
		limits = d.Limits
	}
	d.Proxy = &Proxy{
		Decide: d, Observe: &d.observer, Verify: d, Resolve: resolver{d}, Dial: d,
		Sessions: session.NewTable(10_000), Guard: guard.New(1000), Usage: openLedger(),
		Limits:    limits,
		Protocols: map[string][]string{"main": {"socks5", "http"}},
	}
	if w == recalling && d.recalls == nil {
		d.recalls = func() bool { return true }
	}
	d.activate(d.Proxy, "1", allowAll)
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.target = echo.Addr().String()
	if w != onGoroutines {
		if d.loops, err = loop.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.loops.Close)
	}
	l, err := listen.Open(t.Context(), listen.Config{Name: "main", Address: "127.0.0.1:0", Loops: d.loops})
	if err != nil {
		t.Fatal(err)
	}
	d.address = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	serving.Go(func() { l.Serve(ctx, func(c *listen.Conn) { d.Serve(ctx, c) }) })
	serving.Go(func() { d.Follow(ctx) })
	t.Cleanup(func() {
		stop()
		l.Close()
		echo.Close()
		serving.Wait()
	})
	return d
}

// connect asks for a tunnel to the target's port by CONNECT as ann, and returns what is
// said when it is granted. The error is that of whatever came instead.
func (d *door) connect(host string) (net.Conn, *bufio.Reader, error) {
	_, port, _ := net.SplitHostPort(d.target)
	return d.tunnel(net.JoinHostPort(host, port))
}

// tunnel is connect to any port.
func (d *door) tunnel(to string) (net.Conn, *bufio.Reader, error) {
	c, err := net.Dial("tcp", d.address)
	if err != nil {
		return nil, nil, err
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: x\r\nX-Test: yes\r\nProxy-Authorization: Basic %s\r\n\r\n",
		to, base64.StdEncoding.EncodeToString([]byte("ann:right")))
	r := bufio.NewReader(c)
	answer, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
	if err == nil && answer.StatusCode != 200 {
		err = errors.New(answer.Status)
	}
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, r, nil
}

// A session is asked about with the facts as it was first asked about.
func TestFactsAsFirstGiven(t *testing.T) {
	d := openDoor(t, nil)
	var mu sync.Mutex
	seen := map[string]policy.Facts{}
	remember := func(stage policy.Stage, f *policy.Facts) error {
		mu.Lock()
		defer mu.Unlock()
		seen[fmt.Sprint(stage, " ", f.Session.Again)] = *f
		return nil
	}
	d.activate(d.Proxy, "2", remember)
	for range 3 { // so that there is something to count
		c, _, err := d.connect("other.test")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		d.Guard.Failed(guard.Address(netip.MustParseAddr("127.0.0.1")), "ann")
		d.Guard.Denied(guard.Address(netip.MustParseAddr("127.0.0.1")), "ann")
	}
	c, _, err := d.connect("asked.test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	first := map[string]policy.Facts{}
	mu.Lock()
	for _, stage := range []string{"route", "dial"} {
		first[stage] = seen[stage+" false"]
	}
	mu.Unlock()
	all := make(chan struct{})
	d.activate(d.Proxy, "3", func(stage policy.Stage, f *policy.Facts) error {
		if f.Asked.Host == "asked.test" {
			remember(stage, f)
			if stage == policy.Dial {
				close(all)
			}
		}
		return nil
	})
	select {
	case <-all:
	case <-time.After(20 * time.Second):
		t.Fatal("not all were asked about again")
	}
	mu.Lock()
	defer mu.Unlock()
	for stage, was := range first {
		is := seen[stage+" true"]
		if !is.Session.Again || was.Session.Again {
			t.Errorf("again is %t, and was %t", is.Session.Again, was.Session.Again)
		}
		was.Session.Again, was.Time, is.Time = true, 0, 0
		was.Credentials = policy.Credentials{} // of authenticate only
		if !reflect.DeepEqual(was, is) {
			t.Errorf("%s is asked again with\n%+v\nbut first with\n%+v", stage, is, was)
		}
	}
	is := seen["dial true"]
	for name, empty := range map[string]bool{
		"headers": len(is.Request.Headers) == 0, "open": is.Source.Open == 0, "failures": is.Source.Failures == policy.Window{},
		"identity": is.Identity.Open == 0, "address": !is.Address.IP.IsValid(), "redirect": is.Target.Host == is.Asked.Host, "groups": len(is.Identity.Groups) == 0, "protocol": is.Session.Protocol == "",
	} {
		if empty {
			t.Errorf("the fact %s has shown nothing", name)
		}
	}
}

// steps are where a session may be when a policy comes.
var steps = []string{
	"admit", "admit answered", "verify", "verified", "authenticate", "authenticate answered",
	"route", "route answered", "resolve", "resolved", "dial", "dial answered", "connect", "connected",
}

// TestNobodyIsHeldUp: however long a step takes, and for however many sessions, others
// are served meanwhile, by loops that nobody has had to take from those that wait.
func TestNobodyIsHeldUp(t *testing.T) {
	decisions := []string{"admit", "admit answered", "authenticate", "authenticate answered", "route", "route answered", "dial", "dial answered"}
	for way, steps := range map[doorway][]string{
		onLoops:   append(decisions, "verify", "verified", "resolve", "resolved", "connecting"),
		recalling: {"resolve", "resolved", "connecting"}, // what is recalled takes no time
	} {
		for _, step := range steps {
			t.Run(string(way)+" at "+step, func(t *testing.T) {
				t.Parallel()
				held := int32(8 * runtime.GOMAXPROCS(0)) // many more than there are loops
				var reached atomic.Int32
				all, on := make(chan struct{}), make(chan struct{})
				hole := testnet.BlackHole(t, "127.0.0.9") // where a dial is held by itself
				d := way.open(t, &door{
					at: func(at string) {
						if at != step {
							return
						}
						n := reached.Add(1)
						if n == held {
							close(all)
						}
						if n <= held && step != "connecting" {
							<-on
						}
					},
					hosts: map[string][]dial.Address{"hole.test": {{IP: hole.Addr()}}},
				})
				var sessions sync.WaitGroup
				for range held {
					sessions.Go(func() {
						if step == "connecting" {
							if _, _, err := d.tunnel(fmt.Sprint("hole.test:", hole.Port())); err == nil || !strings.Contains(err.Error(), "503") {
								t.Errorf("one whose dial was called off: %v", err)
							}
							return
						}
						c, _, err := d.connect("held.test")
						if err != nil {
							t.Errorf("one that was held: %v", err)
							return
						}
						c.Close()
					})
				}
				<-all
				c, r, err := d.connect("other.test")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				fmt.Fprintln(c, "hello")
				if line, err := r.ReadString('\n'); line != "hello\n" {
					t.Errorf("the other one is told %q, %v", line, err)
				}
				// Whoever keeps his loop has it taken away, or all could not have come so far. On a
				// busy machine one that is only slow may, too.
				if n := d.loops.Taken(); n >= int64(held)/2 {
					t.Errorf("%d sessions have had their loop taken away %d times", held, n)
				}
				close(on)
				for _, s := range d.Sessions.List() {
					if s.Target.Host == "hole.test" {
						d.Sessions.Cut(s.ID, session.ErrCut{Reason: "enough"})
					}
				}
				sessions.Wait()
			})
		}
	}
}

// TestDialTakesTooLong: a target that does not answer in time is told as such, on
// whichever way it is dialled.
func TestDialTakesTooLong(t *testing.T) {
	for _, way := range doorways {
		t.Run(string(way), func(t *testing.T) {
			t.Parallel()
			hole := testnet.BlackHole(t, "127.0.0.10")
			at := dial.Address{IP: hole.Addr()}
			d := way.open(t, &door{
				Proxy: &Proxy{Limits: Limits{Handshake: 20 * time.Second, Dial: 50 * time.Millisecond}},
				hosts: map[string][]dial.Address{"one.test": {at}, "two.test": {at, at}},
			})
			for _, host := range []string{hole.Addr().String(), "one.test", "two.test"} {
				if _, _, err := d.tunnel(fmt.Sprint(host, ":", hole.Port())); err == nil || !strings.Contains(err.Error(), "504") {
					t.Errorf("%s: %v, want a time-out", host, err)
				}
			}
			testnet.Eventually(t, "all sessions have ended", func() bool {
				d.observer.mu.Lock()
				defer d.observer.mu.Unlock()
				return len(d.records) == 3
			})
			for _, r := range d.records {
				if r.Outcome != "timeout" {
					t.Errorf("the record of %s says %q", r.Target.Host, r.Outcome)
				}
			}
		})
	}
}

// TestNoStepEscapes: a policy that denies everything ends a session wherever it
// was when that came.
func TestNoStepEscapes(t *testing.T) {
	for _, way := range doorways {
		for _, change := range []string{"policy", "user"} {
			for _, step := range steps {
				t.Run(fmt.Sprint(way, ", ", change, " at ", step), func(t *testing.T) {
					t.Parallel()
					way.escapesNot(t, change, step)
				})
			}
		}
	}
}

func (w doorway) escapesNot(t *testing.T, change, step string) {
	here, on := make(chan struct{}), make(chan struct{})
	d := w.open(t, &door{at: func(at string) {
		if at == step {
			close(here)
			<-on
		}
	}})
	d.activate(d.Proxy, "verified", func(stage policy.Stage, f *policy.Facts) error {
		if stage == policy.Authenticate && !f.Credentials.Verified {
			return errors.New("who are you?")
		}
		return nil
	})
	ended := make(chan error, 1)
	go func() {
		c, r, err := d.connect("host.test")
		if err == nil {
			defer c.Close()
			_, err = io.Copy(io.Discard, r) // until it is cut
		}
		ended <- err
	}()
	<-here
	if change == "policy" {
		d.activate(d.Proxy, "2", func(stage policy.Stage, _ *policy.Facts) error {
			if stage == policy.Route {
				return errors.New("no")
			}
			return nil
		})
	} else {
		d.directory.mu.Lock()
		delete(d.users, "ann")
		d.directory.mu.Unlock()
		d.Reask("2")
	}
	close(on)
	if err := <-ended; err != nil && strings.Contains(err.Error(), "timeout") {
		t.Fatal("the session goes on")
	}
}

// TestNobodyEscapes is the same with many sessions, and policies that come at
// any moment.
func TestNobodyEscapes(t *testing.T) {
	for _, way := range []doorway{onGoroutines, onLoops} {
		t.Run(string(way), way.nobodyEscapes)
	}
}

func (w doorway) nobodyEscapes(t *testing.T) {
	var trigger atomic.Pointer[func()]
	var count atomic.Int64 // steps until it is called
	d := w.open(t, &door{
		at: func(string) {
			for range rand.IntN(50) {
				runtime.Gosched()
			}
			if count.Add(-1) == 0 {
				(*trigger.Load())()
			}
		},
		recalls: func() bool { return rand.IntN(2) == 0 },
	})
	for i := range 8 {
		now := make(chan struct{})
		f := func() { close(now) }
		trigger.Store(&f)
		count.Store(1 + rand.Int64N(40*int64(len(steps))))
		var clients sync.WaitGroup
		var failed sync.Map
		for n := range 40 {
			clients.Go(func() {
				for {
					c, r, err := d.connect(fmt.Sprintf("host-%d.test", n))
					if err != nil {
						if !strings.Contains(err.Error(), "403") && !strings.Contains(err.Error(), "EOF") && !strings.Contains(err.Error(), "reset") {
							failed.Store(n, err)
						}
						return
					}
					if _, err := io.Copy(io.Discard, r); err != nil && strings.Contains(err.Error(), "timeout") {
						failed.Store(n, err)
						c.Close()
						return
					}
					c.Close()
				}
			})
		}
		<-now
		d.activate(d.Proxy, fmt.Sprint("deny ", i), denyAll)
		clients.Wait()
		failed.Range(func(n, err any) bool {
			t.Errorf("round %d: client %v: %v", i, n, err)
			return true
		})
		d.activate(d.Proxy, fmt.Sprint("allow ", i), allowAll)
	}
	d.empty(t)
}

// empty checks that what has ended is forgotten.
func (d *door) empty(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	d.Sessions.Drain(ctx)
	d.Proxy.live.mu.Lock()
	defer d.Proxy.live.mu.Unlock()
	if n := len(d.Proxy.live.lives); n != 0 {
		t.Errorf("%d lives are still there", n)
	}
}
