package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

func open(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// all is what the file holds of a kind.
func all(t *testing.T, f *File, kind string) map[string]string {
	t.Helper()
	got := map[string]string{}
	if err := f.Each(kind, func(key string, value []byte) error {
		got[key] = string(value)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func apply(t *testing.T, f *File, changes ...Change) {
	t.Helper()
	if err := f.Apply(changes...); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsAppliedIsThereAfterwards(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f := open(t, path)
	apply(t, f, Change{"ban", "192.0.2.1/32", []byte("one")}, Change{"ban", "192.0.2.2/32", []byte("two")}, Change{"user", "ann", []byte{}})
	apply(t, f, Change{"ban", "192.0.2.1/32", nil}, Change{"ban", "none", nil}, Change{"none", "none", nil}, Change{"ban", "192.0.2.2/32", []byte("three")})
	for range 2 {
		if got, want := all(t, f, "ban"), map[string]string{"192.0.2.2/32": "three"}; !maps.Equal(got, want) {
			t.Fatalf("ban: %v", got)
		}
		if got, want := all(t, f, "user"), map[string]string{"ann": ""}; !maps.Equal(got, want) {
			t.Fatalf("user: %v", got)
		}
		if got := all(t, f, "none"); len(got) != 0 {
			t.Fatalf("none: %v", got)
		}
		if err := errors.Join(f.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		f = open(t, path)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestAllOrNone(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "state.db"))
	apply(t, f, Change{"ban", "a", []byte("1")})
	for _, wrong := range []Change{
		{"", "a", nil}, {"ban", "", []byte("x")}, {"sallyport", "schema", []byte("2")}, {"sallyport", "schema", nil},
		{"ban", strings.Repeat("k", MaxKey+1), nil}, {strings.Repeat("k", MaxKey+1), "a", nil}, {"ban", "a", make([]byte, MaxValue+1)},
	} {
		if err := f.Apply(Change{"ban", "b", []byte("2")}, wrong, Change{"ban", "a", nil}); err == nil {
			t.Errorf("%.20q %.20q: no error", wrong.Kind, wrong.Key)
		}
	}
	if got := all(t, f, "ban"); !maps.Equal(got, map[string]string{"a": "1"}) {
		t.Errorf("%v", got)
	}
	apply(t, f, Change{strings.Repeat("k", MaxKey), strings.Repeat("k", MaxKey), make([]byte, MaxValue)})
}

func TestVisitingEnds(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "state.db"))
	apply(t, f, Change{"ban", "b", []byte("2")}, Change{"ban", "a", []byte("1")})
	enough := errors.New("enough")
	var seen []string
	err := f.Each("ban", func(key string, value []byte) error {
		seen = append(seen, key)
		value[0] = 'x' // visit's own
		return enough
	})
	if !errors.Is(err, enough) || len(seen) != 1 || seen[0] != "a" {
		t.Errorf("%v %v", seen, err)
	}
	if got := all(t, f, "ban"); got["a"] != "1" {
		t.Errorf("%v", got)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f := open(t, path)
	if _, err := Open(path); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Fatalf("%v", err)
	}
	apply(t, f, Change{"ban", "a", []byte("1")}) // the second one has done no harm
	f.Close()
	if got := all(t, open(t, path), "ban"); got["a"] != "1" {
		t.Errorf("%v", got)
	}
	if err := f.Apply(Change{"ban", "a", nil}); err == nil {
		t.Error("a closed file took a change")
	}
}

func TestFull(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "state.db"))
	f.most = 1 << 20
	value := make([]byte, 1<<17-16)
	for i := range 8 {
		apply(t, f, Change{"usage", fmt.Sprint(i), value})
	}
	more := []Change{{"usage", "more", value}, {"usage", "moreover", nil}}
	if err := f.Apply(more...); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	apply(t, f, Change{"usage", "0", []byte("less")}) // smaller, and so it goes on
	apply(t, f, more...)
	held := f.held
	f.Close()
	f = open(t, f.path)
	if f.held != held {
		t.Errorf("%d bytes were counted, %d are held", held, f.held)
	}
	f.most = 1 << 20
	if err := f.Apply(Change{"usage", "newer", value}); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	apply(t, f, Change{"usage", "1", nil}, Change{"usage", "newer", value})
}

// The latter of two changes of one key counts, in whatever order the rest comes.
func TestOrderOfChanges(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "state.db"))
	apply(t, f, Change{"user", "b", []byte("1")}, Change{"ban", "a", []byte("1")}, Change{"user", "b", nil}, Change{"ban", "a", []byte("2")}, Change{"user", "a", nil}, Change{"user", "a", []byte("3")})
	if ban, user := all(t, f, "ban"), all(t, f, "user"); ban["a"] != "2" || len(user) != 1 || user["a"] != "3" {
		t.Errorf("%v %v", ban, user)
	}
}

