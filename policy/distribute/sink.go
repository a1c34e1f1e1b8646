package distribute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/open-policy-agent/opa/v1/hooks"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"sallyport/policy/engine"
)

// maskTimeout is how long the policies that mask and drop may take for one event.
const maskTimeout = time.Second

// errUnwritable is of events that will not be written however often it is tried.
var errUnwritable = errors.New("the event can't be masked, and so is not written")

// sink is where events go, by OPA's plugin. It belongs to one goroutine.
//
// The plugin has a manager of its own, which manages nothing else: masks and
// drops are evaluated on the compiler and the data of the plugin's manager, and
// those have to be the active snapshot's. The snapshot has the rules of all
// sources, of files too; it has been judged, so that a mask that doesn't compile
// refuses the policy and can't be missing; and it never changes, while the
// compiler of the manager that bundles arrive in is recompiled in place.
type sink struct {
	config  *logs.Config
	manager *plugins.Manager
	plugin  *logs.Plugin
	store   *follower
	console *console
	output  io.Writer // nil: no console
	file    *logFile  // nil: none
	uploads *uploads  // nil: no service
	masking *complaints
	counts  metrics.Metrics
	labels  []byte // the manager's, as JSON
	line    []byte // the latest, for its room

	builtins bool             // are logged
	policy   *engine.Snapshot // that is followed
	edited   bool             // by it: it may mask or drop
	closed   bool
}

// sinkOptions are what a sink is made from.
type sinkOptions struct {
	LogOptions
	opa      map[string]any // OPA's own configuration
	id       string         // of the instance, a label
	secrets  []string       // that no message may show
	uploaded func(error)    // is told of each upload; nil: nobody is
}

// newSink is nil where the configuration asks for no decision log.
func newSink(o *sinkOptions) (*sink, error) {
	settings, err := logSettingsOf(o.opa, o.Wait > 0)
	if settings == nil || err != nil {
		return nil, err
	}
	log := &opaLog{Handler: o.Log.Handler(), told: &told{}, secrets: o.secrets}
	s := &sink{
		store: &follower{Store: inmem.New()}, console: &console{output: &wholeLines{out: o.Output}}, counts: metrics.New(),
		masking: &complaints{Logger: logging.NewLoggerFromSlogHandler(log, logging.Warn)}, builtins: settings.builtins,
	}
	bounds := newGuard(o.opa, Terms{Secrets: o.secrets}, false) // OPA waits for ever for the end of an answer
	s.manager, err = plugins.New(settings.raw, o.id, s.store, plugins.WithHooks(hooks.New(bounds)),
		plugins.ConsoleLogger(s.console), plugins.Logger(s.masking), plugins.WithStoreCloseOnStop(false))
	if err != nil {
		return nil, fmt.Errorf("policy.opa: %w", err)
	}
	bounds.attend(s.manager)
	if err := s.start(o, settings); err != nil {
		s.manager.Stop(context.Background())
		return nil, err
	}
	return s, nil
}

func (s *sink) start(o *sinkOptions, settings *logSettings) error {
	ctx := context.Background()
	var names []string
	if settings.file != nil {
		names = append(names, fileLogger)
		s.file = newFile(settings.file)
		s.manager.Register(fileLogger, s.file)
	}
	trigger := plugins.TriggerManual
	var err error
	s.config, err = logs.NewConfigBuilder().WithBytes(s.manager.Config.DecisionLogs).WithLogger(s.manager.Logger()).
		WithServices(s.manager.Services()).WithPlugins(names).WithTriggerMode(&trigger).Parse()
	if err != nil {
		return fmt.Errorf("policy.opa.decision_logs: %w", err)
	}
	if s.config.ConsoleLogs {
		s.output = s.console.output
	}
	if s.config.Plugin == nil {
		s.file = nil
	}
	if s.labels, err = json.Marshal(s.manager.Labels()); err != nil {
		return fmt.Errorf("policy.opa.labels: %w", err)
	}
	s.plugin = logs.New(s.config, s.manager).WithMetrics(s.counts)
	if err := s.manager.Init(ctx); err != nil {
		return fmt.Errorf("decision log: %w", err)
	}
	if err := s.plugin.Start(ctx); err != nil {
		return fmt.Errorf("decision log: %w", err)
	}
	if s.config.Service != "" {
		s.uploads = upload(s.plugin, settings, o.uploaded)
	}
	return nil
}

// write puts an event where it is to go, or returns why it could not. It waits
// for room until ctx ends.
func (s *sink) write(ctx context.Context, e *engine.Event, policy *engine.Snapshot) error {
	if !s.builtins && e.Builtins != nil {
		without := *e
		without.Builtins = nil
		e = &without
	}
	if policy != s.policy {
		s.follow(policy)
	}
	if s.uploads != nil {
		if err := s.uploads.room(ctx); err != nil {
			return err
		}
	}
	if s.edited || s.uploads != nil {
		return s.event(e)
	}
	s.line = appendLine(s.line[:0], e, s.labels)
	if s.output != nil {
		if _, err := s.output.Write(s.line); err != nil {
			return err
		}
	}
	if s.file != nil {
		return s.file.write(s.line)
	}
	return nil
}

// follow has the plugin evaluate on a snapshot from now on.
func (s *sink) follow(policy *engine.Snapshot) {
	s.policy = policy
	compiler, store, txn := policy.OPA()
	context_ := storage.NewContext()
	plugins.SetCompilerOnContext(context_, compiler)
	s.store.Store = store
	s.store.committed(context.Background(), txn, storage.TriggerEvent{Context: context_})
	s.edited = asks(compiler, store, txn, *s.config.MaskDecision) || asks(compiler, store, txn, *s.config.DropDecision)
}

// event has the plugin write an event.
func (s *sink) event(e *engine.Event) error {
	info, err := describe(e, s.edited)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if s.edited {
		bounded, cancel := context.WithTimeout(ctx, maskTimeout)
		defer cancel()
		ctx = bounded
	}
	_, _, info.Txn = s.policy.OPA()
	s.console.err, s.masking.failed = nil, false
	err = s.plugin.Log(ctx, info)
	if s.masking.failed {
		return errUnwritable
	}
	if s.uploads != nil {
		s.uploads.pushed(jsonOf(e))
	}
	return errors.Join(err, s.console.err)
}

// largest is how large an event may be where none may be lost.
func (s *sink) largest() int64 {
	most := int64(math.MaxInt64)
	if s.uploads != nil {
		most = *s.config.Reporting.UploadSizeLimitBytes
	}
	if s.file != nil {
		most = min(most, s.file.most)
	}
	return most
}

// dropped is how many events the plugin has taken and lost: those that do not
// fit into an upload, and those beyond max_decisions_per_second.
func (s *sink) dropped() int64 {
	var n int64
	for _, name := range []string{"decision_logs_encoding_failure", "decision_logs_dropped_rate_limit_exceeded"} {
		n += int64(s.counts.Counter(name).Value().(uint64))
	}
	return n
}

func (s *sink) reopen() error {
	if s.file == nil {
		return nil
	}
	return s.file.path.Close() // the next event opens it
}

// close uploads what is left, for as long as ctx allows.
func (s *sink) close(ctx context.Context) error {
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.uploads != nil {
		err = s.uploads.close(ctx)
	}
	s.plugin.Stop(ctx)
	s.store.Store = inmem.New() // the manager writes as it ends, and a snapshot is read for ever
	s.manager.Stop(ctx)
	return err
}
