package store

import (
	"encoding/binary"
	"hash/fnv"
)

// pageSize is that of every machine's files, so that they can be moved.
const pageSize = 4096

// meta is what one of the first two pages says: the root of the tree as a
// transaction has left it. The one with the later transaction counts.
type meta struct {
	root, freelist, pages, transaction uint64
}

// Page header and meta, as bbolt writes them: in the machine's own byte order.
const (
	headerSize = 16
	metaSize   = 64
	metaMagic  = 0xED0CDAED
)

// readMeta reads a page that is a meta.
func readMeta(page []byte) (meta, bool) {
	if len(page) < headerSize+metaSize {
		return meta{}, false
	}
	b, order := page[headerSize:], binary.NativeEndian
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	if order.Uint32(b) != metaMagic || order.Uint64(b[metaSize-8:]) != sum.Sum64() {
		return meta{}, false
	}
	return meta{
		root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]),
		pages: order.Uint64(b[40:]), transaction: order.Uint64(b[48:]),
	}, true
}
