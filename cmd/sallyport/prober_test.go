package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/argon2"
)

// prober_test.go asks the running program what the protocols' documents say,
// as a stranger would who believes none of it: RFC 1928, RFC 1929 and
// CONNECT. spellings_test.go has addresses and names, hostile_test.go means harm.

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
