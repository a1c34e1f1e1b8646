package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"go.etcd.io/bbolt"
)

// about is the kind, kept without checksums, that tells what the file is: under
// "schema" the number of its layout. A program reads its own and older ones.
const (
	about  = "sallyport"
	schema = 1
)

// ErrInUse is the error of a file that another process has open.
var ErrInUse = errors.New("another process has it open: give each its own by state.path")

// Open opens the file, or makes it with mode 0600, looks through all of it, and
// locks it against other processes.
//
// A file that is damaged, is something else, is of a later version, is open to
// others, or is in use is an error, and so is a folder that is not there. Where
// the disk has no room for a new file or may only be read, the error is returned
// beside a File that is usable: it gives what there is to read, and each Apply
// tries to open it anew.
func Open(path string) (*File, error) {
	f := &File{path: path, most: maxHeld}
	err := f.open()
	if err != nil && !Passing(err) {
		return nil, fmt.Errorf("state file: %w", err)
	}
	if err != nil {
		return f, fmt.Errorf("state file: %w", err)
	}
	return f, nil
}

// Passing tells whether an error is one of a disk that is full or read-only.
func Passing(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS)
}

// ready sees to it that the file can be written to and is still the one that it was.
func (f *File) ready() error {
	if f.db == nil {
		return f.open()
	}
	if f.readOnly {
		probe, err := os.OpenFile(f.path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		probe.Close()
		f.db.Close()
		f.db = nil
		return f.open()
	}
	there, err := os.Stat(f.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s was moved away while it was in use: put it back, or restart", f.path)
	case err == nil && !os.SameFile(there, f.opened):
		return fmt.Errorf("%s is another file than the one in use: put that back, or restart", f.path)
	}
	return nil
}

// open opens the file, for reading alone where it may only be read; that is an
// error all the same.
func (f *File) open() error {
	before, err := os.Stat(f.path)
	f.wasEmpty = err == nil && before.Size() == 0
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	f.readOnly = errors.Is(err, syscall.EROFS) && !missing(f.path)
	var barred error
	if f.readOnly {
		barred = err
		file, err = os.OpenFile(f.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %s", err, ofOneUser())
	}
	if err != nil {
		return err
	}
	if f.opened, err = file.Stat(); err != nil {
		file.Close()
		return err
	}
	f.db, f.held, err = load(f.path, file, f.readOnly)
	if err != nil {
		file.Close()
		return err
	}
	return barred
}

// load locks and judges an open file and hands it to bbolt. It tells how many
// bytes of keys and values there are.
func load(path string, file *os.File, readOnly bool) (db *bbolt.DB, held int64, err error) {
	if err := private(path, file); err != nil {
		return nil, 0, err
	}
	how := syscall.LOCK_EX
	if readOnly {
		how = syscall.LOCK_SH
	}
	if err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, 0, fmt.Errorf("%s: %w", path, ErrInUse)
	} else if err != nil {
		return nil, 0, fmt.Errorf("%s: lock: %w", path, err)
	}
	if !readOnly {
		if err := beginAgain(file); err != nil {
			return nil, 0, err
		}
	}
	if err := judge(path, file); err != nil {
		return nil, 0, err
	}
	err = guarded(path, func() error {
		var err error
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			OpenFile: func(string, int, os.FileMode) (*os.File, error) { return file, nil }, // the lock is the file's
			ReadOnly: readOnly, PageSize: pageSize, MaxSize: maxFile, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
		})
		if err != nil {
			return err
		}
		if !readOnly {
			if err := introduce(db); err != nil {
				return err
			}
		}
		held, err = survey(db)
		return err
	})
	if err == nil && !readOnly {
		err = syncFolder(path)
	}
	var crash *CrashError
	switch {
	case errors.As(err, &crash):
		err = damaged(path, fmt.Errorf("%v", crash.Cause)) // and left open, since closing would wait for locks
	case err != nil && db != nil:
		db.Close()
	}
	if err != nil {
		return nil, 0, err
	}
	return db, held, nil
}

// judge refuses a file that bbolt could not be trusted with.
func judge(path string, file *os.File) error {
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return err // bbolt makes it
	}
	switch err := verify(file, info.Size()); {
	case errors.Is(err, errForeign):
		return foreign(path)
	case err != nil:
		return damaged(path, err)
	}
	return nil
}

func foreign(path string) error {
	return fmt.Errorf("%s is a database of another program: state.path names the file to use", path)
}

// firstPages is how many a file begins with. They are written at once, so that
// a process that dies, or a disk that is full, may leave some of them behind.
const firstPages = 4

// beginAgain empties a file to which nothing was ever committed, since its first
// pages are not all there.
func beginAgain(file *os.File) error {
	info, err := file.Stat()
	if err != nil || info.Size() == 0 || info.Size() >= firstPages*pageSize {
		return err
	}
	begun := make([]byte, info.Size())
	if _, err := file.ReadAt(begun, 0); err != nil {
		return err
	}
	if m, ok := readMeta(begun); ok && m.transaction == 0 || len(bytes.Trim(begun, "\x00")) == 0 {
		return file.Truncate(0)
	}
	return nil
}

// introduce writes into a new file what it is.
func introduce(db *bbolt.DB) error {
	empty := false
	if err := db.View(func(tx *bbolt.Tx) error {
		first, _ := tx.Cursor().First()
		empty = first == nil
		return nil
	}); err != nil || !empty {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte(about))
		if err != nil {
			return err
		}
		return b.Put([]byte("schema"), []byte(strconv.Itoa(schema)))
	})
}

// survey reads all that the file holds.
func survey(db *bbolt.DB) (held int64, err error) {
	path := db.Path()
	err = db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(about))
		if b == nil {
			return foreign(path)
		}
		if found, err := strconv.Atoi(string(b.Get([]byte("schema")))); err != nil || found < 1 {
			return damaged(path, errors.New("it does not tell its schema"))
		} else if found > schema {
			return fmt.Errorf("%s was written by a later version (its schema is %d, this one reads %d): run that version, or name another file by state.path", path, found, schema)
		}
		return tx.ForEach(func(kind []byte, b *bbolt.Bucket) error {
			if string(kind) == about {
				return nil
			}
			return b.ForEach(func(key, sealed []byte) error {
				if _, err := unseal(string(kind), key, sealed); err != nil {
					return damaged(path, err)
				}
				held += size(key, sealed)
				return nil
			})
		})
	})
	return held, err
}

// private refuses a file that somebody else could have written or may read:
// whom it names as a user may come in.
func private(path string, file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file: state.path names the file to use", path)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d: %s", path, owner, ofOneUser())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s can be read or written by others (mode %04o): run chmod 600 %[1]s", path, mode)
	}
	return nil
}

// ofOneUser is what to do about a file, or its folder, that is another user's.
func ofOneUser() string {
	return fmt.Sprintf("user %d has to own the file, and be able to write to its folder: run chown %[1]d on both, or name another one by state.path", os.Geteuid())
}

// syncFolder sees to it that a new file's name is on the disk, too.
func syncFolder(path string) error {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
