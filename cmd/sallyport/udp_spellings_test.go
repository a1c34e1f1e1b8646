package main

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
)

// No spelling leads a datagram to where the default policy lets none go, either; and
// where it does, it goes on.
func TestNoSpellingLeadsDatagramsToLoopback(t *testing.T) {
	t.Parallel()
	canary := servePackets(t, ":0") // every address of this machine
	port := canary.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	names := serveNames(t, map[string][]string{"*": {"127.0.0.1", "::1", "10.0.0.1", "169.254.169.254"}})
	s := start(t, "--policy", udpPolicy(t, ""), "--data", noneDenied(t), "--data", settings(t, []string{"127.0.0.7/32"}), "--set", "dns.servers="+names.addr)
	to := func(kind byte, host string) []byte {
		head := []byte{0, 0, 0, kind}
		if kind == 3 {
			head = append(head, byte(len(host)))
		}
		return append(binary.BigEndian.AppendUint16(append(head, host...), port), "in"...)
	}
	marker := servePackets(t, "127.0.0.7:0").at
	a := associate(t, s.addr)
	tried := 0
	for i, host := range append(insiders(), "last.example") {
		if len(host) < 256 {
			tried++
			a.sendRaw(to(3, host))
		}
		if ip, err := netip.ParseAddr(host); err == nil {
			kind := byte(1)
			if ip.Is6() {
				kind = 4
			}
			tried++
			a.sendRaw(to(kind, string(ip.AsSlice())))
		}
		if i%8 == 0 { // so that none is lost because there are many
			a.send(marker, "marker").want("marker", marker)
		}
	}
	// The names were looked up, and one that was lost on the way is once more.
	for range 1000 {
		a.send(marker, "marker").want("marker", marker)
		if slices.Contains(names.questions(), "lvh.me.") {
			break
		}
		a.sendRaw(to(3, "lvh.me"))
	}
	a.control.Close()
	s.wait(t, 0, "session")
	if n := len(canary.came); n > 0 {
		t.Errorf("of %d tries %d came through", tried, n)
	}
	if !slices.Contains(names.questions(), "lvh.me.") {
		t.Errorf("names were not looked up: %q", names.questions())
	}
}
