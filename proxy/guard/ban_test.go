package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func TestSubjects(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "192.0.2.9/24": "192.0.2.0/24",
		"2001:db8::1": "2001:db8::/64", "2001:db8::1/128": "2001:db8::1/128", "0.0.0.0/0": "0.0.0.0/0",
		"identity:ann": "identity:ann", "identity:a:b": "identity:a:b", "claimed:ann": "claimed:ann", "uid:007": "uid:7",
		"": "", "ann": "", "identity:": "", "uid:": "", "uid:-1": "uid:-1", "uid:-2": "", "uid:4294967296": "", "192.0.2.0/33": "", "fe80::1%eth0": "", "::ffff:192.0.2.0/120": "",
		"identity-escaped:caf%E9%3a%25": "identity:caf\xe9:%", "claimed-escaped:%ff": "claimed:\xff", "identity-escaped:ann": "identity:ann", "identity:caf%E9": "identity:caf%E9",
		"identity-escaped:": "", "identity-escaped:%": "", "identity-escaped:%zz": "", "uid-escaped:7": "", "-escaped:ann": "",
	} {
		if got, err := ParseSubject(text); (err == nil) != (want != "") || got.String() != want {
			t.Errorf("%q is %q (%v), want %q", text, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"ann": "identity:ann", "50%": "identity:50%", "é\n": "identity:é\n", "caf\xe9": "identity-escaped:caf%E9",
		"\xff:/ %41é": "identity-escaped:%FF:%2F%20%2541%C3%A9",
	} {
		of := Identity(name, false)
		again, err := ParseSubject(of.Text())
		if of.Text() != want || again != of || err != nil {
			t.Errorf("%q is told as %q, want %q; that is %q (%v)", name, of.Text(), want, again, err)
		}
	}
	long := Identity(strings.Repeat("a", 100_000), false)
	if len(long.String()) > 300 || long == Identity(strings.Repeat("a", 100_001), false) {
		t.Errorf("a long name is %d bytes, or two are one", len(long.String()))
	}
}

func FuzzSubject(f *testing.F) {
	f.Add("192.0.2.0/24")
	f.Add("identity:ann")
	f.Add("claimed-escaped:caf%E9")
	f.Add("identity:caf\xe9")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSubject(text)
		if err != nil {
			return
		}
		if again, err := ParseSubject(s.String()); err != nil || again != s {
			t.Errorf("%q is %q, which is %q (%v)", text, s, again, err)
		}
		if again, err := ParseSubject(s.Text()); err != nil || again != s || !utf8.ValidString(s.Text()) {
			t.Errorf("%q is told as %q, which is %q (%v)", text, s.Text(), again, err)
		}
	})
}

func TestBans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(10)
		at := func(ip string) *Refusal { return g.Banned(Address(netip.MustParseAddr(ip))) }
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if at("192.0.2.1") != nil {
			t.Error("somebody is banned from the start")
		}
		must(g.Ban(Address(netip.MustParseAddr("192.0.2.1")).Subject(), time.Minute, "x"))
		must(g.Ban(Of(netip.MustParsePrefix("192.0.2.0/24")), time.Hour, "x"))
		must(g.Ban(Address(netip.MustParseAddr("2001:db8::1")).Subject(), time.Minute, "x"))
		must(g.Ban(User(7).Subject(), time.Minute, "x"))
		for ip, want := range map[string]time.Duration{
			"192.0.2.1": time.Hour, "192.0.2.200": time.Hour, "192.0.3.1": 0,
			"2001:db8::ffff": time.Minute, "2001:db8:0:1::1": 0, "::1": 0,
		} {
			if r := at(ip); (r != nil) != (want != 0) || r != nil && r.Retry != want {
				t.Errorf("%s: %+v, want %v", ip, r, want)
			}
		}
		if g.Banned(User(7)) == nil || g.Banned(User(8)) != nil {
			t.Error("users of unix sockets are mixed up")
		}
		// A shorter ban takes nothing from a longer one, but an operator's does.
		must(g.Ban(Of(netip.MustParsePrefix("192.0.2.0/24")), time.Second, "x"))
		if r := at("192.0.2.200"); r == nil || r.Retry != time.Hour {
			t.Errorf("the ban was shortened: %+v", r)
		}
		must(g.Set(Ban{Of: Of(netip.MustParsePrefix("192.0.2.0/24")), Until: time.Now().Add(time.Second)}))
		time.Sleep(time.Second)
		if at("192.0.2.200") != nil || at("192.0.2.1") == nil || g.ActiveBans() != 3 {
			t.Errorf("after it has ended %d are in force", g.ActiveBans())
		}
		time.Sleep(time.Minute)
		if at("192.0.2.1") != nil || g.ActiveBans() != 0 || len(g.Bans()) != 0 {
			t.Error("bans do not end")
		}
		if n, err := g.Lift(Of(netip.MustParsePrefix("192.0.2.0/24"))); n != 0 || err != nil {
			t.Error("what is over was lifted")
		}
	})
}

