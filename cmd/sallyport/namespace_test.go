package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace_test.go makes networks that nothing else is in, for tests that look at
// every packet, or lose some, or need a port that somebody may have.

// namespace is a network of its own, with its loopback up. It ends with what is in
// it.
type namespace struct {
	t    *testing.T
	file *os.File
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{t: t}
	back, err := isolate()
	if err == nil {
		n.file, err = os.Open(ownNet)
		back()
	}
	if err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("no network namespace can be made: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { n.file.Close() })
	return n
}

// ownNet is the network of the thread that opens it.
const ownNet = "/proc/thread-self/ns/net"

// away takes this goroutine, with a thread that it has to itself, into another
// network, until it calls back. The thread is to return and to stay: where one ends,
// programs that any test has started from it may be killed, since Pdeathsig is about
// the thread and not the process (golang.org/issue/27505).
func away(move func() error) (back func(), err error) {
	runtime.LockOSThread()
	own, err := os.Open(ownNet)
	if err == nil {
		if err = move(); err != nil {
			own.Close()
		}
	}
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	return func() {
		defer own.Close()
		if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err == nil { // or else the thread is of no use to anybody
			runtime.UnlockOSThread()
		}
	}, nil
}

// isolate is away to a network that is new, with its loopback up.
func isolate() (back func(), err error) {
	back, err = away(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	if err != nil {
		return nil, err
	}
	if err := raiseLoopback(); err != nil {
		back()
		return nil, err
	}
	return back, nil
}

func raiseLoopback() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo)
}

// ownNetwork puts the rest of a test, and every program that it starts from its own
// goroutine, into a network of its own: each port of it is free, whoever else listens
// on this machine, and nothing leads out. It tells whether it could; root can. What a
// test cleans up after it is still done there.
func ownNetwork(t *testing.T) bool {
	t.Helper()
	back, err := isolate()
	if errors.Is(err, unix.EPERM) {
		return false
	}
	must(t, err)
	t.Cleanup(back)
	return true
}

// in has f done within: the sockets that its goroutine opens, and the processes
// that it starts, are there and stay there.
func (n *namespace) in(f func()) {
	n.t.Helper()
	back, err := away(func() error { return unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET) })
	must(n.t, err)
	defer back()
	f()
}

// run runs a program within.
func (n *namespace) run(name string, arguments ...string) {
	n.t.Helper()
	path := installed(n.t, name, "/usr/sbin/"+name)
	n.in(func() {
		if out, err := exec.Command(path, arguments...).CombinedOutput(); err != nil {
			n.t.Fatalf("%s %s: %v\n%s", name, strings.Join(arguments, " "), err, out)
		}
	})
}

// join lays a wire to another namespace, and gives both ends an address of one
// network. Whatever has no other way leaves by it.
func (n *namespace) join(other *namespace, here, there string) {
	n.t.Helper()
	n.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), other.file.Fd()))
	for at, address := range map[*namespace]string{n: here, other: there} {
		at.run("ip", "address", "add", address+"/24", "dev", "wire")
		at.run("ip", "link", "set", "wire", "up")
	}
	n.run("ip", "route", "add", "default", "via", there)
}

// lose drops packets that arrive within: those that one of the nft expressions is about,
// such as "udp dport 53 numgen random mod 100 < 30" or "tcp dport 53 numgen inc mod 2 0".
func (n *namespace) lose(which ...string) {
	n.t.Helper()
	rules := "add table inet loss; add chain inet loss in { type filter hook input priority 0; }"
	for _, expression := range which {
		rules += "; add rule inet loss in " + expression + " drop"
	}
	n.run("nft", rules)
}

// loseNothing ends the losses.
func (n *namespace) loseNothing() { n.t.Helper(); n.run("nft", "delete table inet loss") }

// capture is every packet of a namespace since it was begun.
type capture struct {
	t       *testing.T
	of      *namespace
	socket  *os.File
	wire    int // the interface that leads elsewhere
	marker  int
	mu      sync.Mutex
	packets []captured
	more    *sync.Cond
}

type captured struct {
	leaves   bool // it is on the wire, and not within
	from, to netip.Addr
	frame    []byte // in lower case
}

func (n *namespace) capture() *capture {
	n.t.Helper()
	c := &capture{t: n.t, of: n}
	c.more = sync.NewCond(&c.mu)
	n.in(func() {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		if err != nil {
			n.t.Fatal(err)
		}
		c.socket = os.NewFile(uintptr(fd), "capture")
		wire, err := net.InterfaceByName("wire")
		if err != nil {
			n.t.Fatal(err)
		}
		c.wire = wire.Index
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			n.t.Fatal(err)
		}
	})
	ended := make(chan struct{})
	n.t.Cleanup(func() { c.socket.Close(); <-ended })
	raw, err := c.socket.SyscallConn()
	if err != nil {
		n.t.Fatal(err)
	}
	go func() {
		defer close(ended)
		frame := make([]byte, 128<<10)
		for {
			var size int
			var from unix.Sockaddr
			var failed error
			err := raw.Read(func(fd uintptr) bool {
				size, from, failed = unix.Recvfrom(int(fd), frame, 0)
				return failed != unix.EAGAIN
			})
			if err != nil || failed != nil {
				return
			}
			link := from.(*unix.SockaddrLinklayer)
			p := captured{leaves: link.Ifindex == c.wire, frame: bytes.ToLower(frame[:size])}
			if ip := frame[14:size]; len(ip) >= 20 && ip[0]>>4 == 4 {
				p.from, p.to = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
			}
			c.mu.Lock()
			c.packets = append(c.packets, p)
			c.mu.Unlock()
			c.more.Broadcast()
		}
	}()
	return c
}

// all is every packet until now: the last one is this function's own. None was
// missed.
func (c *capture) all(towards string) []captured {
	c.t.Helper()
	c.marker++
	mark := fmt.Sprintf("this is mark %d of the capture", c.marker)
	c.of.in(func() {
		to, err := net.Dial("udp", net.JoinHostPort(towards, "9"))
		if err != nil {
			c.t.Fatal(err)
		}
		defer to.Close()
		fmt.Fprint(to, mark)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for seen := 0; ; c.more.Wait() {
		for ; seen < len(c.packets); seen++ {
			if !bytes.Contains(c.packets[seen].frame, []byte(mark)) {
				continue
			}
			missed, err := unix.GetsockoptTpacketStats(int(c.socket.Fd()), unix.SOL_PACKET, unix.PACKET_STATISTICS)
			if err != nil || missed.Drops > 0 {
				c.t.Fatalf("%v packets were missed: %v", missed, err)
			}
			return c.packets[:seen]
		}
	}
}
