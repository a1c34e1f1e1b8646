package dial

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Transport is how a server is spoken to.
type Transport string

// The transports.
const (
	UDP   Transport = "udp"   // and TCP for what does not fit
	TCP   Transport = "tcp"   // RFC 7766
	TLS   Transport = "tls"   // RFC 7858
	HTTPS Transport = "https" // RFC 8484
)

// Server is one name server. It is reached by its address; nothing is looked up
// for that.
type Server struct {
	Transport Transport
	Address   netip.AddrPort
	Name      string // that its certificate has to have; "": its address
	Path      string // of HTTPS, as it stands in a URL
}

func (s Server) String() string { return string(s.Transport) + " " + s.Address.String() }

const (
	// udpSize is the largest datagram that is asked for: it is not fragmented on
	// any path of today.
	udpSize = 1232

	// sickFor is how long a server that was silent is asked after the others.
	sickFor = 30 * time.Second

	maxIdle  = 4 // connections to one server
	idleKept = 10 * time.Second
)

// nameServer is a server with the connections to it.
type nameServer struct {
	Server
	tls  *tls.Config
	http *http.Transport // of HTTPS
	sick atomic.Int64    // until then, in ns

	mu   sync.Mutex
	idle []idleConn
}

type idleConn struct {
	*dns.Conn
	since time.Time
}

// configured returns the function that has the servers to ask.
func configured(o ResolverOptions) func() []*nameServer {
	open := func(servers []Server) []*nameServer {
		var all []*nameServer
		for _, s := range servers {
			all = append(all, newNameServer(s, o))
		}
		return all
	}
	if len(o.Servers) == 0 {
		return polled(resolvPath, func(file []byte) []*nameServer { return open(parseResolv(file)) })
	}
	all := open(o.Servers)
	return func() []*nameServer { return all }
}

func newNameServer(s Server, o ResolverOptions) *nameServer {
	n := &nameServer{Server: s}
	name := s.Name
	if name == "" {
		name = s.Address.Addr().WithZone("").String()
	}
	if s.Transport == TLS || s.Transport == HTTPS {
		n.tls = &tls.Config{
			ServerName: name, RootCAs: o.Roots, MinVersion: tls.VersionTLS12,
			ClientSessionCache: tls.NewLRUClientSessionCache(8),
		}
	}
	if s.Transport == HTTPS {
		n.http = &http.Transport{
			Proxy: nil, // whatever the environment says: the way to a server is the operator's
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", s.Address.String())
			},
			TLSClientConfig: n.tls, ForceAttemptHTTP2: true, DisableCompression: true,
			MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleKept, MaxResponseHeaderBytes: 16 << 10,
		}
	}
	return n
}

func (s *nameServer) close() {
	if s.http != nil {
		s.http.CloseIdleConnections()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.idle {
		c.Close()
	}
	s.idle = nil
}

// byHealth is the servers in their order, but those that were silent just now
// after the others.
func byHealth(servers []*nameServer, now time.Time) []*nameServer {
	sick := func(s *nameServer) bool { return s.sick.Load() > now.UnixNano() }
	ordered := slices.Clone(servers)
	slices.SortStableFunc(ordered, func(a, b *nameServer) int {
		switch {
		case sick(a) == sick(b):
			return 0
		case sick(b):
			return -1
		}
		return 1
	})
	return ordered
}

// answer asks the server once.
func (s *nameServer) answer(ctx context.Context, q question, patience time.Duration) *answer {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	reply, err := s.exchange(limited, q)
	if err == nil {
		s.sick.Store(0)
		a := readAnswer(q, reply)
		if a.failure != nil {
			a.failure.server = s.String()
		}
		return a
	}
	a := failed("unreachable", err.Error(), ErrResolveFailed)
	var timeout net.Error
	switch {
	case errors.Is(err, errReply):
		a = failed("malformed", err.Error(), ErrResolveFailed)
	case limited.Err() != nil, errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		a = failed("timeout", "the server is silent", ErrResolveTimeout)
	}
	if ctx.Err() == nil {
		s.sick.Store(time.Now().Add(sickFor).UnixNano())
	}
	a.failure.server = s.String()
	return a
}

// errReply is that a server's reply makes no sense.
var errReply = errors.New("the server's reply is of no use")

// exchange asks the server, and returns a reply that is one to the question.
func (s *nameServer) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	query := new(dns.Msg)
	query.SetQuestion(q.name, q.kind)
	query.SetEdns0(udpSize, false)
	if s.tls != nil {
		pad(query)
	}
	reply, err := s.send(ctx, query)
	if err == nil && (reply.Rcode == dns.RcodeFormatError || reply.Rcode == dns.RcodeNotImplemented) && reply.IsEdns0() == nil {
		query.Extra = nil // it has not heard of EDNS (RFC 6891, section 7)
		reply, err = s.send(ctx, query)
	}
	return reply, err
}

// pad makes a query that nobody else can read as long as others, so that its length
// does not tell the name (RFC 8467, section 4.1).
func pad(query *dns.Msg) {
	const block, header = 128, 4
	opt := query.IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_PADDING{Padding: make([]byte, block-1-(query.Len()+header-1)%block)})
}

