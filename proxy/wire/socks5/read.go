package socks5

import (
	"bufio"
	"encoding/binary"
	"io"
	"net/netip"
)

// take consumes n bytes, at most 256, in one piece. They are in the reader's
// own buffer, so they are good until the next read only.
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

// takeMore is take within a message, where an end is never a good one.
func takeMore(r *bufio.Reader, n int) ([]byte, error) {
	b, err := take(r, n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// ReadGreeting reads the methods that a client offers. None is legal, and is
// answered with NoAcceptable like any other offer that does not suit.
func ReadGreeting(r *bufio.Reader) (Greeting, error) {
	var g Greeting
	head, err := take(r, 2)
	if err != nil {
		return g, wrap("read greeting", err)
	}
	if head[0] != Version {
		return g, wrap("read greeting", ErrVersion)
	}
	methods, err := takeMore(r, int(head[1]))
	if err != nil {
		return g, wrap("read greeting", err)
	}
	for _, m := range methods {
		g.offered[m/64] |= 1 << (m % 64)
	}
	return g, nil
}

// ReadMethod reads which method the server has selected.
func ReadMethod(r *bufio.Reader) (Method, error) {
	b, err := take(r, 2)
	if err != nil {
		return NoAcceptable, wrap("read method", err)
	}
	if b[0] != Version {
		return NoAcceptable, wrap("read method", ErrVersion)
	}
	return Method(b[1]), nil
}

// ReadCredentials reads a user name and a password.
func ReadCredentials(r *bufio.Reader) (Credentials, error) {
	head, err := take(r, 2)
	if err != nil {
		return Credentials{}, wrap("read credentials", err)
	}
	if head[0] != authVersion {
		return Credentials{}, wrap("read credentials", ErrVersion)
	}
	n := int(head[1])
	b, err := takeMore(r, n+1) // and the password's length
	if err != nil {
		return Credentials{}, wrap("read credentials", err)
	}
	username, n := string(b[:n]), int(b[n])
	if b, err = takeMore(r, n); err != nil {
		return Credentials{}, wrap("read credentials", err)
	}
	return Credentials{Username: username, Password: string(b)}, nil
}

// ReadStatus reads how the server took the credentials: 0 is success, anything
// else is a failure and the server then closes.
func ReadStatus(r *bufio.Reader) (byte, error) {
	const failure = 1
	b, err := take(r, 2)
	if err != nil {
		return failure, wrap("read status", err)
	}
	if b[0] != authVersion {
		return failure, wrap("read status", ErrVersion)
	}
	return b[1], nil
}

// ReadRequest reads what a client asks for. An unknown command is read like
// the others, so that it can be answered with CommandNotSupported. Whatever
// else is wrong with the request is a *RequestError.
//
// The reserved byte is not looked at: RFC 1928 section 4 binds the sender to
// zero and asks nothing of the receiver, and other servers take any.
func ReadRequest(r *bufio.Reader) (Request, error) {
	head, err := take(r, 4)
	if err != nil {
		return Request{}, wrap("read request", err)
	}
	if head[0] != Version {
		return Request{}, &RequestError{Reply: GeneralFailure, Err: ErrVersion}
	}
	command, kind := Command(head[1]), head[3]
	address, err := readAddress(r, kind)
	switch err {
	case nil:
		return Request{Command: command, Address: address}, nil
	case ErrAddressType:
		return Request{}, &RequestError{Reply: AddressTypeNotSupported, Err: err}
	case ErrEmptyName:
		return Request{}, &RequestError{Reply: GeneralFailure, Err: err}
	}
	return Request{}, wrap("read request", err)
}

// ReadReply reads how the server answers a request, and the address that it
// has bound. With an error the reply is GeneralFailure.
func ReadReply(r *bufio.Reader) (Reply, Address, error) {
	head, err := take(r, 4)
	if err != nil {
		return GeneralFailure, Address{}, wrap("read reply", err)
	}
	if head[0] != Version {
		return GeneralFailure, Address{}, wrap("read reply", ErrVersion)
	}
	reply, kind := Reply(head[1]), head[3]
	address, err := readAddress(r, kind)
	if err != nil {
		return GeneralFailure, Address{}, wrap("read reply", err)
	}
	return reply, address, nil
}

// readAddress reads what follows an address type.
func readAddress(r *bufio.Reader, kind byte) (Address, error) {
	var length int
	switch kind {
	case typeIPv4:
		length = 4
	case typeIPv6:
		length = 16
	case typeName:
		b, err := takeMore(r, 1)
		if err != nil {
			return Address{}, err
		}
		if length = int(b[0]); length == 0 {
			return Address{}, ErrEmptyName
		}
	default:
		return Address{}, ErrAddressType
	}
	b, err := takeMore(r, length+2)
	if err != nil {
		return Address{}, err
	}
	host, address := b[:length], Address{Port: binary.BigEndian.Uint16(b[length:])}
	if kind == typeName {
		address.Host = string(host)
	} else {
		address.IP, _ = netip.AddrFromSlice(host) // of the right length
	}
	return address, nil
}
