package proxy

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"sallyport/policy"
	"sallyport/proxy/guard"
	"sallyport/proxy/relay"
	"sallyport/proxy/usage"
)

// meter.go is what is told of a session to the ledger: whose it is, once that is
// known, and what its relay's counters count is for.

// charge has what the session uses put on somebody's account, until discharge or the
// end.
func (l *life) charge(to guard.Subject, proof bool) {
	l.account = l.proxy.Usage.Enter(to.String(), proof)
}

// discharge ends that, for the next request's sake.
func (l *life) discharge() {
	if l.account != nil {
		l.proxy.Usage.Leave(l.account)
		l.account, l.payer = nil, ""
	}
}

// holdQuota holds the client against the quota of the decision about it.
func (l *life) holdQuota(q policy.Quota) error {
	if l.account == nil && q != (policy.Quota{}) { // one without a name is held by its source
		l.charge(l.source.Subject(), false)
	}
	if l.account == nil {
		return nil
	}
	if wait := l.account.Hold(q); wait > 0 {
		return &guard.Refusal{Cause: "limit", Retry: wait, Tell: true}
	}
	return nil
}

// accountOnce is what an identity had used when a request was asked about.
type accountOnce struct {
	account *usage.Account
	once    sync.Once
	used    policy.Usage
}

func (a *accountOnce) Usage() policy.Usage {
	a.once.Do(func() { a.used = a.account.Usage() })
	return a.used
}

// budget is what the session draws its bytes from; nil: there is no account.
func (l *life) budget() relay.Budget {
	if l.account == nil {
		return nil
	}
	return l.account
}

// meterOn has the session's bytes counted from now on, for what is known of it.
func (l *life) meterOn() {
	_, to, address := l.session.Way()
	ip := address.Addr()
	if len(l.way.hops) > 0 {
		ip = l.way.pinned
	}
	of := l.countedFor(to.Host, ip)
	of[usage.Upstream] = direct
	if len(l.way.hops) > 0 {
		of[usage.Upstream] = strings.Join(l.way.hops, ">")
	}
	of[usage.Labels] = labelled(l.session.Labels())
	l.proxy.Usage.Begin(&l.meter, l.account, of, &l.session.Bytes.Up, &l.session.Bytes.Down)
}

// meterOff ends that.
func (l *life) meterOff() { l.proxy.Usage.End(&l.meter) }

// relabel has what is used from now on counted for the labels of another answer, too.
func (l *life) relabel(answer *policy.Decision) {
	if len(answer.Labels) > 0 {
		l.proxy.Usage.Label(&l.meter, labelled(l.session.Labels()))
	}
}

// denied counts a request that the policy has denied, for a target and, where dial
// has denied it, an address.
func (l *life) denied(target string, at netip.Addr) {
	l.proxy.Guard.Denied(l.source, l.identity)
	l.proxy.Usage.Denied(l.countedFor(target, at))
}

// countedFor is what something is counted for as far as the client and the target go.
func (l *life) countedFor(host string, ip netip.Addr) usage.Of {
	of := usage.Of{usage.User: l.payer, usage.Target: host}
	if l.proxy.Locator != nil && ip.IsValid() {
		of[usage.Country] = l.proxy.Locator.Locate(ip.Unmap().WithZone("")).Country
	}
	return of
}

// labelled is the name of the row of a session's labels: "team=blue,tier=1". A long
// one is cut, and told apart by a hash.
func labelled(labels map[string]string) string {
	if len(labels) == 0 {
		return ""
	}
	const most = 256
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if text.Len() > 0 {
			text.WriteByte(',')
		}
		text.WriteString(name + "=" + labels[name])
	}
	if text.Len() <= most {
		return text.String()
	}
	return fmt.Sprintf("%s…%x", strings.ToValidUTF8(text.String()[:most/2], ""), sha256.Sum256([]byte(text.String())))
}