func (s *nameServer) send(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	switch s.Transport {
	case HTTPS:
		return s.overHTTPS(ctx, query)
	case UDP:
		reply, err := s.overUDP(ctx, query)
		if reply != nil || err != nil {
			return reply, err
		}
	}
	return s.overStream(ctx, query)
}

// overUDP asks by a datagram from a port of its own. What arrives there and is no
// reply to the question may be anybody's, and is passed over. Neither reply nor
// error is that TCP is needed: there is more than fits, or the server does not
// repeat how the name was spelled, which a stranger would have to guess.
func (s *nameServer) overUDP(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.Address))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer hurry(ctx, conn)()
	spelled := *query
	spelled.Question = slices.Clone(query.Question)
	spelled.Question[0].Name = respell(query.Question[0].Name)
	packed, err := spelled.Pack()
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(packed); err != nil {
		return nil, err
	}
	buffer := make([]byte, 4096)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, err
		}
		reply := new(dns.Msg)
		if reply.Unpack(buffer[:n]) != nil && !reply.Truncated || !repliesTo(query, reply) {
			continue
		}
		if reply.Truncated || reply.Question[0].Name != spelled.Question[0].Name {
			return nil, nil
		}
		return reply, nil
	}
}

// respell writes each letter of a name large or small by chance.
func respell(name string) string {
	spelled := []byte(name)
	for i, c := range spelled {
		if 'a' <= c && c <= 'z' && rand.Uint32()&1 == 0 {
			spelled[i] = c - 'a' + 'A'
		}
	}
	return string(spelled)
}

// repliesTo tells whether a message is a reply to a question.
func repliesTo(query, reply *dns.Msg) bool {
	if !reply.Response || reply.Id != query.Id || reply.Opcode != dns.OpcodeQuery || len(reply.Question) != 1 {
		return false
	}
	asked, said := query.Question[0], reply.Question[0]
	return said.Qtype == asked.Qtype && said.Qclass == asked.Qclass && strings.EqualFold(said.Name, asked.Name)
}

// overStream asks over TCP or TLS, by a connection that is there already if that
// works still.
func (s *nameServer) overStream(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	if c := s.takeIdle(); c != nil {
		reply, err := s.converse(ctx, c, query)
		if err == nil || ctx.Err() != nil || errors.Is(err, errReply) {
			return reply, err
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Address.String())
	if err != nil {
		return nil, err
	}
	if s.Transport == TLS {
		secure := tls.Client(conn, s.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = secure
	}
	return s.converse(ctx, &dns.Conn{Conn: conn}, query)
}

// converse asks by a connection, which is kept if all went well.
func (s *nameServer) converse(ctx context.Context, c *dns.Conn, query *dns.Msg) (*dns.Msg, error) {
	relax := hurry(ctx, c)
	reply, err := func() (*dns.Msg, error) {
		if err := c.WriteMsg(query); err != nil {
			return nil, err
		}
		reply, err := c.ReadMsg()
		var wire *dns.Error
		switch {
		case errors.As(err, &wire):
			return nil, fmt.Errorf("%w: %w", errReply, err)
		case err != nil:
			return nil, err
		case !repliesTo(query, reply) || reply.Truncated:
			return nil, errReply
		}
		return reply, nil
	}()
	relax()
	if err != nil || ctx.Err() != nil {
		c.Close()
		return reply, err
	}
	s.putIdle(c)
	return reply, nil
}

// hurry lets a connection wait no longer than ctx, until the function that it
// returns is called.
func hurry(ctx context.Context, c interface{ SetDeadline(time.Time) error }) func() {
	if end, ok := ctx.Deadline(); ok {
		c.SetDeadline(end)
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

func (s *nameServer) takeIdle() *dns.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.idle) > 0 {
		last := s.idle[len(s.idle)-1]
		s.idle = s.idle[:len(s.idle)-1]
		if time.Since(last.since) < idleKept {
			return last.Conn
		}
		last.Close()
	}
	return nil
}

func (s *nameServer) putIdle(c *dns.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.idle) > 0 && (len(s.idle) >= maxIdle || time.Since(s.idle[0].since) >= idleKept) {
		s.idle[0].Close()
		s.idle = s.idle[1:]
	}
	s.idle = append(s.idle, idleConn{c, time.Now()})
}

// overHTTPS asks by POST, with the id 0 as RFC 8484 has it (section 4.1).
func (s *nameServer) overHTTPS(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	const media = "application/dns-message"
	query.Id = 0
	packed, err := query.Pack()
	if err != nil {
		return nil, err
	}
	host := net.JoinHostPort(s.tls.ServerName, fmt.Sprint(s.Address.Port()))
	if s.Address.Port() == 443 {
		host = strings.TrimSuffix(host, ":443")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+s.Path, bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", media)
	request.Header.Set("Accept", media)
	response, err := s.http.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != media {
		return nil, fmt.Errorf("%w: HTTP status %d", errReply, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, dns.MaxMsgSize+1))
	if err != nil {
		return nil, err
	}
	reply := new(dns.Msg)
	if err := reply.Unpack(body); err != nil || len(body) > dns.MaxMsgSize {
		return nil, fmt.Errorf("%w: no message", errReply)
	}
	if !repliesTo(query, reply) || reply.Truncated {
		return nil, errReply
	}
	return reply, nil
}
