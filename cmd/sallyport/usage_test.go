package main

import (
	"bytes"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/proxy/usage"
)

// usagePolicy allows everybody everything, and labels who asks for it.
const usagePolicy = `package sallyport.route

default allow := true

deny contains "denied" if input.target.host == "denied.test"

labels := {"=team": "blue, green"} if input.identity.name == "ann"
`

const usageDial = "package sallyport.dial\n\ndefault allow := true\n"

const usageAuthenticate = `package sallyport.authenticate

default allow := false

allow if input.credentials.verified

allow if input.credentials.method == "none"
`

func usagePolicies(t *testing.T, authenticate, route string) []string {
	t.Helper()
	dir := t.TempDir()
	return []string{
		"--policy", write(t, filepath.Join(dir, "authenticate.rego"), authenticate),
		"--policy", write(t, filepath.Join(dir, "route.rego"), route),
		"--policy", write(t, filepath.Join(dir, "dial.rego"), usageDial),
		"--data", usersFile(t, map[string]string{"ann": "right", "bob": "right"}),
	}
}

// used is a report of the API.
func (s *process) used(t *testing.T, by string) *usage.Report {
	t.Helper()
	status, body := tell(t, "GET", s.api(t)+"/v1/usage?by="+by, "")
	var r usage.Report
	if err := json.Unmarshal([]byte(body), &r); err != nil || status != 200 {
		t.Fatal(status, body, err)
	}
	return &r
}

func rowOf(r *usage.Report, name string) usage.Counts {
	for _, row := range r.Rows {
		if row.Name == name {
			return row.Counts
		}
	}
	return usage.Counts{}
}

// What real clients move by every protocol is reported, by whatever it is asked for
// the same, and is what their sessions have moved.
func TestUsageReported(t *testing.T) {
	t.Parallel()
	const size = 100_000
	_, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, size)) })
	echo, packets := serveEcho(t, "127.0.0.1:0"), servePackets(t, "127.0.0.1:0")
	dir := t.TempDir()
	s := keeper(t, dir, usagePolicies(t, usageAuthenticate, usagePolicy)...)
	target := fmt.Sprintf("http://127.0.0.1:%d/", port)

	var clients sync.WaitGroup
	const rounds = 4
	for range rounds {
		for _, args := range [][]string{
			{"-x", "socks5h://ann:right@" + s.addr, target},
			{"-x", "socks4://ann@" + s.addr, target},
			{"-x", "http://bob:right@" + s.addr, "-p", target},
			{"-x", "http://bob:right@" + s.addr, target, target},
			{"-x", "socks5h://" + s.addr, "http://denied.test/"},
		} {
			clients.Go(func() {
				if out, code := curl(t, append(args, "--output", os.DevNull, "--output", os.DevNull)...); code != 0 && !slices.Contains(args, "http://denied.test/") {
					t.Errorf("%v: curl exits %d: %s", args, code, out)
				}
			})
		}
		clients.Go(func() {
			talk := dialDoor(t, s.addr).say("\x05\x01\x02" + login("ann", "right") + connectTo("127.0.0.1", echo.port) + strings.Repeat("x", 1000))
			talk.hear("\x05\x02\x01\x00\x05\x00\x00\x01")
			talk.CloseWrite()
			talk.rest()
		})
	}
	clients.Wait()
	a := associate(t, s.addr)
	for i := range 3 {
		data := strings.Repeat(strconv.Itoa(i), 100)
		a.send(packets.at, data).want(data, packets.at)
	}
	want := usage.Bytes{Up: 300, Down: 300}
	got := rowOf(s.used(t, "user"), "").Bytes // the association is open
	for begun := time.Now(); got != want && time.Since(begun) < 10*time.Second; {
		got = rowOf(s.used(t, "user"), "").Bytes // what has been sent is counted after that
	}
	if got != want {
		t.Errorf("of an open association: %+v", got)
	}
	a.control.Close()

	var up, down int64
	for i := range 6*rounds + 1 {
		r := s.wait(t, i, "session")
		up, down = up+int64(r["bytes.up"].(float64)), down+int64(r["bytes.down"].(float64))
	}
	for _, by := range []string{"user", "target", "country", "upstream", "labels"} {
		r := s.used(t, by)
		if r.Total.Bytes != (usage.Bytes{Up: up, Down: down}) || r.Total.Connections != 6*rounds+1 || r.Total.Denials != rounds {
			t.Errorf("by %s: %+v, want %d up and %d down in %d connections", by, r.Total, up, down, 6*rounds+1)
		}
	}
	users := s.used(t, "user")
	for name, want := range map[string]struct{ connections, least, denials int64 }{
		"identity:ann": {2 * rounds, rounds * (size + 1000), 0},
		"claimed:ann":  {rounds, rounds * size, 0},
		"identity:bob": {3 * rounds, 3 * rounds * size, 0},
		"":             {1, 300, rounds},
	} {
		if got := rowOf(users, name); got.Connections != want.connections || got.Bytes.Down < want.least || got.Bytes.Down > want.least+3000*rounds || got.Denials != want.denials {
			t.Errorf("%q: %+v, want %+v", name, got, want)
		}
	}
	if users.Rows[0].Name != "identity:bob" {
		t.Errorf("the first row is %q", users.Rows[0].Name)
	}
	if got := rowOf(s.used(t, "target"), "denied.test"); got != (usage.Counts{Denials: rounds}) {
		t.Errorf("denied.test: %+v", got)
	}
	if got := rowOf(s.used(t, "upstream"), "direct"); got.Bytes.Up != up {
		t.Errorf("directly: %+v, want %d up", got, up)
	}

	// TERM loses nothing.
	s.end(t, syscall.SIGTERM)
	s = keeper(t, dir, usagePolicies(t, usageAuthenticate, usagePolicy)...)
	if got := s.used(t, "user"); fmt.Sprint(got.Rows) != fmt.Sprint(users.Rows) {
		t.Errorf("after a restart: %+v, want %+v", got.Rows, users.Rows)
	}
	checkReports(t, s)
}

