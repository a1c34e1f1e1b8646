package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// opsToken opens the API of a server that [keeper] has started.
const opsToken = "0123456789abcdef"

// keeper is a server whose state, in dir, is meant to outlive it.
func keeper(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	return start(t, append([]string{"--set", "state.path=" + filepath.Join(dir, "state.db"),
		"--set", `management.tokens={ops: {token: "` + opsToken + `", roles: [admin]}}`}, args...)...)
}

func (s *process) api(t *testing.T) string {
	t.Helper()
	return "http://" + s.wait(t, 0, "management")["address"].(string)
}

// tell makes a call with a body.
func tell(t *testing.T, method, to, body string) (int, string) {
	t.Helper()
	status, answer, err := telling(method, to, body)
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}

func telling(method, to, body string) (int, string, error) {
	request, err := http.NewRequest(method, to, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Authorization", "Bearer "+opsToken)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, string(answer), err
}

// banned is the bans of a server, by whom they are of.
func (s *process) bans(t *testing.T) map[string]banned {
	t.Helper()
	status, body := tell(t, "GET", s.api(t)+"/v1/bans", "")
	var answer struct{ Bans []banned }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != 200 {
		t.Fatal(status, body, err)
	}
	all := map[string]banned{}
	for _, b := range answer.Bans {
		all[b.Of] = b
	}
	return all
}

// end stops a server by a signal and waits until it is gone.
func (s *process) end(t *testing.T, by syscall.Signal) {
	t.Helper()
	s.cmd.Process.Signal(by)
	s.wait(t, 0, "eof")
	if err := s.cmd.Wait(); by == syscall.SIGTERM && err != nil {
		t.Fatal(err)
	}
}

// admitBans bans whoever comes from 127.9.0.0/16.
const admitBans = `package sallyport.admit

default allow := true

ban := {"for": "1h"} if startswith(input.source.ip, "127.9.")
`

// A restart forgets no ban, whoever has set it, and brings none back.
func TestBansOutliveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := serveEcho(t, "127.0.0.1:0")
	args := []string{"--data", settings(t, loopback, e.port), "--policy", write(t, filepath.Join(dir, "admit.rego"), admitBans)}
	s := keeper(t, dir, args...)
	at := s.api(t)
	for _, c := range []struct {
		method, of, body string
		status           int
	}{
		{"PUT", "127.0.7.0%2F24", `{"for": "1h", "reason": "scans"}`, 200},
		{"PUT", "identity:ann", "", 200},
		{"PUT", "127.0.8.1", `{"for": "1h"}`, 200},
		{"PUT", "127.0.8.2", `{"until": "2001-02-03T04:05:06Z"}`, 400},
		{"PUT", "127.0.8.2", `{"of": "127.0.8.3"}`, 400},
		{"DELETE", "127.0.8.1", "", 204},
	} {
		if status, body := tell(t, c.method, at+"/v1/bans/"+c.of, c.body); status != c.status {
			t.Fatal(c, status, body)
		}
	}
	// The policy's ban is there before the connection is.
	if got, _ := dialFrom(t, "127.9.0.1", s.addr).say(greeting + connectTo("127.0.0.1", e.port)).rest(); got != chosen+replied(2) {
		t.Errorf("%q", got)
	}
	before := s.bans(t)
	if len(before) != 3 || !strings.Contains(before["127.9.0.1/32"].Cause, "admit, decision ") {
		t.Fatalf("%v", before)
	}
	s.end(t, syscall.SIGTERM)

	for _, by := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		s = keeper(t, dir, args...)
		for of, b := range s.bans(t) {
			b.Refused = 0
			was := before[of]
			was.Refused = 0
			if !sameBan(b, was) {
				t.Errorf("%+v\nwas %+v", b, was)
			}
			delete(before, of)
		}
		if len(before) != 0 {
			t.Errorf("%v are gone", slices.Collect(maps.Keys(before)))
		}
		if got, _ := dialFrom(t, "127.0.7.9", s.addr).say(greeting + connectTo("127.0.0.1", e.port)).rest(); got != chosen+replied(2) {
			t.Errorf("%q", got)
		}
		before = s.bans(t)
		s.end(t, by)
	}
}

func sameBan(a, b banned) bool {
	return a.Of == b.Of && a.Cause == b.Cause && a.Since.Equal(b.Since) && (a.Until == nil) == (b.Until == nil) && (a.Until == nil || a.Until.Equal(*b.Until))
}

