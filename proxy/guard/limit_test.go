package guard

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// come is one attempt under limits; it stays where it is not refused.
func come(g *Guard, source Source, l Limits) (Visit, *Refusal) {
	v, refused := g.Enter(source, 0)
	if refused == nil {
		if refused = v.Hold(l); refused != nil {
			v.Leave()
		}
	}
	return v, refused
}

// As many may be open as the number says and not one more: as it is remembered, as a
// later decision lowers it, and of an identity.
func TestConnectionsAtOnce(t *testing.T) {
	g := New(10)
	source := Address(netip.MustParseAddr("192.0.2.1"))
	var last Visit
	for i := range 4 {
		v, refused := come(g, source, Limits{Connections: 3})
		if (refused != nil) != (i == 3) {
			t.Errorf("connection %d: %v", i, refused)
		}
		if refused == nil {
			last = v
		}
	}
	last.Leave()
	// The number that is remembered would let this one in, the answer about it does not.
	if _, refused := come(g, source, Limits{Connections: 2}); refused == nil {
		t.Error("the third of two is let in")
	}
	for i := range 3 {
		others, _ := g.Identify("ann")
		if refused := g.HoldIdentity("ann", Limits{Connections: 2}, others); (refused != nil) != (i == 2) {
			t.Errorf("session %d of two: %v", i, refused)
		}
	}
}

// However long nobody comes, no more than the burst may come at once; and who is told
// when to come again is not told a year.
func TestBurstAndRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(10)
		source := Address(netip.MustParseAddr("192.0.2.1"))
		burst := func(l Limits) (granted int, last *Refusal) {
			for last == nil {
				v, refused := come(g, source, l)
				if last = refused; refused == nil {
					v.Leave()
					granted++
				}
			}
			return granted, last
		}
		fast := Limits{Rate: 1, Burst: 3}
		if n, _ := burst(fast); n != 3 {
			t.Errorf("%d at once, want 3", n)
		}
		time.Sleep(time.Hour)
		if n, r := burst(fast); n != 3 || r.Retry != time.Second || r.Cause != "limit" {
			t.Errorf("after an hour %d at once, then %+v", n, r)
		}
		g.Forget()
		if n, r := burst(Limits{Rate: 1e-9, Burst: 1}); n != 1 || r.Retry != 24*time.Hour {
			t.Errorf("%d at once, then %+v", n, r)
		}
	})
}

// A source's handshakes are counted until they have been heard, or have left.
func TestHandshakesAtOnce(t *testing.T) {
	g := New(10)
	source, other := Address(netip.MustParseAddr("192.0.2.1")), Address(netip.MustParseAddr("192.0.2.2"))
	var open []Visit
	enter := func(want bool) {
		t.Helper()
		v, refused := g.Enter(source, 2)
		if (refused == nil) != want || refused != nil && (refused.Tell || refused.Error() != tooManyHandshakes) {
			t.Errorf("handshake: %v, want %v", refused, want)
		}
		if refused == nil {
			open = append(open, v)
		}
	}
	enter(true)
	enter(true)
	enter(false)
	enter(false) // a refused one is none that goes on
	if _, refused := g.Enter(other, 2); refused != nil {
		t.Errorf("another source: %v", refused)
	}
	open[0].Heard()
	open[0].Heard()
	enter(true)
	enter(false)
	open[0].Leave() // it was heard, and gives no place back
	enter(false)
	open[1].Leave()
	enter(true)
	enter(false)
}

// Of two refusals the client hears of the one that lasts longer, and a prefix of one
// family says nothing of the other.
func TestPrefixes(t *testing.T) {
	g := New(10)
	hold := func(ip, prefix string, l Limits) *Refusal {
		l.Prefix = netip.MustParsePrefix(prefix)
		_, refused := come(g, Address(netip.MustParseAddr(ip)), l)
		return refused
	}
	if r := hold("192.0.2.1", "192.0.2.0/24", Limits{Connections: 1}); r != nil {
		t.Error(r)
	}
	if r := hold("192.0.2.2", "192.0.2.0/24", Limits{Connections: 1}); r == nil {
		t.Error("another of the prefix is let in")
	}
	if r := hold("198.51.100.1", "198.51.100.0/24", Limits{Connections: 1}); r != nil {
		t.Errorf("another prefix of that length: %v", r)
	}
	if _, r := come(g, Address(netip.MustParseAddr("2001:db8::1")), Limits{Rate: 0.001, Burst: 1}); r != nil {
		t.Errorf("another family: %v", r)
	}
	if got := worse(&Refusal{Retry: 2}, &Refusal{Retry: 1}); got.Retry != 2 {
		t.Errorf("the shorter of two: %v", got.Retry)
	}
	if got := worse(&Refusal{Retry: 1}, &Refusal{Retry: 2}); got.Retry != 2 {
		t.Errorf("the shorter of two: %v", got.Retry)
	}
}
