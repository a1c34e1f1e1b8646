package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"sallyport/proxy/wire/http"
	"sallyport/proxy/wire/socks4"
	"sallyport/proxy/wire/socks5"
)

// hopAnswer is a hop's answer that is no success: of itself, or, where it was asked
// for a connection, of that.
type hopAnswer struct {
	failure Failure
	asked   bool // of what it was asked for
	network bool
	detail  string
}

func (e *hopAnswer) Error() string { return string(e.failure) }

// say sends a message to a hop, which may not have sent anything ahead of it.
func (c *chain) say(message []byte) error {
	if c.reader.Buffered() > 0 {
		return &hopAnswer{failure: HopMalformed, detail: "it speaks before it is asked"}
	}
	_, err := c.conn.Write(message)
	return err
}

// greet agrees with a SOCKS5 server on how to authenticate. With credentials
// nothing but these is offered: a server that picks another method, or somebody
// between who does, learns nothing.
func (c *chain) greet(hop *Hop) error {
	method := socks5.NoAuth
	if hop.Username != "" || !hop.Password.IsZero() {
		method = socks5.UserPass
	}
	if err := c.say(socks5.AppendGreeting(nil, method)); err != nil {
		return err
	}
	chosen, err := socks5.ReadMethod(c.reader)
	switch {
	case err != nil:
		return err
	case chosen == socks5.NoAcceptable && method == socks5.NoAuth:
		return &hopAnswer{failure: HopAuth, detail: "it wants credentials, and the configuration has none"}
	case chosen == socks5.NoAcceptable:
		return &hopAnswer{failure: HopAuth, detail: "it takes no user name and password"}
	case chosen != method && method == socks5.UserPass:
		return &hopAnswer{failure: HopAuth, detail: "it picks another method than the one that was offered, so that the password is kept back"}
	case chosen != method:
		return &hopAnswer{failure: HopMalformed, detail: "it picks a method that was not offered"}
	case method == socks5.NoAuth:
		return nil
	}
	message, err := socks5.AppendCredentials(nil, socks5.Credentials{Username: hop.Username, Password: hop.Password.Reveal()})
	if err != nil {
		return &hopAnswer{failure: HopAuth, detail: "user name or password is too long"}
	}
	if err := c.say(message); err != nil {
		return err
	}
	status, err := socks5.ReadStatus(c.reader)
	if err == nil && status != 0 {
		err = &hopAnswer{failure: HopAuth, detail: "it refuses the credentials"}
	}
	return err
}

// ask asks a hop that is ready for a connection.
func (c *chain) ask(hop *Hop, to Endpoint) error {
	switch hop.Protocol {
	case SOCKS5:
		return c.askSOCKS5(hop, to)
	case SOCKS4A:
		return c.askSOCKS4(hop, to)
	}
	return c.askHTTP(hop, to)
}

func (c *chain) askSOCKS5(hop *Hop, to Endpoint) error {
	wanted := socks5.Request{Command: socks5.Connect, Address: socks5.Address{Host: to.Name, IP: to.IP, Port: to.Port}}
	if to.Packets {
		wanted = associateRequest
	}
	request, err := socks5.AppendRequest(nil, wanted)
	if err != nil {
		return unspeakable(err)
	}
	if err := c.say(request); err != nil {
		return err
	}
	reply, bound, err := socks5.ReadReply(c.reader)
	if err != nil {
		return err
	}
	said := hopAnswer{asked: true, detail: reply.String()}
	switch reply {
	case socks5.Succeeded:
		if to.Packets {
			return c.bindRelay(hop, bound)
		}
		c.bound = netip.AddrPortFrom(bound.IP.Unmap(), bound.Port)
		return nil
	case socks5.NotAllowed:
		said.failure = HopDenied
	case socks5.NetworkUnreachable:
		said.failure, said.network = HopUnreachable, true
	case socks5.HostUnreachable:
		said.failure = HopUnreachable
	case socks5.ConnectionRefused:
		said.failure = HopRefused
	case socks5.TTLExpired:
		said.failure = HopTimeout
	case socks5.CommandNotSupported, socks5.AddressTypeNotSupported:
		said.failure = HopUnsupported
	default:
		said.failure = HopFailed
	}
	if to.Packets && said.failure == HopUnsupported {
		said.failure = HopNoUDP
	}
	return &said
}

func (c *chain) askSOCKS4(hop *Hop, to Endpoint) error {
	request, err := socks4.AppendRequest(nil, socks4.Request{
		Command: socks4.Connect, UserID: hop.Username, Address: socks4.Address{Host: to.Name, IP: to.IP, Port: to.Port},
	})
	if err != nil {
		return unspeakable(err)
	}
	if err := c.say(request); err != nil {
		return err
	}
	reply, _, err := socks4.ReadReply(c.reader)
	switch {
	case err != nil:
		return err
	case reply == socks4.Granted:
		c.bound = netip.AddrPort{}
		return nil
	case reply == socks4.NoIdentd, reply == socks4.WrongIdent:
		return &hopAnswer{failure: HopAuth, detail: reply.String()}
	}
	return &hopAnswer{failure: HopFailed, asked: true, detail: reply.String()}
}

