package engine

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"

	"sallyport/policy"
)

// kind is what the value of a decision field may be, so far as it can be told
// without evaluating. What it cannot tell is checked when the answer is read.
type kind struct {
	name    string             // "a boolean": for messages
	text    bool               // a string is one
	parse   func(string) error // whether a string that is written out is one; nil: any
	oneOf   []string           // the strings that are; nil: any
	number  bool
	boolean bool
	array   bool
	set     bool
	member  *kind                 // of an array or a set
	value   *kind                 // of an object whose keys are free; nil where there is none
	keys    map[string]*kind      // of an object whose keys are declared; nil where there is none
	any     bool                  // everything is
	never   string                // nothing is, and why
	needs   []string              // keys that an object with any has
	beside  map[string]string     // keys that mean nothing without another one
	scalar  func(ast.Value) error // what a text or number at a key must be besides; nil: nothing
}

// kindOf reads the kind off the Go type of a field or of a key.
func kindOf(t reflect.Type) *kind {
	text := &kind{name: "a string", text: true}
	switch t {
	case reflect.TypeFor[policy.Set]():
		return &kind{name: "a set of strings", set: true, member: text}
	case reflect.TypeFor[policy.Texts]():
		return &kind{name: "a string or a set of strings", text: true, set: true, member: text}
	case reflect.TypeFor[policy.Groups]():
		return &kind{name: "an array or a set of strings", array: true, set: true, member: text}
	case reflect.TypeFor[policy.Methods]():
		methods := []string{
			string(policy.MethodCertificateAndPassword), string(policy.MethodCertificate),
			string(policy.MethodPassword), string(policy.MethodNone),
		}
		return &kind{name: "an array or a set of methods", array: true, set: true,
			member: &kind{name: "an authentication method (" + list(methods) + ")", text: true, oneOf: methods}}
	case reflect.TypeFor[policy.Duration]():
		return &kind{name: `a duration such as "1m30s" or a number of seconds`, text: true, number: true, parse: parsed(parseDuration)}
	case reflect.TypeFor[policy.Size]():
		return &kind{name: `a size such as "10MiB" or a number of bytes`, text: true, number: true, parse: parsed(parseSize)}
	case reflect.TypeFor[policy.Speed]():
		return &kind{name: `a speed such as "10MiB/s" or a number of bytes per second`, text: true, number: true, parse: parsed(parseSpeed)}
	case reflect.TypeFor[policy.Labels]():
		return &kind{name: "an object of strings", value: text}
	case reflect.TypeFor[policy.Attributes]():
		return &kind{name: "an object", value: &kind{any: true}}
	case reflect.TypeFor[policy.Via]():
		return kindOfVia()
	case reflect.TypeFor[policy.Resolution]():
		return &kind{name: "local or remote", text: true, oneOf: resolutions()}
	case reflect.TypeFor[policy.Pace]():
		return &kind{name: `a rate such as "20/s" or a number a second`, text: true, number: true, parse: parsed(parseRate)}
	case reflect.TypeFor[netip.Prefix]():
		return &kind{name: `a prefix such as "192.0.2.0/24"`, text: true, parse: parsed(parsePrefix)}
	case reflect.TypeFor[policy.Period]():
		return &kind{name: "day or month", text: true, oneOf: []string{string(policy.PerDay), string(policy.PerMonth)}}
	case reflect.TypeFor[netip.Addr]():
		return &kind{name: "an IP address as a string", text: true, parse: parsed(netip.ParseAddr)}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.String:
		return text
	case reflect.Bool:
		return &kind{name: "a boolean", boolean: true}
	case reflect.Int64:
		return &kind{name: "a number", number: true}
	case reflect.Struct:
		k := &kind{name: "an object", keys: map[string]*kind{}}
		for i := range t.NumField() {
			if key, ok := t.Field(i).Tag.Lookup("key"); ok {
				k.keys[key] = kindOfKey(t.Field(i))
				if t.Field(i).Tag.Get("required") != "" {
					k.needs = append(k.needs, key)
				}
				if with := t.Field(i).Tag.Get("beside"); with != "" {
					if k.beside == nil {
						k.beside = map[string]string{}
					}
					k.beside[key] = with
				}
			}
		}
		if len(k.keys) > 0 {
			return k
		}
	}
	return &kind{any: true} // a field of a type of its own is refused by its name until it is enforced
}

