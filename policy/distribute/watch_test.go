package distribute

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watching watches a path, and returns a function that waits until it has been
// told of a change after which the module reads as wanted; "" when there is none.
func watching(t *testing.T, path string) (await func(want string)) {
	t.Helper()
	seen := make(chan string, 1000)
	err := Watch(t.Context(), []string{path}, func() {
		text := ""
		if c, err := Load([]string{path}, nil, nil); err == nil {
			text = string(c.Modules[0].Text)
		}
		seen <- text
	})
	if err != nil {
		t.Fatal(err)
	}
	return func(want string) {
		t.Helper()
		for {
			select {
			case got := <-seen:
				if got == want {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("was not told of %q", want)
			}
		}
	}
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

const (
	before = "package before\n"
	after  = "package after\n"
)

func TestWatchSeesAFileChange(t *testing.T) {
	edits := map[string]func(t *testing.T, path string){
		"written in place": func(t *testing.T, path string) { put(t, path, after) },
		"renamed over": func(t *testing.T, path string) {
			put(t, path+".new", after)
			do(t, os.Rename(path+".new", path))
		},
		"moved away and written anew": func(t *testing.T, path string) {
			do(t, os.Rename(path, path+"~"))
			put(t, path, after)
		},
		"removed and written anew": func(t *testing.T, path string) {
			do(t, os.Remove(path))
			put(t, path, after)
		},
	}
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			t.Run("by its folder", func(t *testing.T) {
				t.Parallel()
				root := folder(t, map[string]string{"policy/a/b/x.rego": before})
				await := watching(t, filepath.Join(root, "policy"))
				edit(t, filepath.Join(root, "policy/a/b/x.rego"))
				await(after)
			})
			t.Run("by its name", func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(folder(t, map[string]string{"x.rego": before}), "x.rego")
				await := watching(t, path)
				edit(t, path)
				await(after)
				put(t, path, before) // what is there now is watched too
				await(before)
			})
		})
	}
}

func TestWatchSeesFoldersComeAndGo(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	policy := filepath.Join(root, "some/where/policy")
	await := watching(t, policy) // nothing of it is there yet
	put(t, filepath.Join(policy, "deep/x.rego"), before)
	await(before)
	do(t, os.RemoveAll(filepath.Join(root, "some")))
	await("")
	put(t, filepath.Join(policy, "other/x.rego"), before)
	await(before)
	put(t, filepath.Join(policy, "other/x.rego"), after)
	await(after)
	do(t, os.Rename(filepath.Join(root, "some"), filepath.Join(root, "gone")))
	await("")
}

// As the kubelet writes a ConfigMap: a new folder, and a link turned to it.
func TestWatchSeesALinkTurn(t *testing.T) {
	turn := func(t *testing.T, root, to, text string) {
		t.Helper()
		put(t, filepath.Join(root, to, "x.rego"), text)
		do(t, os.Symlink(to, filepath.Join(root, "..data_tmp")),
			os.Rename(filepath.Join(root, "..data_tmp"), filepath.Join(root, "..data")))
	}
	for name, path := range map[string]string{"the volume": ".", "a file of it": "x.rego"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			turn(t, root, "..1", before)
			do(t, os.Symlink("..data/x.rego", filepath.Join(root, "x.rego")))
			await := watching(t, filepath.Join(root, path))
			turn(t, root, "..2", after)
			do(t, os.RemoveAll(filepath.Join(root, "..1")))
			await(after)
			turn(t, root, "..3", before)
			await(before)
		})
	}
	t.Run("above the policy", func(t *testing.T) {
		t.Parallel()
		root := folder(t, map[string]string{"v1/policy/x.rego": before, "v2/policy/x.rego": after})
		current := filepath.Join(root, "current")
		do(t, os.Symlink("v1", current))
		await := watching(t, filepath.Join(current, "policy"))
		do(t, os.Symlink(filepath.Join(root, "v2"), current+".new"), os.Rename(current+".new", current))
		await(after)
		put(t, filepath.Join(root, "v2/policy/x.rego"), before)
		await(before)
	})
}

func TestWatchEnds(t *testing.T) {
	path := filepath.Join(folder(t, map[string]string{"x.rego": before}), "x.rego")
	ctx, cancel := context.WithCancel(t.Context())
	called := make(chan struct{}, 100)
	do(t, Watch(ctx, []string{path}, func() { called <- struct{}{} }))
	cancel()
	w := &watched{notify: &fsnotify.Watcher{}}
	if w.settled(ctx) {
		t.Error("settled after the end")
	}
}

func TestWhatMatters(t *testing.T) {
	root := folder(t, map[string]string{
		"policy/x.rego": before, "policy/sub/data.json": "{}", "policy/.git/HEAD": "x", "policy/access.log": "x", "out.log": "x",
		"v1/y.rego": before,
	})
	root, err := filepath.EvalSymlinks(root)
	do(t, err, os.Symlink("sub", filepath.Join(root, "policy/link")), os.Symlink("..1", filepath.Join(root, "policy/..data")),
		os.Symlink("v1", filepath.Join(root, "current")))
	w, err := watch([]string{
		filepath.Join(root, "policy"), filepath.Join(root, "policy/..data/x.rego"), filepath.Join(root, "current/y.rego"),
	})
	do(t, err)
	defer w.close()
	for name, want := range map[string]bool{
		".": true, "policy": true, "out.log": false, "policy-beside": false,
		"policy/x.rego": true, "policy/gone.rego": true, "policy/data.yaml": true, "policy/.manifest": true,
		"policy/access.log": false, "policy/gone.log": false, "policy/users.json": false, "policy/.x.rego.swp": false,
		"policy/sub": true, "policy/link": true, "policy/.git": false, "policy/..data": true, "policy/..data_tmp": false,
		"current": true, "v1": true, "v1/y.rego": true, "v1/z.rego": false,
		"policy/sub/data.json": true, "policy/sub/4913": false,
	} {
		if got := w.matters(filepath.Join(root, name)); got != want {
			t.Errorf("%s matters: %v", name, got)
		}
	}
}

func TestAnEditSettles(t *testing.T) {
	// Each step is how long after the one before an event comes.
	for _, test := range []struct {
		name       string
		events     []time.Duration
		incomplete bool
		want       time.Duration
	}{
		{"one event", []time.Duration{5 * time.Second}, false, 5*time.Second + settleQuiet},
		{"two close together", []time.Duration{0, 60 * time.Millisecond}, false, 60*time.Millisecond + settleQuiet},
		{"two far apart", []time.Duration{0, 200 * time.Millisecond}, false, settleQuiet},
		{"without an end", slices.Repeat([]time.Duration{50 * time.Millisecond}, 40), false, settleLimit + 50*time.Millisecond},
		{"not all is watched", nil, true, lookAgain},
		{"an event before that", []time.Duration{time.Second}, true, time.Second + settleQuiet},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &watched{notify: &fsnotify.Watcher{Events: make(chan fsnotify.Event)}, whole: map[string]bool{"/p": true}}
				if test.incomplete {
					w.incomplete = os.ErrPermission
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() {
					for _, wait := range test.events {
						select {
						case <-time.After(wait):
						case <-ctx.Done():
							return
						}
						for _, name := range []string{"/p/x.rego", "/p/x.log"} {
							select {
							case w.notify.Events <- fsnotify.Event{Name: name}:
							case <-ctx.Done():
								return
							}
						}
					}
				}()
				start := time.Now()
				if !w.settled(ctx) {
					t.Fatal("ended")
				}
				if took := time.Since(start); took != test.want {
					t.Errorf("settled after %v, want %v", took, test.want)
				}
			})
		})
	}
}
