package main

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
)

// What a new policy does not allow any more ends with it: single destinations,
// in both directions, or the whole association.
func TestDatagramsFollowThePolicy(t *testing.T) {
	t.Parallel()
	one, two := servePackets(t, "127.0.0.1:0"), servePackets(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(two.at)
	names := serveNames(t, map[string][]string{"two.example.": {"127.0.0.1"}})
	file := filepath.Join(t.TempDir(), "data.json")
	write(t, file, `{"denied": [], "associate": true}`)
	s := start(t, "--policy", udpPolicy(t, "deny contains \"no UDP any more\" if {\n\tinput.request.command == \"associate\"\n\tnot data.associate\n}\nsession_limits := data.limits if input.request.command == \"associate\"\n"),
		"--policy", dialPolicy(t), "--data", file, "--set", "dns.servers="+names.addr)
	s.wait(t, 0, "policy active")
	policies := 1
	follow := func(data string) {
		t.Helper()
		write(t, file, data)
		s.wait(t, policies, "policy active")
		s.wait(t, policies-1, "live sessions asked again")
		policies++
	}
	a := associate(t, s.addr)
	a.send(one.at, "1").want("1", one.at)
	a.send(two.at, "2").want("2", two.at)
	a.send("two.example:"+port, "by name").want("by name", two.at)
	var from = (<-two.came).from
	<-two.came
	two.WriteToUDPAddrPort([]byte("push"), from)
	a.want("push", two.at)

	follow(fmt.Sprintf(`{"denied": [%s], "associate": true}`, port))
	two.WriteToUDPAddrPort([]byte("late"), from)
	a.send(one.at, "still").want("still", one.at)
	a.send(two.at, "no").send("two.example:"+port, "no").send(one.at, "still").want("still", one.at)
	two.nothing(t)

	follow(`{"denied": [], "associate": true}`)
	a.send(two.at, "back").want("back", two.at)
	a.send("two.example:"+port, "back").want("back", two.at)

	follow(`{"denied": [], "associate": true, "limits": {"bytes": 60}}`)
	b := associate(t, s.addr)
	b.send(two.at, "its own").want("its own", two.at)
	a.send(two.at, "too much").control.rest() // which both directions have been before
	_, r := s.ended(t, 0)
	if r["cause"] != "bytes_spent" {
		t.Errorf("under a new limit: %v", r)
	}

	follow(`{"denied": [], "associate": false}`)
	if rest, err := b.control.rest(); rest != "" || err != nil {
		t.Errorf("the connection ends with %q, %v", rest, err)
	}
	_, r = s.ended(t, 1)
	if r["outcome"] != "cut" || fmt.Sprint(r["reasons"]) != "[no UDP any more]" {
		t.Errorf("%v", r)
	}
}