// However many sources earn a ban, those that are to last longer stay, and no
// flood of sources that are not banned ends any.
func TestBansWhenFull(t *testing.T) {
	g := New(100)
	kept := Of(netip.MustParsePrefix("198.51.100.0/24"))
	forever := Identity("ann", false)
	for of, long := range map[Subject]time.Duration{kept: 24 * time.Hour, forever: 0} {
		if err := g.Ban(of, long, "x"); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1000 {
		g.Ban(Address(nth(i)).Subject(), time.Hour, "x")
		enter(g, nth(i+10_000))
	}
	if n := g.ActiveBans(); n != 100 {
		t.Errorf("%d bans are in force", n)
	}
	if g.Banned(Address(netip.MustParseAddr("198.51.100.7"))) == nil || g.BannedIdentity(forever) == nil {
		t.Error("a ban that was to last longer has ended")
	}
	if err := g.Ban(Of(netip.MustParsePrefix("192.0.2.0/24")), time.Second, "x"); !errors.Is(err, ErrBansFull) {
		t.Errorf("the one that would end first: %v", err)
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(10)
		source := Address(netip.MustParseAddr("192.0.2.1"))
		limits := Limits{Rate: 1, Burst: 2}
		come := func() *Refusal {
			v, refused := g.Enter(source, 0)
			if refused == nil {
				refused = v.Hold(limits)
			}
			v.Leave()
			return refused
		}
		for i, want := range []bool{true, true, false, false} {
			if got := come(); (got == nil) != want {
				t.Errorf("attempt %d: %v", i, got)
			}
		}
		// Who goes on at twice the rate does not get in, since refused attempts count.
		for range 20 {
			time.Sleep(500 * time.Millisecond)
			if come() == nil {
				t.Fatal("it got in by hammering")
			}
		}
		time.Sleep(time.Second)
		if r := come(); r != nil {
			t.Errorf("after a second's rest: %v", r)
		}
		if come() == nil {
			t.Error("another at once got in")
		}
		g.Forget()
		if r := come(); r != nil {
			t.Errorf("under a new policy: %v", r)
		}
	})
}

func TestTellingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(10)
		source := Address(netip.MustParseAddr("192.0.2.1"))
		g.Ban(source.Subject(), time.Hour, "x")
		for range 3 {
			told := 0
			for range 1000 {
				if g.Banned(source).Tell {
					told++
				}
			}
			if told != tellings {
				t.Errorf("%d of a thousand in a second are told", told)
			}
			time.Sleep(time.Second)
		}
	})
}

// What it costs to know that a source is banned, among as many bans as there may
// be, of a dozen lengths.
func BenchmarkBanned(b *testing.B) {
	g := New(65536)
	for i := range 65536 {
		p, _ := netip.AddrFrom4([4]byte{byte(10 + i>>16), byte(i >> 8), byte(i), 1}).Prefix(21 + i%12)
		g.Ban(Of(p), time.Hour, "x")
	}
	source := Address(netip.MustParseAddr("10.7.7.1"))
	g.Ban(source.Subject(), time.Hour, "x")
	b.ReportAllocs()
	for b.Loop() {
		if g.Banned(source) == nil {
			b.Fatal("not banned")
		}
	}
}

// A list of very many keeps nobody waiting at the door: it is put in order by what is
// there anyway, and not while it is locked.
func TestListOfManyBans(t *testing.T) {
	g := New(10_000)
	for i := range 5000 {
		name := Identity(fmt.Sprint(i), false)
		if err := g.Ban(name, time.Hour+time.Duration(i*7919%5000)*time.Second, "test"); err != nil {
			t.Fatal(err)
		}
		g.Ban(Address(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})).Subject(), 0, "test")
	}
	var list []Ban
	if n := testing.AllocsPerRun(1, func() { list = g.Bans() }); n > 20_000 {
		t.Errorf("%v allocations", n)
	}
	for i := range list[1:] {
		a, b := &list[i], &list[i+1]
		if !b.Until.IsZero() && (a.Until.IsZero() || b.Until.Before(a.Until)) || b.Until.Equal(a.Until) && a.Of.String() >= b.Of.String() {
			t.Fatalf("%s until %v comes before %s until %v", a.Of, a.Until, b.Of, b.Until)
		}
	}
}