// kindIn is the kind of a field in a stage, which may not have all of its keys.
func kindIn(stage policy.Stage, field *policy.Field) *kind {
	k := kindOf(field.Type)
	if k.keys == nil {
		return k
	}
	for i := range field.Type.NumField() {
		part := field.Type.Field(i)
		only, ok := part.Tag.Lookup("stages")
		if ok && !slices.Contains(strings.Fields(only), string(stage)) {
			k.keys[part.Tag.Get("key")] = &kind{never: "is for " + list(strings.Fields(only)) + ", not for " + string(stage)}
		}
	}
	return k
}

// kindOfKey holds texts and numbers against the very reader that a decision's
// would be read by.
func kindOfKey(field reflect.StructField) *kind {
	k := kindOf(field.Type)
	if field.Tag.Get("range") != "" || field.Tag.Get("zero") != "" {
		read := keyReader(field)
		k.scalar = func(v ast.Value) error { return read(v, reflect.New(field.Type).Elem()) }
	}
	return k
}

func parsed[T any](parse func(string) (T, error)) func(string) error {
	return func(text string) error {
		_, err := parse(text)
		return err
	}
}

// object tells whether an object may be one.
func (k *kind) object() bool { return k.value != nil || k.keys != nil }

// key is the kind of what an object of kind k holds at a key, or nil where it
// cannot have the key.
func (k *kind) key(name string) *kind {
	if k.keys != nil {
		return k.keys[name]
	}
	return k.value
}

// wrong is a part of a value that is not of its kind.
type wrong struct {
	at  *ast.Location
	why string
}

// checkTerm finds what is wrong with a value as it is written. name is what
// messages call it.
func (k *kind) checkTerm(name string, t *ast.Term) []wrong {
	if k.any || t == nil {
		return nil
	}
	if k.never != "" {
		return []wrong{{t.Location, name + " " + k.never}}
	}
	is := func(fits bool, what string) []wrong {
		if fits {
			return nil
		}
		return []wrong{{t.Location, fmt.Sprintf("%s has to be %s, not %s", name, k.name, what)}}
	}
	switch v := t.Value.(type) {
	case ast.Null:
		return is(false, "null")
	case ast.Boolean:
		return is(k.boolean, "a boolean")
	case ast.Number:
		if k.number && k.scalar != nil {
			if err := k.scalar(v); err != nil {
				return []wrong{{t.Location, fmt.Sprintf("%s: %v", name, err)}}
			}
		}
		return is(k.number, "a number")
	case *ast.TemplateString:
		return is(k.text, "a string")
	case ast.String:
		switch {
		case !k.text:
			return is(false, "a string")
		case k.oneOf != nil && !slices.Contains(k.oneOf, string(v)):
			return []wrong{{t.Location, fmt.Sprintf("%q is not %s%s", string(v), k.name, didYouMean(string(v), k.oneOf))}}
		case k.parse != nil && k.parse(string(v)) != nil:
			return []wrong{{t.Location, fmt.Sprintf("%s has to be %s, not %q", name, k.name, string(v))}}
		case k.scalar != nil && k.scalar(v) != nil:
			return []wrong{{t.Location, fmt.Sprintf("%s: %v", name, k.scalar(v))}}
		}
	case *ast.Array:
		if !k.array {
			return is(false, "an array")
		}
		var out []wrong
		v.Foreach(func(e *ast.Term) { out = append(out, k.member.checkTerm("a member of "+name, e)...) })
		return out
	case ast.Set:
		if !k.set {
			return is(false, "a set")
		}
		var out []wrong
		v.Foreach(func(e *ast.Term) { out = append(out, k.member.checkTerm("a member of "+name, e)...) })
		return out
	case ast.Object:
		if !k.object() {
			return is(false, "an object")
		}
		var out []wrong
		open := false // there are keys that are not written out
		v.Foreach(func(key, value *ast.Term) {
			switch s := key.Value.(type) {
			case ast.String:
				at := k.key(string(s))
				if at == nil {
					out = append(out, wrong{key.Location, k.unknownKey(name, string(s))})
					return
				}
				out = append(out, at.checkTerm(name+"."+string(s), value)...)
			case ast.Number, ast.Boolean, ast.Null:
				out = append(out, wrong{key.Location, fmt.Sprintf("a key of %s has to be a string, not %v", name, key)})
			default:
				open = true
			}
		})
		for _, key := range k.needs {
			if v.Len() > 0 && !open && v.Get(ast.StringTerm(key)) == nil {
				out = append(out, wrong{t.Location, fmt.Sprintf("%s needs %q beside its other keys", name, key)})
			}
		}
		for _, key := range sortedKeys(k.beside) {
			if with := k.beside[key]; !open && v.Get(ast.StringTerm(key)) != nil && v.Get(ast.StringTerm(with)) == nil {
				out = append(out, wrong{t.Location, fmt.Sprintf("%s.%s needs %q beside it", name, key, with)})
			}
		}
		return out
	case *ast.ArrayComprehension:
		if !k.array {
			return is(false, "an array")
		}
		return k.member.checkTerm("a member of "+name, v.Term)
	case *ast.SetComprehension:
		if !k.set {
			return is(false, "a set")
		}
		return k.member.checkTerm("a member of "+name, v.Term)
	case *ast.ObjectComprehension:
		return is(k.object(), "an object")
	}
	return nil
}

