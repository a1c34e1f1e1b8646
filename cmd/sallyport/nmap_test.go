package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// What a scanner reports of the door, open and locked.
func TestNmap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	locked := write(t, filepath.Join(dir, "authenticate.rego"), `package sallyport.authenticate

default allow := false

allow if input.credentials.verified
`)
	required := write(t, filepath.Join(dir, "admit.rego"), `package sallyport.admit

default allow := true

methods := {"password"}
`)
	names := write(t, filepath.Join(dir, "names"), "bob\nann\n")
	words := write(t, filepath.Join(dir, "words"), "secret\nright horse\n")
	for name, c := range map[string]struct {
		policies []string
		says     []string
		never    []string
	}{
		"open":     {nil, []string{"http-open-proxy: Potentially OPEN proxy.\n|_Methods supported: GET HEAD CONNECTION", "No authentication", "Username and password", "ann:right horse - Valid credentials"}, []string{"bob:"}},
		"locked":   {[]string{locked}, []string{"Username and password", "ann:right horse - Valid credentials"}, []string{"OPEN proxy", "bob:"}},
		"required": {[]string{required}, []string{"Username and password", "ann:right horse - Valid credentials"}, []string{"OPEN proxy", "bob:", "No authentication"}},
	} {
		t.Run(name, func(t *testing.T) {
			nmap := installed(t, "nmap")
			ownNetwork(t)
			_, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Server", "behind")
				io.WriteString(w, "hello")
			})
			// The script for open proxies looks a name up, at port 53 of a server, and asks
			// for port 80 of what it finds, which is an address for documents.
			lookup := false
			if c, err := net.ListenPacket("udp", "127.0.0.53:53"); err == nil {
				serveNamesOn(t, c, map[string][]string{"open.example.": {"192.0.2.1"}})
				lookup = true
			}
			open := write(t, filepath.Join(t.TempDir(), "route.rego"), fmt.Sprintf(`package sallyport.route

default allow := false

allow if {
	input.target.host in {"192.0.2.1", "open.example"}
	input.target.port == 80
}

redirect := {"host": "127.0.0.1", "port": %d}
`, port))
			args := []string{"--data", settings(t, loopback, port), "--policy", open, "--data", usersFile(t, map[string]string{"ann": "right horse"})}
			for _, policy := range c.policies {
				args = append(args, "--policy", policy)
			}
			s := start(t, args...)
			_, door, _ := net.SplitHostPort(s.addr)
			out, err := client(t, "", nil, nmap, "-Pn", "--dns-servers", "127.0.0.53", "-p", door, "--script", "+socks-open-proxy,+socks-auth-info,+socks-brute,+http-open-proxy",
				"--script-args", "proxy.url=http://open.example/,proxy.pattern=behind,userdb="+names+",passdb="+words, "127.0.0.1")
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if name == "open" && lookup {
				c.says = append(c.says, "socks-open-proxy: \n|   status: open\n|   versions: \n|     socks4\n|_    socks5")
			}
			for _, says := range c.says {
				if !strings.Contains(out, says) {
					t.Errorf("it does not say %q:\n%s", says, out)
				}
			}
			for _, never := range c.never {
				if strings.Contains(out, never) {
					t.Errorf("it says %q:\n%s", never, out)
				}
			}
		})
	}
}
