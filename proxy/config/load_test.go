package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/proxy/secret"
)

// write puts a document into a new working directory.
func write(t *testing.T, name, document string) string {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile(name, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// load must succeed.
func load(t *testing.T, options Options) *Config {
	t.Helper()
	c, err := Load(options)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return c
}

// problems of a load that must fail, one a line.
func problems(t *testing.T, options Options) string {
	t.Helper()
	_, err := Load(options)
	var all Problems
	if !errors.As(err, &all) || len(all) == 0 {
		t.Fatalf("Load: want problems, got %v", err)
	}
	return err.Error()
}

func TestNothingGivenIsTheDefault(t *testing.T) {
	c := load(t, Options{Env: []string{"HOME=/", "SALLYPORTER=1"}})
	c.origins = nil
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("%v", c)
	}
	if found := Validate(Default()); len(found) > 0 {
		t.Error(found)
	}
}

// The same configuration in the three formats.
var whole = map[string]string{
	"c.yaml": `
listeners:
  - {name: inside, address: "10.0.0.1:1080", protocols: [socks5], udp: {advertise: 192.0.2.7, ports: 40000-40100}, bind: {advertise: [192.0.2.7, "2001:db8::7"], ports: 20},
      proxy_protocol: {trusted: [10.0.0.0/8, "2001:db8::1"]}}
  - {address: "[::1]:8080", udp: {advertise: "2001:db8::7"}, bind: {advertise: "2001:db8::7"},
      tls: {cert: c.pem, key: k.pem, client_ca: ca.pem, client_auth: optional, min_version: "1.3"}}
policy:
  paths: [policies/, extra.rego]
  data: [data.json]
  timeout: 0.25
  strict: false
  stages: [route, dial]
  roots: {Teams.X: [teams/x], b: []}
  capabilities: [http.send]
  log_facts: [source.geo]
  rollback: allow
  run_tests: true
  max_age: 1h
  deltas: true
  audit: /var/lib/audit.jsonl
  decision_log: {when_full: wait}
  opa:
    decision_logs: {console: true}
    services:
      Main.One: {url: "https://bundles.example", response_header_timeout_seconds: 0x5, tls: {ca_cert: ca.pem}}
    labels: {a.b: "7"}
    list: [a, 1.5, false]
state: {path: /var/lib/sallyport.db, usage: {retention: 48h, rows: 70}}
limits: {connections: 1_000, memory: 64MiB, handshake: 5s, handshakes: 40, dial: 7, idle: 1h, bind: 1m, flows: 5, flows_total: 6, flow_idle: 8s}
management:
  address: ":9080"
  tokens:
    Ops.One: {token: "0123456789abcdef", roles: [admin, "read:all"]}
geoip: {databases: [country.mmdb, asn.mmdb]}
dns: {servers: ["192.0.2.1", "tls://dns.example:8853"], bootstrap: {dns.example: [2001:db8::1]}, ca: ca.pem, family: ipv4, timeout: 1s, cache: {entries: 5, min_ttl: 1, max_ttl: 1m, negative_ttl: 2s}}
upstreams:
  eu-1:
    url: https://192.0.2.1:3128
    source_address: 192.0.2.2
    tls: {ca: ca.pem, certificate: me.pem, key: key.pem, server_name: proxy.example}
    labels: {country: de}
    probe: {address: "192.0.2.9:443", via: [eu-2], interval: 20s, timeout: 3s, rise: 1, fall: 4}
    pool: {idle: 4, max_age: 5s}
  eu-2: {url: "http://192.0.2.3"}
log: {level: debug, format: text, file: /tmp/log}
telemetry: {prometheus: false}
shutdown: {grace: 0s}
`,
	"c.json": `{
	"listeners": [
		{"name": "inside", "address": "10.0.0.1:1080", "protocols": ["socks5"],
			"udp": {"advertise": "192.0.2.7", "ports": "40000-40100"},
			"bind": {"advertise": ["192.0.2.7", "2001:db8::7"], "ports": "20-20"},
			"proxy_protocol": {"trusted": ["10.0.0.0/8", "2001:db8::1"]}},
		{"address": "[::1]:8080", "udp": {"advertise": "2001:db8::7"}, "bind": {"advertise": ["2001:db8::7"]},
			"tls": {"cert": "c.pem", "key": "k.pem", "client_ca": "ca.pem", "client_auth": "optional", "min_version": "1.3"}}
	],
	"policy": {
		"paths": ["policies/", "extra.rego"], "data": ["data.json"], "timeout": 2.5e-1, "strict": false,
		"stages": ["route", "dial"], "roots": {"Teams.X": ["teams\/x"], "b": []}, "capabilities": ["http.send"],
		"log_facts": ["source.geo"], "rollback": "allow", "run_tests": true, "max_age": 3600, "deltas": true,
		"audit": "/var/lib/audit.jsonl", "decision_log": {"when_full": "wait"},
		"opa": {
			"decision_logs": {"console": true},
			"services": {"Main.One": {"url": "https://bundles.example", "response_header_timeout_seconds": 5, "tls": {"ca_cert": "ca.pem"}}},
			"labels": {"a.b": "7"}, "list": ["a", 1.5, false]
		}
	},
	"geoip": {"databases": ["country.mmdb", "asn.mmdb"]},
	"upstreams": {"eu-1": {"url": "https://192.0.2.1:3128", "source_address": "192.0.2.2",
		"tls": {"ca": "ca.pem", "certificate": "me.pem", "key": "key.pem", "server_name": "proxy.example"},
		"labels": {"country": "de"}, "pool": {"idle": 4, "max_age": 5},
		"probe": {"address": "192.0.2.9:443", "via": ["eu-2"], "interval": 20, "timeout": 3, "rise": 1, "fall": 4}},
		"eu-2": {"url": "http://192.0.2.3"}},
	"state": {"path": "/var/lib/sallyport.db", "usage": {"retention": "48h", "rows": 70}},
	"limits": {"connections": 1000, "memory": 67108864, "handshake": "5s", "handshakes": 40, "dial": 7, "idle": "1h", "bind": "1m", "flows": 5, "flows_total": 6, "flow_idle": "8s"},
	"management": {"address": ":9080", "tokens": {"Ops.One": {"token": "0123456789abcdef", "roles": ["admin", "read:all"]}}},
	"dns": {"servers": ["192.0.2.1", "tls://dns.example:8853"], "bootstrap": {"dns.example": "2001:db8::1"}, "ca": "ca.pem", "family": "ipv4", "timeout": 1, "cache": {"entries": 5, "min_ttl": "1s", "max_ttl": 60, "negative_ttl": "2s"}},
	"log": {"level": "debug", "format": "text", "file": "/tmp/log"},
	"telemetry": {"prometheus": false},
	"shutdown": {"grace": "0s"}
}`,
	"c.toml": `
geoip.databases = ["country.mmdb", "asn.mmdb"]
dns = {servers = ["192.0.2.1", "tls://dns.example:8853"], bootstrap = {"dns.example" = ["2001:db8::1"]}, ca = "ca.pem", family = "ipv4", timeout = "1s", cache = {entries = 5, min_ttl = 1, max_ttl = "1m", negative_ttl = 2}}
upstreams.eu-1 = {url = "https://192.0.2.1:3128", source_address = "192.0.2.2", tls = {ca = "ca.pem", certificate = "me.pem", key = "key.pem", server_name = "proxy.example"}, labels.country = "de", probe = {address = "192.0.2.9:443", via = ["eu-2"], interval = 20, timeout = "3s", rise = 1, fall = 4}, pool = {idle = 4, max_age = "5s"}}
upstreams.eu-2 = {url = "http://192.0.2.3"}
log.level = "debug"
log.format = 'text'
log.file = "/tmp/log"

[[listeners]]
name = "inside"
address = "10.0.0.1:1080"
protocols = ["socks5"]
udp = {advertise = "192.0.2.7", ports = "40000-40100"}
bind = {advertise = ["192.0.2.7", "2001:db8::7"], ports = 20}
proxy_protocol.trusted = ["10.0.0.0/8", "2001:db8::1"]

[[listeners]]
address = "[::1]:8080"
udp.advertise = "2001:db8::7"
bind.advertise = "2001:db8::7"
tls = {cert = "c.pem", key = "k.pem", client_ca = "ca.pem", client_auth = "optional", min_version = "1.3"}

[policy]
paths = [
  "policies/", # first
  "extra.rego",
]
data = ["data.json"]
timeout = 0.25
strict = false
stages = ["route", "dial"]
roots = {"Teams.X" = ["teams/x"], b = []}
capabilities = ["http.send"]
log_facts = ["source.geo"]
rollback = "allow"
run_tests = true
max_age = "1h"
deltas = true
audit = "/var/lib/audit.jsonl"
decision_log.when_full = "wait"
[policy.opa]
list = ["a", 1.5, false]
labels = {"a.b" = "7"}
[policy.opa.decision_logs]
console = true
[policy.opa.services."Main.One"]
url = "https://bundles.example"
response_header_timeout_seconds = 5
tls = {ca_cert = "ca.pem"}

[state]
path = "/var/lib/sallyport.db"
usage = {retention = "48h", rows = 70}

[limits]
connections = 1_000
memory = "64MiB"
handshake = "5s"
handshakes = 40
dial = 7
idle = "1h"
bind = "1m"
flows = 5
flows_total = 6
flow_idle = 8

[management]
address = ":9080"
[management.tokens."Ops.One"]
token = "0123456789abcdef"
roles = ["admin", "read:all"]

[telemetry]
prometheus = false
[shutdown]
grace = "0s"
`,
}

func TestWholeInEachFormat(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	want := &Config{
		Listeners: []Listener{
			{Name: "inside", Address: "10.0.0.1:1080", Protocols: []string{"socks5"},
				UDP:  Door{Advertise: []netip.Addr{four}, Ports: 40000<<16 | 40100},
				Bind: Door{Advertise: []netip.Addr{four, six}, Ports: 20<<16 | 20},
				ProxyProtocol: &ProxyProtocol{
					Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::1/128")},
				}},
			{Name: "listener-2", Address: "[::1]:8080", Protocols: []string{"socks5", "socks4", "http"},
				UDP: Door{Advertise: []netip.Addr{six}}, Bind: Door{Advertise: []netip.Addr{six}},
				TLS: &TLS{
					Cert: "c.pem", Key: "k.pem", ClientCA: "ca.pem", ClientAuth: "optional", MinVersion: "1.3",
				}},
		},
		Policy: Policy{
			Paths: []string{"policies/", "extra.rego"}, Data: []string{"data.json"}, Timeout: 250 * time.Millisecond,
			Stages: []string{"route", "dial"}, Roots: map[string][]string{"Teams.X": {"teams/x"}, "b": {}},
			Capabilities: []string{"http.send"}, LogFacts: []string{"source.geo"}, Rollback: "allow", RunTests: true,
			MaxAge: time.Hour, Deltas: true, Audit: "/var/lib/audit.jsonl", DecisionLog: DecisionLog{WhenFull: "wait"},
			OPA: map[string]any{
				"decision_logs": map[string]any{"console": true},
				"services": map[string]any{"Main.One": map[string]any{
					"url": "https://bundles.example", "response_header_timeout_seconds": int64(5), "tls": map[string]any{"ca_cert": "ca.pem"},
				}},
				"labels": map[string]any{"a.b": "7"}, "list": []any{"a", 1.5, false},
			},
		},
		GeoIP: GeoIP{Databases: []string{"country.mmdb", "asn.mmdb"}},
		Upstreams: map[string]Upstream{"eu-1": {
			URL: "https://192.0.2.1:3128", SourceAddress: netip.MustParseAddr("192.0.2.2"),
			TLS:    UpstreamTLS{CA: "ca.pem", Certificate: "me.pem", Key: "key.pem", ServerName: "proxy.example"},
			Labels: map[string]string{"country": "de"},
			Probe:  Probe{Address: "192.0.2.9:443", Via: []string{"eu-2"}, Interval: 20 * time.Second, Timeout: 3 * time.Second, Rise: 1, Fall: 4},
			Pool:   Pool{Idle: 4, MaxAge: 5 * time.Second},
		}, "eu-2": {URL: "http://192.0.2.3"}},
		State: State{Path: "/var/lib/sallyport.db", Usage: Usage{Retention: 48 * time.Hour, Rows: 70}},
		Limits: Limits{Connections: 1000, Memory: 64 << 20, Handshake: 5 * time.Second, Handshakes: 40, Dial: 7 * time.Second, Idle: time.Hour,
			Bind: time.Minute, Flows: 5, FlowsTotal: 6, FlowIdle: 8 * time.Second},
		Management: Management{Address: ":9080", Tokens: map[string]Token{
			"Ops.One": {Token: secret.New("0123456789abcdef"), Roles: []string{"admin", "read:all"}},
		}},
		DNS: DNS{
			Servers:   []NameServer{{Transport: "udp", Address: netip.MustParseAddrPort("192.0.2.1:53")}, {Transport: "tls", Name: "dns.example", Address: netip.AddrPortFrom(netip.Addr{}, 8853)}},
			Bootstrap: map[string][]netip.Addr{"dns.example": {netip.MustParseAddr("2001:db8::1")}},
			CA:        "ca.pem", Family: "ipv4", Timeout: time.Second, Cache: DNSCache{Entries: 5, MinTTL: time.Second, MaxTTL: time.Minute, NegativeTTL: 2 * time.Second},
		},
		Log: Log{Level: "debug", Format: "text", File: "/tmp/log"},
	}
	for name, document := range whole {
		t.Run(name, func(t *testing.T) {
			c := load(t, Options{File: write(t, name, document)})
			c.origins = nil
			if !reflect.DeepEqual(c, want) {
				t.Errorf("got  %v\nwant %v", c, want)
			}
		})
	}
}

// A document with a thing wrong on nearly every line, and where each of them is said to be.
func TestEveryProblemWithItsLine(t *testing.T) {
	for name, c := range map[string]struct{ document, want string }{
		"c.yaml": {`limits:
  conections: 5
  memory: lots
  dial: -1s
  handshake: 31s
listeners:
  - address: 127.0.0.1
    protocols: [socks5, socks4, htpp]
  - {address: "unix:", mode: "9"}
  - {name: a, address: "127.0.0.1:99999", tls: {}, protocols: []}
policy:
  strict: "yes"
  stages: [inspect, rout]
  shadow: {paths: [x]}
  opa: [services]
  rollback: refused
  decision_log: {when_full: wiat}
  max_age: -1s
geoip: {databases: ["", a/x.mmdb, b/x.mmdb]}
dns: {servers: [one]}
limits: {}
management: {tokens: {ops: {token: short, rolls: []}}}
Log: {}
`, `c.yaml:2: limits.conections: unknown key; did you mean connections?
c.yaml:3: limits.memory: want a size such as 10MiB, got "lots"
c.yaml:4: limits.dial: must be longer than zero
c.yaml:5: limits.handshake: must be at most 30s
c.yaml:7: listeners[0].address: want IP:PORT, got "127.0.0.1"
c.yaml:8: listeners[0].protocols[2]: want socks5, socks4 or http, got "htpp"; did you mean http?
c.yaml:9: listeners[1].address: want the path of a file behind unix:, got ""
c.yaml:9: listeners[1].mode: want permissions in octal, such as "0660", got "9"
c.yaml:10: listeners[2].address: want a port from 0 to 65535, got "127.0.0.1:99999"
c.yaml:10: listeners[2].tls.cert: must not be empty
c.yaml:10: listeners[2].tls.key: must not be empty
c.yaml:10: listeners[2].protocols: want at least one protocol; without the key all are spoken
c.yaml:12: policy.strict: want true or false, got "yes"
c.yaml:13: policy.stages[1]: want admit, authenticate, route, dial, inspect or manage, got "rout"; did you mean route?
c.yaml:14: policy.shadow: not supported by this release
c.yaml:15: policy.opa: want a map, got a list
c.yaml:16: policy.rollback: want refuse or allow, got "refused"; did you mean refuse?
c.yaml:17: policy.decision_log.when_full: want drop or wait, got "wiat"; did you mean wait?
c.yaml:18: policy.max_age: must not be negative
c.yaml:19: geoip.databases[0]: must not be empty
c.yaml:19: geoip.databases[2]: has the same file name as geoip.databases[1], and metrics tell databases apart by it
c.yaml:20: dns.servers[0]: want a name server such as 192.0.2.1 or tls://192.0.2.1#NAME (a server has an address; of tls and https it may be a name), got "one"
c.yaml:21: limits: duplicate key; it is on line 1 already
c.yaml:22: management.tokens.ops.token: want a token of at least 16 characters
c.yaml:22: management.tokens.ops.rolls: unknown key; did you mean roles?
c.yaml:23: Log: unknown key; did you mean log?`},
		"c.json": {`{
 "limits": {"conections": 5,
  "connections": "many",
  "connections": 1.5,
  "idle": true},
 "listeners": [
   {"address": ["a"]},
   7,
   {"name": "", "proxy_protocol": {"trusted": ["10.0.0.0/8", "10.0.0.1/8", "::/0", "host", "192.0.2.1"]}}
 ],
 "state": [],
 "log": {"level": "loud", "file": null}
}`, `c.json:2: limits.conections: unknown key; did you mean connections?
c.json:3: limits.connections: want an integer, got "many"
c.json:4: limits.connections: duplicate key; it is on line 3 already
c.json:5: limits.idle: want a duration such as 10s, got true
c.json:7: listeners[0].address: want a string, got a list
c.json:8: listeners[1]: want a map, got 7
c.json:9: listeners[2].address: want IP:PORT; there is none
c.json:9: listeners[2].proxy_protocol.trusted[1]: "10.0.0.1/8" has bits behind its prefix; want "10.0.0.0/8"
c.json:9: listeners[2].proxy_protocol.trusted[2]: everybody could claim to be anybody; want the addresses of those that send a PROXY header
c.json:9: listeners[2].proxy_protocol.trusted[3]: want an IP address or a network such as 10.0.0.0/8, got "host"
c.json:11: state: want a map, got a list
c.json:12: log.level: want debug, info, warn or error, got "loud"
c.json:12: log.file: want a string, got nothing`},
		"c.toml": {`policy.opa.x = 1979-05-27
policy.paths = "policies/"

[limits]
conections = 5
connections = 0
dial = 1979-05-27
memory = 1.5

[[listeners]]
name = "a"
address = "127.0.0.1:1080"
[[listeners]]
name = "a"
address = "0.0.0.0:1080"
tls = {key = "k", client_auth = "requier", min_version = "9"}

[management]
address = "example.com:9080"
tokens.a.token = 12345678901234567
tokens."b.c" = {
}

[shutdown]
grace = "-1s"
`, `c.toml:1: policy.opa.x: want a string, a number, true or false, got "1979-05-27"
c.toml:2: policy.paths: want a list, got "policies/"
c.toml:5: limits.conections: unknown key; did you mean connections?
c.toml:6: limits.connections: must be greater than zero
c.toml:7: limits.dial: want a duration such as 10s, got "1979-05-27"
c.toml:8: limits.memory: want a size such as 10MiB, got 1.5
c.toml:14: listeners[1].name: "a" is the name of listeners[0] already
c.toml:15: listeners[1].address: listeners[0] listens on that address already
c.toml:16: listeners[1].tls.cert: must not be empty
c.toml:16: listeners[1].tls.client_ca: want the authorities whose certificates clients are to show
c.toml:16: listeners[1].tls.client_auth: want require or optional, got "requier"; did you mean require?
c.toml:16: listeners[1].tls.min_version: want 1.2 or 1.3, got "9"
c.toml:19: management.address: want an IP address before the port, got "example.com:9080"
c.toml:20: management.tokens.a.token: want a string in quotes, got [redacted]
c.toml:21: management.tokens."b.c".token: want a token of at least 16 characters
c.toml:25: shutdown.grace: must not be negative`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := problems(t, Options{File: write(t, name, c.document)}); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestDocumentsThatCannotBeRead(t *testing.T) {
	for _, c := range []struct{ file, document, want string }{
		{"c.ini", "", "c.ini: not a format that is known: want .yaml, .yml, .toml or .json"},
		{"c.yaml", "log:\n  level: info\n bad", "c.yaml:2: not YAML: did not find expected key"}, // the line where its block began
		{"c.yaml", "log:\n  level: info\n  file: a: b\n", "c.yaml:3: not YAML: mapping values are not allowed in this context"},
		{"c.yaml", "- a\n", "c.yaml:1: want a map of settings, got a list"},
		{"c.yaml", "{}\n---\n{}\n", "c.yaml:2: a second document starts here; want one"},
		{"c.yaml", "state: &a {path: x}\nlog: *a\n", "c.yaml:2: log: aliases (*NAME) are not supported; put quotes around a text that begins with *"},
		{"c.yaml", "log: {file: *hunter2}\n", "c.yaml: aliases (*NAME) are not supported; put quotes around a text that begins with *"},
		{"c.yaml", "? [a]\n: 1\n", "c.yaml:1: a key has to be a plain word"},
		{"c.yaml", "log: {level: !secret debug}", `c.yaml:1: log.level: want a string, got "debug"`},
		{"c.yaml", "\"a\\nb\": 1", `c.yaml:1: "a\nb": unknown key`},
		{"c.yaml", "log: " + strings.Repeat("[", 50) + strings.Repeat("]", 50), "c.yaml:1: log: want a map, got a list\nc.yaml:1: nested more than 32 levels deep"},
		{"c.json", "{\n\"log\": {,}}", "c.json:2: not JSON: invalid character ',' looking for beginning of object key string"},
		{"c.json", "{} {}", "c.json:1: not JSON: invalid character '{' after top-level value"},
		{"c.json", "{\"a\": \"\xff\"}", "c.json: not JSON: not valid UTF-8"},
		{"c.json", `{"log":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`, "c.json:1: log: want a map, got a list\nc.json:1: nested more than 32 levels deep"},
		{"c.toml", "[log]\nlevel = \"info\"\nlevel = \"warn\"", "c.toml:3: not TOML: key level is already defined"},
		{"c.toml", "[log]\n\n[log]", "c.toml:3: not TOML: table log already exists"},
		{"c.toml", "log = ", "c.toml:1: not TOML: expected value, not end of input"},
		{"c.toml", "\nlog.file = 99999999999999999999", "c.toml:2: not TOML: decimal number is too large to fit in a 64-bit signed integer"},
		{"c.toml", "\nlog.file = 1e9999", "c.toml:2: not TOML: a number is malformed or out of range"},
		{"c.toml", "log = " + strings.Repeat("[", 50) + strings.Repeat("]", 50), "c.toml:1: nested more than 32 levels deep\nc.toml:1: log: want a map, got a list"},
		{"c.yaml", strings.Repeat("#", 1<<20+1), "c.yaml: cannot be read: larger than 1 MiB"},
		{"c.toml", strings.Repeat("a.", 50) + "b = 1", "c.toml:1: nested more than 32 levels deep"},
		{"c.toml", strings.Repeat("[[a]]\n", maxValues+1), "c.toml: more than 20000 values"},
	} {
		if got := problems(t, Options{File: write(t, c.file, c.document)}); got != c.want {
			t.Errorf("%s: %.60q\ngot  %s\nwant %s", c.file, c.document, got, c.want)
		}
	}
	if got := problems(t, Options{File: "none.yaml"}); got != "none.yaml: cannot be read: no such file or directory" {
		t.Error(got)
	}
	for _, name := range []string{"c.yaml", "c.yml", "c.json", "c.toml", "C.YAML"} {
		for _, document := range []string{"", "\n", "# nothing\n"} {
			if document == "# nothing\n" && name == "c.json" {
				continue
			}
			load(t, Options{File: write(t, name, document)})
		}
	}
	load(t, Options{File: write(t, "c.yaml", "limits:\n# connections: 1\nlisteners:\nmanagement: {tokens: }\n")})
}

func TestProblemsAreBounded(t *testing.T) {
	var document strings.Builder
	for i := range 10000 {
		document.WriteString("key" + strconv.Itoa(i) + ": 1\n")
	}
	if got := strings.Count(problems(t, Options{File: write(t, "c.yaml", document.String())}), "\n") + 1; got != maxProblems {
		t.Errorf("%d problems", got)
	}
	got := problems(t, Options{File: write(t, "c.yaml", "policy: {paths: ["+strings.Repeat("a,", maxValues)+"]}")})
	if got != "c.yaml: more than 20000 values" {
		t.Error(got)
	}
}

func TestPrecedence(t *testing.T) {
	file := write(t, "c.yaml", "limits: {connections: 1, dial: 1s, idle: 1s, handshake: 1s}\npolicy: {paths: [file], data: [file]}\n")
	c := load(t, Options{
		File: file,
		Env: []string{
			"SALLYPORT_LIMITS_DIAL=2s", "SALLYPORT_LIMITS_IDLE=2s", "SALLYPORT_POLICY_PATHS=env, two", "SALLYPORT_POLICY_DATA=env",
			"SALLYPORT_MANAGEMENT_ADDRESS=127.0.0.1:2",
		},
		Set:        []string{"limits.idle=3s", "policy.data=[set]", "policy.paths=[set]", "management.address=127.0.0.1:3", "limits.idle=4s"},
		Data:       []string{"flag,with comma"},
		Management: "127.0.0.1:4",
	})
	for name, pair := range map[string][2]any{
		"default": {c.State.Path, "sallyport.db"},
		"file":    {c.Limits.Connections, 1},
		"env":     {c.Limits.Dial, 2 * time.Second},
		"set":     {c.Limits.Idle, 4 * time.Second},
		"list":    {c.Policy.Paths, []string{"set"}},
		"flag":    {c.Policy.Data, []string{"flag,with comma"}},
		"address": {c.Management.Address, "127.0.0.1:4"},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: got %v, want %v", name, pair[0], pair[1])
		}
	}
}

// Every setting with a fixed name can be set from each source.
func TestEverySettingFromEverySource(t *testing.T) {
	values := map[string]string{
		"policy.paths": "a,b", "policy.data": "a", "policy.timeout": "9", "policy.strict": "false", "policy.stages": "route",
		"policy.capabilities": "opa.runtime", "policy.log_facts": "x", "policy.run_tests": "true", "policy.rollback": "allow",
		"policy.max_age": "1s", "policy.deltas": "true", "policy.audit": "x", "policy.decision_log.when_full": "wait",
		"geoip.databases": "a,b", "state.path": "x", "state.usage.retention": "7h", "state.usage.rows": "77", "limits.connections": "7", "limits.memory": "33MiB", "limits.handshake": "1s", "limits.handshakes": "9", "limits.dial": "1s",
		"limits.idle": "1s", "limits.bind": "1s", "limits.flows": "7", "limits.flows_total": "777", "limits.flow_idle": "1s", "management.address": "127.0.0.1:7", "dns.servers": "192.0.2.1,tls://192.0.2.2:54#x", "dns.ca": "x", "dns.family": "ipv6", "dns.timeout": "1s", "dns.cache.entries": "7", "dns.cache.min_ttl": "1s", "dns.cache.max_ttl": "7s", "dns.cache.negative_ttl": "1s", "log.level": "warn",
		"log.format": "text", "log.file": "x", "telemetry.prometheus": "false", "shutdown.grace": "1s",
	}
	for _, s := range newLoader().settings {
		if !settableByVariable(s.value) || s.key == "management.mode" { // goes with a unix socket only
			continue
		}
		value, known := values[s.key]
		if !known {
			t.Errorf("%s: no value in this test", s.key)
			continue
		}
		byVariable := load(t, Options{Env: []string{variableOf(s.key) + "=" + value}})
		bySet := load(t, Options{Set: []string{s.key + "=" + value}})
		byVariable.origins, bySet.origins = nil, nil
		if !reflect.DeepEqual(byVariable, bySet) || reflect.DeepEqual(bySet, Default()) {
			t.Errorf("%s: %v and %v", s.key, byVariable, bySet)
		}
	}
}

func TestEnvironmentProblems(t *testing.T) {
	for variable, want := range map[string]string{
		"SALLYPORT_LIMITS_CONECTIONS=1":                           "SALLYPORT_LIMITS_CONECTIONS: unknown setting; did you mean SALLYPORT_LIMITS_CONNECTIONS?",
		"SALLYPORT_LIMITS_CONNECTIONS=many":                       `SALLYPORT_LIMITS_CONNECTIONS: limits.connections: want an integer, got "many"`,
		"SALLYPORT_LIMITS_CONNECTIONS=":                           `SALLYPORT_LIMITS_CONNECTIONS: limits.connections: want an integer, got ""`,
		"SALLYPORT_LISTENERS=x":                                   "SALLYPORT_LISTENERS: listeners: cannot be set by a variable; use the file or --set",
		"SALLYPORT_MANAGEMENT_TOKENS=x":                           "SALLYPORT_MANAGEMENT_TOKENS: management.tokens: cannot be set by a variable; use the file or --set",
		"SALLYPORT_GEOIP_DATABASES=,x":                            "SALLYPORT_GEOIP_DATABASES: geoip.databases[0]: must not be empty",
		"SALLYPORT_POLICY_SHADOW_PATHS=true":                      "SALLYPORT_POLICY_SHADOW_PATHS: not supported by this release",
		"SALLYPORT_X\n=1":                                         `"SALLYPORT_X\n": unknown setting`,
		"SALLYPORT_DNS_SERVERS=192.0.2.1,x":                       `SALLYPORT_DNS_SERVERS: dns.servers[1]: want a name server such as 192.0.2.1 or tls://192.0.2.1#NAME (a server has an address; of tls and https it may be a name), got "x"`,
		"SALLYPORT_DNS_SERVERS=192.0.2.1:0":                       `SALLYPORT_DNS_SERVERS: dns.servers[0]: want a name server such as 192.0.2.1 or tls://192.0.2.1#NAME (a port is 1 to 65535), got "192.0.2.1:0"`,
		"SALLYPORT_POLICY_PATHS=a,":                               "SALLYPORT_POLICY_PATHS: policy.paths[1]: must not be empty",
		"SALLYPORT_LOG_FILE=${env:NOT_THERE}":                     `SALLYPORT_LOG_FILE: log.file: environment variable "NOT_THERE" is not set`,
		"SALLYPORT_POLICY_TIMEOUT=1e300":                          `SALLYPORT_POLICY_TIMEOUT: policy.timeout: want a duration such as 10s, got "1e300"`,
		"SALLYPORT_LIMITS_CONNECTIONS=99999999999999999999999999": `SALLYPORT_LIMITS_CONNECTIONS: limits.connections: want an integer, got "99999999999999999999999999"`,
	} {
		if got := problems(t, Options{Env: []string{variable}}); got != want {
			t.Errorf("%q\ngot  %s\nwant %s", variable, got, want)
		}
	}
	// What Kubernetes puts in for services named sallyport and sallyport-admin.
	load(t, Options{Env: []string{
		"SALLYPORT_SERVICE_HOST=10.0.0.1", "SALLYPORT_SERVICE_PORT=1080", "SALLYPORT_SERVICE_PORT_SOCKS=1080", "SALLYPORT_PORT=tcp://10.0.0.1:1080",
		"SALLYPORT_PORT_1080_TCP=tcp://10.0.0.1:1080", "SALLYPORT_PORT_1080_TCP_ADDR=10.0.0.1", "SALLYPORT_ADMIN_SERVICE_HOST=10.0.0.2",
		"SALLYPORT_ADMIN_PORT_9080_TCP_PROTO=tcp",
	}})
}

func TestSet(t *testing.T) {
	file := write(t, "c.yaml", `management: {tokens: {ops: {token: "0123456789abcdef", roles: [admin]}}}`)
	c := load(t, Options{File: file, Set: []string{
		"management.tokens.ops.token=#*&%:all-of-it,123",
		"policy.opa.decision_logs.console=true",
		`policy.roots={a.B: [x, y], c: ["1"]}`,
		"policy.roots.c=z",
		`listeners=[{name: 7, address: "127.0.0.1:0"}, {address: "127.0.0.1:0"}]`,
		`log.file="quoted"`,
		"dns.servers=192.0.2.1",
	}})
	if token := c.Management.Tokens["ops"]; token.Token.Reveal() != "#*&%:all-of-it,123" || !reflect.DeepEqual(token.Roles, []string{"admin"}) {
		t.Error(token.Token.Reveal(), token.Roles)
	}
	if !reflect.DeepEqual(c.Policy.OPA, map[string]any{"decision_logs": map[string]any{"console": true}}) || c.Log.File != "quoted" || len(c.DNS.Servers) != 1 {
		t.Error(c)
	}
	if want := map[string][]string{"a.B": {"x", "y"}, "c": {"z"}}; !reflect.DeepEqual(c.Policy.Roots, want) {
		t.Error(c.Policy.Roots)
	}
	if len(c.Listeners) != 2 || c.Listeners[0].Name != "7" || c.Listeners[1].Name != "listener-2" {
		t.Error(c.Listeners)
	}
	for argument, want := range map[string]string{
		"hunter2":                   "--set: want KEY=VALUE, such as limits.connections=100",
		"=x":                        "--set: want KEY=VALUE, such as limits.connections=100",
		"limits..dial=1s":           "--set: want KEY=VALUE, such as limits.connections=100",
		"limits.dail=1s":            "--set: limits.dail: unknown key; did you mean dial?",
		"limits=7":                  `--set: limits: want a map, got "7"`,
		"limits={dial: 0}":          "--set: limits.dial: must be longer than zero",
		"listeners.main.address=x":  "--set: listeners: want a list, got a map",
		"policy.paths=[":            "--set: policy.paths: not YAML: did not find expected node content",
		"policy.paths=[*hunter2]":   "--set: policy.paths: aliases (*NAME) are not supported; put quotes around a text that begins with *",
		"policy.shadow={}":          "--set: policy.shadow: not supported by this release",
		"log.level.x=1":             "--set: log.level: want a string, got a map",
		"policy.capabilities=[env]": `--set: policy.capabilities[0]: want http.send, net.lookup_ip_addr or opa.runtime, got "env"`,
	} {
		if got := problems(t, Options{Set: []string{argument}}); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", argument, got, want)
		}
	}
}

// OPA's own configuration keeps its keys and its types, from wherever it comes.
func TestOPAsOwnConfiguration(t *testing.T) {
	t.Setenv("DIGITS", "0123456789")
	file := write(t, "c.yaml", `
policy:
  opa:
    services:
      - {name: Main.One, credentials: {bearer: {token: "${env:DIGITS}"}}, retries: 3, url: "a$${b}"}
    bundles: {main: {service: Main.One, polling: {min_delay_seconds: 10, a-b: x}}, other: }
    labels: {id: 1_000, ratio: 1e3, hex: 0x10, quoted: "5"}
`)
	c := load(t, Options{
		File: file,
		Env: []string{
			"SALLYPORT_POLICY_OPA_BUNDLES_MAIN_POLLING_MIN_DELAY_SECONDS=20", "SALLYPORT_POLICY_OPA_BUNDLES_MAIN_POLLING_A_B=true",
			"SALLYPORT_POLICY_OPA_DECISION_LOGS_CONSOLE=true", "SALLYPORT_POLICY_OPA_LABELS_HEX=${env:DIGITS}",
		},
		Set: []string{
			"policy.opa.labels.quoted=6", `policy.opa.labels.text="7"`, "policy.opa.labels.code=007", "policy.opa.labels.list=[1, '1', null]",
			"policy.opa.bundles={Third: {persist: true}}",
		},
	})
	want := map[string]any{
		"services": []any{map[string]any{
			"name": "Main.One", "credentials": map[string]any{"bearer": map[string]any{"token": "0123456789"}}, "retries": int64(3), "url": "a${b}",
		}},
		"bundles": map[string]any{
			"main":  map[string]any{"service": "Main.One", "polling": map[string]any{"min_delay_seconds": int64(20), "a-b": true}},
			"other": nil, "Third": map[string]any{"persist": true},
		},
		"labels": map[string]any{
			"id": int64(1000), "ratio": 1000.0, "hex": "0123456789", "quoted": int64(6), "text": "7", "code": "007", "list": []any{int64(1), "1", nil},
		},
		"decision_logs": map[string]any{"console": true},
	}
	if !reflect.DeepEqual(c.Policy.OPA, want) {
		t.Errorf("got  %#v\nwant %#v", c.Policy.OPA, want)
	}
	if got := c.Problem("policy.opa.services[0].x.y", "is wrong").String(); got != file+":5: policy.opa.services[0].x.y: is wrong" {
		t.Error(got)
	}
	for variable, want := range map[string]string{
		"SALLYPORT_POLICY_OPA=x":                      "policy.opa: cannot be set by a variable; use the file or --set",
		"SALLYPORT_POLICY_OPA_BUNDLES_MAIN_POLLING=x": "unknown setting: a variable sets only what policy.opa in the file has a value for; use the file or --set",
		"SALLYPORT_POLICY_OPA_STATUS_CONSOLE=true":    "unknown setting: a variable sets only what policy.opa in the file has a value for; use the file or --set",
		"SALLYPORT_POLICY_OPA_A_B=x":                  "is the name of more than one setting in policy.opa; use the file or --set",
	} {
		file := write(t, "c.yaml", "policy: {opa: {a: {b: 1}, a_b: 1, bundles: {main: {polling: {x: 1}}}}}")
		if got := problems(t, Options{File: file, Env: []string{variable}}); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s", variable, got)
		}
	}
	for document, want := range map[string]string{
		".inf":         "c.yaml:1: policy.opa.x: want a string, a number, true or false, got .inf",
		"!!binary aGk": `c.yaml:1: policy.opa.x: want a string, a number, true or false, got "aGk"`,
		"['${HOME}']":  "c.yaml:1: policy.opa.x[0]: after ${ comes env:NAME} or file:PATH}; a literal ${ is written $${",
	} {
		if got := problems(t, Options{File: write(t, "c.yaml", "policy: {opa: {x: "+document+"}}")}); got != want {
			t.Errorf("%s: %s", document, got)
		}
	}
}

func TestFlags(t *testing.T) {
	file := write(t, "c.yaml", "listeners: [{name: x, address: '127.0.0.1:1'}]\n")
	c := load(t, Options{File: file, Listen: []string{":0", "[::1]:1080"}, Policy: []string{"a", "b"}})
	want := []Listener{
		{Name: "main", Address: ":0", Protocols: []string{"socks5", "socks4", "http"}},
		{Name: "listener-2", Address: "[::1]:1080", Protocols: []string{"socks5", "socks4", "http"}},
	}
	if !reflect.DeepEqual(c.Listeners, want) || !reflect.DeepEqual(c.Policy.Paths, []string{"a", "b"}) {
		t.Error(c.Listeners, c.Policy.Paths)
	}
	got := problems(t, Options{Listen: []string{"127.0.0.1:1080", "nowhere"}, Management: "0.0.0.0:1080", Data: []string{""}})
	if want := `--listen: listeners[1].address: want IP:PORT, got "nowhere"
--management: management.address: listeners[0] listens on that address already
--data: policy.data[0]: must not be empty`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestDefaultProtocolsAreEachListenersOwn(t *testing.T) {
	c := load(t, Options{Listen: []string{":0", ":0"}})
	c.Listeners[0].Protocols[0] = "changed"
	if c.Listeners[1].Protocols[0] != SOCKS5 || Default().Listeners[0].Protocols[0] != SOCKS5 {
		t.Error("shared")
	}
}

func TestTheShippedNamesHaveADoc(t *testing.T) {
	var walk func(of reflect.Type)
	walk = func(of reflect.Type) {
		for of.Kind() == reflect.Slice || of.Kind() == reflect.Map {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct || of.PkgPath() != reflect.TypeFor[Config]().PkgPath() || of == reflect.TypeFor[NameServer]() { // which is written as one text
			return
		}
		for field := range of.Fields() {
			if field.IsExported() && (field.Tag.Get("key") == "" || field.Tag.Get("doc") == "") {
				t.Errorf("%s.%s has no key or no doc", of.Name(), field.Name)
			}
			if field.IsExported() {
				walk(field.Type)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

func FuzzLoad(f *testing.F) {
	for name, document := range whole {
		f.Add(filepath.Ext(name), []byte(document), "limits.dial", "1s")
	}
	f.Add(".yaml", []byte("a: &a [*a]"), "listeners", "[{a: b}]")
	f.Add(".toml", []byte("[[a.b]]\n[a.b.c]\nd.e={f=[{g=1}]}\n[[a.b]]"), "policy.roots.x", "a,b")
	f.Add(".json", []byte(`{"a":[{"b":1,"b":[]}]}`), "log.level", `"`)
	f.Fuzz(func(t *testing.T, format string, document []byte, variable, set string) {
		if strings.Contains(string(document)+variable+set, "${file:") || len(document) > 1<<16 {
			t.Skip("would read this machine's files")
		}
		l := newLoader()
		tree, problems := parse("c"+format, document)
		l.problems = problems
		l.layTree(tree)
		l.layEnvironment(Options{Env: []string{variableOf(variable) + "=" + set}}, document)
		l.layTree(l.parseSet(variable + "=" + set))
		c, err := l.finish(nil)
		if (c == nil) == (err == nil) {
			t.Fatal("want a configuration or problems")
		}
		if err != nil {
			if len(err.(Problems)) > maxProblems || len(err.Error()) > maxProblems*4096 {
				t.Errorf("%d problems, %d bytes", len(err.(Problems)), len(err.Error()))
			}
			return
		}
		if found := Validate(c); len(found) > 0 {
			t.Error(found)
		}
	})
}

func TestAddressesInEachOthersWay(t *testing.T) {
	for _, c := range []struct {
		first, second string
		clash         bool
	}{
		{"127.0.0.1:1080", "127.0.0.1:1080", true},
		{"127.0.0.1:1080", "localhost:1080", true},
		{"127.0.0.1:1080", "[::ffff:127.0.0.1]:1080", true},
		{":1080", "127.0.0.1:1080", true},
		{"127.0.0.1:1080", "0.0.0.0:1080", true},
		{"[::]:1080", "0.0.0.0:1080", true},
		{"127.0.0.1:1080", "127.0.0.2:1080", false},
		{"127.0.0.1:1080", "127.0.0.1:1081", false},
		{"127.0.0.1:0", "127.0.0.1:0", false},
	} {
		_, err := Load(Options{Listen: []string{c.first, c.second}})
		if (err != nil) != c.clash {
			t.Errorf("%s and %s: %v", c.first, c.second, err)
		}
	}
}

func TestDoors(t *testing.T) {
	got := problems(t, Options{File: write(t, "c.yaml", `listeners:
  - address: "127.0.0.1:1080"
    udp: {advertise: [192.0.2.7, 192.0.2.8], ports: 40100-40000}
    bind: {advertise: 0.0.0.0, ports: some}
  - address: "127.0.0.1:1081"
    udp: {advertise: proxy.example, ports: 0, port: 1}
    bind: {advertise: "fe80::1%eth0", ports: 1-65536}
limits: {bind: 0s, flows: 0, flows_total: -1, flow_idle: 0}
`)})
	want := `c.yaml:3: listeners[0].udp.advertise[1]: want one address of each family, got a second
c.yaml:3: listeners[0].udp.ports: want a range of ports such as 40000-40100, got "40100-40000"
c.yaml:4: listeners[0].bind.advertise[0]: nobody can send to "0.0.0.0"
c.yaml:4: listeners[0].bind.ports: want a range of ports such as 40000-40100, got "some"
c.yaml:6: listeners[1].udp.advertise[0]: want an IP address, got "proxy.example"
c.yaml:6: listeners[1].udp.ports: want a range of ports such as 40000-40100, got 0
c.yaml:6: listeners[1].udp.port: unknown key; did you mean ports?
c.yaml:7: listeners[1].bind.advertise[0]: nobody can send to "fe80::1%eth0"
c.yaml:7: listeners[1].bind.ports: want a range of ports such as 40000-40100, got "1-65536"
c.yaml:8: limits.bind: must be longer than zero
c.yaml:8: limits.flows: must be greater than zero
c.yaml:8: limits.flows_total: must be at least limits.flows, 0
c.yaml:8: limits.flow_idle: must be longer than zero`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
