package main

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// udpVia allows associations and datagrams, by the way that data.via is.
const udpVia = "\ndefault via := []\n\nvia := data.via if input.request.command == \"associate\"\n\nresolve := data.resolve if input.request.command == \"datagram\"\n"

// startUDPVia runs a proxy whose datagrams go through upstreams. The file is its
// data, which has denied ports too.
func startUDPVia(t *testing.T, config, data string, more ...string) (s *process, file string) {
	t.Helper()
	dir := t.TempDir()
	file = write(t, filepath.Join(dir, "data.json"), data)
	return start(t, append([]string{
		"--config", write(t, filepath.Join(dir, "c.yaml"), config), "--policy", udpPolicy(t, udpVia), "--policy", dialPolicy(t), "--data", file,
	}, more...)...), file
}

// Datagrams go through a SOCKS5 server of another make, and through sallyport, and
// are told of as the direct ones are.
func TestDatagramsThroughUpstreams(t *testing.T) {
	t.Parallel()
	dante := startDante(t)
	far := openRelay(t, "--set", "dns.servers="+serveNames(t, map[string][]string{"echo.example.": {"127.0.0.1"}}).addr)
	good, bad := servePackets(t, "127.0.0.1:0"), servePackets(t, "127.0.0.1:0")
	_, badPort, _ := net.SplitHostPort(bad.at)
	config := upstreamsFile(map[string]string{"dante": "socks5://" + dante.addr, "far": "socks5h://" + far.addr})
	for _, name := range []string{"dante", "far"} {
		s, _ := startUDPVia(t, config, fmt.Sprintf(`{"denied": [%s], "via": [%q]}`, badPort, name))
		a := associate(t, s.addr)
		a.send(good.at, "one").want("one", good.at)
		direct := netip.MustParseAddrPort(a.LocalAddr().String())
		if by := (<-good.came).from; by.Port() == direct.Port() {
			t.Errorf("%s: the target is sent to by the client itself", name)
		}
		a.send(bad.at, "no").send(good.at, strings.Repeat("x", 1300)).want(strings.Repeat("x", 1300), good.at)
		a.send(good.at, "").want("", good.at)
		bad.nothing(t)
		<-good.came
		<-good.came
		for i := range 20 { // of one size, which go in one piece as far as they can
			a.send(good.at, fmt.Sprintf("burst %02d", i))
		}
		missing := map[string]bool{}
		for i := range 20 {
			missing[fmt.Sprintf("burst %02d", i)] = true
		}
		for range 20 {
			data, from := a.hear()
			if !missing[data] || from.String() != good.at {
				t.Errorf("%s: %q comes from %s", name, data, from)
			}
			delete(missing, data)
		}
		a.control.Close()
		r := s.wait(t, 0, "session")
		if fmt.Sprint(r["via"]) != "["+name+"]" || r["outcome"] != "ok" || r["bytes.up"] != 1463.0 || r["bytes.down"] != 1463.0 {
			t.Errorf("the record says %v", r)
		}
		s.terminate(t)
	}
	if r := far.wait(t, 0, "session"); r["outcome"] != "ok" || r["cause"] != "finished" {
		t.Errorf("the association at the upstream ends as %v", r)
	}
}

// A name goes with the datagrams to the upstream, or it is looked up here and dial
// is asked.
func TestWhoLooksNamesOfDatagramsUp(t *testing.T) {
	t.Parallel()
	known := map[string][]string{"echo.example.": {"127.0.0.1"}, "beyond.example.": {"127.0.0.1"}}
	there, here := serveNames(t, known), serveNames(t, map[string][]string{"echo.example.": {"127.0.0.1"}, "public.example.": {"192.0.2.1"}})
	far := openRelay(t, "--set", "dns.servers="+there.addr)
	target := servePackets(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(target.at)
	config := upstreamsFile(map[string]string{"far": "socks5://" + far.addr})

	s, _ := startUDPVia(t, config, `{"denied": [], "via": ["far"]}`, "--set", "dns.servers="+here.addr)
	a := associate(t, s.addr)
	a.send("echo.example:"+port, "remote").want("remote", target.at)
	a.send("Beyond.Example:"+port, "remote too").want("remote too", target.at)
	if n := len(here.questions()); n != 0 {
		t.Errorf("a name that is the upstream's was looked up here: %v", here.questions())
	}
	if n := len(there.questions()); n == 0 {
		t.Error("it was not looked up there")
	}

	before := len(there.questions())
	s, _ = startUDPVia(t, config, `{"denied": [], "via": ["far"], "resolve": "local"}`, "--set", "dns.servers="+here.addr)
	a = associate(t, s.addr)
	a.send("public.example:"+port, "denied").send("echo.example:"+port, "local").want("local", target.at)
	if n := len(there.questions()); n != before {
		t.Errorf("a name that is looked up here was looked up there: %v", there.questions())
	}
	a.control.Close()
	if r := s.wait(t, 0, "session"); r["datagrams.dropped"] != 1.0 {
		t.Errorf("dial was not asked: %v", r)
	}
}

func TestClientsOfUDPThroughUpstreams(t *testing.T) {
	t.Parallel()
	names := serveNames(t, map[string][]string{"here.example.": {"192.0.2.5"}})
	target := servePackets(t, "127.0.0.1:0")
	host, port, _ := net.SplitHostPort(names.addr)
	dante, far := startDante(t), openRelay(t)
	config := upstreamsFile(map[string]string{"dante": "socks5://" + dante.addr, "far": "socks5h://" + far.addr})
	for _, name := range []string{"dante", "far"} {
		s, _ := startUDPVia(t, config, fmt.Sprintf(`{"denied": [], "via": [%q]}`, name))
		t.Run("drill/"+name, func(t *testing.T) {
			got, err := socksified(t, s, "socks_v5", installed(t, "drill"), "-p", port, "here.example", "@"+host)
			if err != nil || !strings.Contains(got, "192.0.2.5") {
				t.Errorf("%v\n%s", err, got)
			}
		})
		t.Run("PySocks/"+name, func(t *testing.T) {
			_, door, _ := net.SplitHostPort(s.addr)
			_, at, _ := net.SplitHostPort(target.at)
			got, err := exec.Command(python(t, "socks"), "-c", `
import socket, socks, sys
s = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
s.set_proxy(socks.SOCKS5, "127.0.0.1", int(sys.argv[1]))
s.settimeout(20)
s.sendto(b"hello", ("127.0.0.1", int(sys.argv[2])))
print(s.recvfrom(100))
`, door, at).CombinedOutput()
			if want := "(b'hello', ('127.0.0.1', " + at + "))\n"; err != nil || string(got) != want {
				t.Errorf("%v\n%s", err, got)
			}
		})
		r := s.wait(t, 0, "session")
		if r["command"] != "associate" || fmt.Sprint(r["via"]) != "["+name+"]" {
			t.Errorf("the record says %v", r)
		}
	}
}
