package manage

import (
	"encoding/json"
	"net/http"
	"strings"
)

// openapi.go describes the API by OpenAPI 3.1, from the same table that serves it.

type object = map[string]any

// describe is the document at /openapi.json.
func describe(all []endpoint) []byte {
	paths := object{}
	for _, e := range all {
		item := object{}
		if e.variable != "" {
			item["parameters"] = []object{{
				"name": e.variable, "in": "path", "required": true, "description": e.about, "schema": object{"type": "string"},
			}}
		}
		for _, o := range e.operations {
			item[strings.ToLower(o.method)] = o.describe(&e)
		}
		paths[e.template()] = item
	}
	text, err := json.Marshal(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "sallyport management API", "version": "1",
			"description": "Who may call what is decided by the policy's stage manage. HEAD is served wherever GET is. What is in an answer beyond what is listed here may change.",
		},
		"security": []object{{"bearer": []string{}}},
		"paths":    paths,
		"components": object{
			"securitySchemes": object{"bearer": object{"type": "http", "scheme": "bearer", "description": "a token of management.tokens"}},
			"responses":       object{"problem": jsonAnswer("what is wrong: 401 and 403 where the policy denies, 503 where it fails", `{"error": "denied by the policy", "decision_id": "…"}`, "error")},
		},
	})
	if err != nil {
		panic(err) // it is of texts
	}
	return text
}

// describe is one operation of an endpoint.
func (o *operation) describe(e *endpoint) object {
	words := strings.FieldsFunc(o.method+" "+e.template(), func(r rune) bool { return strings.ContainsRune(" /{}.", r) })
	words[0] = strings.ToLower(words[0])
	described := object{"operationId": strings.Join(words, "-"), "summary": o.does}
	if e.open {
		described["security"] = []object{}
	}
	var query []object
	for _, p := range o.query {
		query = append(query, object{"name": p.name, "in": "query", "description": p.about, "schema": object{"type": "string"}})
	}
	if len(query) > 0 {
		described["parameters"] = query
	}
	if o.takes != "" {
		described["requestBody"] = object{"content": jsonContent(o.takes)}
	}
	answers := object{"default": object{"$ref": "#/components/responses/problem"}}
	switch {
	case o.text:
		answers["200"] = object{"description": "as text", "content": object{"text/plain": object{"schema": object{"type": "string"}}}}
	case o.gives == "":
		answers["204"] = object{"description": "done"}
	default:
		answers["200"] = jsonAnswer("done", o.gives)
	}
	described["responses"] = answers
	return described
}

// jsonAnswer is one of JSON such as the example, of which the first keys named are required; without names all are.
func jsonAnswer(description, example string, required ...string) object {
	return object{"description": description, "content": jsonContent(example, required...)}
}

func jsonContent(example string, required ...string) object {
	var value any
	if err := json.Unmarshal([]byte(example), &value); err != nil {
		panic(err) // it is in the table
	}
	schema := schemaOf(value)
	if len(required) > 0 {
		schema["required"] = required
	}
	return object{"application/json": object{"schema": schema, "example": value}}
}

// schemaOf is what has the shape of a value: an object its keys, a list its first
// member.
func schemaOf(value any) object {
	switch v := value.(type) {
	case object:
		properties := object{}
		for key, below := range v {
			properties[key] = schemaOf(below)
		}
		return object{"type": "object", "properties": properties}
	case []any:
		if len(v) == 0 {
			return object{"type": "array"}
		}
		return object{"type": "array", "items": schemaOf(v[0])}
	case float64:
		return object{"type": "number"}
	case bool:
		return object{"type": "boolean"}
	case nil:
		return object{}
	}
	return object{"type": "string"}
}

// openapi answers with the document.
func (s *Server) openapi(w http.ResponseWriter, _ *http.Request, _ *call, _ string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(s.description) // the caller may be gone
}
