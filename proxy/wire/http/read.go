package http

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// block reads the lines of one header block.
type block struct {
	r     *bufio.Reader
	left  int    // bytes that the block may still have
	begun bool   // something was read
	long  []byte // a line that the reader's buffer cannot hold
}

var errTooLarge = errors.New("header block is too large")

// line returns the next line without its CRLF. It is good until the next read.
func (b *block) line() ([]byte, error) {
	b.long = b.long[:0]
	for {
		part, err := b.r.ReadSlice('\n')
		b.begun = b.begun || len(part) > 0
		if b.left -= len(part); b.left < 0 {
			return nil, errTooLarge
		}
		if err == bufio.ErrBufferFull {
			b.long = append(b.long, part...)
			continue
		}
		if err != nil {
			if err == io.EOF && b.begun {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("http: read header: %w", err)
		}
		if len(b.long) > 0 {
			b.long = append(b.long, part...)
			part = b.long
		}
		line, ok := bytes.CutSuffix(part, []byte("\r\n"))
		if !ok {
			return nil, malformed("line ends in a bare LF")
		}
		return line, nil
	}
}

// start returns the first line. RFC 9112 section 2.2 wants one empty line
// before it ignored.
func (b *block) start() ([]byte, error) {
	line, err := b.line()
	if err == nil && len(line) == 0 {
		line, err = b.line()
	}
	return line, err
}

// Field is one line of a header block.
type Field struct {
	Name, Value string // as sent, the value without the blanks around it
	key         string // the name in lower case
}

// fields reads the lines up to the blank one, in their order and by their names
// in lower case.
func (b *block) fields() ([]Field, map[string][]string, error) {
	list, header := make([]Field, 0, 8), make(map[string][]string, 8)
	for range MaxFields + 1 { // and the blank line
		line, err := b.line()
		if err != nil {
			return nil, nil, err
		}
		if len(line) == 0 {
			return list, header, nil
		}
		if line[0] == ' ' || line[0] == '\t' {
			return nil, nil, malformed("folded header field")
		}
		before, after, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return nil, nil, malformed("header line without a colon")
		}
		// A name is a token, so there is no space before the colon either.
		name, value := string(before), string(bytes.Trim(after, " \t"))
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, nil, malformed("invalid header field name")
		}
		if !httpguts.ValidHeaderFieldValue(value) {
			return nil, nil, malformed("control character in a header field")
		}
		key := strings.ToLower(name)
		list = append(list, Field{name, value, key})
		header[key] = append(header[key], value)
	}
	return nil, nil, errTooLarge
}

// Framing says how long a body is (RFC 9112 section 6).
type Framing struct {
	Length  int64 // of a body of known length; -1 where that is not said
	Chunked bool  // the body says its length itself
}

// Empty reports that there is certainly no body.
func (f Framing) Empty() bool { return !f.Chunked && f.Length == 0 }

// framing judges whether a body's length can be read in one way only.
func framing(header map[string][]string, proto string) (Framing, error) {
	lengths, codings := header["content-length"], header["transfer-encoding"]
	f := Framing{Length: -1}
	for _, n := range lengths {
		size, err := strconv.ParseUint(n, 10, 63)
		if err != nil {
			return f, malformed("invalid Content-Length")
		}
		if n != lengths[0] {
			return f, malformed("two Content-Lengths that differ")
		}
		f.Length = int64(size)
	}
	switch {
	case len(codings) == 0:
		return f, nil
	case len(lengths) > 0:
		return f, malformed("both Content-Length and Transfer-Encoding")
	case proto == "HTTP/1.0":
		return f, malformed("Transfer-Encoding in HTTP/1.0")
	case len(codings) > 1 || len(codings[0]) != len("chunked") || !strings.EqualFold(codings[0], "chunked"): // not with the Kelvin sign for its k
		return f, &Error{Status: 501, Reason: "transfer coding is not supported"}
	}
	f.Chunked = true
	return f, nil
}
