package proxy

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"sallyport/policy"
	"sallyport/proxy/dial"
)

// resolve looks up a name that route has allowed.
func (l *life) resolve(ctx context.Context, name string) ([]dial.Address, error) {
	l.proxy.Observe.Began(l.observed, "resolve")
	start := time.Now()
	var found dial.Found
	var err error
	l.conn.Task.Aside(func() { found, err = l.proxy.Resolve.Lookup(ctx, name) })
	l.proxy.Observe.Resolved(l.observed, lookupOutcome(err), found.Cached, time.Since(start))
	return found.Addresses, err
}

// lookupOutcome is how metrics call the end of a look-up.
func lookupOutcome(err error) string {
	var failed *dial.LookupError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &failed):
		return failed.Outcome
	}
	return "canceled"
}

// namesOf is by which names an address was found.
func namesOf(addrs []dial.Address, ip netip.Addr) []string {
	for _, a := range addrs {
		if a.IP == ip.Unmap() {
			return a.Names
		}
	}
	return nil
}

// addressFacts are those of an address that was found by names.
func addressFacts(a dial.Address) policy.Address {
	facts := policy.AddressOf(a.IP)
	facts.Names = a.Names
	return facts
}

// lookup looks up a name that route has allowed. Names are looked up side by side,
// and so the observer is told of them as of no session.
func (a *association) lookup(name string) ([]dial.Address, error) {
	ctx, cancel := context.WithTimeout(a.ctx, a.life.proxy.Limits.Dial)
	defer cancel()
	start := time.Now()
	found, err := a.life.proxy.Resolve.Lookup(ctx, name)
	a.life.proxy.Observe.Resolved(context.Background(), lookupOutcome(err), found.Cached, time.Since(start))
	return found.Addresses, err
}

// dnsError is dns_error with the code of the answer, where there was one (RFC
// 9209, section 2.3.2).
func dnsError(err error) string {
	code := map[string]string{"nxdomain": "NXDOMAIN", "nodata": "NOERROR", "servfail": "SERVFAIL", "refused": "REFUSED"}[lookupOutcome(err)]
	if code == "" {
		return "dns_error"
	}
	return `dns_error; rcode="` + code + `"`
}
