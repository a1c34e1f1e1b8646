package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// uploads is a server that takes decision logs, and what it has taken as text.
type uploads struct {
	*httptest.Server
	mu   sync.Mutex
	text bytes.Buffer
}

func serveUploads(t *testing.T) *uploads {
	u := &uploads{}
	u.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		unpacked, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		if _, err := io.Copy(&u.text, unpacked); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(u.Close)
	return u
}

// Every decision of every stage is in every sink, with the facts that it can be
// decided again from, and no secret of a client's is, be it masked or not.
func TestDecisionsInEverySink(t *testing.T) {
	t.Parallel()
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	jwt := part(`{"alg":"none"}`) + "." + part(`{"sub":"hush-jwt"}`) + "." + part("hush")
	const policies = `package sallyport.authenticate
default allow := false
allow if input.credentials.verified
allow if _token
_token if count(split(input.credentials.token, ".")) == 3
identity := {"name": "bearer"} if _token
reason contains sprintf("%s shows %s", [input.credentials.username, input.credentials.token])
`
	const dial = "package sallyport.dial\nallow if time.now_ns() > 0\n"
	for name, mask := range map[string]string{"unmasked": "", "masked": `package system.log
mask contains "/input/source/port"
drop if input.path == "sallyport/admit"
`} {
		t.Run(name, func(t *testing.T) {
			target, server, dir := serveEcho(t, "127.0.0.1:0"), serveUploads(t), t.TempDir()
			file := filepath.Join(dir, "decisions.log")
			args := []string{"--policy", write(t, filepath.Join(dir, "p.rego"), policies), "--policy", write(t, filepath.Join(dir, "d.rego"), dial),
				"--data", settings(t, loopback, target.port), "--data", usersFile(t, map[string]string{"ann": "hush-right"}), "--set", "log.level=debug"}
			if mask != "" {
				args = append(args, "--policy", write(t, filepath.Join(dir, "m.rego"), mask))
			}
			s := startBundles(t, fmt.Sprintf(`
services: {logs: {url: %q, credentials: {bearer: {token: hush-upload}}}}
labels: {region: eu}
decision_logs: {console: true, service: logs, plugin: file_logger}
plugins: {file_logger: {path: %q}}
`, server.URL, file), args...)
			console := make(chan string, 1)
			go func() {
				text, _ := io.ReadAll(s.stdout)
				console <- string(text)
			}()
			line := fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\nCookie: hush-cookie\r\nAuthorization: hush-authorization\r\nProxy-Authorization: ", target.port)
			basic := func(password string) string {
				return "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:"+password))
			}
			for _, c := range [][2]string{
				{"\x05\x01\x02" + login("ann", "hush-right"), "\x05\x02\x01\x00"},
				{"\x05\x01\x02" + login("ann", "hush-wrong"), "\x05\x02\x01\x01"},
				{"\x05\x01\x02" + login("ann", jwt), "\x05\x02\x01\x00"},
				{line + basic("hush-right") + "\r\n\r\n", "HTTP/1.1 200 "},
				{line + basic("hush-right") + "\r\n\r\n", "HTTP/1.1 200 "}, // remembered
				{line + basic("hush-wrong") + "\r\n\r\n", "HTTP/1.1 407 "},
				{line + "Bearer " + jwt + "\r\n\r\n", "HTTP/1.1 200 "},
			} {
				dialDoor(t, s.addr).say(c[0]).hear(c[1]).Close()
			}
			s.terminate(t)
			written, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var uploaded strings.Builder // one event a line
			for decoder := json.NewDecoder(&server.text); decoder.More(); {
				var chunk []json.RawMessage
				if err := decoder.Decode(&chunk); err != nil {
					t.Fatal(err)
				}
				for _, event := range chunk {
					uploaded.Write(append(event, '\n'))
				}
			}
			for sink, text := range map[string]string{"console": <-console, "file": string(written), "service": uploaded.String()} {
				for _, secret := range []string{"hush", jwt, part("hush"), part(`{"sub":"hush-jwt"}`), basic("hush-right")[6:], basic("hush-wrong")[6:]} {
					if strings.Contains(text, secret) {
						t.Errorf("%s: %q is in it", sink, secret)
					}
				}
				checkEvents(t, sink, text, mask != "")
			}
		})
	}
}

