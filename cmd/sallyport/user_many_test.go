package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/proxy/identity"
)

// accounts are all users, by name.
func (k *userKeeper) accounts(t *testing.T) map[string]identity.Account {
	t.Helper()
	var list struct{ Users []identity.Account }
	must(t, json.Unmarshal([]byte(k.users(t, "", "list", "--format", "json")), &list))
	all := map[string]identity.Account{}
	for _, a := range list.Users {
		all[a.Name] = a
	}
	return all
}

// A file that Apache's own program has made is taken in, a thousand users at
// once, and none of it where one line is too weak or one name is taken.
func TestUserImport(t *testing.T) {
	t.Parallel()
	htpasswd := installed(t, "htpasswd")
	k := keepUsers(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "htpasswd")
	make := func(args ...string) {
		t.Helper()
		if out, err := client(t, "", nil, htpasswd, args...); err != nil {
			t.Fatalf("htpasswd %v: %v %s", args, err, out)
		}
	}
	make("-cbB", "-C", "4", file, "ann", "right horse")
	make("-bB", "-C", "4", file, "jürgen", "ünïcode")
	lines := strings.Split(strings.TrimSpace(readFile(t, file)), "\n")
	_, hash, _ := strings.Cut(lines[0], ":")
	const many = 1000
	for i := range many - len(lines) {
		lines = append(lines, fmt.Sprintf("user%d:%s", i, hash))
	}
	write(t, file, strings.Join(lines, "\n")+"\n")
	if out := k.users(t, "", "import", "htpasswd", file, "--group", "staff", "--group", "web"); out != fmt.Sprintf("imported %d\n", many) {
		t.Errorf("the import says %q", out)
	}
	all := k.accounts(t)
	if len(all) != many || fmt.Sprint(all["user7"].Groups) != "[staff web]" || all["ann"].Algorithm != "bcrypt" {
		t.Errorf("%d users; user7 is %+v", len(all), all["user7"])
	}
	for name, password := range map[string]string{"ann": "right horse", "jürgen": "ünïcode", "user997": "right horse"} {
		if !k.logsIn(t, name, password) || k.logsIn(t, name, password+"x") {
			t.Errorf("%s cannot log in, or by any password", name)
		}
	}

	// What is refused, is refused as a whole.
	weak := filepath.Join(dir, "weak")
	make("-cbB", "-C", "4", weak, "good", "x")
	make("-bm", weak, "md5", "hunter2")
	make("-bs", weak, "sha", "hunter2")
	make("-bd", weak, "crypt", "hunter2")
	make("-bp", weak, "plain", "hunter2")
	out, exit := k.user("", "import", "htpasswd", weak)
	for i, name := range []string{"md5", "sha", "crypt", "plain"} {
		if !strings.Contains(out, fmt.Sprintf("sallyport: %s:%d: %q: ", weak, i+2, name)) {
			t.Errorf("line %d of the weak file is not told of: %s", i+2, out)
		}
	}
	if exit != 2 || strings.Contains(out, "hunter2") {
		t.Errorf("the weak file: %d %s", exit, out)
	}
	write(t, weak, "new:"+hash+"\nann:"+hash+"\nuser7:"+hash+"\n")
	out, exit = k.user("", "import", "htpasswd", weak)
	if exit != 1 || !strings.Contains(out, `users["ann"]: exists already`) || !strings.Contains(out, `users["user7"]: exists already`) {
		t.Errorf("names that are taken: %d %s", exit, out)
	}
	if len(k.accounts(t)) != many {
		t.Error("a part of what was refused was written")
	}
	k.users(t, "", "disable", "user7")
	if out := k.users(t, readFile(t, weak), "import", "htpasswd", "-", "--update"); out != "imported 3\n" {
		t.Errorf("the update says %q", out)
	}
	all = k.accounts(t)
	if len(all) != many+1 || !all["user7"].Disabled || fmt.Sprint(all["user7"].Groups, all["new"].Groups) != "[staff web] []" {
		t.Errorf("after the update user7 is %+v, new is %+v", all["user7"], all["new"])
	}

	// Groups are for those who are new.
	k.users(t, readFile(t, weak)+"newer:"+hash+"\n", "import", "htpasswd", "-", "--update", "--group", "guests")
	all = k.accounts(t)
	if got := fmt.Sprint(all["user7"].Groups, all["new"].Groups, all["newer"].Groups); got != "[staff web] [] [guests]" {
		t.Errorf("after an update with a group: %s", got)
	}
}

