package engine

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sallyport/policy"
)

// atlas locates by a table and notes whom it was asked for.
type atlas struct {
	places map[string]policy.Geo
	asked  []string
}

func (a *atlas) Locate(ip netip.Addr) policy.Geo {
	a.asked = append(a.asked, ip.String())
	return a.places[ip.String()]
}

func travelling(at *atlas) *policy.Facts {
	return &policy.Facts{
		Source:  policy.SourceOf(netip.MustParseAddrPort("192.0.2.1:1")),
		Target:  policy.TargetAddress(netip.MustParseAddr("192.0.2.2"), 443),
		Address: policy.AddressOf(netip.MustParseAddr("192.0.2.3")),
		Locator: at,
	}
}

// TestLocatesWhatIsRead: an address is looked up where the stage's own rules
// read its geo, once for a question, remembered answer or not.
func TestLocatesWhatIsRead(t *testing.T) {
	for _, c := range []struct {
		rule string
		want string
	}{
		{`input.source.port == 1`, ``},
		{`input.target.ip != "" # and input.target.geo is not read`, ``},
		{`input.source.geo.country == ""`, `192.0.2.1`},
		{`input.source.geo.country != input.source.geo.city; input.source.geo.asn >= 0`, `192.0.2.1`},
		{`count(input.address.geo) == 5; input.source.geo.asn == 0`, `192.0.2.1 192.0.2.3`},
		{`some part in ["source", "target"]; input[part].geo.city == ""`, `192.0.2.1 192.0.2.2 192.0.2.3`},
		{`f(input.target)`, `192.0.2.2`},
	} {
		for _, size := range []int{-1, 0} {
			e := decider(t, Options{MemoSize: size, Lenient: true}, nil,
				"package sallyport.dial\nallow if { "+c.rule+"\n}\nf(x) if x.geo.city == \"\"")
			for range 3 {
				at := &atlas{}
				e.Decide(t.Context(), policy.Dial, travelling(at))
				if got := strings.Join(at.asked, " "); got != c.want {
					t.Errorf("%s: asked for %q, want %q", c.rule, got, c.want)
				}
			}
		}
	}
}

func TestLocatesOnceAndOnlyAddresses(t *testing.T) {
	e := decider(t, Options{}, nil, "package sallyport.dial\nallow if input.target.geo == input.address.geo\nwarn contains input.source.geo.city")
	at := &atlas{places: map[string]policy.Geo{"192.0.2.2": {ASN: 7}}}
	facts := travelling(at)
	facts.Source.IP = policy.IP{}
	facts.Address = policy.AddressOf(netip.MustParseAddr("192.0.2.2"))
	if d := e.Decide(t.Context(), policy.Dial, facts); !d.Allowed() {
		t.Error(d)
	}
	facts.Target = policy.TargetName("example.com", 443)
	if d := e.Decide(t.Context(), policy.Dial, facts); d.Allowed() {
		t.Error("a name has been located")
	}
	if want := []string{"192.0.2.2", "192.0.2.2"}; !slices.Equal(at.asked, want) {
		t.Errorf("asked for %v", at.asked)
	}
	if facts.Target.Geo != (policy.Geo{}) || facts.Address.Geo != (policy.Geo{}) {
		t.Error("the asker's facts were written to")
	}
}

// TestGeoIsPartOfTheQuestion: what is remembered of a place is not the answer
// for another, be it the same address.
func TestGeoIsPartOfTheQuestion(t *testing.T) {
	var events []*Event
	e := decider(t, Options{Record: func(e *Event) error { e.Complete(); events = append(events, e); return nil }}, nil,
		`package sallyport.route
allow if input.source.geo.country == "NL"`)
	at := &atlas{places: map[string]policy.Geo{}}
	for i, country := range []string{"NL", "DE", "NL", ""} {
		at.places["192.0.2.1"] = policy.Geo{Country: country, City: "Delft"}
		d := e.Decide(t.Context(), policy.Route, travelling(at))
		if d.Allowed() != (country == "NL") || d.Memoised != (i == 2) {
			t.Errorf("%q: %v, memoised %v", country, d.Verdict, d.Memoised)
		}
		input := string(events[i].Input)
		if !strings.Contains(input, `"geo":{"country":"`+country+`"}`) || strings.Count(input, `"geo"`) != 1 {
			t.Errorf("logged: %s", input)
		}
	}
	given := travelling(nil)
	given.Locator = nil
	given.Source.Geo.Country = "NL"
	if d := e.Decide(t.Context(), policy.Route, given); !d.Allowed() {
		t.Error("geo that was given does not count")
	}
}