// checkReports holds the command's formats against one another.
func checkReports(t *testing.T, s *process) {
	t.Helper()
	token := write(t, filepath.Join(t.TempDir(), "token"), opsToken)
	report := func(args ...string) string {
		c := program(append([]string{"report", "--management", strings.TrimPrefix(s.api(t), "http://"), "--token-file", token}, args...)...)
		var out, problems bytes.Buffer
		c.Stdout, c.Stderr = &out, &problems
		if err := c.Run(); err != nil {
			t.Fatalf("report %v: %v: %s", args, err, problems.String())
		}
		return out.String()
	}
	var r usage.Report
	if err := json.Unmarshal([]byte(report("--format", "json")), &r); err != nil || r.By != "user" || len(r.Rows) != 4 {
		t.Errorf("as JSON: %+v, %v", r, err)
	}
	lines, err := csv.NewReader(strings.NewReader(report("--by", "user", "--format", "csv"))).ReadAll()
	if err != nil || len(lines) != 5 || strings.Join(lines[0], " ") != "user connections bytes_up bytes_down denials" {
		t.Fatalf("as CSV: %v, %v", lines, err)
	}
	for i, row := range r.Rows {
		name := row.Name
		if name == "" {
			name = "(anonymous)"
		}
		want := fmt.Sprint([]any{name, row.Connections, row.Bytes.Up, row.Bytes.Down, row.Denials})
		if got := fmt.Sprint(lines[i+1]); got != want {
			t.Errorf("as CSV: %s, want %s", got, want)
		}
	}
	// What a spreadsheet would take for a formula is none.
	if text := report("--by", "labels", "--format", "csv"); !strings.Contains(text, "\r\n\"'=team=blue, green\",12,") {
		t.Errorf("labels as CSV: %q", text)
	}
	text := report("--by", "target", "--since", "1h", "--format", "table")
	for _, want := range []string{`(?m)^TARGET +CONNECTIONS +UP +DOWN +DENIALS$`, `(?m)^127\.0\.0\.1 +24 +\S+ KiB +1\.9 MiB +0$`, `(?m)^denied\.test +0 +0 B +0 B +4$`, `(?m)^TOTAL +25 `} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("as a table: no %s in\n%s", want, text)
		}
	}
}

