package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Chain is what has been read so far, and holds together. The zero value is
// ready for the first file; files that continue one another are read in order.
type Chain struct {
	Records int    // read
	Head    string // the hash of the last one
	Tail    Tail   // how the last file ends

	lines int // of the file that is being read
	torn  torn
}

// Tail is how a file ends.
type Tail string

// Tails.
const (
	Whole  Tail = ""       // by a whole line, or it is empty
	Open   Tail = "open"   // the last record is whole, but its line has no end
	Halved Tail = "halved" // by half a line, as a process leaves that is killed while it writes
)

// torn is what was read and is no record, since the last one.
type torn struct {
	line  int // its first; 0: there is none
	bytes int64
	sum   hash.Hash
	why   error
}

// BrokenError tells where a chain does not hold.
type BrokenError struct {
	Line   int // from 1
	Reason string
}

func (e *BrokenError) Error() string { return fmt.Sprintf("line %d %s", e.Line, e.Reason) }

// Read reads one file to its end, and tells each, which may be nil, of every record
// in order. The error is a [BrokenError] where the chain does not hold.
func (c *Chain) Read(from io.Reader, each func(line int, r *Record)) error {
	c.lines, c.torn, c.Tail = 0, torn{}, Whole
	lines := bufio.NewReader(from)
	var line []byte
	for {
		var err error
		line, err = readLine(lines, line[:0])
		switch {
		case len(line) > maxLine:
			return &BrokenError{c.lines + 1, fmt.Sprintf("is longer than the %d bytes that a record may have", maxLine)}
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case len(line) == 0:
			return c.end(nil)
		}
		c.lines++
		whole := bytes.TrimSuffix(line, []byte("\n"))
		r, why := parse(whole)
		switch {
		case why != nil && err != nil:
			return c.end(whole)
		case why != nil:
			if !c.torn.take(c.lines, whole, why) {
				return c.broken()
			}
			continue
		}
		if err := c.link(r); err != nil {
			return err
		}
		if each != nil {
			each(c.lines, r)
		}
		if err != nil {
			c.Tail = Open
			return nil
		}
	}
}

// readLine adds a line to a buffer, its end included, or more than maxLine bytes
// of a longer one.
func readLine(from *bufio.Reader, to []byte) ([]byte, error) {
	for {
		part, err := from.ReadSlice('\n')
		to = append(to, part...)
		if !errors.Is(err, bufio.ErrBufferFull) || len(to) > maxLine {
			return to, err
		}
	}
}

// take notes a line that is no record. It tells whether there may be one: half a
// line is never followed by another.
func (t *torn) take(at int, line []byte, why error) bool {
	if t.line > 0 {
		return false
	}
	*t = torn{line: at, bytes: int64(len(line)), sum: sha256.New(), why: why}
	t.sum.Write(line)
	return true
}

// link holds a record against the one before.
func (c *Chain) link(r *Record) error {
	first := c.lines == 1 && c.Records == 0
	switch {
	case (r.Outcome == Mended) != (c.torn.line > 0):
		if c.torn.line > 0 {
			return c.broken()
		}
		return &BrokenError{c.lines, "tells of half a line before it, and there is none"}
	case r.Outcome == Mended && (r.Torn == nil || r.Torn.Bytes != c.torn.bytes || r.Torn.Digest != hex.EncodeToString(c.torn.sum.Sum(nil))):
		return c.broken()
	case first && r.Previous != "" && r.Outcome != Continued:
		return &BrokenError{c.lines, fmt.Sprintf("comes after a record with the hash %s, which is missing: lines were removed from the beginning", abbreviate(r.Previous))}
	case !first && r.Previous != c.Head:
		return &BrokenError{c.lines, fmt.Sprintf("comes after a record with the hash %s, and the one before it has %s: lines were removed, added or put in another order",
			abbreviate(r.Previous), abbreviate(c.Head))}
	}
	c.torn = torn{}
	c.Records++
	c.Head = r.Hash
	return nil
}

// end judges how a file ends; rest is what comes after the last line's end.
func (c *Chain) end(rest []byte) error {
	switch {
	case c.torn.line > 0:
		return c.broken()
	case len(rest) == 0:
	case !begins(rest):
		return &BrokenError{c.lines, "was changed: it is neither a record nor the beginning of one"}
	default:
		c.Tail = Halved
	}
	return nil
}

// begins tells whether a text is what a process leaves that ends while it writes a
// record. Where the machine ends as well, zeros may stand for what was not written.
func begins(text []byte) bool {
	text = bytes.TrimRight(text, "\x00")
	if len(text) == 0 {
		return true
	}
	var value json.RawMessage
	err := json.NewDecoder(bytes.NewReader(text)).Decode(&value)
	return text[0] == '{' && errors.Is(err, io.ErrUnexpectedEOF)
}

func (c *Chain) broken() error {
	return &BrokenError{c.torn.line, "was changed: it " + c.torn.why.Error()}
}
