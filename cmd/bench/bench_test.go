package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/proxy/wire/socks5"
)

// tiny is a SOCKS server whose relay may be broken.
func tiny(t *testing.T, relay func(client, target *net.TCPConn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				target, err := asked(c)
				if err != nil {
					return
				}
				defer target.Close()
				relay(c.(*net.TCPConn), target)
			})
		}
	})
	return l.Addr().String()
}

func asked(c net.Conn) (*net.TCPConn, error) {
	r := bufio.NewReader(c)
	if _, err := socks5.ReadGreeting(r); err != nil {
		return nil, err
	}
	c.Write(socks5.AppendMethod(nil, socks5.NoAuth))
	request, err := socks5.ReadRequest(r)
	if err != nil {
		return nil, err
	}
	if request.Command == socks5.Associate {
		return nil, relayPackets(c, r, request.Address.Port)
	}
	target, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: request.Address.IP.AsSlice(), Port: int(request.Address.Port)})
	if err != nil {
		return nil, err
	}
	c.Write(socks5.AppendReply(nil, socks5.Succeeded, target.LocalAddr().(*net.TCPAddr).AddrPort()))
	return target, nil
}

// relayPackets is a UDP relay for a client with a port, until it hangs up.
func relayPackets(c net.Conn, r *bufio.Reader, port uint16) error {
	relay, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	c.Write(socks5.AppendReply(nil, socks5.Succeeded, relay.LocalAddr().(*net.UDPAddr).AddrPort()))
	var relaying sync.WaitGroup
	relaying.Go(func() {
		b := make([]byte, 2048)
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		for {
			n, from, err := relay.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if from.Port() != port {
				relay.WriteToUDPAddrPort(append(socks5.AppendDatagramHeader(nil, from), b[:n]...), client)
			} else if d, err := socks5.ParseDatagram(b[:n]); err == nil {
				relay.WriteToUDPAddrPort(d.Data, netip.AddrPortFrom(d.IP, d.Port))
			}
		}
	})
	r.ReadByte()
	relay.Close()
	relaying.Wait()
	return io.EOF
}

// honest passes on every byte and each half-close. It keeps io.Copy from taking
// two pipes to splice with, so that what it holds is known.
func honest(client, target *net.TCPConn) {
	var up sync.WaitGroup
	up.Go(func() {
		io.Copy(struct{ io.Writer }{target}, struct{ io.Reader }{client})
		target.CloseWrite()
	})
	io.Copy(struct{ io.Writer }{client}, struct{ io.Reader }{target})
	client.CloseWrite()
	up.Wait()
}

func contenderFor(t *testing.T, scheme, address string) *contender {
	t.Helper()
	to, err := listenTarget(t.Context(), loopbackTargets())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(to.close)
	c := &contender{name: "tiny", processes: processes{os.Getpid()}}
	c.through, c.targets = endpoint{scheme: scheme, address: address}, to.addrs
	return c
}

