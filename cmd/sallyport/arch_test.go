package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// rooms is who may import whom, by path below the module; the standard
// library and other modules are not in it. A room that is missing here, or an
// arrow that is, fails the test: draw it here first, and see that it points
// down.
var rooms = map[string][]string{
	"policy":            {},
	"policy/audit":      {},
	"bundles":           {},
	"proxy/loop":        {},
	"proxy/relay":       {"proxy/loop"},
	"proxy/secret":      {},
	"proxy/store":       {},
	"proxy/wire/http":   {},
	"proxy/wire/sniff":  {},
	"proxy/wire/socks4": {},
	"proxy/wire/socks5": {},
	"proxy/wire/target": {},
	"policy/engine":     {"bundles", "policy"},
	"policy/distribute": {"policy", "policy/audit", "policy/engine"},
	"proxy/config":      {"proxy/secret"},
	"proxy/dial":        {"proxy/loop", "proxy/secret", "proxy/wire/http", "proxy/wire/socks4", "proxy/wire/socks5"},
	"proxy/geo":         {"policy"},
	"proxy/guard":       {},
	"proxy/process":     {"policy"},
	"proxy/identity":    {"proxy/secret", "proxy/store"},
	"proxy/listen":      {"proxy/loop", "proxy/secret"},
	"proxy/session":     {"proxy/relay"},
	"proxy/usage":       {"policy"},
	"proxy":             {"policy", "proxy/dial", "proxy/guard", "proxy/identity", "proxy/listen", "proxy/loop", "proxy/relay", "proxy/session", "proxy/usage", "proxy/wire/http", "proxy/wire/sniff", "proxy/wire/socks4", "proxy/wire/socks5", "proxy/wire/target"},
	"proxy/upstream":    {"policy", "proxy/dial"},
	"proxy/manage":      {"policy", "proxy/guard", "proxy/identity", "proxy/process", "proxy/secret", "proxy/session", "proxy/usage"},
	"telemetry":         {"policy", "proxy/session"},
	"cmd/bench":         {"proxy/wire/http", "proxy/wire/socks5"}, // measures from outside
	"cmd/sallyport":     nil,                                      // knows everyone

	"proxy/internal/testnet": {}, // is for tests
}

func TestRooms(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "sallyport/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		room := strings.TrimPrefix(p.ImportPath, "sallyport/")
		may, known := rooms[room]
		if !known {
			t.Errorf("%s is in no table of rooms", room)
			continue
		}
		for _, i := range p.Imports {
			if strings.HasPrefix(i, "github.com/open-policy-agent/") && !strings.HasPrefix(room, "policy/") {
				t.Errorf("%s imports %s: OPA is for policy/ only", room, i)
			}
			below, ours := strings.CutPrefix(i, "sallyport/")
			if ours && may != nil && !slices.Contains(may, below) {
				t.Errorf("%s may not import %s", room, below)
			}
			if (room == "policy" || room == "policy/audit") && strings.Contains(strings.Split(i, "/")[0], ".") {
				t.Errorf("%s may import the standard library only, not %s", room, i)
			}
		}
	}
	if seen != len(rooms) {
		t.Errorf("%d rooms are listed, %d exist", len(rooms), seen)
	}
}