// A report asks the policy, and says what is wrong with what it is asked for.
func TestUsageAsked(t *testing.T) {
	t.Parallel()
	s := keeper(t, t.TempDir())
	for path, want := range map[string]struct {
		status int
		says   string
	}{
		"":                        {400, "by is missing: it is one of user, target, country, upstream, labels"},
		"?by=users":               {400, "by is one of user, target"},
		"?by=user&since=yes":      {400, "since is a duration"},
		"?by=user&since=7d":       {400, `since is a duration of s, m and h, such as \"24h\" or \"168h\", which is 7 days`},
		"?by=user&since=-1h":      {400, "since is a duration"},
		"?by=user&since=9000000h": {400, "since is a duration"},
		"?by=user&sinse=1h":       {400, "the query has by and since"},
		"?by=user&by=target":      {400, "the query has by and since"},
		"?by=user&since=43800h":   {200, `"rows":[],"other":{"connections":0,"bytes":{"up":0,"down":0},"denials":0}`},
	} {
		if status, body := tell(t, "GET", s.api(t)+"/v1/usage"+path, ""); status != want.status || !strings.Contains(body, want.says) {
			t.Errorf("%q: %d %s", path, status, body)
		}
	}
	if status, _ := call(t, "GET", s.api(t)+"/v1/usage?by=user", ""); status != 401 {
		t.Errorf("without a token: %d", status)
	}
	if status, _ := tell(t, "POST", s.api(t)+"/v1/usage?by=user", ""); status != 405 {
		t.Errorf("POST: %d", status)
	}
	out, err := program("report", "--by", "users").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--by: want one of user, target") {
		t.Errorf("%s, %v", out, err)
	}
}

// route says what it sees of who asks for ask.test.
const usageSeen = `package sallyport.route

default allow := true

explain := true

deny contains sprintf("%d of %d bytes, %d of %d connections", [u.bytes.day, u.bytes.month, u.connections.day, u.connections.month]) if {
	input.target.host == "ask.test"
	u := input.identity.usage
}
`

// The policy sees what an identity has used, open sessions included, at once.
func TestUsageSeen(t *testing.T) {
	t.Parallel()
	e := serveEcho(t, "127.0.0.1:0")
	s := keeper(t, t.TempDir(), usagePolicies(t, usageAuthenticate, usageSeen)...)
	seen := func(who string) string {
		basic := "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(who+":right")) + "\r\n"
		got, _ := dialDoor(t, s.addr).say("CONNECT ask.test:443 HTTP/1.1\r\nHost: ask.test:443\r\n" + basic + "\r\n").rest()
		_, body, _ := strings.Cut(got, "\r\n\r\n")
		var answer struct{ Reasons []string }
		if err := json.Unmarshal([]byte(body), &answer); err != nil || len(answer.Reasons) != 1 {
			t.Fatalf("%q, %v", got, err)
		}
		return answer.Reasons[0]
	}
	if got := seen("ann"); got != "0 of 0 bytes, 0 of 0 connections" {
		t.Error(got)
	}
	granted := "\x05\x02\x01\x00\x05\x00\x00\x01"
	one := dialDoor(t, s.addr).say("\x05\x01\x02" + login("ann", "right") + connectTo("127.0.0.1", e.port) + "hello").hear(granted)
	io.CopyN(io.Discard, one, 6)
	one.hear("hello")
	two := dialDoor(t, s.addr).say("\x05\x01\x02" + login("ann", "right") + connectTo("127.0.0.1", e.port)).hear(granted)
	if got := seen("ann"); got != "10 of 10 bytes, 2 of 2 connections" {
		t.Error(got)
	}
	one.say("again").hear("again")
	if got := seen("ann"); got != "20 of 20 bytes, 2 of 2 connections" {
		t.Error(got)
	}
	one.Close()
	two.Close()
	// A name that is only claimed is another one, and so is another user.
	if got := seen("bob"); got != "0 of 0 bytes, 0 of 0 connections" {
		t.Error(got)
	}
	dialDoor(t, s.addr).say(connect4("ann", "127.0.0.1", e.port) + "hello").hear("\x00\x5a")
	if got := seen("ann"); got != "20 of 20 bytes, 2 of 2 connections" {
		t.Error(got)
	}
}