func BenchmarkApply(b *testing.B) {
	f, err := Open(filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for _, count := range []int{1, 65_536} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			changes := make([]Change, count)
			for round := 0; b.Loop(); round++ {
				for i := range changes {
					changes[i] = Change{"ban", fmt.Sprintf("10.%d.%d/32", i*7919%65_536, round%3), make([]byte, 150)}
				}
				if err := f.Apply(changes...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestPagesAreUsedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f := open(t, path)
	for i := range 500 {
		apply(t, f, Change{"ban", fmt.Sprint(i % 7), bytes.Repeat([]byte{byte(i)}, 5000)}, Change{"ban", fmt.Sprint((i + 3) % 7), nil})
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 512<<10 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		want string
	}{
		{"open to others", func(t *testing.T, path string) { f := open(t, path); f.Close(); os.Chmod(path, 0o640) }, "chmod 600"},
		{"folder", func(t *testing.T, path string) { os.Mkdir(path, 0o700) }, "is a directory"},
		{"no folder", func(t *testing.T, path string) { os.Remove(filepath.Dir(path)) }, "no such file or directory"},
		{"text", func(t *testing.T, path string) {
			os.WriteFile(path, []byte(strings.Repeat("notes\n", 5000)), 0o600)
		}, "is damaged"},
		{"short text", func(t *testing.T, path string) { os.WriteFile(path, []byte("notes\n"), 0o600) }, "is damaged"},
		{"another program's", func(t *testing.T, path string) {
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err })
		}, "database of another program"},
		{"a later version's", func(t *testing.T, path string) {
			open(t, path).Close()
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(about)).Put([]byte("schema"), []byte("2")) })
		}, "later version (its schema is 2, this one reads 1)"},
		{"a value that has changed", func(t *testing.T, path string) {
			f := open(t, path)
			apply(t, f, Change{"ban", "a", []byte("192.0.2.1 until noon")})
			f.Close()
			content, _ := os.ReadFile(path)
			os.WriteFile(path, bytes.ReplaceAll(content, []byte("noon"), []byte("dawn")), 0o600)
		}, `an entry of "ban" does not have its checksum`},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "in", "state.db")
			os.Mkdir(filepath.Dir(path), 0o700)
			c.make(t, path)
			before, _ := os.ReadFile(path)
			f, err := Open(path)
			if f != nil || err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("%v %v", f, err)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// A process that is killed while it makes the file leaves some of its first
// pages, and nothing that was acknowledged.
func TestFileThatWasNeverFinished(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: pageSize})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	first, _ := os.ReadFile(path)
	for _, begun := range [][]byte{{}, first[:pageSize], first[:2*pageSize], first[:3*pageSize], first, make([]byte, pageSize), make([]byte, 3*pageSize)} {
		path := filepath.Join(t.TempDir(), "state.db")
		os.WriteFile(path, begun, 0o600)
		f := open(t, path)
		apply(t, f, Change{"ban", "a", []byte("1")})
	}
}

// What cannot be used when it is opened anew is tried again by the next write.
func TestOpenedAnewUntilItGoes(t *testing.T) {
	dir := t.TempDir()
	path, later := filepath.Join(dir, "state.db"), filepath.Join(dir, "later.db")
	open(t, later).Close()
	db, err := bbolt.Open(later, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(about)).Put([]byte("schema"), []byte("2")) })
	db.Close()
	f := &File{path: path, most: maxHeld} // as Open returns it of a disk that is full
	if err := os.Rename(later, path); err != nil {
		t.Fatal(err)
	}
	if err := f.Apply(Change{"ban", "a", []byte("1")}); err == nil {
		t.Fatal("a later version's file is written to")
	}
	if got := all(t, f, "ban"); len(got) != 0 {
		t.Errorf("read meanwhile: %v", got)
	}
	os.Remove(path)
	apply(t, f, Change{"ban", "a", []byte("1")})
	f.Close()
}

// What is written to a file that has another in its place would be gone with the
// process.
func TestReplacedWhileInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f := open(t, path)
	apply(t, f, Change{"ban", "a", []byte("1")})
	old := path + ".old"
	os.Rename(path, old)
	open(t, path).Close()
	if err := f.Apply(Change{"ban", "b", []byte("2")}); err == nil || !strings.Contains(err.Error(), "another file") {
		t.Errorf("acknowledged, and nobody will find it: %v", err)
	}
	os.Rename(old, path)
	apply(t, f, Change{"ban", "b", []byte("2")})
}
