package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// ReadFacts reads a stage's input as people write it and as logs hold it: an
// object of facts in the Go values of encoding/json, with numbers as float64
// or json.Number. What is missing has its empty value, except that the facts
// which follow from an address or a name (family, prefixes, scope, kind,
// suffixes) are worked out where they are not given. A target's host has to be
// in canonical form. The error names the fact, and suggests one where the name
// is unknown.
func ReadFacts(stage Stage, input map[string]any) (*Facts, error) {
	facts := new(Facts)
	root := Input(stage)
	derive(facts, stage, input)
	if err := readObject(reflect.ValueOf(facts).Elem(), root.Fields, input, "input"); err != nil {
		return nil, fmt.Errorf("%s: %w", stage.Package(), err)
	}
	return facts, nil
}

// derive fills the facts that follow from the others, before those that are
// given are laid over them. What is not well-formed is left to the reading.
func derive(facts *Facts, stage Stage, input map[string]any) {
	if ip, port, ok := addressIn(input, "source"); ok {
		facts.Source = SourceOf(netip.AddrPortFrom(ip, port))
	}
	if api, ok := input["api"].(map[string]any); ok {
		if ip, port, ok := addressIn(api, "source"); ok {
			facts.API.Source = APISourceOf(netip.AddrPortFrom(ip, port))
		}
	}
	if ip, _, ok := addressIn(input, "address"); ok {
		facts.Address = AddressOf(ip)
	}
	target, _ := input["target"].(map[string]any)
	host, _ := target["host"].(string)
	if host == "" {
		host, _ = target["ip"].(string)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		facts.Target = TargetAddress(ip, 0)
	} else if host != "" {
		facts.Target = TargetName(host, 0)
	}
	if _, given := input["asked"]; !given && target != nil {
		port, _ := wholeNumber(target["port"])
		facts.Asked = Asked{Host: facts.Target.Host, Port: port}
	}
}

func addressIn(input map[string]any, name string) (ip netip.Addr, port uint16, ok bool) {
	object, _ := input[name].(map[string]any)
	text, _ := object["ip"].(string)
	ip, err := netip.ParseAddr(text)
	n, _ := wholeNumber(object["port"])
	return ip, uint16(n), err == nil
}

func readObject(into reflect.Value, declared []Fact, input map[string]any, path string) error {
	names := make([]string, 0, len(input))
	for name := range input {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		at := slices.IndexFunc(declared, func(f Fact) bool { return f.Name == name })
		if at < 0 {
			return fmt.Errorf("%s.%s is not a fact%s", path, name, oneOf(name, declared))
		}
		f := &declared[at]
		field := into.Field(f.Index)
		below := path + "." + name
		if f.Fields == nil {
			if err := readLeaf(field, f, input[name], below); err != nil {
				return err
			}
			continue
		}
		object, ok := input[name].(map[string]any)
		if !ok {
			return fmt.Errorf("%s: want an object", below)
		}
		if err := readObject(field, f.Fields, object, below); err != nil {
			return err
		}
	}
	return nil
}

// oneOf suggests the declared name that is nearest, or lists them all.
func oneOf(name string, declared []Fact) string {
	var known []string
	for _, f := range declared {
		if strings.EqualFold(f.Name, name) || sameLetters(f.Name, name) {
			return ": did you mean " + f.Name + "?"
		}
		known = append(known, f.Name)
	}
	return ": want " + strings.Join(known, ", ")
}

// sameLetters tells two names that differ by one letter, or by two that
// changed places.
func sameLetters(a, b string) bool {
	if len(a) < len(b) {
		a, b = b, a
	}
	head := 0
	for head < len(b) && a[head] == b[head] {
		head++
	}
	a, b = a[head:], b[head:]
	switch len(a) - len(b) {
	case 0:
		return len(a) > 1 && (a[1:] == b[1:] || a[0] == b[1] && a[1] == b[0] && a[2:] == b[2:])
	case 1:
		return a[1:] == b
	}
	return false
}

