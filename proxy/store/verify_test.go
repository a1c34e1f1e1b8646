package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// sample is a file with all that one can have: branches, buckets of their own
// pages and in place, values that run over, and pages that are free.
func sample(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var many []Change
	for i := range 400 {
		many = append(many, Change{"ban", fmt.Sprintf("10.0.%d.%d/32", i>>8, i&255), []byte(strings.Repeat("x", 60))})
	}
	many = append(many, Change{"user", "ann", []byte("hash")}, Change{"usage", "day", make([]byte, 10_000)})
	if err := f.Apply(many...); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		many[i].Value = nil
	}
	if err := f.Apply(many[:300]...); err != nil {
		t.Fatal(err)
	}
	f.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// read opens a file with that content and reads all of it.
func read(t testing.TB, path string, content []byte) (map[string]string, error) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := map[string]string{}
	for _, kind := range []string{"ban", "user", "usage"} {
		if err := f.Each(kind, func(key string, value []byte) error {
			all[kind+" "+key] = string(value)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	// What can be read can be written to.
	return all, f.Apply(Change{"ban", "10.0.0.1/32", []byte("y")}, Change{"user", "ann", nil}, Change{"usage", "day", make([]byte, 20_000)})
}

// Wherever a file ends, and whatever is written over a part of it: it is as it was,
// as it was a transaction before, or is refused with a way out.
func TestDamagedFiles(t *testing.T) {
	good := sample(t)
	path := filepath.Join(t.TempDir(), "state.db")
	want, err := read(t, path, good)
	if err != nil || len(want) != 102 {
		t.Fatal(len(want), err)
	}
	unharmed, refused := 0, 0
	judge := func(what string, content []byte) {
		t.Helper()
		got, err := read(t, path, content)
		switch {
		case err == nil && len(got) == 402: // the transaction before
		case err == nil:
			unharmed++
			for key, value := range got {
				if want[key] != value || len(got) != len(want) {
					t.Fatalf("%s: %q was read as %.20q", what, key, value)
				}
			}
		case !strings.Contains(err.Error(), path+" is damaged: ") || !strings.Contains(err.Error(), "mv "+path+" "):
			t.Fatalf("%s: %v", what, err)
		default:
			refused++
			if os.Rename(path, path+".damaged"); missing(path+".damaged") || open(t, path).Close() != nil {
				t.Fatalf("%s: the way out is none", what)
			}
			os.Remove(path)
		}
	}
	for size := pageSize; size < len(good); size += pageSize {
		judge(fmt.Sprintf("%d bytes", size), good[:size])
		judge(fmt.Sprintf("%d bytes", size+7), good[:size+7])
	}
	random := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < len(good); at += pageSize {
		for _, hurt := range []func(page []byte){
			func(page []byte) { clear(page) },
			func(page []byte) {
				for i := range page {
					page[i] = byte(random.Uint32())
				}
			},
			func(page []byte) { page[random.IntN(64)] ^= 1 << random.IntN(8) },
			func(page []byte) { page[random.IntN(pageSize)] ^= 1 << random.IntN(8) },
			func(page []byte) { copy(page, good[random.IntN(len(good)/pageSize)*pageSize:][:pageSize]) },
		} {
			content := bytes.Clone(good)
			hurt(content[at:][:pageSize])
			judge(fmt.Sprintf("page %d", at/pageSize), content)
		}
	}
	if unharmed == 0 || refused < 20 {
		t.Errorf("%d were read, %d refused", unharmed, refused)
	}
}

// One bit anywhere.
func FuzzDamaged(f *testing.F) {
	good := sample(f)
	path := filepath.Join(f.TempDir(), "state.db")
	f.Add(uint32(0), []byte{1})
	f.Add(uint32(pageSize+20), []byte{255, 1})
	f.Fuzz(func(t *testing.T, at uint32, with []byte) {
		content := bytes.Clone(good)
		for i, b := range with {
			content[(int(at)+i)%len(content)] ^= b
		}
		got, err := read(t, path, content)
		if err == nil && len(got) != 102 && len(got) != 402 {
			t.Errorf("%d entries", len(got))
		}
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Error(err)
		}
	})
}

func TestFileOfAnotherProgramWithOtherPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 2 * pageSize})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Error(err)
	}
}

// A page that goes while the file is open is an error, and not the end.
func TestFileThatIsCutWhileItIsOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	os.WriteFile(path, sample(t), 0o600)
	f := open(t, path)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Each("ban", func(string, []byte) error { return nil }); err == nil || !strings.Contains(err.Error(), path+" was damaged while it was in use") {
		t.Error(err)
	}
	for range 2 {
		if err := f.Apply(Change{"ban", "a", nil}); err == nil || !strings.Contains(err.Error(), path) {
			t.Error(err)
		}
	}
}

// A branch that leads back to itself is found, and not followed for ever.
func TestBranchThatLeadsBack(t *testing.T) {
	content, hurt := sample(t), 0
	for id := 2; id < len(content)/pageSize; id++ {
		page := content[id*pageSize:][:pageSize]
		if native.Uint64(page) == uint64(id) && native.Uint16(page[8:]) == branchPage {
			native.PutUint64(page[headerSize+8:], uint64(id))
			hurt++
		}
	}
	if hurt == 0 {
		t.Fatal("there is no branch")
	}
	if _, err := read(t, filepath.Join(t.TempDir(), "state.db"), content); err == nil || !strings.Contains(err.Error(), "is used twice") {
		t.Error(err)
	}
}
