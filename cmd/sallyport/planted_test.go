package main

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// planted_test.go puts a secret of its own wherever one can be, has everything
// happen that can, and then looks for them wherever something is written.

// planted are the secrets by where they are.
type planted map[string]string

// hush makes a secret. All of them have a part in common, which is not seen
// anywhere either.
func (p planted) hush(where string) string {
	p[where] = "hush-" + where + "-0123456789"
	return p[where]
}

// in tells where a text has a secret: as it is, or in one of the forms that
// secrets travel in.
func (p planted) in(text string) (found []string) {
	for _, where := range slices.Sorted(maps.Keys(p)) {
		secret := p[where]
		forms := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), strings.Trim(fmt.Sprintf("%q", secret), `"`)}
		for _, before := range []string{"", "x", "xx"} { // base64 depends on where it begins
			whole := base64.StdEncoding.EncodeToString([]byte(before + secret))
			forms = append(forms, whole[4*((len(before)+2)/3):len(whole)-4])
		}
		if slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) }) {
			found = append(found, where)
		}
	}
	if strings.Contains(text, "hush") && len(found) == 0 {
		found = []string{"a part of one"}
	}
	return found
}

// plantedPolicy tells as much as a policy can, and breaks in every stage.
var plantedPolicy = map[string]string{
	"admit.rego": `package sallyport.admit

default allow := true

allow := true

deny contains "broken" if {
	input.source.ip == "127.0.0.9"
	1 / data.zero == 0
}
`,
	"authenticate.rego": `package sallyport.authenticate

default allow := false

allow if input.credentials.verified

allow if input.credentials.method == "none"

allow if count(split(input.credentials.token, ".")) == 3

deny contains sprintf("%s: %s", [input.credentials.username, input.credentials.token]) if input.credentials.username == "mirror"

deny contains "broken" if {
	input.credentials.username == "broken"
	1 / data.zero == 0
}

reason contains sprintf("%s %s %v", [input.credentials.username, input.credentials.token, input.request.headers])

warn contains input.credentials.token

labels := {"token": input.credentials.token, input.credentials.token: "x"} if {
	print("asked", input.credentials, input.request)
}

explain := true
`,
	"route.rego": `package sallyport.route

default allow := false

allow if not startswith(input.target.host, "denied")

deny contains sprintf("%v %v", [input.request, input.identity]) if input.target.host == "denied.test"

deny contains "broken" if {
	input.target.host == "broken.test"
	1 / data.zero == 0
}

labels := {"path": input.request.path} if print(input.request, input.identity)

redirect := {"host": "127.0.0.1"} if input.target.host == "good.test"

default via := []

via := ["good"] if input.target.host == "good.test"

via := ["wrong"] if input.target.host == "wrong.test"

via := ["away"] if input.target.host == "away.test"
`,
	"dial.rego": `package sallyport.dial

default allow := false

allow if input.address.scope == "loopback"

deny contains "broken" if {
	input.asked.host == "broken-dial.test"
	1 / data.zero == 0
}

deny contains sprintf("%v", [input.request]) if input.asked.host == "denied-dial.test"
`,
	"inspect.rego": `package sallyport.inspect

default allow := true

allow := true

deny contains "broken" if {
	input.flow.host == "broken.test"
	1 / data.zero == 0
}

deny contains sprintf("%v %v", [input.flow, input.request]) if input.flow.host == "denied.test"
`,
	"manage.rego": `package sallyport.manage

default allow := false

allow if "admin" in input.api.token.roles

deny contains "broken" if {
	input.api.path[1] == "broken"
	1 / data.zero == 0
}

reason contains sprintf("%v %v", [input.api.token, input.api.path])
`,
}

func TestPlantedSecrets(t *testing.T) {
	need(t, "age", "age-keygen", "curl")
	for _, format := range []string{"json", "text"} {
		t.Run(format, func(t *testing.T) { plantAndSearch(t, format) })
	}
}

