package http

import (
	"bufio"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http/httputil"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Body reads a message's body, and leaves what follows it in the reader. It ends
// with io.EOF; with io.ErrUnexpectedEOF where the peer closed before the end; and
// with an *Error, whose Status is 400, where the chunks are malformed.
type Body struct {
	r       *bufio.Reader
	framing Framing
	chunks  io.Reader
	left    int64
	trailer []Field
	end     error
}

// NewBody reads a body of that framing from r; one of unknown length ends when
// the peer closes.
func NewBody(r *bufio.Reader, f Framing) *Body {
	b := &Body{r: r, framing: f, left: f.Length}
	if f.Chunked {
		b.chunks = httputil.NewChunkedReader(r) // which reads from r itself
	}
	return b
}

// Read returns what there is rather than wait for more.
func (b *Body) Read(p []byte) (int, error) {
	if b.end != nil {
		return 0, b.end
	}
	var n int
	switch {
	case b.framing.Chunked:
		if n, b.end = b.chunks.Read(p); b.end != nil {
			b.end = b.chunked(b.end)
		}
	case b.framing.Length < 0:
		n, b.end = b.r.Read(p)
	default:
		if b.left > 0 {
			n, b.end = b.r.Read(p[:min(int64(len(p)), b.left)])
			b.left -= int64(n)
		}
		if b.left == 0 {
			b.end = io.EOF
		} else if b.end == io.EOF {
			b.end = io.ErrUnexpectedEOF
		}
	}
	return n, b.end
}

// chunked tells the ends of chunks: the last of them, behind which a trailer
// section is, those of the peer, and what is no chunk.
func (b *Body) chunked(err error) error {
	if err == io.EOF {
		trailer := block{r: b.r, left: MaxHeader, begun: true}
		b.trailer, _, err = trailer.fields()
		if err == nil {
			return io.EOF
		}
	}
	var failed *net.OpError
	var fault *Error
	switch {
	case err == errTooLarge:
		return malformed("trailer section is too large")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	case errors.As(err, &failed), errors.As(err, &fault):
		return err
	}
	return malformed("invalid chunk")
}

// Done reports whether the body has ended as it should.
func (b *Body) Done() bool { return b.end == io.EOF }

// Trailer is what followed the last chunk; known at the end.
func (b *Body) Trailer() []Field { return b.trailer }

// Room that a chunk needs in front of its data and behind it.
const (
	ChunkHead = 8 + 2
	ChunkTail = 2
)

// Chunk makes a chunk of the n bytes, at least one and less than 4 GiB, that
// stand in room from ChunkHead on, and returns the part of room that it fills.
func Chunk(room []byte, n int) []byte {
	var digits [8]byte
	hex.Encode(digits[:], []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	size := strings.TrimLeft(string(digits[:]), "0")
	from := ChunkHead - 2 - len(size)
	copy(room[from:], size)
	copy(room[ChunkHead-2:], "\r\n")
	copy(room[ChunkHead+n:], "\r\n")
	return room[from : ChunkHead+n+ChunkTail]
}

// AppendLastChunk ends a body of chunks. Of the trailer's fields those are left
// out that may not stand there (RFC 9110 section 6.5.1), or that set what was
// decided from the header.
func AppendLastChunk(b []byte, trailer []Field) []byte {
	b = append(b, "0\r\n"...)
	for _, f := range trailer {
		switch {
		case !httpguts.ValidTrailerHeader(f.Name), strings.HasPrefix(f.key, "proxy-"),
			f.key == "cookie", f.key == "set-cookie", f.key == "upgrade", f.key == "via":
			continue
		}
		b = f.append(b)
	}
	return append(b, "\r\n"...)
}

func (f *Field) append(b []byte) []byte {
	b = append(append(b, f.Name...), ": "...)
	return append(append(b, f.Value...), "\r\n"...)
}
