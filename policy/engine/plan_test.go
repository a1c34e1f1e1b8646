package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

func refs(paths ...string) []ast.Ref {
	var out []ast.Ref
	for _, path := range paths {
		out = append(out, ast.MustParseRef(path))
	}
	return out
}

func planned(stage policy.Stage, paths_ ...string) *plan {
	p := planOf(stage, paths(refs(paths_...)), true)
	return &p
}

func TestPlan(t *testing.T) {
	facts := egressFacts()
	facts.Request.Headers = map[string][]string{"b": {"2"}, "a": {"1", "0"}}
	facts.Identity.Attributes = policy.Attributes{"n": json.Number("1.5"), "l": []any{nil, true, "x", 2.5}}
	facts.Target = policy.TargetAddress(netip.MustParseAddr("10.1.2.3"), 443)
	facts.Upstreams = map[string]policy.Upstream{"eu": {Healthy: true, LatencyMS: 1234, Labels: map[string]string{"k": "v"}}}
	facts.Time = 60_000_000_000
	for _, c := range []struct {
		reads []string
		want  string
	}{
		{nil, `{}`},
		{[]string{"input.target.port"}, `{"target": {"port": 443}}`},
		{[]string{"input.target.prefixes[_]", "input.time"}, `{"target": {"prefixes": [` + prefixList("10.1.2.3") + `]}, "time": 60000000000}`},
		{[]string{"input.identity.name", "input.identity.groups[i]"}, `{"identity": {"groups": ["dev"], "name": "blue"}}`},
		{[]string{"input.source.rate"}, `{"source": {"rate": {"minute": 0, "second": 0}}}`},
		{[]string{"input.source[x].minute"}, ``}, // all of the source, see below
		{[]string{`input.request.headers["user-agent"]`}, `{"request": {"headers": {"a": ["1", "0"], "b": ["2"]}}}`},
		{[]string{"input.identity.attributes.team"}, `{"identity": {"attributes": {"l": [null, true, "x", 2.5], "n": 1.5}}}`},
		{[]string{"input.upstreams[_].healthy", "input.upstreams.us.labels.x"}, `{"upstreams": {"eu": {"healthy": true, "labels": {"k": "v"}}}}`},
		{[]string{"input.upstreams[name][key]"}, `{"upstreams": {"eu": {"healthy": true, "labels": {"k": "v"}, "latency_ms": 1234, "open": 0}}}`},
		{[]string{"input.upstreams.eu"}, `{"upstreams": {"eu": {"healthy": true, "labels": {"k": "v"}, "latency_ms": 1234, "open": 0}}}`},
		{[]string{"input.upstreams[_].healthy", "input.upstreams"}, `{"upstreams": {"eu": {"healthy": true, "labels": {"k": "v"}, "latency_ms": 1234, "open": 0}}}`},
		{[]string{"input.address.ip", "input.no.such", "data.x"}, `{}`}, // of another stage, unknown, no input
		{[]string{"input.identity.nmae"}, `{"identity": {}}`},
	} {
		value, err := planned(policy.Route, c.reads...).input(facts)
		if err != nil || c.want != "" && value.String() != c.want {
			t.Errorf("%v: %v, %v\nwant %s", c.reads, value, err, c.want)
		}
	}
	if p := planned(policy.Route, "input.source[x].minute"); !p.has([]string{"source", "prefixes"}) || p.has([]string{"target"}) {
		t.Error("an index by a variable reads all of the object, and only that")
	}
	if p := planned(policy.Route, "input"); !p.has([]string{"target", "suffixes"}) || !p.has([]string{"time"}) {
		t.Error("input as a whole reads everything")
	}
}

func prefixList(ip string) string {
	var out []string
	for p := range (policy.Prefixes{Addr: netip.MustParseAddr(ip)}).Each {
		out = append(out, fmt.Sprintf("%q", p))
	}
	return strings.Join(out, ", ")
}

// TestWholeInput: the values of the whole input are what its schema promises:
// every fact is there, whatever is unknown.
func TestWholeInput(t *testing.T) {
	for _, stage := range policy.Stages() {
		value, err := planned(stage, "input").input(&policy.Facts{})
		if err != nil {
			t.Fatal(err)
		}
		checkWhole(t, string(stage), policy.Input(stage), value)
	}
}

