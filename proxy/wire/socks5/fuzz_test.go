package socks5

import (
	"bufio"
	"bytes"
	"io"
	"net/netip"
	"testing"
)

// Each fuzzer reads a message from anything, writes what was read, and wants
// the very bytes that reading consumed: nothing is lost, added or taken from
// what follows. Where a message has bytes that mean nothing, they are set right
// first.

func consumed(t *testing.T, data []byte, r *bufio.Reader) []byte {
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.HasSuffix(data, rest) {
		t.Fatalf("%q left of %q: %v", rest, data, err)
	}
	return bytes.Clone(data[:len(data)-len(rest)])
}

func equal(t *testing.T, got, want []byte) {
	if !bytes.Equal(got, want) {
		t.Fatalf("written %q, read %q", got, want)
	}
}

func over(data []byte) *bufio.Reader { return bufio.NewReaderSize(bytes.NewReader(data), smallest) }

func FuzzGreeting(f *testing.F) {
	f.Add([]byte("\x05\x02\x00\x02rest"))
	f.Add([]byte("\x05\x00"))
	f.Add([]byte("\x05\xff\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := over(data)
		g, err := ReadGreeting(r)
		if err != nil {
			return
		}
		read := consumed(t, data, r)
		for m := range 256 {
			if g.Offers(Method(m)) != bytes.Contains(read[2:], []byte{byte(m)}) {
				t.Fatalf("Offers(%#02x) = %v after %q", m, g.Offers(Method(m)), read)
			}
		}
	})
}

func FuzzCredentials(f *testing.F) {
	f.Add([]byte("\x01\x04user\x04passrest"))
	f.Add([]byte("\x01\x00\x00"))
	f.Add(append([]byte("\x01\xff"), bytes.Repeat([]byte{0xff}, 511)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := over(data)
		c, err := ReadCredentials(r)
		if err != nil {
			return
		}
		written, err := AppendCredentials(nil, c)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, written, consumed(t, data, r))
	})
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbbrest"))
	f.Add([]byte("\x05\x02\x07\x03\x0bexample.com\x01\xbb"))
	f.Add([]byte("\x05\xff\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01\x00\x50"))
	f.Add([]byte("\x05\x01\x00\x03\x00\x00\x50"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := over(data)
		request, err := ReadRequest(r)
		if err != nil {
			if request != (Request{}) {
				t.Fatalf("%v beside %v", request, err)
			}
			return
		}
		if (request.Address.Host != "") == request.Address.IP.IsValid() {
			t.Fatalf("both or neither of name and IP: %v", request)
		}
		read := consumed(t, data, r)
		read[2] = 0 // reserved
		written, err := AppendRequest(nil, request)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, written, read)
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("\x05\x00\x00\x01\xc0\x00\x02\x01\x01\xbbrest"))
	f.Add([]byte("\x05\x05\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50"))
	f.Add([]byte("\x05\x01\x00\x03\x01x\x00\x50"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := over(data)
		reply, address, err := ReadReply(r)
		if err != nil {
			if reply == Succeeded {
				t.Fatalf("success beside %v", err)
			}
			return
		}
		read := consumed(t, data, r)
		if address.Host != "" || address.IP.Is4In6() {
			return // never written by this side
		}
		read[2] = 0 // reserved
		equal(t, AppendReply(nil, reply, netip.AddrPortFrom(address.IP, address.Port)), read)
	})
}

func FuzzMethodAndStatus(f *testing.F) {
	f.Add([]byte("\x05\xff"))
	f.Add([]byte("\x01\x01rest"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := over(data)
		if m, err := ReadMethod(r); err == nil {
			equal(t, AppendMethod(nil, m), consumed(t, data, r))
		}
		r = over(data)
		if s, err := ReadStatus(r); err == nil {
			equal(t, AppendStatus(nil, s), consumed(t, data, r))
		}
	})
}

func FuzzDatagram(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35query"))
	f.Add([]byte("\x00\x00\x80\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x35"))
	f.Add([]byte("\xff\xff\x00\x03\x0bexample.com\x00\x35query"))
	f.Add([]byte("\x00\x00\x00\x03\x00\x00\x35"))
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x35"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ParseDatagram(data)
		if err != nil {
			return
		}
		if (len(d.Name) > 0) == d.IP.IsValid() {
			t.Fatalf("both or neither of name and IP: %v", d)
		}
		written, err := AppendDatagram(nil, d)
		if err != nil {
			t.Fatal(err)
		}
		read := bytes.Clone(data)
		read[0], read[1] = 0, 0 // reserved
		equal(t, written, read)
		if d.Fragment != 0 || len(d.Name) > 0 || d.IP.Is4In6() {
			return // never written by a relay
		}
		header := AppendDatagramHeader(nil, netip.AddrPortFrom(d.IP, d.Port))
		if len(header) > MaxReplyHeader {
			t.Fatalf("a header of %d bytes", len(header))
		}
		equal(t, append(header, d.Data...), read)
	})
}
