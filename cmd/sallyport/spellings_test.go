package main

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// spellings_test.go writes addresses in every way that somebody reads, and has names
// lead to them.

// spellings are ways to write an IPv4 address, or to hide it in another.
func spellings(address string) []string {
	b := netip.MustParseAddr(address).As4()
	n := binary.BigEndian.Uint32(b[:])
	low, mid := n&0xffff, n&0xffffff
	h := hex.EncodeToString(b[:])
	v6 := h[:4] + ":" + h[4:]
	inverse := hex.EncodeToString([]byte{^b[0], ^b[1], ^b[2], ^b[3]})
	full := strings.Map(func(r rune) rune {
		switch {
		case r == '.':
			return '\uff0e'
		case '0' <= r && r <= '9':
			return r - '0' + '\uff10'
		}
		return r
	}, address)
	list := []string{
		address, address + ".", address + "..", "." + address, full, strings.ReplaceAll(full, "\uff0e", "."),
		strings.ReplaceAll(address, ".", "\u3002"), strings.ReplaceAll(address, ".", "\uff61"),
		strings.ReplaceAll(address, "1", "\u2460"), strings.ReplaceAll(address, "1", "\u00b9"),
		strings.ReplaceAll(address, "1", "\U0001d7cf"), strings.ReplaceAll(address, "1", "\u0661"),
		fmt.Sprint(n), fmt.Sprintf("%d.", n), fmt.Sprintf("0x%x", n), fmt.Sprintf("0X%X", n), fmt.Sprintf("0%o", n),
		fmt.Sprintf("0x%08x", n), fmt.Sprintf("0x00000000%x", n), fmt.Sprintf("0000%o", n), fmt.Sprint(uint64(n) + 1<<32),
		fmt.Sprintf("%d.%d", b[0], mid), fmt.Sprintf("%d.%d.%d", b[0], b[1], low), fmt.Sprintf("0x%x.%d", b[0], mid),
		fmt.Sprintf("0x%x.0x%x.0x%x.0x%x", b[0], b[1], b[2], b[3]), fmt.Sprintf("0%o.0%o.0%o.0%o", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("0%o.%d.0x%x.%d", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("0x%x.0%o.%d", b[0], b[1], low), fmt.Sprintf("%d.%d.%d.%d.", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("%d.%d.%d.%d", int(b[0])+256, b[1], b[2], b[3]), address + ".0", "0." + address,
		"[" + address + "]", address + "%00", address + "%lo", address + "\x00", address + "\x00.example.com", address + " ", " " + address,
		address + "\t", address + "\n", address + "\r\n", address + "/", address + "#", address + "?", address + "\\", "a@" + address,
		address + "/32", address + ":80", "%" + hex.EncodeToString([]byte(address[:1])) + address[1:],
		strings.Replace(address, ".", "\u00ad.", 1), strings.Replace(address, ".", "\u200b.", 1), strings.Replace(address, ".", "%2e", 1),
		"::ffff:" + address, "::ffff:" + v6, "::FFFF:" + strings.ToUpper(v6), "0:0:0:0:0:ffff:" + v6, "[::ffff:" + address + "]",
		"0000:0000:0000:0000:0000:ffff:" + v6, "::ffff:" + address + "%lo", "[::ffff:" + address + "%25lo]", "::ffff:0x7f.1",
		"::" + address, "::" + v6, "::ffff:0:" + address, "64:ff9b::" + address, "64:ff9b::" + v6, "64:ff9b:1::" + address,
		"64:ff9b:1:" + h[:4] + ":" + h[4:6] + ":" + h[6:] + "00::", "2002:" + v6 + "::", "2002:" + v6 + "::1",
		"2001:0:" + v6 + "::1", "2001:0:4136:e378:8000:63bf:" + inverse[:4] + ":" + inverse[4:],
		"fe80::5efe:" + address, "::ffff:0:0", "[64:ff9b::" + address + "]",
	}
	return list
}

// insiders are all manner of ways to name what is not public.
func insiders() []string {
	var hosts []string
	for _, address := range []string{
		"127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.1.1", "192.168.1.1", "169.254.1.1",
		"169.254.169.254", "100.64.1.1", "100.100.100.200", "198.18.1.1", "192.0.0.1", "240.0.0.1", "224.0.0.1", "255.255.255.255",
	} {
		hosts = append(hosts, spellings(address)...)
	}
	hosts = append(hosts, "::1", "[::1]", "0:0:0:0:0:0:0:1", "::1%lo", "[::1%25lo]", "::01", "::0.0.0.1", "::", "[::]", "::%lo",
		"fe80::1", "fe80::1%eth0", "fe80::1%25eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "100::1", "2001:db8::1", "4000::1",
		"5f00::1", "2001:2::1", "3fff::1", "2001:10::1", "2001:20::1",
		"127.1", "127.0.1", "0x7f.1", "0177.1", "017700000001", "0x7f000001", "0", "0x0", "0.0", "00", "1", "127.0.0.0x1", "127.0.0.01", "127.000.000.001",
		"localhost", "LOCALHOST", "localhost.", "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54", "LocalHost.",
		"localhost.localdomain", "ip6-localhost", "ip6-loopback", "foo.localhost", "a.example.", "metadata.google.internal",
		"127.0.0.1.nip.io", "lvh.me", "xn--", "-", "_", "a..b", "*", "%", "\x00", "local\x00host", "localhost\r\nHost: a", "0x", "0x.1", "0x7f.0x")
	return hosts
}

// The canary sings when anyone gets through, to whichever address of this
// machine, under the default policy.
func TestNoSpellingReachesLoopback(t *testing.T) {
	t.Parallel()
	canary := serveEcho(t, ":0") // every address of this machine
	names := serveNames(t, map[string][]string{"*": {"127.0.0.1", "::1", "10.0.0.1", "169.254.169.254"}})
	s := start(t, "--data", settings(t, nil, canary.port), "--set", "dns.servers="+names.addr)

	hosts := insiders()
	ask := func(send string) string {
		d := dialDoor(t, s.addr)
		defer d.Close()
		io.WriteString(d, send)
		answer := make([]byte, 64)
		n, _ := io.ReadAtLeast(d, answer, 8)
		return string(answer[:n])
	}
	tried := 0
	for _, host := range hosts {
		if len(host) < 256 {
			tried++
			if got := ask(greeting + connectToName(host, canary.port)); got != chosen+replied(2) && got != chosen+replied(1) {
				t.Errorf("by name %q: % x", host, got)
			}
		}
		if ip, err := netip.ParseAddr(host); err == nil {
			tried++
			if got := ask(greeting + connectTo(ip.WithZone("").String(), canary.port)); got != chosen+replied(2) {
				t.Errorf("by address %s: % x", host, got)
			}
		}
		if len(host) < 256 {
			tried++
			if got := ask(connect4("", host, canary.port)); got[:min(len(got), 2)] != rejected4[:2] {
				t.Errorf("by SOCKS4 %q: % x", host, got)
			}
		}
		for _, authority := range []string{host, "[" + host + "]"} {
			tried++
			if got := ask(fmt.Sprintf("CONNECT %s:%d HTTP/1.1\r\n\r\n", authority, canary.port)); !strings.HasPrefix(got, "HTTP/1.1 403") && !strings.HasPrefix(got, "HTTP/1.1 400") {
				t.Errorf("by CONNECT %q: %q", authority, got)
			}
			tried++
			if got := ask(fmt.Sprintf("GET http://%s:%d/ HTTP/1.1\r\nHost: public.example\r\n\r\n", authority, canary.port)); !strings.HasPrefix(got, "HTTP/1.1 403") && !strings.HasPrefix(got, "HTTP/1.1 400") {
				t.Errorf("by GET %q: %q", authority, got)
			}
		}
	}
	if n := canary.came.Load(); n != 0 {
		t.Errorf("of %d tries %d came through", tried, n)
	}
	// What looks like a number never reaches a name server as a name.
	for _, name := range names.questions() {
		if label := strings.TrimSuffix(name, "."); strings.Trim(label[strings.LastIndexByte(label, '.')+1:], "0123456789xabcdef") == "" {
			t.Errorf("%q was looked up", name)
		}
	}
}

// Which addresses are public is the other half of it. Nothing is dialled: the
// policy refuses each with its scope for a reason.
func TestPublicAddressesArePublic(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	policy := write(t, filepath.Join(dir, "dial.rego"), `package sallyport.dial
default allow := false
explain := true
deny contains input.address.scope
`)
	s := start(t, "--policy", policy)
	for _, host := range []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.1", "93.184.216.34", "100.63.255.255", "100.128.0.1", "126.255.255.255", "128.0.0.1",
		"169.253.255.255", "169.255.0.1", "172.15.255.255", "172.32.0.1", "192.0.1.1", "192.167.255.255", "192.169.0.1", "198.17.255.255",
		"198.20.0.1", "223.255.255.255", "0x5db8d822", "1572395042", "93.12113954", "1.1", "\uff11.1.1.1", "::ffff:8.8.8.8",
		"2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "2001:200::1", "2400::1",
	} {
		port := fmt.Sprintf("[%s]:443", host)
		if !strings.Contains(host, ":") {
			port = host + ":443"
		}
		if got := exchange(t, s.addr, "CONNECT "+port+" HTTP/1.1\r\n\r\n"); !strings.Contains(got, `"reasons":["public"]`) {
			t.Errorf("%s: %q", host, got)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	known := map[string][]string{
		"private.example.": {"10.0.0.1"}, "mapped.example.": {"::ffff:10.0.0.1"}, "alias.example.": {"inside.example.", "192.168.0.1"},
		"nat64.example.": {"64:ff9b::7f00:1"}, "here.example.": {"127.0.0.1"}, "mixed.example.": {"10.0.0.1", "127.0.0.1", "169.254.169.254"},
		"both.example.": {"::1", "127.0.0.1"}, "nothing.example.": {}, "under_score.example.": {"127.0.0.1"},
		"xn--bcher-kva.example.": {"127.0.0.1"}, "denied.example.": {"127.0.0.1"},
	}
	server := serveNames(t, known)
	s := start(t, "--data", settings(t, loopback, target.port), "--set", "dns.servers="+server.addr)
	for _, c := range []struct {
		host   string
		reply  byte
		status int
		error  string
	}{
		{"private.example", 2, 403, "destination_ip_prohibited"},
		{"mapped.example", 2, 403, "destination_ip_prohibited"},
		{"alias.example", 2, 403, "destination_ip_prohibited"},
		{"nat64.example", 2, 403, "destination_ip_prohibited"},
		{"unknown.example", 4, 502, "dns_error"},
		{"nothing.example", 4, 502, "dns_error"},
		{"here.example", 0, 200, ""},
		{"HERE.Example.", 0, 200, ""},
		{"mixed.example", 0, 200, ""},
		{"both.example", 0, 200, ""}, // nothing listens on ::1 at this port
		{"under_score.example", 0, 200, ""},
		{"b\u00fccher.example", 0, 200, ""},
	} {
		d := dialDoor(t, s.addr).say(greeting + connectTo(c.host, target.port)).hear(chosen)
		head := make([]byte, 4)
		if _, err := io.ReadFull(d, head); err != nil || head[1] != c.reply {
			t.Errorf("%s: reply % x, %v", c.host, head, err)
		}
		d.Close()
		d = dialDoor(t, s.addr).say(fmt.Sprintf("CONNECT %s:%d HTTP/1.1\r\n\r\n", c.host, target.port))
		d.CloseWrite()
		if got, err := d.rest(); !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(got, c.error) {
			t.Errorf("%s: %q, %v", c.host, got, err)
		}
	}
	if got := exchange(t, s.addr, greeting+connectTo("denied.example", 25)); got != chosen+replied(2) {
		t.Errorf("a denied name is answered by % x", got)
	}
	if slices.Contains(server.questions(), "denied.example.") {
		t.Error("a denied name was looked up")
	}

	// A name server that is silent.
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s = start(t, "--set", "dns.servers="+silent.LocalAddr().String(), "--set", "limits.dial=200ms")
	if got := exchange(t, s.addr, greeting+connectTo("here.example", 80)); got != chosen+replied(4) {
		t.Errorf("with a silent name server the answer is % x", got)
	}
	if got := exchange(t, s.addr, "CONNECT here.example:80 HTTP/1.1\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 504 ") || !strings.Contains(got, "error=dns_timeout") {
		t.Errorf("with a silent name server the answer is %q", got)
	}

	// One family is refused: the other is tried, whichever it is.
	six, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("there is no IPv6 on loopback")
	}
	six.Close()
	only6 := serveEcho(t, "[::1]:0")
	s = start(t, "--data", settings(t, loopback, only6.port), "--set", "dns.servers="+server.addr)
	dialDoor(t, s.addr).say(greeting + connectTo("both.example", only6.port)).hear(chosen + "\x05\x00\x00\x04").Close()
	s = start(t, "--data", settings(t, []string{"127.0.0.0/8"}, only6.port), "--set", "dns.servers="+server.addr)
	if got := exchange(t, s.addr, greeting+connectTo("both.example", only6.port)); got != chosen+replied(5) {
		t.Errorf("with ::1 denied the answer is % x", got)
	}
	if n := only6.came.Load(); n != 1 {
		t.Errorf("%d came by ::1", n)
	}
}
