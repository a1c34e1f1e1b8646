package config

import (
	"encoding/json"
	"iter"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"sallyport/proxy/secret"
)

// fields pairs a struct's fields with what a mapping holds for them. Keys that are no field are problems.
func (l *loader) fields(of reflect.Type, n *node, path string) iter.Seq2[reflect.StructField, entry] {
	return func(yield func(reflect.StructField, entry) bool) {
		if n.kind == null { // a section whose every line is commented out
			return
		}
		if n.kind != mapping {
			l.want("a map", n, path)
			return
		}
		known := map[string]reflect.StructField{}
		var keys []string
		for field := range of.Fields() {
			if key := field.Tag.Get("key"); key != "" {
				known[key] = field
				keys = append(keys, key)
			}
		}
		for _, e := range n.entries {
			below := join(path, e.key)
			field, found := known[e.key]
			switch {
			case !found && isUnsupported(below):
				l.problems.add(e.at, below, notYet)
			case !found:
				l.problems.add(e.at, below, "unknown key%s", didYouMean(e.key, keys))
			case !yield(field, e):
				return
			}
		}
	}
}

func (l *loader) want(what string, n *node, path string) {
	l.problems.add(n.at, path, "want %s, got %s", what, n.describe())
	l.unread = append(l.unread, path)
}

// decode puts what was written into a field, and notes where it was written.
func (l *loader) decode(n *node, target reflect.Value, path string) {
	addresses := target.Type() == reflect.TypeFor[[]netip.Addr]() // of which one needs no list
	if (n.kind == untyped || n.kind == text && addresses) && target.Kind() == reflect.Slice {
		n = splitList(n)
	}
	if (n.kind == text || n.kind == untyped) && !n.at.secret {
		value, isSecret, err := secret.Expand(n.text, l.config.identities)
		if err != nil {
			l.problems.add(n.at, path, "%v", err)
			l.unread = append(l.unread, path)
			return
		}
		expanded := node{kind: n.kind, at: n.at, text: value, written: n.written}
		if isSecret {
			expanded.kind, expanded.at.secret, expanded.at.written = untyped, true, n.text
			expanded.written = text // where any type will do; a password may be all digits
		}
		n = &expanded
		if n.kind == untyped && target.Kind() == reflect.Slice {
			n = splitList(n)
		}
	}
	at := n.at
	at.value = n.text
	l.config.origins[path] = at
	switch field := target.Addr().Interface().(type) {
	case *secret.String:
		n.at.secret = true
		if n.kind != text && n.kind != untyped {
			l.want("a string in quotes", n, path)
			return
		}
		*field = secret.New(n.text)
	case *time.Duration:
		duration, valid := parseDuration(n)
		if !valid {
			l.want("a duration such as 10s", n, path)
			return
		}
		*field = duration
	case *Bytes:
		size, err := ParseBytes(n.text)
		if err != nil || n.kind != text && n.kind != untyped && n.kind != integer {
			l.want("a size such as 10MiB", n, path)
			return
		}
		*field = size
	case *NameServer:
		server, err := ParseNameServer(n.text)
		switch {
		case err == nil && (n.kind == text || n.kind == untyped):
			*field = server
		case n.at.secret || n.kind != text && n.kind != untyped:
			l.want("a name server such as 192.0.2.1 or tls://192.0.2.1#NAME", n, path)
		default:
			l.want("a name server such as 192.0.2.1 or tls://192.0.2.1#NAME ("+err.Error()+")", n, path)
		}
	case *netip.Addr:
		address, err := netip.ParseAddr(n.text)
		if err != nil {
			l.want("an IP address", n, path)
			return
		}
		*field = address.Unmap()
	case *Ports:
		ports, err := ParsePorts(n.text)
		if err != nil || n.kind != text && n.kind != untyped && n.kind != integer {
			l.want("a range of ports such as 40000-40100", n, path)
			return
		}
		*field = ports
	case *netip.Prefix:
		network, err := netip.ParsePrefix(n.text)
		if ip, single := netip.ParseAddr(n.text); single == nil {
			network, err = ip.Prefix(ip.BitLen())
		}
		if err != nil {
			l.want("an IP address or a network such as 10.0.0.0/8", n, path)
			return
		}
		*field = network
	default:
		l.decodeKind(n, target, path)
	}
}

