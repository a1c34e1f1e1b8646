package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// A name that was denied, that an upstream is to look up, or that was redirected is
// never looked up here, whatever the client speaks and the name servers do: of all
// packets of a network none has it. Names are told from each other by one label, and
// no length of one is a control character that a protocol has.
func TestCaptureHasNoNameThatIsNotLookedUp(t *testing.T) {
	t.Parallel()
	const (
		open     = "here"             // .corp.example is looked up here
		denied   = "refusedname"      // by route
		redirect = "movedname-of-old" // to open
		remote   = "farawayname"      // is the upstream's
		probed   = "probedbyname-of"  // is what upstreams are asked for in probes
		hop      = "gateway-byname"   // is an upstream behind another one
	)
	inside, outside := newNamespace(t), newNamespace(t)
	inside.join(outside, "192.0.2.1", "192.0.2.2")
	const beyond = "192.0.2.2"
	var u *unbound
	var far *process
	var target *echo
	var packets *packetEcho
	var farNames *names
	outside.in(func() {
		target, packets = serveEcho(t, beyond+":0"), servePackets(t, beyond+":0")
		u = serveUnboundAt(t, beyond)
		farNames = serveNames(t, map[string][]string{remote + ".example.": {beyond}, "chained." + remote + ".example.": {beyond}, probed + ".example.": {beyond}, hop + ".example.": {beyond}})
		dir := t.TempDir()
		for _, stage := range []string{"authenticate", "route", "dial"} {
			write(t, filepath.Join(dir, stage+".rego"), "package sallyport."+stage+"\nallow := true\n")
		}
		far = follow(t, program("run", "--listen", beyond+":0", "--management", "127.0.0.1:0", "--set", "state.path="+filepath.Join(dir, "state.db"),
			"--policy", dir, "--set", "dns.servers="+farNames.addr))
	})
	_, farPort, _ := net.SplitHostPort(far.addr)
	_, tlsPort, _ := net.SplitHostPort(u.tls)
	_, httpsPort, _ := net.SplitHostPort(u.https)
	_, packetPort, _ := net.SplitHostPort(packets.at)
	inside.in(func() {
		serveEcho(t, fmt.Sprintf("127.0.0.1:%d", target.port))
		servePackets(t, "127.0.0.1:"+packetPort)
	})
	policy := t.TempDir()
	write(t, filepath.Join(policy, "route.rego"), `package sallyport.route

default allow := false

allow if input.request.command == "associate"

allow if "example" in input.target.suffixes

deny contains "no" if startswith(input.target.host, "`+denied+`")

redirect := {"host": "`+open+`.corp.example"} if startswith(input.target.host, "`+redirect+`")

default via := []

via := [{"any": ["gone", "far"], "by": "order"}] if startswith(input.target.host, "`+remote+`")

else := ["far", "behind"] if startswith(input.target.host, "chained.`+remote+`")

else := ["far"] if {
	input.request.command == "associate"
	data.via
}
`)
	write(t, filepath.Join(policy, "dial.rego"), "package sallyport.dial\n\nallow := true\n")
	seen := inside.capture()
	for _, servers := range []string{
		u.plain, "tcp://" + u.plain, "tls://" + u.tls + "#dns.example", "tls://dns.example:" + tlsPort, "https://dns.example:" + httpsPort,
	} {
		t.Run(servers, func(t *testing.T) {
			config := fmt.Sprintf(`dns: {servers: ['%s'], ca: %s, family: ipv4, cache: {entries: 0}`, servers, u.ca)
			if strings.Contains(servers, "//dns.example") {
				config += ", bootstrap: {dns.example: " + beyond + "}"
			}
			config += fmt.Sprintf(`}
upstreams:
  far: {url: "socks5h://%[1]s", pool: {idle: 2}, probe: {address: "%[2]s.example:%[3]d", interval: 1s, fall: 1}}
  gone: {url: "http://%[4]s:1", pool: {idle: 2}, probe: {address: "%[2]s.example:%[3]d", interval: 1s, fall: 1}}
  behind: {url: "http://%[5]s.example:%[6]s"}
`, far.addr, probed, target.port, beyond, hop, farPort)
			before := len(seen.all(beyond))
			said := len(u.said())
			inside.in(func() {
				for _, via := range []string{"false", "true"} {
					s := start(t, "--config", write(t, filepath.Join(t.TempDir(), "c.yaml"), config), "--policy", policy,
						"--data", write(t, filepath.Join(t.TempDir(), "d.json"), `{"via": `+via+`}`))
					for _, label := range []string{denied, denied + ".corp", redirect, remote, open + ".corp", "chained." + remote} {
						askInEachWay(t, s.addr, label+".example", target.port, !strings.HasPrefix(label, denied))
					}
					a := associate(t, s.addr)
					a.send(denied+".example:"+packetPort, "no").send(denied+".corp.example:"+packetPort, "no")
					if via == "true" {
						a.send(remote+".example:"+packetPort, "far").want("far", packets.at)
					} else {
						a.send(redirect+".example:"+packetPort, "near").hear()
					}
					s.wait(t, 0, "upstream is not healthy") // gone, by a probe
					a.control.Close()
					s.terminate(t)
				}
			})
			found := map[string]bool{}
			for _, p := range seen.all(beyond)[before:] {
				for _, label := range []string{open, denied, redirect, remote, probed, hop, "dns.example"} {
					question := append([]byte{byte(len(label))}, label...)
					if label == "dns.example" {
						question = []byte("\x03dns\x07example")
					}
					if bytes.Contains(p.frame, question) {
						found["asked "+label] = true
					}
					if p.leaves && bytes.Contains(p.frame, []byte(label)) {
						found["told "+label] = true
					}
				}
			}
			plain := !strings.Contains(servers, "s://")
			for what, want := range map[string]bool{
				"asked " + open: plain, "told " + open: plain, // or else the capture sees nothing at all
				"asked " + denied: false, "told " + denied: false,
				"asked " + redirect: false, "told " + redirect: false,
				"asked " + remote: false, "told " + remote: true, // to the upstream, in its own words
				"asked " + probed: false, "told " + probed: true,
				"asked " + hop: false, "told " + hop: true,
				"asked dns.example": false,
			} {
				if found[what] != want {
					t.Errorf("%s: %v, want %v", what, found[what], want)
				}
			}
			asked := strings.ToLower(u.said()[said:])
			for _, label := range []string{denied, redirect, remote, probed, hop, "dns.example"} {
				if strings.Contains(asked, label) {
					t.Errorf("the name server was asked for %s:\n%s", label, asked)
				}
			}
			if !strings.Contains(asked, open+".corp.example. a in") {
				t.Errorf("the name server was not asked for what it is for:\n%s", asked)
			}
		})
	}
	asked := strings.Join(farNames.questions(), " ")
	for _, label := range []string{remote, probed, hop} {
		if !strings.Contains(asked, label) {
			t.Errorf("the upstream has not looked %s up: %s", label, asked)
		}
	}
}

