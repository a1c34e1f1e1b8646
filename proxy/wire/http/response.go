package http

import (
	"bufio"
	"bytes"
	"strconv"
)

// Response is the head of an answer. A body, if there is one, is still in the
// reader.
type Response struct {
	Status int                 // 200 to 999
	Header map[string][]string // lower-case names to values
}

// ReadResponse reads the answer to a CONNECT request. Interim answers (1xx) are
// skipped; all of them together are bounded like one. What follows a 2xx answer
// is the tunnel, whatever its fields say (RFC 9110 section 9.3.6), so the
// length of a body is not looked at.
//
// Status of an *Error is 502 here: it is the next proxy that is at fault.
func ReadResponse(r *bufio.Reader) (*Response, error) {
	b := block{r: r, left: MaxHeader}
	for {
		res, err := b.response()
		if fault, ok := err.(*Error); ok {
			return nil, &Error{Status: 502, Reason: fault.Reason}
		}
		if err == errTooLarge {
			return nil, &Error{Status: 502, Reason: errTooLarge.Error()}
		}
		if err != nil || res.Status >= 200 {
			return res, err
		}
	}
}

func (b *block) response() (*Response, error) {
	line, err := b.line()
	if err != nil {
		return nil, err
	}
	// HTTP/1.1 200 Connection established; some leave out the reason, and the
	// space before it.
	proto, rest, _ := bytes.Cut(line, []byte(" "))
	if err := version(string(proto)); err != nil {
		return nil, err
	}
	code, _, _ := bytes.Cut(rest, []byte(" "))
	status, err := strconv.ParseUint(string(code), 10, 16)
	if err != nil || len(code) != 3 || status < 100 {
		return nil, malformed("invalid status line")
	}
	header, err := b.fields()
	if err != nil {
		return nil, err
	}
	return &Response{Status: int(status), Header: header}, nil
}
