package process

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"sallyport/policy"
)

// pair is the two ends of a connection.
func pair(t testing.TB, network, address string) (accepted, client net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	dialled := make(chan net.Conn, 1)
	go func() {
		c, _ := net.Dial(network, l.Addr().String())
		dialled <- c
	}()
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	client = <-dialled
	t.Cleanup(func() { accepted.Close(); client.Close() })
	return accepted, client
}

// patient finds a process however busy the machine is.
func patient() *Finder {
	f := NewFinder()
	f.patience = time.Hour
	return f
}

func TestOfThisProgram(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want := policy.Process{PID: int64(os.Getpid()), UID: int64(os.Getuid()), Exe: exe}
	f := patient()
	for _, c := range [][2]string{{"tcp", "127.0.0.1:0"}, {"tcp", "[::1]:0"}, {"tcp", "[::ffff:127.0.0.1]:0"}, {"unix", filepath.Join(t.TempDir(), "s")}} {
		accepted, client := pair(t, c[0], c[1])
		for range 2 { // from /proc, then from memory
			if got := f.Of(accepted); got != want {
				t.Errorf("%s: %+v, want %+v", c[1], got, want)
			}
		}
		client.Close()
		if got := f.Of(accepted); c[0] == "tcp" && got != (policy.Process{}) {
			t.Errorf("%s: a socket that is closed is taken for %+v", c[1], got)
		}
	}
}

// A process that has gone is told by its numbers, and not by the file of one that
// may have its number by now.
func TestOfOneThatHasGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command("python3", "-c", "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])", path)
	if err := cmd.Run(); err != nil {
		t.Skip("python3 is not installed")
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if got := NewFinder().Of(accepted); got.Exe != "" || got.PID != int64(cmd.Process.Pid) {
		t.Errorf("%+v", got)
	}
}

// A listener at the client's own port is somebody else.
func TestListenersAreNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, _, err := socketOf(addrPort(l.Addr()), addrPort(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})); err == nil {
		t.Error("a listener is taken for a client")
	}
}

// Where time is up, or another has the turn until then, the user is told and no
// process: nobody is taken for somebody.
func TestWithoutPatience(t *testing.T) {
	accepted, _ := pair(t, "tcp", "127.0.0.1:0")
	want := policy.Process{UID: int64(os.Getuid())}
	f := NewFinder()
	f.patience = 0
	if got := f.Of(accepted); got != want {
		t.Errorf("without time it is %+v, want %+v", got, want)
	}
	f.turn <- struct{}{}
	if got := f.Of(accepted); got != want {
		t.Errorf("without its turn it is %+v, want %+v", got, want)
	}
}

// A program that has many descriptors is found as well, and one is not taken for
// another that has none of them.
func TestAmongMany(t *testing.T) {
	var open []io.Closer
	for range 300 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, f)
	}
	defer func() {
		for _, f := range open {
			f.Close()
		}
	}()
	accepted, _ := pair(t, "tcp", "127.0.0.1:0")
	f := patient()
	f.recent = []int{1, os.Getppid()}
	if got := f.Of(accepted); got.PID != int64(os.Getpid()) {
		t.Errorf("%+v", got)
	}
	if f.recent[len(f.recent)-1] != os.Getpid() || len(f.recent) != 3 {
		t.Error("it is not remembered as " + strconv.Itoa(os.Getpid()))
	}
}

func BenchmarkOf(b *testing.B) {
	accepted, _ := pair(b, "tcp", "127.0.0.1:0")
	for name, forget := range map[string]bool{"first": true, "again": false} {
		b.Run(name, func(b *testing.B) {
			f := NewFinder()
			for b.Loop() {
				if forget {
					f.recent = nil
				}
				f.Of(accepted)
			}
		})
	}
}
