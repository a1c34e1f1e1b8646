package engine

import (
	"reflect"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// inputOf builds a stage's input straight from the declaration of its facts:
// every declared fact is there, an unknown one with its empty value.
func inputOf(stage policy.Stage, facts *policy.Facts) ast.Value {
	root := policy.Input(stage)
	return object(root.Fields, reflect.ValueOf(facts).Elem())
}

func object(fields []policy.Fact, v reflect.Value) ast.Value {
	out := ast.NewObjectWithCapacity(len(fields))
	for _, f := range fields {
		out.Insert(ast.InternedTerm(f.Name), ast.NewTerm(value(f, v.Field(f.Index))))
	}
	return out
}

func value(f policy.Fact, v reflect.Value) ast.Value {
	if f.Fields != nil {
		return object(f.Fields, v)
	}
	switch fact := v.Interface().(type) {
	case policy.IP:
		return ast.String(fact.Text())
	case policy.Prefixes:
		var terms []*ast.Term
		for p := range fact.Each {
			terms = append(terms, ast.StringTerm(p.String()))
		}
		return ast.NewArray(terms...)
	case policy.Suffixes:
		var terms []*ast.Term
		for s := range fact.Each {
			terms = append(terms, ast.StringTerm(s))
		}
		return ast.NewArray(terms...)
	}
	switch v.Kind() {
	case reflect.String:
		return ast.String(v.String())
	case reflect.Bool:
		return ast.Boolean(v.Bool())
	case reflect.Int64:
		return ast.Number(ast.IntNumberTerm(int(v.Int())).Value.(ast.Number))
	case reflect.Slice:
		if v.IsNil() {
			return ast.NewArray()
		}
	case reflect.Map:
		if v.IsNil() {
			return ast.NewObject()
		}
	}
	return ast.MustInterfaceToValue(v.Interface())
}
