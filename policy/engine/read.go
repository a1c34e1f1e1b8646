package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// misread is what is wrong with a value.
type misread struct {
	key  string // where in the field's object
	what string
}

func (w *misread) Error() string { return w.what }

func misreadf(format string, args ...any) error { return &misread{what: fmt.Sprintf(format, args...)} }

func unexpected(want string, got ast.Value) error {
	return misreadf("want %s, got %s", want, ast.ValueName(got))
}

// reader reads a value strictly into a Go field.
type reader func(value ast.Value, into reflect.Value) error

// readerOf knows the types that [policy.Decision] may hold.
func readerOf(t reflect.Type) reader {
	switch t {
	case reflect.TypeFor[policy.Set]():
		return readerFor(func(v ast.Value) (policy.Set, error) {
			set, ok := v.(ast.Set)
			if !ok {
				return nil, unexpected("a set of strings", v)
			}
			return stringsOf(set.Sorted())
		})
	case reflect.TypeFor[policy.Texts]():
		return readerFor(readTexts)
	case reflect.TypeFor[policy.Methods]():
		return readerFor(readMethods)
	case reflect.TypeFor[policy.Groups]():
		return readerFor(func(v ast.Value) (policy.Groups, error) { return stringsOfList(v) })
	case reflect.TypeFor[policy.Labels]():
		return readerFor(readLabels)
	case reflect.TypeFor[policy.Attributes]():
		return readerFor(readAttributes)
	case reflect.TypeFor[policy.Via]():
		return readerFor(readVia)
	case reflect.TypeFor[policy.Resolution]():
		return readerFor(readResolution)
	case reflect.TypeFor[policy.Duration]():
		return readerFor(func(v ast.Value) (policy.Duration, error) {
			n, err := quantity(v, float64(time.Second), func(s string) (int64, error) {
				d, err := parseDuration(s)
				return int64(d), err
			})
			return policy.Duration(n), err
		})
	case reflect.TypeFor[policy.Size]():
		return readerFor(func(v ast.Value) (policy.Size, error) {
			n, err := quantity(v, 1, parseSize)
			return policy.Size(n), err
		})
	case reflect.TypeFor[policy.Speed]():
		return readerFor(func(v ast.Value) (policy.Speed, error) {
			n, err := quantity(v, 1, parseSpeed)
			return policy.Speed(n), err
		})
	case reflect.TypeFor[policy.Pace]():
		return readerFor(readRate)
	case reflect.TypeFor[netip.Prefix]():
		return readerFor(func(v ast.Value) (netip.Prefix, error) {
			s, err := stringOf(v)
			if err != nil {
				return netip.Prefix{}, err
			}
			p, err := parsePrefix(s)
			if err != nil {
				return netip.Prefix{}, misreadf("%s", clipped(err.Error()))
			}
			return p, nil
		})
	case reflect.TypeFor[policy.Period]():
		return readerFor(readPeriod)
	case reflect.TypeFor[netip.Addr]():
		return readerFor(func(v ast.Value) (netip.Addr, error) {
			s, err := stringOf(v)
			if err != nil {
				return netip.Addr{}, err
			}
			ip, err := netip.ParseAddr(s)
			if err != nil {
				return netip.Addr{}, misreadf("%q is not an IP address", s)
			}
			return ip, nil
		})
	}
	switch t.Kind() {
	case reflect.Bool:
		return func(v ast.Value, into reflect.Value) error {
			b, ok := v.(ast.Boolean)
			if !ok {
				return unexpected("a boolean", v)
			}
			into.SetBool(bool(b))
			return nil
		}
	case reflect.String:
		return func(v ast.Value, into reflect.Value) error {
			s, err := stringOf(v)
			into.SetString(s)
			return err
		}
	case reflect.Pointer:
		read := readerOf(t.Elem())
		return func(v ast.Value, into reflect.Value) error {
			into.Set(reflect.New(t.Elem()))
			return read(v, into.Elem())
		}
	case reflect.Struct:
		return structReader(t)
	}
	panic(fmt.Sprintf("engine: no reader for decision fields of type %v", t))
}

// readerFor is a reader of one Go type.
func readerFor[T any](read func(ast.Value) (T, error)) reader {
	return func(v ast.Value, into reflect.Value) error {
		value, err := read(v)
		if err == nil {
			*into.Addr().Interface().(*T) = value
		}
		return err
	}
}

// structReader reads an object with the keys that the struct's tags declare.
func structReader(t reflect.Type) reader {
	type key struct {
		index int
		read  reader
	}
	keys := map[string]key{}
	for i := range t.NumField() {
		field := t.Field(i)
		name, ok := field.Tag.Lookup("key")
		if !ok {
			continue
		}
		keys[name] = key{i, keyReader(field)}
	}
	return func(v ast.Value, into reflect.Value) error {
		object, ok := v.(ast.Object)
		if !ok {
			return unexpected("an object", v)
		}
		return object.Iter(func(k, v *ast.Term) error {
			name, ok := k.Value.(ast.String)
			if !ok {
				return unexpected("keys that are strings", k.Value)
			}
			at, ok := keys[string(name)]
			if !ok {
				return misreadf("it has no key %q", string(name))
			}
			err := at.read(v.Value, into.Field(at.index))
			if w := (*misread)(nil); errors.As(err, &w) {
				w.key = strings.TrimSuffix(string(name)+"."+w.key, ".")
			}
			return err
		})
	}
}

