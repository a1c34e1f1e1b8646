// Package geo knows where addresses are, by files in MaxMind's DB format.
//
// [Open] reads the files that the operator names and [Databases.Locate] asks them
// in that order: of each fact the first file that knows it has the word. Two
// layouts of records are understood, as record.go has them: MaxMind's nested one
// and the flat one of DB-IP and others.
//
// A file is read whole and judged (database.go) before it answers, and it is
// replaced while others look up: what answers is an immutable list behind one
// atomic pointer, and the garbage collector has the old one when the last look-up
// is done with it. The files are not mapped to memory: one that was cut short in
// place would kill the process with the next look-up, and a look-up in a mapping
// is no faster.
package geo

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/policy"
)

// Databases are the files of one configuration. Its methods may be called from
// any goroutine.
type Databases struct {
	active  atomic.Pointer[[]*database] // in the order of the configuration
	records sync.Pool                   // of *record
	most    int64

	reloading sync.Mutex
}

// Info describes a database that answers.
type Info struct {
	Path    string    `json:"path"`              // as configured
	Type    string    `json:"type"`              // the file's own word for what it holds: "GeoLite2-City"
	Built   time.Time `json:"built"`             // by its maker
	Loaded  time.Time `json:"loaded"`            // by us
	Facts   []string  `json:"facts"`             // those of [policy.Geo] that it knows of some address
	Refusal string    `json:"refusal,omitempty"` // why the file that lies there now does not answer in its place
}

// FileError is what is wrong with one file.
type FileError struct {
	Path string // as configured
	Err  error
}

func (e *FileError) Error() string { return e.Path + ": " + e.Err.Error() }

func (e *FileError) Unwrap() error { return e.Err }

// FileErrors are those that Open or Reload has joined.
func FileErrors(err error) []*FileError {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var files []*FileError
	for _, one := range joined.Unwrap() {
		if file := (*FileError)(nil); errors.As(one, &file) {
			files = append(files, file)
		}
	}
	return files
}

// Open reads databases of at most so many bytes together. The error joins a
// [FileError] for each file that cannot be used. Without paths nothing is known of
// any address.
func Open(paths []string, most int64) (*Databases, error) {
	d := &Databases{most: most}
	d.records.New = func() any { return new(record) }
	var list []*database
	var problems []error
	left := most
	for _, path := range paths {
		one, err := read(path, left)
		if err != nil {
			problems = append(problems, &FileError{path, err})
			continue
		}
		left -= one.size()
		list = append(list, one)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	d.active.Store(&list)
	return d, nil
}

// Locate tells what the databases know of an address; an IPv4 address is looked
// up as such, be it mapped into IPv6 or not.
func (d *Databases) Locate(ip netip.Addr) policy.Geo {
	ip = ip.Unmap()
	r := d.records.Get().(*record)
	defer d.records.Put(r)
	*r = record{}
	for _, one := range *d.active.Load() {
		one.lookup(ip, r)
	}
	return r.geo()
}

// Reload reads those files again that have changed since they were read. One that
// cannot be used, or no longer knows a fact that its predecessor knew, does not
// take its place: an empty country would let everybody through a rule that keeps
// one out. It returns the databases that are new, and joins a [FileError] for each
// file that was refused.
func (d *Databases) Reload() ([]Info, error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	list := slices.Clone(*d.active.Load())
	var replaced []Info
	var problems []error
	for i, old := range list {
		left := d.most
		for j, other := range list {
			if j != i {
				left -= other.size()
			}
		}
		next, err := old.reread(left)
		switch {
		case err != nil:
			problems = append(problems, &FileError{old.info.Path, err})
			list[i] = old.refusing(err)
		case next != old:
			list[i] = next
			replaced = append(replaced, next.info)
		default:
			list[i] = old.refusing(nil)
		}
	}
	d.active.Store(&list)
	return replaced, errors.Join(problems...)
}

// List describes the databases, in the order in which they are asked.
func (d *Databases) List() []Info {
	list := *d.active.Load()
	infos := make([]Info, len(list))
	for i, one := range list {
		infos[i] = one.info
	}
	return infos
}

// Knows tells whether some database knows the fact of that name, such as
// "country", of some address.
func (d *Databases) Knows(fact string) bool {
	return slices.ContainsFunc(*d.active.Load(), func(one *database) bool {
		return slices.Contains(one.info.Facts, fact)
	})
}
