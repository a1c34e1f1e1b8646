package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/proxy/wire/http"
	"sallyport/proxy/wire/socks5"
)

// patience is how long a client waits for anything.
const patience = 10 * time.Second

// endpoint is a proxy as its clients know it.
type endpoint struct {
	scheme         string // socks5, http, tcp (it forwards to the target without being asked) or direct (there is none)
	address        string // host:port
	user, password string
}

func parseEndpoint(text string) (endpoint, error) {
	u, err := url.Parse(text)
	if err != nil {
		return endpoint{}, errors.New("not a URL") // which may have a password in it
	}
	e := endpoint{scheme: strings.TrimSuffix(u.Scheme, "h"), address: u.Host, user: u.User.Username()}
	e.password, _ = u.User.Password()
	switch e.scheme {
	case "socks5", "http", "tcp":
		if _, port, err := net.SplitHostPort(e.address); err != nil || port == "" {
			return endpoint{}, errors.New("want a host and a port")
		}
		return e, nil
	}
	return endpoint{}, fmt.Errorf("there is no scheme %q: want socks5, http or tcp", u.Scheme)
}

// client opens connections to the target.
type client struct {
	through endpoint
	targets []netip.AddrPort
	from    net.IP // on loopback; nil: one of many addresses, for their ports
	turn    atomic.Uint32
}

// open returns a connection to the next target, once the proxy has said that
// there is one.
func (c *client) open() (*net.TCPConn, error) {
	n := int(c.turn.Add(1))
	to := c.targets[n%len(c.targets)]
	address := c.through.address
	if c.through.scheme == "direct" {
		address = to.String()
	}
	ip := c.from
	if ip == nil {
		ip = from(n)
	}
	conn, err := dial(address, ip)
	if err != nil {
		return nil, &dialError{err}
	}
	conn.SetDeadline(time.Now().Add(patience))
	switch c.through.scheme {
	case "socks5":
		_, err = c.ask(conn, socks5.Request{Command: socks5.Connect, Address: socks5.Address{IP: to.Addr(), Port: to.Port()}})
	case "http":
		err = c.askHTTP(conn, to)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// from is one of the addresses of loopback that clients have in turn.
func from(n int) net.IP { return net.IPv4(127, 0, 0, byte(101+n%32)) }

// dialError is that the proxy, or the target where there is none, was not reached.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// dial connects, on loopback from the given address.
func dial(address string, ip net.IP) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: patience, KeepAlive: -1}
	if strings.HasPrefix(address, "127.") {
		d.LocalAddr = &net.TCPAddr{IP: ip}
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) { // the port is chosen when the other end is known
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			})
			return errors.Join(err, failed)
		}
	}
	conn, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// replyError is a reply that is no success.
type replyError socks5.Reply

func (e replyError) Error() string { return fmt.Sprintf("the proxy answers: %v", socks5.Reply(e)) }

// ask has a SOCKS request fulfilled, and returns the address that is told.
func (c *client) ask(conn net.Conn, request socks5.Request) (socks5.Address, error) {
	r := bufio.NewReaderSize(conn, 512)
	method := socks5.NoAuth
	if c.through.user != "" {
		method = socks5.UserPass
	}
	if _, err := conn.Write(socks5.AppendGreeting(nil, method)); err != nil {
		return socks5.Address{}, err
	}
	if chosen, err := socks5.ReadMethod(r); err != nil || chosen != method {
		return socks5.Address{}, fmt.Errorf("the proxy does not take method %#02x: %v", method, err)
	}
	if method == socks5.UserPass {
		message, err := socks5.AppendCredentials(nil, socks5.Credentials{Username: c.through.user, Password: c.through.password})
		if err != nil {
			return socks5.Address{}, err
		}
		if _, err := conn.Write(message); err != nil {
			return socks5.Address{}, err
		}
		if status, err := socks5.ReadStatus(r); err != nil || status != 0 {
			return socks5.Address{}, fmt.Errorf("the proxy refuses the password: status %d, %v", status, err)
		}
	}
	message, err := socks5.AppendRequest(nil, request)
	if err != nil {
		return socks5.Address{}, err
	}
	if _, err := conn.Write(message); err != nil {
		return socks5.Address{}, err
	}
	reply, bound, err := socks5.ReadReply(r)
	if err != nil {
		return socks5.Address{}, err
	}
	if reply != socks5.Succeeded {
		return socks5.Address{}, replyError(reply)
	}
	return bound, nothingMore(r)
}

func (c *client) askHTTP(conn net.Conn, to netip.AddrPort) error {
	r := bufio.NewReaderSize(conn, 512)
	message, err := http.AppendConnect(nil, to.Addr().String(), to.Port(), c.through.user, c.through.password)
	if err != nil {
		return err
	}
	if _, err := conn.Write(message); err != nil {
		return err
	}
	answer, err := http.ReadResponse(r)
	if err != nil {
		return err
	}
	if answer.Status/100 != 2 {
		return fmt.Errorf("the proxy answers: status %d", answer.Status)
	}
	return nothingMore(r)
}

// nothingMore holds that the target, which never speaks first, has said nothing.
func nothingMore(r *bufio.Reader) error {
	if n := r.Buffered(); n > 0 {
		return fmt.Errorf("%d bytes that the target did not send", n)
	}
	return nil
}

// ping has one byte echoed on a fresh connection.
func ping(c net.Conn) error {
	if _, err := c.Write([]byte{echo, 'x'}); err != nil {
		return err
	}
	return echoed(c, 'x')
}

func echoed(c net.Conn, want byte) error {
	var got [1]byte
	if _, err := io.ReadFull(c, got[:]); err != nil {
		return err
	}
	if got[0] != want {
		return fmt.Errorf("%q came back as %q", want, got[0])
	}
	return nil
}
