package socks4

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
)

// ReadRequest reads what a client asks for. An unknown command is read like the
// others. After ErrTooLong, ErrEmptyName or ErrVersion, which are wrapped, the
// client can be told Rejected.
func ReadRequest(r *bufio.Reader) (Request, error) {
	head, err := take(r, 8)
	if err != nil {
		return Request{}, wrap("read request", err)
	}
	if head[0] != Version {
		return Request{}, wrap("read request", ErrVersion)
	}
	command, port, ip := Command(head[1]), binary.BigEndian.Uint16(head[2:]), [4]byte(head[4:])
	user, err := takeString(r)
	if err != nil {
		return Request{}, wrap("read user id", err)
	}
	request := Request{Command: command, UserID: user, Address: Address{Port: port}}
	if !marksName(ip) {
		request.Address.IP = netip.AddrFrom4(ip)
		return request, nil
	}
	if request.Address.Host, err = takeString(r); err == nil && request.Address.Host == "" {
		err = ErrEmptyName
	}
	if err != nil {
		return Request{}, wrap("read name", err)
	}
	return request, nil
}

// ReadReply reads how the server answers, and the address that it has bound, of
// which only BIND makes use. With an error the reply is Rejected.
func ReadReply(r *bufio.Reader) (Reply, netip.AddrPort, error) {
	b, err := take(r, 8)
	if err != nil {
		return Rejected, netip.AddrPort{}, wrap("read reply", err)
	}
	if b[0] != 0 {
		return Rejected, netip.AddrPort{}, wrap("read reply", ErrVersion)
	}
	bound := netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), binary.BigEndian.Uint16(b[2:]))
	return Reply(b[1]), bound, nil
}

// take consumes n bytes in one piece. They are in the reader's own buffer, so
// they are good until the next read only.
func take(r *bufio.Reader, n int) ([]byte, error) {
	b, err := r.Peek(n)
	if err != nil {
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	r.Discard(n) // cannot fail: they are buffered
	return b, nil
}

// takeString consumes a string and the NUL that ends it. What is longer than it
// may be is left where it is.
func takeString(r *bufio.Reader) (string, error) {
	for seen := 0; ; {
		if _, err := r.Peek(seen + 1); err != nil { // waits for one more byte than there was
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		b, _ := r.Peek(min(r.Buffered(), MaxString+1)) // never fails for what is buffered
		if end := bytes.IndexByte(b[seen:], 0); end >= 0 {
			text := string(b[:seen+end])
			r.Discard(seen + end + 1)
			return text, nil
		}
		if seen = len(b); seen > MaxString {
			return "", ErrTooLong
		}
	}
}
