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

// fields reads the lines up to the blank one: lower-case names to values, in
// the order in which they came.
func (b *block) fields() (map[string][]string, error) {
	header := make(map[string][]string, 8)
	for range MaxFields + 1 { // and the blank line
		line, err := b.line()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			return header, nil
		}
		if line[0] == ' ' || line[0] == '\t' {
			return nil, malformed("folded header field")
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return nil, malformed("header line without a colon")
		}
		// A name is a token, so there is no space before the colon either.
		key := strings.ToLower(string(name))
		if !httpguts.ValidHeaderFieldName(key) {
			return nil, malformed("invalid header field name")
		}
		text := string(bytes.Trim(value, " \t"))
		if !httpguts.ValidHeaderFieldValue(text) {
			return nil, malformed("control character in a header field")
		}
		header[key] = append(header[key], text)
	}
	return nil, errTooLarge
}

// length judges whether a body's length can be read in one way only (RFC 9112
// section 6), and reports whether there is a body.
func length(header map[string][]string, minor byte) (body bool, err error) {
	lengths, codings := header["content-length"], header["transfer-encoding"]
	for _, n := range lengths {
		size, err := strconv.ParseUint(n, 10, 63)
		if err != nil {
			return false, malformed("invalid Content-Length")
		}
		if n != lengths[0] {
			return false, malformed("two Content-Lengths that differ")
		}
		body = size > 0
	}
	switch {
	case len(codings) == 0:
		return body, nil
	case len(lengths) > 0:
		return false, malformed("both Content-Length and Transfer-Encoding")
	case minor == '0':
		return false, malformed("Transfer-Encoding in HTTP/1.0")
	case len(codings) > 1 || !strings.EqualFold(codings[0], "chunked"):
		return false, &Error{Status: 501, Reason: "transfer coding is not supported"}
	}
	return true, nil
}
