package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// nameServer is a real DNS server on loopback, over UDP and TCP on one port.
// answer fills in the reply, which names the question already; nil: the server
// stays silent.
type testServer struct {
	address netip.AddrPort
	answer  answering

	mu    sync.Mutex
	asked []string // "udp AAAA name."
}

type answering func(m *dns.Msg, network string) *dns.Msg

func serveNames(t testing.TB, answer answering) *testServer {
	t.Helper()
	s := &testServer{answer: answer}
	var l net.Listener
	var u net.PacketConn
	for range 10 { // until one port is free for both
		var err error
		if l, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if u, err = net.ListenPacket("udp4", l.Addr().String()); err == nil {
			break
		}
		l.Close()
	}
	s.address = l.Addr().(*net.TCPAddr).AddrPort()
	s.serve(t, &dns.Server{PacketConn: u})
	s.serve(t, &dns.Server{Listener: l})
	return s
}

func (s *testServer) serve(t testing.TB, server *dns.Server) {
	network := "tcp"
	if server.PacketConn != nil {
		network = "udp"
	}
	server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		if reply := s.reply(query, network); reply != nil {
			w.WriteMsg(reply)
		}
	})
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		server.Shutdown()
		<-ended
	})
}

func (s *testServer) reply(query *dns.Msg, network string) *dns.Msg {
	q := query.Question[0]
	s.mu.Lock()
	s.asked = append(s.asked, fmt.Sprintf("%s %s %s", network, dns.TypeToString[q.Qtype], strings.ToLower(q.Name)))
	s.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(query)
	m.RecursionAvailable = true
	if query.IsEdns0() != nil {
		m.SetEdns0(udpSize, false)
	}
	return s.answer(m, network)
}

func (s *testServer) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *testServer) over(transport Transport) Server {
	return Server{Transport: transport, Address: s.address}
}

// add puts records into the reply, in the form of a zone file. $ is the
// question's name.
func add(m *dns.Msg, records ...string) *dns.Msg {
	for _, text := range records {
		m.Answer = append(m.Answer, record(m, text))
	}
	return m
}

func record(m *dns.Msg, text string) dns.RR {
	rr, err := dns.NewRR(strings.ReplaceAll(text, "$", m.Question[0].Name))
	if err != nil {
		panic(err)
	}
	return rr
}

// of answers with those records that are of the question's type, or aliases.
func of(records ...string) answering {
	return func(m *dns.Msg, _ string) *dns.Msg {
		for _, text := range records {
			if rr := record(m, text); rr.Header().Rrtype == m.Question[0].Qtype || rr.Header().Rrtype == dns.TypeCNAME {
				m.Answer = append(m.Answer, rr)
			}
		}
		return m
	}
}

func failing(code int) answering {
	return func(m *dns.Msg, _ string) *dns.Msg {
		m.Rcode = code
		return m
	}
}

func silent(*dns.Msg, string) *dns.Msg { return nil }

// asking is a resolver that loses patience soon.
func asking(t testing.TB, servers ...Server) *Resolver {
	return resolving(t, ResolverOptions{Servers: servers})
}

func resolving(t testing.TB, o ResolverOptions) *Resolver {
	if o.Timeout == 0 {
		o.Timeout = 200 * time.Millisecond
	}
	if o.Entries == 0 {
		o.Entries, o.MaxTTL, o.NegativeTTL = 100, time.Hour, time.Minute
	}
	r := NewResolver(o)
	r.hosts = func() map[string][]netip.Addr { return nil }
	t.Cleanup(r.Close)
	return r
}

// texts is what was found, sorted: an address, and behind it the names.
func texts(found Found) []string {
	var all []string
	for _, a := range found.Addresses {
		all = append(all, strings.Join(append([]string{a.IP.String()}, a.Names...), " "))
	}
	slices.Sort(all)
	return all
}

