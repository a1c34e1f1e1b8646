package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inspect_test.go says one thing to the proxy and another to the target.

// inspecting is a sallyport whose policy refuses a flow that is not what was
// asked for: the names must agree, and only TLS, HTTP and SSH or a server that
// speaks first may flow.
func inspecting(t *testing.T, ports ...uint16) *process {
	t.Helper()
	return start(t, "--data", settings(t, loopback, ports...), "--policy", write(t, filepath.Join(t.TempDir(), "inspect.rego"), `package sallyport.inspect

default allow := false

allow if input.flow.protocol in {"tls", "http", "ssh", "none"}

deny contains "the certificate asked for is another host's" if {
	input.flow.protocol == "tls"
	input.flow.server_name != input.target.host
}

deny contains "the request is for another host" if {
	input.flow.protocol == "http"
	input.flow.host != input.target.host
}

labels := {"flow": input.flow.protocol, "alpn": concat(",", input.flow.alpn)}
`))
}

func TestInspect(t *testing.T) {
	t.Parallel()
	target, received := serveCounted(t)
	s := inspecting(t, target)
	_, hello := clientHello(t, "localhost")
	_, fronted := clientHello(t, "hidden.example")
	request := "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	for _, c := range []struct {
		name, say, flow string
		flows           bool
	}{
		{"TLS for the name", hello, "tls", true},
		{"TLS for another", fronted, "tls", false},
		{"TLS that says no name", "\x16\x03\x01\x00\x04\x01\x00\x00\x00", "tls", false},
		{"HTTP for the name", request, "http", true},
		{"HTTP for another", strings.Replace(request, "localhost", "hidden.example", 1), "http", false},
		{"SSH", "SSH-2.0-test\r\n", "ssh", true},
		{"something else", "HELLO\r\n", "unknown", false},
	} {
		for _, how := range []string{"at once", "later", "by byte"} {
			s.forget("session")
			ask := greeting + connectToName("localhost", target)
			d := dialDoor(t, s.addr)
			if how == "at once" {
				d.say(ask + c.say)
			} else {
				d.say(ask)
			}
			d.hear(granted)
			io.CopyN(io.Discard, d, 2)
			for _, part := range map[string][]string{"later": {c.say}, "by byte": strings.Split(c.say, "")}[how] {
				io.WriteString(d, part)
			}
			if c.flows {
				d.hear(c.say).Close()
			} else if got, err := d.rest(); got != "" || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s, %s: heard %q, %v", c.name, how, got, err)
			}
			if n := <-received; (n > 0) != c.flows {
				t.Errorf("%s, %s: %d bytes came to the target", c.name, how, n)
			}
			r := s.wait(t, 0, "session")
			labels, _ := r["labels"].(map[string]any)
			if want := map[bool]string{true: "ok", false: "denied"}[c.flows]; r["outcome"] != want || labels["flow"] != c.flow {
				t.Errorf("%s, %s: %v", c.name, how, r["raw"])
			}
		}
	}
	// The client has closed its half before it has said enough.
	d := dialDoor(t, s.addr).say(greeting + connectToName("localhost", target)).hear(granted)
	io.CopyN(io.Discard, d, 2)
	d.say("SSH-2.0").CloseWrite()
	if got, err := d.rest(); got != "SSH-2.0" || err != nil {
		t.Errorf("heard %q, %v", got, err)
	}
}

// serveCounted is a server that sends back what it gets, and says of each
// connection at its end how many bytes that were.
func serveCounted(t *testing.T) (port uint16, received chan int64) {
	t.Helper()
	received = make(chan int64, 64)
	return serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		n, _ := io.Copy(c, c)
		received <- n
	}), received
}

// clientHello is what crypto/tls says first.
func clientHello(t *testing.T, name string) (*tls.Config, string) {
	t.Helper()
	var said strings.Builder
	config := &tls.Config{ServerName: name, NextProtos: []string{"h2"}}
	client, server := net.Pipe()
	go func() { tls.Client(client, config).Handshake() }()
	b := make([]byte, 5)
	io.ReadFull(server, b)
	said.Write(b)
	io.CopyN(&said, server, int64(b[3])<<8|int64(b[4]))
	server.Close()
	client.Close()
	return config, said.String()
}

// A server that speaks first is heard at once, and what comes after that goes on.
func TestInspectServerSpeaksFirst(t *testing.T) {
	port := scripted(t, func(c *net.TCPConn) {
		io.WriteString(c, "220 ready\r\n")
		got, _ := io.ReadAll(c)
		fmt.Fprintf(c, "you said %q", got)
	})
	s := inspecting(t, port)
	began := time.Now()
	d := dialDoor(t, s.addr).say(greeting + connectTo("127.0.0.1", port)).hear(granted)
	io.CopyN(io.Discard, d, 2)
	d.hear("220 ready\r\n")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it was held up for %v", took)
	}
	d.SetReadDeadline(time.Now().Add(20 * time.Second))
	// Only once it has been taken for a server that speaks first may it be anything.
	metrics := "http://" + s.wait(t, 0, "management")["address"].(string) + "/metrics"
	for {
		if _, body := call(t, "GET", metrics, ""); strings.Contains(body, `sallyport_decisions_total{stage="inspect",verdict="allow"} 1`) {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal("inspect is not asked")
		}
		d.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		d.Read(make([]byte, 1))
	}
	d.SetReadDeadline(time.Now().Add(20 * time.Second))
	d.say("HELLO").CloseWrite()
	if got, err := d.rest(); got != `you said "HELLO"` || err != nil {
		t.Errorf("heard %q, %v", got, err)
	}
	if labels, _ := s.wait(t, 0, "session")["labels"].(map[string]any); labels["flow"] != "none" {
		t.Errorf("labels %v", labels)
	}
}
