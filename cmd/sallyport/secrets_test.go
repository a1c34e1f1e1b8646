package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// tool runs another program, or this one, with input, and gives what it prints.
func tool(t *testing.T, c *exec.Cmd, input string) string {
	t.Helper()
	c.Stdin = strings.NewReader(input)
	var out, complaints bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaints
	if err := c.Run(); err != nil {
		t.Fatalf("%q: %v\n%s", c.Args, err, complaints.String())
	}
	return out.String()
}

// The age command decrypts what we encrypt, and the other way round, with every
// kind of key and in both forms.
func TestAgeItself(t *testing.T) {
	need(t, "age", "age-keygen", "ssh-keygen")
	t.Chdir(t.TempDir())
	tool(t, exec.Command("age-keygen", "-o", "key.txt"), "")
	tool(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "id"), "")
	for key, recipient := range map[string]string{
		"key.txt": strings.TrimSpace(tool(t, exec.Command("age-keygen", "-y", "key.txt"), "")),
		"id":      strings.TrimSpace(readFile(t, "id.pub")),
	} {
		write(t, "recipients", "# us\n"+recipient+"\n")
		text := "plain text of " + key + "\n"
		for _, arguments := range [][]string{
			{"--recipient", recipient}, {"--recipients-file", "recipients", "--binary"}, {"--age-identity", key},
		} {
			sealed := tool(t, program(append(append([]string{"config", "encrypt"}, arguments...), "-")...), text)
			if got := tool(t, exec.Command("age", "--decrypt", "-i", key), sealed); got != text || strings.Contains(sealed, "plain") {
				t.Errorf("%q: age reads %q", arguments, got)
			}
		}
		for _, arguments := range [][]string{{"-r", recipient}, {"-a", "-R", "recipients"}} {
			sealed := tool(t, exec.Command("age", arguments...), text)
			if got := tool(t, program("config", "decrypt", "--age-identity", key, "-"), sealed); got != text {
				t.Errorf("%q: we read %q", arguments, got)
			}
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A passphrase is asked for on the terminal, and nowhere else.
func TestPassphraseOfAKey(t *testing.T) {
	need(t, "ssh-keygen", "script")
	t.Chdir(t.TempDir())
	tool(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", "id"), "")
	sealed := tool(t, program("config", "encrypt", "--recipient", strings.TrimSpace(readFile(t, "id.pub")), "-"), "limits: {idle: 3m}")
	write(t, "sallyport.yaml.age", sealed)

	c := program("config", "show", "--config", "sallyport.yaml.age", "--age-identity", "id")
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // away from this one's terminal
	c.Stdin = strings.NewReader("open sesame\n")
	out, err := c.CombinedOutput()
	const refused = `sallyport: --age-identity: identity file "id": is protected by a passphrase: there is no terminal to ask for it`
	if err == nil || !strings.HasPrefix(string(out), refused) {
		t.Errorf("without a terminal: %v, %s", err, out)
	}
	self, _ := os.Executable()
	t.Setenv(asProgram, "1")
	asked := tool(t, exec.Command("script", "-qec", self+" config show --config sallyport.yaml.age --age-identity id", "/dev/null"), "open sesame\n")
	if !strings.Contains(asked, "Passphrase of id: ") || !strings.Contains(asked, "idle: 3m0s") || strings.Contains(asked, "sesame") && !strings.HasPrefix(asked, "open sesame") {
		t.Errorf("on a terminal: %s", asked)
	}
}

// Every place where a configuration takes a secret has one of its own here, by
// every way in. They do their work, and are nowhere to be seen.
func TestNoSecretOfTheConfigurationIsShown(t *testing.T) {
	need(t, "age", "age-keygen")
	dir := t.TempDir()
	t.Chdir(dir)
	tool(t, exec.Command("age-keygen", "-o", "key.txt"), "")
	recipient := strings.TrimSpace(tool(t, exec.Command("age-keygen", "-y", "key.txt"), ""))
	seal := func(name, text string) {
		write(t, name, tool(t, exec.Command("age", "-a", "-r", recipient), text))
	}
	presented := make(chan [2]string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case presented <- [2]string{r.Header.Get("Authorization"), r.Header.Get("X-Api-Key")}:
		default:
		}
		http.Error(w, "no "+r.Header.Get("Authorization"), http.StatusForbidden) // some repeat what they are shown
	}))
	t.Cleanup(server.Close)
	target := serveEcho(t, "127.0.0.1:0")

	secrets := map[string]string{}
	hush := func(where string) string {
		secrets[where] = "hush-" + where + "-0123456789"
		return secrets[where]
	}
	write(t, "token", hush("file"))
	seal("token.age", hush("sealed-file")+"\n")
	seal("users.json.age", fmt.Sprintf(`{"settings": {"allow_ports": [%d], "allow_private": ["127.0.0.0/8"], "note": %q}}`, target.port, hush("data")))
	seal("sallyport.yaml.age", `
log: {level: debug}
management:
  tokens:
    literal: {token: `+hush("literal")+`, roles: [admin]}
    env: {token: "${env:HUSH_ENV}", roles: [admin]}
    file: {token: "${file:token}", roles: [admin]}
    credential: {token: "${file:${env:CREDENTIALS_DIRECTORY}/token.age}", roles: [admin]}
policy:
  data: [users.json.age]
  opa:
    services:
      bearer:
        url: "`+server.URL+`"
        credentials: {bearer: {token: `+hush("bearer")+`}}
        headers: {X-Api-Key: `+hush("header")+`}
      oauth: {url: "`+server.URL+`", credentials: {oauth2: {token_url: "https://127.0.0.1:1/t", client_id: me, client_secret: `+hush("oauth")+`}}}
    keys: {release: {algorithm: HS256, key: `+hush("hmac")+`}}
    decision_logs: {service: bearer, console: true, reporting: {min_delay_seconds: 1, max_delay_seconds: 1}}
    status: {service: oauth}
`)
	secrets["env"] = "hush-env-0123456789"
	arguments := []string{"--config", "sallyport.yaml.age", "--age-identity", "key.txt", "--set", "state.path=" + filepath.Join(dir, "state.db")}
	environment := []string{"HUSH_ENV=" + secrets["env"], "CREDENTIALS_DIRECTORY=" + dir}
	command := func(args ...string) *exec.Cmd {
		c := program(append(args, arguments...)...)
		c.Env = append(c.Env, environment...)
		return c
	}
	shown := map[string]string{}
	for _, args := range [][]string{{"check"}, {"check", "--format", "json"}, {"config", "show"}, {"config", "show", "--format", "json"},
		{"check", "--set", "limits.idle=x"}, {"check", "--set", "policy.opa.services.bearer.credentials.bearer=7"}} {
		out, _ := command(args...).CombinedOutput()
		shown[strings.Join(args, " ")] = string(out)
	}
	if text := shown["config show"]; !strings.Contains(text, "token: '[redacted]'") || !strings.Contains(text, "level: debug") {
		t.Errorf("config show prints %s", text)
	}

	s := follow(t, command("run", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"))
	output := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(s.stdout)
		output <- string(text)
	}()
	address := "http://" + s.wait(t, 0, "management")["address"].(string)
	for _, name := range []string{"literal", "env", "file", "sealed-file"} {
		for _, path := range []string{"/v1/policy", "/v1/sessions", "/metrics"} {
			status, text := call(t, "GET", address+path, secrets[name])
			if status != 200 {
				t.Errorf("%s with the token of %s: %d %s", path, name, status, text)
			}
			shown[path] += text
		}
	}
	_, shown["a refusal"] = call(t, "GET", address+"/v1/policy", secrets["literal"]+"x")
	_, shown["a reload"] = call(t, "POST", address+"/v1/reload", secrets["literal"])
	exchange(t, s.addr, "CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n")
	s.wait(t, 0, "session")
	if got := <-presented; got != [2]string{"Bearer " + secrets["bearer"], secrets["header"]} {
		t.Errorf("the server was shown %q", got)
	}
	for _, file := range []string{"cmdline", "stat", "maps"} {
		shown[file] = readFile(t, fmt.Sprintf("/proc/%d/%s", s.cmd.Process.Pid, file))
	}
	s.cmd.Process.Signal(syscall.SIGQUIT) // every goroutine's stack
	s.wait(t, 0, "eof")
	s.cmd.Wait()
	shown["standard output"] = <-output
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.log {
		shown["the log"] += fmt.Sprintln(e["raw"], e)
	}
	for _, file := range []string{"sallyport-audit.jsonl"} {
		shown[file] = readFile(t, file)
	}
	for place, text := range shown {
		for name, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows the secret %s: %s", place, name, text)
			}
		}
	}
	if !slices.Contains(strings.Split(shown["cmdline"], "\x00"), "key.txt") || !strings.Contains(shown["the log"], "goroutine ") {
		t.Error("there was nothing to see")
	}
}

