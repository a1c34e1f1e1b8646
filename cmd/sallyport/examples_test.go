package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// edit changes a file of an example as somebody would who has copied it. The
// old text has to be there; PORT in the new one is the target's port.
type edit struct{ file, old, new string }

// ask is one request, made by HTTP and by SOCKS5.
type ask struct {
	who    string // name:password; empty: nobody
	from   string // the client's address; empty: 127.0.0.1
	to     string // host:port; PORT is the target's
	status int    // as HTTP tells it
	why    string // part of the reasons, which the client is told
	quiet  bool   // it is not: they are only on the session's record
	log    string // part of the record besides
}

const (
	ann, ben      = "ann:sells-until-six", "ben:builds-day-and-night"
	pat, omi      = "pat:reads-the-mail", "omi:patrols-the-list"
	agent         = "research-agent:reads-papers-all-day"
	billing       = "billing:pays-bills-on-time"
	till          = "till:charges-every-card"
	crawler       = "crawler:finds-every-page"
	newcomer      = "newcomer:has-no-team-yet"
	publicAddress = "93.184.216.34" // never dialled: it is refused before
)

// allDay are the hours of an office that never closes.
const allDay = `  Monday: &all {opens: "00:00", closes: "24:00"}
  Tuesday: *all
  Wednesday: *all
  Thursday: *all
  Friday: *all
  Saturday: *all
  Sunday: *all
`

