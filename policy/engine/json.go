package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// json appends the plan's part of the facts as JSON: the same as the JSON of
// its value, which a log would have to be made of otherwise, at a tenth of the
// cost. It fails where value does.
func (p *plan) json(b []byte, of reflect.Value) ([]byte, error) {
	if p.leaf != nil {
		if p.leaf.json != nil {
			return p.leaf.json(b, of), nil
		}
		value, err := p.leaf.value(of)
		if err != nil {
			return b, err
		}
		return appendValue(b, value), nil
	}
	b = append(b, '{')
	for i := range p.fields {
		f := &p.fields[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(AppendString(b, f.name), ':')
		var err error
		if b, err = f.json(b, of.Field(f.index)); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

func jsonOfIP(b []byte, ip *policy.IP) []byte {
	b = append(b, '"')
	if ip.IsValid() {
		b = ip.AppendTo(b)
	}
	return append(b, '"')
}

func jsonOfPrefixes(b []byte, p *policy.Prefixes) []byte {
	open := len(b)
	for prefix := range p.Each {
		b = append(b, ',', '"')
		b = append(prefix.AppendTo(b), '"')
	}
	return closed(b, open)
}

func jsonOfSuffixes(b []byte, s *policy.Suffixes) []byte {
	open := len(b)
	for suffix := range s.Each {
		b = AppendString(append(b, ','), suffix)
	}
	return closed(b, open)
}

func jsonOfTexts(b []byte, list *[]string) []byte {
	open := len(b)
	for _, text := range *list {
		b = AppendString(append(b, ','), text)
	}
	return closed(b, open)
}

// closed makes an array of elements with a comma before each.
func closed(b []byte, open int) []byte {
	if len(b) == open {
		return append(b, '[', ']')
	}
	b[open] = '['
	return append(b, ']')
}

// appendValue writes a value as [ast.JSON] would have it: sets as sorted
// arrays, and keys that are no strings as the text of their JSON.
func appendValue(b []byte, value ast.Value) []byte {
	switch value := value.(type) {
	case ast.Null:
		return append(b, "null"...)
	case ast.Boolean:
		return strconv.AppendBool(b, bool(value))
	case ast.Number:
		return appendNumber(b, string(value))
	case ast.String:
		return AppendString(b, string(value))
	case *ast.Array:
		return appendArray(b, value)
	case ast.Set:
		return appendArray(b, value.Sorted())
	case ast.Object:
		return appendObject(b, value)
	}
	return AppendString(b, fmt.Sprintf("a value of type %T", value)) // no result of an evaluation
}

// appendNumber writes a number as JSON has it. Rego's to_number keeps text that
// JSON does not know, such as +9 or .5.
func appendNumber(b []byte, text string) []byte {
	if json.Valid([]byte(text)) {
		return append(b, text...)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return AppendString(b, text)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}

func appendObject(b []byte, object ast.Object) []byte {
	b = append(b, '{')
	first := true
	object.Foreach(func(k, v *ast.Term) {
		if !first {
			b = append(b, ',')
		}
		first = false
		if name, ok := k.Value.(ast.String); ok {
			b = AppendString(b, string(name))
		} else {
			b = AppendString(b, string(appendValue(nil, k.Value)))
		}
		b = append(b, ':')
		b = appendValue(b, v.Value)
	})
	return append(b, '}')
}

func appendArray(b []byte, list *ast.Array) []byte {
	b = append(b, '[')
	for i := range list.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendValue(b, list.Elem(i).Value)
	}
	return append(b, ']')
}

// AppendString writes a JSON string. It leaves to encoding/json what is not plain
// ASCII, and bytes that are not UTF-8 come out as it has them: U+FFFD.
func AppendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			var quoted bytes.Buffer
			encoder := json.NewEncoder(&quoted)
			encoder.SetEscapeHTML(false)
			encoder.Encode(s) // a string can be encoded, and a buffer written to
			return append(b, bytes.TrimSuffix(quoted.Bytes(), []byte("\n"))...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
