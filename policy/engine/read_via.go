package engine

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

func hopOrders() []string {
	return []string{string(policy.ByOrder), string(policy.ByLatency), string(policy.ByRandom), string(policy.ByHash)}
}

func resolutions() []string {
	return []string{string(policy.ResolveLocal), string(policy.ResolveRemote)}
}

// mostHops bounds a way, and mostOfHop the upstreams of one hop.
const (
	mostHops  = 16
	mostOfHop = 256
)

func readVia(v ast.Value) (policy.Via, error) {
	list, ok := v.(*ast.Array)
	if !ok {
		return nil, unexpected("an array of hops", v)
	}
	if list.Len() > mostHops {
		return nil, misreadf("%d hops are more than %d", list.Len(), mostHops)
	}
	via := make(policy.Via, 0, list.Len())
	for i := range list.Len() {
		hop, err := readHop(list.Elem(i).Value)
		if err != nil {
			return nil, misreadf("its members: %s", err.Error())
		}
		via = append(via, hop)
	}
	return via, nil
}

func readHop(v ast.Value) (policy.Hop, error) {
	if name, ok := v.(ast.String); ok {
		return policy.Hop{Any: []string{string(name)}}, nil
	}
	object, ok := v.(ast.Object)
	if !ok {
		return policy.Hop{}, unexpected("an upstream's name or an object", v)
	}
	var hop policy.Hop
	given := false
	err := object.Iter(func(k, v *ast.Term) error {
		key, _ := k.Value.(ast.String)
		switch string(key) {
		case "any":
			list, ok := v.Value.(*ast.Array)
			if !ok {
				return unexpected("any to be an array of upstreams' names", v.Value)
			}
			if list.Len() > mostOfHop {
				return misreadf("any: %d upstreams are more than %d", list.Len(), mostOfHop)
			}
			var err error
			hop.Any, err = stringsOf(list)
			given = true
			return err
		case "by":
			by, err := stringOf(v.Value)
			if err == nil && !slices.Contains(hopOrders(), by) {
				return misreadf("there is no order %q", clipped(by))
			}
			hop.By = policy.HopOrder(by)
			return err
		case "key":
			var err error
			hop.Key, err = stringOf(v.Value)
			return err
		}
		return misreadf("a hop has no key %s", clipped(k.String()))
	})
	if err == nil && !given {
		err = misreadf("a hop that is an object names its upstreams as any")
	}
	return hop, err
}

func readResolution(v ast.Value) (policy.Resolution, error) {
	text, err := stringOf(v)
	if err == nil && !slices.Contains(resolutions(), text) {
		return "", misreadf("%q is neither local nor remote", clipped(text))
	}
	return policy.Resolution(text), err
}

// kindOfVia is the kind of a way, as far as it can be told before evaluating.
func kindOfVia() *kind {
	text := &kind{name: "a string", text: true}
	orders := hopOrders()
	return &kind{name: "an array of hops", array: true, member: &kind{
		name: "an upstream's name or an object with any and by", text: true,
		keys: map[string]*kind{
			"any": {name: "an array of upstreams' names", array: true, member: text},
			"by":  {name: "an order (" + list(orders) + ")", text: true, oneOf: orders},
			"key": text,
		},
	}}
}
