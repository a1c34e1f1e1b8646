package guard

import (
	"cmp"
	"container/heap"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Subject is whom a ban is of: a prefix of addresses, a user of this machine who
// comes by a unix socket, an identity, or a name that is claimed and not proved.
// The zero value is nobody.
type Subject struct {
	prefix netip.Prefix
	name   string // of all but a prefix: its kind, a colon, and who
}

// Of is the subject that a prefix of addresses is.
func Of(p netip.Prefix) Subject { return Subject{prefix: p.Masked()} }

// Subject is whom a ban of the source is of: its address, of IPv6 its /64, or
// the user who has connected to a unix socket.
func (s Source) Subject() Subject {
	if !s.ip.IsValid() {
		return Subject{name: "uid:" + strconv.FormatInt(s.uid, 10)}
	}
	bits := 32
	if s.ip.Is6() {
		bits = 64
	}
	return Of(netip.PrefixFrom(s.ip, bits))
}

// Identity is the subject that an identity is. Claimed says that nothing proves
// the name.
func Identity(name string, claimed bool) Subject {
	const most = 256 // bytes: a stranger may choose the name
	if len(name) > most {
		name = fmt.Sprintf("%s…%x", strings.ToValidUTF8(name[:most/2], ""), sha256.Sum256([]byte(name)))
	}
	if claimed {
		return Subject{name: "claimed:" + name}
	}
	return Subject{name: "identity:" + name}
}

// ParseSubject reads a subject's text: a prefix, an address (of IPv6 that is its
// /64, as it is of a source), identity:NAME, claimed:NAME, or uid:NUMBER. With
// -escaped behind identity or claimed, NAME is percent-encoded (RFC 3986, section
// 2.1), as [Subject.Text] writes one.
func ParseSubject(text string) (Subject, error) {
	kind, name, _ := strings.Cut(text, ":")
	if plain, ok := strings.CutSuffix(kind, escaped); ok && (plain == "identity" || plain == "claimed") {
		decoded, err := url.PathUnescape(name)
		if err != nil {
			return Subject{}, fmt.Errorf("%s: want %% before two hexadecimal digits only", kind)
		}
		kind, name = plain, decoded
	}
	switch kind {
	case "identity", "claimed":
		if name == "" {
			return Subject{}, fmt.Errorf("%s: a name is missing", kind)
		}
		return Identity(name, kind == "claimed"), nil
	case "uid":
		n, err := strconv.ParseInt(name, 10, 64)
		if err != nil || n < -1 || n > math.MaxUint32 { // -1: nobody knows who it is
			return Subject{}, errors.New("uid: a number is missing")
		}
		return User(n).Subject(), nil
	}
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		return Address(ip).Subject(), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return Subject{}, errors.New("want an address, a prefix such as 192.0.2.0/24, identity:NAME, claimed:NAME or uid:NUMBER")
	}
	return Of(p), nil
}

// String is the text that [ParseSubject] reads. A name in it is as it was sent, and
// may be no UTF-8: see [Subject.Text].
func (s Subject) String() string {
	if s.prefix.IsValid() {
		return s.prefix.String()
	}
	return s.name
}

// escaped is behind the kind of a name that is percent-encoded.
const escaped = "-escaped"

// Text is what [ParseSubject] reads as well, for places where only UTF-8 goes, such
// as JSON: a name that is none is percent-encoded, as in identity-escaped:caf%E9.
func (s Subject) Text() string {
	if utf8.ValidString(s.name) {
		return s.String()
	}
	kind, name, _ := strings.Cut(s.name, ":")
	return kind + escaped + ":" + url.PathEscape(name)
}

// Ban is that somebody is refused until a time.
type Ban struct {
	Of      Subject
	Until   time.Time // zero: until it is lifted
	Since   time.Time
	Cause   string // who or what has set it, for the operator
	Refused int64  // connections and requests, so far
}

// Left is for how much longer; at least a second.
func (b *Ban) Left(now time.Time) time.Duration {
	if b.Until.IsZero() {
		return day
	}
	return max(b.Until.Sub(now), time.Second)
}

// ErrBansFull is that no other ban is taken: all are to last longer.
var ErrBansFull = errors.New("as many bans are in force as may be, and all of them last longer")

// bans are those in force, at most size. Where that is too few, the one that
// ends first gives way, and that may be the new one. So however many sources
// earn a ban, those that are to last longer stay.
type bans struct {
	size int
	any  atomic.Bool // there may be some: asking costs nothing where there is none

	mu      sync.RWMutex
	of      map[Subject]*banned
	ends    ends
	lengths [2][129]int // how many bans there are of prefixes so long, of IPv4 and IPv6

	keeping
}

type banned struct {
	Ban
	refused atomic.Int64
	told    budget
	at      int // its place in the heap
}

// ends is a heap, the ban that ends first on top.
type ends []*banned

func (e ends) Len() int { return len(e) }
func (e ends) Less(i, j int) bool {
	return !e[i].Until.IsZero() && (e[j].Until.IsZero() || e[i].Until.Before(e[j].Until))
}
func (e ends) Swap(i, j int) { e[i], e[j] = e[j], e[i]; e[i].at, e[j].at = i, j }
func (e *ends) Push(x any)   { b := x.(*banned); b.at = len(*e); *e = append(*e, b) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	(*e)[len(*e)-1] = nil
	*e = (*e)[:len(*e)-1]
	return last
}

