// Package socks5 is the codec of RFC 1928 (SOCKS version 5) and RFC 1929
// (username and password). It reads exactly the bytes of one message, so what
// a client sends early stays in the reader.
package socks5

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Method is an authentication method (RFC 1928 §3).
type Method byte

// The methods that are spoken here.
const (
	NoAuth       Method = 0x00
	UserPass     Method = 0x02
	NoAcceptable Method = 0xff
)

// Command is what a request asks for (RFC 1928 §4).
type Command byte

// Connect is the only command that is carried out.
const Connect Command = 0x01

// Reply is a request's outcome (RFC 1928 §6).
type Reply byte

// The replies.
const (
	Succeeded               Reply = 0x00
	GeneralFailure          Reply = 0x01
	NotAllowed              Reply = 0x02
	NetworkUnreachable      Reply = 0x03
	HostUnreachable         Reply = 0x04
	ConnectionRefused       Reply = 0x05
	CommandNotSupported     Reply = 0x07
	AddressTypeNotSupported Reply = 0x08
)

// Errors of malformed messages.
var (
	ErrVersion     = errors.New("socks5: wrong version")
	ErrAddressType = errors.New("socks5: unknown address type")
	ErrEmptyName   = errors.New("socks5: empty domain name")
)

// Greeting is the set of methods that a client offers.
type Greeting struct{ methods [4]uint64 }

// Offers tells whether the client offered m.
func (g Greeting) Offers(m Method) bool { return g.methods[m>>6]>>(m&63)&1 == 1 }

// ReadGreeting reads the version and the methods (RFC 1928 §3). None at all
// is legal to send and acceptable to nobody.
func ReadGreeting(r *bufio.Reader) (Greeting, error) {
	var g Greeting
	if err := version(r, 5); err != nil {
		return g, err
	}
	n, err := r.ReadByte()
	if err != nil {
		return g, short(err)
	}
	for range n {
		m, err := r.ReadByte()
		if err != nil {
			return g, short(err)
		}
		g.methods[m>>6] |= 1 << (m & 63)
	}
	return g, nil
}

// Credentials are a client's name and password, kept whole.
type Credentials struct{ Username, Password string }

// ReadCredentials reads the request of RFC 1929 §2.
func ReadCredentials(r *bufio.Reader) (Credentials, error) {
	var c Credentials
	if err := version(r, 1); err != nil {
		return c, err
	}
	var err error
	if c.Username, err = text(r); err != nil {
		return c, err
	}
	c.Password, err = text(r)
	return c, err
}

// Request is a client's request (RFC 1928 §4). One of Host and IP is set.
type Request struct {
	Command Command
	Host    string // a domain name as sent
	IP      netip.Addr
	Port    uint16
}

// ReadRequest reads a request whatever its command. The reserved byte is not
// looked at, as other servers do not either.
func ReadRequest(r *bufio.Reader) (Request, error) {
	var q Request
	if err := version(r, 5); err != nil {
		return q, err
	}
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return q, short(err)
	}
	q.Command = Command(head[0])
	switch head[2] {
	case 1, 4:
		var b [16]byte
		ip := b[:4*head[2]]
		if _, err := io.ReadFull(r, ip); err != nil {
			return q, short(err)
		}
		q.IP, _ = netip.AddrFromSlice(ip)
	case 3:
		var err error
		if q.Host, err = text(r); err != nil {
			return q, err
		}
		if q.Host == "" {
			return q, ErrEmptyName
		}
	default:
		return q, fmt.Errorf("%w %#02x", ErrAddressType, head[2])
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return q, short(err)
	}
	q.Port = binary.BigEndian.Uint16(port[:])
	return q, nil
}

// AppendMethod appends the choice of a method (RFC 1928 §3).
func AppendMethod(b []byte, m Method) []byte { return append(b, 5, byte(m)) }

// AppendStatus appends the answer of RFC 1929 §2: 0 is success.
func AppendStatus(b []byte, status byte) []byte { return append(b, 1, status) }

// AppendReply appends a reply (RFC 1928 §6); an invalid bound address is
// written as 0.0.0.0:0.
func AppendReply(b []byte, reply Reply, bound netip.AddrPort) []byte {
	ip := bound.Addr()
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	kind := byte(1)
	if ip.Is6() {
		kind = 4
	}
	b = append(b, 5, byte(reply), 0, kind)
	b = append(b, ip.AsSlice()...)
	return binary.BigEndian.AppendUint16(b, bound.Port())
}

func version(r *bufio.Reader, want byte) error {
	got, err := r.ReadByte()
	if err != nil {
		return short(err)
	}
	if got != want {
		return fmt.Errorf("%w %#02x", ErrVersion, got)
	}
	return nil
}

func text(r *bufio.Reader) (string, error) {
	n, err := r.ReadByte()
	if err != nil {
		return "", short(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", short(err)
	}
	return string(b), nil
}

func short(err error) error { return fmt.Errorf("socks5: message cut short: %w", err) }