// TestIdleConnections comes first, so that no earlier connection is being closed
// meanwhile. The proxy is this process, and so are the client and the target.
func TestIdleConnections(t *testing.T) {
	c := contenderFor(t, "socks5", tiny(t, honest))
	f, err := idle(t.Context(), c, settings{idle: 100, settle: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	// The proxy has two descriptors of each, client and target one; the runtime may
	// open one or two more.
	if n := f["idle_descriptors"]; n < 3.95 || n > 4.05 {
		t.Errorf("%v descriptors for an idle connection", n)
	}
	if n := f["idle_first_pss_kib"]; n <= 0 || n > 1000 {
		t.Errorf("%v KiB for an idle connection", n)
	}
	if n, found := f["idle_pss_kib"]; !found || n > 1000 { // the runtime may have room for the further ones
		t.Errorf("%v KiB for a further one", n)
	}
	again, err := idle(t.Context(), c, settings{idle: 1})
	if _, found := again["idle_first_pss_kib"]; err != nil || found {
		t.Errorf("%v, %v: memory that is used again is told of", again, err)
	}
}

// TestEveryMeasurement: each finds all of its figures, and they are such as can
// be.
func TestEveryMeasurement(t *testing.T) {
	c := contenderFor(t, "socks5", tiny(t, honest))
	r := run{rounds: 1, settings: settings{duration: 300 * time.Millisecond, idle: 40}, measure: measurements(), progress: io.Discard}
	o := warm([]*contender{c})
	if err := r.turns(t.Context(), []*contender{c}, o); err != nil {
		t.Fatal(err)
	}
	if len(o.failures) > 0 {
		t.Error(o.failures)
	}
	found := o.medians(c.name)
	for _, row := range rows() {
		value, ok := found[row.figure]
		if ofOthers := regexp.MustCompile("^(forward|chained|flood)_|_nobody_"); ofOthers.MatchString(row.figure) {
			continue
		}
		switch {
		case !ok:
			t.Errorf("there is no %s", row.figure)
		case strings.HasPrefix(row.figure, "idle_"): // below
		case value <= 0 || value > 1e5:
			t.Errorf("%s is %v", row.figure, value)
		}
	}
	if n := found["verified_percent"]; n != 100 {
		t.Errorf("%v %% verified", n)
	}
	if n := found["connections_per_second"]; n < 10 {
		t.Errorf("%v connections a second", n)
	}
}

// TestForwarding has the library's proxy keep its connections, and close them.
func TestForwarding(t *testing.T) {
	for _, keeps := range []bool{true, false} {
		proxy := &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}, ModifyResponse: func(r *nethttp.Response) error {
			if !keeps {
				r.Header.Set("Connection", "close")
			}
			return nil
		}}
		server := httptest.NewServer(proxy)
		t.Cleanup(server.Close)
		c := contenderFor(t, "http", strings.TrimPrefix(server.URL, "http://"))
		f, err := forward(t.Context(), c, settings{duration: 50 * time.Millisecond})
		if err != nil || f["forward_cpu_us"] <= 0 || f["forward_per_second"] < 10 {
			t.Errorf("%v, %v", f, err)
		}
	}
}

func TestVerifySeesWhatIsLost(t *testing.T) {
	for name, relay := range map[string]func(client, target *net.TCPConn){
		"both directions end with one": func(client, target *net.TCPConn) {
			done := make(chan struct{}, 2)
			for _, way := range [][2]*net.TCPConn{{client, target}, {target, client}} {
				go func() {
					io.Copy(way[0], way[1])
					done <- struct{}{}
				}()
			}
			<-done
			client.Close()
			target.Close()
			<-done
		},
		"a half-close is swallowed": func(client, target *net.TCPConn) {
			go io.Copy(target, client)
			target.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			io.Copy(client, target)
			client.SetLinger(0) // as if nobody had waited for so long
		},
		"a byte is changed": func(client, target *net.TCPConn) {
			go func() {
				io.Copy(target, client)
				target.CloseWrite()
			}()
			all, _ := io.ReadAll(target)
			if len(all) > 0 {
				all[len(all)-1]++
			}
			client.Write(all)
		},
		"a byte is left out": func(client, target *net.TCPConn) {
			go func() {
				io.Copy(target, client)
				target.CloseWrite()
			}()
			io.CopyN(io.Discard, target, 1)
			io.Copy(client, target)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := verify(t.Context(), contenderFor(t, "socks5", tiny(t, relay)), settings{})
			if err != nil || f["verified_percent"] >= 100 {
				t.Errorf("%v, %v", f, err)
			}
		})
	}
}

// TestFailuresAreTold: a proxy that cannot be reached is no fast one.
func TestFailuresAreTold(t *testing.T) {
	address := tiny(t, func(client, target *net.TCPConn) {}) // it hangs up
	for _, m := range measurements() {
		c := contenderFor(t, "socks5", address)
		if m.name == "verify" { // for which that is something to count
			continue
		}
		if m.name == "forward" {
			c.through.scheme = "http"
		}
		if m.name == "flood" {
			c.bans = &bans{program: "true"} // which does whatever it is asked
		}
		if m.name == "bulk-idle" {
			c.users = &users{root: c, nobody: c}
		}
		if strings.HasPrefix(m.name, "udp-") { // no connection through it has a part in that
			c.through.address = "127.0.0.1:1"
		}
		if _, err := m.run(t.Context(), c, settings{duration: 20 * time.Millisecond, idle: 5}); err == nil {
			t.Errorf("%s: no error", m.name)
		}
	}
}

