package proxy

import (
	"bufio"
	"io"
	"net/netip"
	"strings"

	"sallyport/policy"
	"sallyport/proxy/wire/socks4"
)

// socks4Dialect is the server's side of SOCKS4 and 4A. A client says who it is
// and what it wants in one message; nothing proves the first.
type socks4Dialect struct {
	conn    io.Writer
	reader  *bufio.Reader
	request socks4.Request

	certified bool    // by TLS
	out       [8]byte // every answer fits
}

func (d *socks4Dialect) Present(methods policy.Methods) (presented, error) {
	var err error
	if d.request, err = socks4.ReadRequest(d.reader); err != nil {
		return presented{}, err
	}
	chosen, ok := strongest(methods, d.certified, false, true)
	if !ok {
		return presented{}, errNoMethod
	}
	return presented{method: chosen, username: strings.ToValidUTF8(d.request.UserID, "\uFFFD")}, nil
}

func (d *socks4Dialect) Accept() error { return nil }

func (d *socks4Dialect) Request() (request, error) {
	switch d.request.Command {
	case socks4.Connect, socks4.Bind:
	default:
		return request{}, errCommand
	}
	return request{
		facts: policy.Request{Command: d.request.Command.String()},
		host:  d.request.Address.Host, ip: d.request.Address.IP, port: d.request.Address.Port,
	}, nil
}

// Reject says of a user id that it is the wrong one. A client without one cannot
// be told that one is missing.
func (d *socks4Dialect) Reject(e *ending) error {
	if e.name == "denied" && d.request.UserID != "" {
		return d.answer(socks4.WrongIdent, netip.AddrPort{})
	}
	return d.Refuse(e)
}

func (d *socks4Dialect) Refuse(*ending) error { return d.answer(socks4.Rejected, netip.AddrPort{}) }

func (d *socks4Dialect) Grant(bound netip.AddrPort) error { return d.answer(socks4.Granted, bound) }

func (d *socks4Dialect) answer(r socks4.Reply, bound netip.AddrPort) error {
	_, err := d.conn.Write(socks4.AppendReply(d.out[:0], r, bound))
	return err
}