func (k *kind) unknownKey(name, key string) string {
	return fmt.Sprintf("%s has no key %q%s", name, key, didYouMean(key, sortedKeys(k.keys)))
}

// checkType finds what is wrong with a value whose type the compiler has
// inferred. An alternative that is wrong is wrong: it faults once it occurs.
func (k *kind) checkType(name string, t types.Type) string {
	if k.any || t == nil {
		return ""
	}
	if k.never != "" {
		return name + " " + k.never
	}
	is := func(fits bool, what string) string {
		if fits {
			return ""
		}
		return fmt.Sprintf("%s has to be %s, not %s", name, k.name, what)
	}
	first := func(of ...types.Type) string {
		for _, t := range of {
			if why := k.member.checkType("a member of "+name, t); why != "" {
				return why
			}
		}
		return ""
	}
	switch t := t.(type) {
	case types.Any:
		for _, alternative := range t {
			if why := k.checkType(name, alternative); why != "" {
				return why
			}
		}
	case *types.NamedType:
		return k.checkType(name, t.Type)
	case types.Null:
		return is(false, "null")
	case types.Boolean:
		return is(k.boolean, "a boolean")
	case types.Number:
		return is(k.number, "a number")
	case types.String:
		return is(k.text, "a string")
	case *types.Array:
		if !k.array {
			return is(false, "an array")
		}
		of := []types.Type{t.Dynamic()}
		for i := range t.Len() {
			of = append(of, t.Select(i))
		}
		return first(of...)
	case *types.Set:
		if !k.set {
			return is(false, "a set")
		}
		return first(t.Of())
	case *types.Object:
		if !k.object() {
			return is(false, "an object")
		}
		for _, p := range t.StaticProperties() {
			key, ok := p.Key.(string)
			if !ok {
				return fmt.Sprintf("a key of %s has to be a string, not %v", name, p.Key)
			}
			at := k.key(key)
			if at == nil {
				return k.unknownKey(name, key)
			}
			if why := at.checkType(name+"."+key, p.Value); why != "" {
				return why
			}
		}
		if k.value != nil && t.DynamicProperties() != nil {
			return k.value.checkType("a value of "+name, t.DynamicProperties().Value)
		}
	case *types.Function:
		return is(false, "a function")
	}
	return ""
}