func TestProcessorTimeIsExact(t *testing.T) {
	used := func() time.Duration {
		var u syscall.Rusage
		syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	var done sync.WaitGroup
	done.Go(func() { // in a thread or two, of which one may have ended
		for sum, n := 0, 0; n < 50_000_000; n++ {
			sum += n
		}
	})
	done.Wait()
	least := used()
	got := processes{os.Getpid()}.processor()
	// Children that earlier tests waited for are in it, in whole ticks.
	var children syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children)
	most := used() + time.Duration(children.Utime.Nano()+children.Stime.Nano())
	if got < least-time.Microsecond || got > most+10*time.Millisecond {
		t.Errorf("%v, which is not between %v and %v", got, least, most)
	}
}

func TestDescendantsCount(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 60 & echo started; wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	bufio.NewReader(out).ReadString('\n')
	if all := (processes{cmd.Process.Pid}).all(); len(all) != 2 || all[0] != cmd.Process.Pid {
		t.Errorf("%d has %v", cmd.Process.Pid, all)
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	cmd.Wait()
}

func TestListeningIsFound(t *testing.T) {
	if got := listening(tiny(t, honest)); !slices.Equal(got, processes{os.Getpid()}) {
		t.Errorf("found %v, want %d", got, os.Getpid())
	}
	if got := listening("127.0.0.1:1"); got != nil {
		t.Errorf("found %v", got)
	}
}

func TestEndpoints(t *testing.T) {
	for text, want := range map[string]endpoint{
		"socks5://127.0.0.1:1080":    {scheme: "socks5", address: "127.0.0.1:1080"},
		"socks5h://u:p%40@[::1]:1":   {scheme: "socks5", address: "[::1]:1", user: "u", password: "p@"},
		"http://u@proxy.example:80/": {scheme: "http", address: "proxy.example:80", user: "u"},
		"tcp://127.0.0.1:7":          {scheme: "tcp", address: "127.0.0.1:7"},
	} {
		if got, err := parseEndpoint(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "127.0.0.1:1080", "socks5://u:secret@127.0.0.1", "ftp://u:secret@a:1", "http://u:secret@a:b:c", "direct://"} {
		if got, err := parseEndpoint(text); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

func TestReport(t *testing.T) {
	o := &outcome{samples: map[string]map[string][]float64{
		"sallyport":  {"connect_cpu_us": {300, 200, 100}, "idle_descriptors": {2.004}, "idle_pss_kib": {12.04, 12.06, 12.05}, "verified_percent": {100}},
		"microsocks": {"connect_cpu_us": {100, 50, 400, 102}, "up-1_cpu_s_per_gb": {0.25}, "verified_percent": {8}},
	}}
	r := report{Machine: "a machine", Program: "a program", Rounds: 3, Missing: []string{"a thing"}, Failures: []string{"another"}}
	r.Tables = append(r.Tables, compare("by SOCKS5", o, []*contender{{name: "sallyport"}, {name: "microsocks"}}, ""))
	var text, data bytes.Buffer
	if err := r.text(&text); err != nil {
		t.Fatal(err)
	}
	const want = `a machine; a program; 3 rounds, medians

                                  by SOCKS5   sallyport   microsocks
                     CPU per connection, µs         200          101
                CPU per GB up, 1 stream, s            –         0.25
               idle connection: descriptors        2.00            –
 idle connection: memory, further ones, KiB        12.1            –
                                verified, %         100            8

                                 sallyport   / microsocks   target
                    CPU per connection, µs           1.98   ≤ 1.1 of microsocks: missed
              idle connection: descriptors              –   ≤ 2: met
idle connection: memory, further ones, KiB              –   ≤ 12: missed
                               verified, %           12.5   ≥ 100: met

not measured: a thing
failed: another
`
	if got := squeezed(text.String()); got != squeezed(want) {
		t.Errorf("got\n%s", text.String())
	}
	if err := r.json(&data); err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(data.Bytes(), &back); err != nil || len(back.Tables) != 1 {
		t.Fatalf("%v: %s", err, data.String())
	}
	table := back.Tables[0]
	if table.Results[1].Medians["connect_cpu_us"] != 101 || table.Ratios[0].To != "microsocks" {
		t.Errorf("%s", data.String())
	}
	if g := table.Goals[0]; g.To != "microsocks" || g.Bound != 1.1 || g.Found < 1.9 || g.Met {
		t.Errorf("%+v in %s", g, data.String())
	}
}

// TestDocument: the page tells of every row, and of no other; … stands for what
// differs between some. Its commands are such as can be given.
func TestDocument(t *testing.T) {
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(page), "| row | what is measured |\n|---|---|\n")
	told, _, _ := strings.Cut(after, "\n\n")
	titles := map[string]int{} // how often each is told of
	unit := regexp.MustCompile(", (µs|s|ms|KiB|MiB|%)$")
	for _, row := range rows() {
		titles[unit.ReplaceAllString(row.title, "")] = 0
	}
	for line := range strings.Lines(told) {
		cell := strings.TrimSpace(strings.Split(line, "|")[1])
		pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(cell), "…", ".+") + "$")
		found := false
		for title := range titles {
			if pattern.MatchString(title) {
				titles[title]++
				found = true
			}
		}
		if !found {
			t.Errorf("%q is told of, and there is no such row", cell)
		}
	}
	for title, n := range titles {
		if n != 1 {
			t.Errorf("%q is told of %d times", title, n)
		}
	}
	commands := regexp.MustCompile("go run ./cmd/bench ([^`\n]+)").FindAllStringSubmatch(string(page), -1)
	for _, c := range commands {
		if err := command().ParseFlags(strings.Fields(c[1])); err != nil {
			t.Errorf("%s: %v", c[0], err)
		}
	}
	if len(commands) == 0 {
		t.Error("there are no commands")
	}
}

// squeezed leaves out how far columns are apart.
func squeezed(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

// TestCommand starts sallyport with both policies, and measures it.
func TestCommand(t *testing.T) {
	program := filepath.Join(t.TempDir(), "sallyport")
	build := []string{"build", "-o", program}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		build = append(build, "-race") // what else would be compiled once more
	}
	if out, err := exec.Command("go", append(build, "sallyport/cmd/sallyport")...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Run("countries", func(t *testing.T) { testCountries(t, program) })

	stdout, err := runCommand(t, "--sallyport", program, "--egress", "../../bundles/egress", "--only", "sallyport,egress,sallyport-http,direct",
		"--tests", "connect,down-1,bulk-idle,idle,flood,verify", "--rounds", "1", "--duration", "100ms", "--settle", "50ms",
		"--idle", "20", "--entries", "500", "--format", "json")
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Tables) != 2 || len(r.Tables[0].Results) != 3 || len(r.Tables[0].Ratios) != 2 || len(r.Tables[1].Results) != 1 || r.Program == "" {
		t.Fatalf("%s", stdout)
	}
	for _, result := range append(r.Tables[1].Results, r.Tables[0].Results[:2]...) {
		m := result.Medians
		if m["verified_percent"] != 100 || m["connect_cpu_us"] <= 0 || m["down-1_cpu_s_per_gb"] <= 0 || m["idle_descriptors"] != 2 {
			t.Errorf("%s: %v", result.Name, m)
		}
	}
	m := r.Tables[0].Results[0].Medians
	for _, figure := range []string{"flood_cpu_us", "flood_per_second", "flood_first_byte_p50_us", "rest_mib", "load_mib"} {
		if m[figure] <= 0 {
			t.Errorf("%s is %v", figure, m[figure])
		}
	}
	if os.Geteuid() != 0 {
		if !strings.Contains(strings.Join(r.Missing, "\n"), "root") {
			t.Errorf("it is not told that nobody was measured: %v", r.Missing)
		}
	} else if m["down-1_nobody_to_root"] <= 0 || m["down-8_nobody_to_root"] <= 0 {
		t.Errorf("nobody was not measured: %v", m)
	}

	stdout, err = runCommand(t, "--sallyport", program, "--only", "sallyport,sallyport-pool", "--tests", "chained,chained-cpu",
		"--rounds", "1", "--duration", "300ms", "--settle", "50ms", "--round-trip", "20ms", "--format", "json")
	r = report{}
	if err != nil || json.Unmarshal([]byte(stdout), &r) != nil || len(r.Tables) != 1 || len(r.Tables[0].Results) != 2 {
		t.Fatalf("%v: %s", err, stdout)
	}
	for by, trips := range map[string]float64{"http": 2, "https": 3, "socks5": 4} {
		far, ahead := r.Tables[0].Results[0].Medians, r.Tables[0].Results[1].Medians
		if took := far["chained_"+by+"_p50_ms"]; took < 20*trips {
			t.Errorf("%s takes %v ms, and %v trips of 20 ms", by, took, trips)
		}
		if took := ahead["chained_"+by+"_p50_ms"]; took < 20 {
			t.Errorf("%s with a pool takes %v ms, and a trip of 20 ms", by, took)
		}
		if far["chained_"+by+"_cpu_us"] <= 0 || ahead["chained_"+by+"_cpu_us"] <= 0 {
			t.Errorf("%s costs no processor time: %v, %v", by, far, ahead)
		}
	}
}

// testCountries: the egress example is asked where the target is, and finds it: it
// refuses where that country is the one that is refused.
func testCountries(t *testing.T, program string) {
	to, err := listenTarget(t.Context(), loopbackTargets())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(to.close)
	for _, refused := range []string{otherCountry, targetCountry} {
		s := &stable{dir: t.TempDir(), target: to, limit: 1000}
		t.Cleanup(s.stop)
		c, err := s.start(t.Context(), recipe{
			name: "egress", scheme: "socks5", program: program, user: egressUser, secret: egressPassword,
			arguments: func(s *stable, dir, host, port string) ([]string, error) {
				arguments, err := sallyportWithEgress(s, dir, host, port, egressOptions{"../../bundles/egress", 10})
				if err != nil {
					return nil, err
				}
				data := filepath.Join(dir, "policy", "egress", "data.json")
				text, err := os.ReadFile(data)
				if err != nil {
					return nil, err
				}
				return arguments, write(data, strings.Replace(string(text), otherCountry, refused, 1))
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := c.open()
		if err == nil {
			conn.Close()
		}
		var reply replyError
		if denied := errors.As(err, &reply) && reply == replyError(socks5.NotAllowed); denied != (refused == targetCountry) {
			t.Errorf("%s is refused, and the target is in %s: %v", refused, targetCountry, err)
		}
	}
}

func runCommand(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	var stdout bytes.Buffer
	c := command()
	c.SetArgs(arguments)
	c.SetOut(&stdout)
	c.SetErr(io.Discard)
	err := c.ExecuteContext(t.Context())
	return stdout.String(), err
}

func TestCommandAgainstARunningProxy(t *testing.T) {
	out, err := runCommand(t, "--proxy", "mine=socks5://"+tiny(t, honest), "--tests", "connect,verify", "--rounds", "1", "--duration", "50ms")
	if err != nil || !strings.Contains(out, "mine") || !strings.Contains(out, "/ direct") || !strings.Contains(out, "CPU per connection") {
		t.Errorf("%v\n%s", err, out)
	}
	for want, arguments := range map[string][]string{
		`there is no "speed"`:                          {"--tests", "speed"},
		"want text or json":                            {"--format", "xml"},
		"must be more than none":                       {"--rounds", "0"},
		"goes with one --proxy":                        {"--pid", "1"},
		"run make build":                               {"--sallyport", "nowhere/sallyport", "--only", "sallyport"},
		"nothing to measure":                           {"--only", "nobody", "--proxy", "mine=socks5://127.0.0.1:1"},
		`no "salyport": there are sallyport, egress, `: {"--only", "sallyport,salyport"},
		"--proxy: ":                                    {"--proxy", "socks5://u:secret@"},
	} {
		if _, err := runCommand(t, arguments...); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v: %v", arguments, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	direct := []*contender{contenderFor(t, "direct", "")}
	if err := (&run{rounds: 1, measure: measurements(), progress: io.Discard}).turns(ctx, direct, warm(direct)); err == nil {
		t.Error("an interrupt is not heard")
	}
}