func TestLookup(t *testing.T) {
	many := make([]string, 0, 100)
	for i := range 50 {
		many = append(many, fmt.Sprintf("$ A 127.0.1.%d", i+1), fmt.Sprintf("$ AAAA 2001:db8::%d", i+1))
	}
	for _, test := range []struct {
		name   string
		answer answering
		want   []string
	}{
		{"one family", of("$ A 127.0.0.9"), []string{"127.0.0.9"}},
		{"the other", of("$ AAAA ::1"), []string{"::1"}},
		{"both families, each once", of("$ A 127.0.0.9", "$ AAAA ::1", "$ A 127.0.0.9"), []string{"127.0.0.9", "::1"}},
		{"an IPv4 address in IPv6 form", of("$ AAAA ::ffff:127.0.0.9", "$ A 127.0.0.9"), []string{"127.0.0.9"}},
		{"truncated, then whole over TCP", func(m *dns.Msg, network string) *dns.Msg {
			if m.Truncated = network == "udp"; m.Truncated {
				return m
			}
			return of("$ A 127.0.0.8")(m, network)
		}, []string{"127.0.0.8"}},
		{"larger than a datagram that was asked for", func(m *dns.Msg, network string) *dns.Msg {
			of("$ A 127.0.0.8")(m, network)
			for range 20 {
				add(m, `$ TXT "`+strings.Repeat("x", 200)+`"`)
			}
			if network == "udp" {
				m.Truncate(udpSize)
			}
			return m
		}, []string{"127.0.0.8"}},
		{"aliases", of("$ CNAME One.example.", "one.example. CNAME two.example.", "TWO.example. A 127.0.0.7", "two.example. AAAA ::1"),
			[]string{"127.0.0.7 one.example two.example", "::1 one.example two.example"}},
		{"aliases in another order", of("two.example. A 127.0.0.7", "one.example. CNAME two.example.", "$ CNAME one.example."),
			[]string{"127.0.0.7 one.example two.example"}},
		{"one family fails", func(m *dns.Msg, network string) *dns.Msg {
			if m.Question[0].Qtype == dns.TypeAAAA {
				m.Rcode = dns.RcodeServerFailure
				return m
			}
			return of("$ A 127.0.0.6")(m, network)
		}, []string{"127.0.0.6"}},
		{"one family is silent", func(m *dns.Msg, network string) *dns.Msg {
			if m.Question[0].Qtype == dns.TypeAAAA {
				return nil
			}
			return of("$ A 127.0.0.5")(m, network)
		}, []string{"127.0.0.5"}},
		{"a server that spells as it likes", func(m *dns.Msg, network string) *dns.Msg {
			m.Question[0].Name = "NaMe_1.ExAmPlE."
			return of("$ A 127.0.0.5")(m, network)
		}, []string{"127.0.0.5"}},
		// What is not asked for does not count.
		{"addresses of other names", of("$ A 127.0.0.5", "other.example. A 127.0.0.66", "$evil. A 127.0.0.66"), []string{"127.0.0.5"}},
		{"aliases of other names", of("$ A 127.0.0.5", "other.example. CNAME evil.example.", "evil.example. A 127.0.0.66"), []string{"127.0.0.5"}},
		{"glue", func(m *dns.Msg, network string) *dns.Msg {
			m.Extra = append(m.Extra, record(m, "$ A 127.0.0.66"), record(m, "$ AAAA ::66"))
			m.Ns = append(m.Ns, record(m, "$ A 127.0.0.66"), record(m, "$ AAAA ::66"))
			return of("$ A 127.0.0.5")(m, network)
		}, []string{"127.0.0.5"}},
		{"another class", of("$ A 127.0.0.5", "$ CH A 127.0.0.66", "$ CH AAAA ::66"), []string{"127.0.0.5"}},
		{"the other family's addresses", func(m *dns.Msg, _ string) *dns.Msg {
			if m.Question[0].Qtype == dns.TypeA {
				return add(m, "$ AAAA ::66", "$ A 127.0.0.5")
			}
			return m
		}, []string{"127.0.0.5"}},
	} {
		for _, transport := range []Transport{UDP, TCP} {
			t.Run(test.name+" over "+string(transport), func(t *testing.T) {
				s := serveNames(t, test.answer)
				got, err := asking(t, s.over(transport)).Lookup(t.Context(), "Name_1.example.")
				if err != nil || !slices.Equal(texts(got), test.want) {
					t.Errorf("got %v, %v; want %v", texts(got), err, test.want)
				}
				for _, asked := range s.questions() {
					if !strings.HasSuffix(asked, " name_1.example.") || transport == TCP && strings.HasPrefix(asked, "udp") {
						t.Errorf("the server was asked %s", asked)
					}
				}
			})
		}
	}
	t.Run("too many addresses", func(t *testing.T) {
		s := serveNames(t, of(many...))
		got, err := asking(t, s.over(TCP)).Lookup(t.Context(), "many.example")
		v4 := 0
		for _, a := range got.Addresses {
			if a.IP.Is4() {
				v4++
			}
		}
		if err != nil || v4 != maxAddresses || len(got.Addresses) != 2*maxAddresses {
			t.Errorf("got %d addresses, %d of them IPv4, %v", len(got.Addresses), v4, err)
		}
	})
	t.Run("without EDNS", func(t *testing.T) {
		s := serveNames(t, func(m *dns.Msg, network string) *dns.Msg {
			if m.IsEdns0() != nil {
				m.Rcode, m.Extra = dns.RcodeFormatError, nil
				return m
			}
			return of("$ A 127.0.0.5")(m, network)
		})
		got, err := asking(t, s.over(UDP)).Lookup(t.Context(), "name.example")
		if err != nil || len(got.Addresses) != 1 {
			t.Errorf("got %v, %v", texts(got), err)
		}
	})
}

