package dial

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer is a real DNS server on loopback, over UDP and TCP on one port.
// answer fills in the reply, which names the question already; false: the
// server stays silent.
type nameServer struct {
	address netip.AddrPort
	answer  func(m *dnsmessage.Message, network string) bool

	mu    sync.Mutex
	asked []string // the names of the questions
}

func serveNames(t *testing.T, answer func(m *dnsmessage.Message, network string) bool) *nameServer {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &nameServer{address: l.Addr().(*net.TCPAddr).AddrPort(), answer: answer}
	u, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(s.address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := u.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			if reply := s.reply(buffer[:n], "udp"); reply != nil {
				u.WriteToUDPAddrPort(reply, from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var length [2]byte
				if _, err := io.ReadFull(c, length[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(c, query); err != nil {
					return
				}
				if reply := s.reply(query, "tcp"); reply != nil {
					c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
				}
			}()
		}
	}()
	return s
}

func (s *nameServer) reply(query []byte, network string) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil {
		return nil
	}
	s.mu.Lock()
	s.asked = append(s.asked, m.Questions[0].Name.String())
	s.mu.Unlock()
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	if !s.answer(&m, network) {
		return nil
	}
	reply, err := m.Pack()
	if err != nil {
		return nil
	}
	return reply
}

func (s *nameServer) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// add answers with those of the addresses that are of the question's family.
func add(m *dnsmessage.Message, name dnsmessage.Name, addresses ...string) {
	header := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET}
	for _, text := range addresses {
		a := netip.MustParseAddr(text)
		switch m.Questions[0].Type {
		case dnsmessage.TypeA:
			if a.Is4() {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.As4()}})
			}
		case dnsmessage.TypeAAAA:
			if a.Is6() {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
			}
		}
	}
}

func with(addresses ...string) func(*dnsmessage.Message, string) bool {
	return func(m *dnsmessage.Message, _ string) bool {
		add(m, m.Questions[0].Name, addresses...)
		return true
	}
}

func failing(code dnsmessage.RCode) func(*dnsmessage.Message, string) bool {
	return func(m *dnsmessage.Message, _ string) bool {
		m.RCode = code
		return true
	}
}

func silent(*dnsmessage.Message, string) bool { return false }

// asking is a resolver that loses patience soon.
func asking(servers ...netip.AddrPort) *Resolver {
	r := NewResolver(servers)
	r.patience = 200 * time.Millisecond
	return r
}

func sorted(addresses []netip.Addr) []netip.Addr {
	slices.SortFunc(addresses, netip.Addr.Compare)
	return addresses
}

func TestLookup(t *testing.T) {
	many := make([]string, 0, 100)
	for i := range 50 {
		many = append(many, fmt.Sprintf("127.0.1.%d", i+1), fmt.Sprintf("2001:db8::%d", i+1))
	}
	for _, test := range []struct {
		name   string
		answer func(*dnsmessage.Message, string) bool
		want   []string
	}{
		{"one family", with("127.0.0.9"), []string{"127.0.0.9"}},
		{"the other", with("::1"), []string{"::1"}},
		{"both families, each once", with("127.0.0.9", "::1", "127.0.0.9"), []string{"127.0.0.9", "::1"}},
		{"an IPv4 address in IPv6 form", with("::ffff:127.0.0.9", "127.0.0.9"), []string{"127.0.0.9"}},
		{"truncated, then whole over TCP", func(m *dnsmessage.Message, network string) bool {
			if m.Truncated = network == "udp"; !m.Truncated {
				add(m, m.Questions[0].Name, "127.0.0.8")
			}
			return true
		}, []string{"127.0.0.8"}},
		{"an alias", func(m *dnsmessage.Message, _ string) bool {
			alias := dnsmessage.MustNewName("alias.example.")
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.CNAMEResource{CNAME: alias},
			})
			add(m, alias, "127.0.0.7")
			return true
		}, []string{"127.0.0.7"}},
		{"one family fails", func(m *dnsmessage.Message, _ string) bool {
			if m.Questions[0].Type == dnsmessage.TypeAAAA {
				m.RCode = dnsmessage.RCodeServerFailure
			}
			add(m, m.Questions[0].Name, "127.0.0.6")
			return true
		}, []string{"127.0.0.6"}},
		{"one family is silent", func(m *dnsmessage.Message, _ string) bool {
			add(m, m.Questions[0].Name, "127.0.0.5")
			return m.Questions[0].Type == dnsmessage.TypeA
		}, []string{"127.0.0.5"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serveNames(t, test.answer)
			got, err := asking(s.address).Lookup(t.Context(), "name_1.example")
			var want []netip.Addr
			for _, a := range test.want {
				want = append(want, netip.MustParseAddr(a))
			}
			if err != nil || !slices.Equal(sorted(got), sorted(want)) {
				t.Errorf("got %v, %v; want %v", got, err, want)
			}
			for _, name := range s.questions() {
				if name != "name_1.example." {
					t.Errorf("the server was asked about %s", name)
				}
			}
		})
	}
	t.Run("too many addresses", func(t *testing.T) {
		s := serveNames(t, with(many...))
		got, err := asking(s.address).Lookup(t.Context(), "many.example")
		v4 := 0
		for _, a := range got {
			if a.Is4() {
				v4++
			}
		}
		if err != nil || v4 != maxAddresses || len(got) != 2*maxAddresses {
			t.Errorf("got %d addresses, %d of them IPv4, %v", len(got), v4, err)
		}
	})
}

