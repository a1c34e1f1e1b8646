package main

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// guard_tools_test.go has the tools of guessers and flooders come, and clients of
// others be told that they are refused.

// editedExample is an example as somebody would have it who has edited its numbers.
func editedExample(t *testing.T, example string, edits ...edit) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), example)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "..", "bundles", example))); err != nil {
		t.Fatal(err)
	}
	for _, e := range edits {
		path := filepath.Join(dir, filepath.FromSlash(e.file))
		text := readFile(t, path)
		if !strings.Contains(text, e.old) {
			t.Fatalf("%s has no %q", e.file, e.old)
		}
		write(t, path, strings.Replace(text, e.old, e.new, 1))
	}
	return dir
}

// Guessers with real tools find the password where nobody stops them. The example
// bruteforce bans them, and who has the password goes on beside them.
func TestGuessers(t *testing.T) {
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	dir := t.TempDir()
	var guesses strings.Builder // more than are tried at the same time
	for i := range 40 {
		fmt.Fprintln(&guesses, "guess", i)
	}
	words := write(t, filepath.Join(dir, "words"), guesses.String()+"right\n")
	names := write(t, filepath.Join(dir, "names"), "ann\n")
	open := write(t, filepath.Join(dir, "route.rego"), "package sallyport.route\n\ndefault allow := true\n")
	locked := write(t, filepath.Join(dir, "locked.rego"), "package sallyport.authenticate\n\ndefault allow := false\n\nallow if input.credentials.verified\n")
	guarded := editedExample(t, "bruteforce", edit{"bruteforce/data.yaml", "failures: 5", "failures: 3"})
	// Both ask for something once they are let in, and want it to be there.
	write(t, filepath.Join(guarded, "sallyport", "route.rego"), readFile(t, open))
	hydra := func(service string) func(door string) (string, error) {
		return func(door string) (string, error) {
			return client(t, "", nil, "hydra", "-I", "-t", "4", "-w", "5", "-l", "ann", "-P", words, "-s", door, "127.0.0.1", service, "http://"+at+"/")
		}
	}
	for name, guess := range map[string]func(door string) (string, error){
		"hydra by socks5":     hydra("socks5"),
		"hydra by http-proxy": hydra("http-proxy"),
		"nmap by socks5": func(door string) (string, error) {
			return client(t, "", nil, "nmap", "-Pn", "-p", door, "--script", "+socks-brute", "--script-timeout", "20s", // it never gives up on who hangs up
				"--script-args", "brute.threads=1,brute.retries=1,userdb="+names+",passdb="+words, "127.0.0.1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, policies := range [][]string{{"--policy", locked, "--policy", open}, {"--policy", guarded}} {
				s := start(t, append(policies, "--data", settings(t, loopback, port), "--data", usersFile(t, map[string]string{"ann": "right"}))...)
				_, door, _ := net.SplitHostPort(s.addr)
				honest := make(chan string)
				go func() {
					out, _ := curl(t, "--interface", "127.0.0.8", "-x", "socks5h://ann:right@"+s.addr, "http://"+at+"/")
					honest <- out
				}()
				out, err := guess(door)
				if got := <-honest; got != "hello" {
					t.Errorf("beside it, who has the password is told %q", got)
				}
				found := regexp.MustCompile(`password: right|Valid credentials`).MatchString(out)
				stopped := len(policies) == 2
				if found == stopped {
					t.Errorf("stopped by bans: %v, it finds the password: %v; %v\n%s", stopped, found, err, out)
				}
				banned := strings.Contains(s.metrics(t), "sallyport_bans_active 1\n")
				if banned != stopped {
					t.Errorf("stopped by bans: %v, it is banned: %v", stopped, banned)
				}
				if out, _ := curl(t, "--interface", "127.0.0.8", "-x", "socks5h://ann:right@"+s.addr, "http://"+at+"/"); out != "hello" {
					t.Errorf("after it, who has the password is told %q", out)
				}
			}
		})
	}
}

