package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// overload_test.go has more clients come than there is room for.

// crowd connects so many clients, each from the address that from names, and has
// each say something. They stay until the test ends, or the server hangs up.
func crowd(t *testing.T, addr string, count int, from func(i int) net.IP, say func(i int) string) []net.Conn {
	t.Helper()
	held := make([]net.Conn, count)
	t.Cleanup(func() { disperse(held) })
	var next atomic.Int64
	var coming sync.WaitGroup
	for range 16 {
		coming.Go(func() {
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from(i)}}).Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				c.SetDeadline(time.Now().Add(time.Minute))
				io.WriteString(c, say(i)) // whom the server refuses may not get it through
				held[i] = c
			}
		})
	}
	coming.Wait()
	return held
}

func disperse(held []net.Conn) {
	for _, c := range held {
		if c != nil {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}
}

func always(ip string) func(int) net.IP { return func(int) net.IP { return net.ParseIP(ip) } }

// 2,000 handshakes that never end, of every protocol and of TLS, keep nobody out: not
// even who comes from the same address.
func TestSlowHandshakesKeepNobodyOut(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	target := serveEcho(t, "127.0.0.1:0")
	s := listening(t, fmt.Sprintf(`[{name: main, address: "127.0.0.1:0"}, {name: tls, address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key),
		"--data", settings(t, loopback, target.port), "--set", "limits.handshake=30s")
	secured := s.wait(t, 1, "listening")["address"].(string)
	_, hello := clientHello(t, "localhost")
	slow := []string{"", "\x05", greeting, greeting + "\x05\x01\x00", "\x05\x01\x02\x01\xff", "CONNECT a:1 HTTP/1.1\r\nA: ", "\x04\x01\x00\x50\x7f\x00\x00\x01a", "GET http://a/ HTTP/1.1\r\n"}
	crowd(t, s.addr, 1400, always("127.0.0.66"), func(i int) string { return slow[i%len(slow)] })
	crowd(t, secured, 600, always("127.0.0.66"), func(i int) string { return hello[:[]int{0, 1, 5, len(hello) / 2, len(hello)}[i%5]] })
	for i := range 20 {
		begun := time.Now()
		c := dialFrom(t, []string{"127.0.0.66", "127.0.0.1"}[i%2], s.addr)
		c.say(greeting + connectTo("127.0.0.1", target.port) + "honest").hear(chosen + "\x05\x00\x00\x01\x7f\x00\x00\x01")
		io.CopyN(io.Discard, c, 2)
		c.hear("honest").Close()
		over := overTLS(t, secured, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost"})
		io.WriteString(over, greeting+connectTo("127.0.0.1", target.port))
		hears(t, over, granted)
		over.Close()
		t.Logf("served after %v", time.Since(begun))
	}
}

// One source may have so many handshakes going on; who has been heard out, and who
// comes from elsewhere, does not count among them.
func TestHandshakesOfOneSource(t *testing.T) {
	target := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, target.port), "--set", "limits.handshakes=50", "--set", "limits.handshake=30s", "--set", "limits.connections=200")
	served := func(from string) {
		t.Helper()
		dialFrom(t, from, s.addr).say(greeting + connectTo("127.0.0.1", target.port)).hear(chosen + "\x05\x00\x00\x01\x7f\x00\x00\x01")
	}
	for range 60 { // all of them stay open, heard out
		served("127.0.0.67")
	}
	slow := crowd(t, s.addr, 2000, always("127.0.0.66"), func(i int) string { return greeting })
	for range 20 {
		served("127.0.0.67")
	}
	held := 0
	for _, c := range slow {
		if n, _ := io.ReadFull(c, make([]byte, 2)); n == 2 {
			held++
		} else {
			c.Close()
		}
	}
	if held != 50 {
		t.Errorf("%d handshakes of one source go on", held)
	}
	if got := exchangeFrom(t, "127.0.0.66", s.addr, greeting); got != "" {
		t.Errorf("one more is told %q", got)
	}
	if page := s.metrics(t); !strings.Contains(page, "sallyport_refusals_total{cause=\"limit\"} 1951\n") {
		t.Error("the refusals are not counted: ", linesWith(page, "refusals"))
	}
	disperse(slow)
	s.wait(t, 49, "session") // ends of handshakes
	served("127.0.0.66")
}

func exchangeFrom(t *testing.T, from, addr, text string) string {
	t.Helper()
	c := dialFrom(t, from, addr)
	defer c.Close()
	io.WriteString(c, text)
	got, _ := c.rest()
	return got
}

// linesWith are those of a text that have a word.
func linesWith(text, word string) string {
	var found strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			found.WriteString(line)
		}
	}
	return found.String()
}

// anonymous is what memory a process has that is not of files, in MiB.
func (s *process) anonymous(t *testing.T) int {
	t.Helper()
	text := readFile(t, fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	kib, err := strconv.Atoi(strings.Fields(linesWith(text, "RssAnon:"))[1])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// built is the program as it is shipped: the detector of races, which this one may
// have, needs memory of its own.
func built(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sallyport")
	if out, err := exec.Command(installed(t, "go"), "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// However many come, and however much they say, the process stays within its
// memory: who comes when it is scarce is refused, what runs goes on, and there is
// room again when they leave.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 48 // MiB
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	target := serveEcho(t, "127.0.0.1:0")
	dir := t.TempDir()
	s := follow(t, exec.Command(built(t), "run", "--management", "127.0.0.1:0", "--set", "state.path="+filepath.Join(dir, "state.db"),
		"--set", fmt.Sprintf("limits.memory=%dMiB", limit), "--set", "limits.handshake=30s", "--data", settings(t, loopback, target.port),
		"--set", fmt.Sprintf(`listeners=[{name: main, address: "127.0.0.1:0"}, {name: tls, address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key)))
	secured := s.wait(t, 1, "listening")["address"].(string)
	old := []*talk{honest(t, s, target.port), honest(t, s, target.port), honest(t, s, target.port)}
	many := func(i int) net.IP { return net.IPv4(127, 0, 1, byte(1+i%200)) }
	most := 0
	check := func(when string) {
		t.Helper()
		most = max(most, s.anonymous(t))
		if most > limit+limit/3 { // of which some is what the system has not taken back yet
			t.Errorf("%s: %d MiB", when, most)
		}
		for _, c := range old {
			c.SetDeadline(time.Now().Add(20 * time.Second))
			c.say("on").hear("on")
		}
	}
	refused := func() int {
		fields := strings.Fields(linesWith(s.metrics(t), `sallyport_refusals_total{cause="limit"}`))
		n, err := strconv.Atoi(fields[len(fields)-1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	// Tunnels, until there is no room for another.
	var tunnels []net.Conn
	ask := greeting + connectTo("127.0.0.1", target.port)
	for refused() == 0 {
		if len(tunnels) > 9000 {
			t.Fatal("there is room for everybody")
		}
		for range 500 {
			c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: many(len(tunnels))}}).Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			tunnels = append(tunnels, c)
			io.WriteString(c, ask)
			c.SetDeadline(time.Now().Add(20 * time.Second))
			io.ReadFull(c, make([]byte, 12)) // or an end
		}
		check("tunnels")
	}
	t.Logf("%d tunnels, %d MiB", len(tunnels), most)
	s.wait(t, 0, "memory is scarce: new connections are refused")
	disperse(tunnels)
	s.wait(t, 0, "memory is enough again")
	honest(t, s, target.port).Close()

	// Handshakes that grow when they have been let in.
	before := refused()
	long := "CONNECT a.test:443 HTTP/1.1\r\n" + strings.Repeat("A: "+strings.Repeat("x", 1000)+"\r\n", 60)
	plain := crowd(t, s.addr, 2500, many, func(int) string { return long })
	check("long headers")
	hellos := crowd(t, secured, 1500, many, func(int) string { return "" })
	_, hello := clientHello(t, "localhost")
	for _, c := range hellos {
		io.WriteString(c, hello)
	}
	check("TLS")
	if n := refused() - before; n < 1000 {
		t.Errorf("%d are refused", n)
	}
	t.Logf("%d MiB", most)
	disperse(plain)
	disperse(hellos)
	for { // soon
		c := dialDoor(t, s.addr)
		io.WriteString(c, ask)
		if n, _ := io.ReadFull(c, make([]byte, 12)); n == 12 {
			break
		}
		c.Close()
	}
	check("the end")
}
