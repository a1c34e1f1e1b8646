package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

// Messages of SOCKS4.
const (
	granted4  = "\x00\x5a"
	rejected4 = "\x00\x5b\x00\x00\x00\x00\x00\x00"
	notYou4   = "\x00\x5d\x00\x00\x00\x00\x00\x00"
)

// connect4 is a request for an IPv4 address, or else for a name as in 4A.
func connect4(user, host string, port uint16) string {
	head := "\x04\x01" + string(binary.BigEndian.AppendUint16(nil, port))
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
		return head + string(ip.AsSlice()) + user + "\x00"
	}
	return head + "\x00\x00\x00\x07" + user + "\x00" + host + "\x00"
}

func TestSOCKS4Replies(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	dir := t.TempDir()
	policy := write(t, filepath.Join(dir, "authenticate.rego"), `package sallyport.authenticate
default allow := false
allow if input.credentials.username != "mallory"
identity := {"groups": ["found"]} if input.credentials.username == "finn"
`)
	write(t, filepath.Join(dir, "route.rego"), `package sallyport.route
default allow := false
allow if {
	input.identity.method == "none"
	input.session.protocol == "socks4"
	input.request == {"command": "connect", "method": "", "path": "", "headers": {}}
	input.target.port in data.settings.allow_ports
}
labels := {"groups": concat(",", input.identity.groups)}
`)
	s := start(t, "--policy", policy, "--policy", filepath.Join(dir, "route.rego"), "--data", settings(t, loopback, target.port, 1))

	long := strings.Repeat("a", 256)
	for _, c := range []struct{ name, send, want string }{
		{"a policy that knows the user id", connect4("mallory", "127.0.0.1", target.port), notYou4},
		{"denied by route", connect4("ann", "127.0.0.1", 25), rejected4},
		{"denied by dial", connect4("ann", "10.0.0.1", 1), rejected4},
		{"no address of this network", connect4("ann", "0.0.0.0", 1), rejected4},
		{"refused", connect4("ann", "127.0.0.1", 1), rejected4},
		{"a name that is none", connect4("ann", "a b", 1), rejected4},
		{"a name that does not resolve", connect4("ann", "nowhere.invalid", 1), rejected4},
		{"an empty name", connect4("ann", "", target.port), rejected4},
		{"BIND", "\x04\x02" + connect4("ann", "127.0.0.1", target.port)[2:], rejected4},
		{"an unknown command", "\x04\x09" + connect4("ann", "127.0.0.1", target.port)[2:], rejected4},
		{"a user id too long", connect4(long, "127.0.0.1", target.port), rejected4},
		{"a name too long", connect4("ann", long, target.port), rejected4},
		{"a user id without end", "\x04\x01\x00\x50\x7f\x00\x00\x01" + strings.Repeat(long, 400), rejected4},
	} {
		if got := exchange(t, s.addr, c.send); got != c.want {
			t.Errorf("%s: got % x, want % x", c.name, got, c.want)
		}
	}
	if n := target.came.Load(); n != 0 {
		t.Errorf("%d came to the target", n)
	}

	for _, c := range []struct{ user, host string }{
		{"ann", "127.0.0.1"}, {"", "127.0.0.1"}, {"finn", "localhost"}, {long[1:], "127.0.0.1"}, {"\u00fcm\xfcr\n", "127.1"},
	} {
		for _, single := range []bool{false, true} {
			d := dialDoor(t, s.addr)
			send := connect4(c.user, c.host, target.port) + "early"
			if single {
				for i := range send {
					d.say(send[i : i+1])
				}
			} else {
				d.say(send)
			}
			d.hear(granted4)
			io.CopyN(io.Discard, d, 2)
			d.hear("\x7f\x00\x00\x01").hear("early").say("late").hear("late").Close()
		}
	}
	for name, groups := range map[string]string{"ann": "", "finn": "found", long[1:]: "", "\u00fcm\ufffdr\n": ""} {
		r := s.sessionWhere(t, func(r map[string]any) bool { return r["outcome"] == "ok" && r["user.name"] == name })
		labels, _ := r["labels"].(map[string]any)
		if labels["groups"] != groups || r["network.protocol.name"] != "socks4" {
			t.Errorf("%q is recorded as %v", name, r["raw"])
		}
	}
}

// Nobody is held to what others do in his name: claims are counted apart.
func TestSOCKS4ClaimsAreCountedApart(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	policy := write(t, filepath.Join(t.TempDir(), "route.rego"), `package sallyport.route
default allow := false
allow if input.identity.name == "ann"
deny contains "too many" if input.identity.open > 1
`)
	s := start(t, "--policy", policy, "--data", settings(t, loopback, target.port), "--data", usersFile(t, map[string]string{"ann": "right horse"}))
	for range 2 {
		dialDoor(t, s.addr).say(connect4("ann", "127.0.0.1", target.port)).hear(granted4)
	}
	if got := exchange(t, s.addr, connect4("ann", "127.0.0.1", target.port)); got != rejected4 {
		t.Errorf("a third claim is answered by % x", got)
	}
	dialDoor(t, s.addr).say("\x05\x01\x02" + login("ann", "right horse") + connectTo("127.0.0.1", target.port)).hear("\x05\x02\x01\x00\x05\x00")
}

// Each listener speaks what it is told to, and says so to the rest in their own
// protocol.
func TestListenersAreLimitedToProtocols(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	config := write(t, filepath.Join(t.TempDir(), "c.yaml"), `
listeners:
  - {name: all, address: "127.0.0.1:0"}
  - {name: socks5, address: "127.0.0.1:0", protocols: [socks5]}
  - {name: socks4, address: "127.0.0.1:0", protocols: [socks4]}
  - {name: http, address: "127.0.0.1:0", protocols: [http]}
`)
	s := follow(t, program("run", "--config", config, "--management", "127.0.0.1:0", "--data", settings(t, loopback, target.port),
		"--set", "state.path="+filepath.Join(t.TempDir(), "state.db")))
	addresses := map[string]string{}
	for i := range 4 {
		l := s.wait(t, i, "listening")
		addresses[l["listener"].(string)] = l["address"].(string)
	}
	for protocol, c := range map[string]struct{ send, ok, no string }{
		"socks5": {greeting + connectTo("127.0.0.1", target.port), chosen + "\x05\x00", "\x05\xff"},
		"socks4": {connect4("", "127.0.0.1", target.port), granted4, rejected4},
		"http":   {fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", target.port), "HTTP/1.1 200 ", "HTTP/1.1 501 "},
	} {
		for name, address := range addresses {
			if name == "all" || name == protocol {
				dialDoor(t, address).say(c.send).hear(c.ok).Close()
				continue
			}
			got := exchange(t, address, c.send)
			if got != c.no && !(protocol == "http" && strings.HasPrefix(got, c.no) && strings.Contains(got, "the listener does not speak the protocol: http")) {
				t.Errorf("%s is answered by %s with %q", protocol, name, got)
			}
			r := s.sessionWhere(t, func(r map[string]any) bool { return r["listener"] == name && r["network.protocol.name"] == protocol })
			if r["outcome"] != "unsupported" || r["cause"] != "the listener does not speak the protocol: "+protocol {
				t.Errorf("%s at %s is recorded as %v", protocol, name, r["raw"])
			}
		}
	}
	for _, nonsense := range []string{"\x06", "x", "\x16\x03\x01", "\x00"} {
		if got := exchange(t, addresses["all"], nonsense); got != "" {
			t.Errorf("%q is answered by %q", nonsense, got)
		}
	}
}
