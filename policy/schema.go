package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// Schema is the JSON Schema (draft 7, as OPA reads it) of a stage's input,
// indented. Every fact is required: a fact is never absent.
func Schema(stage Stage) []byte {
	root := Input(stage)
	schema := objectSchema(root.Fields, root.Doc)
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		panic(err) // the tree holds strings, bools, slices and maps
	}
	return append(text, '\n')
}

func objectSchema(fields []Fact, doc string) map[string]any {
	properties := map[string]any{}
	required := []string{}
	for _, f := range fields {
		properties[f.Name] = factSchema(f)
		required = append(required, f.Name)
	}
	return described(map[string]any{
		"type": "object", "properties": properties, "required": required, "additionalProperties": false,
	}, doc)
}

func factSchema(f Fact) map[string]any {
	switch {
	case f.Fields != nil:
		return objectSchema(f.Fields, f.Doc)
	case f.Each != nil:
		return described(map[string]any{"type": "object", "additionalProperties": objectSchema(f.Each, "")}, f.Doc)
	}
	return described(typeSchema(f.Type), f.Doc)
}

func typeSchema(t reflect.Type) map[string]any {
	text := map[string]any{"type": "string"}
	switch t {
	case reflect.TypeFor[IP](), reflect.TypeFor[Family]():
		return text
	case reflect.TypeFor[Scope]():
		names := []string{""}
		for _, s := range Scopes() {
			names = append(names, string(s))
		}
		return map[string]any{"type": "string", "enum": names}
	case reflect.TypeFor[Prefixes](), reflect.TypeFor[Suffixes]():
		return map[string]any{"type": "array", "items": text}
	case reflect.TypeFor[Attributes]():
		return map[string]any{"type": "object", "additionalProperties": true}
	}
	switch t.Kind() {
	case reflect.String:
		return text
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": typeSchema(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": typeSchema(t.Elem())}
	}
	panic(fmt.Sprintf("policy: no schema for facts of type %v", t))
}

func described(schema map[string]any, doc string) map[string]any {
	if doc != "" {
		schema["description"] = doc
	}
	return schema
}
