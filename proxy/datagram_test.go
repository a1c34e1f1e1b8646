package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"sallyport/proxy/dial"
	"sallyport/proxy/guard"
	"sallyport/proxy/wire/socks5"
)

// silent is a resolver whose servers do not answer.
type silent struct{}

func (silent) Lookup(ctx context.Context, _ string) (dial.Found, error) {
	<-ctx.Done()
	return dial.Found{}, dial.ErrResolveTimeout
}

var datagramClient = netip.MustParseAddrPort("192.0.2.1:4000")

// unresolved is an association that nothing it asks for is found for. It is to be
// ended by its end.
func unresolved(t *testing.T, p *Proxy) *association {
	a := &association{
		life: &life{proxy: p, observed: t.Context()}, client: datagramClient.Addr(), met: datagramClient,
		table: newDestinations(p.Limits.Flows, &p.flows, p.Limits.FlowsTotal),
	}
	a.ctx, a.end = context.WithCancel(t.Context())
	return a
}

func unresolving() *Proxy {
	d := &policies{}
	p := &Proxy{Decide: d, Observe: &observer{}, Resolve: silent{}, Guard: guard.New(10), Usage: openLedger(), Limits: Limits{Dial: time.Hour, Flows: 512, FlowsTotal: 1 << 16}}
	d.activate(p, "1", allowAll)
	return p
}

func (a *association) sendTo(t *testing.T, name string) {
	t.Helper()
	datagram, err := socks5.AppendDatagram(nil, socks5.Datagram{Name: []byte(name), Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	a.FromClient(datagramClient, datagram, time.Now())
}

// Datagrams that carry nothing take room as well while they wait.
func TestEmptyDatagramsThatWaitAreBounded(t *testing.T) {
	a := unresolved(t, unresolving())
	const n = 10_000
	for range n {
		a.sendTo(t, "silent.test")
	}
	a.mu.Lock()
	waiting := len(a.table.byName[nameKey{"silent.test", 53}].held)
	a.mu.Unlock()
	if dropped := int(a.counted.Dropped.Load()); waiting == 0 || waiting > 2000 || waiting+dropped != n {
		t.Errorf("%d wait, %d dropped", waiting, dropped)
	}
	a.end()
	a.decided.Wait()
	if held := a.life.proxy.held.Load(); held != 0 || a.held != 0 {
		t.Errorf("%d and %d bytes are held in the end", held, a.held)
	}
}

// However many associations there are, so many destinations are decided about at
// once and no more: each may have a look-up's sockets open.
func TestDecisionsAboutDatagramsAreBounded(t *testing.T) {
	p := unresolving()
	var all []*association
	for range 2 * maxDecidingAll / maxDeciding {
		a := unresolved(t, p)
		all = append(all, a)
		for i := range maxDeciding {
			a.sendTo(t, fmt.Sprintf("silent-%d.test", i))
		}
	}
	deciding := 0
	for _, a := range all {
		a.mu.Lock()
		deciding += a.deciding
		a.mu.Unlock()
	}
	if deciding != maxDecidingAll {
		t.Errorf("%d are decided about at once", deciding)
	}
	for _, a := range all {
		a.end()
		a.decided.Wait()
	}
	if left := p.deciding.Load(); left != 0 {
		t.Errorf("%d are decided about in the end", left)
	}
}
