package main

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deaf is a port at which connections are neither taken nor refused.
func deaf(t *testing.T) uint16 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, unix.Listen(fd, 0))
	own, err := unix.Getsockname(fd)
	must(t, err)
	port := uint16(own.(*unix.SockaddrInet4).Port)
	for { // the kernel holds one or two for it
		c, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 100*time.Millisecond)
		if err != nil {
			return port
		}
		t.Cleanup(func() { c.Close() })
	}
}

// What a client is told is the same by every door, in the words of each protocol.
func TestWhatAClientIsTold(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	silent := deaf(t)
	names := serveNames(t, map[string][]string{"inside.example.": {"10.0.0.1"}, "here.example.": {"127.0.0.1"}})
	dir := shortDir(t)
	write(t, filepath.Join(dir, "authenticate.rego"), `package sallyport.authenticate

default allow := false

allow if input.credentials.method == "none"

allow if input.credentials.verified
`)
	write(t, filepath.Join(dir, "route.rego"), `package sallyport.route

default allow := false

allow if input.target.host != "denied.example"

reason := sprintf("%d", [1 / (input.target.port - input.target.port)]) if input.target.host == "fault.example"
`)
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	door := filepath.Join(dir, "door")
	s := listening(t, fmt.Sprintf(`[{name: tcp, address: "127.0.0.1:0"}, {name: tls, address: "127.0.0.1:0", tls: {cert: %q, key: %q}}, {name: unix, address: "unix:%s"}]`, cert, key, door),
		"--policy", dir, "--data", settings(t, loopback), "--data", usersFile(t, map[string]string{"ann": "horse"}),
		"--set", "dns.servers="+names.addr, "--set", "limits.dial=2s")
	addresses := map[string]string{}
	for i := range 3 {
		l := s.wait(t, i, "listening")
		addresses[l["listener"].(string)] = l["address"].(string)
	}
	// asked says all of it at once, and hears all that comes.
	asked := func(t *testing.T, by, text string) string {
		t.Helper()
		var c net.Conn
		var err error
		switch by {
		case "tls":
			c = overTLS(t, addresses[by], &tls.Config{RootCAs: ca.pool(), ServerName: "localhost"})
		case "unix":
			c, err = net.Dial("unix", door)
		default:
			c, err = net.Dial("tcp", addresses[by])
		}
		must(t, err)
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, text)
		c.(interface{ CloseWrite() error }).CloseWrite()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Errorf("%q ends with %v", text, err)
		}
		return string(got)
	}

	basic := func(password string) string {
		return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("ann:"+password)) + "\r\n"
	}
	get := func(host string, port uint16, fields string) string {
		return fmt.Sprintf("GET http://%s:%d/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s\r\n", host, port, fields)
	}
	connect := func(host string, port uint16, fields string) string {
		return fmt.Sprintf("CONNECT %s:%d HTTP/1.1\r\n%s\r\n", host, port, fields)
	}
	for _, by := range []string{"tcp", "tls", "unix"} {
		for _, c := range []struct {
			name, host string
			port       uint16
			socks5     byte
			status     int
			error      string
		}{
			{"denied by route", "denied.example", target.port, 2, 403, "http_request_denied"},
			{"denied by dial", "10.0.0.1", target.port, 2, 403, "destination_ip_prohibited"},
			{"denied by dial, by name", "inside.example", target.port, 2, 403, "destination_ip_prohibited"},
			{"a fault", "fault.example", target.port, 1, 503, "proxy_internal_error"},
			{"no such name", "nowhere.example", target.port, 4, 502, `dns_error; rcode="NXDOMAIN"`},
			{"refused", "127.0.0.1", 1, 5, 502, "connection_refused"},
			{"refused, by name", "here.example", 1, 5, 502, "connection_refused"},
			{"timed out", "127.0.0.1", silent, 4, 504, "connection_timeout"},
			{"no name", "a b", target.port, 1, 400, "http_request_error"},
		} {
			t.Run(by+"/"+c.name, func(t *testing.T) {
				var asking sync.WaitGroup // all at once, for the sake of those that wait
				for _, credentials := range []string{"", login("ann", "horse")} {
					hello, chosen := greeting, chosen
					if credentials != "" {
						hello, chosen = "\x05\x01\x02", "\x05\x02\x01\x00"
					}
					asking.Go(func() {
						if got := asked(t, by, hello+credentials+connectTo(c.host, c.port)+"early"); got != chosen+replied(c.socks5) {
							t.Errorf("SOCKS5 hears % x", got)
						}
					})
				}
				asking.Go(func() {
					if got := asked(t, by, connect4("ann", c.host, c.port)+"early"); got != rejected4 {
						t.Errorf("SOCKS4 hears % x", got)
					}
				})
				for _, request := range []string{
					connect(c.host, c.port, ""), connect(c.host, c.port, basic("horse")), get(c.host, c.port, ""), get(c.host, c.port, basic("horse")),
				} {
					asking.Go(func() {
						got := asked(t, by, request)
						head, body, _ := strings.Cut(got, "\r\n\r\n")
						if !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(head, "\r\nProxy-Status: sallyport; error="+c.error+"\r\n") ||
							!strings.Contains(head, "\r\nConnection: close") || !strings.HasPrefix(body, `{"decision_id":"`) || strings.Count(got, "HTTP/1.1 ") != 1 {
							t.Errorf("%q hears %q", request, got)
						}
					})
				}
				asking.Wait()
			})
		}
		t.Run(by+"/the rest", func(t *testing.T) {
			request := connectTo("127.0.0.1", target.port)
			for send, want := range map[string]string{
				"\x05\x01\x02" + login("ann", "cow") + request:                                        "\x05\x02\x01\x01",
				"\x05\x01\x80" + request:                                                              "\x05\xff",
				greeting + "\x05\x09" + request[2:]:                                                   chosen + replied(7),
				greeting + request[:3] + "\x09" + request[4:]:                                         chosen + replied(8),
				"\x04\x09" + connect4("ann", "127.0.0.1", target.port)[2:]:                            rejected4,
				connect("127.0.0.1", target.port, basic("cow")):                                       "HTTP/1.1 407 ",
				get("127.0.0.1", target.port, basic("cow")):                                           "HTTP/1.1 407 ",
				"TRACE http://a/ HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n": "HTTP/1.1 405 ",
				"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n":                              "HTTP/1.1 400 ",
				"GET https://a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n":                     "HTTP/1.1 501 ",
			} {
				if got := asked(t, by, send); got != want && !(strings.HasPrefix(want, "HTTP") && strings.HasPrefix(got, want)) {
					t.Errorf("%q hears %q", send, got)
				}
			}
			if n := target.came.Load(); n != 0 {
				t.Fatalf("%d came to the target", n)
			}
		})
	}
	for _, by := range []string{"tcp", "tls", "unix"} {
		for send, want := range map[string]string{
			greeting + connectTo("here.example", target.port) + "early": "early",
			connect4("", "here.example", target.port) + "early":         "early",
			connect("here.example", target.port, "") + "early":          "early",
		} {
			if got := asked(t, by, send); !strings.HasSuffix(got, want) {
				t.Errorf("by %s %q hears %q", by, send, got)
			}
		}
	}
}