const quotaPolicy = usageAuthenticate + `
limits := {"quota": {"bytes": 200000, "per": "day"}} if input.credentials.username == "ann"

limits := {"quota": {"bytes": "1kB", "per": "month"}} if input.source.ip == "127.0.0.7"
`

// A quota is of all of an identity's sessions together, ends them in the middle of a
// transfer, refuses the next ones in every protocol, and outlives kill -9.
func TestQuota(t *testing.T) {
	t.Parallel()
	_, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		for { // for ever
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	})
	e := serveEcho(t, "127.0.0.1:0")
	dir := t.TempDir()
	s := keeper(t, dir, usagePolicies(t, quotaPolicy, usagePolicy)...)
	target := fmt.Sprintf("http://127.0.0.1:%d/", port)
	var clients sync.WaitGroup
	for _, args := range [][]string{
		{"-x", "socks5h://ann:right@" + s.addr}, {"-x", "http://ann:right@" + s.addr, "-p"}, {"-x", "http://ann:right@" + s.addr},
	} {
		clients.Go(func() {
			if out, code := curl(t, append(args, "-f", target, "-o", os.DevNull)...); code == 0 {
				t.Errorf("%v: curl exits 0: %s", args, out)
			}
		})
	}
	clients.Wait()
	total := int64(0)
	for i := range 3 {
		r := s.wait(t, i, "session")
		total += int64(r["bytes.up"].(float64) + r["bytes.down"].(float64))
		// One that comes when the others have spent all is refused.
		if r["outcome"] != "limit" && (r["outcome"] != "ok" || r["cause"] != "quota_spent") {
			t.Errorf("a session over quota ends as %v", r)
		}
	}
	// What each session may go beyond it is what is on its way as another begins.
	if total < 200_000 || total > 200_000+3*2*(1<<20) {
		t.Errorf("%d bytes of 200000", total)
	}
	spent := time.Now()
	refused := func(s *process) {
		t.Helper()
		basic := "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("ann:right")) + "\r\n"
		for name, c := range map[string]struct{ say, want string }{
			"socks5": {"\x05\x01\x02" + login("ann", "right") + connectTo("127.0.0.1", e.port), "\x05\x02\x01\x00" + replied(2)},
			"socks4": {connect4("ann", "127.0.0.1", e.port), "\x00\x5a"}, // the name is only claimed
			"http":   {"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n" + basic + "\r\n", "HTTP/1.1 429 "},
			"get":    {"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + basic + "Connection: close\r\n\r\n", "HTTP/1.1 429 "},
		} {
			d := dialDoor(t, s.addr).say(c.say)
			d.CloseWrite()
			got, _ := d.rest()
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("%s: %q, want %q", name, got, c.want)
			}
			if c.want[0] != 'H' {
				continue
			}
			retry := regexp.MustCompile(`\r\nRetry-After: (\d+)\r\n`).FindStringSubmatch(got)
			now := time.Now().UTC()
			left := int(now.Truncate(24*time.Hour).Add(24*time.Hour).Sub(now) / time.Second)
			if n, _ := strconv.Atoi(append(retry, "", "")[1]); n < left-2 || n > left+30 {
				t.Errorf("%s is told to come again after %d s, the day has %d", name, n, left)
			}
		}
		dialDoor(t, s.addr).say("\x05\x01\x02" + login("bob", "right") + connectTo("127.0.0.1", e.port)).hear("\x05\x02\x01\x00\x05\x00\x00\x01")
	}
	refused(s)
	if _, page := call(t, "GET", s.api(t)+"/metrics", ""); !strings.Contains(page, `sallyport_refusals_total{cause="limit"}`) {
		t.Error("the metrics have no refusal")
	}
	for deadline := time.Now().Add(30 * time.Second); !s.used(t, "user").Written.After(spent); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is written")
		}
	}
	s.end(t, syscall.SIGKILL)
	s = keeper(t, dir, usagePolicies(t, quotaPolicy, usagePolicy)...)
	refused(s)
}

