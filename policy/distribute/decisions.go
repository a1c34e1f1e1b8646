package distribute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/util"

	"sallyport/policy/engine"
)

// queueLength is how many decisions may wait to be logged.
const queueLength = 8192

// DecisionLog writes decisions by OPA's decision_logs plugin, in OPA's event
// format. A decision never waits for it: those that find the queue full, as they
// do behind an output that stalls, are dropped and counted.
type DecisionLog struct {
	manager *plugins.Manager
	plugin  *logs.Plugin
	console *console
	labels  []byte // the manager's, as JSON
	line    []byte // the latest, for its room
	log     *slog.Logger

	queue   chan *engine.Event
	dropped atomic.Int64
	close   sync.Once
	closing chan struct{} // closed when no more is to come
	done    chan struct{} // closed when the queue is no longer read
}

// NewDecisionLog begins to write the decisions that are recorded to output, one
// JSON event a line, as the manager's decision_logs say. Without
// decision_logs.console there is nothing to write, and the result is nil. log is
// told what goes wrong. It is to be closed before the manager.
//
// The caller has to see to it that a closed pipe on standard output is an error
// and not a signal.
func NewDecisionLog(m *Manager, output io.Writer, log *slog.Logger) (*DecisionLog, error) {
	return newDecisionLog(m, output, log, queueLength)
}

func newDecisionLog(m *Manager, output io.Writer, log *slog.Logger, length int) (*DecisionLog, error) {
	plugin := logs.Lookup(m.opa)
	if plugin == nil {
		return nil, nil
	}
	m.console.output = output
	labels, err := json.Marshal(m.opa.Labels())
	if err != nil {
		return nil, fmt.Errorf("decision log: labels: %w", err)
	}
	l := &DecisionLog{
		manager: m.opa, plugin: plugin, console: m.console, labels: labels, log: log,
		queue: make(chan *engine.Event, length), closing: make(chan struct{}), done: make(chan struct{}),
	}
	go l.write()
	return l, nil
}

// Record takes a decision for the log, or counts it as dropped. It never blocks.
func (l *DecisionLog) Record(e *engine.Event) {
	select {
	case <-l.closing:
		l.dropped.Add(1)
		return
	default:
	}
	select {
	case l.queue <- e:
	default:
		l.dropped.Add(1)
	}
}

// Dropped is how many decisions were recorded and not written.
func (l *DecisionLog) Dropped() int64 { return l.dropped.Load() }

// Close writes what is in the queue, for as long as ctx allows.
func (l *DecisionLog) Close(ctx context.Context) error {
	l.close.Do(func() { close(l.closing) })
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("decision log: %d decisions not written: %w", len(l.queue), ctx.Err())
	}
}

func (l *DecisionLog) write() {
	defer close(l.done)
	failing := false
	for {
		var e *engine.Event
		select {
		case e = <-l.queue:
		case <-l.closing:
			select {
			case e = <-l.queue:
			default:
				return
			}
		}
		var err error
		if l.edited() {
			err = l.event(e)
		} else {
			l.line = appendLine(l.line[:0], e, l.labels)
			_, err = l.console.output.Write(l.line)
		}
		if err != nil {
			l.dropped.Add(1)
		}
		// Once for each time that it stops working, and not for each event.
		if err != nil && !failing {
			l.log.Error("the decision log is not written", "error", err)
		}
		failing = err != nil
	}
}

// edited tells whether there may be policies that mask or drop events.
func (l *DecisionLog) edited() bool {
	compiler := l.manager.GetCompiler()
	return compiler != nil && len(compiler.Modules) > 0
}

// event has the plugin write an event.
func (l *DecisionLog) event(e *engine.Event) error {
	info, err := describe(e)
	if err != nil {
		return err
	}
	ctx := context.Background()
	// Masks and drops are Rego of the manager's, and read its store.
	return storage.Txn(ctx, l.manager.Store, storage.TransactionParams{}, func(txn storage.Transaction) error {
		info.Txn = txn
		l.console.err = errNotWritten
		if err := l.plugin.Log(ctx, info); err != nil {
			return err
		}
		return l.console.err
	})
}

var errNotWritten = errors.New("the event was masked away or could not be masked")

// describe is an event as OPA's plugin takes it.
func describe(e *engine.Event) (*server.Info, error) {
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
	if d.Err != nil {
		info.Error = fault(d.Err.Error())
	}
	// Masks edit these in place.
	for _, part := range []struct {
		from json.RawMessage
		to   **any
	}{{e.Input, &info.Input}, {e.Result, &info.Results}, {e.Builtins, &info.NDBuiltinCache}} {
		if part.from == nil {
			continue
		}
		var value any
		if err := util.UnmarshalJSON(part.from, &value); err != nil {
			return nil, err
		}
		*part.to = &value
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
	var line bytes.Buffer
	encoder := json.NewEncoder(&line) // ends with a line break, and escapes those within
	encoder.SetEscapeHTML(false)
	if c.err = encoder.Encode(c.fields); c.err == nil {
		_, c.err = c.output.Write(line.Bytes())
	}
}
