package engine

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sort"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// read puts a rule's value into its place in the decision. Anything but the
// declared type is an error.
func read(d *policy.Decision, f policy.Field, v ast.Value) error {
	place := reflect.ValueOf(d).Elem().Field(f.Index)
	switch p := place.Addr().Interface().(type) {
	case *bool:
		b, ok := v.(ast.Boolean)
		if !ok {
			return wrong("a boolean", v)
		}
		*p = bool(b)
	case *policy.Set:
		set, ok := v.(ast.Set)
		if !ok {
			return wrong("a set of strings", v)
		}
		return stringsOf(set.Slice(), (*[]string)(p))
	case *policy.Texts:
		if s, ok := v.(ast.String); ok {
			*p = policy.Texts{string(s)}
			return nil
		}
		set, ok := v.(ast.Set)
		if !ok {
			return wrong("a string or a set of strings", v)
		}
		return stringsOf(set.Slice(), (*[]string)(p))
	case *policy.Methods:
		var names []string
		if err := listOf(v, &names); err != nil {
			return err
		}
		*p = policy.Methods{}
		for _, name := range names {
			m := policy.Method(name)
			if !slices.Contains([]policy.Method{policy.MethodCertificateAndPassword, policy.MethodCertificate, policy.MethodPassword, policy.MethodNone}, m) {
				return fmt.Errorf("unknown method %q", name)
			}
			*p = append(*p, m)
		}
	case *policy.Labels:
		*p = policy.Labels{}
		return keys(v, func(key string, v ast.Value) error {
			s, ok := v.(ast.String)
			if !ok {
				return wrong("a string", v)
			}
			(*p)[key] = string(s)
			return nil
		})
	case *netip.Addr:
		s, ok := v.(ast.String)
		if !ok {
			return wrong("an address as a string", v)
		}
		ip, err := netip.ParseAddr(string(s))
		*p = ip
		return err
	case *policy.Redirect:
		return keys(v, func(key string, v ast.Value) error {
			switch key {
			case "host":
				s, ok := v.(ast.String)
				if !ok {
					return wrong("a string", v)
				}
				p.Host = string(s)
			case "port":
				n, ok := v.(ast.Number)
				port, whole := n.Int64()
				if !ok || !whole || port < 1 || port > 65535 {
					return wrong("a port from 1 to 65535", v)
				}
				p.Port = port
			default:
				return fmt.Errorf("unknown key %q", key)
			}
			return nil
		})
	case *policy.IdentityChange:
		return keys(v, func(key string, v ast.Value) error {
			switch key {
			case "name":
				s, ok := v.(ast.String)
				if !ok {
					return wrong("a string", v)
				}
				name := string(s)
				p.Name = &name
			case "groups":
				p.Groups = new(policy.Groups)
				return listOf(v, (*[]string)(p.Groups))
			case "attributes":
				native, err := ast.JSON(v)
				attributes, ok := native.(map[string]any)
				if err != nil || !ok {
					return wrong("an object", v)
				}
				p.Attributes = attributes
			default:
				return fmt.Errorf("unknown key %q", key)
			}
			return nil
		})
	default:
		return fmt.Errorf("the field is not enforced by this release")
	}
	return nil
}

func wrong(want string, v ast.Value) error {
	return fmt.Errorf("want %s, got %s", want, ast.ValueName(v))
}

func listOf(v ast.Value, out *[]string) error {
	switch list := v.(type) {
	case ast.Set:
		return stringsOf(list.Slice(), out)
	case *ast.Array:
		terms := make([]*ast.Term, list.Len())
		for i := range terms {
			terms[i] = list.Elem(i)
		}
		return stringsOf(terms, out)
	}
	return wrong("an array or a set of strings", v)
}

func stringsOf(terms []*ast.Term, out *[]string) error {
	*out = make([]string, 0, len(terms))
	for _, t := range terms {
		s, ok := t.Value.(ast.String)
		if !ok {
			return wrong("a string in it", t.Value)
		}
		*out = append(*out, string(s))
	}
	sort.Strings(*out)
	return nil
}

func keys(v ast.Value, each func(string, ast.Value) error) error {
	o, ok := v.(ast.Object)
	if !ok {
		return wrong("an object", v)
	}
	return o.Iter(func(k, v *ast.Term) error {
		s, ok := k.Value.(ast.String)
		if !ok {
			return wrong("string keys", k.Value)
		}
		if err := each(string(s), v.Value); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		return nil
	})
}
