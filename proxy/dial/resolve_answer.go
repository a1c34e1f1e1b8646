package dial

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// maxAliases bounds a chain of CNAMEs.
const maxAliases = 12

// answer is what is known in answer to a question: addresses, or why there are
// none. Nobody changes one that has been given away.
type answer struct {
	addresses []netip.Addr
	names     []string     // that the question's name is an alias of
	failure   *LookupError // where there is no address
	ttl       time.Duration
	bounded   bool      // the servers say for how long: of those without addresses
	until     time.Time // it is kept
}

func failed(outcome, text string, class error) *answer {
	return &answer{failure: &LookupError{Outcome: outcome, class: class, text: text}}
}

// readAnswer takes in what a server says in reply to a question, as far as it
// is to be believed: the records of the question's name, and of the names that it
// is an alias of by records of the same reply. All else that is said there, be
// it about other names or meant to help, is left alone.
func readAnswer(q question, m *dns.Msg) *answer {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return failed(outcomeOf(m.Rcode), "the server says "+rcodeName(m)+explanation(m), ErrResolveFailed)
	}
	a := &answer{ttl: 1<<31*time.Second - 1}
	owner := q.name
	for {
		alias, err := a.step(q, owner, m.Answer)
		if err != nil {
			return failed("malformed", err.Error(), ErrResolveFailed)
		}
		if alias == "" {
			break
		}
		name := strings.TrimSuffix(alias, ".")
		switch {
		case slices.Contains(a.names, name):
			return failed("malformed", "the server's answer is a loop of aliases", ErrResolveFailed)
		case len(a.names) == maxAliases:
			return failed("malformed", "the server's answer is too long a chain of aliases", ErrResolveFailed)
		case !isHostName(name):
			return failed("malformed", "the server's answer has an alias that is no host name", ErrResolveFailed)
		}
		a.names = append(a.names, name)
		owner = alias
	}
	if len(a.addresses) > 0 && m.Rcode == dns.RcodeSuccess {
		return a
	}
	a.addresses = nil
	a.failure = noAddress()
	if m.Rcode == dns.RcodeNameError {
		a.failure = unresolved("nxdomain", "does not exist (NXDOMAIN)")
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok && soa.Hdr.Class == dns.ClassINET && dns.IsSubDomain(soa.Hdr.Name, owner) {
			a.lasts(soa.Hdr.Ttl)
			a.lasts(soa.Minttl)
			a.bounded = true
		}
	}
	return a
}

// step reads the records of one owner: its addresses, or the name that it is an
// alias of.
func (a *answer) step(q question, owner string, records []dns.RR) (alias string, err error) {
	for _, rr := range records {
		h := rr.Header()
		if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, owner) {
			continue
		}
		var ip netip.Addr
		switch rr := rr.(type) {
		case *dns.CNAME:
			to := strings.ToLower(rr.Target)
			if alias != "" && alias != to {
				return "", fmt.Errorf("the server's answer has two aliases for one name")
			}
			alias = to
		case *dns.A:
			if q.kind == dns.TypeA {
				ip, _ = netip.AddrFromSlice(rr.A)
			}
		case *dns.AAAA:
			if q.kind == dns.TypeAAAA {
				ip, _ = netip.AddrFromSlice(rr.AAAA)
			}
		default:
			continue
		}
		a.lasts(h.Ttl)
		if ip = ip.Unmap(); ip.IsValid() && len(a.addresses) < maxAddresses && !slices.Contains(a.addresses, ip) {
			a.addresses = append(a.addresses, ip)
		}
	}
	if alias != "" && len(a.addresses) > 0 {
		return "", fmt.Errorf("the server's answer has an alias and addresses for one name")
	}
	return alias, nil
}

// lasts takes in for how long a record is good. The most significant bit is
// never right, and then stands for 0 (RFC 2181, section 8).
func (a *answer) lasts(seconds uint32) {
	if seconds > 1<<31-1 {
		seconds = 0
	}
	a.ttl = min(a.ttl, time.Duration(seconds)*time.Second)
}

// isHostName tells names that can be those of hosts from all else that the DNS
// may hold, and that a policy might take for another. Underscores are in use.
func isHostName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

// outcomeOf names the failure of a server, for logs and metrics.
func outcomeOf(rcode int) string {
	switch rcode {
	case dns.RcodeServerFailure:
		return "servfail"
	case dns.RcodeRefused:
		return "refused"
	}
	return "failed"
}

func rcodeName(m *dns.Msg) string {
	if name, ok := dns.RcodeToString[m.Rcode]; ok {
		return name
	}
	return fmt.Sprintf("code %d", m.Rcode)
}

// explanation is what a server says of its failure (RFC 8914), by its code only.
func explanation(m *dns.Msg) string {
	opt := m.IsEdns0()
	if opt == nil {
		return ""
	}
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			if text, known := dns.ExtendedErrorCodeToString[e.InfoCode]; known {
				return ": " + text
			}
		}
	}
	return ""
}
