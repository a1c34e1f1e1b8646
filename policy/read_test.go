package policy

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func read(t *testing.T, stage Stage, text string) (*Facts, error) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var input map[string]any
	if err := decoder.Decode(&input); err != nil {
		t.Fatal(err)
	}
	return ReadFacts(stage, input)
}

func TestReadFactsWorksOutWhatFollows(t *testing.T) {
	for _, c := range []struct {
		stage Stage
		input string
		want  Facts
	}{
		{Route, `{}`, Facts{}},
		{Route, `{"source": {"ip": "10.0.0.7", "port": 40000}}`, Facts{Source: SourceOf(netip.MustParseAddrPort("10.0.0.7:40000"))}},
		{Route, `{"source": {"ip": "::ffff:10.0.0.7"}}`, Facts{Source: SourceOf(netip.MustParseAddrPort("10.0.0.7:0"))}},
		{Route, `{"target": {"host": "api.example.com", "port": 443}}`, Facts{
			Target: TargetName("api.example.com", 443), Asked: Asked{"api.example.com", 443}}},
		{Dial, `{"target": {"host": "10.1.2.3", "port": 443}, "address": {"ip": "192.0.2.1"}}`, Facts{
			Target: TargetAddress(netip.MustParseAddr("10.1.2.3"), 443), Asked: Asked{"10.1.2.3", 443},
			Address: AddressOf(netip.MustParseAddr("192.0.2.1"))}},
		{Dial, `{"target": {"ip": "10.1.2.3"}, "asked": {"host": "x", "port": 1}}`, Facts{
			Target: TargetAddress(netip.MustParseAddr("10.1.2.3"), 0), Asked: Asked{"x", 1}}},
		{Manage, `{"api": {"source": {"ip": "127.0.0.1"}, "path": ["metrics"]}}`, Facts{
			API: API{Path: []string{"metrics"}, Source: APISourceOf(netip.MustParseAddrPort("127.0.0.1:0"))}}},
		{Route, `{"upstreams": {"eu": {"healthy": true, "latency_ms": 7}}, "identity": {"attributes": {"n": 1}}}`, Facts{
			Upstreams: map[string]Upstream{"eu": {Healthy: true, LatencyMS: 7}},
			Identity:  Identity{Attributes: Attributes{"n": json.Number("1")}}}},
	} {
		got, err := read(t, c.stage, c.input)
		if err != nil || !reflect.DeepEqual(*got, c.want) {
			t.Errorf("%s: %+v, %v", c.input, got, err)
		}
	}

	// What is given stands, also against what would follow.
	got, err := read(t, Dial, `{"address": {"ip": "10.0.0.1", "scope": "public", "family": "ipv6", "prefixes": []}}`)
	if err != nil || !reflect.DeepEqual(got.Address, Address{IP: IP{netip.MustParseAddr("10.0.0.1")}, Scope: "public", Family: "ipv6"}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestReadFactsRefuses(t *testing.T) {
	for _, c := range []struct{ input, want string }{
		{`{"identiy": {}}`, "sallyport.route: input.identiy is not a fact: did you mean identity?"},
		{`{"identity": {"nmae": "a"}}`, "input.identity.nmae is not a fact: did you mean name?"},
		{`{"identity": {"name": 7}}`, "input.identity.name: want a string"},
		{`{"identity": {"name": null}}`, "input.identity.name: want a string"},
		{`{"identity": {"groups": "dev"}}`, "input.identity.groups: want an array of strings"},
		{`{"identity": {"groups": ["a", 1]}}`, "input.identity.groups[1]: want a string"},
		{`{"identity": []}`, "input.identity: want an object"},
		{`{"identity": {"attributes": []}}`, "input.identity.attributes: want an object"},
		{`{"credentials": {}}`, "input.credentials is not a fact: want time, session, source, identity, request, target, upstreams"},
		{`{"target": {"port": "443"}}`, "input.target.port: want a whole number"},
		{`{"target": {"port": 1.5}}`, "input.target.port: want a whole number"},
		{`{"session": {"again": 1}}`, "input.session.again: want true or false"},
		{`{"source": {"ip": "nope"}}`, `input.source.ip: "nope" is not an IP address`},
		{`{"source": {"scope": "nearby"}}`, `input.source.scope: want metadata, loopback, link_local, private, shared, unspecified, multicast, reserved, public, got "nearby"`},
		{`{"identity": {"method": "GET"}}`, `input.identity.method: want password, none, certificate, certificate+password, got "GET"`},
		{`{"source": {"prefixes": ["10.0.0.0/8"]}}`, "input.source.prefixes: these are not all the prefixes of one address"},
		{`{"target": {"suffixes": ["a.b", "c"]}}`, "input.target.suffixes: these are not all the suffixes of one name"},
		{`{"request": {"headers": {"a": "b"}}}`, "input.request.headers.a: want an array of strings"},
		{`{"upstreams": {"eu": {"labels": {"a": 1}}}}`, "input.upstreams.eu.labels.a: want a string"},
		{`{"upstreams": {"eu": {"health": true}}}`, "input.upstreams.eu.health is not a fact"},
	} {
		if _, err := read(t, Route, c.input); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.input, err, c.want)
		}
	}
}