// askInEachWay asks for a host in each way that there is for a tunnel or a request.
func askInEachWay(t *testing.T, door, host string, port uint16, ok bool) {
	t.Helper()
	wants := map[bool][3]string{true: {chosen + "\x05\x00", "\x00\x5a", "HTTP/1.1 200"}, false: {chosen + "\x05\x02", "\x00\x5b", "HTTP/1.1 403"}}[ok]
	dialDoor(t, door).say(greeting + connectTo(host, port)).hear(wants[0]).Close()
	dialDoor(t, door).say("\x04\x01" + string([]byte{byte(port >> 8), byte(port)}) + "\x00\x00\x00\x01me\x00" + host + "\x00").hear(wants[1]).Close()
	dialDoor(t, door).say(fmt.Sprintf("CONNECT %s:%d HTTP/1.1\r\n\r\n", host, port)).hear(wants[2]).Close()
	c := dialDoor(t, door).say(fmt.Sprintf("GET http://%s:%d/ HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host, port, host))
	if !ok {
		c.hear(wants[2]).Close()
		dialDoor(t, door).say(greeting + strings.Replace(connectTo(host, port), "\x05\x01", "\x05\x02", 1)).hear(wants[0]).Close() // BIND
		return
	}
	io.ReadFull(c, make([]byte, 9)) // the echo is no answer of HTTP, which is told
	c.Close()
}