// refusals has a way to be refused for each network 127.N.
const refusals = `package sallyport.admit

default allow := true

_from(n) if startswith(input.source.ip, sprintf("127.%d.", [n]))

ban := {"for": "1h"} if _from(10)

limits := {"connections": 1} if _from(20)

limits := {"rate": "1/h"} if _from(21)

limits := {"rate": "1/h", "burst": 3} if _from(22)

limits := {"connections": 1, "prefix": p} if {
	_from(23)
	some p in input.source.prefixes
	endswith(p, "/24")
}
`

const refusedUsers = `package sallyport.authenticate

default allow := true

_from(n) if startswith(input.source.ip, sprintf("127.%d.", [n]))

ban := {"for": "1h"} if _from(11)

limits := {"connections": 1} if _from(24)

limits := {"rate": "1/h"} if _from(25)
`

const refusedRoutes = `package sallyport.route

default allow := true

_from(n) if startswith(input.source.ip, sprintf("127.%d.", [n]))

ban := {"for": "1h"} if _from(12)

ban := {"for": "1h", "prefix": p} if {
	_from(13)
	some p in input.source.prefixes
	endswith(p, "/24")
}

ban := {"for": "1h", "identity": true} if _from(14)
`

// What each dialect's clients are told of each way to be refused: the request that
// earns it, where it does, and the next one. Others are served all the while.
func TestRefusalsByEveryDialect(t *testing.T) {
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	dir := t.TempDir()
	write(t, filepath.Join(dir, "admit.rego"), refusals)
	write(t, filepath.Join(dir, "authenticate.rego"), refusedUsers)
	write(t, filepath.Join(dir, "route.rego"), refusedRoutes)
	users := map[string]string{"honest": "right"}
	type dialect struct {
		scheme string
		args   []string
	}
	basic := func(who string) string { return base64.StdEncoding.EncodeToString([]byte(who + ":right")) }
	dialects := []dialect{{scheme: "socks5h"}, {scheme: "socks4a"}, {scheme: "http", args: []string{"-p"}}, {scheme: "http"}}
	cases := []struct {
		network int
		first   bool   // is served
		next    string // the last number of the next request's address
		user    string // of both requests; of SOCKS4 a claim
		holds   bool   // the first one stays open
	}{
		{network: 10, next: "1"},
		{network: 11, next: "1"},
		{network: 12, next: "1"},
		{network: 13, next: "77"},
		{network: 14, next: "99", user: "banned"},
		{network: 20, first: true, next: "1", holds: true},
		{network: 21, first: true, next: "1"},
		{network: 23, first: true, next: "78", holds: true},
		{network: 24, first: true, next: "1", holds: true, user: "connections"},
		{network: 25, first: true, next: "1", user: "rate"},
	}
	for _, c := range cases {
		for i := range dialects {
			if c.user != "" {
				users[fmt.Sprint(c.user, i)] = "right"
			}
		}
	}
	s := start(t, "--policy", dir, "--data", settings(t, loopback, port), "--data", usersFile(t, users))
	for i, d := range dialects {
		for _, c := range cases {
			name := fmt.Sprintf("127.%d by %s %s", c.network, d.scheme, strings.Join(d.args, ""))
			who, proxy := "", d.scheme+"://"
			if c.user != "" {
				who = fmt.Sprint(c.user, i)
				proxy += who + ":right@"
			}
			ask := func(from string) (string, int) {
				args := append([]string{"--interface", from, "-x", proxy + s.addr, "-w", "|%{http_connect}|%{http_code}|%header{retry-after}", "http://" + at + "/"}, d.args...)
				return curl(t, args...)
			}
			first := fmt.Sprintf("127.%d.%d.1", c.network, i)
			served := func(out string, code int) bool { return code == 0 && strings.HasPrefix(out, "hello|") }
			refused := func(out string, code int) bool {
				switch {
				case d.scheme == "socks5h":
					return code == 97 && strings.Contains(out, "(2)") // 0x02
				case d.scheme == "socks4a":
					return code == 97 && strings.Contains(out, "(91)") // 0x5B
				case len(d.args) > 0:
					return code == 56 && strings.Contains(out, "|429|")
				}
				_, retry, _ := strings.Cut(out, "|429|")
				return code == 0 && strings.Contains(out, "|429|") && retry != "" && retry != "0"
			}
			if c.holds {
				hold := greeting
				granted := chosen + "\x05\x00"
				switch {
				case d.scheme == "socks4a":
					hold, granted = connect4(who, "127.0.0.1", port), "\x00\x5a"
				case d.scheme == "http" && who != "":
					hold = fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\nProxy-Authorization: Basic %s\r\n\r\n", port, basic(who))
					granted = "HTTP/1.1 200 "
				case who != "":
					hold, granted = "\x05\x01\x02"+login(who, "right")+connectTo("127.0.0.1", port), "\x05\x02\x01\x00\x05\x00"
				default:
					hold += connectTo("127.0.0.1", port)
				}
				dialFrom(t, first, s.addr).say(hold).hear(granted)
			} else if out, code := ask(first); c.first && !served(out, code) || !c.first && !refused(out, code) {
				t.Errorf("%s: the first request: %d %q", name, code, out)
			}
			next := fmt.Sprintf("127.%d.%d.%s", c.network, i, c.next)
			if c.user == "banned" { // wherever he comes from
				next = fmt.Sprintf("127.0.0.%d", 60+i)
			}
			if out, code := ask(next); !refused(out, code) {
				t.Errorf("%s: the next request: %d %q", name, code, out)
			}
		}
		if out, _ := curl(t, "--interface", "127.0.0.9", "-x", d.scheme+"://honest:right@"+s.addr, "http://"+at+"/"); out != "hello" {
			t.Errorf("by %s, others are told %q", d.scheme, out)
		}
	}
	// A burst goes beyond the rate.
	for i, want := range []int{0, 0, 0, 97} {
		if out, code := curl(t, "--interface", "127.22.0.1", "-x", "socks5h://"+s.addr, "http://"+at+"/"); code != want {
			t.Errorf("request %d of a burst of 3: %d %q", i, code, out)
		}
	}
	// The same as another client of others sees it.
	s.setBan(t, "PUT", "127.0.0.200")
	s.setBan(t, "PUT", "identity:honest")
	got := script(t, "socks", `
import socks, sys
for kind in socks.SOCKS5, socks.SOCKS4, socks.HTTP:
    for source, user in ("127.0.0.200", None), ("127.0.0.201", "honest"), ("127.0.0.201", None):
        if user and kind != socks.SOCKS5: continue
        try:
            s = socks.create_connection(("127.0.0.1", int(sys.argv[3])), timeout=20, source_address=(source, 0),
                proxy_type=kind, proxy_addr=sys.argv[1], proxy_port=int(sys.argv[2]), proxy_username=user, proxy_password=user and "right")
            print("connected")
            s.close()
        except socks.ProxyError as e:
            print(e)
`, strings.Split(s.addr, ":")[0], strings.Split(s.addr, ":")[1], fmt.Sprint(port))
	const want = "Socket error: 0x02: Connection not allowed by ruleset\nSocket error: 0x02: Connection not allowed by ruleset\nconnected\n" +
		"Socket error: 0x5b: Request rejected or failed\nconnected\nSocket error: 429: Too Many Requests\n\nconnected\n"
	if got != want {
		t.Errorf("PySocks prints %q, want %q", got, want)
	}
}