// checkEvents looks at the events of the sessions of TestDecisionsInEverySink.
func checkEvents(t *testing.T, sink, text string, masked bool) {
	t.Helper()
	count := map[string]int{}
	ids := map[string]bool{}
	remembered := false
	for decoder := json.NewDecoder(strings.NewReader(text)); decoder.More(); {
		var event struct {
			DecisionID string `json:"decision_id"`
			Path       string
			Revision   string
			Labels     map[string]string
			Builtins   map[string]any `json:"nd_builtin_cache"`
			Custom     map[string]any
			Input      struct {
				Session, Request map[string]any
				Source           map[string]any
				Target           map[string]any
				Identity         map[string]any
				Address          map[string]any
			}
		}
		if err := decoder.Decode(&event); err != nil {
			t.Fatalf("%s: %v", sink, err)
		}
		stage := strings.TrimPrefix(event.Path, "sallyport/")
		count[stage]++
		ids[event.DecisionID] = true
		remembered = remembered || event.Custom["memoised"] == true
		in := event.Input
		if event.DecisionID == "" || event.Revision == "" || event.Labels["region"] != "eu" || in.Session["id"] != event.Custom["session"] ||
			in.Source["ip"] != "127.0.0.1" || (in.Source["port"] == nil) != masked {
			t.Errorf("%s: %+v", sink, event)
		}
		if stage == "route" && (in.Request["command"] != "connect" || in.Target["host"] != "127.0.0.1" || in.Identity["name"] == "") ||
			stage == "dial" && (in.Address["ip"] != "127.0.0.1" || event.Builtins["time.now_ns"] == nil) {
			t.Errorf("%s: %+v", sink, event)
		}
	}
	admitted := 7
	if masked {
		admitted = 0
	}
	if count["admit"] != admitted || count["authenticate"] != 7 || count["route"] != 3 || count["dial"] != 3 || len(ids) != admitted+13 || !remembered {
		t.Errorf("%s: %v decisions, %d ids, remembered %v", sink, count, len(ids), remembered)
	}
}

// Where logging is mandatory, a disk that is full refuses everybody, and says so;
// once there is room again, everybody is served.
func TestAFullDiskRefusesWhereLoggingIsMandatory(t *testing.T) {
	t.Parallel()
	target, dir := serveEcho(t, "127.0.0.1:0"), t.TempDir()
	file := filepath.Join(dir, "decisions.log")
	if err := os.Symlink("/dev/full", file); err != nil {
		t.Skip(err)
	}
	s := startBundles(t, fmt.Sprintf(`
decision_logs: {plugin: file_logger}
plugins: {file_logger: {path: %q}}
`, file), "--data", settings(t, loopback, target.port), "--set", "policy.decision_log.when_full=wait")
	request := fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", target.port)
	dialDoor(t, s.addr).say(request).hear("HTTP/1.1 ").Close() // whose decisions find out
	s.wait(t, 0, "the decision log is not written")
	dialDoor(t, s.addr).say(request).hear("HTTP/1.1 503 ").Close()
	s.waitFor(t, "why", func(line map[string]any) bool {
		return line["msg"] == "session" && line["outcome"] == "fault" && strings.Contains(fmt.Sprint(line["cause"]), "can't be logged") &&
			strings.Contains(fmt.Sprint(line["cause"]), "no space left on device")
	})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.cmd.Process.Signal(syscall.SIGHUP)
	s.wait(t, 0, "the decision log is written again")
	dialDoor(t, s.addr).say(request).hear("HTTP/1.1 200 ").Close()
	s.terminate(t)
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), `"path":"sallyport/dial"`) {
		t.Errorf("%v: %s", err, text)
	}
}
