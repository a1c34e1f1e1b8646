package main

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// servers_test.go has the targets and name servers that the tests stand behind the door.

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

// scripted is a target that does one thing with its connection.
func scripted(t *testing.T, script func(c *net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		script(c.(*net.TCPConn))
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
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