func checkWhole(t *testing.T, path string, declared policy.Fact, value ast.Value) {
	if declared.Fields == nil {
		empty := map[string]bool{`""`: true, "0": true, "false": true, "[]": true, "{}": true}
		if !empty[value.String()] {
			t.Errorf("%s is %v when unknown", path, value)
		}
		return
	}
	object, ok := value.(ast.Object)
	if !ok || object.Len() != len(declared.Fields) {
		t.Fatalf("%s: %v", path, value)
	}
	for _, f := range declared.Fields {
		term := object.Get(ast.StringTerm(f.Name))
		if term == nil {
			t.Errorf("%s.%s is absent", path, f.Name)
			continue
		}
		checkWhole(t, path+"."+f.Name, f, term.Value)
	}
}

func TestAttributesThatAreNoJSON(t *testing.T) {
	e := decider(t, Options{}, nil, "package sallyport.route\nallow if not input.identity.attributes.disabled")
	for _, value := range []any{struct{}{}, math.NaN(), math.Inf(1), 7, []any{map[string]any{"x": uint8(1)}}} {
		for range 2 {
			d := e.Decide(t.Context(), policy.Route, &policy.Facts{Identity: policy.Identity{Attributes: policy.Attributes{"x": value}}})
			mustFault(t, d, "attributes hold")
		}
	}
}

// fill sets the facts below v to random values out of few, so that two fillings
// are often equal in part.
func fill(v reflect.Value, rng *rand.Rand) {
	words := []string{"", "a", "b", "ab", "a\x00", "1", "\x01a"}
	word := func() string { return words[rng.IntN(len(words))] }
	list := func() []string {
		var out []string
		for range rng.IntN(3) {
			out = append(out, word())
		}
		return out
	}
	addresses := []string{"10.0.0.1", "10.0.0.2", "2001:db8::1", "::ffff:10.0.0.1", "fe80::1%a"}
	switch p := v.Addr().Interface().(type) {
	case *policy.IP:
		p.Addr = netip.Addr{}
		if rng.IntN(4) > 0 {
			p.Addr = netip.MustParseAddr(addresses[rng.IntN(len(addresses))])
		}
	case *policy.Prefixes:
		p.Addr = netip.MustParseAddr(addresses[rng.IntN(len(addresses))])
	case *policy.Suffixes:
		*p = policy.Suffixes([]string{"", "a.b", "b", "a.b.c"}[rng.IntN(4)])
	case *policy.Attributes:
		*p = policy.Attributes{}
		for range rng.IntN(3) {
			(*p)[word()] = []any{nil, true, false, word(), json.Number("1"), json.Number("12"), 1.5, []any{word()}, []any{},
				map[string]any{word(): word()}, map[string]any{}}[rng.IntN(11)]
		}
	case *[]string:
		*p = list()
	case *map[string]string:
		*p = map[string]string{}
		for range rng.IntN(3) {
			(*p)[word()] = word()
		}
	case *map[string][]string:
		*p = map[string][]string{}
		for range rng.IntN(3) {
			(*p)[word()] = list()
		}
	case *policy.Headers:
		*p = policy.Headers{}
		for range rng.IntN(3) {
			(*p)[[]string{"a", "b", "cookie", "authorization"}[rng.IntN(4)]] = list()
		}
	case *map[string]policy.Upstream:
		*p = map[string]policy.Upstream{}
		for range rng.IntN(3) {
			var u policy.Upstream
			fill(reflect.ValueOf(&u).Elem(), rng)
			(*p)[word()] = u
		}
	default:
		switch v.Kind() {
		case reflect.String:
			v.SetString(word())
		case reflect.Int64:
			v.SetInt([]int64{0, 1, -1, 64, 443, math.MaxInt64}[rng.IntN(6)])
		case reflect.Bool:
			v.SetBool(rng.IntN(2) == 0)
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i), rng)
			}
		case reflect.Interface: // no fact
		default:
			panic(v.Type().String())
		}
	}
}

// mutate fills some leaves anew and leaves the rest.
func mutate(v reflect.Value, rng *rand.Rand, one int) {
	if v.Kind() == reflect.Struct && v.NumField() > 0 && v.Type().Field(0).Tag.Get("fact") != "" {
		for i := range v.NumField() {
			mutate(v.Field(i), rng, one)
		}
		return
	}
	if rng.IntN(one) == 0 {
		fill(v, rng)
	}
}

// TestKeys: two sets of facts have one key if and only if the policy would see
// the same.
func TestKeys(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range policy.Stages() {
		whole := stage{name: name, read: planOf(name, [][]string{nil}, true)}
		equal := 0
		for range 200 {
			var a policy.Facts
			fill(reflect.ValueOf(&a).Elem(), rng)
			b := a
			mutate(reflect.ValueOf(&b).Elem(), rng, 60)
			same := bytes.Equal(whole.key(nil, &a), whole.key(nil, &b))
			if same {
				equal++
			}
			checkSame(t, &whole.read, reflect.ValueOf(&a).Elem(), reflect.ValueOf(&b).Elem(), same)
		}
		if equal == 0 || equal == 200 {
			t.Errorf("%s: %d of 200 pairs are equal: the test can't tell", name, equal)
		}
	}
}

