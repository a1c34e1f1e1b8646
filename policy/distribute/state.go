package distribute

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/plugins/discovery"
)

// State is what the manager shows of itself.
type State struct {
	Awaited []string      // sources that no policy is complete without; while one is missing nothing new is put in force
	Refusal string        // why the latest candidate was refused; empty: it was not
	Bundles []BundleState // by name
}

// BundleState is a configured bundle.
type BundleState struct {
	Name      string    `json:"name"`
	Revision  string    `json:"revision,omitempty"` // of the one that is in force
	Digest    string    `json:"digest,omitempty"`   // SHA-256 of its content
	Source    string    `json:"source,omitempty"`
	Activated time.Time `json:"activated,omitzero"`
	Contact   time.Time `json:"contact,omitzero"`  // when its server last said what it should be
	Problem   string    `json:"problem,omitempty"` // why the latest attempt to bring it failed
	Refusal   string    `json:"refusal,omitempty"` // why its latest candidate was refused; empty since one was not
}

// state is what is shown, apart from what the gate works with: it can be looked
// at while a candidate is judged.
type state struct {
	mu       sync.Mutex
	awaited  []string
	refusal  string
	bundles  map[string]*BundleState
	listened *bundle.Plugin
}

func (s *state) bundle(name string) *BundleState {
	if s.bundles == nil {
		s.bundles = map[string]*BundleState{}
	}
	b := s.bundles[name]
	if b == nil {
		b = &BundleState{Name: name}
		s.bundles[name] = b
	}
	return b
}

// State is a copy of the caller's own.
func (m *Manager) State() State {
	configured := m.bundleNames()
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	shown := State{Awaited: slices.Clone(m.state.awaited), Refusal: m.state.refusal}
	for _, name := range configured {
		shown.Bundles = append(shown.Bundles, *m.state.bundle(name))
	}
	return shown
}

// Ready is nil once every configured source has been in force, and says what is
// awaited before that.
func (m *Manager) Ready() error {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	if len(m.state.awaited) == 0 {
		return nil
	}
	text := "awaiting " + strings.Join(m.state.awaited, ", ")
	// Why is for those who may see the policy; this is for everybody.
	for _, name := range slices.Sorted(maps.Keys(m.state.bundles)) {
		switch b := m.state.bundles[name]; {
		case b.Refusal != "":
			text += "; what came as " + name + " was refused"
		case b.Problem != "":
			text += "; " + name + " does not come"
		}
	}
	return errors.New(text)
}

func (m *Manager) setAwaited(awaited []string) {
	m.state.mu.Lock()
	changed := !slices.Equal(m.state.awaited, awaited)
	m.state.awaited = awaited
	m.state.mu.Unlock()
	if changed && len(awaited) > 0 {
		m.o.Log.Info("the policy is not complete yet", "awaited", awaited)
	}
}

func (m *Manager) activated(v *verdict) {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	m.state.refusal = ""
	for _, b := range v.Bundles {
		shown := m.state.bundle(b.Name)
		if shown.Digest != b.Digest {
			shown.Activated = v.Time
		}
		shown.Revision, shown.Digest, shown.Source, shown.Refusal, shown.Problem = b.Revision, b.Digest, b.Source, "", ""
	}
}

// clearRefusal is for a candidate that is in force already: what was refused has
// been taken back.
func (m *Manager) clearRefusal(bundles []Arrived) {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	if m.state.refusal != "" && m.active != nil {
		m.o.Log.Info("policy active again: what was refused is taken back", "policy.revision", m.active.Revision)
	}
	m.state.refusal = ""
	for _, b := range bundles {
		m.state.bundle(b.Name).Refusal = ""
	}
}

// noteRefusal has a refusal shown, and tells whether it is shown already.
func (m *Manager) noteRefusal(v *verdict) (known bool) {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	text := hide(m.o.Terms.Secrets, v.Err.Error())
	known = m.state.refusal == text
	m.state.refusal = text
	if strings.HasPrefix(v.Trigger, "bundle") {
		for _, b := range v.candidate.changed {
			m.state.bundle(b.Name).Refusal = text
		}
	}
	return known
}

