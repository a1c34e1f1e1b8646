package main

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/net/dns/dnsmessage"
)

// prober_test.go asks the running program what the protocols' documents say,
// as a stranger would who believes none of it: RFC 1928, RFC 1929, CONNECT,
// the spellings of addresses, and names. hostile_test.go means harm.

// talk is a client that sends what it is told to, byte for byte.
type talk struct {
	*net.TCPConn
	t *testing.T
}

func dialDoor(t *testing.T, addr string) *talk {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &talk{c.(*net.TCPConn), t}
}

func (c *talk) say(text string) *talk {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
	return c
}

func (c *talk) hear(want string) *talk {
	c.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if string(got[:n]) != want {
		c.t.Fatalf("heard %q (%v), want %q", got[:n], err, want)
	}
	return c
}

// rest is all that comes until the other side closes, and how it does.
func (c *talk) rest() (string, error) {
	got, err := io.ReadAll(c)
	return string(got), err
}

// Messages of RFC 1928.
const (
	greeting = "\x05\x01\x00"
	chosen   = "\x05\x00"
)

// connectTo is a request for an address in binary form, or else for a name.
func connectTo(host string, port uint16) string {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return connectToName(host, port)
	}
	kind := "\x01"
	if ip.Is6() {
		kind = "\x04"
	}
	return "\x05\x01\x00" + kind + string(ip.AsSlice()) + string(binary.BigEndian.AppendUint16(nil, port))
}

// connectToName is a request for a name, whatever that is.
func connectToName(host string, port uint16) string {
	return "\x05\x01\x00\x03" + string([]byte{byte(len(host))}) + host + string(binary.BigEndian.AppendUint16(nil, port))
}

// replied is a reply without an address.
func replied(code byte) string {
	return "\x05" + string([]byte{code}) + "\x00\x01\x00\x00\x00\x00\x00\x00"
}

func login(name, password string) string {
	return "\x01" + string([]byte{byte(len(name))}) + name + string([]byte{byte(len(password))}) + password
}

// echo is a server that sends back what it gets, and counts who comes.
type echo struct {
	port  uint16
	came  atomic.Int64
	peers chan net.Addr // of those who come, while there is room
}

func serveEcho(t *testing.T, address string) *echo {
	t.Helper()
	e := &echo{peers: make(chan net.Addr, 64)}
	e.port = serve(t, address, func(c *net.TCPConn) {
		e.came.Add(1)
		select {
		case e.peers <- c.RemoteAddr():
		default:
		}
		io.Copy(c, c)
	})
	return e
}

// serve has each connection to an address handled on its own, and closed after that
// or with the test, and returns the port.
func serve(t *testing.T, address string, handle func(c *net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				defer context.AfterFunc(t.Context(), func() { c.Close() })()
				handle(c.(*net.TCPConn))
			})
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// settings let the default policy reach loopback at these ports.
func settings(t *testing.T, private []string, ports ...uint16) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"settings": map[string]any{"allow_ports": ports, "allow_private": private}})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(t.TempDir(), "settings.json"), string(text))
}

// usersFile is data.users with hashes that cost little.
func usersFile(t *testing.T, passwords map[string]string) string {
	t.Helper()
	users := map[string]any{}
	for name, password := range passwords {
		salt := []byte("salted")
		salt = append(salt, salt...)
		key := argon2.IDKey([]byte(password), salt, 1, 8, 1, 32)
		raw := base64.RawStdEncoding
		users[name] = map[string]any{"password": "$argon2id$v=19$m=8,t=1,p=1$" + raw.EncodeToString(salt) + "$" + raw.EncodeToString(key)}
	}
	text, err := json.Marshal(map[string]any{"users": users})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(t.TempDir(), "users.json"), string(text))
}

var loopback = []string{"127.0.0.0/8", "::1/128"}

