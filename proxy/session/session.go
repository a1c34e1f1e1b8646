package session

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"sallyport/proxy/relay"
)

// Session is one client's connection, from the accept to the record that is
// written of it. The exported fields never change, Bytes moves by itself, and
// the rest is set as it becomes known by the one goroutine that lives the
// connection's life, while others look on through Snapshot.
type Session struct {
	ID       string // a random UUID
	Started  time.Time
	Listener string // its name in the configuration
	Source   netip.AddrPort
	Bytes    relay.Counters

	table  *Table
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu        sync.Mutex
	onCut     func()
	stop      func() bool // has it not be called; nil before the first one
	state     State
	heard     bool // what the client has to say is being heard
	protocol  string
	command   string
	packets   *relay.PacketCounters
	identity  string
	failed    bool
	target    Target
	address   netip.AddrPort
	via       []string
	labels    map[string]string
	decisions Decisions
}

// State is how far a session has come.
type State string

// The states, in the order of a life.
const (
	Opening State = "opening" // accepted, not yet granted: handshake, decisions, dialling
	Live    State = "live"    // granted: bytes move, and a new policy may cut it
	Closed  State = "closed"
)

// Target is what the client asked for, as it is decided upon.
type Target struct {
	Host string `json:"host"` // a name or an address, lower case
	Port uint16 `json:"port"`
}

// Snapshot is a session as it was at one moment, as it stands in `/v1/sessions`.
type Snapshot struct {
	ID        string            `json:"id"`
	Listener  string            `json:"listener"`
	State     State             `json:"state"`
	Started   time.Time         `json:"started"`
	Duration  float64           `json:"duration"` // seconds
	Source    netip.AddrPort    `json:"source"`   // "" where the client has no IP address
	Protocol  string            `json:"protocol"` // "" until the handshake has shown it
	Command   string            `json:"command"`  // connect, bind, associate, forward; "" until the client has asked
	Identity  string            `json:"identity"` // "" until authenticated
	Failed    bool              `json:"-"`        // the client's credentials were wrong
	Target    Target            `json:"target"`
	Address   netip.AddrPort    `json:"address"`       // what was dialled; "" until then
	Via       []string          `json:"via,omitempty"` // the upstreams that it goes through, the first one first
	Bytes     Bytes             `json:"bytes"`
	Datagrams *Datagrams        `json:"datagrams,omitempty"` // of a UDP association
	Labels    map[string]string `json:"labels"`
	Decisions Decisions         `json:"decisions"` // an object: stage to decision id
}

// Decisions are the latest ones of the stages that were asked, in the order in
// which they were first asked: a list, since they are four for each session.
type Decisions []Decision

// Decision is the latest one of a stage.
type Decision struct{ Stage, ID string }

// Of is the id of the stage's decision, empty where it was not asked.
func (d Decisions) Of(stage string) string {
	for i := range d {
		if d[i].Stage == stage {
			return d[i].ID
		}
	}
	return ""
}

// MarshalJSON writes an object of stages and ids.
func (d Decisions) MarshalJSON() ([]byte, error) {
	ids := make(map[string]string, len(d))
	for _, of := range d {
		ids[of.Stage] = of.ID
	}
	return json.Marshal(ids)
}

// Bytes is what a session has moved so far.
type Bytes struct {
	Up   int64 `json:"up"`   // client to target
	Down int64 `json:"down"` // target to client
}

// Datagrams is what a UDP association has relayed so far, and what it has not.
type Datagrams struct {
	Up      int64 `json:"up"`
	Down    int64 `json:"down"`
	Dropped int64 `json:"dropped"` // in either direction
}

// Context is cancelled when the session is cut, and when it is closed.
// context.Cause tells which: the cause that Cut was given, or context.Canceled.
func (s *Session) Context() context.Context { return s.ctx }

// OnCut has f called when the session is cut, in the place of what it was given
// before; nil: nothing. It is called on a goroutine of its own, or by OnCut itself
// where the session has been cut already, and may be called again. Of all that is to
// be done then at various times it costs one registration with the context.
func (s *Session) OnCut(f func()) {
	s.mu.Lock()
	s.onCut = f
	if s.stop == nil {
		s.stop = context.AfterFunc(s.ctx, s.hurry)
	}
	s.mu.Unlock()
	if f != nil && s.ctx.Err() != nil {
		f()
	}
}

func (s *Session) hurry() {
	s.mu.Lock()
	f := s.onCut
	s.mu.Unlock()
	if f != nil {
		f()
	}
}

// Hear says whether the client is being heard: from the accept on until it has said
// what it wants, and so for each of several requests.
func (s *Session) Hear(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = on
}

// SetProtocol says what the client speaks: "socks5", "socks4" or "http".
func (s *Session) SetProtocol(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.protocol = name
}

// SetCommand says what the client asks for: "connect", "bind", "associate" or
// "forward".
func (s *Session) SetCommand(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.command = name
}