// TestExamples starts the program with each example, and asks it as its users
// would. The examples refuse loopback, where the target is: the edits open it.
func TestExamples(t *testing.T) {
	t.Parallel()
	target := serveEcho(t, "127.0.0.1:0")
	server := serveNames(t, map[string][]string{
		"private.example.": {"10.99.9.9"}, "public.example.": {publicAddress}, "rented.example.": {"198.51.100.7"},
		"both.example.": {publicAddress, "127.0.0.1"}, "metadata.example.": {"169.254.169.254"},
		"db.corp.example.": {"10.99.9.9"}, "*": {"127.0.0.1"},
	})
	for _, example := range []struct {
		name  string
		edits []edit
		data  string // given by --data
		asks  []ask
	}{
		{name: "egress", edits: []edit{
			{"egress/data.yaml", "ports: [443]\n\n", "ports: [443, PORT]\n\n"},
			{"egress/data.yaml", "  agents:\n", "  agents:\n    networks: {127.0.0.0/8: {}}\n"},
			{"sallyport/dial/dial.rego", `"loopback", `, ""},
		}, asks: []ask{
			{who: agent, to: "pypi.org:PORT", status: 200, log: `"team":"research"`},
			{who: agent, to: "raw.githubusercontent.com:PORT", status: 200, log: "raw files go away"},
			{who: agent, to: "arxiv.org:22", status: 403, why: "arxiv.org is on a list of research-agent, but not with port 22"},
			{who: agent, to: "example.com:443", status: 403, why: "example.com is on no list of research-agent"},
			{who: agent, to: "gist.github.com:443", status: 403, why: "gist.github.com is blocked: anybody can put anything there"},
			{who: billing, to: "pypi.org:PORT", status: 403, why: "pypi.org is on no list of billing"},
			{who: billing, to: "db.corp.example:5432", status: 403, why: "10.99.9.9 is a private address, and in no network of billing with port 5432"},
			{who: "billing:wrong", to: "pypi.org:PORT", status: 407, why: "the password is wrong", quiet: true},
		}},
		{name: "office", edits: []edit{
			{"office/data.yaml", "ports: [80, 443]", "ports: [80, 443, PORT]"},
			{"office/data.yaml", "internal:\n", "internal:\n  127.0.0.1/32: the test\n"},
			{"office/data.yaml", "hours:\n", "hours:\n" + allDay + "weekdays:\n"},
			{"office/data.yaml", "holidays:\n  \"2026-12-25\": Christmas Day\n  \"2027-01-01\": New Year's Day\n", "holidays: {}\n"},
		}, asks: []ask{
			{who: ann, to: "crm.example:PORT", status: 200, log: `"groups":"staff sales"`},
			{who: ben, to: "github.com:PORT", status: 200},
			{who: ann, to: "github.com:PORT", status: 403, why: "github.com is on no list of ann (staff, sales); ask it@office.example"},
			{who: ann, to: "mail.office.example:25", status: 403, why: "port 25 is not allowed"},
		}},
		{name: "office", edits: []edit{
			{"office/data.yaml", "ports: [80, 443]", "ports: [80, 443, PORT]"},
			{"office/data.yaml", "internal:\n", "internal:\n  127.0.0.1/32: the test\n"},
			{"office/data.yaml", "hours:\n", "hours: {}\nweekdays:\n"},
			{"office/data.yaml", "  127.0.0.0/8: this machine", "  127.0.0.1/32: this machine"},
		}, asks: []ask{
			{who: ann, to: "crm.example:PORT", status: 403, why: " there, and it is not open on that day"},
			{who: ben, to: "github.com:PORT", status: 200},
			{who: ben, from: "127.0.0.2", to: "github.com:PORT", status: 403, why: "127.0.0.2 is in no network of the office"},
		}},
		{name: "rules", edits: []edit{
			{"rules/data.yaml", "pypi.org: {action: allow, ports: [443]}", "pypi.org: {action: allow, ports: [443, {from: PORT, to: PORT}]}\n  typo.example: {action: allow, prots: [443]}"},
			{"rules/data.yaml", "to: {host: pypi.org, port: 443}", "to: {host: pypi.org, port: PORT}"},
			{"rules/data.yaml", "internal:\n", "internal:\n  127.0.0.0/8: the test\n"},
		}, asks: []ask{
			{to: "files.pypi.org:PORT", status: 200, log: `"rule":"rule 1 at pypi.org"`},
			{to: "registry.old.example:80", status: 200, log: `"server.address":"pypi.org"`},
			{who: pat, to: "gist.github.com:443", status: 403, why: "rule 1 at github.com: anybody can put anything there"},
			{who: pat, to: "www.example:443", status: 403, why: "no rule allows pat to reach www.example:443"},
			{who: omi, to: "malware.example:443", status: 403, why: "rule 1 at malware.example: it is on the list of the emergency team"},
			{who: omi, to: "198.51.100.7:443", status: 403, why: "rule 1 at 198.51.100.0/24: rented by somebody else since May"},
			{who: omi, to: "rented.example:443", status: 403, why: "rented.example leads to 198.51.100.7, rule 1 at 198.51.100.0/24: rented by somebody else since May"},
			{who: omi, to: "private.example:443", status: 403, why: "private.example leads to 10.99.9.9, a private address"},
			{who: omi, to: "metadata.example:443", status: 403, why: "169.254.169.254 is a metadata address"},
			{who: omi, to: "typo.example:443", status: 403, why: "rule 1 at typo.example: prots is missing, unknown or malformed"},
		}},
		{name: "geofence", edits: []edit{
			{"geofence/data.yaml", "    127.0.0.0/8: this machine", "    127.0.0.1/32: this machine"},
		}, data: `{"settings": {"allow_ports": [PORT]}, "geofence": {"internal": {"targets": {"127.0.0.0/8": "the test"}}}}`, asks: []ask{
			{to: "inside.example:PORT", status: 200},
			{to: "both.example:PORT", status: 200, log: `"network.peer.address":"127.0.0.1"`},
			{to: "public.example:443", status: 403, why: "public.example is at 93.184.216.34, in a country that no database tells"},
			{to: "private.example:443", status: 403, why: "private.example is at 10.99.9.9, a private address of no internal network"},
			{from: "127.0.0.2", to: "inside.example:PORT", status: 403, why: "127.0.0.2 is a loopback address of no internal network", quiet: true},
		}},
		{name: "teams", edits: []edit{
			{"central/central/data.yaml", "ports: [80, 443]", "ports: [80, 443, PORT]"},
			{"central/central/data.yaml", "internal:\n", "internal:\n  127.0.0.0/8: [payments]\n"},
			{"payments/teams/payments/data.yaml", "ports: [443]}", "ports: [443, PORT]}\n  paste.example: {ports: [443]}"},
			{"search/teams/search/search.rego", `{"ports": [443]}`, `{"ports": [443, PORT]}`},
		}, asks: []ask{
			{who: till, to: "api.payments.example:PORT", status: 200, log: `"team":"payments"`},
			{who: till, to: "api.payments.example:8443", status: 403, why: "port 8443 is allowed to no team"},
			{who: till, to: "paste.example:443", status: 403, why: "paste.example is blocked for every team: anybody can put anything there"},
			{who: till, to: "index.search.example:PORT", status: 403, why: " is on no list of the team payments"},
			{who: crawler, to: "index.search.example:PORT", status: 403, why: "index.search.example leads to 127.0.0.1, a loopback address that crawler may not reach"},
			{who: crawler, to: "api.payments.example:PORT", status: 403, why: " is on no list of the team search"},
			{who: newcomer, to: "api.payments.example:PORT", status: 403, why: "newcomer has no team"},
		}},
	} {
		t.Run(example.name, func(t *testing.T) {
			port := strings.NewReplacer("PORT", fmt.Sprint(target.port))
			dir := filepath.Join(t.TempDir(), example.name)
			if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "..", "bundles", example.name))); err != nil {
				t.Fatal(err)
			}
			for _, e := range example.edits {
				path := filepath.Join(dir, filepath.FromSlash(e.file))
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(string(text), e.old) {
					t.Fatalf("%s has no %q", e.file, e.old)
				}
				write(t, path, strings.Replace(string(text), e.old, port.Replace(e.new), 1))
			}
			args := []string{"--set", "dns.servers=" + server.addr}
			if example.data != "" {
				args = append(args, "--data", write(t, filepath.Join(t.TempDir(), "data.json"), port.Replace(example.data)))
			}
			s := start(t, append(args, policyOf(t, dir)...)...)
			records := 0
			for _, a := range example.asks {
				a.to = port.Replace(a.to)
				for _, by := range []func(*testing.T, *talk, ask){byHTTP, bySOCKS5} {
					came := target.came.Load()
					c := dialFrom(t, a.from, s.addr)
					by(t, c, a)
					c.Close()
					record := s.wait(t, records, "session")["raw"].(string)
					records++
					if !strings.Contains(record, a.why) || !strings.Contains(record, a.log) {
						t.Errorf("%s to %s is recorded as %s", a.who, a.to, record)
					}
					if reached := target.came.Load() > came; reached != (a.status == 200) {
						t.Errorf("%s to %s reached the target: %v", a.who, a.to, reached)
					}
				}
			}
		})
	}
}

