package socks5

import (
	"bufio"
	"bytes"
	"errors"
	"net/netip"
	"testing"
)

func TestReadRequest(t *testing.T) {
	for _, c := range []struct {
		name string
		in   string
		want Request
		err  error
	}{
		{"ipv4", "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", Request{Command: 1, IP: netip.MustParseAddr("127.0.0.1"), Port: 80}, nil},
		{"name", "\x05\x01\x00\x03\x01a\x01\xbb", Request{Command: 1, Host: "a", Port: 443}, nil},
		{"bind is parsed", "\x05\x02\x00\x03\x01a\x01\xbb", Request{Command: 2, Host: "a", Port: 443}, nil},
		{"empty name", "\x05\x01\x00\x03\x00\x01\xbb", Request{}, ErrEmptyName},
		{"address type", "\x05\x01\x00\x09", Request{}, ErrAddressType},
		{"version", "\x04\x01\x00\x01", Request{}, ErrVersion},
	} {
		got, err := ReadRequest(bufio.NewReader(bytes.NewReader([]byte(c.in))))
		if !errors.Is(err, c.err) || (c.err == nil && got != c.want) {
			t.Errorf("%s: got %+v, %v", c.name, got, err)
		}
	}
}

func TestGreetingOffersOnlyWhatWasSent(t *testing.T) {
	g, err := ReadGreeting(bufio.NewReader(bytes.NewReader([]byte{5, 2, 2, 0xff})))
	if err != nil || !g.Offers(UserPass) || !g.Offers(NoAcceptable) || g.Offers(NoAuth) {
		t.Fatal(g, err)
	}
}

func FuzzReaders(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x03\x01a\x01\xbb"))
	f.Add([]byte("\x01\x01a\x01b"))
	f.Fuzz(func(t *testing.T, in []byte) {
		rest := func(read func(*bufio.Reader) error) {
			r := bufio.NewReader(bytes.NewReader(append(bytes.Clone(in), 'E')))
			if read(r) == nil && r.Buffered() == 0 {
				t.Fatal("a message took the byte that follows it")
			}
		}
		rest(func(r *bufio.Reader) error {
			q, err := ReadRequest(r)
			if err == nil && q.IP.IsValid() == (q.Host != "") {
				t.Fatal("not exactly one of name and address", q)
			}
			if err == nil && r.Buffered() == 0 {
				return errors.New("the sentinel belonged to the message")
			}
			return err
		})
	})
}
