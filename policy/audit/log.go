package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// ErrInUse is the error of a file that another process writes to.
var ErrInUse = errors.New("another process writes to it: give each its own by policy.audit, or by state.path, beside which it is without that")

// Log is a file that records are added to. Its methods may be called from any
// goroutine.
type Log struct {
	path    string
	version string

	mu       sync.Mutex
	file     *os.File // nil: it has to be opened
	size     int64    // of the file, by what was read and written
	chain    Chain
	known    histories
	lost     int             // records that could not be written since the last one that was
	failed   int64           // records that could not be written
	refusals map[string]bool // that were recorded since something else was
}

// maxRefusals is how many different refusals are recorded one after another; the
// next record tells how many more there were.
const maxRefusals = 256

// OpenLog opens the file, or makes it with mode 0600, reads and verifies what it
// holds, and locks it against other processes. version is the program's.
//
// A chain that does not hold is a [BrokenError], a locked file [ErrInUse]. Where
// there is no file and none can be made, or the disk may only be read, the log is
// usable nevertheless: each record tries again. That error is returned beside it.
func OpenLog(path, version string) (*Log, error) {
	l := &Log{path: path, version: version, known: histories{}, refusals: map[string]bool{}}
	err := l.open()
	if _, missing := os.Lstat(path); err != nil && !errors.Is(missing, fs.ErrNotExist) && !errors.Is(err, syscall.EROFS) {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if err != nil {
		return l, fmt.Errorf("audit log: %w", err)
	}
	return l, nil
}

// Append adds a record, of which it sets what ties it to the chain. It returns
// when the record is on the disk. A refusal like one that was recorded since the
// last other record is not recorded again.
//
// The history counts a record that could not be written, too.
func (l *Log) Append(r Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.bound()
	l.known.learn(&r)
	if r.Outcome == Refused {
		kind := refusal(&r)
		switch {
		case l.refusals[kind]:
			return nil
		case len(l.refusals) >= maxRefusals:
			l.lost++
			return nil
		}
		l.refusals[kind] = true
	} else {
		clear(l.refusals)
	}
	if err := l.append(&r); err != nil {
		l.lost++
		l.failed++
		return fmt.Errorf("audit log: %w", err)
	}
	l.lost = 0
	return nil
}

// refusal is by what a refusal is known again.
func refusal(r *Record) string {
	key := r.Digest
	for _, s := range r.Sources {
		key += "\x00" + s.Name + "\x00" + s.Identity() + "\x00" + s.Digest
	}
	for _, p := range r.Problems {
		key += "\x00" + p
	}
	return digest([]byte(key))
}

func (l *Log) append(r *Record) error {
	if err := l.ready(); err != nil {
		return err
	}
	r.Lost = l.lost
	return l.write("", r)
}

// ready sees to it that the file is the one that it was, and begins a new one
// where it was moved away or emptied.
func (l *Log) ready() error {
	if l.file != nil {
		there, err := os.Stat(l.path)
		ours, failed := l.file.Stat()
		if err == nil && failed == nil && os.SameFile(there, ours) && ours.Size() == l.size {
			return nil
		}
		l.file.Close()
		l.file = nil
	}
	return l.open()
}

// open opens and reads the file, which has to hold what was read and written
// before, or nothing.
func (l *Log) open() (err error) {
	file, made, err := openFile(l.path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			l.file = nil
			file.Close()
		}
	}()
	var now Chain
	known := histories{}
	if err := now.Read(file, func(_ int, r *Record) { known.learn(r) }); err != nil {
		return broken(l.path, err)
	}
	if l.size, err = file.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if made {
		if err := syncFolder(l.path); err != nil {
			return err
		}
	}
	begun := l.chain.Records > 0
	l.file = file
	switch {
	case begun && l.size == 0:
		return l.carryOn()
	case begun && now.Head != l.chain.Head:
		return fmt.Errorf("%s: was changed while the program ran: it does not end with the record that was written last; keep it, and move it away", l.path)
	}
	l.chain = now
	for name, h := range known {
		if l.known[name] == nil {
			l.known[name] = h
		}
	}
	return l.mend()
}

// carryOn begins a new file with what was known.
func (l *Log) carryOn() error {
	var records []*Record
	for name, h := range l.known {
		history := h.clone()
		records = append(records, &Record{Outcome: Continued, Sources: []Source{{Name: name}}, History: &history})
	}
	if len(records) == 0 {
		records = append(records, &Record{Outcome: Continued})
	}
	return l.write("", records...)
}

// mend ends a line that has no end.
func (l *Log) mend() error {
	switch l.chain.Tail {
	case Open:
		return l.put([]byte("\n"))
	case Halved:
		half, err := l.half()
		if err != nil {
			return err
		}
		return l.write("\n", &Record{Outcome: Mended, Torn: &Torn{Bytes: int64(len(half)), Digest: digest(half)}})
	}
	return nil
}

// half is what comes after the last line's end.
func (l *Log) half() ([]byte, error) {
	from := max(0, l.size-maxLine)
	text := make([]byte, l.size-from)
	if _, err := l.file.ReadAt(text, from); err != nil {
		return nil, err
	}
	for i := len(text); i > 0; i-- {
		if text[i-1] == '\n' {
			return text[i:], nil
		}
	}
	return text, nil
}

// write adds records, after what ends the line before.
func (l *Log) write(end string, records ...*Record) error {
	text, head := []byte(end), l.chain.Head
	for _, r := range records {
		r.Time, r.Version, r.Previous = time.Now().UTC(), l.version, head
		line, err := r.line()
		if err != nil {
			return err
		}
		text, head = append(text, line...), r.Hash
	}
	if err := l.put(text); err != nil {
		return err
	}
	l.chain.Head = head
	l.chain.Records += len(records)
	return nil
}

// put writes a text at the end and onto the disk. Where that fails, what was
// written of it is taken back, and the file is read anew before the next record.
func (l *Log) put(text []byte) error {
	_, err := l.file.Write(text)
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		// Where this fails as well, the next reading finds half a line.
		_ = l.file.Truncate(l.size)
		l.file.Close()
		l.file = nil
		return err
	}
	l.size += int64(len(text))
	l.chain.Tail = Whole
	return nil
}

// History is what is known of a bundle by the records; false: nothing is.
func (l *Log) History(bundle string) (History, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.known[Source{Name: bundle}.Recorded().Name]
	if h == nil {
		return History{}, false
	}
	return h.clone(), true
}

// Head is the hash of the last record; empty while there is none.
func (l *Log) Head() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chain.Head
}

// Failed is how many records could not be written.
func (l *Log) Failed() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// Close lets go of the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// broken says what an operator can do about a chain that does not hold.
func broken(path string, err error) error {
	var b *BrokenError
	if !errors.As(err, &b) {
		return err
	}
	return fmt.Errorf("%s:%d: %w; see sallyport audit, find out who did it, and move the file away to begin a new one", path, b.Line, err)
}

// openFile opens the file for reading and appending and locks it. made tells
// that there was none.
func openFile(path string) (file *os.File, made bool, err error) {
	_, err = os.Stat(path)
	made = errors.Is(err, fs.ErrNotExist)
	if err == nil || made {
		file, err = os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, false, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: is not a regular file", path)
	}
	if err == nil {
		if err = lock(file); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	if err != nil {
		file.Close()
		return nil, false, err
	}
	return file, made, nil
}

// lock keeps other processes from writing, until the file is closed.
func lock(file *os.File) error {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrInUse
	}
	return err
}

// syncFolder puts a new file's name onto the disk.
func syncFolder(path string) error {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
