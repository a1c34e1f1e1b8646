// Package distribute brings policy in: for now from files, which it also
// watches.
package distribute

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/open-policy-agent/opa/v1/util"

	"sallyport/policy/engine"
)

// Bounds on what is read, so that a mistaken path cannot eat the machine.
const (
	maxFiles = 10_000
	maxBytes = 256 << 20
)

// Load reads the policy at paths: directories, read whole but for hidden
// folders, .rego files, and JSON or YAML data. A directory's data.json or
// data.yaml is placed by its folder, as OPA does; a data file that is named
// itself, here or in data, is rooted at data. The error is an engine.Problems
// with every problem.
func Load(paths, data []string) (*engine.Candidate, error) {
	l := loader{digest: sha256.New(), candidate: &engine.Candidate{}}
	for _, path := range paths {
		l.walk(path)
	}
	for _, path := range data {
		l.document(path, nil)
	}
	if len(l.problems) > 0 {
		return nil, l.problems
	}
	l.candidate.Revision = "default"
	if len(paths)+len(data) > 0 {
		l.candidate.Revision = fmt.Sprintf("files-%x", l.digest.Sum(nil)[:6])
	}
	return l.candidate, nil
}

type loader struct {
	candidate *engine.Candidate
	problems  engine.Problems
	digest    interface {
		Write([]byte) (int, error)
		Sum([]byte) []byte
	}
	files, bytes int
}

func (l *loader) fail(path string, err error) {
	l.problems = append(l.problems, engine.Problem{File: path, Message: err.Error()})
}

func (l *loader) walk(root string) {
	info, err := os.Stat(root)
	if err != nil {
		l.fail(root, err)
		return
	}
	if !info.IsDir() {
		if filepath.Ext(root) == ".rego" {
			l.module(root)
		} else {
			l.document(root, nil)
		}
		return
	}
	// Kubernetes shows a mounted ConfigMap's files as links into a hidden
	// folder, so links to files are followed and hidden folders are not.
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			l.fail(path, err)
		case e.IsDir() && path != root && strings.HasPrefix(e.Name(), "."):
			return fs.SkipDir
		case e.IsDir():
		case filepath.Ext(path) == ".rego":
			l.module(path)
		case e.Name() == "data.json" || e.Name() == "data.yaml" || e.Name() == "data.yml":
			below, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			var at []string
			if below != "." {
				at = strings.Split(filepath.ToSlash(below), "/")
			}
			l.document(path, at)
		}
		return nil
	})
	if err != nil {
		l.fail(root, err)
	}
}

func (l *loader) read(path string) ([]byte, bool) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("not a regular file")
	}
	l.files++
	if err == nil && (l.files > maxFiles || int64(l.bytes)+info.Size() > maxBytes) {
		err = fmt.Errorf("a policy may have at most %d files of %d bytes in all", maxFiles, maxBytes)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		l.fail(path, err)
		return nil, false
	}
	l.bytes += len(text)
	fmt.Fprintf(l.digest, "%q %d\n", path, len(text))
	l.digest.Write(text)
	return text, true
}

func (l *loader) module(path string) {
	if text, ok := l.read(path); ok {
		l.candidate.Modules = append(l.candidate.Modules, engine.Module{Path: path, Text: text})
	}
}

func (l *loader) document(path string, at []string) {
	if !slices.Contains([]string{".json", ".yaml", ".yml"}, filepath.Ext(path)) {
		l.fail(path, fmt.Errorf("want a directory, or a file that ends in .rego, .json, .yaml or .yml"))
		return
	}
	text, ok := l.read(path)
	if !ok {
		return
	}
	var value any
	if err := util.Unmarshal(text, &value); err != nil {
		l.fail(path, err)
		return
	}
	for _, name := range slices.Backward(at) {
		value = map[string]any{name: value}
	}
	root, ok := value.(map[string]any)
	if !ok {
		l.fail(path, fmt.Errorf("want an object at the root"))
		return
	}
	if _, err := json.Marshal(root); err != nil {
		l.fail(path, err)
		return
	}
	l.candidate.Documents = append(l.candidate.Documents, engine.Document{Path: path, Value: root})
}

// quiet is how long the files must rest before a change is told, so that an
// editor's or a deployment's several steps are one change.
const quiet = 100 * time.Millisecond

// Watch calls changed after a file at or below the paths has changed, until
// ctx ends. It watches folders rather than files, and so survives editors that
// replace a file, and links that are swapped.
func Watch(ctx context.Context, paths []string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch policy: %w", err)
	}
	defer w.Close()
	watch := func() error {
		for _, root := range paths {
			if err := w.Add(filepath.Dir(root)); err != nil {
				return fmt.Errorf("watch policy: %w", err)
			}
			filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					w.Add(path) // what vanished meanwhile is seen by its parent
				}
				return nil
			})
		}
		return nil
	}
	if err := watch(); err != nil {
		return err
	}
	timer := time.NewTimer(quiet)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
			timer.Reset(quiet)
		case <-w.Errors:
			timer.Reset(quiet) // events may have been lost: look
		case <-timer.C:
			if err := watch(); err != nil {
				return err
			}
			changed()
		}
	}
}
