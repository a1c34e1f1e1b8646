package engine

import (
	"fmt"
	"net/netip"
	"testing"

	"sallyport/policy"
)

// egress is a policy as services use it: allow-lists by identity, blocked
// names and networks in data.
const egress = `package sallyport.route

default allow := false

allow if {
	input.request.command == "connect"
	input.target.port in {80, 443}
	not _blocked
	_named
}

_blocked if {
	names := data.blocked.names
	some suffix in input.target.suffixes
	names[suffix]
}

_blocked if {
	networks := data.blocked.networks
	some prefix in input.target.prefixes
	networks[prefix]
}

_named if {
	allowed := data.teams[input.identity.name].domains
	some suffix in input.target.suffixes
	allowed[suffix]
}

deny contains "too many sessions" if input.identity.open >= 100

deny contains sprintf("%s is blocked", [input.target.host]) if _blocked

session_limits := {"idle": "5m", "bytes": "1GiB"} if input.target.port == 443

labels := {"team": input.identity.name}
`

func egressData(entries int) map[string]any {
	names, networks := map[string]any{}, map[string]any{}
	for i := range entries / 2 {
		names[fmt.Sprintf("bad%d.example", i)] = true
		networks[fmt.Sprintf("10.%d.%d.0/24", i>>8&255, i&255)] = true
	}
	return map[string]any{
		"blocked": map[string]any{"names": names, "networks": networks},
		"teams":   map[string]any{"blue": map[string]any{"domains": map[string]any{"example.com": true}}},
	}
}

func egressFacts() *policy.Facts {
	return &policy.Facts{
		Source:   policy.SourceOf(netip.MustParseAddrPort("192.0.2.7:50000")),
		Session:  policy.Session{ID: "s1", Listener: "main", Protocol: "socks5"},
		Identity: policy.Identity{Name: "blue", Method: "password", Groups: []string{"dev"}, Open: 3},
		Request:  policy.Request{Command: "connect"},
		Target:   policy.TargetName("www.api.example.com", 443),
	}
}

func BenchmarkInput(b *testing.B) {
	e := decider(b, Options{}, egressData(10), egress)
	facts, st := egressFacts(), e.Active().stages[policy.Route]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := st.read.input(facts); err != nil {
			b.Fatal(err)
		}
	}
}
