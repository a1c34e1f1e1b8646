package engine

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// leaf is how facts of one Go type become values and key bytes. Both take the
// addressable Go field. A value that fails never fails differently under an
// equal key.
type leaf struct {
	value func(of reflect.Value) (ast.Value, error)
	key   func(b []byte, of reflect.Value) []byte
	json  func(b []byte, of reflect.Value) []byte // nil: that of the value; it never fails
}

// inJSON adds how facts of the leaf's type are written into a log.
func inJSON[T any](l *leaf, write func([]byte, *T) []byte) *leaf {
	l.json = func(b []byte, of reflect.Value) []byte { return write(b, of.Addr().Interface().(*T)) }
	return l
}

// leafOf knows the types that [policy.Facts] may hold; see policy/kinds.go.
func leafOf(f *policy.Fact) *leaf {
	switch f.Type {
	case reflect.TypeFor[policy.IP]():
		return inJSON(leafFor(
			func(ip *policy.IP) (ast.Value, error) { return text(ip.Text()), nil },
			func(b []byte, ip *policy.IP) []byte { return appendAddr(b, ip.Addr) }), jsonOfIP)
	case reflect.TypeFor[policy.Prefixes]():
		return inJSON(leafFor(
			func(p *policy.Prefixes) (ast.Value, error) { return prefixes(*p), nil },
			func(b []byte, p *policy.Prefixes) []byte { return appendAddr(b, p.Addr) }), jsonOfPrefixes)
	case reflect.TypeFor[policy.Suffixes]():
		return inJSON(leafFor(
			func(s *policy.Suffixes) (ast.Value, error) { return suffixes(*s), nil },
			func(b []byte, s *policy.Suffixes) []byte { return appendText(b, string(*s)) }), jsonOfSuffixes)
	case reflect.TypeFor[policy.Attributes]():
		return leafFor(
			func(a *policy.Attributes) (ast.Value, error) { return attribute(map[string]any(*a)) },
			func(b []byte, a *policy.Attributes) []byte { return appendAttribute(b, map[string]any(*a)) })
	case reflect.TypeFor[[]string]():
		return inJSON(leafFor(
			func(s *[]string) (ast.Value, error) { return texts(*s), nil },
			func(b []byte, s *[]string) []byte { return appendTexts(b, *s) }), jsonOfTexts)
	case reflect.TypeFor[map[string]string]():
		return leafFor(
			func(m *map[string]string) (ast.Value, error) { return object(*m, text), nil },
			func(b []byte, m *map[string]string) []byte { return appendMap(b, *m, appendText) })
	case reflect.TypeFor[map[string][]string]():
		return leafFor(
			func(m *map[string][]string) (ast.Value, error) { return object(*m, texts), nil },
			func(b []byte, m *map[string][]string) []byte { return appendMap(b, *m, appendTexts) })
	case reflect.TypeFor[policy.Headers]():
		return leafFor(
			func(h *policy.Headers) (ast.Value, error) { return object(shown(*h), texts), nil },
			func(b []byte, h *policy.Headers) []byte { return appendMap(b, shown(*h), appendTexts) })
	case reflect.TypeFor[map[string]policy.Upstream]():
		return upstreams(f.Each, [][]string{nil})
	}
	switch f.Type.Kind() {
	case reflect.String:
		return &leaf{
			func(of reflect.Value) (ast.Value, error) { return text(of.String()), nil },
			func(b []byte, of reflect.Value) []byte { return appendText(b, of.String()) },
			func(b []byte, of reflect.Value) []byte { return AppendString(b, of.String()) },
		}
	case reflect.Bool:
		return &leaf{
			func(of reflect.Value) (ast.Value, error) { return ast.InternedTerm(of.Bool()).Value, nil },
			func(b []byte, of reflect.Value) []byte {
				if of.Bool() {
					return append(b, 1)
				}
				return append(b, 0)
			},
			func(b []byte, of reflect.Value) []byte { return strconv.AppendBool(b, of.Bool()) },
		}
	case reflect.Int64:
		return &leaf{
			func(of reflect.Value) (ast.Value, error) { return ast.InternedTerm(of.Int()).Value, nil },
			func(b []byte, of reflect.Value) []byte { return binary.AppendVarint(b, of.Int()) },
			func(b []byte, of reflect.Value) []byte { return strconv.AppendInt(b, of.Int(), 10) },
		}
	}
	panic(fmt.Sprintf("engine: facts of type %v have no form", f.Type))
}

// leafFor is a leaf of a Go type by pointer, so that reflection boxes nothing.
func leafFor[T any](value func(*T) (ast.Value, error), key func([]byte, *T) []byte) *leaf {
	return &leaf{
		value: func(of reflect.Value) (ast.Value, error) { return value(of.Addr().Interface().(*T)) },
		key:   func(b []byte, of reflect.Value) []byte { return key(b, of.Addr().Interface().(*T)) },
	}
}

