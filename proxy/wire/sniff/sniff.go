// Package sniff tells by a client's first byte which protocol it speaks, so
// that one port can serve several.
package sniff

import "bufio"

// Protocol is what a client speaks.
type Protocol byte

// The protocols that a first byte can announce.
const (
	Unknown Protocol = iota
	SOCKS5
	SOCKS4
	HTTP
	TLS
)

var names = [...]string{Unknown: "unknown", SOCKS5: "socks5", SOCKS4: "socks4", HTTP: "http", TLS: "tls"}

// String is the name that logs and policies use.
func (p Protocol) String() string {
	if int(p) < len(names) {
		return names[p]
	}
	return names[Unknown]
}

// Dialect says which protocol begins with the byte first.
//
// SOCKS begins with its version (RFC 1928 section 3: 5), and TLS with the
// content type of a handshake record (RFC 8446 section 5.1: 22). HTTP begins
// with a method. RFC 9110 section 9.1 lets a method be any token, but every
// registered one that a proxy may be sent begins with an upper-case letter, and
// methods are case-sensitive, so nothing else is taken for HTTP but a carriage
// return: RFC 9112 section 2.2 wants an empty line before a request ignored.
func Dialect(first byte) Protocol {
	switch {
	case first == 5:
		return SOCKS5
	case first == 4:
		return SOCKS4
	case first == 22:
		return TLS
	case 'A' <= first && first <= 'Z', first == '\r':
		return HTTP
	}
	return Unknown
}

// Announced tells whether a PROXY header comes, of version 1 or 2 (sections 2.1
// and 2.2 of haproxy's doc/proxy-protocol.txt). Nothing is consumed. It waits for
// more bytes only where those that are there may begin one, which no whole
// message of another protocol does.
func Announced(r *bufio.Reader) bool {
	for _, signature := range []string{"PROXY ", "\r\n\r\n\x00\r\nQUIT\n"} {
		for n := 1; ; n++ {
			begin, err := r.Peek(n)
			if err != nil || begin[n-1] != signature[n-1] {
				break
			}
			if n == len(signature) {
				return true
			}
		}
	}
	return false
}