// TestLeafKeys: of each type of fact no value's key is another's, or the
// beginning of another's, so that what follows can't make two keys equal.
func TestLeafKeys(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	seen := map[reflect.Type]bool{}
	for _, name := range policy.Stages() {
		eachLeaf(policy.Input(name), func(f policy.Fact) {
			if seen[f.Type] {
				return
			}
			seen[f.Type] = true
			p := plan{leaf: leafOf(&f)}
			for range 2000 {
				a, b := reflect.New(f.Type).Elem(), reflect.New(f.Type).Elem()
				fill(a, rng)
				fill(b, rng)
				keyA, keyB := p.key(nil, a), p.key(nil, b)
				same := bytes.Equal(keyA, keyB)
				if !same && bytes.HasPrefix(keyB, keyA) {
					t.Fatalf("%v: the key of %v begins that of %v", f.Type, a, b)
				}
				checkSame(t, &p, a, b, same)
			}
		})
	}
	if len(seen) < 10 {
		t.Errorf("%d types of facts: some are missed", len(seen))
	}
}

// TestAttributeKeys is the same over values that are easily confused.
func TestAttributeKeys(t *testing.T) {
	type object = map[string]any
	values := []any{
		nil, true, false, "", "t", "f", "0", "1", "a", json.Number("1"), json.Number("12"), 1.0, -1.0, 12.0,
		[]any{}, []any{nil}, []any{nil, nil}, []any{"a"}, []any{"a", "b"}, []any{[]any{"a"}, "b"}, []any{[]any{"a", "b"}},
		object{}, object{"a": nil}, object{"a": "b"}, object{"b": "a"}, object{"a": object{}}, object{"a": nil, "b": nil}, []any{object{"a": nil}, nil},
	}
	for i, a := range values {
		for j, b := range values {
			if i != j && bytes.HasPrefix(appendAttribute(nil, b), appendAttribute(nil, a)) {
				t.Errorf("the key of %#v begins that of %#v", a, b)
			}
		}
	}
}

func eachLeaf(f policy.Fact, visit func(policy.Fact)) {
	if f.Fields == nil {
		visit(f)
	}
	for _, below := range f.Fields {
		eachLeaf(below, visit)
	}
}

// checkSame holds what a policy sees of two Go values against whether their
// keys are the same.
func checkSame(t *testing.T, p *plan, a, b reflect.Value, same bool) {
	t.Helper()
	valueA, errA := p.value(a)
	valueB, errB := p.value(b)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if equal := valueA.Compare(valueB) == 0; same && !equal {
		t.Fatalf("one key for\n%v\n%v", valueA, valueB)
	} else if !same && equal && !strings.Contains(fmt.Sprint(a, b), "%") { // a zone shows in no prefix
		t.Fatalf("two keys for %v", valueA)
	}
}

// FuzzKeys looks for two different sets of facts with one key, in the facts
// that hold a stranger's text.
func FuzzKeys(f *testing.F) {
	f.Add("a", "b", "c", "a", "bc", "")
	f.Add("a\x00b", "", "x", "a", "\x00b", "x")
	f.Add("a,b", "\x01a", "c", "a", "b", "\x02ac")
	st := stage{name: policy.Route, read: planOf(policy.Route, [][]string{nil}, true)}
	facts := func(x, y, z string) *policy.Facts {
		return &policy.Facts{
			Session:  policy.Session{Listener: x, Protocol: y},
			Identity: policy.Identity{Name: z, Groups: strings.Split(x, ","), Attributes: policy.Attributes{x: y, y: []any{z, x}, z: map[string]any{x: z}}},
			Request:  policy.Request{Method: y, Path: z, Headers: map[string][]string{x: {y, z}, z: strings.Split(y, ",")}},
			Target:   policy.Target{Host: x, Suffixes: policy.Suffixes(y), Kind: z},
		}
	}
	f.Fuzz(func(t *testing.T, x1, y1, z1, x2, y2, z2 string) {
		a, b := facts(x1, y1, z1), facts(x2, y2, z2)
		if got, want := bytes.Equal(st.key(nil, a), st.key(nil, b)), reflect.DeepEqual(a, b); got != want {
			t.Errorf("one key: %v, equal: %v\n%+v\n%+v", got, want, a, b)
		}
	})
}