func readLeaf(into reflect.Value, f *Fact, v any, path string) error {
	if f.Each != nil {
		object, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: want an object of objects", path)
		}
		made := reflect.MakeMapWithSize(f.Type, len(object))
		for name, one := range object {
			fields, ok := one.(map[string]any)
			if !ok {
				return fmt.Errorf("%s.%s: want an object", path, name)
			}
			value := reflect.New(f.Type.Elem()).Elem()
			if err := readObject(value, f.Each, fields, path+"."+name); err != nil {
				return err
			}
			made.SetMapIndex(reflect.ValueOf(name), value)
		}
		into.Set(made)
		return nil
	}
	switch to := into.Addr().Interface().(type) {
	case *IP:
		text, ok := v.(string)
		if !ok {
			return fmt.Errorf("%s: want an IP address as a string", path)
		}
		*to = IP{}
		if text == "" {
			return nil
		}
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("%s: %q is not an IP address", path, text)
		}
		*to = IP{ip.Unmap().WithZone("")}
		return nil
	case *Prefixes:
		return readPrefixes(to, v, path)
	case *Suffixes:
		return readSuffixes(to, v, path)
	case *Attributes:
		object, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: want an object", path)
		}
		*to = object
		return nil
	}
	switch f.Type.Kind() {
	case reflect.String:
		text, ok := v.(string)
		if !ok {
			return fmt.Errorf("%s: want a string", path)
		}
		if f.Values != nil && text != "" && !slices.Contains(f.Values, text) {
			return fmt.Errorf("%s: want %s, got %q", path, strings.Join(f.Values, ", "), text)
		}
		into.SetString(text)
	case reflect.Bool:
		yes, ok := v.(bool)
		if !ok {
			return fmt.Errorf("%s: want true or false", path)
		}
		into.SetBool(yes)
	case reflect.Int64:
		n, ok := wholeNumber(v)
		if !ok {
			return fmt.Errorf("%s: want a whole number", path)
		}
		into.SetInt(n)
	case reflect.Slice:
		list, err := texts(v, path)
		if err != nil {
			return err
		}
		into.Set(reflect.ValueOf(list))
	case reflect.Map:
		return readMap(into, f, v, path)
	default:
		panic(fmt.Sprintf("policy: no way to read facts of type %v", f.Type))
	}
	return nil
}

// readMap reads an object of strings, or of arrays of strings.
func readMap(into reflect.Value, f *Fact, v any, path string) error {
	object, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: want an object", path)
	}
	made := reflect.MakeMapWithSize(f.Type, len(object))
	for name, one := range object {
		var value any
		if f.Type.Elem().Kind() == reflect.Slice {
			list, err := texts(one, path+"."+name)
			if err != nil {
				return err
			}
			value = list
		} else if value, ok = one.(string); !ok {
			return fmt.Errorf("%s.%s: want a string", path, name)
		}
		made.SetMapIndex(reflect.ValueOf(name), reflect.ValueOf(value))
	}
	into.Set(made)
	return nil
}

// readPrefixes takes the prefixes of one address, as a log has them.
func readPrefixes(to *Prefixes, v any, path string) error {
	list, err := texts(v, path)
	if err != nil {
		return err
	}
	*to = Prefixes{}
	if len(list) == 0 {
		return nil
	}
	first, err := netip.ParsePrefix(list[0])
	if err == nil && first.IsSingleIP() {
		var all []string
		of := Prefixes{first.Addr()}
		for p := range of.Each {
			all = append(all, p.String())
		}
		if slices.Equal(all, list) {
			*to = of
			return nil
		}
	}
	return fmt.Errorf("%s: these are not all the prefixes of one address: leave them out, and they follow from ip", path)
}

// readSuffixes takes the suffixes of one name, as a log has them.
func readSuffixes(to *Suffixes, v any, path string) error {
	list, err := texts(v, path)
	if err != nil {
		return err
	}
	*to = ""
	if len(list) == 0 {
		return nil
	}
	var all []string
	for s := range Suffixes(list[0]).Each {
		all = append(all, s)
	}
	if !slices.Equal(all, list) {
		return fmt.Errorf("%s: these are not all the suffixes of one name: leave them out, and they follow from host", path)
	}
	*to = Suffixes(list[0])
	return nil
}

func texts(v any, path string) ([]string, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%s: want an array of strings", path)
	}
	out := make([]string, len(list))
	for i := range list {
		if out[i], ok = list[i].(string); !ok {
			return nil, fmt.Errorf("%s[%d]: want a string", path, i)
		}
	}
	return out, nil
}

func wholeNumber(v any) (int64, bool) {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, true
		}
		f, err := strconv.ParseFloat(string(v), 64)
		n := int64(f)
		return n, err == nil && float64(n) == f
	case float64:
		n := int64(v)
		return n, float64(n) == v
	case int64:
		return v, true
	case int:
		return int64(v), true
	}
	return 0, false
}