// Command is what SetCommand has said.
func (s *Session) Command() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.command
}

// CountPackets says where the datagrams of a UDP association are counted.
func (s *Session) CountPackets(n *relay.PacketCounters) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packets = n
}

// SetIdentity says who the client has been found to be.
func (s *Session) SetIdentity(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = name
}

// SetFailed says that the client's credentials were wrong.
func (s *Session) SetFailed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = true
}

// SetTarget says where the client wants to go; after a redirect, where it goes.
func (s *Session) SetTarget(host string, port uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = Target{Host: host, Port: port}
}

// SetAddress says which address was dialled.
func (s *Session) SetAddress(address netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address = address
}

// SetVia says through which upstreams the session goes, the first one first.
func (s *Session) SetVia(upstreams []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setVia(upstreams)
}

// MaxLabels bounds what a policy can have a session keep, which is asked about for
// each of its datagrams' destinations. The record has all of them.
const MaxLabels = 64

func (s *Session) setVia(upstreams []string) {
	if s.state != Closed {
		s.table.through.move(s.via, upstreams)
	}
	s.via = upstreams
}

// AddLabels adds to the session's labels; a later value of the same name wins.
// Beyond MaxLabels names no more are kept.
func (s *Session) AddLabels(labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.labels == nil {
		s.labels = make(map[string]string, len(labels))
	}
	for name, value := range labels {
		if _, known := s.labels[name]; known || len(s.labels) < MaxLabels {
			s.labels[name] = value
		}
	}
}

// Labels are those that AddLabels was given; nil where there are none.
func (s *Session) Labels() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.labels)
}

// Decided remembers the id of a stage's latest decision.
func (s *Session) Decided(stage, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.decisions {
		if s.decisions[i].Stage == stage {
			s.decisions[i].ID = id
			return
		}
	}
	if s.decisions == nil {
		s.decisions = make(Decisions, 0, 4) // as many as a connection asks for
	}
	s.decisions = append(s.decisions, Decision{stage, id})
}

// Renew forgets what was known of the request before this one, on a connection
// that has several: what it asked for and by whom, where it went, its labels, and
// its decisions but that of admit.
func (s *Session) Renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.command, s.identity, s.target, s.address, s.labels = "", "", Target{}, netip.AddrPort{}, nil
	s.setVia(nil)
	s.decisions = slices.DeleteFunc(s.decisions, func(d Decision) bool { return d.Stage != "admit" })
}

// Granted marks the session as granted.
func (s *Session) Granted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Opening {
		s.state = Live
	}
}

// Way returns what the client speaks, where it goes, and which address was
// dialled, as far as that is known.
func (s *Session) Way() (protocol string, target Target, address netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.protocol, s.target, s.address
}

// Snapshot returns the session as it is now.
func (s *Session) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	var datagrams *Datagrams
	if n := s.packets; n != nil {
		datagrams = &Datagrams{Up: n.Up.Load(), Down: n.Down.Load(), Dropped: n.Dropped.Load()}
	}
	return Snapshot{
		ID:        s.ID,
		Listener:  s.Listener,
		State:     s.state,
		Started:   s.Started,
		Duration:  time.Since(s.Started).Seconds(),
		Source:    s.Source,
		Protocol:  s.protocol,
		Command:   s.command,
		Datagrams: datagrams,
		Identity:  s.identity,
		Failed:    s.failed,
		Target:    s.target,
		Address:   s.address,
		Via:       s.via,
		Bytes:     Bytes{Up: s.Bytes.Up.Load(), Down: s.Bytes.Down.Load()},
		Labels:    copied(s.labels),
		Decisions: slices.Clone(s.decisions),
	}
}

// copied is never nil, so that JSON has an object.
func copied(m map[string]string) map[string]string {
	c := make(map[string]string, len(m))
	maps.Copy(c, m)
	return c
}

// Close takes the session out of the table and cancels its context. What it has
// been can still be read. Closing it again does nothing.
func (s *Session) Close() {
	s.mu.Lock()
	if s.state != Closed {
		s.table.through.move(s.via, nil)
	}
	s.state = Closed
	stop := s.stop
	s.mu.Unlock()
	s.table.remove(s)
	if stop != nil {
		stop()
	}
	s.cancel(nil)
}

// newID returns a UUID of version 4 (RFC 9562, section 5.4). It names a session
// and opens nothing, so it need not be hard to guess.
func newID() string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], rand.Uint64())
	binary.BigEndian.PutUint64(raw[8:], rand.Uint64())
	raw[6] = raw[6]&0x0f | 0x40
	raw[8] = raw[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], raw[0:4])
	hex.Encode(text[9:13], raw[4:6])
	hex.Encode(text[14:18], raw[6:8])
	hex.Encode(text[19:23], raw[8:10])
	hex.Encode(text[24:36], raw[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
