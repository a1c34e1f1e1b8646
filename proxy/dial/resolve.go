package dial

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/miekg/dns"
)

// Family says which addresses of a name are wanted.
type Family string

// The families. Of those that name none, both are looked up at once.
const (
	AnyFamily  Family = "any" // IPv6 first where this machine has a way there
	PreferIPv4 Family = "prefer_ipv4"
	PreferIPv6 Family = "prefer_ipv6"
	IPv4       Family = "ipv4" // and no other
	IPv6       Family = "ipv6"
)

const (
	// maxAddresses bounds, for each family, what one name can make us ask the
	// policy about and dial. Neither family can crowd the other out.
	maxAddresses = 16

	// maxQuestions bounds the questions that are being asked at once; a name is
	// two of them. Others wait.
	maxQuestions = 512

	// resolutionDelay is how long a look-up that has addresses of one family waits
	// for the other (RFC 8305, section 3). It is longer than the 50 ms that are
	// recommended there, for servers that have to ask far away.
	resolutionDelay = 200 * time.Millisecond

	// failureKept is for how long a question that no server could answer is not
	// asked again (RFC 9520, section 3.2).
	failureKept = 5 * time.Second
)

// ResolverOptions is what the operator says of look-ups.
type ResolverOptions struct {
	Servers []Server       // asked in this order; none: those of /etc/resolv.conf
	Roots   *x509.CertPool // of servers that are asked over TLS; nil: the system's
	Family  Family         // "": any
	Timeout time.Duration  // of one exchange with one server

	Entries     int           // answers that are kept; 0: none
	MinTTL      time.Duration // how long an answer is kept at least
	MaxTTL      time.Duration // and at most
	NegativeTTL time.Duration // how long at most it is kept that there is none
}

// Resolver looks up names of targets, and keeps what it has found as long as
// that may be. The zero value is of no use; see NewResolver.
type Resolver struct {
	options ResolverOptions
	servers func() []*nameServer
	hosts   func() map[string][]netip.Addr
	ask     func(ctx context.Context, q question) *answer // asks the servers; tests have their own
	kept    *lru.Cache[question, *answer]                 // nil: nothing is kept

	ctx     context.Context // of all questions
	end     context.CancelFunc
	running sync.WaitGroup
	slots   chan struct{}

	mu      sync.Mutex
	flights map[question]*flight
}

// question is what is asked of a server: a name in lower case with its last
// dot, and the type of record.
type question struct {
	name string
	kind uint16
}

// Address is one address that a name leads to, and by which names: those that
// it is an alias of (CNAME), the canonical one last. Names are in lower case and
// without the last dot; there are at most 12 of them, and mostly none.
type Address struct {
	IP    netip.Addr
	Names []string
}

// Found is what a look-up has found.
type Found struct {
	Addresses []Address
	Cached    bool // no server was asked
}

// NewResolver returns a resolver. It must be closed.
func NewResolver(o ResolverOptions) *Resolver {
	r := &Resolver{options: o, flights: map[question]*flight{}, slots: make(chan struct{}, maxQuestions)}
	r.ctx, r.end = context.WithCancel(context.Background())
	r.servers = configured(o)
	r.hosts = polled(hostsPath, parseHosts)
	r.ask = r.askServers
	if o.Entries > 0 {
		r.kept, _ = lru.New[question, *answer](o.Entries) // fails for sizes below 1
	}
	return r
}

// Close calls off what is being asked.
func (r *Resolver) Close() {
	r.end()
	r.running.Wait()
	for _, s := range r.servers() {
		s.close()
	}
}

// Forget drops every answer that is kept.
func (r *Resolver) Forget() {
	if r.kept != nil {
		r.kept.Purge()
	}
}

// Lookup returns the addresses of a name: those of /etc/hosts, or else what the
// servers answer. They are of the families that are configured, the preferred
// one first; IPv4 ones are so, each stands there once, without a zone, and at
// most 16 of a family. The name is absolute: search domains are never tried.
// Names that are not for the DNS are never sent there (RFC 6761, RFC 7686).
//
// The error is a *LookupError, or a context.Canceled. Found.Cached is right with
// an error, too.
func (r *Resolver) Lookup(ctx context.Context, name string) (Found, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if !isHostName(name) {
		return Found{Cached: true}, unresolved("invalid", "is no domain name")
	}
	if local, err := r.local(name); local != nil || err != nil {
		return Found{Addresses: r.ordered(local), Cached: true}, err
	}
	kinds := r.options.Family.kinds()
	answers := make([]*answer, len(kinds))
	cached := true
	for i, kind := range kinds {
		if answers[i] = r.remembered(question{name + ".", kind}); answers[i] == nil {
			cached = false
		}
	}
	if !cached {
		if err := r.gather(ctx, name+".", kinds, answers); err != nil {
			return Found{}, err
		}
	}
	addresses, err := r.join(answers)
	return Found{Addresses: addresses, Cached: cached}, err
}