func TestLookupFails(t *testing.T) {
	liar := func(m *dnsmessage.Message, _ string) bool {
		add(m, m.Questions[0].Name, "127.0.0.66")
		m.Questions[0].Name = dnsmessage.MustNewName("another.example.")
		return true
	}
	wrongID := func(m *dnsmessage.Message, _ string) bool {
		add(m, m.Questions[0].Name, "127.0.0.66")
		m.ID++
		return true
	}
	for _, test := range []struct {
		name   string
		answer func(*dnsmessage.Message, string) bool
		want   error
	}{
		{"no such name", failing(dnsmessage.RCodeNameError), ErrUnresolved},
		{"no address", with(), ErrUnresolved},
		{"server failure", failing(dnsmessage.RCodeServerFailure), ErrResolveFailed},
		{"refused", failing(dnsmessage.RCodeRefused), ErrResolveFailed},
		{"silent", silent, ErrResolveTimeout},
		{"an answer to another question", liar, ErrResolveTimeout},
		{"an answer with another id", wrongID, ErrResolveTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := asking(serveNames(t, test.answer).address)
			if got, err := r.Lookup(t.Context(), "name.example"); !errors.Is(err, test.want) {
				t.Errorf("got %v, %v; want %v", got, err, test.want)
			}
		})
	}
	for _, name := range []string{"", ".", "a..b", "a b", string(make([]byte, 300))} {
		r := asking(serveNames(t, with()).address)
		if got, err := r.Lookup(t.Context(), name); !errors.Is(err, ErrUnresolved) {
			t.Errorf("%q: got %v, %v; want %v", name, got, err, ErrUnresolved)
		}
	}
}

func TestLookupAsksTheNextServer(t *testing.T) {
	for _, test := range []struct {
		name          string
		first, second func(*dnsmessage.Message, string) bool
		want          error // nil: the second one's answer
	}{
		{"silent", silent, with("127.0.0.2"), nil},
		{"server failure", failing(dnsmessage.RCodeServerFailure), with("127.0.0.2"), nil},
		{"no such name", failing(dnsmessage.RCodeNameError), with("127.0.0.2"), ErrUnresolved},
		{"an answer", with("127.0.0.2"), failing(dnsmessage.RCodeNameError), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			first, second := serveNames(t, test.first), serveNames(t, test.second)
			got, err := asking(first.address, second.address).Lookup(within(t, 4*time.Second), "name.example") // less than Go's own patience
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, %v; want %v", got, err, test.want)
			}
			if test.want == nil && !slices.Equal(got, []netip.Addr{netip.MustParseAddr("127.0.0.2")}) {
				t.Fatalf("got %v", got)
			}
			if len(first.questions()) == 0 {
				t.Error("the first server was not asked")
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		nobody := closed(t, "127.0.0.1:0")
		got, err := asking(nobody, serveNames(t, with("127.0.0.2")).address).Lookup(t.Context(), "name.example")
		if err != nil {
			t.Fatalf("got %v, %v", got, err)
		}
	})
}

func TestLookupCalledOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := serveNames(t, func(*dnsmessage.Message, string) bool { cancel(); return false })
	_, err := asking(s.address, s.address).Lookup(ctx, "name.example")
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrResolveTimeout) {
		t.Fatalf("got %v, want %v", err, context.Canceled)
	}
}

func TestLookupDeadline(t *testing.T) {
	s := serveNames(t, silent)
	_, err := asking(s.address, s.address).Lookup(within(t, 100*time.Millisecond), "name.example")
	if !errors.Is(err, ErrResolveTimeout) {
		t.Fatalf("got %v, want %v", err, ErrResolveTimeout)
	}
}

func TestLookupOfTheSystem(t *testing.T) {
	got, err := NewResolver(nil).Lookup(t.Context(), "localhost")
	if err != nil || !got[0].IsLoopback() {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestLookupLeavesSingleLabelsToTheServersToo(t *testing.T) {
	s := serveNames(t, with("127.0.0.4"))
	got, err := asking(s.address).Lookup(t.Context(), "one-label")
	if err != nil || !slices.Equal(got, []netip.Addr{netip.MustParseAddr("127.0.0.4")}) {
		t.Fatalf("got %v, %v", got, err)
	}
	if asked := s.questions(); len(asked) != 2 || asked[0] != "one-label." || asked[1] != "one-label." {
		t.Fatalf("the server was asked about %v", asked)
	}
}

func TestBoundedDropsZones(t *testing.T) {
	got := bounded([]netip.Addr{netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("fe80::1%eth1")})
	if !slices.Equal(got, []netip.Addr{netip.MustParseAddr("fe80::1")}) {
		t.Fatalf("got %v", got)
	}
}
