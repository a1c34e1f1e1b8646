// Package http is the wire format of HTTP/1.1 proxy requests (RFC 9110, 9112)
// and of the answers of this proxy, for both sides.
//
// It is stricter than a web server has to be, since two parsers that read one
// message differently are how requests are smuggled: lines end in CRLF and
// nothing else (RFC 9112 section 2.2 lets a recipient take a bare LF; here it is
// refused), nothing is folded, no value holds a control character, and the
// length of a body can be read in one way only.
//
// A header block, start line included, has at most MaxHeader bytes and
// MaxFields fields. It is read line by line, so no more than its longest line
// and the values that are kept is ever in memory; what follows the blank line
// stays in the reader.
//
// Reading ends with io.EOF where the peer closed before the first byte, and
// with io.ErrUnexpectedEOF where it closed later; both are wrapped. What a
// message has wrong is an *Error.
//
// read.go has the lines and fields, request.go and response.go the two kinds of
// message, credentials.go what a client presents, and write.go the answers.
package http

import "fmt"

const (
	// MaxHeader bounds a header block in bytes, with its start line, its line
	// ends and the blank line.
	MaxHeader = 64 << 10
	// MaxFields bounds its lines, each of which costs more memory than it has
	// bytes. It is far beyond what any client sends.
	MaxFields = 1000
)

// Error is a message that cannot be taken.
type Error struct {
	Status int    // what to answer: 400, 407, 414, 431, 501, 502 or 505
	Reason string // short, and without a byte of the message
	Type   string // of an answer: the error type of RFC 9209 section 2.3
}

func (e *Error) Error() string { return fmt.Sprintf("http: %s (%d)", e.Reason, e.Status) }

func malformed(reason string) error { return &Error{Status: 400, Reason: reason} }

// answered is an error as one of an answer: it is the next hop that is at fault.
func answered(err error) error {
	fault, ok := err.(*Error)
	switch {
	case err == errTooLarge:
		return &Error{Status: 502, Reason: errTooLarge.Error(), Type: "http_response_header_section_size"}
	case !ok:
		return err
	case fault.Status == 501:
		return &Error{Status: 502, Reason: fault.Reason, Type: "http_response_transfer_coding"}
	}
	return &Error{Status: 502, Reason: fault.Reason, Type: "http_protocol_error"}
}