func (c *chain) askHTTP(hop *Hop, to Endpoint) error {
	request, err := http.AppendConnect(nil, to.host(), to.Port, hop.Username, hop.Password.Reveal())
	if err != nil {
		return unspeakable(err)
	}
	if err := c.say(request); err != nil {
		return err
	}
	response, err := http.ReadResponse(c.reader)
	if err != nil {
		return err
	}
	if response.Status/100 == 2 {
		c.bound = netip.AddrPort{}
		return nil
	}
	return statusAnswer(response)
}

// statusAnswer says what an answer to CONNECT means: by its Proxy-Status, where
// there is one, or else by its status.
func statusAnswer(r *http.Response) error {
	said := hopAnswer{asked: true, detail: "status " + strconv.Itoa(r.Status)}
	switch r.ProxyError() {
	case "connection_refused":
		said.failure = HopRefused
		return &said
	case "connection_timeout", "dns_timeout":
		said.failure = HopTimeout
		return &said
	case "dns_error", "destination_not_found":
		said.failure = HopUnreachable
		return &said
	case "destination_ip_unroutable", "destination_unavailable":
		said.failure, said.network = HopUnreachable, true
		return &said
	}
	switch r.Status {
	case 407:
		said.failure, said.asked = HopAuth, false
	case 401, 403, 429, 451:
		said.failure = HopDenied
	case 504, 408:
		said.failure = HopTimeout
	case 400, 405, 501, 505:
		said.failure = HopUnsupported
	default:
		said.failure = HopFailed
	}
	return &said
}

// unspeakable is a target that a protocol has no words for.
func unspeakable(err error) error {
	return &hopAnswer{failure: HopUnsupported, asked: true, detail: err.Error()}
}

func lookupFailure(err error) error {
	failure := HopUnresolved
	if errors.Is(err, ErrResolveTimeout) {
		failure = HopTimeout
	}
	return &hopAnswer{failure: failure, detail: "look-up of its name"}
}

// blame makes a *HopError of what has gone wrong on the way to, or at, a hop. It
// is the one table of them.
func (c *chain) blame(at int, err error) error {
	if err == nil {
		return nil
	}
	if other := (*atHop)(nil); errors.As(err, &other) {
		at, err = other.at, other.err
	}
	e := &HopError{Hop: c.hops[at].Name, At: at}
	var said *hopAnswer
	var wire *http.Error
	var ours *tlsFailure
	var certificate *tls.CertificateVerificationError
	var timeout net.Error
	var trouble *net.OpError
	switch {
	case errors.As(err, &said):
		e.Failure, e.Network, e.Detail = said.failure, said.network, said.detail
		e.Target = said.asked && at == len(c.hops)-1
	case errors.Is(err, ErrSource):
		e.Failure = HopSource
	case errors.Is(err, ErrRefused) && !errors.Is(err, syscall.ECONNRESET):
		e.Failure = HopRefused
	case errors.Is(err, ErrHostUnreachable), errors.Is(err, ErrNetworkUnreachable):
		e.Failure = HopUnreachable
	case errors.Is(err, ErrTimeout), errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded), c.ctx.Err() != nil:
		e.Failure, e.Detail = HopTimeout, "no answer within the deadline"
	case errors.As(err, &certificate), errors.As(err, new(x509.HostnameError)), errors.As(err, new(x509.UnknownAuthorityError)):
		e.Failure, e.Detail = HopCertificate, "its certificate is not valid for this upstream"
	case errors.As(err, &ours) && !hungUp(err), alertIn(err) != "": // TLS 1.3 has some after the handshake
		e.Failure, e.Detail = HopTLS, tlsDetail(err)
	case errors.As(err, &wire):
		e.Failure, e.Detail = HopMalformed, wire.Reason
		if wire.TooLarge() {
			e.Failure = HopTooLarge
		}
	case hungUp(err):
		e.Failure, e.Detail = HopClosed, "it hangs up before its answer"
	case errors.As(err, &trouble):
		e.Failure, e.Detail = HopFailed, trouble.Err.Error()
	default: // what is left is a codec's
		e.Failure, e.Detail = HopMalformed, err.Error()
	}
	return e
}

func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// tlsDetail keeps the bytes of a server that speaks no TLS out of the log.
func tlsDetail(err error) string {
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		return "it does not speak TLS"
	}
	if alert := alertIn(err); alert != "" {
		return "it ends TLS: " + alert
	}
	return "the handshake fails"
}

// alertIn is the alert by which the other side has ended TLS, in the words of
// crypto/tls; empty where it has not.
func alertIn(err error) string {
	var trouble *net.OpError
	if errors.As(err, &trouble) && trouble.Op == "remote error" {
		return trouble.Err.Error()
	}
	return ""
}