// A banned client of TLS is hung up on before its handshake, which would cost more
// than the decision that is saved.
func TestBanOfATLSClient(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	target := serveEcho(t, "127.0.0.1:0")
	s := listening(t, fmt.Sprintf(`[{name: main, address: "127.0.0.1:0", tls: {cert: %q, key: %q}}]`, cert, key), "--data", settings(t, loopback, target.port))
	config := &tls.Config{RootCAs: ca.pool(), ServerName: "localhost"}
	ask := func(c *tls.Conn) error {
		_, err := io.WriteString(c, greeting+connectTo("127.0.0.1", target.port))
		return err
	}
	open := overTLS(t, s.addr, config)
	if err := ask(open); err != nil {
		t.Fatal(err)
	}
	hears(t, open, granted)
	io.CopyN(io.Discard, open, 2) // the port
	s.setBan(t, "PUT", "127.0.0.1")
	c := dialDoor(t, s.addr)
	if err := tls.Client(c, config).HandshakeContext(t.Context()); err == nil {
		t.Error("a banned client has its handshake")
	}
	if page := s.metrics(t); !strings.Contains(page, `sallyport_refusals_total{cause="ban"} 1`) {
		t.Error(linesWith(page, "refusals"))
	}
	io.WriteString(open, "still")
	hears(t, open, "still")
	other := tls.Client(dialFrom(t, "127.0.0.2", s.addr), config)
	if err := ask(other); err != nil {
		t.Error(err)
	}
	s.setBan(t, "DELETE", "127.0.0.1")
	hears(t, other, granted)
	lifted := overTLS(t, s.addr, config)
	if err := ask(lifted); err != nil {
		t.Error(err)
	}
	hears(t, lifted, granted)
}