// RFC 1928 section 3: the server chooses one of the offered methods, or FF and
// then the connection is over.
func TestMethodNegotiation(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, target.port))
	all := make([]byte, 0, 255)
	for m := range 255 {
		all = append(all, byte(m))
	}
	request := connectTo("127.0.0.1", target.port) + "early"
	for _, c := range []struct {
		methods string
		want    string
	}{
		{"", "\xff"},
		{"\x01", "\xff"},
		{"\x80", "\xff"},
		{"\xff", "\xff"},
		{strings.Repeat("\x01", 255), "\xff"},
		{"\x00", "\x00"},
		{"\x00\x00\x00", "\x00"},
		{"\x01\x00", "\x00"},
		{"\x02", "\x02"},
		{"\x00\x02", "\x02"},
		{"\x02\x00", "\x02"},
		{"\x00\x01\x02\x80", "\x02"},
		{string(all), "\x02"},
		{strings.Repeat("\x03", 254) + "\x00", "\x00"},
	} {
		d := dialDoor(t, s.addr).say("\x05" + string([]byte{byte(len(c.methods))}) + c.methods)
		d.hear("\x05" + c.want)
		if c.want == "\xff" {
			// The client goes on all the same. It may even have been served before.
			io.WriteString(d, request)
			if got, err := d.rest(); got != "" || errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("after FF for % x came %q, %v", c.methods, got, err)
			}
		}
		d.Close()
	}
	if got := exchange(t, s.addr, "\x05\x01\x01"+request); got != "\x05\xff" {
		t.Errorf("a request behind FF is answered by % x", got)
	}
	if n := target.came.Load(); n != 0 {
		t.Errorf("%d came to the target without a method", n)
	}
	for _, version := range "\x00\x01\x02\x03\x06\x7f" {
		if got := exchange(t, s.addr, string(version)+"\x01\x00"); got != "" {
			t.Errorf("version %d is answered by % x", version, got)
		}
	}
	// Version 4 there is, and this is no request of it.
	d := dialDoor(t, s.addr).say("\x04\x01\x00")
	d.CloseWrite()
	if got, err := d.rest(); got != "" || err != nil {
		t.Errorf("a part of a request of version 4 is answered by % x, %v", got, err)
	}
	// A version that is wrong later can be answered, and ends the talk.
	for send, want := range map[string]string{
		"\x05\x01\x02" + "\x05\x01a\x01b" + request:              "\x05\x02\x01\x01",
		"\x05\x01\x02" + "\x02\x01a\x01b" + request:              "\x05\x02\x01\x01",
		greeting + "\x04" + request[1:]:                          chosen + replied(1),
		greeting + "\x01" + request[1:]:                          chosen + replied(1),
		greeting + "\x05\x01\x00\x03\x00" + "\x00\x50" + request: chosen + replied(1), // no name
	} {
		if got := exchange(t, s.addr, send); got != want {
			t.Errorf("% x is answered by % x, want % x", send, got, want)
		}
	}
	// Commands and address types that there are not.
	for _, command := range "\x02\x03" { // which the default policy does not allow
		if got := exchange(t, s.addr, greeting+"\x05"+string(command)+request[2:]); got != chosen+replied(2) {
			t.Errorf("command %d is answered by % x", command, got)
		}
	}
	for _, command := range "\x00\x04\x7f" {
		if got := exchange(t, s.addr, greeting+"\x05"+string(command)+request[2:]); got != chosen+replied(7) {
			t.Errorf("command %d is answered by % x", command, got)
		}
	}
	for _, kind := range "\x00\x02\x05\x7f" {
		if got := exchange(t, s.addr, greeting+"\x05\x01\x00"+string(kind)+request[4:]); got != chosen+replied(8) {
			t.Errorf("address type %d is answered by % x", kind, got)
		}
	}
	if n := target.came.Load(); n != 0 {
		t.Errorf("%d came to the target by what is no request", n)
	}
}