// Encrypted data that changes is loaded again, by the watcher and by HUP; what
// cannot be decrypted changes nothing.
func TestEncryptedDataIsLoadedAgain(t *testing.T) {
	t.Chdir(t.TempDir())
	need(t, "age", "age-keygen")
	tool(t, exec.Command("age-keygen", "-o", "key.txt"), "")
	target := serveEcho(t, "127.0.0.1:0")
	seal := func(ports string) {
		text := `{"settings": {"allow_private": ["127.0.0.0/8"], "allow_ports": [` + ports + `]}}`
		write(t, "settings.json", text)
		tool(t, program("config", "encrypt", "--age-identity", "key.txt", "--in-place", "--force", "settings.json"), "")
	}
	seal("1")
	if _, err := os.Stat("settings.json"); !os.IsNotExist(err) {
		t.Error("the plain text is still there", err)
	}
	if info, err := os.Stat("settings.json.age"); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	s := start(t, "--data", "settings.json.age", "--age-identity", "key.txt")
	request := fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", target.port)
	dialDoor(t, s.addr).say(request).hear("HTTP/1.1 403 ").Close()
	seal(fmt.Sprint(target.port))
	s.wait(t, 1, "policy active")
	dialDoor(t, s.addr).say(request).hear("HTTP/1.1 200 ").Close()

	tool(t, exec.Command("age-keygen", "-o", "other.txt"), "")
	tool(t, program("config", "encrypt", "--age-identity", "other.txt", "--output", "settings.json.age", "-"), `{"settings": {}}`)
	refused := s.wait(t, 0, "policy refused; the active one stays")
	if text := fmt.Sprint(refused["error"]); text != "settings.json.age: is not encrypted to the identity in key.txt" {
		t.Error(text)
	}
	dialDoor(t, s.addr).say(request).hear("HTTP/1.1 200 ").Close()
	seal("1")
	s.cmd.Process.Signal(syscall.SIGHUP)
	s.wait(t, 0, "reloaded")
	dialDoor(t, s.addr).say(request).hear("HTTP/1.1 403 ").Close()
}