// A host of IPv6 has a /64: bans and limits are of all of it, and of no more.
func TestBansAndLimitsOfIPv6(t *testing.T) {
	target := serveEcho(t, "127.0.0.1:0")
	s := listening(t, `[{name: main, address: "127.0.0.1:0", proxy_protocol: {trusted: [127.0.0.1/32]}}]`, "--data", settings(t, loopback, target.port),
		"--policy", write(t, filepath.Join(t.TempDir(), "policy.rego"), `package sallyport.admit

default allow := true

limits := {"connections": 1} if startswith(input.source.ip, "2001:db8:1:")

ban := {"for": "1h"} if input.source.ip == "2001:db8:2::bad"

ban := {"for": "1h", "prefix": "2001:db8:3::/48"} if input.source.ip == "2001:db8:3::bad"
`), "--policy", write(t, filepath.Join(t.TempDir(), "authenticate.rego"), "package sallyport.authenticate\n\ndefault allow := true\n"))
	for _, step := range []struct {
		from   string
		served bool
	}{
		{"2001:db8:1::1", true}, {"2001:db8:1::2", false}, {"2001:db8:1:0:ffff::", false}, {"2001:db8:1:1::1", true},
		{"2001:db8:2::1", true}, {"2001:db8:2::bad", false}, {"2001:db8:2::1", false}, {"2001:db8:2:0:ffff::", false}, {"2001:db8:2:1::1", true},
		{"2001:db8:3:7::1", true}, {"2001:db8:3::bad", false}, {"2001:db8:3:7::1", false}, {"2001:db8:4::1", true},
	} {
		want := chosen + replied(2)
		if step.served {
			want = granted
		}
		header := fmt.Sprintf("PROXY TCP6 %s 2001:db8::ffff 4242 1080\r\n", step.from)
		c := dialDoor(t, s.addr).say(header + greeting + connectTo("127.0.0.1", target.port))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); string(got) != want {
			t.Errorf("from %s: %q (%v), want %q", step.from, got, err, want)
		}
	}
}