// keyReader reads what an object has at the key that a field declares. Tags
// narrow it: range is the least and the most of an integer and unit what it
// counts, and zero is "no" where 0 would be no bound at all.
func keyReader(field reflect.StructField) reader {
	if field.Type.Kind() == reflect.Int64 && field.Type.PkgPath() == "" {
		return integerReader(field.Tag.Get("range"), field.Tag.Get("unit"))
	}
	read := readerOf(field.Type)
	if field.Tag.Get("zero") != "no" {
		return read
	}
	return func(v ast.Value, into reflect.Value) error {
		err := read(v, into)
		if err == nil && into.IsZero() {
			return misreadf("0 would be no bound at all: leave the key out, or deny")
		}
		return err
	}
}

// integerReader reads a whole number between the two that the tag names.
func integerReader(tag, unit string) reader {
	least, most := int64(0), int64(1<<63-1)
	if unit != "" {
		unit = ": " + unit
	}
	if tag != "" {
		if _, err := fmt.Sscan(tag, &least, &most); err != nil {
			panic(fmt.Sprintf("engine: the range %q: %v", tag, err))
		}
	}
	return func(v ast.Value, into reflect.Value) error {
		number, ok := v.(ast.Number)
		if !ok {
			return unexpected("a number", v)
		}
		n, ok := wholeOf(number)
		if !ok || n < least || n > most {
			return misreadf("%s is not a whole number from %d to %d%s", clipped(string(number)), least, most, unit)
		}
		into.SetInt(n)
		return nil
	}
}

// wholeOf reads a whole number in whichever way it is written: 1e3 is one.
func wholeOf(number ast.Number) (int64, bool) {
	if n, err := strconv.ParseInt(string(number), 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(string(number), 64)
	n := int64(f)
	return n, err == nil && float64(n) == f && f > -1<<63 && f < 1<<63
}

// quantity reads text in its own form, or a number of units. What is not whole
// is rounded up, so that a bound never becomes none.
func quantity(v ast.Value, unit float64, parse func(string) (int64, error)) (int64, error) {
	switch v := v.(type) {
	case ast.String:
		n, err := parse(string(v))
		if err != nil {
			return 0, misreadf("%s", clipped(err.Error()))
		}
		return n, nil
	case ast.Number:
		if n, err := strconv.ParseInt(string(v), 10, 64); err == nil && n >= 0 && unit == 1 {
			return n, nil
		}
		f, err := strconv.ParseFloat(string(v), 64)
		if err == nil {
			var n int64
			if n, err = scaled(f, unit); err == nil {
				return n, nil
			}
		}
		return 0, misreadf("%s is out of range", clipped(string(v)))
	}
	return 0, unexpected("a string or a number", v)
}

// clipped keeps a value of any length from filling a log.
func clipped(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func stringOf(v ast.Value) (string, error) {
	s, ok := v.(ast.String)
	if !ok {
		return "", unexpected("a string", v)
	}
	return string(s), nil
}

func stringsOf(list *ast.Array) ([]string, error) {
	out := make([]string, 0, list.Len())
	for i := range list.Len() {
		s, err := stringOf(list.Elem(i).Value)
		if err != nil {
			return nil, misreadf("its members: %s", err.Error())
		}
		out = append(out, s)
	}
	return out, nil
}

// stringsOfList takes an array in its order, or a set sorted.
func stringsOfList(v ast.Value) ([]string, error) {
	switch v := v.(type) {
	case ast.Set:
		return stringsOf(v.Sorted())
	case *ast.Array:
		return stringsOf(v)
	}
	return nil, unexpected("an array or a set of strings", v)
}

func readTexts(v ast.Value) (policy.Texts, error) {
	switch v := v.(type) {
	case ast.Set:
		return stringsOf(v.Sorted())
	case ast.String:
		return policy.Texts{string(v)}, nil
	}
	return nil, unexpected("a string or a set of strings", v)
}

func readMethods(v ast.Value) (policy.Methods, error) {
	names, err := stringsOfList(v)
	if err != nil {
		return nil, err
	}
	known := []policy.Method{
		policy.MethodCertificateAndPassword, policy.MethodCertificate, policy.MethodPassword, policy.MethodNone,
	}
	out := make(policy.Methods, 0, len(names))
	for _, name := range names {
		if !slices.Contains(known, policy.Method(name)) {
			return nil, misreadf("there is no method %q", clipped(name))
		}
		out = append(out, policy.Method(name))
	}
	return out, nil
}

func readLabels(v ast.Value) (policy.Labels, error) {
	object, ok := v.(ast.Object)
	if !ok {
		return nil, unexpected("an object of strings", v)
	}
	out := make(policy.Labels, object.Len())
	err := object.Iter(func(k, v *ast.Term) error {
		name, err := stringOf(k.Value)
		if err != nil {
			return misreadf("its keys: %s", err.Error())
		}
		if out[name], err = stringOf(v.Value); err != nil {
			return misreadf("its values: %s", err.Error())
		}
		return nil
	})
	return out, err
}

func readAttributes(v ast.Value) (policy.Attributes, error) {
	if _, ok := v.(ast.Object); !ok {
		return nil, unexpected("an object", v)
	}
	value, err := ast.JSON(v)
	if err != nil {
		return nil, misreadf("it is not JSON")
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, unexpected("an object", v)
	}
	return object, nil
}