// RFC 1929: names and passwords are compared whole.
func TestCredentialsWhole(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	longName, longPassword := strings.Repeat("n", 255), strings.Repeat("p", 254)+"!"
	right := map[string]string{
		"alice": "right horse", longName: longPassword, "\u00fcn\u00ef": "p\u00e4ss", "nul\x00name": "nul\x00word",
	}
	s := start(t, "--data", settings(t, loopback, target.port), "--data", usersFile(t, right))
	request := connectTo("127.0.0.1", target.port) + "early"
	for name, password := range right {
		d := dialDoor(t, s.addr).say("\x05\x01\x02" + login(name, password) + request)
		d.hear("\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01")
		d.hear(string(binary.BigEndian.AppendUint16(nil, (<-target.peers).(*net.TCPAddr).AddrPort().Port()))).hear("early")
		d.Close()
	}
	served := target.came.Load()
	for _, wrong := range [][2]string{
		{"alice", "right hors"}, {"alice", "right horse "}, {"alice", " right horse"}, {"alice", "Right horse"},
		{"alice", "right horse\x00"}, {"alice", "right horse\x00x"}, {"alice", "right horse\n"}, {"alice", ""},
		{"alice", "RIGHT HORSE"}, {"alice", "right horseright horse"}, {"alice", "right\x00horse"},
		{"alic", "right horse"}, {"alicea", "right horse"}, {"Alice", "right horse"}, {"ALICE", "right horse"},
		{"alice ", "right horse"}, {" alice", "right horse"}, {"alice\x00", "right horse"}, {"alice\x00x", "right horse"},
		{"", "right horse"}, {"", ""}, {"bob", "right horse"}, {"alice\r\n", "right horse"}, {"alice:right horse", "x"},
		{longName[1:], longPassword}, {longName, longPassword[1:]}, {longName, longPassword[:254]},
		{longName[:254] + "N", longPassword}, {longName, longPassword[:254] + "?"},
		{"u\u0308ni\u0308", "p\u00e4ss"}, {"\u00dcn\u00ef", "p\u00e4ss"}, {"\u00fcn\u00ef", "pa\u0308ss"}, {"\xfcn\xef", "p\xe4ss"},
		{"nul", "nul\x00word"}, {"nul\x00name", "nul"}, {"nul\x00", "nul"}, {"nul\x00name", "nul\x00"},
		{"\u00fcn", "p\u00e4ss"}, {"*", "*"}, {"data.users", "x"},
	} {
		got := exchange(t, s.addr, "\x05\x01\x02"+login(wrong[0], wrong[1])+request)
		if got != "\x05\x02\x01\x01" {
			t.Errorf("%q with %q is answered by % x", wrong[0], wrong[1], got)
		}
		if strings.Contains(wrong[0], ":") {
			continue
		}
		basic := base64.StdEncoding.EncodeToString([]byte(wrong[0] + ":" + wrong[1]))
		line := fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n", target.port)
		got = exchange(t, s.addr, line+"Proxy-Authorization: Basic "+basic+"\r\n\r\n"+line+"\r\nearly")
		if !strings.HasPrefix(got, "HTTP/1.1 407 ") || strings.Contains(got, " 200 ") || strings.Contains(got, "early") ||
			!strings.Contains(got, "\r\nProxy-Authenticate: Basic realm=") {
			t.Errorf("%q with %q is answered by %q", wrong[0], wrong[1], got)
		}
	}
	// No second try on the same connection, and no way around the negotiation.
	again := exchange(t, s.addr, "\x05\x01\x02"+login("alice", "x")+login("alice", "right horse")+request)
	if again != "\x05\x02\x01\x01" {
		t.Errorf("a second try is answered by % x", again)
	}
	if got := exchange(t, s.addr, "\x05\x01\x02"+request); got != "\x05\x02\x01\x01" {
		t.Errorf("a request instead of a login is answered by % x", got)
	}
	if n := target.came.Load(); n != served {
		t.Errorf("%d came to the target without a login", n-served)
	}
}

// However the bytes are cut, what follows a request reaches the target, whole
// and once, and the reply tells the address that the target sees.
func TestSegmentsAndBoundAddress(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	ports := []uint16{target.port}
	targets := map[string]*echo{"127.0.0.1": target}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		targets["::1"] = serveEcho(t, "[::1]:0")
		ports = append(ports, targets["::1"].port)
	}
	s := start(t, "--data", settings(t, loopback, ports...), "--data", usersFile(t, map[string]string{"alice": "right horse"}))
	data := make([]byte, 200<<10)
	for i := range data {
		data[i] = byte(i * i >> 8)
	}
	for host, target := range targets {
		for name, head := range map[string]string{
			"socks5": "\x05\x02\x00\x02" + login("alice", "right horse") + connectTo(host, target.port),
			"http": "CONNECT " + net.JoinHostPort(host, fmt.Sprint(target.port)) + " HTTP/1.1\r\nProxy-Authorization: Basic " +
				base64.StdEncoding.EncodeToString([]byte("alice:right horse")) + "\r\n\r\n",
		} {
			for _, single := range []bool{false, true} {
				d := dialDoor(t, s.addr)
				early := string(data)
				if single {
					early = early[:64]
					for i := range len(head + early) {
						d.say((head + early)[i : i+1])
					}
					d.CloseWrite()
				} else {
					go func() {
						io.WriteString(d, head+early)
						d.CloseWrite()
					}()
				}
				if name == "http" {
					d.hear("HTTP/1.1 200 Connection established\r\n\r\n")
					<-target.peers
				} else {
					peer := (<-target.peers).(*net.TCPAddr).AddrPort()
					kind := "\x01"
					if peer.Addr().Is6() {
						kind = "\x04"
					}
					d.hear("\x05\x02\x01\x00\x05\x00\x00" + kind + string(peer.Addr().AsSlice()) +
						string(binary.BigEndian.AppendUint16(nil, peer.Port())))
				}
				if got, err := d.rest(); err != nil || got != early {
					t.Errorf("%s to %s, by byte %t: %d bytes came back of %d, %v", name, host, single, len(got), len(early), err)
				}
			}
		}
	}
}

