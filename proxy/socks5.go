package proxy

import (
	"bufio"
	"io"
	"net/netip"
	"slices"

	"sallyport/policy"
	"sallyport/proxy/wire/socks5"
)

// socks5Dialect is the server's side of RFC 1928 and RFC 1929.
type socks5Dialect struct {
	conn   io.Writer
	reader *bufio.Reader
	method socks5.Method
	asking bool     // the client was told that it may ask, so that a reply can be sent
	out    [64]byte // every answer fits
}

func (d *socks5Dialect) Present(methods policy.Methods) (presented, error) {
	d.method = socks5.NoAcceptable
	greeting, err := socks5.ReadGreeting(d.reader)
	if err != nil {
		return presented{}, err
	}
	var chosen policy.Method
	d.method, chosen = strongest(greeting, methods)
	switch d.method {
	case socks5.NoAuth:
		return presented{method: chosen}, nil
	case socks5.UserPass:
		if _, err := d.conn.Write(socks5.AppendMethod(d.out[:0], d.method)); err != nil {
			return presented{}, err
		}
		credentials, err := socks5.ReadCredentials(d.reader)
		if err != nil {
			return presented{}, err
		}
		return presented{
			method: chosen, username: credentials.Username, password: credentials.Password,
		}, nil
	}
	return presented{}, errNoMethod
}

// strongest chooses, of the methods that the client offers and that may be
// used, the first in the contract's order. A client certificate cannot be
// shown to this release's listeners, so the methods with one are never met.
func strongest(offered socks5.Greeting, may policy.Methods) (socks5.Method, policy.Method) {
	for _, m := range []struct {
		wire socks5.Method
		name policy.Method
	}{{socks5.UserPass, policy.MethodPassword}, {socks5.NoAuth, policy.MethodNone}} {
		if offered.Offers(m.wire) && slices.Contains(may, m.name) {
			return m.wire, m.name
		}
	}
	return socks5.NoAcceptable, ""
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
	if r.Command != socks5.Connect {
		return request{}, errCommand
	}
	return request{
		facts: policy.Request{Command: "connect"},
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
