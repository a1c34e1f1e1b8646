package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A live session stays where a new policy may still lead it, and is cut where it
// leads another way.
func TestLiveWays(t *testing.T) {
	t.Parallel()
	micro, squid := startMicrosocks(t), startSquid(t)
	target := serveEcho(t, "0.0.0.0:0")
	dir := t.TempDir()
	group := func(names ...string) []any { return []any{map[string]any{"any": names, "by": "order"}} }
	save := func(name string, ways, resolve map[string]any, denied ...string) {
		text, err := json.Marshal(map[string]any{"name": name, "ways": ways, "resolves": resolve, "denied": append([]string{}, denied...)})
		if err != nil {
			t.Fatal(err)
		}
		next := write(t, filepath.Join(t.TempDir(), "next"), string(text))
		if err := os.Rename(next, filepath.Join(dir, "data.json")); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "route.rego"), `package sallyport.route

default allow := false

allow if input.request.command == "connect"

default via := []

via := data.ways[input.target.host]

resolve := data.resolves[input.target.host]

labels := {"name": data.name}
`)
	write(t, filepath.Join(dir, "dial.rego"), `package sallyport.dial

default allow := false

allow if input.address.scope == "loopback"

deny contains "not there" if input.address.ip in data.denied
`)
	before := map[string]any{
		"127.0.0.2": group("micro", "squid"), "127.0.0.3": group("micro", "squid"), "127.0.0.4": []string{"micro"},
		"127.0.0.5": []string{"micro"}, "127.0.0.6": []string{"micro"}, "localhost": []string{"micro"},
	}
	save("first", before, nil)
	s := start(t, "--policy", dir, "--config", write(t, filepath.Join(t.TempDir(), "c.yaml"), upstreamsFile(map[string]string{
		"micro": "socks5h://" + micro.addr, "squid": "http://" + squid.addr,
	})))
	tunnels := map[string]*talk{}
	for _, host := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6", "127.0.0.7", "localhost"} {
		c := dialDoor(t, s.addr).say(greeting).hear(chosen).say(connectTo(host, target.port)).hear("\x05\x00")
		io.ReadFull(c, make([]byte, 8))
		tunnels[host] = c.say("hello").hear("hello")
	}
	save("second", map[string]any{
		"127.0.0.2": group("squid", "micro"),    // it goes through micro, which is one of them
		"127.0.0.3": group("squid"),             // it is none of them any more
		"127.0.0.4": []string{"micro", "squid"}, // it was the last one
		"127.0.0.6": []string{"micro"},          // its address is denied
		"127.0.0.7": []string{"micro"},          // it went directly
		"localhost": []string{"micro"},          // its name is looked up here now
	}, map[string]any{"localhost": "local"}, "127.0.0.6")
	for host, cause := range map[string]string{
		"127.0.0.3": "policy REV leads through squid",
		"127.0.0.4": "policy REV leads through micro, then squid",
		"127.0.0.5": "policy REV leads directly",
		"127.0.0.6": "policy REV denies (dial): not there",
		"127.0.0.7": "policy REV leads through micro",
		"localhost": "policy REV has the name looked up here",
	} {
		if rest, _ := tunnels[host].rest(); rest != "" {
			t.Errorf("%s: after the cut comes %q", host, rest)
		}
		r := s.sessionOf(t, host)
		want := "cut: " + strings.ReplaceAll(cause, "REV", fmt.Sprint(r["policy.revision"]))
		if r["outcome"] != "cut" || r["cause"] != want {
			t.Errorf("%s: %v: %v, want %s", host, r["outcome"], r["cause"], want)
		}
	}
	tunnels["127.0.0.2"].say("still").hear("still")
}
