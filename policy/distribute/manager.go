package distribute

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/discovery"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"sallyport/policy/engine"
)

// Options are what the configuration says about bringing policy in.
type Options struct {
	OPA map[string]any // OPA's own configuration, keys and case untouched
	Log *slog.Logger

	// Check is asked about each bundle of a candidate that is not active as it is,
	// before the candidate is judged; an error refuses it. It may be nil.
	Check func(Arrived) error

	// Decided is told what became of each candidate: once after it is in force,
	// once where it is refused, not again where a refused one comes again. It must
	// not call the Manager. It may be nil.
	Decided func(*Outcome)
}

// Arrived is a bundle of a candidate.
type Arrived struct {
	Name     string
	Revision string         // of the manifest
	Digest   string         // SHA-256 of its manifest, modules and data, in hexadecimal
	Source   string         // the URL, without credentials
	KeyID    string         // of the key that its signature has to be of; empty: none is asked for, or it is the signature that names it
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
	Err      error            // why it was refused: Problems, or the error of Check
}

// Manager owns OPA's plugins: bundles, discovery, decision logs and status.
type Manager struct {
	opa     *plugins.Manager
	console *console
	started bool
}

// New makes a manager that does nothing yet.
func New(o Options) (*Manager, error) {
	raw, err := json.Marshal(o.OPA)
	if err != nil {
		return nil, fmt.Errorf("policy.opa: %w", err)
	}
	m := &Manager{console: &console{}}
	m.opa, err = plugins.New(raw, rand.Text(), inmem.New(),
		plugins.ConsoleLogger(m.console),
		plugins.Logger(logging.NewLoggerFromSlogHandler(warnings{o.Log.Handler()}, logging.Warn)))
	if err != nil {
		return nil, fmt.Errorf("policy.opa: %w", err)
	}
	// It registers the plugins that are configured, and itself starts none before
	// the manager does.
	discover, err := discovery.New(m.opa)
	if err != nil {
		return nil, fmt.Errorf("policy.opa: %w", err)
	}
	m.opa.Register(discovery.Name, discover)
	return m, nil
}

// Start starts the plugins. Bundles are judged by e.
func (m *Manager) Start(ctx context.Context, e *engine.Engine) error {
	m.started = true
	if err := m.opa.Start(ctx); err != nil {
		return fmt.Errorf("policy.opa: %w", err)
	}
	return nil
}

// Close ends the plugins, after what they have to send is sent or ctx ends.
func (m *Manager) Close(ctx context.Context) {
	if m.started { // OPA's plugins wait for their own loops to end
		m.opa.Stop(ctx)
	}
}

// warnings leaves out what OPA has to say when all is well.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && w.Handler.Enabled(ctx, level)
}
