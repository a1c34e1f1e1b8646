package main

import (
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// A delay that is longer than the handshake may take ends before it: what was
// decided is told, in each protocol, and is what the log says.
func TestDelayBeyondTheHandshake(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	dir := t.TempDir()
	s := start(t, "--set", "limits.handshake=1s", "--data", settings(t, loopback, port), "--data", usersFile(t, map[string]string{"ann": "right"}),
		"--policy", write(t, filepath.Join(dir, "admit.rego"), `package sallyport.admit

default allow := false

allow if input.source.ip != "127.0.0.7"

delay := "1h" if input.source.ip in {"127.0.0.7", "127.0.0.8"}
`), "--policy", write(t, filepath.Join(dir, "authenticate.rego"), `package sallyport.authenticate

default allow := false

allow if input.credentials.method == "none"

delay := "1h"
`))
	for i, c := range []struct{ from, proxy, says, outcome string }{
		{"127.0.0.7", "http://" + s.addr, "response 403", "denied"},
		{"127.0.0.7", "socks5h://" + s.addr, "(2)", "denied"},
		{"127.0.0.9", "http://ann:wrong@" + s.addr, "response 407", "denied"},
		{"127.0.0.9", "socks5h://ann:wrong@" + s.addr, "User was rejected by the SOCKS5 server", "denied"},
		{"127.0.0.8", "http://" + s.addr, "hello", "ok"},
		{"127.0.0.9", "socks4a://" + s.addr, "hello", "ok"},
		{"127.0.0.8", "socks5h://" + s.addr, "hello", "ok"},
	} {
		out, _ := curl(t, "-p", "--interface", c.from, "-x", c.proxy, "http://"+at+"/")
		if !strings.Contains(out, c.says) {
			t.Errorf("%s from %s: %s", c.proxy, c.from, out)
		}
		if r := s.wait(t, i, "session"); r["outcome"] != c.outcome {
			t.Errorf("%s from %s: the log says %v", c.proxy, c.from, r)
		}
	}
}