func plantAndSearch(t *testing.T, format string) {
	p, shown := planted{}, map[string]string{}
	dir := t.TempDir()
	t.Chdir(dir)

	// Who is talked to: an origin, an upstream with users of its own, the server of
	// bundles and of decision logs, and a collector.
	cookie, otlp := p.hush("set-cookie"), p.hush("otlp")
	_, port := webOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "session="+cookie)
		if r.URL.Path == "/broken" {
			c, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(c, "HTTP/1.1 200 OK\r\nSet-Cookie "+cookie+"\r\n\r\n")
			c.Close()
		}
	})
	relay := start(t, "--data", settings(t, loopback, port), "--data", usersFile(t, map[string]string{"relay": p.hush("upstream")}))
	var mu sync.Mutex
	received := map[string]string{}
	sent := func(place string, w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		received[place] += r.URL.String() + string(body)
	}
	wanted := "Bearer " + p.hush("service")
	bundle := pack(t, map[string]string{".manifest": `{"revision": "1", "roots": ["teams"]}`, "teams/data.json": `{"a": {}}`})
	asked := make(chan string, 64)
	services := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent("what services are sent: "+r.URL.Path, w, r)
		select {
		case asked <- r.URL.Path + " " + r.Header.Get("Authorization"):
		default:
		}
		if r.URL.Path == "/bundle.tar.gz" && r.Header.Get("Authorization") == wanted {
			w.Write(bundle)
			return
		}
		http.Error(w, "no "+r.Header.Get("Authorization")+r.Header.Get("X-Api-Key"), http.StatusForbidden) // some repeat what they are shown
	}))
	t.Cleanup(services.Close)
	telemetry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent("what the collector is sent: "+r.URL.Path, w, r)
		if r.Header.Get("Authorization") != "Bearer "+otlp {
			t.Errorf("%s comes with %q", r.URL.Path, r.Header.Get("Authorization"))
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(telemetry.Close)
	names := serveNames(t, map[string][]string{"*": {"127.0.0.1"}})

	// The files.
	tool(t, exec.Command("age-keygen", "-o", "key.txt"), "")
	identity := readFile(t, "key.txt")
	p["age identity"] = strings.TrimSpace(identity[strings.Index(identity, "AGE-SECRET-KEY-"):])
	recipient := strings.TrimSpace(tool(t, exec.Command("age-keygen", "-y", "key.txt"), ""))
	seal := func(name, text string) {
		write(t, name, tool(t, exec.Command("age", "-a", "-r", recipient), text))
	}
	ca := newAuthority(t, "ca")
	cert, key := ca.server(t, "door")
	p["private key"] = strings.Split(readFile(t, key), "\n")[1]
	var users map[string]any
	if err := json.Unmarshal([]byte(readFile(t, usersFile(t, map[string]string{"ann": p.hush("password"), "bob": "b"}))), &users); err != nil {
		t.Fatal(err)
	}
	for name, user := range users["users"].(map[string]any) {
		hash := user.(map[string]any)["password"].(string)
		p["hash of "+name] = hash[strings.LastIndex(hash, "$")+1:]
	}
	bcrypt := strings.TrimSpace(tool(t, program("user", "hash", "--bcrypt"), p.hush("bcrypt")))
	users["users"].(map[string]any)["cid"] = map[string]any{"password": bcrypt}
	p["hash of cid"] = bcrypt[7:]
	users["zero"], users["note"] = 0, p.hush("data")
	text, _ := json.Marshal(users)
	seal("users.json.age", string(text))
	for name, text := range plantedPolicy {
		write(t, name, text)
	}
	write(t, "ops.token", p.hush("file"))
	seal("sealed.token.age", p.hush("sealed"))
	p["env"], p["upstream env"] = "hush-env-0123456789", "hush-upstream-env-0123456789"
	write(t, "sallyport.yaml", fmt.Sprintf(`
log: {level: debug, format: %s}
listeners:
- {name: plain, address: "127.0.0.1:0"}
- {name: tls, address: "127.0.0.1:0", tls: {cert: %q, key: %q}}
management:
  address: 127.0.0.1:0
  tokens:
    literal: {token: %s, roles: [admin]}
    env: {token: "${env:PLANTED}", roles: [admin]}
    file: {token: "${file:ops.token}", roles: [admin]}
    sealed: {token: "${file:sealed.token.age}", roles: [admin]}
    guest: {token: %s, roles: [guest]}
upstreams:
  good: {url: "socks5h://relay:%s@%s"}
  wrong: {url: "socks5h://relay:${env:PLANTED_UPSTREAM}@%s"}
  away: {url: "https://me:%s@127.0.0.1:1", tls: {certificate: %q, key: %q}}
dns: {servers: [%q]}
state: {path: state.db}
policy:
  paths: [admit.rego, authenticate.rego, route.rego, dial.rego, inspect.rego, manage.rego]
  data: [users.json.age]
  opa:
    services:
      main: {url: %q, credentials: {bearer: {token: %s}}, headers: {X-Api-Key: %s}}
      wrong: {url: %q, credentials: {bearer: {token: %s}}}
      oauth: {url: %q, credentials: {oauth2: {token_url: "https://127.0.0.1:1/t", client_id: me, client_secret: %s}}}
    bundles: {teams: {service: main, resource: bundle.tar.gz, polling: {min_delay_seconds: 1, max_delay_seconds: 2}}}
    decision_logs: {service: wrong, console: true, reporting: {min_delay_seconds: 1, max_delay_seconds: 1}}
    status: {service: oauth}
`, format, cert, key, p.hush("literal"), p.hush("guest"), p["upstream"], relay.addr, relay.addr, p.hush("away"), cert, key, names.addr,
		services.URL, p["service"], p.hush("header"), services.URL, p.hush("wrong-service"), services.URL, p.hush("oauth")))
	arguments := []string{"--config", "sallyport.yaml", "--age-identity", "key.txt"}
	command := func(args ...string) *exec.Cmd {
		c := program(append(args, arguments...)...)
		c.Env = append(c.Env, "PLANTED="+p["env"], "PLANTED_UPSTREAM="+p["upstream env"],
			"OTEL_EXPORTER_OTLP_ENDPOINT="+telemetry.URL, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_METRIC_EXPORT_INTERVAL=200",
			"OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20"+otlp)
		return c
	}
	for _, args := range [][]string{{"check"}, {"check", "--format", "json"}, {"config", "show"}, {"config", "show", "--format", "json"},
		{"check", "--set", "limits.idle=x"}, {"check", "--set", "management.tokens.literal.token=hush"}, {"check", "--data", "sallyport.yaml"},
		{"eval", "authenticate", "--user", "ann", "--explain"}, {"test"}} {
		out, _ := command(args...).CombinedOutput()
		shown[strings.Join(args, " ")] = string(out)
	}

	s := follow(t, command("run"))
	output := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(s.stdout)
		output <- string(text)
	}()
	s.wait(t, 0, "policy active")
	secure := s.wait(t, 1, "listening")["address"].(string)
	management := s.wait(t, 0, "management")["address"].(string)
	shown["the command line"] = readFile(t, fmt.Sprintf("/proc/%d/cmdline", s.cmd.Process.Pid))
	if children := readFile(t, fmt.Sprintf("/proc/%d/task/%[1]d/children", s.cmd.Process.Pid)); children != "" {
		t.Errorf("there are other processes: %s", children) // whose command lines would be to be seen, too
	}

	// Clients, of others and of ours.
	at := fmt.Sprintf("127.0.0.1:%d", port)
	jwtPart := base64.RawURLEncoding.EncodeToString
	p["signature"] = jwtPart([]byte(strings.Repeat("hush", 10)))
	jwt := jwtPart([]byte(`{"alg":"none"}`)) + "." + jwtPart([]byte(`{"sub":"ann"}`)) + "." + p["signature"]
	p["jwt"] = jwt
	targets := []string{at, "denied.test", "good.test", "wrong.test", "away.test", "broken.test", "denied-dial.test", "broken-dial.test"}
	for i, proxy := range []string{"socks5h://ann:" + p["password"] + "@" + s.addr, "http://ann:" + p["password"] + "@" + s.addr,
		"http://cid:" + p["bcrypt"] + "@" + s.addr, "socks5h://" + s.addr, "socks5h://ann:" + p.hush("wrong-password") + "@" + s.addr,
		"http://ann:" + p.hush("wrong-basic") + "@" + s.addr, "socks5h://nobody:" + p.hush("unknown") + "@" + s.addr,
		"socks5h://broken:" + p.hush("fault") + "@" + s.addr, "http://broken:" + p["fault"] + "@" + s.addr,
		"socks5h://mirror:" + url.PathEscape(jwt) + "@" + s.addr} {
		if i == 2 { // these have been everywhere
			targets = targets[:2]
		}
		for _, target := range targets {
			if !strings.Contains(target, ":") {
				target += fmt.Sprintf(":%d", port)
			}
			for _, more := range [][]string{nil, {"-p"}} {
				curl(t, append(more, "-x", proxy, "-b", "session="+p.hush("cookie"), "-H", "Authorization: Bearer "+p.hush("bearer"), "-o", os.DevNull, "http://"+target+"/?token="+p.hush("query"))...)
			}
		}
	}
	curl(t, "-x", "http://"+s.addr, "-u", "me:"+p.hush("userinfo"), "-o", os.DevNull, "http://"+at+"/broken")
	proxied := func(host, header string) string {
		return fmt.Sprintf("CONNECT %s:%d HTTP/1.1\r\nCookie: %s\r\n%s\r\n\r\n", host, port, p["cookie"], header)
	}
	basic := base64.StdEncoding.EncodeToString([]byte("ann:" + p.hush("basic")))
	p["basic, encoded"] = basic
	for _, text := range []string{
		"\x05\x01\x02" + login("ann", jwt) + connectToName("denied.test", port),
		"\x05\x01\x02" + login("mirror", jwt), "\x05\x01\x02" + login("broken", jwt),
		proxied("good.test", "Proxy-Authorization: Bearer "+jwt), proxied("denied.test", "Proxy-Authorization: Bearer "+jwt),
		proxied("good.test", "Proxy-Authorization: Bearer "+p.hush("opaque")),
		proxied("good.test", "Proxy-Authorization: Basic "+basic), proxied("good.test", "Proxy-Authorization: Basic "+p.hush("no-base64")),
		proxied("good.test", "Proxy-Authorization: Digest "+p.hush("digest")), proxied("good.test", "Proxy-Authorization "+p.hush("no-colon")),
		proxied("good.test", "Proxy-Authorization: Basic "+basic+"\r\nProxy-Authorization: Basic "+basic),
		proxied("ann:"+p.hush("connect-userinfo")+"@127.0.0.1", "Host: x"),
		fmt.Sprintf("GET http://ann:%s@%s/ HTTP/1.1\r\nHost: %[2]s\r\n\r\n", p.hush("url-userinfo"), at),
		fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: me:%s@x\r\n\r\n", at, p.hush("host-userinfo")),
		fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: %[1]s\r\nCookie: %s\x01\r\n\r\n", at, p.hush("control")),
		"GET /?token=" + p.hush("origin-form") + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"\x04\x01\x00\x50\x00\x00\x00\x01ann\x00\x00",
		"SSH-2.0-" + p.hush("first-bytes"),
	} {
		d := dialDoor(t, s.addr)
		io.WriteString(d, text)
		d.CloseWrite()
		io.ReadAll(d)
	}
	for _, host := range []string{"denied.test", "broken.test", "fine.test"} { // inspect sees the first bytes
		d := dialDoor(t, s.addr)
		io.WriteString(d, greeting+connectToName("fine.test", port))
		io.ReadFull(d, make([]byte, 12))
		fmt.Fprintf(d, "GET /?token=%s HTTP/1.0\r\nHost: %s\r\nCookie: %s\r\n\r\n", p.hush("inspected"), host, p["cookie"])
		io.ReadAll(d)
	}
	if c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}).Dial("tcp", s.addr); err == nil {
		io.WriteString(c, "\x05\x01\x02"+login("ann", p["password"]))
		io.ReadAll(c)
		c.Close()
	}
	over := overTLS(t, secure, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost"})
	io.WriteString(over, "\x05\x01\x02"+login("ann", p["wrong-password"]))
	io.ReadAll(over)
	dialDoor(t, secure).say("\x05\x01\x02" + login("ann", p["wrong-password"])).rest()
	open := dialDoor(t, s.addr).say("\x05\x01\x02" + login("ann", p["password"]) + connectTo("127.0.0.1", port)).hear("\x05\x02\x01\x00\x05\x00")

	// The management API, every answer of it.
	p.hush("wrong-token")
	for _, token := range []string{"literal", "env", "file", "sealed", "guest", "wrong-token", ""} {
		for _, c := range []string{"GET /v1/policy", "GET /v1/sessions", "GET /v1/bans", "GET /v1/upstreams", "GET /v1/users", "GET /v1/usage",
			"GET /v1/config", "GET /v1/decisions", "GET /openapi.json", "GET /metrics", "GET /livez", "GET /readyz", "GET /v1/broken", "GET /nothing",
			"PUT /v1/bans/192.0.2.1", "POST /v1/reload", "POST /v1/policy/evaluate", "DELETE /v1/bans/192.0.2.1", "DELETE /v1/sessions"} {
			method, path, _ := strings.Cut(c, " ")
			status, body := call(t, method, "http://"+management+path, p[token])
			shown[c] += fmt.Sprintln(status, body)
		}
	}
	open.rest()
	for _, args := range [][]string{{"ban", "list"}, {"ban", "add", "192.0.2.2"}, {"ban", "lift", "nobody"}} {
		c := program(append(args, "--management", management)...)
		c.Env = append(c.Env, "SALLYPORT_TOKEN="+p["env"])
		out, _ := c.CombinedOutput()
		shown[strings.Join(args, " ")] = string(out)
	}
	// What is wrong while it runs: the policy, the data, the certificate.
	write(t, "route.rego", "package sallyport.route\n\nallow if input.x == \""+p.hush("literal-in-policy")+"\"\n")
	delete(p, "literal-in-policy") // rules are not secret
	s.wait(t, 0, "policy refused; the active one stays")
	write(t, "route.rego", plantedPolicy["route.rego"])
	write(t, "users.json.age", "{\"note\": \""+p["data"]+"\"}")
	write(t, key, readFile(t, key)[:60])
	s.wait(t, 0, "certificate refused; the one in use stays")
	call(t, "POST", "http://"+management+"/v1/reload", p["env"])

	for range 3 { // and bundles and decision logs had their turn
		<-asked
	}
	s.terminate(t)
	shown["standard output"] = <-output
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.log {
		shown["the log"] += fmt.Sprintln(e["raw"])
	}
	shown["the audit log"] = readFile(t, "sallyport-audit.jsonl")
	mu.Lock()
	defer mu.Unlock()
	maps.Copy(shown, received)
	for place, text := range shown {
		for _, where := range p.in(text) {
			lines := strings.Split(text, "\n")
			i := slices.IndexFunc(lines, func(line string) bool { return slices.Contains(p.in(line), where) })
			t.Errorf("%s shows the secret of %s: %.2000s", place, where, lines[max(i, 0)])
		}
	}

	// All of that has been somewhere to be seen.
	for place, parts := range map[string][]string{
		"the log":         {"fault", "denied", "upstream_auth", "upstream_refused", "malformed", "[redacted]", "DEBUG", "divide by zero", "cut"},
		"standard output": {"sallyport/admit", "sallyport/authenticate", "sallyport/route", "sallyport/dial", "sallyport/inspect", "sallyport/manage", "[redacted]"},
		"config show":     {"[redacted]"},
		"check":           {"ok: "},
		"GET /metrics":    {"sallyport_sessions_total"},

		"what the collector is sent: /v1/traces":  {"sallyport"},
		"what the collector is sent: /v1/logs":    {"session"},
		"what the collector is sent: /v1/metrics": {"sallyport.sessions"},
	} {
		for _, part := range parts {
			if !strings.Contains(shown[place], part) {
				t.Errorf("there is no %q in %s: %.3000s", part, place, shown[place])
			}
		}
	}
}

// entryOf is a line of the log in either format.
func entryOf(line []byte) map[string]any {
	entry := map[string]any{}
	if json.Unmarshal(line, &entry) != nil {
		for rest := line; len(rest) > 0; {
			key, after, _ := bytes.Cut(rest, []byte("="))
			value := after
			if len(after) > 0 && after[0] == '"' {
				end := 1
				for end < len(after) && after[end] != '"' {
					if after[end] == '\\' {
						end++
					}
					end++
				}
				value, rest = after[1:min(end, len(after))], after[min(end+1, len(after)):]
				rest = bytes.TrimPrefix(rest, []byte(" "))
			} else {
				value, rest, _ = bytes.Cut(after, []byte(" "))
			}
			entry[string(key)] = string(value)
		}
	}
	entry["raw"] = string(line)
	return entry
}
