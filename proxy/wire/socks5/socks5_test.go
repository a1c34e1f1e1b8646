package socks5

import (
	"bufio"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// smallest is the least buffer that the package promises to do with.
const smallest = 512

func reader(s string) *bufio.Reader { return bufio.NewReaderSize(strings.NewReader(s), smallest) }

// eachWay reads message in one piece, one byte at a time, followed by early
// data that must stay, and cut off at every length, which must never pass.
func eachWay(t *testing.T, message string, read func(*bufio.Reader) error) {
	t.Helper()
	if err := read(reader(message)); err != nil {
		t.Errorf("in one piece: %v", err)
	}
	oneByte := bufio.NewReaderSize(iotest.OneByteReader(strings.NewReader(message)), smallest)
	if err := read(oneByte); err != nil {
		t.Errorf("one byte at a time: %v", err)
	}
	const early = "\x05\x01\x00early data"
	r := reader(message + early)
	if err := read(r); err != nil {
		t.Errorf("with early data: %v", err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != early {
		t.Errorf("early data: got %q, want %q", rest, early)
	}
	for n := range len(message) {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if err := read(reader(message[:n])); !errors.Is(err, want) {
			t.Errorf("cut after %d bytes: got %v, want %v", n, err, want)
		}
	}
	broken := errors.New("broken")
	if err := read(bufio.NewReaderSize(iotest.ErrReader(broken), smallest)); !errors.Is(err, broken) {
		t.Errorf("error of the reader: got %v", err)
	}
}

func TestGreeting(t *testing.T) {
	all := make([]Method, 255)
	for i := range all {
		all[i] = Method(i)
	}
	for _, offered := range [][]Method{
		{}, {NoAuth}, {UserPass, NoAuth}, {GSSAPI, 0x7f, 0x80, 0xfe, NoAcceptable}, {UserPass, UserPass}, all,
	} {
		message := string(AppendGreeting(nil, offered...))
		eachWay(t, message, func(r *bufio.Reader) error {
			g, err := ReadGreeting(r)
			if err != nil {
				return err
			}
			for m := range 256 {
				if want := slices.Contains(offered, Method(m)); g.Offers(Method(m)) != want {
					t.Errorf("greeting %v: Offers(%#02x) = %v", offered, m, !want)
				}
			}
			return nil
		})
	}
	if n := len(AppendGreeting(nil, append(all, 0xff)...)); n != 2+255 {
		t.Errorf("greeting with 256 methods has %d bytes", n)
	}
}

func TestVersions(t *testing.T) {
	for _, version := range []byte{0, 1, 4, 5, 6, 255} {
		v := string([]byte{version})
		five, one := version == Version, version == authVersion
		_, greeting := ReadGreeting(reader(v + "\x01\x00"))
		_, method := ReadMethod(reader(v + "\x00"))
		_, request := ReadRequest(reader(v + "\x01\x00\x01\x01\x02\x03\x04\x00\x50"))
		_, _, reply := ReadReply(reader(v + "\x00\x00\x01\x01\x02\x03\x04\x00\x50"))
		_, credentials := ReadCredentials(reader(v + "\x01u\x01p"))
		_, status := ReadStatus(reader(v + "\x00"))
		for what, got := range map[string]struct {
			err error
			ok  bool
		}{
			"greeting": {greeting, five}, "method": {method, five}, "request": {request, five}, "reply": {reply, five},
			"credentials": {credentials, one}, "status": {status, one},
		} {
			if (got.err == nil) != got.ok || !got.ok && !errors.Is(got.err, ErrVersion) {
				t.Errorf("%s of version %#02x: %v", what, version, got.err)
			}
		}
	}
}

// What cannot be read must not look like consent.
func TestFailuresAreNotConsent(t *testing.T) {
	if m, err := ReadMethod(reader("\x04\x00")); err == nil || m != NoAcceptable {
		t.Errorf("method: %v, %v", m, err)
	}
	if s, err := ReadStatus(reader("\x05\x00")); err == nil || s == 0 {
		t.Errorf("status: %v, %v", s, err)
	}
	for _, message := range []string{"\x04\x00\x00\x01\x00\x00\x00\x00\x00\x00", "\x05\x00\x00\x02", "\x05\x00\x00\x01\x7f"} {
		if r, _, err := ReadReply(reader(message)); err == nil || r == Succeeded {
			t.Errorf("reply %q: %v, %v", message, r, err)
		}
	}
}

func TestCredentials(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, c := range []Credentials{
		{"user", "password"}, {"u", ""}, {"", "p"}, {"", ""}, {long, long}, {long, "p"},
		{"nul\x00inside", "pass\x00word"}, {"\xff\xfe", "\x80"}, {" space ", "trailing "}, {"a:b", "c:d"},
	} {
		message, err := AppendCredentials(nil, c)
		if err != nil {
			t.Fatal(err)
		}
		eachWay(t, string(message), func(r *bufio.Reader) error {
			got, err := ReadCredentials(r)
			if err == nil && got != c {
				t.Errorf("got %q, want %q", got, c)
			}
			return err
		})
	}
	for _, c := range []Credentials{{long + "x", ""}, {"", long + "x"}} {
		if b, err := AppendCredentials([]byte("kept"), c); !errors.Is(err, ErrTooLong) || string(b) != "kept" {
			t.Errorf("too long: %q, %v", b, err)
		}
	}
}

var (
	ipv4   = netip.MustParseAddr("192.0.2.1")
	ipv6   = netip.MustParseAddr("2001:db8::1")
	ipv4in = netip.MustParseAddr("::ffff:192.0.2.1")
)

func TestRequest(t *testing.T) {
	for _, test := range []struct {
		message string
		want    Request
	}{
		{"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb", Request{Connect, Address{IP: ipv4, Port: 443}}},
		{"\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50", Request{Connect, Address{IP: ipv6, Port: 80}}},
		{"\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01\x00\x50", Request{Connect, Address{IP: ipv4in, Port: 80}}},
		{"\x05\x02\x00\x03\x0bexample.com\xff\xff", Request{Bind, Address{Host: "example.com", Port: 65535}}},
		{"\x05\x03\x00\x03\x01\x00\x00\x00", Request{Associate, Address{Host: "\x00"}}},
		{"\x05\x01\x00\x03\x04a\r\nb\x00\x01", Request{Connect, Address{Host: "a\r\nb", Port: 1}}},
		{"\x05\x01\x00\x03\xff" + strings.Repeat("a", 255) + "\x00\x01", Request{Connect, Address{Host: strings.Repeat("a", 255), Port: 1}}},
		{"\x05\x09\x00\x01\xc0\x00\x02\x01\x00\x01", Request{Command(9), Address{IP: ipv4, Port: 1}}},
	} {
		eachWay(t, test.message, func(r *bufio.Reader) error {
			got, err := ReadRequest(r)
			if err == nil && got != test.want {
				t.Errorf("%q: got %v, want %v", test.message, got, test.want)
			}
			return err
		})
		if b, err := AppendRequest(nil, test.want); err != nil || string(b) != test.message {
			t.Errorf("AppendRequest(%v) = %q, %v; want %q", test.want, b, err, test.message)
		}
	}
	reserved := "\x05\x01\xff\x01\xc0\x00\x02\x01\x01\xbb"
	if _, err := ReadRequest(reader(reserved)); err != nil {
		t.Errorf("a reserved byte that is not zero: %v", err)
	}
}

func TestRequestRefused(t *testing.T) {
	for _, test := range []struct {
		message string
		reply   Reply
		err     error
	}{
		{"\x05\x01\x00\x00\xc0\x00\x02\x01\x01\xbb", AddressTypeNotSupported, ErrAddressType},
		{"\x05\x01\x00\x02", AddressTypeNotSupported, ErrAddressType},
		{"\x05\x01\x00\xff", AddressTypeNotSupported, ErrAddressType},
		{"\x05\x09\x00\x05", AddressTypeNotSupported, ErrAddressType},
		{"\x05\x01\x00\x03\x00\x00\x50", GeneralFailure, ErrEmptyName},
		{"\x04\x01\x00\x50\xc0\x00\x02\x01\x00", GeneralFailure, ErrVersion},
	} {
		_, err := ReadRequest(reader(test.message))
		var refused *RequestError
		if !errors.As(err, &refused) || refused.Reply != test.reply || !errors.Is(err, test.err) {
			t.Errorf("%q: %v", test.message, err)
		}
	}
	for _, test := range []struct {
		address Address
		err     error
	}{{Address{Host: strings.Repeat("a", 256)}, ErrTooLong}, {Address{}, ErrEmptyName}} {
		if b, err := AppendRequest([]byte("kept"), Request{Connect, test.address}); !errors.Is(err, test.err) || string(b) != "kept" {
			t.Errorf("AppendRequest(%v) = %q, %v", test.address, b, err)
		}
	}
}

func TestReply(t *testing.T) {
	for _, test := range []struct {
		reply Reply
		bound netip.AddrPort
		want  string
		read  Address
	}{
		{Succeeded, netip.AddrPortFrom(ipv4, 1080), "\x05\x00\x00\x01\xc0\x00\x02\x01\x04\x38", Address{IP: ipv4, Port: 1080}},
		{Succeeded, netip.AddrPortFrom(ipv4in, 1080), "\x05\x00\x00\x01\xc0\x00\x02\x01\x04\x38", Address{IP: ipv4, Port: 1080}},
		{TTLExpired, netip.AddrPortFrom(ipv6, 1), "\x05\x06\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01", Address{IP: ipv6, Port: 1}},
		{NotAllowed, netip.AddrPort{}, "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", Address{IP: netip.IPv4Unspecified()}},
		{CommandNotSupported, netip.AddrPortFrom(netip.Addr{}, 9), "\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00", Address{IP: netip.IPv4Unspecified()}},
	} {
		if b := AppendReply(nil, test.reply, test.bound); string(b) != test.want {
			t.Errorf("AppendReply(%v, %v) = %q, want %q", test.reply, test.bound, b, test.want)
		}
		eachWay(t, test.want, func(r *bufio.Reader) error {
			reply, address, err := ReadReply(r)
			if err == nil && (reply != test.reply || address != test.read) {
				t.Errorf("%q: got %v %v", test.want, reply, address)
			}
			return err
		})
	}
	if reply, address, err := ReadReply(reader("\x05\x00\x00\x03\x04host\x00\x01")); err != nil || reply != Succeeded || address != (Address{Host: "host", Port: 1}) {
		t.Errorf("reply with a name: %v %v %v", reply, address, err)
	}
}

func TestMethodAndStatus(t *testing.T) {
	for b := range 256 {
		eachWay(t, string(AppendMethod(nil, Method(b))), func(r *bufio.Reader) error {
			m, err := ReadMethod(r)
			if err == nil && m != Method(b) {
				t.Errorf("method %#02x: got %#02x", b, m)
			}
			return err
		})
		eachWay(t, string(AppendStatus(nil, byte(b))), func(r *bufio.Reader) error {
			s, err := ReadStatus(r)
			if err == nil && s != byte(b) {
				t.Errorf("status %#02x: got %#02x", b, s)
			}
			return err
		})
	}
}

// The numbers are the RFC's, and each has a name.
func TestCodes(t *testing.T) {
	for code, want := range []string{
		"succeeded", "general failure", "not allowed by ruleset", "network unreachable", "host unreachable",
		"connection refused", "TTL expired", "command not supported", "address type not supported", "reply 0x09",
	} {
		if got := Reply(code).String(); got != want {
			t.Errorf("Reply(%d) = %q, want %q", code, got, want)
		}
	}
	for code, want := range []string{"command 0x00", "connect", "bind", "associate", "command 0x04"} {
		if got := Command(code).String(); got != want {
			t.Errorf("Command(%d) = %q, want %q", code, got, want)
		}
	}
	if NoAuth != 0 || GSSAPI != 1 || UserPass != 2 || NoAcceptable != 255 {
		t.Error("methods have other numbers than RFC 1928 gives them")
	}
}

// A handshake without a name or a password costs no memory of its own.
func TestAllocations(t *testing.T) {
	message := "\x05\x02\x00\x02" + "\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb"
	source := strings.NewReader(message)
	r := bufio.NewReaderSize(source, smallest)
	var out [64]byte
	n := testing.AllocsPerRun(100, func() {
		source.Reset(message)
		r.Reset(source)
		g, err := ReadGreeting(r)
		if err != nil || !g.Offers(NoAuth) {
			t.Fatal(g, err)
		}
		request, err := ReadRequest(r)
		if err != nil || request.Command != Connect {
			t.Fatal(request, err)
		}
		AppendReply(AppendMethod(out[:0], NoAuth), Succeeded, netip.AddrPortFrom(ipv6, 1))
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
