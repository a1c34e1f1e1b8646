// Package store keeps what must outlive a restart in one file, by kind and key:
// who is banned, who the users are, what was used. What the values mean is the
// business of those who keep them, and each of them declares the few methods of
// [File] that it needs, so that a shared engine can stand in the file's place.
//
// The file is bbolt's: a B+tree whose pages are never overwritten while they are
// in use, and whose root is changed last, so that it is whole after kill -9 or a
// power cut at any moment. What [File.Apply] has acknowledged is on the disk.
//
// The file has an end ([ErrFull]), and pages that are no longer used are used
// again; it does not shrink. bbolt trusts its file and has no checksums but
// those of its two roots, so each value here has one of its own, and a file that
// is damaged is found when it is opened and not when it is too late.
//
// open.go opens the file, verify.go looks through it before bbolt does.
package store

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"go.etcd.io/bbolt"
)

// Bounds on what the file holds.
const (
	MaxKey   = 1 << 10   // bytes of a key, and of a kind
	MaxValue = 1 << 20   // bytes of a value
	maxHeld  = 128 << 20 // bytes of all kinds, keys and values
	maxFile  = 1 << 30   // bytes of the file, with the pages that are free: never reached before maxHeld
)

// ErrFull is that the file holds as much as it may. Deleting goes on.
var ErrFull = fmt.Errorf("the state file is full: it holds at most %d MiB", maxHeld>>20)

// Change puts a value under a key of a kind, or deletes it where Value is nil.
type Change struct {
	Kind, Key string
	Value     []byte
}

// File is the open state file. Its methods may be called from any goroutine.
type File struct {
	path string
	most int64 // bytes of keys and values

	mu       sync.Mutex  // bbolt has locks of its own; this one is for the fields
	db       *bbolt.DB   // nil: there is no file yet, or it was closed
	opened   os.FileInfo // of the file that is open
	readOnly bool
	wasEmpty bool  // when it was opened
	held     int64 // bytes of keys and values
	broken   error // why the file is no longer touched

	failed atomic.Int64
}

var errClosed = errors.New("the state file is closed")

// Each calls visit for all of a kind, in the order of their keys, until it
// returns an error. Value is visit's own.
func (f *File) Each(kind string, visit func(key string, value []byte) error) error {
	all, err := f.read(kind)
	if err != nil {
		return err
	}
	for _, one := range all {
		if err := visit(one.Key, one.Value); err != nil {
			return err
		}
	}
	return nil
}

func (f *File) read(kind string) (all []Change, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	if f.db == nil {
		return nil, nil // none could be made so far
	}
	err = f.touch(func() error {
		return f.db.View(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(kind))
			if b == nil {
				return nil
			}
			return b.ForEach(func(k, sealed []byte) error {
				value, err := unseal(kind, k, sealed)
				if err != nil {
					return damaged(f.path, err)
				}
				all = append(all, Change{Key: string(k), Value: value})
				return nil
			})
		})
	})
	return all, err
}

// touch calls what touches the file, and has it touched no more once it has
// crashed: locks of bbolt's may be held for ever then.
func (f *File) touch(do func() error) error {
	err := guarded(f.path, do)
	if crash := (*CrashError)(nil); errors.As(err, &crash) {
		f.broken = crash
	}
	return err
}

// Apply makes the changes, all or none. They are on the disk when it returns nil.
// Where the disk is full or cannot be written to, nothing is changed, and a later
// call may succeed.
func (f *File) Apply(changes ...Change) error {
	err := f.apply(changes)
	if err != nil {
		f.failed.Add(1)
		return fmt.Errorf("state file: %w", err)
	}
	return nil
}

// WasEmpty tells whether there was a file with nothing in it when it was opened:
// one that a first start has left behind, or that something has emptied since.
func (f *File) WasEmpty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wasEmpty
}

// Failed is how many calls of Apply have failed.
func (f *File) Failed() int64 { return f.failed.Load() }

func (f *File) apply(changes []Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return f.broken
	}
	if err := f.ready(); err != nil {
		return err
	}
	// In the order of the tree: bbolt takes many that come in another far more slowly.
	// Of two changes of one key the latter counts.
	changes = slices.Clone(changes)
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key)) })
	held := f.held
	err := f.touch(func() error {
		return f.db.Update(func(tx *bbolt.Tx) error {
			for i := range changes {
				more, err := put(tx, &changes[i])
				if err != nil {
					return err
				}
				held += more
			}
			if held > f.most && held > f.held {
				return ErrFull
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	f.held = held
	return nil
}

// put makes one change and tells by how many bytes the file holds more.
func put(tx *bbolt.Tx, c *Change) (int64, error) {
	kind, key := []byte(c.Kind), []byte(c.Key)
	if len(c.Kind) == 0 || len(c.Key) == 0 || len(c.Kind) > MaxKey || len(c.Key) > MaxKey || len(c.Value) > MaxValue || c.Kind == about {
		return 0, fmt.Errorf("a kind and a key have 1 to %d bytes, a value at most %d", MaxKey, MaxValue)
	}
	b := tx.Bucket(kind)
	if c.Value == nil {
		if b == nil {
			return 0, nil
		}
		return -size(key, b.Get(key)), b.Delete(key)
	}
	if b == nil {
		var err error
		if b, err = tx.CreateBucket(kind); err != nil {
			return 0, err
		}
	}
	sealed := seal(kind, key, c.Value)
	return size(key, sealed) - size(key, b.Get(key)), b.Put(key, sealed)
}

// size is what a key and its value count for; nothing where there is none.
func size(key, sealed []byte) int64 {
	if sealed == nil {
		return 0
	}
	return int64(len(key) + len(sealed))
}

// Close closes the file. Closing again does nothing.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.db == nil {
		return nil
	}
	db, broken := f.db, f.broken
	f.db, f.broken = nil, errClosed
	if broken != nil {
		return nil // it would wait for its own locks
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	return nil
}

// A value is kept with its checksum before it, which covers kind and key as well.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(kind, key, value []byte) uint32 {
	sum := crc32.Update(0, castagnoli, kind)
	sum = crc32.Update(sum, castagnoli, []byte{0})
	sum = crc32.Update(sum, castagnoli, key)
	sum = crc32.Update(sum, castagnoli, []byte{0})
	return crc32.Update(sum, castagnoli, value)
}

func seal(kind, key, value []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, checksum(kind, key, value)), value...)
}

// unseal gives a copy of the value.
func unseal(kind string, key, sealed []byte) ([]byte, error) {
	if len(sealed) < 4 || binary.BigEndian.Uint32(sealed) != checksum([]byte(kind), key, sealed[4:]) {
		return nil, fmt.Errorf("an entry of %q does not have its checksum", kind)
	}
	return slices.Clone(sealed[4:]), nil
}

// CrashError is that bbolt has panicked, or that memory was gone that the file
// is mapped to: somebody has changed the file while it was open.
type CrashError struct {
	Path  string
	Cause any
}

func (e *CrashError) Error() string {
	return fmt.Sprintf("%s was damaged while it was in use (%v): restart, and it is looked through", e.Path, e.Cause)
}

// guarded calls what touches the file. A page of it that is gone would otherwise
// end the process.
func guarded(path string, do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = &CrashError{Path: path, Cause: cause}
		}
	}()
	return do()
}

// damaged says what can be done about a file that does not hold together.
func damaged(path string, why error) error {
	return fmt.Errorf("%s is damaged: %w; put a copy back, or move it away (mv %[1]s %[1]s.damaged), and the next start begins a new one", path, why)
}

// missing tells whether there is no file by that name.
func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}
