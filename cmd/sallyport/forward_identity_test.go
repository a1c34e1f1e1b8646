package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

func proxyAuthorization(name, password string) string {
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password)) + "\r\n"
}

// A login that fails ends its connection, so that whoever guesses passwords comes
// by admit for each of them. That credentials are missing does not: most clients
// send none before they are asked to.
func TestFailedLoginsEndTheirConnection(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(http.ResponseWriter, *http.Request) {})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "admit.rego"), `package sallyport.admit
default allow := false
allow if input.source.failures.minute < 3
`)
	write(t, filepath.Join(dir, "authenticate.rego"), `package sallyport.authenticate
default allow := false
allow if input.credentials.verified
`)
	s := start(t, "--policy", dir, "--data", settings(t, loopback, port), "--data", usersFile(t, map[string]string{"alice": "right horse"}))
	get := func(fields string) string { return "GET http://" + at + "/ HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" }
	right := get(proxyAuthorization("alice", "right horse"))

	for _, wrong := range []string{
		proxyAuthorization("alice", "battery"),
		proxyAuthorization("mallory", "right horse"),
		"Proxy-Authorization: Bearer e30.e30.e30\r\n",
	} {
		d := dialDoor(t, s.addr)
		r := bufio.NewReader(d)
		if res, _ := d.ask(r, "GET", get("")); res.StatusCode != 407 || res.Close {
			t.Fatalf("a request without credentials is answered by %v", res)
		}
		d.say(get(wrong) + right)
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != 407 || !res.Close {
			t.Fatalf("%q is answered by %v, %v", wrong, res, err)
		}
		io.Copy(io.Discard, res.Body)
		if rest, _ := io.ReadAll(r); len(rest) > 0 {
			t.Errorf("behind %q comes %q", wrong, rest)
		}
	}
	d := dialDoor(t, s.addr)
	if res, _ := d.ask(bufio.NewReader(d), "GET", right); res.StatusCode != 403 {
		t.Errorf("behind three failed logins a request is answered by %v", res)
	}
}

// A connection to a server carries the requests of one identity only: servers
// there are that authenticate connections.
func TestIdentitiesShareNoOriginConnection(t *testing.T) {
	t.Parallel()
	at, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })
	policy := write(t, filepath.Join(t.TempDir(), "authenticate.rego"), `package sallyport.authenticate
default allow := true
`)
	s := start(t, "--policy", policy, "--data", settings(t, loopback, port),
		"--data", usersFile(t, map[string]string{"alice": "right horse", "bob": "wrong horse"}))
	d := dialDoor(t, s.addr)
	r := bufio.NewReader(d)
	var from []string
	for _, fields := range []string{
		proxyAuthorization("alice", "right horse"), proxyAuthorization("alice", "right horse"),
		proxyAuthorization("bob", "wrong horse"), "", "",
	} {
		res, body := d.ask(r, "GET", fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: a\r\n%s\r\n", at, fields))
		if res.StatusCode != 200 {
			t.Fatalf("%q is answered by %v", fields, res)
		}
		from = append(from, body)
	}
	if from[0] != from[1] || from[1] == from[2] || from[2] == from[3] || from[3] != from[4] {
		t.Errorf("the server is called from %s", strings.Join(from, ", "))
	}
}
