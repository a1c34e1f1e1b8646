package socks5

import "fmt"

// Method is an authentication method (RFC 1928 section 3).
type Method byte

const (
	NoAuth       Method = 0x00
	GSSAPI       Method = 0x01
	UserPass     Method = 0x02 // RFC 1929
	NoAcceptable Method = 0xFF // the server takes none of those offered
)

// Command is what a request wants done (RFC 1928 section 4).
type Command byte

const (
	Connect   Command = 0x01
	Bind      Command = 0x02
	Associate Command = 0x03 // UDP
)

func (c Command) String() string {
	switch c {
	case Connect:
		return "connect"
	case Bind:
		return "bind"
	case Associate:
		return "associate"
	}
	return fmt.Sprintf("command %#02x", byte(c))
}

// Reply is how a request ended (RFC 1928 section 6).
type Reply byte

const (
	Succeeded               Reply = 0x00
	GeneralFailure          Reply = 0x01
	NotAllowed              Reply = 0x02 // by the ruleset
	NetworkUnreachable      Reply = 0x03
	HostUnreachable         Reply = 0x04
	ConnectionRefused       Reply = 0x05
	TTLExpired              Reply = 0x06
	CommandNotSupported     Reply = 0x07
	AddressTypeNotSupported Reply = 0x08
)

var replies = [...]string{
	Succeeded:               "succeeded",
	GeneralFailure:          "general failure",
	NotAllowed:              "not allowed by ruleset",
	NetworkUnreachable:      "network unreachable",
	HostUnreachable:         "host unreachable",
	ConnectionRefused:       "connection refused",
	TTLExpired:              "TTL expired",
	CommandNotSupported:     "command not supported",
	AddressTypeNotSupported: "address type not supported",
}

func (r Reply) String() string {
	if int(r) < len(replies) {
		return replies[r]
	}
	return fmt.Sprintf("reply %#02x", byte(r))
}

// Address types (RFC 1928 section 5).
const (
	typeIPv4 = 0x01
	typeName = 0x03
	typeIPv6 = 0x04
)
