package sniff

import (
	"bufio"
	"io"
	"strings"
	"testing"
)

// Every byte is listed by what it is not, so that a new case cannot widen the
// door unseen.
func TestDialect(t *testing.T) {
	for b := range 256 {
		want := Unknown
		switch first := byte(b); first {
		case 0x05:
			want = SOCKS5
		case 0x04:
			want = SOCKS4
		case 0x16:
			want = TLS
		case '\r', 'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M',
			'N', 'O', 'P', 'Q', 'R', 'S', 'T', 'U', 'V', 'W', 'X', 'Y', 'Z':
			want = HTTP
		}
		if got := Dialect(byte(b)); got != want {
			t.Errorf("Dialect(%#02x) = %v, want %v", b, got, want)
		}
	}
}

func TestString(t *testing.T) {
	for protocol, want := range map[Protocol]string{
		Unknown: "unknown", SOCKS5: "socks5", SOCKS4: "socks4", HTTP: "http", TLS: "tls", 200: "unknown",
	} {
		if got := protocol.String(); got != want {
			t.Errorf("Protocol(%d) = %q, want %q", byte(protocol), got, want)
		}
	}
}

func TestAnnounced(t *testing.T) {
	for text, want := range map[string]bool{
		"PROXY UNKNOWN\r\n": true, "PROXY ": true, "\r\n\r\n\x00\r\nQUIT\n\x21": true,
		"": false, "P": false, "PROXY": false, "PROXYING / HTTP/1.1\r\n": false, "POST / HTTP/1.1\r\n": false,
		"\r\nGET / HTTP/1.1\r\n": false, "\r\n\r\n\x00\r\nQUIT": false, "\x05\x01\x00": false,
	} {
		r := bufio.NewReader(strings.NewReader(text))
		if got := Announced(r); got != want {
			t.Errorf("%q: %v", text, got)
		}
		if rest, _ := io.ReadAll(r); string(rest) != text {
			t.Errorf("%q: %q is left", text, rest)
		}
	}
}

// Bytes that come one at a time must not be waited for in vain.
func TestAnnouncedWaitsForNothing(t *testing.T) {
	for _, text := range []string{"\x05", "GE", "PO", "\r\nG", "PROXI"} {
		reader, writer := io.Pipe()
		go writer.Write([]byte(text)) // and no more
		if Announced(bufio.NewReader(reader)) {
			t.Errorf("%q is taken for a header", text)
		}
		reader.Close()
	}
}
