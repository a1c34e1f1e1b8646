package engine

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// again reads what a stage's input shows of facts, and shows it once more.
func again(t *testing.T, stage policy.Stage, shown ast.Value) (ast.Value, error) {
	t.Helper()
	value, err := ast.JSON(shown)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := policy.ReadFacts(stage, value.(map[string]any))
	if err != nil {
		return nil, err
	}
	return planned(stage, "input").input(facts)
}

// TestInputsAreReadAsShown: an input, as a decision log has it, is read into
// facts that are shown as the same input.
func TestInputsAreReadAsShown(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var facts policy.Facts
		fill(reflect.ValueOf(&facts).Elem(), rng)
		possible(reflect.ValueOf(&facts).Elem(), rng)
		for _, stage := range policy.Stages() {
			shown, err := planned(stage, "input").input(&facts)
			if err != nil {
				t.Fatal(err)
			}
			got, err := again(t, stage, shown)
			if err != nil || shown.Compare(got) != 0 {
				t.Fatalf("%s: %v\n%v\n%v", stage, err, shown, got)
			}
		}
	}
}

// possible puts right what no gathering would leave: addresses within others,
// with zones, scopes that there are not, and texts that are on no list of a fact's.
func possible(v reflect.Value, rng *rand.Rand) {
	switch p := v.Addr().Interface().(type) {
	case *policy.IP:
		p.Addr = p.Unmap().WithZone("")
	case *policy.Prefixes:
		p.Addr = p.Unmap().WithZone("")
	case *policy.Scope:
		*p = policy.Scopes()[rng.IntN(len(policy.Scopes()))]
	default:
		if v.Kind() == reflect.Struct {
			for i := range v.NumField() {
				possible(v.Field(i), rng)
				if values := strings.Fields(v.Type().Field(i).Tag.Get("values")); len(values) > 0 {
					v.Field(i).SetString(values[rng.IntN(len(values))])
				}
			}
		}
	}
}

// FuzzReadFacts: whatever is read is shown as something that is read again,
// and shown the same.
func FuzzReadFacts(f *testing.F) {
	f.Add(uint8(2), `{"target": {"host": "a.example", "port": 443}, "source": {"ip": "::1"}}`)
	f.Add(uint8(3), `{"address": {"ip": "::ffff:10.0.0.1%x", "prefixes": ["10.0.0.1/32"]}, "target": {"suffixes": ["a..b", ".b"]}}`)
	f.Add(uint8(5), `{"api": {"source": {"ip": "fe80::1%e", "port": 1e3}, "query": {"": []}}, "time": -1}`)
	f.Add(uint8(1), `{"credentials": {"attributes": {"a": [null, 1.0, {"b": true}]}, "groups": []}}`)
	whole, _ := planned(policy.Route, "input").input(&policy.Facts{Target: policy.TargetAddress(netip.MustParseAddr("2001:db8::1"), 1)})
	f.Add(uint8(2), whole.String())
	f.Fuzz(func(t *testing.T, n uint8, text string) {
		stage := policy.Stages()[int(n)%len(policy.Stages())]
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		var input map[string]any
		if decoder.Decode(&input) != nil {
			return
		}
		facts, err := policy.ReadFacts(stage, input)
		if err != nil {
			return
		}
		shown, err := planned(stage, "input").input(facts)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := again(t, stage, shown); err != nil || shown.Compare(got) != 0 {
			t.Fatalf("%v\n%v\n%v", err, shown, got)
		}
	})
}