// A client without a name is held by its source; a quota ends an association, and
// counts what a kept connection asks for.
func TestQuotaOfASource(t *testing.T) {
	t.Parallel()
	_, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, strings.Repeat("x", 300)) })
	packets := servePackets(t, "127.0.0.1:0")
	s := keeper(t, t.TempDir(), usagePolicies(t, strings.ReplaceAll(quotaPolicy, "127.0.0.7", "127.0.0.1"), usagePolicy)...)

	a := associateFrom(t, s.addr, "127.0.0.1:0", netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	for range 2 {
		a.send(packets.at, strings.Repeat("x", 200)).want(strings.Repeat("x", 200), packets.at)
	}
	a.send(packets.at, strings.Repeat("y", 200)) // and its echo is one too many
	if r := s.wait(t, 0, "session"); r["cause"] != "quota_spent" || r["bytes.up"].(float64)+r["bytes.down"].(float64) != 1000 {
		t.Errorf("an association over quota ends as %v", r)
	}
	got, _ := dialDoor(t, s.addr).say(greeting + connectTo("127.0.0.1", port)).rest()
	if got != chosen+replied(2) {
		t.Errorf("another of the source: %q", got)
	}

	get := fmt.Sprintf("GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", port, port)
	s = keeper(t, t.TempDir(), usagePolicies(t, quotaPolicy, usagePolicy)...)
	kept := dialFrom(t, "127.0.0.7", s.addr)
	answer := "HTTP/1.1 200 OK"
	kept.say(get).hear(answer)
	text, _ := kept.say(get + get).rest()
	if n := strings.Count(text, "x"); n >= 900 {
		t.Errorf("the client has %d bytes of bodies", n)
	}
	r := s.wait(t, 0, "session")
	if r["bytes.up"].(float64)+r["bytes.down"].(float64) != 1000 {
		t.Errorf("a kept connection over quota ends as %v", r)
	}
}

// A request whose origin has not answered when a quota is spent ends as well as any
// other session by that, and its client is told.
func TestQuotaBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	at, _ := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	s := keeper(t, t.TempDir(), usagePolicies(t, quotaPolicy, usagePolicy)...)
	d := dialFrom(t, "127.0.0.7", s.addr).say(fmt.Sprintf("POST http://%s/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n%s", at, strings.Repeat("x", 2000)))
	if got, _ := d.rest(); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "error=connection_terminated") {
		t.Errorf("the client is told %q", got)
	}
	for _, kind := range []string{"request", "session"} {
		if r := s.wait(t, 0, kind); r["outcome"] != "ok" || r["cause"] != "quota_spent" || r["bytes.up"].(float64)+r["bytes.down"].(float64) != 1000 {
			t.Errorf("the %s ends as %v", kind, r)
		}
	}
}

// A new policy with another quota holds for what was used before.
func TestQuotaOfANewPolicy(t *testing.T) {
	t.Parallel()
	e := serveEcho(t, "127.0.0.1:0")
	policies := t.TempDir()
	path := write(t, filepath.Join(policies, "authenticate.rego"), quotaPolicy)
	write(t, filepath.Join(policies, "route.rego"), usagePolicy)
	write(t, filepath.Join(policies, "dial.rego"), usageDial)
	s := keeper(t, t.TempDir(), "--policy", policies, "--data", usersFile(t, map[string]string{"ann": "right"}))
	say := "\x05\x01\x02" + login("ann", "right") + connectTo("127.0.0.1", e.port)
	const granted = "\x05\x02\x01\x00\x05\x00\x00\x01"
	stays := dialDoor(t, s.addr).say(say + "hello").hear(granted)
	io.CopyN(io.Discard, stays, 6)
	stays.hear("hello")
	write(t, path, strings.Replace(quotaPolicy, "200000", "10", 1))
	s.wait(t, 1, "policy active")
	stays.say("again").hear("again") // it was granted under the one before
	dialDoor(t, s.addr).say(say).hear("\x05\x02\x01\x00" + replied(2))
	stays.say("x")
	if got, _ := stays.rest(); got != "" {
		t.Errorf("%q came over quota", got)
	}
	if r := s.sessionWhere(t, func(r map[string]any) bool { return r["outcome"] == "ok" }); r["cause"] != "quota_spent" {
		t.Errorf("it ends as %v", r)
	}
	write(t, path, usageAuthenticate)
	s.wait(t, 2, "policy active")
	dialDoor(t, s.addr).say(say).hear(granted)
}