// TestNoGeoCostsNothing: neither a locator that no rule needs nor a rule without
// a locator costs an allocation.
func TestNoGeoCostsNothing(t *testing.T) {
	allocations := func(rule string, locator policy.Locator) float64 {
		e := decider(t, Options{}, nil, "package sallyport.route\nallow if "+rule)
		facts := travelling(nil)
		facts.Locator = locator
		return testing.AllocsPerRun(200, func() { e.Decide(t.Context(), policy.Route, facts) })
	}
	plain := allocations(`input.source.port == 1`, nil)
	if n := allocations(`input.source.port == 1`, nowhere{}); n != plain {
		t.Errorf("%v allocations with a locator, %v without", n, plain)
	}
	if n := allocations(`input.source.geo.asn == 0`, nil); n != plain {
		t.Errorf("%v allocations for geo without a locator, %v without geo", n, plain)
	}
}

type nowhere struct{}

func (nowhere) Locate(netip.Addr) policy.Geo { return policy.Geo{} }

// TestAlwaysLogged: of the target and the address everything is logged but
// their geo.
func TestAlwaysLogged(t *testing.T) {
	for _, name := range []string{"target", "address"} {
		root := policy.Input(policy.Dial)
		declared, _ := root.At(name)
		for _, f := range declared.Fields {
			if logged := planOfLog(policy.Dial).has([]string{name, f.Name}); logged != (f.Name != "geo") {
				t.Errorf("%s.%s is logged: %v", name, f.Name, logged)
			}
		}
	}
}

func BenchmarkGeo(b *testing.B) {
	for _, memo := range []struct {
		name string
		size int
	}{{"cold", -1}, {"memoised", 0}} {
		b.Run(memo.name, func(b *testing.B) {
			e := decider(b, Options{MemoSize: memo.size}, nil, "package sallyport.route\nallow if input.source.geo.country == \"\"")
			facts := egressFacts()
			facts.Locator = nowhere{}
			b.ReportAllocs()
			for b.Loop() {
				if d := e.Decide(b.Context(), policy.Route, facts); !d.Allowed() {
					b.Fatal(d.Err)
				}
			}
		})
	}
}

// client is a client that counts how often it is asked for its process.
type client struct{ asked int }

func (c *client) Process() policy.Process {
	c.asked++
	return policy.Process{PID: 7, UID: 1000, Exe: "/usr/bin/curl"}
}

// TestFindsTheProcessWhereItIsRead: looking for it costs more than deciding.
func TestFindsTheProcessWhereItIsRead(t *testing.T) {
	for rule, want := range map[string]struct {
		asked   int
		verdict policy.Verdict
	}{
		`input.source.port == 1`:                          {0, policy.Allowed},
		`input.source.process.exe == "/usr/bin/curl"`:     {1, policy.Allowed},
		`input.source.process.uid == 1001`:                {1, policy.Denied},
		`f(input.source)`:                                 {1, policy.Allowed},
		`input.source.process.pid == input.source.port+6`: {1, policy.Allowed},
	} {
		e := decider(t, Options{Lenient: true}, nil,
			"package sallyport.route\ndefault allow := false\nallow if { "+rule+" }\nf(x) if x.process.pid == 7")
		facts, who := travelling(&atlas{}), &client{}
		facts.Client = who
		if d := e.Decide(t.Context(), policy.Route, facts); d.Verdict != want.verdict || who.asked != want.asked {
			t.Errorf("%s: %v (%v), asked %d times", rule, d.Verdict, d.Err, who.asked)
		}
		if facts.Source.Process != (policy.Process{}) {
			t.Error("the asker's facts were written to")
		}
	}
}
