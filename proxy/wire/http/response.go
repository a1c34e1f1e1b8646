package http

import (
	"bufio"
	"bytes"
	"strconv"

	"golang.org/x/net/http/httpguts"
)

// Response is the head of an answer. A body, if there is one, is still in the
// reader.
type Response struct {
	Proto  string              // "HTTP/1.1" or "HTTP/1.0"
	Status int                 // 100 to 999
	Reason string              // may be empty
	Fields []Field             // in the order in which they were sent
	Header map[string][]string // the same: lower-case names to values
}

// Responses reads the answers to one request: interim ones (1xx), all of them
// together bounded like one, and the last.
type Responses struct{ b block }

// NewResponses reads answers from r.
func NewResponses(r *bufio.Reader) *Responses {
	return &Responses{block{r: r, left: MaxHeader}}
}

// Next reads the head of the next answer. The Status of an *Error is 502, and it
// has a Type.
func (r *Responses) Next() (*Response, error) {
	res, err := r.b.response()
	return res, answered(err)
}

// Begun reports whether the next hop has sent anything.
func (r *Responses) Begun() bool { return r.b.begun }

// ReadResponse reads the answer to a CONNECT request. Interim answers (1xx) are
// skipped; all of them together are bounded like one. What follows a 2xx answer
// is the tunnel, whatever its fields say (RFC 9110 section 9.3.6), so the
// length of a body is not looked at.
//
// Status of an *Error is 502 here: it is the next proxy that is at fault.
func ReadResponse(r *bufio.Reader) (*Response, error) {
	for all := NewResponses(r); ; {
		if res, err := all.Next(); err != nil || res.Status >= 200 {
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
	code, reason, _ := bytes.Cut(rest, []byte(" "))
	status, err := strconv.ParseUint(string(code), 10, 16)
	if err != nil || len(code) != 3 || status < 100 || !httpguts.ValidHeaderFieldValue(string(reason)) {
		return nil, malformed("invalid status line")
	}
	res := &Response{Proto: string(proto), Status: int(status), Reason: string(reason)}
	if res.Fields, res.Header, err = b.fields(); err != nil {
		return nil, err
	}
	return res, nil
}
