package sniff

import "testing"

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
