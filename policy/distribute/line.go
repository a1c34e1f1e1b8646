package distribute

import (
	"encoding/hex"
	"strconv"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins/logs"

	"sallyport/policy/engine"
)

// appendLine writes an event as OPA's plugin does to the console: the same
// members under the same names, in their order there, and a line break. The
// plugin takes some hundred times as long: it asks two policies whether an event
// is to be dropped or masked, and makes it into values of Rego and of Go for them
// and for itself. Where there is no such policy the line is all that comes of it.
func appendLine(b []byte, e *engine.Event, labels []byte) []byte {
	d := e.Decision
	b = append(b, '{')
	if len(e.Bundles) > 0 {
		b = append(b, `"bundles":{`...)
		for i, bundle := range e.Bundles {
			if i > 0 {
				b = append(b, ',')
			}
			b = engine.AppendString(b, bundle.Name)
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
		b = append(b, e.Input...)
	}
	b = append(b, `,"labels":`...)
	b = append(b, labels...)
	b = append(b, `,"metrics":{"timer_rego_query_eval_ns":`...)
	b = strconv.AppendInt(b, e.Duration.Nanoseconds(), 10)
	b = append(b, '}')
	if e.Builtins != nil {
		b = append(b, `,"nd_builtin_cache":`...)
		b = append(b, e.Builtins...)
	}
	b = append(b, `,"path":"sallyport/`...)
	b = append(b, d.Stage...)
	b = append(b, '"')
	if e.Result != nil {
		b = append(b, `,"result":`...)
		b = append(b, e.Result...)
	}
	if d.Revision != "" {
		b = append(b, ',')
		b = appendMember(b, "revision", d.Revision)
	}
	if e.TraceID.IsValid() {
		b = append(b, `,"span_id":"`...)
		b = hex.AppendEncode(b, e.SpanID[:])
		b = append(b, '"')
	}
	b = append(b, `,"timestamp":"`...)
	b = e.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	if e.TraceID.IsValid() {
		b = append(b, `","trace_id":"`...)
		b = hex.AppendEncode(b, e.TraceID[:])
	}
	b = append(b, `","type":"`+logs.DecisionLogType+`"}`+"\n"...)
	return b
}

func appendMember(b []byte, name, text string) []byte {
	b = append(b, '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return engine.AppendString(b, text)
}