// What was acknowledged is there after kill -9 at any moment, and nothing else
// than what was written.
func TestUserWritesOutliveKill(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state.db")
	const writers, rounds = 4, 12
	var mu sync.Mutex
	acknowledged := map[string]int{} // the last write of each user that was answered; -1: its removal
	begun := map[string]int{}        // the last one that was sent
	check := func(k *userKeeper, round int) {
		all := k.accounts(t)
		for name, last := range acknowledged {
			a, there := all[name]
			got := -1
			if there {
				text, err := json.Marshal(a.Attributes["n"])
				must(t, err)
				fmt.Sscan(string(text), &got)
			}
			if got != last && got != begun[name] {
				t.Errorf("round %d: of %s there is %d, acknowledged was %d, and begun %d", round, name, got, last, begun[name])
			}
			acknowledged[name], begun[name] = got, got
		}
	}
	for round := range rounds {
		k := keepUsers(t, "--set", "state.path="+state)
		check(k, round)
		enough := make(chan struct{}, 1000)
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for n := 1; ; n++ {
					name, number := fmt.Sprintf("w%d-%d", w, n%7), round*10_000+n
					method, body := "PUT", fmt.Sprintf(`{"hash": "$2a$04$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "attributes": {"n": %d}}`, number)
					if n%5 == 4 {
						method, body, number = "DELETE", "", -1
					}
					mu.Lock()
					begun[name] = number
					if _, known := acknowledged[name]; !known {
						acknowledged[name] = -1
					}
					mu.Unlock()
					r, err := http.NewRequest(method, "http://"+k.at+"/v1/users/"+name, strings.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					r.Header.Set("Authorization", "Bearer "+k.token)
					response, err := http.DefaultClient.Do(r)
					if err != nil {
						return // it was killed
					}
					response.Body.Close()
					if s := response.StatusCode; s != 200 && s != 204 && s != 404 {
						t.Errorf("%s of %s: %d", method, name, s)
						return
					}
					mu.Lock()
					acknowledged[name] = number
					mu.Unlock()
					enough <- struct{}{}
				}
			})
		}
		for range 5 + 11*round {
			<-enough
		}
		k.cmd.Process.Kill()
		all.Wait()
		k.cmd.Wait()
	}
	check(keepUsers(t, "--set", "state.path="+state), rounds)
	if len(acknowledged) != writers*7 {
		t.Errorf("%d users were written", len(acknowledged))
	}
}

// A password that is asked for at a terminal is not shown, and asked for twice.
func TestUserPrompt(t *testing.T) {
	t.Parallel()
	k := keepUsers(t)
	for name, c := range map[string]struct {
		answers [2]string
		says    string
		exit    int
	}{
		"ann": {[2]string{"right horse", "right horse"}, "added ann", 0},
		"bob": {[2]string{"right horse", "left horse"}, "the two passwords are not the same", 2},
	} {
		main, terminal := openTerminal(t)
		cmd := program("user", "--management", k.at, "--token-file", k.tokenFile, "add", name)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
		must(t, cmd.Start())
		terminal.Close()
		shown := bufio.NewReader(main)
		var all bytes.Buffer
		for i, prompt := range []string{"Password: ", "Again: "} {
			for !strings.HasSuffix(all.String(), prompt) {
				b, err := shown.ReadByte()
				if err != nil {
					t.Fatalf("no %q: %q", prompt, all.String())
				}
				all.WriteByte(b)
			}
			waitForNoEcho(t, main)
			io.WriteString(main, c.answers[i]+"\n")
		}
		io.Copy(&all, shown) // ends with an error, as terminals do
		cmd.Wait()
		if text := all.String(); cmd.ProcessState.ExitCode() != c.exit || !strings.Contains(text, c.says) || strings.Contains(text, "horse") {
			t.Errorf("%s: %d %q", name, cmd.ProcessState.ExitCode(), text)
		}
	}
	if !k.logsIn(t, "ann", "right horse") || len(k.accounts(t)) != 1 {
		t.Error("ann cannot log in, or is not alone")
	}
}