func TestLookupFails(t *testing.T) {
	long := []string{"$ CNAME 0.example."}
	for i := range 20 {
		long = append(long, fmt.Sprintf("%d.example. CNAME %d.example.", i, i+1))
	}
	liar := func(m *dns.Msg, network string) *dns.Msg {
		of("$ A 127.0.0.66", "$ AAAA ::66")(m, network)
		m.Question[0].Name = "another.example."
		return m
	}
	wrongID := func(m *dns.Msg, network string) *dns.Msg {
		m.Id++
		return of("$ A 127.0.0.66", "$ AAAA ::66")(m, network)
	}
	otherType := func(m *dns.Msg, network string) *dns.Msg {
		of("$ A 127.0.0.66", "$ AAAA ::66")(m, network)
		m.Question[0].Qtype = dns.TypeMX
		return m
	}
	noReply := func(m *dns.Msg, network string) *dns.Msg {
		m.Response = false
		return of("$ A 127.0.0.66", "$ AAAA ::66")(m, network)
	}
	for _, test := range []struct {
		name    string
		answer  answering
		class   error
		outcome string
		stream  string // where it is another over TCP
	}{
		{"no such name", failing(dns.RcodeNameError), ErrUnresolved, "nxdomain", ""},
		{"no address", of(), ErrUnresolved, "nodata", ""},
		{"no such name, with addresses", func(m *dns.Msg, network string) *dns.Msg {
			m.Rcode = dns.RcodeNameError
			return of("$ A 127.0.0.66")(m, network)
		}, ErrUnresolved, "nxdomain", ""},
		{"an alias of nothing", of("$ CNAME one.example."), ErrUnresolved, "nodata", ""},
		{"addresses of another name", of("other.example. A 127.0.0.66", "other.example. AAAA ::66"), ErrUnresolved, "nodata", ""},
		{"addresses of another class", of("$ CH A 127.0.0.66", "$ CH AAAA ::66"), ErrUnresolved, "nodata", ""},
		{"server failure", failing(dns.RcodeServerFailure), ErrResolveFailed, "servfail", ""},
		{"refused", failing(dns.RcodeRefused), ErrResolveFailed, "refused", ""},
		{"another code", failing(dns.RcodeYXDomain), ErrResolveFailed, "failed", ""},
		{"silent", silent, ErrResolveTimeout, "timeout", ""},
		{"an answer to another question", liar, ErrResolveTimeout, "timeout", "malformed"},
		{"an answer with another id", wrongID, ErrResolveTimeout, "timeout", "malformed"},
		{"an answer about another type", otherType, ErrResolveTimeout, "timeout", "malformed"},
		{"a question for an answer", noReply, ErrResolveTimeout, "timeout", "malformed"},
		{"a loop", of("$ CNAME one.example.", "one.example. CNAME two.example.", "two.example. CNAME one.example."), ErrResolveFailed, "malformed", ""},
		{"a loop to the name", of("$ CNAME one.example.", "one.example. CNAME $"), ErrResolveFailed, "malformed", ""},
		{"an alias of itself", of("$ CNAME $"), ErrResolveFailed, "malformed", ""},
		{"a chain without end", of(long...), ErrResolveFailed, "malformed", ""},
		{"two aliases", of("$ CNAME one.example.", "$ CNAME two.example.", "one.example. A 127.0.0.66"), ErrResolveFailed, "malformed", ""},
		{"an alias and addresses", of("$ CNAME one.example.", "$ A 127.0.0.66", "$ AAAA ::66"), ErrResolveFailed, "malformed", ""},
		{"an alias that is no host", of(`$ CNAME evil\.trusted.example.`, `evil\.trusted.example. A 127.0.0.66`), ErrResolveFailed, "malformed", ""},
	} {
		for _, transport := range []Transport{UDP, TCP} {
			t.Run(test.name+" over "+string(transport), func(t *testing.T) {
				want, class := test.outcome, test.class
				if transport == TCP && test.stream != "" {
					want, class = test.stream, ErrResolveFailed
				}
				got, err := asking(t, serveNames(t, test.answer).over(transport)).Lookup(t.Context(), "name.example")
				var failed *LookupError
				if !errors.As(err, &failed) || failed.Outcome != want || !errors.Is(err, class) || len(got.Addresses) > 0 {
					t.Errorf("got %v, %v; want %s", texts(got), err, want)
				}
			})
		}
	}
	for _, name := range []string{"", ".", "a..b", "a b", `a\.b`, "é.example", string(make([]byte, 300)), strings.Repeat("a", 64)} {
		s := serveNames(t, of("$ A 127.0.0.66"))
		if got, err := asking(t, s.over(UDP)).Lookup(t.Context(), name); !errors.Is(err, ErrUnresolved) || len(s.questions()) > 0 {
			t.Errorf("%q: got %v, %v; want %v", name, got, err, ErrUnresolved)
		}
	}
	t.Run("nobody listens", func(t *testing.T) {
		_, err := asking(t, Server{Transport: UDP, Address: closed(t, "127.0.0.1:0")}).Lookup(t.Context(), "name.example")
		var failed *LookupError
		if !errors.As(err, &failed) || failed.Outcome != "unreachable" {
			t.Errorf("got %v", err)
		}
	})
}

