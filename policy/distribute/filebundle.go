package distribute

import (
	"context"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/open-policy-agent/opa/v1/plugins/bundle"
)

// fileBundles are the bundles whose source is a file:// URL. OPA reads them once;
// we have it read them again as they change.
type fileBundles struct {
	watched map[string]string // paths, by bundle
	end     context.CancelFunc
	changed chan struct{} // something at one of the paths has
}

// watchBundles watches the bundles in files that are configured by now.
func (m *Manager) watchBundles(ctx context.Context) {
	paths := map[string]string{}
	if p := bundle.Lookup(m.opa); p != nil {
		for name, source := range p.Config().Bundles {
			if isFile(source) {
				paths[name] = filePath(source)
			}
		}
	}
	w := &m.fileBundles
	if maps.Equal(paths, w.watched) { // nil where there has been none
		return
	}
	if w.end != nil {
		w.end()
	}
	ctx, w.end = context.WithCancel(ctx)
	w.watched = paths
	changed := func() {
		select {
		case w.changed <- struct{}{}:
		default:
		}
		m.signal()
	}
	if err := Watch(ctx, slices.Sorted(maps.Values(paths)), changed); err != nil {
		m.o.Log.Error("bundles in files are not watched", "error", err)
	}
	changed() // perhaps, since OPA read them
}

// loadBundles has OPA read the bundles in files again, if there was a change.
func (m *Manager) loadBundles(ctx context.Context) {
	select {
	case <-m.fileBundles.changed:
	default:
		return
	}
	p := bundle.Lookup(m.opa)
	if p == nil {
		return
	}
	loaders := p.Loaders()
	for _, name := range slices.Sorted(maps.Keys(m.fileBundles.watched)) {
		if loader := loaders[name]; loader != nil {
			loader.Trigger(ctx) // what comes of it is told to [Manager.attempted]
		}
	}
}

// checkFile holds a bundle in a file against what OPA does not look at: bounds,
// and keys that are there twice or that nobody knows.
func (m *Manager) checkFile(b *stored) {
	p := bundle.Lookup(m.opa)
	if p == nil {
		return
	}
	source := p.Config().Bundles[b.Name]
	if source == nil || !isFile(source) {
		return
	}
	l := loading{files: maxFiles, bytes: maxBytes, seen: map[string]bool{}}
	at := filePath(source)
	info, err := os.Stat(at)
	switch {
	case err != nil:
		l.fail(at, err)
	case info.IsDir():
		l.bundle(at, b.Name, l.walk(at, true))
	default:
		if files, ok := l.unpack(at); ok {
			l.bundle(at, b.Name, files)
		}
	}
	if len(l.problems) > 0 {
		b.problems = append(b.problems, l.problems...)
		b.sum()
	}
}

func filePath(source *bundle.Source) string {
	u, err := url.Parse(source.Resource)
	if err != nil {
		return "" // OPA has parsed it before
	}
	return filepath.Clean(u.Path)
}
