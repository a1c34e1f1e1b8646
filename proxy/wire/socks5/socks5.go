// Package socks5 is the wire format of SOCKS version 5 (RFC 1928) and of its
// username/password authentication (RFC 1929), for both sides.
//
// A talk goes: the client's greeting offers methods, the server selects one,
// the client may send credentials and is told a status, the client sends one
// request, and the server answers it with a reply. Read functions take exactly
// one message from the reader and leave what follows it there; Append functions
// write one. Each message has its own bound of a few hundred bytes, so the
// reader's buffer (512 bytes or more) is all the memory that a peer can claim.
//
// Reading ends with io.EOF where the peer closed before the message, and with
// io.ErrUnexpectedEOF where it closed within; both are wrapped.
//
// codes.go has the numbers, read.go and write.go the messages, and datagram.go
// what travels over UDP beside such a talk.
package socks5

import (
	"errors"
	"fmt"
	"net/netip"
)

// Version is the first byte of a greeting, a request and their answers.
const Version = 5

const (
	authVersion = 1 // of the sub-negotiation, RFC 1929 section 2
	maxString   = 255
)

// Faults of a message.
var (
	ErrVersion     = errors.New("wrong protocol version")
	ErrAddressType = errors.New("unknown address type")
	ErrEmptyName   = errors.New("empty domain name")
	ErrTooLong     = errors.New("longer than 255 bytes")
)

// RequestError is a request that can be answered but not understood. It wraps
// one of the faults above.
type RequestError struct {
	Reply Reply // what to answer
	Err   error
}

func (e *RequestError) Error() string { return "socks5: request: " + e.Err.Error() }
func (e *RequestError) Unwrap() error { return e.Err }

// Greeting is the set of methods that a client offers. The zero value offers
// none.
type Greeting struct {
	offered [256 / 64]uint64
}

// Offers reports whether the client offers m.
func (g Greeting) Offers(m Method) bool {
	return g.offered[m/64]&(1<<(m%64)) != 0
}

// Credentials are a user name and a password (RFC 1929), byte for byte as sent:
// they may hold NUL and need not be UTF-8. The RFC wants each 1 to 255 bytes
// long; an empty one is read and written like any other, since it is for
// verification to refuse it with the status that the RFC has for that.
type Credentials struct {
	Username, Password string
}

// Request is what a client asks for. The command may be an unknown one.
type Request struct {
	Command Command
	Address Address
}

// Address is a host and a port. Either Host or IP is set.
type Address struct {
	Host string     // domain name of 1 to 255 bytes, as sent: any bytes at all
	IP   netip.Addr // literal, as sent: an IPv4-mapped IPv6 address stays one
	Port uint16
}

func wrap(what string, err error) error { return fmt.Errorf("socks5: %s: %w", what, err) }