// The families that are wanted, in their order, and only those are asked for.
func TestLookupFamily(t *testing.T) {
	for family, want := range map[Family][]string{
		"":         {"::1", "127.0.0.1"},
		AnyFamily:  {"::1", "127.0.0.1"},
		PreferIPv4: {"127.0.0.1", "::1"},
		PreferIPv6: {"::1", "127.0.0.1"},
		IPv4:       {"127.0.0.1"},
		IPv6:       {"::1"},
	} {
		s := serveNames(t, of("$ A 127.0.0.1", "$ AAAA ::1"))
		r := resolving(t, ResolverOptions{Servers: []Server{s.over(UDP)}, Family: family})
		for _, name := range []string{"name.example", "localhost", "some.localhost"} {
			found, err := r.Lookup(t.Context(), name)
			var got []string
			for _, a := range found.Addresses {
				got = append(got, a.IP.String())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s %s: got %v, %v; want %v", family, name, got, err, want)
			}
		}
		if asked := s.questions(); len(asked) != len(want) {
			t.Errorf("%s: asked %v", family, asked)
		}
	}
	s := serveNames(t, of("$ AAAA ::ffff:127.0.0.1"))
	r := resolving(t, ResolverOptions{Servers: []Server{s.over(UDP)}, Family: IPv6})
	if got, err := r.Lookup(t.Context(), "name.example"); !errors.Is(err, ErrUnresolved) {
		t.Errorf("an IPv4 address in IPv6 form is %v, %v", got, err)
	}
}