// policyOf are the flags that name the policy in a folder, or in the archives
// of the bundles in it.
func policyOf(t *testing.T, dir string) []string {
	t.Helper()
	manifests, err := filepath.Glob(filepath.Join(dir, "*", ".manifest"))
	if err != nil {
		t.Fatal(err)
	}
	if len(manifests) == 0 {
		return []string{"--policy", dir}
	}
	args := []string{"--config", filepath.Join(dir, "sallyport.yaml")}
	for _, manifest := range manifests {
		args = append(args, "--policy", archive(t, filepath.Dir(manifest)))
	}
	return args
}

// archive packs a bundle's folder.
func archive(t *testing.T, folder string) string {
	t.Helper()
	f, err := os.Create(folder + ".tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped := gzip.NewWriter(f)
	packed := tar.NewWriter(zipped)
	if err := errors.Join(packed.AddFS(os.DirFS(folder)), packed.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func byHTTP(t *testing.T, c *talk, a ask) {
	t.Helper()
	authorization := ""
	if a.who != "" {
		authorization = "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(a.who)) + "\r\n"
	}
	c.say("CONNECT " + a.to + " HTTP/1.1\r\nHost: " + a.to + "\r\n" + authorization + "\r\n")
	if a.status == 200 {
		c.say("hello")
		c.CloseWrite()
	}
	got, err := c.rest()
	if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", a.status)) || (a.status == 200 && !strings.HasSuffix(got, "\r\n\r\nhello")) {
		t.Errorf("%s to %s by HTTP: %q, %v", a.who, a.to, got, err)
	}
	if told := strings.Contains(got, a.why); told == a.quiet {
		t.Errorf("%s to %s is told by HTTP: %q", a.who, a.to, got)
	}
}

func bySOCKS5(t *testing.T, c *talk, a ask) {
	t.Helper()
	host, portText, _ := strings.Cut(a.to, ":")
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	hello, answer := greeting, chosen
	if name, password, known := strings.Cut(a.who, ":"); known {
		hello, answer = "\x05\x01\x02"+login(name, password), "\x05\x02\x01\x00"
	}
	c.say(hello + connectTo(host, uint16(port)))
	refusal := replied(2)
	switch {
	case a.status == 407:
		refusal = "\x01\x01"
	case a.from != "" && a.who != "":
		refusal = "\x05\xff" // it is turned away before it may log in
	}
	if a.status == 200 {
		c.hear(answer + "\x05\x00\x00\x01")
		io.CopyN(io.Discard, c, 6) // the address
		c.say("hello").hear("hello")
		return
	}
	if got, _ := c.rest(); !strings.HasSuffix(got, refusal) {
		t.Errorf("%s to %s by SOCKS5: % x, want % x at the end", a.who, a.to, got, refusal)
	}
}

// Nothing about an example is refused or warned of, as it is shipped.
func TestExamplesCheck(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	for _, args := range [][]string{
		{"--policy", "bundles/egress"}, {"--policy", "bundles/geofence"}, {"--policy", "bundles/office"}, {"--policy", "bundles/rules"},
		{"--policy", "bundles/tokens"}, {"--policy", "bundles/bruteforce"}, {"--policy", "bundles/flood"},
		{"--config", "bundles/teams/sallyport.yaml"},
	} {
		out, err := program(append([]string{"check"}, args...)...).CombinedOutput()
		// Without a database, only what reads one is warned of.
		rest := regexp.MustCompile(`.*\.geo\b.* always empty.*\n`).ReplaceAllString(string(out), "")
		if expected := err != nil && rest == "" && strings.Contains(args[1], "geofence"); !expected && !strings.HasPrefix(string(out), "ok: ") {
			t.Errorf("check %v: %v, %s", args, err, out)
		}
	}
	// Bundles of several owners need to be told what they own.
	out, err := program("check", "--policy", "bundles/teams/central", "--policy", "bundles/teams/payments").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "policy.roots gives no root to the bundle payments") {
		t.Errorf("without policy.roots: %v, %s", err, out)
	}
}
