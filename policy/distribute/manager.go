package distribute

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/hooks"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/plugins/discovery"
	logstatus "github.com/open-policy-agent/opa/v1/plugins/logs/status"
	"github.com/open-policy-agent/opa/v1/plugins/status"

	"sallyport/policy/engine"
)

// Options are what the configuration says about bringing policy in.
type Options struct {
	OPA      map[string]any               // OPA's own configuration, keys and case untouched; see [CheckOPA]
	Terms    Terms                        // what the rest of the configuration says about it
	Paths    []string                     // policy files, as for [Load]
	Data     []string                     // data files, as for [Load]
	Decrypt  func([]byte) ([]byte, error) // as for [Load]
	RunTests bool                         // the tests of files and bundles have to pass
	Deltas   bool                         // delta bundles are accepted
	MaxAge   time.Duration                // how old what bundle servers said last may get; 0: any age
	Log      *slog.Logger
	Console  io.Writer // for OPA's status, where that goes to the console; nil: os.Stdout

	// Check is asked about each bundle of a candidate that is not in force as it is,
	// before the candidate is judged; an error refuses it. It may be nil.
	Check func(Arrived) error

	// Decided is told what became of each candidate, and puts its snapshot in force
	// where it has one. It is told once of each, and not again where one that was
	// refused comes again. It must not call the Manager. It may be nil.
	Decided func(*Outcome)

	// Expired is told when the policy has grown older than MaxAge, and with nil when
	// it is young again. It may be nil where MaxAge is 0.
	Expired func(error)
}

// Arrived is a bundle of a candidate.
type Arrived struct {
	Name     string
	Revision string         // of the manifest
	Digest   string         // SHA-256 of its manifest, modules and data, in hexadecimal
	Source   string         // the URL, without credentials
	KeyID    string         // of the key that its signature was verified by; empty: none is asked for, or it is not known
	Metadata map[string]any // of the manifest, numbers as json.Number
}

// Outcome is what became of a candidate.
type Outcome struct {
	Time     time.Time
	Trigger  string           // who or what brought it: "start", "reload", "watch", or "bundle NAME"
	Revision string           // what logs call it
	Digest   string           // SHA-256 of all of its sources, in hexadecimal
	Bundles  []Arrived        // its bundles, by name
	Snapshot *engine.Snapshot // nil: it was refused
	Problems engine.Problems  // the warnings, or why it was refused
	Err      error            // why it was refused: the fatal problems, or another error
}

// Manager brings policy in: it owns the one manager of OPA's plugins (bundles,
// discovery, decision logs, status) and the gate that everything has to pass,
// files too.
type Manager struct {
	o         Options
	opa       *plugins.Manager
	store     *store
	discovers bool
	started   bool

	discovered atomic.Bool
	takenAway  atomic.Bool // a bundle has been, and what comes of it is not judged yet
	told       told
	state      state
	age        age
	signers    signers

	mu      sync.Mutex // one candidate at a time; never taken by those that hold a lock of OPA's but in a commit
	engine  *engine.Engine
	files   *engine.Candidate // the latest that were not refused
	held    map[string]string // digests of the bundles in the store
	inForce map[string]string // digests of the bundles that decide
	active  *Outcome          // nil: none yet
	refused verdicts
	lost    string // the bundle whose going was told of last

	fileBundles fileBundles // of tend

	end  context.CancelFunc
	wake chan struct{}
	done sync.WaitGroup
}

// New makes a manager that does nothing yet.
func New(o Options) (*Manager, error) {
	// The decision log is a plugin of a manager of its own (sink.go).
	if o.Console == nil {
		o.Console = os.Stdout
	}
	opa := maps.Clone(o.OPA)
	delete(opa, "decision_logs")
	delete(opa, "plugins")
	raw, err := json.Marshal(opa)
	if err != nil {
		return nil, fmt.Errorf("policy.opa: %w", err)
	}
	m := &Manager{
		o: o, files: &engine.Candidate{}, wake: make(chan struct{}, 1),
		end: func() {}, fileBundles: fileBundles{changed: make(chan struct{}, 1)},
	}
	m.store = newStore(m.pass)
	guard := newGuard(opa, o.Terms, o.Deltas)
	guard.seen = m.signers.see
	hook := hooks.New(guard)
	log := &opaLog{Handler: o.Log.Handler(), told: &m.told, secrets: o.Terms.Secrets, copied: m.copyRefused}
	m.opa, err = plugins.New(raw, rand.Text(), m.store,
		plugins.WithHooks(hook),
		plugins.ConsoleLogger(&console{output: o.Console}),
		plugins.Logger(logging.NewLoggerFromSlogHandler(log, logging.Warn)))
	if err != nil {
		return nil, fmt.Errorf("policy.opa: %w", err)
	}
	guard.attend(m.opa)
	// It registers the plugins that are configured, and itself starts none before
	// the manager does.
	discover, err := discovery.New(m.opa, discovery.Hooks(hook)) // the hook joins what the file says
	if err != nil {
		return nil, fmt.Errorf("policy.opa: %w", err)
	}
	m.opa.Register(discovery.Name, discover)
	m.discovers = m.opa.GetConfig().Discovery != nil
	return m, nil
}

// Start judges the files and starts the plugins. Everything is judged by e. An
// error is what is wrong with the files; what is wrong with a bundle is told as
// it comes.
func (m *Manager) Start(ctx context.Context, e *engine.Engine) error {
	files, err := Load(m.o.Paths, m.o.Data, m.o.Decrypt)
	if err != nil {
		return err
	}
	ctx, m.end = context.WithCancel(ctx)
	m.mu.Lock()
	m.engine, m.files = e, files
	m.mu.Unlock()
	m.opa.RegisterPluginStatusListener("sallyport", m.pluginsChanged)
	m.listen()
	if err := m.opa.Start(ctx); err != nil {
		return fmt.Errorf("policy.opa: %w", err)
	}
	m.started = true
	if err := m.reconsider(ctx, nil, "start"); err != nil {
		return err
	}
	m.told.attempts.Store(true)
	m.done.Go(func() { m.tend(ctx) })
	return nil
}

// Reload reads the files again, and judges them with the bundles that are there.
func (m *Manager) Reload(ctx context.Context, trigger string) error {
	files, err := Load(m.o.Paths, m.o.Data, m.o.Decrypt)
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		v := &verdict{candidate: &candidate{}, Outcome: Outcome{Time: time.Now(), Trigger: trigger, Err: err}}
		m.refuse(v)
		return err
	}
	return m.reconsider(ctx, files, trigger)
}

// Close ends the plugins, after what they have to send is sent or ctx ends.
func (m *Manager) Close(ctx context.Context) {
	m.end()
	m.done.Wait()
	if m.started { // OPA's plugins wait for their own loops to end
		m.opa.Stop(ctx)
	}
}

// uploadedDecisions has OPA's status tell how an upload of decisions went.
func (m *Manager) uploadedDecisions(err error) {
	if p := status.Lookup(m.opa); p != nil {
		var s logstatus.Status
		s.SetError(err)
		p.UpdateDecisionLogsStatus(s)
	}
}

// sourceOf is a bundle's URL as it may be shown.
func (m *Manager) sourceOf(source *bundle.Source) string {
	text := source.Resource
	if !strings.HasPrefix(text, "file://") {
		text = strings.TrimSuffix(m.opa.Client(source.Service).Config().URL, "/") + "/" + strings.TrimPrefix(text, "/")
	}
	u, err := url.Parse(text)
	if err != nil {
		return source.Service
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
