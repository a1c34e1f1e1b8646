package engine

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sallyport/policy"
)

// BenchmarkLookup is what the policy guide says of look-ups: a decision of a
// stage whose only rule looks something up among so many entries of data, each
// way beside the one to write instead. What is looked for is the last entry.
func BenchmarkLookup(b *testing.B) {
	for _, way := range []struct {
		name  string
		stage policy.Stage
		body  string
	}{
		{"name/key", policy.Route, `data.names[input.target.host]`},
		{"name/in_list", policy.Route, `input.target.host in data.list`},
		{"suffix/keys", policy.Route, `names := data.names; some s in input.target.suffixes; names[s]`},
		{"suffix/endswith", policy.Route, `some name in data.list; endswith(input.target.host, name)`},
		{"suffix/glob", policy.Route, `some name in data.list; glob.match(concat("", ["**", name]), ["."], input.target.host)`},
		{"prefix/keys", policy.Dial, `networks := data.networks; some p in input.address.prefixes; networks[p]`},
		{"prefix/cidr_contains", policy.Dial, `some network in data.cidrs; net.cidr_contains(network, input.address.ip)`},
	} {
		for _, entries := range []int{10, 1000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", way.name, entries), func(b *testing.B) {
				module := strings.NewReplacer("STAGE", string(way.stage), "BODY", way.body).
					Replace("package sallyport.STAGE\n\ndefault allow := false\n\nallow if { BODY }\n")
				e := decider(b, Options{MemoSize: -1, Timeout: time.Minute}, lookupData(entries), module)
				facts := &policy.Facts{
					Target:  policy.TargetName(fmt.Sprintf("name-%d.example.com", entries-1), 443),
					Address: policy.AddressOf(lookupNetwork(entries - 1).Addr().Next()),
				}
				b.ReportAllocs()
				for b.Loop() {
					if d := e.Decide(b.Context(), way.stage, facts); !d.Allowed() {
						b.Fatal(d.Err)
					}
				}
			})
		}
	}
}

func lookupData(entries int) map[string]any {
	names, networks := map[string]any{}, map[string]any{}
	var list, cidrs []any
	for i := range entries {
		name, network := fmt.Sprintf("name-%d.example.com", i), lookupNetwork(i).String()
		names[name], networks[network] = map[string]any{}, map[string]any{}
		list, cidrs = append(list, name), append(cidrs, network)
	}
	return map[string]any{"names": names, "networks": networks, "list": list, "cidrs": cidrs}
}

// lookupNetwork is one of a /28 each.
func lookupNetwork(i int) netip.Prefix {
	i <<= 4
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 28)
}
