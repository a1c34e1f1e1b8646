package geo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

const (
	maxType  = 64           // bytes of a database's type, which is a metric's label
	lastYear = 253402300799 // seconds since 1970: the end of 9999, after which a time has no JSON
)

// database is one file that has been read and judged. It never changes.
type database struct {
	info   Info
	file   fs.FileInfo // what was read
	reader *maxminddb.Reader
}

// read reads a file of at most so many bytes and judges it.
func read(path string, most int64) (*database, error) {
	content, file, err := contentOf(path, most)
	if err != nil {
		return nil, err
	}
	d, err := judged(content)
	if err != nil {
		return nil, err
	}
	d.file, d.info.Path, d.info.Loaded = file, path, time.Now().UTC()
	return d, nil
}

// judged is a file's content as a database in which no look-up fails.
func judged(content []byte) (*database, error) {
	if bytes.HasPrefix(content, []byte{0x1f, 0x8b}) {
		return nil, errors.New("is compressed: unpack it with gunzip or tar")
	}
	reader, err := maxminddb.OpenBytes(content)
	if err != nil {
		return nil, fmt.Errorf("cannot be read as a MaxMind DB: %w", err)
	}
	if err := checkMetadata(&reader.Metadata); err != nil {
		return nil, err
	}
	known, err := walk(reader, len(content))
	if err != nil {
		return nil, fmt.Errorf("is corrupt: %w", err)
	}
	facts := factsOf(known.geo())
	if len(facts) == 0 {
		return nil, fmt.Errorf("a database of the type %q knows neither country, continent, city, asn nor organization", typeOf(reader))
	}
	info := Info{Type: typeOf(reader), Built: reader.Metadata.BuildTime().UTC(), Facts: facts}
	return &database{info: info, reader: reader}, nil
}

// contentOf reads a regular file: another kind may block, or never end.
func contentOf(path string, most int64) ([]byte, fs.FileInfo, error) {
	file, err := os.Stat(path)
	if err != nil {
		return nil, nil, withoutPath(err)
	}
	if !file.Mode().IsRegular() {
		return nil, nil, errors.New("is not a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, withoutPath(err)
	}
	defer f.Close()
	if file, err = f.Stat(); err != nil {
		return nil, nil, withoutPath(err)
	}
	if file.Size() > most {
		return nil, nil, fmt.Errorf("has %d MiB, where %d MiB are left for it: all databases together may have half of limits.memory", file.Size()>>20, max(most, 0)>>20)
	}
	content := make([]byte, file.Size())
	if _, err := io.ReadFull(f, content); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, nil, errors.New("is empty, or has become shorter while it was read")
	} else if err != nil {
		return nil, nil, withoutPath(err)
	}
	return content, file, nil
}

// withoutPath is an error of the file system for a message that begins with the
// path.
func withoutPath(err error) error {
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		return at.Err
	}
	return err
}

// checkMetadata refuses what the reader would take for another format, or stumble over
// with each look-up.
func checkMetadata(m *maxminddb.Metadata) error {
	switch {
	case m.BinaryFormatMajorVersion != 2:
		return fmt.Errorf("has version %d of the MaxMind DB format: want 2", m.BinaryFormatMajorVersion)
	case m.IPVersion != 4 && m.IPVersion != 6:
		return fmt.Errorf("is corrupt: for version %d of IP", m.IPVersion)
	case m.RecordSize != 24 && m.RecordSize != 28 && m.RecordSize != 32:
		return fmt.Errorf("is corrupt: records of %d bits", m.RecordSize)
	case m.BuildEpoch > lastYear:
		return errors.New("is corrupt: built after the year 9999")
	}
	return nil
}

// walk goes through the whole search tree and reads every record, each into the
// same one: what that knows in the end, the database knows of some address. After
// it no look-up meets an error. The reader's own Verify is stricter than that: it
// refuses files without a description, such as those of DB-IP that npm has.
func walk(reader *maxminddb.Reader, size int) (record, error) {
	var known record
	seen := make([]uint64, size/64+1) // a bit for each place where a record may begin
	networks := uint(0)
	for found := range reader.Networks(maxminddb.IncludeNetworksWithoutData()) {
		if err := found.Err(); err != nil {
			return known, err
		}
		// A tree has one leaf more than it has nodes, and so ends; what shares its
		// branches is none, and may take for ever.
		if networks++; networks > reader.Metadata.NodeCount+1 {
			return known, errors.New("the search tree is none")
		}
		if !found.Found() {
			continue
		}
		at := found.Offset()
		if at/64 >= uintptr(len(seen)) {
			return known, errors.New("a record lies beyond the end")
		}
		if seen[at/64]&(1<<(at%64)) != 0 {
			continue
		}
		seen[at/64] |= 1 << (at % 64)
		if err := found.Decode(&known); err != nil {
			return known, err
		}
	}
	return known, nil
}

// typeOf is the file's own word for what it holds, fit for a label.
func typeOf(reader *maxminddb.Reader) string {
	text := reader.Metadata.DatabaseType
	return strings.ToValidUTF8(text[:min(len(text), maxType)], "")
}

func (d *database) size() int64 { return d.file.Size() }

// lookup adds to r what the database knows of ip.
func (d *database) lookup(ip netip.Addr, r *record) {
	if d.reader.Metadata.IPVersion == 4 && !ip.Is4() {
		return
	}
	if found := d.reader.Lookup(ip); found.Found() {
		_ = found.Decode(r) // each record has been read before
	}
}

// reread is the database in the same place, which is d where that has not changed.
func (d *database) reread(most int64) (*database, error) {
	file, err := os.Stat(d.info.Path)
	if err != nil {
		return nil, withoutPath(err)
	}
	if os.SameFile(file, d.file) && file.Size() == d.file.Size() && file.ModTime().Equal(d.file.ModTime()) {
		return d, nil
	}
	next, err := read(d.info.Path, most)
	if err != nil {
		return nil, err
	}
	var lost []string
	for _, fact := range d.info.Facts {
		if !slices.Contains(next.info.Facts, fact) {
			lost = append(lost, fact)
		}
	}
	if d.reader.Metadata.IPVersion > next.reader.Metadata.IPVersion {
		lost = append(lost, "IPv6 address")
	}
	if len(lost) > 0 {
		return nil, fmt.Errorf("a database of the type %q knows no %s, as the one before does: restart to take it", next.info.Type, strings.Join(lost, ", "))
	}
	return next, nil
}

// refusing is the same database with the error that keeps it, or none.
func (d *database) refusing(err error) *database {
	kept := *d
	kept.info.Refusal = ""
	if err != nil {
		kept.info.Refusal = err.Error()
	}
	return &kept
}