// decodeKind is decode for the types that have no text of their own.
func (l *loader) decodeKind(n *node, target reflect.Value, path string) {
	switch target.Kind() {
	case reflect.String:
		if n.kind != text && n.kind != untyped {
			l.want("a string", n, path)
			return
		}
		target.SetString(n.text)
	case reflect.Bool:
		value, err := strconv.ParseBool(n.text)
		if err != nil || n.kind != boolean && n.kind != untyped {
			l.want("true or false", n, path)
			return
		}
		target.SetBool(value)
	case reflect.Int:
		value, valid := parseInteger(n)
		if !valid {
			l.want("an integer", n, path)
			return
		}
		target.SetInt(value)
	case reflect.Slice:
		if n.kind == null {
			return
		}
		if n.kind != list {
			l.want("a list", n, path)
			return
		}
		items := reflect.MakeSlice(target.Type(), len(n.items), len(n.items))
		for i, item := range n.items {
			l.decode(item, items.Index(i), index(path, i))
		}
		target.Set(items)
	case reflect.Map:
		if n.kind == null {
			return
		}
		if n.kind != mapping {
			l.want("a map", n, path)
			return
		}
		values := reflect.MakeMapWithSize(target.Type(), len(n.entries))
		for _, e := range n.entries {
			value := reflect.New(target.Type().Elem()).Elem()
			l.decode(e.value, value, join(path, e.key))
			values.SetMapIndex(reflect.ValueOf(e.key), value)
		}
		target.Set(values)
	case reflect.Interface:
		l.decodeFree(n, target, path)
	case reflect.Pointer: // a section that means something by being there
		if n.kind == null {
			return
		}
		section := reflect.New(target.Type().Elem())
		for field, e := range l.fields(target.Type().Elem(), n, path) {
			l.decode(e.value, section.Elem().FieldByIndex(field.Index), join(path, e.key))
		}
		target.Set(section)
	case reflect.Struct:
		for field, e := range l.fields(target.Type(), n, path) {
			l.decode(e.value, target.FieldByIndex(field.Index), join(path, e.key))
		}
	}
}

// decodeFree is decode where any JSON value will do: nil, bool, int64, float64, string, []any, map[string]any.
func (l *loader) decodeFree(n *node, target reflect.Value, path string) {
	var value any
	switch n.kind {
	case null:
		return
	case mapping:
		members := make(map[string]any, len(n.entries))
		l.decode(n, reflect.ValueOf(&members).Elem(), path)
		value = members
	case list:
		items := make([]any, len(n.items))
		l.decode(n, reflect.ValueOf(&items).Elem(), path)
		value = items
	case text:
		value = n.text
	case untyped:
		value = guess(n)
	default:
		var valid bool
		if value, valid = parseScalar(n.kind, n.text); !valid {
			l.want("a string, a number, true or false", n, path)
			return
		}
	}
	target.Set(reflect.ValueOf(value))
}

// guess gives an untyped scalar the type that JSON would, unless YAML or a secret has told.
func guess(n *node) any {
	switch n.written {
	case null: // it comes from no YAML
	case boolean, integer, number:
		if value, valid := parseScalar(n.written, n.text); valid {
			return value
		}
		return n.text
	default:
		return n.text
	}
	for _, kind := range []kind{boolean, integer, number} {
		if value, valid := parseScalar(kind, n.text); valid && json.Valid([]byte(n.text)) {
			return value
		}
	}
	return n.text
}

// parseScalar reads what YAML, JSON and TOML write as true or false, or as a number that JSON has too.
func parseScalar(kind kind, text string) (any, bool) {
	digits := strings.ReplaceAll(text, "_", "")
	switch kind {
	case boolean:
		value, err := strconv.ParseBool(text)
		return value, err == nil
	case integer:
		if value, err := strconv.ParseInt(digits, 0, 64); err == nil {
			return value, true
		}
	case number:
	default:
		return nil, false
	}
	value, err := strconv.ParseFloat(digits, 64)
	return value, err == nil && !math.IsInf(value, 0) && !math.IsNaN(value)
}

// splitList makes a list of a text in which commas separate the items.
func splitList(n *node) *node {
	items := &node{kind: list, at: n.at}
	if n.text == "" {
		return items
	}
	for item := range strings.SplitSeq(n.text, ",") {
		items.items = append(items.items, &node{kind: untyped, at: n.at, text: strings.TrimSpace(item)})
	}
	return items
}

func parseInteger(n *node) (int64, bool) {
	var value int64
	var err error
	switch n.kind {
	case integer: // as YAML and TOML write them: 1_000, 0x3e8
		value, err = strconv.ParseInt(strings.ReplaceAll(n.text, "_", ""), 0, strconv.IntSize)
	case untyped:
		value, err = strconv.ParseInt(n.text, 10, strconv.IntSize)
	default:
		return 0, false
	}
	return value, err == nil
}

// parseDuration takes Go's durations and numbers of seconds.
func parseDuration(n *node) (time.Duration, bool) {
	if n.kind == text || n.kind == untyped {
		if duration, err := time.ParseDuration(n.text); err == nil || n.kind == text {
			return duration, err == nil
		}
	}
	if n.kind != integer && n.kind != number && n.kind != untyped {
		return 0, false
	}
	seconds, err := strconv.ParseFloat(strings.ReplaceAll(n.text, "_", ""), 64)
	if err != nil || math.IsNaN(seconds) || math.Abs(seconds) >= math.MaxInt64/float64(time.Second) {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}
