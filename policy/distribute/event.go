package distribute

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/util"

	"sallyport/policy/engine"
)

// describe is an event as OPA's plugin takes it. Where policies look at events,
// and may edit them, it is made of values; else its input is left as JSON, and
// what the plugin asks those policies about is nothing.
func describe(e *engine.Event, edited bool) (*server.Info, error) {
	d := e.Decision
	info := &server.Info{
		DecisionID: d.ID,
		Revision:   d.Revision,
		Path:       "sallyport/" + string(d.Stage),
		Timestamp:  e.Time,
		Metrics:    took{metrics.NoOp(), e.Duration.Nanoseconds()},
		Custom:     map[string]any{"verdict": d.Verdict.String()},
	}
	if len(e.Bundles) > 0 {
		info.Bundles = make(map[string]server.BundleInfo, len(e.Bundles))
		for _, b := range e.Bundles {
			info.Bundles[b.Name] = server.BundleInfo{Revision: b.Revision}
		}
	}
	if d.Memoised {
		info.Custom["memoised"] = true
	}
	if e.Session != "" {
		info.Custom["session"] = e.Session
	}
	if e.TraceID.IsValid() {
		info.TraceID, info.SpanID = e.TraceID.String(), e.SpanID.String()
	}
	if d.Err != nil {
		info.Error = fault(d.Err.Error())
	}
	// Masks edit these in place.
	for _, part := range []struct {
		from json.RawMessage
		to   **any
	}{{e.Input, &info.Input}, {e.Result, &info.Results}, {e.Builtins, &info.NDBuiltinCache}} {
		if part.from == nil || !edited && part.to == &info.Input {
			continue
		}
		var value any
		if err := util.UnmarshalJSON(part.from, &value); err != nil {
			return nil, err
		}
		*part.to = &value
	}
	if !edited && e.Input != nil {
		var raw any = e.Input
		info.Input, info.InputAST = &raw, ast.NullValue
		return info, nil
	}
	if info.Input == nil {
		return info, nil
	}
	var err error
	info.InputAST, err = ast.InterfaceToValue(*info.Input)
	return info, err
}

// fault is a decision's error in a form that JSON keeps.
type fault string

func (f fault) Error() string { return string(f) }

// took is the metrics of an event.
type took struct {
	metrics.Metrics
	nanoseconds int64
}

func (t took) All() map[string]any {
	return map[string]any{"timer_rego_query_eval_ns": t.nanoseconds}
}

// console is the logger to which OPA's plugin gives the events that go to the
// console, as the fields of an otherwise empty record.
type console struct {
	logging.NoOpLogger
	output io.Writer
	err    error // of the latest event
}

func (c *console) WithFields(fields map[string]any) logging.Logger {
	return &consoleEvent{console: c, fields: fields}
}

type consoleEvent struct {
	*console
	fields map[string]any
}

func (c *consoleEvent) Info(string, ...any) {
	var line []byte
	if line, c.err = encoded(c.fields); c.err == nil {
		_, c.err = c.output.Write(line)
	}
}

// complaints is the logger of OPA's plugin. It is the one place where the plugin
// says that an event could not be masked: to its caller all is well then.
type complaints struct {
	logging.Logger
	failed bool
}

func (c *complaints) Error(format string, a ...any) {
	if strings.HasPrefix(format, "Log event masking failed") || strings.HasPrefix(format, "Log drop decision failed") {
		c.failed = true
	}
	c.Logger.Error(format, a...)
}

// WithFields leaves the fields out: they name the plugin.
func (c *complaints) WithFields(map[string]any) logging.Logger { return c }