func TestLookupAsksTheNextServer(t *testing.T) {
	here := of("$ A 127.0.0.2")
	for _, test := range []struct {
		name          string
		first, second answering
		want          error // nil: the second one's answer
	}{
		{"silent", silent, here, nil},
		{"server failure", failing(dns.RcodeServerFailure), here, nil},
		{"refused", failing(dns.RcodeRefused), here, nil},
		{"nonsense", of("$ CNAME $"), here, nil},
		{"no such name", failing(dns.RcodeNameError), here, ErrUnresolved},
		{"an answer", here, failing(dns.RcodeNameError), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			first, second := serveNames(t, test.first), serveNames(t, test.second)
			r := asking(t, first.over(UDP), second.over(UDP))
			got, err := r.Lookup(t.Context(), "name.example")
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, %v; want %v", got, err, test.want)
			}
			if test.want == nil && !slices.Equal(texts(got), []string{"127.0.0.2"}) {
				t.Fatalf("got %v", got)
			}
			before := len(first.questions())
			if before == 0 {
				t.Error("the first server was not asked")
			}
			r.Lookup(t.Context(), "another.example")
			if again := len(first.questions()) > before; again != (test.name != "silent") {
				t.Errorf("the first server was asked again: %v", again)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		nobody := Server{Transport: UDP, Address: closed(t, "127.0.0.1:0")}
		got, err := asking(t, nobody, serveNames(t, here).over(UDP)).Lookup(t.Context(), "name.example")
		if err != nil {
			t.Fatalf("got %v, %v", got, err)
		}
	})
	t.Run("a lost datagram", func(t *testing.T) {
		var lost sync.Map // the first one of each family
		s := serveNames(t, func(m *dns.Msg, network string) *dns.Msg {
			if _, again := lost.LoadOrStore(m.Question[0].Qtype, true); !again {
				return nil
			}
			return here(m, network)
		})
		if got, err := asking(t, s.over(UDP)).Lookup(t.Context(), "name.example"); err != nil {
			t.Fatalf("got %v, %v", got, err)
		}
	})
}

func TestLookupCalledOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := serveNames(t, func(*dns.Msg, string) *dns.Msg { cancel(); return nil })
	_, err := asking(t, s.over(UDP), s.over(UDP)).Lookup(ctx, "name.example")
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrResolveTimeout) {
		t.Fatalf("got %v, want %v", err, context.Canceled)
	}
}

func TestLookupDeadline(t *testing.T) {
	s := serveNames(t, silent)
	_, err := asking(t, s.over(UDP), s.over(UDP)).Lookup(within(t, 100*time.Millisecond), "name.example")
	if !errors.Is(err, ErrResolveTimeout) {
		t.Fatalf("got %v, want %v", err, ErrResolveTimeout)
	}
}

// Names of one label are names like others.
func TestLookupOfOneLabel(t *testing.T) {
	s := serveNames(t, of("$ A 127.0.0.4"))
	got, err := asking(t, s.over(UDP)).Lookup(t.Context(), "one-label")
	if err != nil || !slices.Equal(texts(got), []string{"127.0.0.4"}) {
		t.Fatalf("got %v, %v", got, err)
	}
}

// A stranger who sends replies to a datagram has to guess how the name is spelled.
// Where the server does not repeat that it is asked over TCP.
func TestLookupSpellsByChance(t *testing.T) {
	var mu sync.Mutex
	spelled := map[string]bool{}
	s := serveNames(t, func(m *dns.Msg, network string) *dns.Msg {
		mu.Lock()
		defer mu.Unlock()
		if network == "udp" {
			spelled[m.Question[0].Name] = true
			m.Question[0].Name = "a-name-of-many-letters.example."
			return of("$ A 127.0.0.66")(m, network)
		}
		return of("$ A 127.0.0.4")(m, network)
	})
	r := resolving(t, ResolverOptions{Servers: []Server{s.over(UDP)}, Family: IPv4})
	for range 8 {
		got, err := r.Lookup(t.Context(), "a-name-of-many-letters.example")
		if err != nil || !slices.Equal(texts(got), []string{"127.0.0.4"}) {
			t.Fatalf("got %v, %v", texts(got), err)
		}
		r.Forget()
	}
	if len(spelled) < 8 {
		t.Errorf("spelled as %v", spelled)
	}
}

// One connection serves one question after the other, and one that the server
// has closed meanwhile is not noticed.
func TestLookupKeepsConnections(t *testing.T) {
	s := serveNames(t, of("$ A 127.0.0.4"))
	r := asking(t, s.over(TCP))
	for i := range 20 {
		if _, err := r.Lookup(t.Context(), fmt.Sprintf("n%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	n := r.servers()[0]
	if open := len(n.idle); open == 0 || open > maxIdle {
		t.Fatalf("%d connections are kept", open)
	}
	for _, c := range n.idle {
		c.Conn.Conn.(*net.TCPConn).CloseWrite()
	}
	if _, err := r.Lookup(t.Context(), "last.example"); err != nil {
		t.Fatal(err)
	}
}
