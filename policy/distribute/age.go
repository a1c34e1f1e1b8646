package distribute

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins/bundle"
)

// age is whether the policy is older than it may get.
type age struct {
	mu      sync.Mutex
	expired bool
}

// checkAge tells of a change, and returns when to check again; 0: when something
// happens.
func (m *Manager) checkAge() time.Duration {
	if m.o.MaxAge == 0 || m.o.Expired == nil {
		return 0
	}
	m.age.mu.Lock()
	defer m.age.mu.Unlock()
	name, contact := m.oldest()
	if name == "" {
		return 0
	}
	rest := m.o.MaxAge - time.Since(contact)
	if expired := rest <= 0; expired != m.age.expired {
		m.age.expired = expired
		var why error
		if expired {
			why = fmt.Errorf("the server of the bundle %s was last heard at %s, and policy.max_age is %v",
				name, contact.UTC().Format(time.RFC3339), m.o.MaxAge)
		}
		m.o.Expired(why)
	}
	return max(rest, 0)
}

// oldest is the bundle whose server has been silent for the longest, and since
// when. Files do not age.
func (m *Manager) oldest() (name string, contact time.Time) {
	p := bundle.Lookup(m.opa)
	if p == nil {
		return "", time.Time{}
	}
	sources := p.Config().Bundles
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	for one, source := range sources {
		b := m.state.bundle(one)
		if !isFile(source) && !b.Contact.IsZero() && (name == "" || b.Contact.Before(contact)) {
			name, contact = one, b.Contact
		}
	}
	return name, contact
}

// arrived notes a contact for bundles that came without one that was told of:
// those that are kept on disk, which are as old as their file.
func (m *Manager) arrived(bundles []Arrived) {
	now := time.Now()
	for _, b := range bundles {
		contact := now
		if info, err := os.Stat(m.kept(b.Name)); err == nil && info.ModTime().Before(now) {
			contact = info.ModTime()
		}
		m.state.mu.Lock()
		if shown := m.state.bundle(b.Name); shown.Contact.IsZero() {
			shown.Contact = contact
		}
		m.state.mu.Unlock()
	}
}

// keepContact has the copy on disk know how old it is after a restart.
func (m *Manager) keepContact(name string) {
	if m.o.MaxAge > 0 {
		now := time.Now()
		os.Chtimes(m.kept(name), now, now) // there may be none
	}
}

// kept is where OPA keeps a bundle for a start without its server.
func (m *Manager) kept(name string) string {
	folder, err := m.opa.GetConfig().GetPersistenceDirectory()
	if err != nil {
		return ""
	}
	return filepath.Join(folder, "bundles", name, "bundle.tar.gz")
}

func isFile(source *bundle.Source) bool { return strings.HasPrefix(source.Resource, "file://") }
