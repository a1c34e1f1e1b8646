package proxy

import (
	"bufio"
	"io"
	"net/netip"

	"sallyport/policy"
	"sallyport/proxy/wire/socks5"
)

// socks5Dialect is the server's side of RFC 1928 and RFC 1929.
type socks5Dialect struct {
	conn   io.Writer
	reader *bufio.Reader
	method socks5.Method

	certified bool     // by TLS
	asking    bool     // the client was told that it may ask, so that a reply can be sent
	out       [64]byte // every answer fits
}

func (d *socks5Dialect) Present(methods policy.Methods) (presented, error) {
	d.method = socks5.NoAcceptable
	greeting, err := socks5.ReadGreeting(d.reader)
	if err != nil {
		return presented{}, err
	}
	chosen, ok := strongest(methods, d.certified, greeting.Offers(socks5.UserPass), greeting.Offers(socks5.NoAuth))
	switch {
	case !ok:
		return presented{}, errNoMethod
	case chosen == policy.MethodCertificate || chosen == policy.MethodNone:
		d.method = socks5.NoAuth
		return presented{method: chosen}, nil
	}
	d.method = socks5.UserPass
	if _, err := d.conn.Write(socks5.AppendMethod(d.out[:0], d.method)); err != nil {
		return presented{}, err
	}
	credentials, err := socks5.ReadCredentials(d.reader)
	if err != nil {
		return presented{}, err
	}
	return presented{method: chosen, username: credentials.Username, password: credentials.Password}, nil
}

func (d *socks5Dialect) Reject(*ending) error {
	answer := socks5.AppendMethod(d.out[:0], socks5.NoAcceptable)
	if d.method == socks5.UserPass {
		answer = socks5.AppendStatus(d.out[:0], 1)
	}
	_, err := d.conn.Write(answer)
	return err
}

func (d *socks5Dialect) Accept() error {
	d.asking = true
	answer := socks5.AppendMethod(d.out[:0], socks5.NoAuth)
	if d.method == socks5.UserPass {
		answer = socks5.AppendStatus(d.out[:0], 0)
	}
	_, err := d.conn.Write(answer)
	return err
}

func (d *socks5Dialect) Request() (request, error) {
	r, err := socks5.ReadRequest(d.reader)
	if err != nil {
		return request{}, err
	}
	switch r.Command {
	case socks5.Connect, socks5.Bind, socks5.Associate:
	default:
		return request{}, errCommand
	}
	return request{
		facts: policy.Request{Command: r.Command.String()},
		host:  r.Address.Host, ip: r.Address.IP, port: r.Address.Port,
	}, nil
}

func (d *socks5Dialect) Refuse(e *ending) error {
	if !d.asking {
		return d.Reject(e)
	}
	_, err := d.conn.Write(socks5.AppendReply(d.out[:0], e.socks5, netip.AddrPort{}))
	return err
}

func (d *socks5Dialect) Grant(bound netip.AddrPort) error {
	_, err := d.conn.Write(socks5.AppendReply(d.out[:0], socks5.Succeeded, bound))
	return err
}