// Nothing that was acknowledged is lost when the process is killed while operators
// and policies ban, and what was lifted stays so.
func TestKilledWhileItKeeps(t *testing.T) {
	t.Parallel()
	const rounds, writers, enough = 12, 4, 40
	dir := t.TempDir()
	args := []string{"--policy", write(t, filepath.Join(dir, "admit.rego"), admitBans)}
	var mu sync.Mutex
	known := map[string]bool{} // by whom it is of: whether it is in force; what is in flight is not known
	for round := range rounds {
		s := keeper(t, dir, args...)
		there := s.bans(t)
		for of, inForce := range known {
			if _, is := there[of]; is != inForce {
				t.Fatalf("round %d: %s is in force: %t, and was acknowledged: %t", round, of, is, inForce)
			}
		}
		at, done := s.api(t)+"/v1/bans", 0
		reached := make(chan struct{})
		var working sync.WaitGroup
		for w := range writers {
			working.Go(func() {
				for i := 0; ; i++ {
					of := fmt.Sprintf("10.%d.%d.%d/32", round, w, i%200)
					mu.Lock()
					was := known[of]
					delete(known, of)
					mu.Unlock()
					method, want := "PUT", 200
					if was {
						method, want = "DELETE", 204
					}
					switch i % 5 {
					case 3: // the one before is lifted again
						of = fmt.Sprintf("10.%d.%d.%d/32", round, w, (i-1)%200)
						mu.Lock()
						delete(known, of)
						mu.Unlock()
						method, want = "DELETE", 204
					case 4:
						body := fmt.Sprintf(`{"bans": [{"of": "10.%d.%d.0/28"}, {"of": "10.%d.%d.16/28", "for": "2h"}]}`, round, w, round, w)
						if status, _, err := telling("PUT", at, body); err != nil || status != 200 {
							return
						}
						mu.Lock()
						known[fmt.Sprintf("10.%d.%d.0/28", round, w)], known[fmt.Sprintf("10.%d.%d.16/28", round, w)] = true, true
						mu.Unlock()
						continue
					}
					status, _, err := telling(method, at+"/"+url.PathEscape(of), "")
					if err != nil || status != want {
						return
					}
					mu.Lock()
					known[of] = method == "PUT"
					if done++; done == enough {
						close(reached)
					}
					mu.Unlock()
				}
			})
		}
		working.Go(func() { // the policy bans meanwhile
			for i := range 250 {
				c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 9, byte(round), byte(i+1))}}).Dial("tcp", s.addr)
				if err != nil {
					return
				}
				c.SetDeadline(time.Now().Add(20 * time.Second))
				io.WriteString(c, greeting)
				io.Copy(io.Discard, io.LimitReader(c, 2))
				c.Close()
			}
		})
		<-reached
		s.end(t, syscall.SIGKILL)
		working.Wait()
	}
	if len(known) < rounds*enough/2 {
		t.Errorf("only %d were acknowledged", len(known))
	}
	if s := keeper(t, dir, args...); len(s.bans(t)) < len(known)/2 {
		t.Error("where are they?")
	}
}