func TestHTTPForms(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	s := start(t, "--data", settings(t, loopback, target.port, 1))
	to := fmt.Sprintf("127.0.0.1:%d", target.port)
	line := "CONNECT " + to + " HTTP/1.1\r\n"
	pad := func(size int) string {
		head := line + "A: "
		return head + strings.Repeat("a", size-len(head)-4) + "\r\n\r\n"
	}
	behind := line + "\r\nbehind" // what a second parser would take for the next request
	for _, c := range []struct {
		send   string
		status int
		parts  string
	}{
		{line + "\r\n", 200, ""},
		{"\r\n" + line + "\r\n", 200, ""}, // RFC 9112 section 2.2
		{"CONNECT " + to + " HTTP/1.0\r\n\r\n", 200, ""},
		{line + "Host: elsewhere.example\r\n\r\n", 200, ""}, // decides nothing
		{line + "Content-Length: 0\r\n\r\n", 200, ""},
		{line + "Proxy-Authorization: Negotiate abc\r\n\r\n", 200, ""}, // offers nothing that is known: none
		{pad(64 << 10), 200, ""},
		{pad(64<<10 + 1), 431, "http_request_error"},
		{line + strings.Repeat("a:\r\n", 1001) + "\r\n", 431, "http_request_error"},
		{"CONNECT " + strings.Repeat("a", 64<<10) + ":1 HTTP/1.1\r\n\r\n", 414, "http_request_error"},
		{"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n", 502, "connection_refused"},
		{"CONNECT 127.0.0.1:25 HTTP/1.1\r\n\r\n", 403, "http_request_denied"},
		{"CONNECT 10.0.0.1:80 HTTP/1.1\r\n\r\n", 403, "destination_ip_prohibited"},
		{"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400, "http_request_error"},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http_request_error"},
		{"CONNECT " + to + " HTTP/1.2\r\n\r\n", 505, "http_request_error"},
		{"CONNECT " + to + " HTTP/1.1\n\n", 400, "http_request_error"},
		{"CONNECT " + to + "\r\n\r\n", 400, "http_request_error"},
		{"CONNECT  " + to + " HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{"CONNECT\t" + to + " HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{"CONNECT " + to + " HTTP/1.1 \r\n\r\n", 400, "http_request_error"},
		{"CONNECT http://" + to + "/ HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{"CONNECT a@" + to + " HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{"CONNECT 127.0.0.1 HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{"CONNECT 127.0.0.1: HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{"CONNECT 127.0.0.1:0 HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{"CONNECT 127.0.0.1:65536 HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", 1<<16+int(target.port)), 400, "http_request_error"},
		{"CONNECT 127.0.0.1:+80 HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{"CONNECT :80 HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{"CONNECT [127.0.0.1]:80 HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{"CONNECT /path HTTP/1.1\r\n\r\n", 400, "http_request_error"},
		{line + "Host: a\r\nHost: a\r\n\r\n", 400, "http_request_error"},
		{line + "Host: a b\r\n\r\n", 400, "http_request_error"},
		{line + "Content-Length: 5\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "Content-Length: 0\r\nContent-Length: 5\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "Content-Length: 0, 5\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "Content-Length: +0\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "Content-Length: 0x0\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "Transfer-Encoding: chunked, identity\r\n\r\n" + behind, 501, "http_request_error"},
		{line + "Transfer-Encoding: xchunked\r\n\r\n" + behind, 501, "http_request_error"},
		{line + "Transfer-Encoding : chunked\r\n\r\n" + behind, 400, "http_request_error"},
		{line + " A: folded\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "A: a\r\n\tfolded\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "A: a\rb\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "A: a\x00b\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "A: a\n\r\n" + behind, 400, "http_request_error"},
		{line + "\x00: a\r\n\r\n" + behind, 400, "http_request_error"},
		{line + ": a\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "no colon\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "Proxy-Authorization: Basic a\r\nProxy-Authorization: Basic b\r\n\r\n" + behind, 400, "http_request_error"},
		{line + "Proxy-Authorization: Basic ***\r\n\r\n" + behind, 407, "http_request_error"},
		{line + "Proxy-Authorization: Basic YQ==\r\n\r\n" + behind, 407, "http_request_error"}, // no colon
		{line + "Proxy-Authorization: Bearer opaque\r\n\r\n" + behind, 407, "http_request_denied"},
		{"connect " + to + " HTTP/1.1\r\n\r\n", 0, ""}, // of no protocol: methods are upper case
	} {
		shown := c.send[:min(len(c.send), 120)]
		before := target.came.Load()
		d := dialDoor(t, s.addr)
		if c.status == 200 {
			d.say(c.send + "early").hear("HTTP/1.1 200 Connection established\r\n\r\n").hear("early").Close()
			continue
		}
		io.WriteString(d, c.send)
		got, _ := d.rest()
		if c.status == 0 && got == "" {
			continue
		}
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		if !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", c.status)) ||
			!strings.Contains(head, "\r\nProxy-Status: sallyport; error="+c.parts) ||
			!strings.Contains(head, "\r\nConnection: close") ||
			(c.status == 407) != strings.Contains(head, "\r\nProxy-Authenticate: Basic ") ||
			strings.Contains(body, "HTTP/1.1") {
			t.Errorf("%q is answered by %q", shown, got)
		}
		if n := target.came.Load(); n != before {
			t.Errorf("%q came to the target", shown)
		}
	}
}

// spellings are ways to write an IPv4 address, or to hide it in another.
func spellings(address string) []string {
	b := netip.MustParseAddr(address).As4()
	n := binary.BigEndian.Uint32(b[:])
	low, mid := n&0xffff, n&0xffffff
	h := hex.EncodeToString(b[:])
	v6 := h[:4] + ":" + h[4:]
	inverse := hex.EncodeToString([]byte{^b[0], ^b[1], ^b[2], ^b[3]})
	full := strings.Map(func(r rune) rune {
		switch {
		case r == '.':
			return '\uff0e'
		case '0' <= r && r <= '9':
			return r - '0' + '\uff10'
		}
		return r
	}, address)
	list := []string{
		address, address + ".", address + "..", "." + address, full, strings.ReplaceAll(full, "\uff0e", "."),
		strings.ReplaceAll(address, ".", "\u3002"), strings.ReplaceAll(address, ".", "\uff61"),
		strings.ReplaceAll(address, "1", "\u2460"), strings.ReplaceAll(address, "1", "\u00b9"),
		strings.ReplaceAll(address, "1", "\U0001d7cf"), strings.ReplaceAll(address, "1", "\u0661"),
		fmt.Sprint(n), fmt.Sprintf("%d.", n), fmt.Sprintf("0x%x", n), fmt.Sprintf("0X%X", n), fmt.Sprintf("0%o", n),
		fmt.Sprintf("0x%08x", n), fmt.Sprintf("0x00000000%x", n), fmt.Sprintf("0000%o", n), fmt.Sprint(uint64(n) + 1<<32),
		fmt.Sprintf("%d.%d", b[0], mid), fmt.Sprintf("%d.%d.%d", b[0], b[1], low), fmt.Sprintf("0x%x.%d", b[0], mid),
		fmt.Sprintf("0x%x.0x%x.0x%x.0x%x", b[0], b[1], b[2], b[3]), fmt.Sprintf("0%o.0%o.0%o.0%o", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("0%o.%d.0x%x.%d", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("0x%x.0%o.%d", b[0], b[1], low), fmt.Sprintf("%d.%d.%d.%d.", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("%d.%d.%d.%d", int(b[0])+256, b[1], b[2], b[3]), address + ".0", "0." + address,
		"[" + address + "]", address + "%00", address + "%lo", address + "\x00", address + "\x00.example.com", address + " ", " " + address,
		address + "\t", address + "\n", address + "\r\n", address + "/", address + "#", address + "?", address + "\\", "a@" + address,
		address + "/32", address + ":80", "%" + hex.EncodeToString([]byte(address[:1])) + address[1:],
		strings.Replace(address, ".", "\u00ad.", 1), strings.Replace(address, ".", "\u200b.", 1), strings.Replace(address, ".", "%2e", 1),
		"::ffff:" + address, "::ffff:" + v6, "::FFFF:" + strings.ToUpper(v6), "0:0:0:0:0:ffff:" + v6, "[::ffff:" + address + "]",
		"0000:0000:0000:0000:0000:ffff:" + v6, "::ffff:" + address + "%lo", "[::ffff:" + address + "%25lo]", "::ffff:0x7f.1",
		"::" + address, "::" + v6, "::ffff:0:" + address, "64:ff9b::" + address, "64:ff9b::" + v6, "64:ff9b:1::" + address,
		"64:ff9b:1:" + h[:4] + ":" + h[4:6] + ":" + h[6:] + "00::", "2002:" + v6 + "::", "2002:" + v6 + "::1",
		"2001:0:" + v6 + "::1", "2001:0:4136:e378:8000:63bf:" + inverse[:4] + ":" + inverse[4:],
		"fe80::5efe:" + address, "::ffff:0:0", "[64:ff9b::" + address + "]",
	}
	return list
}

// insiders are all manner of ways to name what is not public.
func insiders() []string {
	var hosts []string
	for _, address := range []string{
		"127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.1.1", "192.168.1.1", "169.254.1.1",
		"169.254.169.254", "100.64.1.1", "100.100.100.200", "198.18.1.1", "192.0.0.1", "240.0.0.1", "224.0.0.1", "255.255.255.255",
	} {
		hosts = append(hosts, spellings(address)...)
	}
	hosts = append(hosts, "::1", "[::1]", "0:0:0:0:0:0:0:1", "::1%lo", "[::1%25lo]", "::01", "::0.0.0.1", "::", "[::]", "::%lo",
		"fe80::1", "fe80::1%eth0", "fe80::1%25eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "100::1", "2001:db8::1", "4000::1",
		"5f00::1", "2001:2::1", "3fff::1", "2001:10::1", "2001:20::1",
		"127.1", "127.0.1", "0x7f.1", "0177.1", "017700000001", "0x7f000001", "0", "0x0", "0.0", "00", "1", "127.0.0.0x1", "127.0.0.01", "127.000.000.001",
		"localhost", "LOCALHOST", "localhost.", "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54", "LocalHost.",
		"localhost.localdomain", "ip6-localhost", "ip6-loopback", "foo.localhost", "a.example.", "metadata.google.internal",
		"127.0.0.1.nip.io", "lvh.me", "xn--", "-", "_", "a..b", "*", "%", "\x00", "local\x00host", "localhost\r\nHost: a", "0x", "0x.1", "0x7f.0x")
	return hosts
}

// The canary sings when anyone gets through, to whichever address of this
// machine, under the default policy.
func TestNoSpellingReachesLoopback(t *testing.T) {
	t.Parallel()
	canary := serveEcho(t, ":0") // every address of this machine
	names := serveNames(t, map[string][]string{"*": {"127.0.0.1", "::1", "10.0.0.1", "169.254.169.254"}})
	s := start(t, "--data", settings(t, nil, canary.port), "--set", "dns.servers="+names.addr)

	hosts := insiders()
	ask := func(send string) string {
		d := dialDoor(t, s.addr)
		defer d.Close()
		io.WriteString(d, send)
		answer := make([]byte, 64)
		n, _ := io.ReadAtLeast(d, answer, 8)
		return string(answer[:n])
	}
	tried := 0
	for _, host := range hosts {
		if len(host) < 256 {
			tried++
			if got := ask(greeting + connectToName(host, canary.port)); got != chosen+replied(2) && got != chosen+replied(1) {
				t.Errorf("by name %q: % x", host, got)
			}
		}
		if ip, err := netip.ParseAddr(host); err == nil {
			tried++
			if got := ask(greeting + connectTo(ip.WithZone("").String(), canary.port)); got != chosen+replied(2) {
				t.Errorf("by address %s: % x", host, got)
			}
		}
		if len(host) < 256 {
			tried++
			if got := ask(connect4("", host, canary.port)); got[:min(len(got), 2)] != rejected4[:2] {
				t.Errorf("by SOCKS4 %q: % x", host, got)
			}
		}
		for _, authority := range []string{host, "[" + host + "]"} {
			tried++
			if got := ask(fmt.Sprintf("CONNECT %s:%d HTTP/1.1\r\n\r\n", authority, canary.port)); !strings.HasPrefix(got, "HTTP/1.1 403") && !strings.HasPrefix(got, "HTTP/1.1 400") {
				t.Errorf("by CONNECT %q: %q", authority, got)
			}
			tried++
			if got := ask(fmt.Sprintf("GET http://%s:%d/ HTTP/1.1\r\nHost: public.example\r\n\r\n", authority, canary.port)); !strings.HasPrefix(got, "HTTP/1.1 403") && !strings.HasPrefix(got, "HTTP/1.1 400") {
				t.Errorf("by GET %q: %q", authority, got)
			}
		}
	}
	if n := canary.came.Load(); n != 0 {
		t.Errorf("of %d tries %d came through", tried, n)
	}
	// What looks like a number never reaches a name server as a name.
	for _, name := range names.questions() {
		if label := strings.TrimSuffix(name, "."); strings.Trim(label[strings.LastIndexByte(label, '.')+1:], "0123456789xabcdef") == "" {
			t.Errorf("%q was looked up", name)
		}
	}
}

// Which addresses are public is the other half of it. Nothing is dialled: the
// policy refuses each with its scope for a reason.
func TestPublicAddressesArePublic(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	policy := write(t, filepath.Join(dir, "dial.rego"), `package sallyport.dial
default allow := false
explain := true
deny contains input.address.scope
`)
	s := start(t, "--policy", policy)
	for _, host := range []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.1", "93.184.216.34", "100.63.255.255", "100.128.0.1", "126.255.255.255", "128.0.0.1",
		"169.253.255.255", "169.255.0.1", "172.15.255.255", "172.32.0.1", "192.0.1.1", "192.167.255.255", "192.169.0.1", "198.17.255.255",
		"198.20.0.1", "223.255.255.255", "0x5db8d822", "1572395042", "93.12113954", "1.1", "\uff11.1.1.1", "::ffff:8.8.8.8",
		"2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "2001:200::1", "2400::1",
	} {
		port := fmt.Sprintf("[%s]:443", host)
		if !strings.Contains(host, ":") {
			port = host + ":443"
		}
		if got := exchange(t, s.addr, "CONNECT "+port+" HTTP/1.1\r\n\r\n"); !strings.Contains(got, `"reasons":["public"]`) {
			t.Errorf("%s: %q", host, got)
		}
	}
}

// names is a name server on loopback that knows these, "*" for all others;
// without one, there is no other name.
type names struct {
	addr  string
	mu    sync.Mutex
	asked []string
}

func serveNames(t *testing.T, known map[string][]string) *names {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveNamesOn(t, c, known)
}

func serveNamesOn(t *testing.T, c net.PacketConn, known map[string][]string) *names {
	t.Cleanup(func() { c.Close() })
	s := &names{addr: c.LocalAddr().String()}
	go func() {
		packet := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(packet)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(packet[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			s.mu.Lock()
			name := strings.ToLower(q.Name.String()) // resolvers spell by chance
			s.asked = append(s.asked, name)
			s.mu.Unlock()
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			addresses, ok := known[name]
			if !ok {
				addresses, ok = known["*"]
			}
			if !ok {
				m.RCode = dnsmessage.RCodeNameError
			}
			header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
			for _, text := range addresses {
				switch a, err := netip.ParseAddr(text); {
				case err != nil: // an alias
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(text)}})
					header.Name = dnsmessage.MustNewName(text)
				case a.Is4() && q.Type == dnsmessage.TypeA:
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.As4()}})
				case !a.Is4() && q.Type == dnsmessage.TypeAAAA:
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
				}
			}
			if reply, err := m.Pack(); err == nil {
				c.WriteTo(reply, from)
			}
		}
	}()
	return s
}

func (s *names) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func TestNames(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	known := map[string][]string{
		"private.example.": {"10.0.0.1"}, "mapped.example.": {"::ffff:10.0.0.1"}, "alias.example.": {"inside.example.", "192.168.0.1"},
		"nat64.example.": {"64:ff9b::7f00:1"}, "here.example.": {"127.0.0.1"}, "mixed.example.": {"10.0.0.1", "127.0.0.1", "169.254.169.254"},
		"both.example.": {"::1", "127.0.0.1"}, "nothing.example.": {}, "under_score.example.": {"127.0.0.1"},
		"xn--bcher-kva.example.": {"127.0.0.1"}, "denied.example.": {"127.0.0.1"},
	}
	server := serveNames(t, known)
	s := start(t, "--data", settings(t, loopback, target.port), "--set", "dns.servers="+server.addr)
	for _, c := range []struct {
		host   string
		reply  byte
		status int
		error  string
	}{
		{"private.example", 2, 403, "destination_ip_prohibited"},
		{"mapped.example", 2, 403, "destination_ip_prohibited"},
		{"alias.example", 2, 403, "destination_ip_prohibited"},
		{"nat64.example", 2, 403, "destination_ip_prohibited"},
		{"unknown.example", 4, 502, "dns_error"},
		{"nothing.example", 4, 502, "dns_error"},
		{"here.example", 0, 200, ""},
		{"HERE.Example.", 0, 200, ""},
		{"mixed.example", 0, 200, ""},
		{"both.example", 0, 200, ""}, // nothing listens on ::1 at this port
		{"under_score.example", 0, 200, ""},
		{"b\u00fccher.example", 0, 200, ""},
	} {
		d := dialDoor(t, s.addr).say(greeting + connectTo(c.host, target.port)).hear(chosen)
		head := make([]byte, 4)
		if _, err := io.ReadFull(d, head); err != nil || head[1] != c.reply {
			t.Errorf("%s: reply % x, %v", c.host, head, err)
		}
		d.Close()
		d = dialDoor(t, s.addr).say(fmt.Sprintf("CONNECT %s:%d HTTP/1.1\r\n\r\n", c.host, target.port))
		d.CloseWrite()
		if got, err := d.rest(); !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(got, c.error) {
			t.Errorf("%s: %q, %v", c.host, got, err)
		}
	}
	if got := exchange(t, s.addr, greeting+connectTo("denied.example", 25)); got != chosen+replied(2) {
		t.Errorf("a denied name is answered by % x", got)
	}
	if slices.Contains(server.questions(), "denied.example.") {
		t.Error("a denied name was looked up")
	}

	// A name server that is silent.
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s = start(t, "--set", "dns.servers="+silent.LocalAddr().String(), "--set", "limits.dial=200ms")
	if got := exchange(t, s.addr, greeting+connectTo("here.example", 80)); got != chosen+replied(4) {
		t.Errorf("with a silent name server the answer is % x", got)
	}
	if got := exchange(t, s.addr, "CONNECT here.example:80 HTTP/1.1\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 504 ") || !strings.Contains(got, "error=dns_timeout") {
		t.Errorf("with a silent name server the answer is %q", got)
	}

	// One family is refused: the other is tried, whichever it is.
	six, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("there is no IPv6 on loopback")
	}
	six.Close()
	only6 := serveEcho(t, "[::1]:0")
	s = start(t, "--data", settings(t, loopback, only6.port), "--set", "dns.servers="+server.addr)
	dialDoor(t, s.addr).say(greeting + connectTo("both.example", only6.port)).hear(chosen + "\x05\x00\x00\x04").Close()
	s = start(t, "--data", settings(t, []string{"127.0.0.0/8"}, only6.port), "--set", "dns.servers="+server.addr)
	if got := exchange(t, s.addr, greeting+connectTo("both.example", only6.port)); got != chosen+replied(5) {
		t.Errorf("with ::1 denied the answer is % x", got)
	}
	if n := only6.came.Load(); n != 1 {
		t.Errorf("%d came by ::1", n)
	}
}