// A file that the command has named itself is not replaced unasked: it may be the
// only one that has what is in it. One that --output names is.
func TestEncryptReplacesNothingUnasked(t *testing.T) {
	need(t, "age-keygen")
	t.Chdir(t.TempDir())
	tool(t, exec.Command("age-keygen", "-o", "key.txt"), "")
	write(t, "users.json", "new")
	refused := func(there string, args ...string) {
		t.Helper()
		before := readFile(t, there)
		out, err := program(append([]string{"config"}, args...)...).CombinedOutput()
		want := "sallyport: " + there + " is there already: --force replaces it, --output FILE writes another\n"
		if err == nil || string(out) != want {
			t.Errorf("%q: %v %s", args, err, out)
		}
		if readFile(t, there) != before {
			t.Errorf("%q has changed %s", args, there)
		}
	}
	encrypt := []string{"encrypt", "--age-identity", "key.txt", "users.json"}
	write(t, "users.json.age", "all that is left")
	refused("users.json.age", encrypt...)
	refused("users.json.age", append(encrypt, "--in-place")...)
	tool(t, program(append([]string{"config"}, append(encrypt, "--force")...)...), "")
	tool(t, program(append([]string{"config"}, append(encrypt, "--output", "users.json.age")...)...), "")

	write(t, "users.json", "edited meanwhile")
	decrypt := []string{"decrypt", "--age-identity", "key.txt", "--in-place", "users.json.age"}
	refused("users.json", decrypt...)
	if got := tool(t, program(append([]string{"config"}, append(decrypt, "--force")...)...), ""); got != "" || readFile(t, "users.json") != "new" {
		t.Errorf("decrypt --force writes %q, and prints %q", readFile(t, "users.json"), got)
	}
	if err := os.Symlink("nowhere", "users.json.age"); err != nil {
		t.Fatal(err)
	}
	if out, err := program(append([]string{"config"}, encrypt...)...).CombinedOutput(); err == nil {
		t.Errorf("a link that leads nowhere is replaced: %s", out)
	}
}