// Import and export.
func TestBanLists(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := keeper(t, dir)
	token := write(t, filepath.Join(dir, "token"), opsToken+"\n")
	ban := func(in string, args ...string) (out, complaint string, exit int) {
		c := program(append([]string{"ban", "--management", strings.TrimPrefix(s.api(t), "http://"), "--token-file", token}, args...)...)
		var said, complained strings.Builder
		c.Stdin, c.Stdout, c.Stderr = strings.NewReader(in), &said, &complained
		c.Run()
		return said.String(), complained.String(), c.ProcessState.ExitCode()
	}
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	list := `# a comment
{"of": "192.0.2.0/24", "until": "` + later + `", "cause": "the last firewall", "since": "2020-01-01T00:00:00Z"}

198.51.100.7   # scanner
2001:db8::1
{"of": "identity:a # b", "reason": "left"}
{"of": "192.0.2.9", "until": "2020-01-01T00:00:00Z"}
198.51.100.7
`
	if out, complaint, exit := ban(list, "import", "-", "--for", "2h", "--reason", "list"); exit != 0 || out != "set 5 bans, 1 were over already\n" {
		t.Fatalf("%q %q %d", out, complaint, exit)
	}
	got := s.bans(t)
	if b := got["192.0.2.0/24"]; b.Cause != "the last firewall" || b.Until.Format(time.RFC3339) != later || b.Since.Year() != 2020 {
		t.Errorf("%+v", b)
	}
	if b := got["198.51.100.7/32"]; b.Cause != "the management API, token ops: list" || b.Until == nil || b.Until.Before(time.Now().Add(time.Hour)) {
		t.Errorf("%+v", b)
	}
	if b := got["identity:a # b"]; b.Until != nil || len(got) != 4 || got["2001:db8::/64"].Of == "" {
		t.Errorf("%+v", got)
	}

	// What is exported can be imported, and is the same.
	exported, _, exit := ban("", "export")
	if exit != 0 || strings.Count(exported, "\n") != 4 {
		t.Errorf("%d %q", exit, exported)
	}
	if status, body := tell(t, "DELETE", s.api(t)+"/v1/bans", ""); status != 200 || body != "{\"lifted\":4}\n" || len(s.bans(t)) != 0 {
		t.Errorf("%d %q", status, body)
	}
	if out, complaint, exit := ban("", "import", write(t, filepath.Join(dir, "bans.jsonl"), exported)); exit != 0 {
		t.Errorf("%q %q %d", out, complaint, exit)
	}
	for of, b := range s.bans(t) {
		if !sameBan(b, got[of]) {
			t.Errorf("%+v\nwas %+v", b, got[of])
		}
	}

	// All that is wrong is told at once, and nothing is set.
	wrong := write(t, filepath.Join(dir, "wrong.txt"), `203.0.113.1
203.0.113.300
{"of": "203.0.113.2", "for": "1h", "until": "`+later+`"}
{"of": "203.0.113.2", "fro": "1h"}
{"for": "1h"}
{"of": "203.0.113.2", "for": "-1h"}
{"of": "203.0.113.2"} x
{"of": "203.0.113.2", "until": "noon"}
{"of": "203.0.113.2", "for": 60}
{"of": "203.0.113.2", "until": 60}
["203.0.113.2"]
{"of": "203.0.113.2", "since": "noon"}
{"of": "203.0.113.2", "for": "1ns"}
{"of": "203.0.113.2", "of": "203.0.113.3"}
{"of": "203.0.113.2", "for": "1d"}
`+strings.Repeat("x", 70_000))
	_, complaint, exit := ban("", "import", wrong)
	for n, want := range map[int]string{2: `"203.0.113.300": want an address`, 3: "for and until exclude one another", 4: `unknown field "fro"`,
		5: "of is missing", 6: "for is a duration", 7: "more than one JSON value",
		8: `until is a time such as "2030-01-01T00:00:00Z"`, 9: "for: want a string, got a number", 10: "until: want a string, got a number", 11: `"[\"203.0.113.2\"]": want an address`,
		12: `since is a time such as "2030-01-01T00:00:00Z"`, 13: "for is a duration of at least 1s", 14: "of is there twice", 15: `for is a duration of s, m and h, such as "15m" or "168h", which is 7 days`, 16: "the line is longer than 64 KiB"} {
		if !strings.Contains(complaint, fmt.Sprintf("sallyport: %s:%d: ", wrong, n)) || !strings.Contains(complaint, want) {
			t.Errorf("line %d: no %q in %s", n, want, complaint)
		}
	}
	for _, word := range []string{"unmarshal", "Go struct", "parsing time"} {
		if strings.Contains(complaint, word) {
			t.Errorf("%q in %s", word, complaint)
		}
	}
	if exit != 2 || len(s.bans(t)) != 4 || strings.Contains(complaint, wrong+":1:") {
		t.Errorf("exit %d, %s", exit, complaint)
	}
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"bans": [{"of": "203.0.113.1"}, {"of": "x"}, {"of": "y"}]}`, 400, `bans[1]: want an address, a prefix such as 192.0.2.0/24, identity:NAME, claimed:NAME or uid:NUMBER\nbans[2]: want`},
		{`{"bans": [["203.0.113.1"]]}`, 400, "bans[0]: want an object, got an array"},
		{`{}`, 400, "the body is a JSON object such as"},
		{`[]`, 400, "the body is a JSON object such as"},
		{`{"bans": []} x`, 400, "the body is a JSON object such as"},
		{`{"bans": []}`, 200, `{"over":0,"set":0}`},
		{`{"bans": [{"of": "203.0.113.1", "until": "0001-01-01T00:00:00Z"}]}`, 400, "until is no time"},
		{`{"bans": [{"of": "203.0.113.1", "until": "9999-12-31T23:59:59-23:00"}]}`, 400, "year"},
		{`{"bans": ["` + strings.Repeat("x", 16<<20) + `"]}`, 413, "the body has more than 16777216 bytes"},
	} {
		if status, body := tell(t, "PUT", s.api(t)+"/v1/bans", c.body); status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%.80s: %d %s", c.body, status, body)
		}
	}

	// As many as there may be, in one call; and one more.
	var many strings.Builder
	for i := range guarded - 4 {
		fmt.Fprintf(&many, "10.%d.%d.%d\n", i>>16, i>>8&255, i&255)
	}
	if out, complaint, exit := ban(many.String(), "import", "-"); exit != 0 || out != "set 65532 bans\n" {
		t.Errorf("%q %q %d", out, complaint, exit)
	}
	if _, complaint, exit := ban("10.9.0.1\n10.9.0.2\n", "import", "-"); exit != 1 || !strings.Contains(complaint, "as many bans") {
		t.Errorf("%q %d", complaint, exit)
	}
	info, err := os.Stat(filepath.Join(dir, "state.db"))
	if err != nil || info.Size() > 64<<20 {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
	s.end(t, syscall.SIGKILL)
	if s = keeper(t, dir); len(s.bans(t)) != guarded {
		t.Errorf("%d are there after a restart", len(s.bans(t)))
	}
}

// A file that is damaged, or another's, is no start; the error names the file and
// a way out, and that is one.
func TestStateFileThatIsNoState(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "state.db")
	args := []string{"run", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0", "--set", "state.path=" + file}
	s := keeper(t, dir)
	if status, _ := tell(t, "PUT", s.api(t)+"/v1/bans/192.0.2.1", ""); status != 200 {
		t.Fatal(status)
	}
	second := program(append(args, "--set", "policy.audit="+filepath.Join(dir, "second.jsonl"))...)
	if out, _ := second.CombinedOutput(); second.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "sallyport: --set: state.path: state file: "+file+": another process has it open") {
		t.Errorf("%d %s", second.ProcessState.ExitCode(), out)
	}
	s.end(t, syscall.SIGTERM)
	good := readFile(t, file)
	for what, content := range map[string]string{
		"cut off": good[:len(good)/2], "another file": strings.Repeat("notes\n", 10_000), "zeros": good[:8192] + strings.Repeat("\x00", len(good)-8192),
		"another value": strings.ReplaceAll(good, "the management API", "The management API"),
	} {
		write(t, file, content)
		c := program(args...)
		out, _ := c.CombinedOutput()
		_, way, found := strings.Cut(string(out), "move it away (")
		way, _, _ = strings.Cut(way, ")")
		if c.ProcessState.ExitCode() != 1 || !found || strings.Count(string(out), "sallyport: ") != 1 || !strings.HasPrefix(string(out), "sallyport: --set: state.path: state file: "+file+" is damaged: ") {
			t.Errorf("%s: %d %s", what, c.ProcessState.ExitCode(), out)
			continue
		}
		if out, err := exec.Command("sh", "-c", way).CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", what, err, out)
		}
		keeper(t, dir).end(t, syscall.SIGTERM)
		if readFile(t, file+".damaged") != content {
			t.Errorf("%s: the damaged file was not kept", what)
		}
	}
}

// A file of no bytes may be one that a first start has left: it begins anew, and
// the log tells, since something may have emptied it.
func TestStateFileThatIsEmpty(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := keeper(t, dir)
	if status, _ := tell(t, "PUT", s.api(t)+"/v1/bans/192.0.2.1", ""); status != 200 {
		t.Fatal(status)
	}
	s.end(t, syscall.SIGTERM)
	file := filepath.Join(dir, "state.db")
	if strings.Contains(fmt.Sprint(s.log), "state file is empty") {
		t.Error("the first start warns of a file that was not there")
	}
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	s = keeper(t, dir)
	const warning = "state file is empty: it begins anew; if there were bans or users in it, something has emptied it"
	if r := s.wait(t, 0, warning); r["level"] != "WARN" || r["file"] != file {
		t.Errorf("the warning is %v", r)
	}
	if bans := s.bans(t); len(bans) != 0 {
		t.Errorf("there are %v", bans)
	}
}
