package socks4

import (
	"bytes"
	"io"
	"testing"
)

// Each fuzzer reads a message from anything, writes what was read, and wants the
// very bytes that reading consumed.

func FuzzRequest(f *testing.F) {
	f.Add([]byte("\x04\x01\x00\x50\xc0\x00\x02\x01alice\x00rest"))
	f.Add([]byte("\x04\x01\x01\xbb\x00\x00\x00\x01bob\x00example.com\x00rest"))
	f.Add([]byte("\x04\x02\x00\x50\x00\x00\x00\x00\x00"))
	f.Add(append([]byte("\x04\x01\x00\x50\x00\x00\x00\x01\x00"), bytes.Repeat([]byte{0xff}, 300)...))
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
		rest, err := io.ReadAll(r)
		if err != nil || !bytes.HasSuffix(data, rest) {
			t.Fatalf("%q left of %q: %v", rest, data, err)
		}
		read := bytes.Clone(data[:len(data)-len(rest)])
		if request.Address.Host != "" {
			read[7] = 1 // any mark means the same
		}
		written, err := AppendRequest(nil, request)
		if err != nil || !bytes.Equal(written, read) {
			t.Fatalf("written %q, read %q: %v", written, read, err)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("\x00\x5a\x01\x02\xc0\x00\x02\x01rest"))
	f.Add([]byte("\x00\x5d\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		reply, bound, err := ReadReply(over(data))
		if err != nil {
			if reply == Granted {
				t.Fatalf("granted beside %v", err)
			}
			return
		}
		if written := AppendReply(nil, reply, bound); !bytes.Equal(written, data[:8]) {
			t.Fatalf("written %q, read %q", written, data[:8])
		}
	})
}