// Ban refuses the subject from now on for so long; 0 is until it is lifted. A
// ban that would end sooner than the one in force changes nothing. It is in force
// at once, and kept a moment later: [Guard.Keep].
func (g *Guard) Ban(of Subject, long time.Duration, cause string) error {
	now := time.Now()
	b := &Ban{Of: of, Since: now, Cause: cause}
	if long > 0 {
		b.Until = now.Add(long)
	}
	s := &g.bans
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	if old := s.of[of]; old != nil && (ends{&banned{Ban: *b}, old}).Less(0, 1) {
		return nil
	}
	return s.replace(b)
}

// replace puts a ban in force instead of the one that there is of its subject.
func (s *bans) replace(ban *Ban) error {
	b := &banned{Ban: *ban}
	b.Cause = clip(b.Cause)
	if old := s.of[b.Of]; old != nil {
		b.refused.Store(old.refused.Load())
		if old.Since.Before(b.Since) {
			b.Since = old.Since
		}
		s.drop(old)
	}
	s.any.Store(true)
	s.of[b.Of] = b
	s.count(b.Of, 1)
	heap.Push(&s.ends, b)
	s.touched(b.Of)
	if len(s.ends) > s.size {
		first := s.ends[0]
		s.drop(first)
		if first == b {
			return ErrBansFull
		}
	}
	return nil
}

// clip bounds what is remembered of a cause.
func clip(cause string) string {
	const most = 1 << 10 // bytes
	if len(cause) <= most {
		return cause
	}
	return strings.ToValidUTF8(cause[:most], "") + "…"
}

// Bans are those in force, those that end first first.
func (g *Guard) Bans() []Ban {
	list := g.bans.list()
	type named struct {
		name string
		at   int
	}
	order := make([]named, len(list)) // there may be many, and many that never end
	for i := range list {
		order[i] = named{list[i].Of.String(), i}
	}
	slices.SortFunc(order, func(x, y named) int {
		a, b := list[x.at].Until, list[y.at].Until
		switch {
		case a.IsZero() && !b.IsZero():
			return 1
		case b.IsZero() && !a.IsZero():
			return -1
		}
		return cmp.Or(a.Compare(b), cmp.Compare(x.name, y.name))
	})
	sorted := make([]Ban, len(list))
	for i := range order {
		sorted[i] = list[order[i].at]
	}
	return sorted
}

// list has them in any order: who sorts them needs no lock, and keeps nobody waiting.
func (s *bans) list() []Ban {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(time.Now())
	list := make([]Ban, len(s.ends))
	for i, b := range s.ends {
		list[i] = b.Ban
		list[i].Refused = b.refused.Load()
	}
	return list
}

// ActiveBans is how many are in force.
func (g *Guard) ActiveBans() int64 {
	s := &g.bans
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(time.Now())
	return int64(len(s.ends))
}

// Banned is the refusal of a source that is banned, or nil.
func (g *Guard) Banned(source Source) *Refusal {
	s := &g.bans
	if !s.any.Load() {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !source.ip.IsValid() {
		return s.refuse(s.of[source.Subject()])
	}
	var last *banned
	family := 0
	if source.ip.Is6() {
		family = 1
	}
	for bits, count := range s.lengths[family][:source.ip.BitLen()+1] {
		if count == 0 {
			continue
		}
		p, err := source.ip.Prefix(bits)
		if err != nil {
			continue
		}
		if b := s.of[Subject{prefix: p}]; b != nil && (last == nil || !(ends{b, last}).Less(0, 1)) {
			last = b
		}
	}
	return s.refuse(last)
}

// BannedIdentity is the same of an identity.
func (g *Guard) BannedIdentity(of Subject) *Refusal {
	s := &g.bans
	if !s.any.Load() {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.refuse(s.of[of])
}

func (s *bans) refuse(b *banned) *Refusal {
	now := time.Now()
	if b == nil || !b.Until.IsZero() && !now.Before(b.Until) {
		return nil
	}
	b.refused.Add(1)
	return &Refusal{Cause: "ban", Of: b.Of, Retry: b.Left(now), Tell: b.told.spend(now)}
}

// expire drops the bans that are over.
func (s *bans) expire(now time.Time) {
	for len(s.ends) > 0 && !s.ends[0].Until.IsZero() && !now.Before(s.ends[0].Until) {
		s.drop(s.ends[0])
	}
}

func (s *bans) drop(b *banned) {
	heap.Remove(&s.ends, b.at)
	delete(s.of, b.Of)
	s.count(b.Of, -1)
	s.any.Store(len(s.ends) > 0)
	s.touched(b.Of)
}

func (s *bans) count(of Subject, n int) {
	if of.prefix.IsValid() {
		family := 0
		if of.prefix.Addr().Is6() {
			family = 1
		}
		s.lengths[family][of.prefix.Bits()] += n
	}
}