// kinds are the types of records that a family's addresses are in.
func (f Family) kinds() []uint16 {
	switch f {
	case IPv4:
		return []uint16{dns.TypeA}
	case IPv6:
		return []uint16{dns.TypeAAAA}
	}
	return []uint16{dns.TypeAAAA, dns.TypeA}
}

// gather waits for the answers that are missing. One that has addresses is not
// kept waiting for another for long, which is then left to be remembered.
func (r *Resolver) gather(ctx context.Context, name string, kinds []uint16, answers []*answer) error {
	var flights [2]*flight
	var done [2]<-chan struct{}
	waiting, enough := 0, false
	for i, kind := range kinds {
		if answers[i] == nil {
			flights[i] = r.fly(question{name, kind})
			done[i] = flights[i].done
			waiting++
		} else if len(answers[i].addresses) > 0 {
			enough = true
		}
	}
	var hurry <-chan time.Time
	for waiting > 0 {
		if enough && hurry == nil {
			timer := time.NewTimer(resolutionDelay)
			defer timer.Stop()
			hurry = timer.C
		}
		landed := 0
		select {
		case <-done[0]:
		case <-done[1]:
			landed = 1
		case <-hurry:
			return nil
		case <-ctx.Done():
			for i, f := range flights {
				if done[i] != nil {
					r.leave(f)
				}
			}
			if enough {
				return nil
			}
			return calledOff(ctx)
		}
		answers[landed] = flights[landed].answer
		done[landed] = nil
		waiting--
		enough = enough || len(answers[landed].addresses) > 0
	}
	return nil
}

func calledOff(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("look up: %w", context.Canceled)
	}
	return &LookupError{Outcome: "timeout", class: ErrResolveTimeout, text: "no server has answered in time"}
}

// join makes one list of what was found for each family. That of one is enough;
// where there is none, the failure of a server counts more than that a family
// has no address, since the other may have some.
func (r *Resolver) join(answers []*answer) ([]Address, error) {
	var all []Address
	var worst *LookupError
	for _, a := range answers {
		if a == nil { // not waited for
			continue
		}
		for _, ip := range a.addresses {
			all = append(all, Address{ip, a.names})
		}
		if a.failure != nil && (worst == nil || a.failure.rank() > worst.rank()) {
			worst = a.failure
		}
	}
	if all = r.ordered(all); len(all) > 0 {
		return all, nil
	}
	if worst == nil { // what there is of IPv6 are IPv4 addresses
		worst = noAddress()
	}
	return nil, worst
}

// ordered brings addresses into the order in which they are to be tried. Those
// of a family are shuffled, as servers would do it for each question.
func (r *Resolver) ordered(all []Address) []Address {
	var v4, v6 []Address
	for _, a := range all {
		family := &v6
		if a.IP = a.IP.Unmap().WithZone(""); a.IP.Is4() {
			family = &v4
		}
		if len(*family) < maxAddresses && !contains(*family, a.IP) {
			*family = append(*family, a)
		}
	}
	for _, family := range [][]Address{v4, v6} {
		rand.Shuffle(len(family), func(i, j int) { family[i], family[j] = family[j], family[i] })
	}
	switch r.options.Family {
	case IPv4:
		return v4
	case IPv6:
		return v6
	case PreferIPv4:
		return append(v4, v6...)
	case PreferIPv6:
		return append(v6, v4...)
	}
	if len(v4) > 0 && len(v6) > 0 && !wayTo(v6[0].IP) {
		return append(v4, v6...)
	}
	return append(v6, v4...)
}

func contains(addresses []Address, ip netip.Addr) bool {
	for _, a := range addresses {
		if a.IP == ip {
			return true
		}
	}
	return false
}

// wayTo tells whether this machine has an address that an IPv6 one can be reached
// from: rules 1, 2 and 5 of RFC 6724, section 6, as far as they choose the family.
func wayTo(ip netip.Addr) bool {
	from, err := LocalFor(ip)
	return err == nil && from.IsPrivate() == ip.IsPrivate() && from.IsLinkLocalUnicast() == ip.IsLinkLocalUnicast()
}

// askServers asks one server after the other, and those that are silent once
// more: a datagram may have been lost. What a server says of a name holds, that
// it is unknown too.
func (r *Resolver) askServers(ctx context.Context, q question) *answer {
	servers := byHealth(r.servers(), time.Now())
	silent := make([]bool, len(servers))
	var worst *answer
	for round := range 2 {
		for i, s := range servers {
			if round > 0 && !silent[i] {
				continue
			}
			a := s.answer(ctx, q, r.options.Timeout)
			if a.failure == nil || a.failure.class == ErrUnresolved || ctx.Err() != nil {
				return a
			}
			silent[i] = a.failure.class == ErrResolveTimeout
			if worst == nil || a.failure.rank() > worst.failure.rank() {
				worst = a
			}
		}
	}
	return cmp.Or(worst, failed("unreachable", "there is no server to ask", ErrResolveFailed))
}
