package sniff

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// hello is the ClientHello that crypto/tls sends.
func hello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() { tls.Client(client, c).Handshake(); client.Close() }()
	server.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 5)
	if _, err := io.ReadFull(server, b); err != nil {
		t.Fatal(err)
	}
	b = append(b, make([]byte, int(b[3])<<8|int(b[4]))...)
	if _, err := io.ReadFull(server, b[5:]); err != nil {
		t.Fatal(err)
	}
	return b
}

// split writes a handshake record as records of so many bytes.
func split(record []byte, size int) (out []byte) {
	for part := range slices.Chunk(record[5:], size) {
		out = append(out, 22, 3, 1, byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
	}
	return out
}

func TestInspectTLS(t *testing.T) {
	record := hello(t, &tls.Config{ServerName: "Www.Example.COM", NextProtos: []string{"h2", "http/1.1"}})
	for _, b := range [][]byte{record, split(record, 1), split(record, 100), append(slices.Clone(record), "more"...)} {
		f, more := Inspect(b)
		if f.Protocol != "tls" || f.ServerName != "www.example.com" || !slices.Equal(f.ALPN, []string{"h2", "http/1.1"}) || more {
			t.Errorf("%+v, %v", f, more)
		}
	}
	for n := 2; n < len(record); n++ { // never a name of half a message, and more to come
		if f, more := Inspect(record[:n]); f.Protocol != "tls" || f.ServerName != "" || !more {
			t.Fatalf("%d bytes: %+v, %v", n, f, more)
		}
	}
	if f, more := Inspect(hello(t, &tls.Config{InsecureSkipVerify: true})); f.Protocol != "tls" || f.ServerName != "" || more {
		t.Errorf("without a name: %+v, %v", f, more)
	}
	// Two names, or a list that goes on, might be read in another way elsewhere.
	twice := bytes.Replace(record, []byte("\x00\x00\x00\x14\x00\x12\x00\x00\x0f"), []byte("\x00\x00\x00\x14\x00\x12\x01\x00\x0f"), 1)
	if f, _ := Inspect(twice); f.ServerName != "" {
		t.Errorf("another kind of name: %+v", f)
	}
	if f, _ := Inspect(bytes.Replace(record, []byte("Www.Example.COM"), []byte("Www\x00Example.COM"), 1)); f.ServerName != "" {
		t.Errorf("a name with a NUL: %+v", f)
	}
}

func TestInspect(t *testing.T) {
	for _, c := range []struct {
		text, protocol, host string
		more                 bool
	}{
		{"", "none", "", true},
		{"S", "unknown", "", true}, {"SSH", "unknown", "", true}, {"SSH-", "ssh", "", false}, {"SSH-2.0-x\r\n", "ssh", "", false},
		{"\x16", "unknown", "", true}, {"\x16\x02\x00\x00\x00", "unknown", "", false}, {"\x16\x03\x01\x00\x00", "tls", "", false},
		{"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "tls", "", false}, {"\x16\x03\x01\xff\xff\x01", "tls", "", false},
		{"G", "unknown", "", true}, {"GET / HT", "unknown", "", true}, {"GET / HTTP/1.1\r\n", "http", "", true},
		{"GET / HTTP/1.1\r\nHost: A.example:80\r\n", "http", "", true},
		{"GET / HTTP/1.1\r\nHost: A.example.:80\r\n\r\n", "http", "a.example", false},
		{"GET / HTTP/1.1\nHost:a\n\n", "http", "a", false},
		{"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "http", "", false},
		{"GET / HTTP/1.1\r\nHost: a\r\n Host: b\r\n\r\n", "http", "", false},
		{"GET / HTTP/1.1\r\nX: y\rHost: b\r\nHost: a\r\n\r\n", "http", "", false},
		{"GET / HTTP/1.1\r\nX: y\x00\r\nHost: a\r\n\r\n", "http", "", false},
		{"GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n", "unknown", "", false},
		{"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "http", "", false},
		{"GET http://u:p@b:80/x HTTP/1.1\r\nHost: a\r\n\r\n", "http", "b", false},
		{"GET http://b?c@a HTTP/1.1\r\nHost: a\r\n\r\n", "http", "b", false},
		{"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "http", "::1", false},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http", "", false},
		{"EHLO a\r\n", "unknown", "", false}, {"\x00", "unknown", "", false}, {"a b c\r\n", "unknown", "", false},
		{strings.Repeat("A", MaxFlow), "unknown", "", false},
		{"GET / HTTP/1.1\r\nA: " + strings.Repeat("a", MaxFlow), "http", "", false},
	} {
		if f, more := Inspect([]byte(c.text)); f.Protocol != c.protocol || f.Host != c.host || more != c.more {
			t.Errorf("%.40q: %+v, %v", c.text, f, more)
		}
	}
}

// A look at bytes that come one at a time sees what one at all of them does, as soon
// as they are there, and takes no more memory for having been asked so often.
func TestLookBitByBit(t *testing.T) {
	long := append([]byte{1, 0, 0x3f, 0xf0}, make([]byte, MaxFlow)...) // a ClientHello that does not end in time
	for name, b := range map[string][]byte{
		"a record":           hello(t, &tls.Config{ServerName: "a.example", NextProtos: []string{"h2"}}),
		"records of a byte":  split(hello(t, &tls.Config{ServerName: "a.example"}), 1),
		"one long record":    append([]byte{22, 3, 1, 0x40, 0}, long...)[:MaxFlow],
		"many short records": split(append(make([]byte, 5), long...), 1)[:MaxFlow],
		"a head":             []byte("GET http://b/ HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"),
		"many short lines":   []byte("GET / HTTP/1.1\n" + strings.Repeat("a:\n", MaxFlow))[:MaxFlow],
		"one long line":      []byte("GET / HTTP/1.1\nA: " + strings.Repeat("a", MaxFlow))[:MaxFlow],
		"a long first line":  []byte("GET /" + strings.Repeat("a", MaxFlow))[:MaxFlow],
	} {
		var look Look
		for n := range len(b) + 1 {
			f, more := look.At(b[:n])
			if len(b) == MaxFlow && n < MaxFlow-3 && n%509 > 0 { // to look at all of so much each time takes long
				continue
			}
			if want, wantMore := Inspect(b[:n]); !reflect.DeepEqual(f, want) || more != wantMore {
				t.Fatalf("%s: %d bytes: %+v, %v, want %+v, %v", name, n, f, more, want, wantMore)
			}
			if !more {
				break
			}
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		look = Look{}
		for n := 1; n <= len(b); n++ {
			if _, more := look.At(b[:n]); !more {
				break
			}
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 16*MaxFlow {
			t.Errorf("%s: it takes %d bytes of memory to look at %d", name, took, len(b))
		}
	}
}

// FuzzInspect: more bytes change neither a protocol that is told nor what was
// said when no more were wanted, no name is what a log could not hold, and it does
// not matter how many come at a time.
func FuzzInspect(f *testing.F) {
	f.Add(hello(f, &tls.Config{ServerName: "a.example", NextProtos: []string{"h2"}}), 7)
	f.Add([]byte("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n"), 3)
	f.Add([]byte("SSH-2.0-x\r\n"), 4)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		whole, _ := Inspect(b)
		for _, name := range append([]string{whole.ServerName, whole.Host}, whole.ALPN...) {
			if name != "" && !printable(name) {
				t.Errorf("%q", name)
			}
		}
		if n < 0 || n > len(b) {
			return
		}
		var look Look
		for i, more := n, n > 0; more && i <= min(len(b), 512); i += n { // of more, each would take long
			var f, want Flow
			f, more = look.At(b[:i])
			if want, _ = Inspect(b[:i]); !reflect.DeepEqual(f, want) {
				t.Fatalf("%q at %d is %v, %d bytes at a time %v", b, i, want, n, f)
			}
		}
		part, more := Inspect(b[:n])
		known := part.Protocol != "unknown" && part.Protocol != "none"
		if known && part.Protocol != whole.Protocol {
			t.Errorf("%q is %v, then %v", b, part, whole)
		}
		if !more && (part.ServerName != whole.ServerName || part.Host != whole.Host || !slices.Equal(part.ALPN, whole.ALPN)) {
			t.Errorf("%q at %d is %v, then %v", b, n, part, whole)
		}
	})
}