// listen has the bundle plugin tell of its attempts, as soon as there is one.
func (m *Manager) listen() {
	p := bundle.Lookup(m.opa)
	m.state.mu.Lock()
	known := p == nil || p == m.state.listened
	m.state.listened = p
	m.state.mu.Unlock()
	if !known {
		p.Register("sallyport", m.attempted)
	}
}

// attempted is told of each attempt to bring a bundle. One that OPA itself
// refuses, for its signature or since it can't be read or compiled, is told of
// like one that the gate does.
func (m *Manager) attempted(s bundle.Status) {
	problem := s.Message
	for _, err := range s.Errors {
		problem += "\n" + err.Error()
	}
	problem = hide(m.o.Terms.Secrets, problem)
	m.state.mu.Lock()
	b := m.state.bundle(s.Name)
	if s.LastSuccessfulRequest.Equal(s.LastRequest) {
		b.Contact = time.Now()
		m.keepContact(s.Name)
	}
	told := b.Problem == problem || problem != "" && problem == b.Refusal
	refused := problem != "" && !away(&s)
	switch b.Problem = problem; {
	case problem == "":
		if m.state.refusal == b.Refusal {
			m.state.refusal = ""
		}
		b.Refusal = ""
	case refused:
		m.state.refusal, b.Refusal = problem, problem
	}
	m.state.mu.Unlock()
	m.signal()
	switch {
	case told:
	case problem == "":
		m.o.Log.Info("the bundle comes as it should again", "bundle", s.Name)
	case !refused:
		m.o.Log.Warn("the bundle does not come; the active one stays", "bundle", s.Name, "error", problem)
	case m.o.Decided != nil:
		m.o.Decided(&Outcome{
			Time: time.Now(), Trigger: "bundle " + s.Name, Bundles: []Arrived{{Name: s.Name}}, Err: errors.New(problem),
		})
	}
}

// copyRefused is told of a copy on disk, of a bundle or of what discovery brought,
// that OPA does not take: somebody has been at it, or it is of another key.
func (m *Manager) copyRefused(name, what string) {
	problem := "the copy on disk: " + what
	m.state.mu.Lock()
	m.state.refusal = problem
	trigger := name
	if name != discovery.Name {
		m.state.bundle(name).Refusal = problem
		trigger = "bundle " + name
	}
	m.state.mu.Unlock()
	if m.o.Decided != nil {
		m.o.Decided(&Outcome{Time: time.Now(), Trigger: trigger, Bundles: []Arrived{{Name: name}}, Err: errors.New(problem)})
	}
}

// away tells whether an attempt failed before there was a bundle to refuse. OPA
// tells its errors apart by their text alone; what the bounds refuse begins as
// what does not come, and names the bundle.
func away(s *bundle.Status) bool {
	switch {
	case s.HTTPCode != "":
		return true
	case strings.Contains(s.Message, "the bundle:"):
		return false
	}
	return strings.HasPrefix(s.Message, "request failed: ") || strings.HasPrefix(s.Message, "failed to pull ") ||
		strings.HasPrefix(s.Message, "stat ") || strings.HasPrefix(s.Message, "open ") // of a file
}

// pluginsChanged is told of each change in the state of a plugin. It must not
// wait for anything of OPA's.
func (m *Manager) pluginsChanged(all map[string]*plugins.Status) {
	if s := all[discovery.Name]; s != nil && s.State == plugins.StateOK {
		m.discovered.Store(true)
	}
	m.signal()
}

func (m *Manager) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// tend looks after what nobody calls for, until ctx ends: a policy that became
// complete by a change in the configuration that was discovered, bundles in files,
// and age.
func (m *Manager) tend(ctx context.Context) {
	names := m.bundleNames()
	discovered := m.discovered.Load()
	for {
		m.watchBundles(ctx)
		wait := m.checkAge()
		older := time.NewTimer(wait)
		if wait == 0 {
			older.Stop()
		}
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-older.C:
		}
		older.Stop()
		if ctx.Err() != nil {
			return
		}
		m.listen()
		m.loadBundles(ctx)
		gone := m.takenAway.Swap(false)
		if now := m.bundleNames(); gone || !slices.Equal(now, names) || m.discovered.Load() != discovered {
			names, discovered = now, m.discovered.Load()
			m.reconsider(ctx, nil, "discovery") // what comes of it is told as usual
		}
	}
}
