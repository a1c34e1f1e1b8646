package distribute

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/plugins/logs"

	"sallyport/policy/engine"
)

// appendLine writes an event as OPA's plugin does to the console: the same
// members under the same names, in their order there, and a line break. The
// plugin takes twenty times as long. It asks two policies whether an event is to
// be dropped or masked, and makes it into values of Rego and of Go for them and
// for itself; where there is no such policy the line is all that comes of it.
func appendLine(b []byte, e *engine.Event, labels []byte) []byte {
	d := e.Decision
	b = append(b, '{')
	if len(e.Bundles) > 0 {
		b = append(b, `"bundles":{`...)
		for i, bundle := range e.Bundles {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, bundle.Name)
			b = append(b, ':', '{')
			if bundle.Revision != "" {
				b = appendMember(b, "revision", bundle.Revision)
			}
			b = append(b, '}')
		}
		b = append(b, '}', ',')
	}
	b = append(b, `"custom":{`...)
	if d.Memoised {
		b = append(b, `"memoised":true,`...)
	}
	if e.Session != "" {
		b = appendMember(b, "session", e.Session)
		b = append(b, ',')
	}
	b = appendMember(b, "verdict", d.Verdict.String())
	b = append(b, '}', ',')
	b = appendMember(b, "decision_id", d.ID)
	if d.Err != nil {
		b = append(b, ',')
		b = appendMember(b, "error", d.Err.Error())
	}
	if e.Input != nil {
		b = append(b, `,"input":`...)
		b = appendValue(b, e.Input)
	}
	b = append(b, `,"labels":`...)
	b = append(b, labels...)
	b = append(b, `,"metrics":{"timer_rego_query_eval_ns":`...)
	b = strconv.AppendInt(b, e.Duration.Nanoseconds(), 10)
	b = append(b, '}')
	if e.Builtins != nil {
		b = append(b, `,"nd_builtin_cache":`...)
		b = appendValue(b, e.Builtins)
	}
	b = append(b, `,"path":"sallyport/`...)
	b = append(b, d.Stage...)
	b = append(b, '"')
	if e.Result != nil {
		b = append(b, `,"result":`...)
		b = appendValue(b, e.Result)
	}
	if d.Revision != "" {
		b = append(b, ',')
		b = appendMember(b, "revision", d.Revision)
	}
	b = append(b, `,"timestamp":"`...)
	b = e.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","type":"`+logs.DecisionLogType+`"}`+"\n"...)
	return b
}

func appendMember(b []byte, name, text string) []byte {
	b = append(b, '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return appendString(b, text)
}

// appendValue writes a value as [ast.JSON] would have it: sets as sorted
// arrays, and keys that are no strings as the text of their JSON.
func appendValue(b []byte, value ast.Value) []byte {
	switch value := value.(type) {
	case ast.Null:
		return append(b, "null"...)
	case ast.Boolean:
		return strconv.AppendBool(b, bool(value))
	case ast.Number:
		return append(b, value...)
	case ast.String:
		return appendString(b, string(value))
	case *ast.Array:
		return appendArray(b, value)
	case ast.Set:
		return appendArray(b, value.Sorted())
	case ast.Object:
		return appendObject(b, value)
	}
	return appendString(b, fmt.Sprintf("a value of type %T", value)) // no result of an evaluation
}

func appendObject(b []byte, object ast.Object) []byte {
	b = append(b, '{')
	first := true
	object.Foreach(func(k, v *ast.Term) {
		if !first {
			b = append(b, ',')
		}
		first = false
		if name, ok := k.Value.(ast.String); ok {
			b = appendString(b, string(name))
		} else {
			b = appendString(b, string(appendValue(nil, k.Value)))
		}
		b = append(b, ':')
		b = appendValue(b, v.Value)
	})
	return append(b, '}')
}

func appendArray(b []byte, list *ast.Array) []byte {
	b = append(b, '[')
	for i := range list.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendValue(b, list.Elem(i).Value)
	}
	return append(b, ']')
}

// appendString leaves to encoding/json what is not plain ASCII.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			var quoted bytes.Buffer
			encoder := json.NewEncoder(&quoted)
			encoder.SetEscapeHTML(false)
			encoder.Encode(s) // a string can be encoded, and a buffer written to
			return append(b, bytes.TrimSuffix(quoted.Bytes(), []byte("\n"))...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
