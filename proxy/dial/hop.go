package dial

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"

	"sallyport/proxy/secret"
)

// Protocol is how a hop is asked for a connection.
type Protocol string

// The protocols.
const (
	SOCKS5  Protocol = "socks5"  // RFC 1928, RFC 1929
	SOCKS4A Protocol = "socks4a" // for IPv4 addresses and names
	HTTP    Protocol = "http"    // CONNECT (RFC 9110 section 9.3.6)
)

// Hop is a proxy on the way to a target. It never changes.
type Hop struct {
	Name     string // as the configuration has it
	Protocol Protocol
	At       Endpoint

	// Username and Password are presented where either is set, and then nothing
	// else will do: a SOCKS5 server is offered no other method. SOCKS4 knows a user
	// id only.
	Username string
	Password secret.String

	Local  bool           // the name of the next hop is looked up here, not by this one
	TLS    *tls.Config    // nil: plain TCP
	Relays []netip.Prefix // where its relays of datagrams may be, beside its own address
	Source netip.Addr     // the local address to connect from, where it is the first hop; invalid: any
}

// Endpoint is where a hop, or a connection through hops, leads: Name or IP, not
// both. A name is canonical, as package target leaves it, so that no byte of it
// has a meaning to any protocol.
type Endpoint struct {
	Name string
	IP   netip.Addr
	Port uint16

	// Packets is not one place but anywhere: the hop is asked for a relay of
	// datagrams (RFC 1928 section 7), and nothing else is set.
	Packets bool
}

// host is the name, or the address as text.
func (e Endpoint) host() string {
	if e.Name != "" {
		return e.Name
	}
	return e.IP.String()
}

// Failure is a class of what goes wrong at a hop, in the words of the log.
type Failure string

// The failures. The second half can also be what a hop says of its target.
const (
	HopUnresolved  Failure = "unresolved"  // its name is unknown
	HopAuth        Failure = "auth"        // it refuses the credentials, or wants some, or wants none
	HopMalformed   Failure = "malformed"   // it answers what the protocol does not have
	HopTooLarge    Failure = "too_large"   // it sends more than is ever read
	HopClosed      Failure = "closed"      // it hangs up before its answer is whole
	HopTLS         Failure = "tls"         // the TLS handshake fails
	HopCertificate Failure = "certificate" // its certificate is not that of the configuration
	HopSource      Failure = "source"      // the local address cannot be used

	HopRefused     Failure = "refused"
	HopTimeout     Failure = "timeout"
	HopUnreachable Failure = "unreachable"
	HopDenied      Failure = "denied"      // it may not be asked for that
	HopUnsupported Failure = "unsupported" // it cannot be asked for that
	HopNoUDP       Failure = "no_udp"      // it relays no datagrams
	HopFailed      Failure = "failed"      // without a word why
)

// ErrNoHop is a way that has a hop for which nobody is left to be chosen.
var ErrNoHop = errors.New("there is no upstream to choose for a hop")

// HopError says which hop has failed, or has said that the target cannot be
// reached. It unwraps to nothing: what a hop has done wrong is never to be taken
// for what the client, the target or this proxy did.
type HopError struct {
	Hop     string // the upstream's name
	At      int    // its place, from 0
	Target  bool   // the hop is sound, and it is the target that fails so
	Network bool   // of HopUnreachable: the network is, not only the host
	Failure Failure
	Detail  string // no byte of what a hop has sent, and no secret
}

func (e *HopError) Error() string {
	of := "upstream " + e.Hop
	if e.Target {
		of += " does not reach the target"
	}
	if e.Detail == "" {
		return fmt.Sprintf("%s: %s", of, e.Failure)
	}
	return fmt.Sprintf("%s: %s: %s", of, e.Failure, e.Detail)
}

// Final tells what holds of the target by whichever way it is tried.
func (e *HopError) Final() bool {
	return e.Target && (e.Failure == HopRefused || e.Failure == HopUnreachable && !e.Network)
}
