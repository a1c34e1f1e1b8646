// Package socks4 is the wire format of SOCKS version 4 and of its extension 4A,
// which names a host instead of an address, for both sides. There is no RFC:
// the documents are Ying-Da Lee's "SOCKS: A protocol for TCP proxy across
// firewalls" and "SOCKS 4A: A Simple Extension to SOCKS 4 Protocol".
//
// A talk is one request and one reply (of BIND two). Read functions take exactly
// one message from the reader and leave what follows it there; Append functions
// write one. User id and name end in NUL and are at most MaxString bytes long
// each, so that the reader's buffer (512 bytes or more) is all the memory that a
// peer can claim.
//
// Reading ends with io.EOF where the peer closed before the message, and with
// io.ErrUnexpectedEOF where it closed within; both are wrapped.
package socks4

import (
	"errors"
	"fmt"
	"net/netip"
)

// Version is the first byte of a request. That of a reply is 0.
const Version = 4

// MaxString is the longest user id and the longest name, in bytes. The documents
// have no bound; SOCKS5 has this one.
const MaxString = 255

// Faults of a message.
var (
	ErrVersion   = errors.New("wrong protocol version")
	ErrEmptyName = errors.New("empty domain name")
	ErrTooLong   = errors.New("user id or name longer than 255 bytes")
	ErrAddress   = errors.New("address that SOCKS4 cannot name")
	ErrNUL       = errors.New("user id or name with a NUL")
)

// Command is what a request wants done.
type Command byte

const (
	Connect Command = 1
	Bind    Command = 2
)

func (c Command) String() string {
	switch c {
	case Connect:
		return "connect"
	case Bind:
		return "bind"
	}
	return fmt.Sprintf("command %#02x", byte(c))
}

// Reply is how a request ended.
type Reply byte

const (
	Granted    Reply = 0x5A
	Rejected   Reply = 0x5B // or failed, whatever the reason
	NoIdentd   Reply = 0x5C // no identd on the client could be asked for the user id
	WrongIdent Reply = 0x5D // the user id is not the one that it should be
)

func (r Reply) String() string {
	switch r {
	case Granted:
		return "granted"
	case Rejected:
		return "rejected or failed"
	case NoIdentd:
		return "no identd on the client"
	case WrongIdent:
		return "wrong user id"
	}
	return fmt.Sprintf("reply %#02x", byte(r))
}

// Request is what a client asks for, and whom it says it is. The command may be
// an unknown one.
type Request struct {
	Command Command
	Address Address
	UserID  string // at most MaxString bytes of any kind but NUL; nothing proves it
}

// Address is a host and a port. Either Host or IP is set.
type Address struct {
	Host string     // domain name of 1 to MaxString bytes of any kind but NUL, as sent (4A)
	IP   netip.Addr // IPv4
	Port uint16
}

// marksName tells an address of 4A, which says that a name follows, from one
// that is meant: 0.0.0.x, and x is not 0.
func marksName(ip [4]byte) bool {
	return ip[0] == 0 && ip[1] == 0 && ip[2] == 0 && ip[3] != 0
}

func wrap(what string, err error) error { return fmt.Errorf("socks4: %s: %w", what, err) }
