package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// verify.go looks through a file before bbolt does. bbolt maps it into memory
// and follows whatever it finds there: a page that is gone, or that leads back to
// where one came from, would end the process or keep it busy for ever. So each
// page that is reached from the root has to be one, has to lie within the file,
// and is reached once. What the values hold is seen by their checksums.

// pageSize is that of every machine's files, so that they can be moved.
const pageSize = 4096

// What pages are, as bbolt writes them: in the machine's own byte order.
const (
	headerSize  = 16 // id 8, kind 2, count 2, overflow 4
	elementSize = 16 // of a branch: pos 4, key 4, page 8; of a leaf: flags 4, pos 4, key 4, value 4
	metaSize    = 64
	metaMagic   = 0xED0CDAED
	metaVersion = 2

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10

	bucketFlag = 0x01 // of an element in a leaf
	maxDepth   = 32   // of a tree, and of buckets in one another
)

var native = binary.NativeEndian

// meta is what one of the first two pages says: the root of the tree as a
// transaction has left it. The one with the later transaction counts.
type meta struct {
	root, freelist, pages, transaction uint64
	pageSize                           uint32
}

// readMeta reads a page that is a meta.
func readMeta(page []byte) (meta, bool) {
	if len(page) < headerSize+metaSize {
		return meta{}, false
	}
	b := page[headerSize:]
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	if native.Uint32(b) != metaMagic || native.Uint32(b[4:]) != metaVersion || native.Uint64(b[metaSize-8:]) != sum.Sum64() {
		return meta{}, false
	}
	return meta{
		pageSize: native.Uint32(b[8:]), root: native.Uint64(b[16:]), freelist: native.Uint64(b[32:]),
		pages: native.Uint64(b[40:]), transaction: native.Uint64(b[48:]),
	}, true
}

// errForeign is that pages have a size that this program never gives them.
var errForeign = errors.New("another program's")

// verify looks through a file of so many bytes.
func verify(file io.ReaderAt, size int64) error {
	first := make([]byte, 2*pageSize)
	if _, err := file.ReadAt(first, 0); err != nil {
		return fmt.Errorf("it has %d bytes, less than its first two pages", size)
	}
	m, ok := readMeta(first[:pageSize])
	if ok && m.pageSize != pageSize {
		return errForeign
	}
	other, alsoOK := readMeta(first[pageSize:])
	switch {
	case !ok && !alsoOK:
		return errors.New("neither of its first two pages is one that it should begin with")
	case !ok || alsoOK && other.transaction > m.transaction:
		m = other
	}
	if m.pageSize != pageSize {
		return errForeign
	}
	if m.pages < 4 || m.pages > uint64(size)/pageSize {
		return fmt.Errorf("it has %d bytes, and should have %d pages of %d", size, m.pages, pageSize)
	}
	w := &walk{file: file, pages: m.pages, seen: make([]bool, m.pages)}
	w.seen[0], w.seen[1] = true, true
	if err := w.tree(m.root, 0); err != nil {
		return err
	}
	return w.free(m.freelist)
}

// walk is a walk through the pages of a file.
type walk struct {
	file  io.ReaderAt
	pages uint64
	seen  []bool // which pages were reached
}

// page reads a page, with those that it runs over into.
func (w *walk) page(id uint64) ([]byte, error) {
	if id < 2 || id >= w.pages {
		return nil, fmt.Errorf("there is no page %d", id)
	}
	page := make([]byte, pageSize)
	if _, err := w.file.ReadAt(page, int64(id)*pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	more := uint64(native.Uint32(page[12:]))
	if native.Uint64(page) != id || more >= w.pages-id {
		return nil, fmt.Errorf("page %d is none", id)
	}
	for i := id; i <= id+more; i++ {
		if w.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		w.seen[i] = true
	}
	if more > 0 {
		page = append(page, make([]byte, more*pageSize)...)
		if _, err := w.file.ReadAt(page[pageSize:], int64(id+1)*pageSize); err != nil {
			return nil, fmt.Errorf("page %d: %w", id, err)
		}
	}
	return page, nil
}

// tree looks through the tree at a page.
func (w *walk) tree(id uint64, depth int) error {
	page, err := w.page(id)
	if err == nil {
		err = w.node(page, depth)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// node looks through a page of a tree, or what a small bucket has in its place.
func (w *walk) node(page []byte, depth int) error {
	kind, count := native.Uint16(page[8:]), int(native.Uint16(page[10:]))
	switch {
	case depth > maxDepth:
		return errors.New("is too deep down")
	case kind != branchPage && kind != leafPage, kind == branchPage && count == 0, headerSize+count*elementSize > len(page):
		return errors.New("is none of a tree")
	}
	var before []byte
	for i := range count {
		at := headerSize + i*elementSize
		e := page[at:]
		pos, keyed, valued, flags := native.Uint32(e), native.Uint32(e[4:]), uint32(0), uint32(0)
		if kind == leafPage {
			flags, pos, keyed, valued = native.Uint32(e), native.Uint32(e[4:]), native.Uint32(e[8:]), native.Uint32(e[12:])
		}
		from := uint64(at) + uint64(pos)
		if pos < elementSize || from+uint64(keyed)+uint64(valued) > uint64(len(page)) || flags > bucketFlag {
			return fmt.Errorf("its entry %d lies outside of it", i)
		}
		key, value := page[from:from+uint64(keyed)], page[from+uint64(keyed):][:valued]
		if i > 0 && bytes.Compare(before, key) >= 0 {
			return fmt.Errorf("its entry %d is out of order", i)
		}
		before = key
		var err error
		switch {
		case kind == branchPage:
			err = w.tree(native.Uint64(e[8:]), depth+1)
		case flags == bucketFlag:
			err = w.bucket(value, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket looks through a bucket: root 8, sequence 8, and what it holds where that
// has no page of its own.
func (w *walk) bucket(value []byte, depth int) error {
	const head = 16
	if len(value) < head {
		return errors.New("has half a bucket")
	}
	if root := native.Uint64(value); root != 0 {
		return w.tree(root, depth)
	}
	if len(value) < head+headerSize || native.Uint16(value[head+8:]) != leafPage {
		return errors.New("has half a bucket")
	}
	return w.node(value[head:], depth)
}

// free looks through the list of pages that are free: none may be in use.
func (w *walk) free(id uint64) error {
	page, err := w.page(id)
	if err != nil {
		return err
	}
	count, at := uint64(native.Uint16(page[10:])), uint64(headerSize)
	if count == 0xFFFF {
		count, at = native.Uint64(page[at:]), at+8
	}
	if native.Uint16(page[8:]) != freelistPage || count > (uint64(len(page))-at)/8 {
		return fmt.Errorf("page %d is no list of free pages", id)
	}
	for i := range count {
		free := native.Uint64(page[at+8*i:])
		if free < 2 || free >= w.pages || w.seen[free] {
			return fmt.Errorf("page %d is in use and free", free)
		}
		w.seen[free] = true
	}
	return nil
}
