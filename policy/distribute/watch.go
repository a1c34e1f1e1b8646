package distribute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	settleQuiet = 100 * time.Millisecond // without an event: the edit is over
	settleLimit = time.Second            // of an edit that does not end
	lookAgain   = 10 * time.Second       // at what could not be watched
)

// Watch calls changed after something at or below the paths has changed, once it
// has been quiet for 100 ms and a second after the first change at the latest,
// until ctx ends. It returns as soon as it watches: load after that, and nothing
// is missed. Calls do not overlap, and there may be some without a change.
//
// It watches folders and not files, and every folder and symbolic link on the way
// to them, so that it survives an editor that renames, a folder that comes and
// goes, and a link that is turned to another place (as a Kubernetes ConfigMap's
// ..data is). A path that is a file may hold anything; it need not be policy.
func Watch(ctx context.Context, paths []string, changed func()) error {
	absolute := make([]string, len(paths))
	for i, path := range paths {
		var err error
		if absolute[i], err = filepath.Abs(path); err != nil {
			return fmt.Errorf("watching %s: %w", path, err)
		}
	}
	w, err := watch(absolute)
	if err != nil {
		return fmt.Errorf("watching files: %w", err)
	}
	if w.incomplete != nil {
		w.close()
		return fmt.Errorf("watching files: %w", w.incomplete)
	}
	go func() {
		defer func() { w.close() }()
		for w.settled(ctx) {
			// All anew, since a path may mean another folder than before.
			if next, err := watch(absolute); err != nil {
				w.incomplete = err
			} else {
				w.close()
				w = next
			}
			changed()
		}
	}()
	return nil
}

// watched is what is looked at now. Folders are named by their real paths, so
// that each has one name.
type watched struct {
	notify     *fsnotify.Watcher
	whole      map[string]bool            // folders at and below the paths
	names      map[string]map[string]bool // what matters in the folders on the way there
	incomplete error                      // why a folder is not watched
}

// watch finds out what to look at, and begins to. The error is the first that
// left nothing watched; one that left out a folder is in incomplete.
func watch(paths []string) (*watched, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &watched{notify: notify, whole: map[string]bool{}, names: map[string]map[string]bool{}}
	for _, path := range paths {
		if real, info := w.follow(path); info != nil && info.IsDir() {
			w.tree(real)
		}
	}
	for folder := range w.names {
		w.add(folder)
	}
	for folder := range w.whole {
		w.add(folder)
	}
	return w, nil
}

func (w *watched) add(folder string) {
	err := w.notify.Add(folder)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		// It has gone meanwhile, which is noticed in the folder that it was in.
	case errors.Is(err, fs.ErrPermission) && !w.whole[folder]:
		// Others own the way to the policy, and need not let us look around.
	default:
		w.incomplete = fmt.Errorf("%s: %w", folder, err)
	}
}

func (w *watched) close() { w.notify.Close() }

// follow walks to an absolute path as the kernel does, and notes each name on
// the way. It returns where the path leads, and nil if to nothing.
func (w *watched) follow(path string) (real string, info fs.FileInfo) {
	const separator = string(filepath.Separator)
	root := filepath.VolumeName(path) + separator
	real = root
	rest := strings.Split(path[len(root):], separator)
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			real = filepath.Dir(real)
			continue
		}
		if w.names[real] == nil {
			w.names[real] = map[string]bool{}
		}
		w.names[real][name] = true
		at := filepath.Join(real, name)
		var err error
		if info, err = os.Lstat(at); err != nil {
			return "", nil
		}
		if info.Mode().Type() != fs.ModeSymlink {
			real = at
			continue
		}
		target, err := os.Readlink(at)
		if links++; err != nil || links > maxFolders {
			return "", nil
		}
		if filepath.IsAbs(target) {
			real, target = root, target[len(root):]
		}
		rest = append(strings.Split(target, separator), rest...)
	}
	if info == nil {
		info, _ = os.Lstat(real)
	}
	return real, info
}

// tree notes a folder, those below it, and what its links lead to.
func (w *watched) tree(folder string) {
	if w.whole[folder] || len(w.whole) == maxFiles {
		return
	}
	w.whole[folder] = true
	entries, err := os.ReadDir(folder)
	if err != nil {
		return // it is noticed when that changes
	}
	for _, entry := range entries {
		at := filepath.Join(folder, entry.Name())
		switch {
		case hidden(entry.Name()):
		case entry.IsDir():
			w.tree(at)
		case entry.Type() == fs.ModeSymlink:
			if real, info := w.follow(at); info != nil && info.IsDir() {
				w.tree(real)
			}
		}
	}
}

// matters tells whether an event at a path may be one of the policy's. A log
// that is written beside the policy must not have it loaded with every line.
func (w *watched) matters(path string) bool {
	folder, name := filepath.Split(path)
	folder = filepath.Clean(folder)
	switch {
	case w.whole[path], w.names[folder][name]:
		return true
	case !w.whole[folder], hidden(name):
		return false
	case isPolicy(name), isBundle(name):
		return true
	}
	info, err := os.Lstat(path)
	return err == nil && (info.IsDir() || info.Mode().Type() == fs.ModeSymlink)
}

// settled waits for an edit to begin and to end. It is false when ctx ends.
func (w *watched) settled(ctx context.Context) bool {
	var quiet, limit, again <-chan time.Time
	if w.incomplete != nil {
		again = time.After(lookAgain)
	}
	for {
		matters := false
		select {
		case <-ctx.Done():
			return false
		case <-quiet:
			return true
		case <-limit:
			return true
		case <-again:
			return true
		case event := <-w.notify.Events:
			matters = w.matters(event.Name)
		case <-w.notify.Errors:
			matters = true // events were lost
		}
		if matters {
			quiet = time.After(settleQuiet)
			if limit == nil {
				limit = time.After(settleLimit)
			}
		}
	}
}