func openTerminal(t *testing.T) (main, terminal *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	must(t, err)
	main = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { main.Close() })
	must(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	must(t, err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	return main, terminal
}

// waitForNoEcho waits until the terminal shows nothing of what is typed.
func waitForNoEcho(t *testing.T, terminal *os.File) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
		must(t, err)
		if state.Lflag&unix.ECHO == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the terminal shows what is typed")
		}
		runtime.Gosched()
	}
}

// What is kept of a client ends with its user, too: a connection that is used again
// for another request, and the destinations of a UDP association.
func TestUserLosesWhatIsKept(t *testing.T) {
	t.Parallel()
	_, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	defer packets.Close()
	udp := uint16(packets.LocalAddr().(*net.UDPAddr).Port)
	k := keepUsers(t, "--data", settings(t, loopback, port, udp), "--policy", write(t, filepath.Join(t.TempDir(), "route.rego"), `package sallyport.route

default allow := false

allow if input.request.command in {"forward", "associate"}

allow if not "barred" in input.identity.groups
`))
	k.put(t, map[string]string{"ann": "p", "bob": "p"})
	get := fmt.Sprintf("GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nProxy-Authorization: Basic YW5uOnA=\r\n\r\n", port, port)
	c := dialDoor(t, k.addr)
	r := bufio.NewReader(c)
	for range 2 {
		if res, body := c.ask(r, "GET", get); res.StatusCode != 200 || body != "hello" {
			t.Fatalf("ann is told %d %s", res.StatusCode, body)
		}
	}
	k.users(t, "", "disable", "ann")
	if res, _ := c.ask(r, "GET", get); res.StatusCode != 407 {
		t.Errorf("once disabled ann is told %d", res.StatusCode)
	}

	control := dialDoor(t, k.addr).say("\x05\x01\x02" + login("bob", "p") + "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
	relay := make([]byte, 6)
	_, err = io.ReadFull(control.hear("\x05\x02\x01\x00\x05\x00\x00\x01"), relay)
	must(t, err)
	socket, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: relay[:4], Port: int(relay[4])<<8 | int(relay[5])})
	must(t, err)
	defer socket.Close()
	send := func(text string) {
		t.Helper()
		_, err := socket.Write([]byte("\x00\x00\x00\x01\x7f\x00\x00\x01" + string([]byte{byte(udp >> 8), byte(udp)}) + text))
		must(t, err)
	}
	arrives := func() string {
		t.Helper()
		buffer := make([]byte, 100)
		must(t, packets.SetReadDeadline(time.Now().Add(20*time.Second)))
		n, _, err := packets.ReadFrom(buffer)
		must(t, err)
		return string(buffer[:n])
	}
	send("one")
	if got := arrives(); got != "one" {
		t.Fatalf("what arrives is %q", got)
	}
	k.users(t, "", "set", "bob", "--group", "barred")
	k.wait(t, 0, "live sessions asked again")
	send("two")
	for end := time.Now().Add(20 * time.Second); ; {
		if _, text := k.api(t, "GET", "/v1/sessions", ""); strings.Contains(text, `"dropped":1`) {
			break
		} else if time.Now().After(end) {
			t.Fatalf("no datagram was refused: %s", text)
		}
	}
	k.users(t, "", "set", "bob", "--no-groups")
	k.wait(t, 1, "live sessions asked again")
	send("three")
	if got := arrives(); got != "three" {
		t.Errorf("what arrives is %q, though the user may not have sent it", got)
	}
}
