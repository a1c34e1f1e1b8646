package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Fact is a node of a stage's input as it is declared: an object with Fields,
// or a leaf.
type Fact struct {
	Name    string
	Doc     string
	Secret  bool         // never in a log
	Type    reflect.Type // the Go type that holds it
	Values  []string     // what a text is, besides empty; nil: anything
	Spelled string       // how a text is spelt: "host" or "country"; empty: anyhow
	Index   int          // the field's place in the Go struct that encloses it
	Fields  []Fact       // of an object whose keys are declared; nil for a leaf
	Each    []Fact       // of a leaf that maps names to objects: what each of these has
}

// Input is the declaration of a stage's whole input.
func Input(stage Stage) Fact {
	return Fact{
		Name:   "input",
		Doc:    "the facts of " + stage.Package(),
		Type:   reflect.TypeFor[Facts](),
		Fields: facts(reflect.TypeFor[Facts](), stage, nil),
	}
}

// At finds the fact at a path of names below f, and how many of the names it
// took: all of them where the path is declared, fewer where a name is unknown
// or where the path goes on below a leaf.
func (f *Fact) At(path ...string) (*Fact, int) {
	for i, name := range path {
		at := slices.IndexFunc(f.Fields, func(c Fact) bool { return c.Name == name })
		if at < 0 {
			return f, i
		}
		f = &f.Fields[at]
	}
	return f, len(path)
}

func facts(t reflect.Type, stage Stage, inherited []Stage) []Fact {
	var out []Fact
	for i := range t.NumField() {
		field := t.Field(i)
		name, ok := field.Tag.Lookup("fact")
		if !ok {
			continue
		}
		stages := inherited
		if tag, ok := field.Tag.Lookup("stages"); ok {
			stages = stagesOf(tag)
		}
		// Below the top the stages only ever narrow.
		if !slices.Contains(stages, stage) {
			continue
		}
		f := Fact{
			Name: name, Doc: field.Tag.Get("doc"), Type: field.Type, Index: i,
			Secret:  field.Tag.Get("secret") != "",
			Values:  valuesOf(field),
			Spelled: field.Tag.Get("spelled"),
		}
		switch {
		case isObject(field.Type):
			f.Fields = facts(field.Type, stage, stages)
		case field.Type.Kind() == reflect.Map && isObject(field.Type.Elem()):
			f.Each = facts(field.Type.Elem(), stage, stages)
		}
		out = append(out, f)
	}
	return out
}

// valuesOf are the texts that a fact may be, where they are a closed list.
func valuesOf(field reflect.StructField) []string {
	if field.Type == reflect.TypeFor[Scope]() {
		var names []string
		for _, scope := range Scopes() {
			names = append(names, string(scope))
		}
		return names
	}
	if tag, ok := field.Tag.Lookup("values"); ok {
		return strings.Fields(tag)
	}
	return nil
}

// isObject tells a struct of facts from a leaf that happens to be a struct.
func isObject(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	for i := range t.NumField() {
		if _, ok := t.Field(i).Tag.Lookup("fact"); ok {
			return true
		}
	}
	return false
}

func stagesOf(tag string) []Stage {
	var out []Stage
	for _, name := range strings.Fields(tag) {
		if !slices.Contains(Stages(), Stage(name)) {
			panic(fmt.Sprintf("policy: a tag names the stage %q", name))
		}
		out = append(out, Stage(name))
	}
	return out
}

// Field is a decision field as it is declared.
type Field struct {
	Name   string
	Doc    string
	Stages []Stage
	Type   reflect.Type // the Go type that holds it, in [Decision]
	Index  int          // its place in [Decision]
}

// In tells whether the stage has the field.
func (f Field) In(stage Stage) bool { return slices.Contains(f.Stages, stage) }

// Fields is the declaration of every decision field, in order.
func Fields() []Field {
	t := reflect.TypeFor[Decision]()
	var out []Field
	for i := range t.NumField() {
		field := t.Field(i)
		name, ok := field.Tag.Lookup("field")
		if !ok {
			continue
		}
		out = append(out, Field{
			Name: name, Doc: field.Tag.Get("doc"), Stages: stagesOf(field.Tag.Get("stages")),
			Type: field.Type, Index: i,
		})
	}
	return out
}