// The example flood holds sources and networks to its numbers, bans who goes on, and
// lets be who is on its list.
func TestFloodExample(t *testing.T) {
	target := serveEcho(t, "127.0.0.1:0")
	guarded := editedExample(t, "flood",
		edit{"flood/data.yaml", "  127.0.0.0/8: this machine\n", "  127.0.1.0/24: the monitoring\n"},
		edit{"flood/data.yaml", "networks:\n", "networks:\n  127.0.2.0/24: {connections: 3}\n"},
		edit{"flood/data.yaml", "connections: 200", "connections: 5"},
		edit{"flood/data.yaml", "over: 6000", "over: 60"},
		edit{"flood/data.yaml", "over: 300", "over: 20"},
	)
	s := start(t, "--policy", guarded, "--data", settings(t, loopback, target.port))
	asks := func(from, to string, port uint16, want string) *talk {
		t.Helper()
		return dialFrom(t, from, s.addr).say(greeting + connectTo(to, port)).hear(want)
	}
	banned := func(n int) {
		t.Helper()
		if page := s.metrics(t); !strings.Contains(page, fmt.Sprintf("sallyport_bans_active %d\n", n)) {
			t.Errorf("want %d: %s", n, linesWith(page, "sallyport_bans_active"))
		}
	}
	comes := func(from, to string, port uint16, want string) map[string]any { // and goes
		t.Helper()
		asks(from, to, port, want).Close()
		defer s.forget("session")
		return s.wait(t, 0, "session")
	}
	// Too many connections in a minute.
	for range 60 {
		comes("127.0.3.1", "127.0.0.1", target.port, granted)
	}
	banned(0)
	record := comes("127.0.3.1", "127.0.0.1", target.port, chosen+replied(2))
	banned(1)
	if record["outcome"] != "banned" || !strings.Contains(fmt.Sprint(record["reasons"]), "connections in a minute: 61, and 60 are a flood") {
		t.Errorf("the record is %v", record["raw"])
	}
	// Too many denials: of a port.
	for range 21 {
		comes("127.0.4.1", "127.0.0.1", 25, chosen+replied(2))
	}
	comes("127.0.4.1", "127.0.0.1", target.port, chosen+replied(2))
	banned(2)
	// Who is trusted does the same.
	for range 21 {
		comes("127.0.1.1", "127.0.0.1", 25, chosen+replied(2))
	}
	for range 60 {
		asks("127.0.1.1", "127.0.0.1", target.port, granted)
	}
	banned(2)
	// Sources and networks are held to how many may be open.
	for range 5 {
		asks("127.0.5.1", "127.0.0.1", target.port, granted)
	}
	asks("127.0.5.1", "127.0.0.1", target.port, chosen+replied(2))
	for i := range 3 {
		asks(fmt.Sprintf("127.0.2.%d", i+1), "127.0.0.1", target.port, granted)
	}
	asks("127.0.2.9", "127.0.0.1", target.port, chosen+replied(2))
	banned(2)
}

// 20,000 hostile sources, each of which is banned, keep nobody out, and a process
// that has 96 MiB for everything has room for them.
func TestHostileSourcesThroughTheDoor(t *testing.T) {
	target := serveEcho(t, "127.0.0.1:0")
	s := follow(t, exec.Command(built(t), "run", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0", "--set", "limits.memory=96MiB",
		"--set", "state.path="+filepath.Join(t.TempDir(), "state.db"), "--data", settings(t, loopback, target.port),
		"--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), `package sallyport.route

default allow := true

ban := {"for": "1h"} if input.target.port == 25
`)))
	const sources = 20_000
	from := func(i int) net.IP { return net.IPv4(127, 1+byte(i>>16), byte(i>>8), byte(i)) }
	come := func(i int) string { return greeting + connectTo("127.0.0.1", 25) }
	flood := func(first int) {
		clients := crowd(t, s.addr, 1000, func(i int) net.IP { return from(first + i) }, come)
		for _, c := range clients {
			io.ReadFull(c, make([]byte, 12))
		}
		disperse(clients)
	}
	most := 0
	for i := 0; i < sources; i += 1000 {
		flood(i)
		honest(t, s, target.port).Close()
		most = max(most, s.anonymous(t))
	}
	page := s.metrics(t)
	if !strings.Contains(page, fmt.Sprintf("sallyport_bans_active %d\n", sources)) || !strings.Contains(page, `sallyport_refusals_total{cause="limit"} 0`) {
		t.Error("not all of them are banned: ", linesWith(page, "bans_active"), linesWith(page, "refusals"))
	}
	if t.Logf("%d MiB", most); most > 96 {
		t.Errorf("with %d hostile sources it takes %d MiB", sources, most)
	}
}