// A command tells once that others can read its token or put another in its place,
// and works all the same.
func TestTokenFileThatIsOpenToOthers(t *testing.T) {
	t.Parallel()
	s := start(t)
	at := s.wait(t, 0, "management")["address"].(string)
	file := write(t, filepath.Join(t.TempDir(), "token"), readFile(t, s.wait(t, 0, "management token")["file"].(string)))
	for mode, told := range map[os.FileMode]bool{
		0o600: false, 0o400: false, 0o640: false, 0o440: false, // the group's is well, as of other secrets
		0o644: true, 0o604: true, 0o660: true, 0o602: true,
	} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		c := program("ban", "--management", at, "--token-file", file, "list")
		var complaint strings.Builder
		c.Stderr = &complaint
		if err := c.Run(); err != nil {
			t.Errorf("mode %04o: %v %s", mode, err, complaint.String())
		}
		want := ""
		if told {
			want = fmt.Sprintf("sallyport: --token-file: %s is open to others (mode %04o): run chmod 600 %[1]s\n", file, mode)
		}
		if complaint.String() != want {
			t.Errorf("mode %04o: %q, want %q", mode, complaint.String(), want)
		}
	}
	// Of a command with several calls there is one line.
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, program("user", "--management", at, "--token-file", file, "add", "ann", "--password-stdin"), "right horse")
	c := program("user", "--management", at, "--token-file", file, "disable", "ann")
	if out, err := c.CombinedOutput(); err != nil || strings.Count(string(out), "open to others") != 1 {
		t.Errorf("%v %s", err, out)
	}
	// A pipe is not judged, and read once.
	c = program("user", "--management", at, "--token-file", "/dev/stdin", "enable", "ann")
	c.Stdin = strings.NewReader(readFile(t, file))
	if out, err := c.CombinedOutput(); err != nil || strings.Contains(string(out), "open") {
		t.Errorf("%v %s", err, out)
	}
}

// A mode says nothing on a mount that is read-only and in memory, and all it does
// elsewhere, read-only or not.
func TestSecretsOnAMount(t *testing.T) {
	const mount = `mount -t tmpfs none "$0" && echo 0123456789abcdef > "$0/token" && chmod 644 "$0/token" &&`
	inside := func(script string, args ...string) *exec.Cmd {
		return exec.Command("unshare", append([]string{"-rm", "sh", "-c", script}, args...)...)
	}
	dir := t.TempDir()
	if out, err := inside(mount+` mount -o remount,ro "$0"`, dir).CombinedOutput(); err != nil {
		t.Skipf("nothing can be mounted here: %v %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(asProgram, "1")
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	check := ` exec "$1" check --set 'management.tokens.ops.token=${file:${env:CREDENTIALS_DIRECTORY}/token}'`
	if out, err := inside(mount+` mount -o remount,ro "$0" &&`+check, dir, self).CombinedOutput(); err != nil {
		t.Errorf("read-only: %v %s", err, out)
	}
	out, err := inside(mount+check, dir, self).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is open to others (mode 0644)") {
		t.Errorf("writable: %v %s", err, out)
	}
}