// upstreams shows of each upstream what lies on the paths.
func upstreams(declared []policy.Fact, paths [][]string) *leaf {
	each, _ := planFact(&policy.Fact{Fields: declared}, paths, true)
	return leafFor(
		func(m *map[string]policy.Upstream) (ast.Value, error) {
			return object(*m, func(u policy.Upstream) ast.Value {
				value, _ := each.value(reflect.ValueOf(&u).Elem()) // it has no attributes
				return value
			}), nil
		},
		func(b []byte, m *map[string]policy.Upstream) []byte {
			return appendMap(b, *m, func(b []byte, u policy.Upstream) []byte {
				return each.key(b, reflect.ValueOf(&u).Elem())
			})
		})
}

func text(s string) ast.Value { return ast.InternedTerm(s).Value }

func texts(list []string) ast.Value {
	if len(list) == 0 {
		return ast.InternedEmptyArrayValue
	}
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = ast.InternedTerm(s)
	}
	return ast.NewArray(terms...)
}

func object[T any](m map[string]T, value func(T) ast.Value) ast.Value {
	if len(m) == 0 {
		return ast.InternedEmptyObjectValue
	}
	pairs := make([][2]*ast.Term, 0, len(m))
	for name, v := range m {
		pairs = append(pairs, [2]*ast.Term{ast.InternedTerm(name), ast.NewTerm(value(v))})
	}
	return ast.NewObject(pairs...)
}

// shown are the headers that a policy sees.
func shown(h policy.Headers) map[string][]string { return maps.Collect(h.Each) }

// prefixes writes all of an address's prefixes into one string and cuts it up.
func prefixes(p policy.Prefixes) ast.Value {
	if !p.IsValid() {
		return ast.InternedEmptyArrayValue
	}
	const most = 66 // of IPv6
	var whole strings.Builder
	var ends [most]int
	var one [len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")]byte
	n := 0
	whole.Grow(most / 2 * len("255.255.255.255/32"))
	for prefix := range p.Each {
		whole.Write(prefix.AppendTo(one[:0]))
		ends[n] = whole.Len()
		n++
	}
	terms, values := make([]*ast.Term, n), make([]ast.Term, n)
	from := 0
	for i := range n {
		values[i].Value = ast.String(whole.String()[from:ends[i]])
		terms[i], from = &values[i], ends[i]
	}
	return ast.NewArray(terms...)
}

func suffixes(s policy.Suffixes) ast.Value {
	if s == "" {
		return ast.InternedEmptyArrayValue
	}
	var terms []*ast.Term
	for suffix := range s.Each {
		terms = append(terms, ast.StringTerm(suffix))
	}
	return ast.NewArray(terms...)
}

// attribute accepts what [policy.Attributes] may hold.
func attribute(of any) (ast.Value, error) {
	switch of := of.(type) {
	case nil, bool, string, json.Number:
		return ast.InterfaceToValue(of)
	case float64:
		if math.IsNaN(of) || math.IsInf(of, 0) {
			return nil, fmt.Errorf("attributes hold the number %v", of)
		}
		return ast.InterfaceToValue(of)
	case []any:
		terms := make([]*ast.Term, len(of))
		for i := range of {
			value, err := attribute(of[i])
			if err != nil {
				return nil, err
			}
			terms[i] = ast.NewTerm(value)
		}
		return ast.NewArray(terms...), nil
	case map[string]any:
		pairs := make([][2]*ast.Term, 0, len(of))
		for name, v := range of {
			value, err := attribute(v)
			if err != nil {
				return nil, err
			}
			pairs = append(pairs, [2]*ast.Term{ast.InternedTerm(name), ast.NewTerm(value)})
		}
		return ast.NewObject(pairs...), nil
	}
	return nil, fmt.Errorf("attributes hold a Go value of type %T", of)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTexts(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}

// appendAddr keeps the zone, which an address's text shows.
func appendAddr(b []byte, ip netip.Addr) []byte {
	b = binary.AppendUvarint(b, uint64(ip.BitLen()/8+len(ip.Zone())))
	b, _ = ip.AppendBinary(b) // it never fails
	return b
}

func appendMap[T any](b []byte, m map[string]T, value func([]byte, T) []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(m)))
	if len(m) == 0 {
		return b
	}
	var room [32]string
	names := room[:0]
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b = value(appendText(b, name), m[name])
	}
	return b
}

// appendAttribute marks each value with its type. What is no JSON is marked
// only: it is a fault, and those are never remembered.
func appendAttribute(b []byte, of any) []byte {
	switch of := of.(type) {
	case nil:
		return append(b, '0')
	case bool:
		if of {
			return append(b, 't')
		}
		return append(b, 'f')
	case string:
		return appendText(append(b, 's'), of)
	case json.Number:
		return appendText(append(b, 'n'), string(of))
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 'd'), math.Float64bits(of))
	case []any:
		b = binary.AppendUvarint(append(b, 'a'), uint64(len(of)))
		for i := range of {
			b = appendAttribute(b, of[i])
		}
		return b
	case map[string]any:
		return appendMap(append(b, 'o'), of, appendAttribute)
	}
	return append(b, '?')
}
