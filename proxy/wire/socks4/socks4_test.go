package socks4

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
)

// smallest is the smallest buffer that the package promises to do with.
const smallest = 512

func over(data []byte) *bufio.Reader { return bufio.NewReaderSize(bytes.NewReader(data), smallest) }

func TestReadRequest(t *testing.T) {
	full := strings.Repeat("a", MaxString)
	ip := netip.MustParseAddr
	for _, c := range []struct {
		name, sent string
		want       Request
		rest       string
		err        error
	}{
		{"an address", "\x04\x01\x00\x50\xc0\x00\x02\x01alice\x00rest",
			Request{Connect, Address{IP: ip("192.0.2.1"), Port: 80}, "alice"}, "rest", nil},
		{"nobody", "\x04\x01\x00\x50\xc0\x00\x02\x01\x00", Request{Connect, Address{IP: ip("192.0.2.1"), Port: 80}, ""}, "", nil},
		{"a name", "\x04\x01\x01\xbb\x00\x00\x00\x01bob\x00example.com\x00\x00rest",
			Request{Connect, Address{Host: "example.com", Port: 443}, "bob"}, "\x00rest", nil},
		{"any mark", "\x04\x02\x00\x15\x00\x00\x00\xff\x00a\x00", Request{Bind, Address{Host: "a", Port: 21}, ""}, "", nil},
		// 0.0.0.0 is an address, and no mark of a name: what follows is not of the request.
		{"0.0.0.0", "\x04\x01\x00\x50\x00\x00\x00\x00\x00example.com\x00",
			Request{Connect, Address{IP: ip("0.0.0.0"), Port: 80}, ""}, "example.com\x00", nil},
		{"0.0.1.0", "\x04\x01\x00\x50\x00\x00\x01\x00\x00", Request{Connect, Address{IP: ip("0.0.1.0"), Port: 80}, ""}, "", nil},
		{"another command", "\x04\x09\x00\x50\xc0\x00\x02\x01\x00", Request{9, Address{IP: ip("192.0.2.1"), Port: 80}, ""}, "", nil},
		{"the longest", "\x04\x01\x00\x50\x00\x00\x00\x01" + full + "\x00" + full + "\x00rest",
			Request{Connect, Address{Host: full, Port: 80}, full}, "rest", nil},
		{"a user id too long", "\x04\x01\x00\x50\xc0\x00\x02\x01" + full + "a\x00", Request{}, full + "a\x00", ErrTooLong},
		{"a name too long", "\x04\x01\x00\x50\x00\x00\x00\x01\x00" + full + "a\x00", Request{}, full + "a\x00", ErrTooLong},
		{"a user id without end", "\x04\x01\x00\x50\xc0\x00\x02\x01" + strings.Repeat(full, 99), Request{}, strings.Repeat(full, 99), ErrTooLong},
		{"an empty name", "\x04\x01\x00\x50\x00\x00\x00\x01bob\x00\x00rest", Request{}, "rest", ErrEmptyName},
		{"another version", "\x05\x01\x00\x50\x00\x00\x00\x01\x00", Request{}, "\x00", ErrVersion},
		{"nothing", "", Request{}, "", io.EOF},
		{"a part of the head", "\x04\x01\x00", Request{}, "\x04\x01\x00", io.ErrUnexpectedEOF},
		{"no user id", "\x04\x01\x00\x50\xc0\x00\x02\x01", Request{}, "", io.ErrUnexpectedEOF},
		{"a part of the user id", "\x04\x01\x00\x50\xc0\x00\x02\x01al", Request{}, "al", io.ErrUnexpectedEOF},
		{"no name", "\x04\x01\x00\x50\x00\x00\x00\x01\x00", Request{}, "", io.ErrUnexpectedEOF},
		{"a part of the name", "\x04\x01\x00\x50\x00\x00\x00\x01\x00exa", Request{}, "exa", io.ErrUnexpectedEOF},
	} {
		for way, from := range map[string]io.Reader{
			"at once": strings.NewReader(c.sent), "byte by byte": iotest.OneByteReader(strings.NewReader(c.sent)),
		} {
			r := bufio.NewReaderSize(from, smallest)
			got, err := ReadRequest(r)
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("%s, %s: %v, %v", c.name, way, got, err)
			}
			if rest, _ := io.ReadAll(r); string(rest) != c.rest {
				t.Errorf("%s, %s: %q is left", c.name, way, rest)
			}
		}
	}
}

func TestAppendRequestRefuses(t *testing.T) {
	long := strings.Repeat("a", MaxString+1)
	v4 := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name string
		ask  Request
		want error
	}{
		{"a long user id", Request{Connect, Address{IP: v4}, long}, ErrTooLong},
		{"a long name", Request{Connect, Address{Host: long}, ""}, ErrTooLong},
		{"a NUL in the user id", Request{Connect, Address{IP: v4}, "a\x00b"}, ErrNUL},
		{"a NUL in the name", Request{Connect, Address{Host: "a\x00b"}, ""}, ErrNUL},
		{"neither", Request{Connect, Address{}, ""}, ErrAddress},
		{"IPv6", Request{Connect, Address{IP: netip.MustParseAddr("2001:db8::1")}, ""}, ErrAddress},
		{"the mark of a name", Request{Connect, Address{IP: netip.MustParseAddr("0.0.0.7")}, ""}, ErrAddress},
	} {
		if b, err := AppendRequest([]byte("x"), c.ask); string(b) != "x" || !errors.Is(err, c.want) {
			t.Errorf("%s: %q, %v", c.name, b, err)
		}
	}
}

func TestReplies(t *testing.T) {
	for _, c := range []struct {
		reply Reply
		bound netip.AddrPort
		want  string
	}{
		{Granted, netip.MustParseAddrPort("192.0.2.1:258"), "\x00\x5a\x01\x02\xc0\x00\x02\x01"},
		{Granted, netip.MustParseAddrPort("[::ffff:192.0.2.1]:258"), "\x00\x5a\x01\x02\xc0\x00\x02\x01"},
		{Granted, netip.MustParseAddrPort("[2001:db8::1]:258"), "\x00\x5a\x01\x02\x00\x00\x00\x00"},
		{Rejected, netip.AddrPort{}, "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		{WrongIdent, netip.AddrPort{}, "\x00\x5d\x00\x00\x00\x00\x00\x00"},
	} {
		if got := AppendReply(nil, c.reply, c.bound); string(got) != c.want {
			t.Errorf("%v %v: % x", c.reply, c.bound, got)
		}
	}
	for sent, want := range map[string]error{
		"": io.EOF, "\x00\x5a": io.ErrUnexpectedEOF, "\x04\x5a\x00\x00\x00\x00\x00\x00": ErrVersion,
	} {
		if reply, _, err := ReadReply(over([]byte(sent))); reply != Rejected || !errors.Is(err, want) {
			t.Errorf("% x: %v, %v", sent, reply, err)
		}
	}
}
