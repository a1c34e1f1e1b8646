package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"sallyport/proxy/secret"
)

const planted = "planted-hunter2-value"

// shown is a configuration in every form in which it can be shown.
func shown(t *testing.T, c *Config) string {
	t.Helper()
	var all bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&all, verb+"\n"+verb+"\n", c, *c)
	}
	slog.New(slog.NewTextHandler(&all, nil)).Info("m", "pointer", c, "value", *c)
	slog.New(slog.NewJSONHandler(&all, nil)).Info("m", "pointer", c, "value", *c)
	for _, encode := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal} {
		for _, value := range []any{c, *c, c.Redacted(), struct{ C *Config }{c}} {
			encoded, err := encode(value)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(encoded)
		}
	}
	return all.String()
}

func TestNothingShowsASecret(t *testing.T) {
	file := write(t, "c.yaml", `
management:
  tokens:
    literal: {token: "`+planted+`-1"}
    variable: {token: "${env:PLANTED}", roles: ["${env:PLANTED}"]}
    file: {token: "x${file:planted}"}
log: {file: "/tmp/${env:PLANTED}"}
policy: {paths: "${env:PLANTED}", data: ["${env:PLANTED}"], roots: {b: ["${file:planted}"]}}
listeners: [{name: "${env:PLANTED}", address: "${env:ADDRESS}"}]
limits: {connections: "${env:NUMBER}"}
`)
	t.Setenv("PLANTED", planted)
	t.Setenv("ADDRESS", "127.0.0.1:61234")
	t.Setenv("NUMBER", "61234")
	if err := os.WriteFile("planted", []byte(planted+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := load(t, Options{File: file})
	if c.Management.Tokens["file"].Token.Reveal() != "x"+planted || c.Log.File != "/tmp/"+planted || c.Limits.Connections != 61234 ||
		!reflect.DeepEqual(c.Policy.Paths, []string{planted}) {
		t.Fatal("not expanded")
	}
	text := shown(t, c)
	if strings.Contains(text, planted) || strings.Contains(text, "61234") || strings.Contains(text, fmt.Sprintf("%x", planted)) {
		t.Errorf("shows a secret:\n%s", text)
	}
	if !strings.Contains(text, secret.Redacted) || !strings.Contains(text, "127.0.0.1:9080") {
		t.Errorf("shows nothing else:\n%s", text)
	}
}

// Credentials stand in OPA's configuration in places that OPA names.
func TestCredentialsOfOPAsOwnConfigurationAreNotShown(t *testing.T) {
	file := write(t, "c.yaml", `
policy:
  opa:
    services:
      one:
        url: https://user:`+planted+`@bundles.example/p?sig=`+planted+`
        headers: {X-Api: `+planted+`, Authorization: `+planted+`}
        tls: {private_key: `+planted+`, private_key_passphrase: `+planted+`, ca_cert: shown-ca.pem}
        credentials: {oauth2: {client_secret: `+planted+`, scopes: [`+planted+`]}, s3_signing: {environment_credentials: {}}, n: 61234}
    keys: {k: {algorithm: shown-HS256, key: `+planted+`, private_key: "`+planted+`", Key: `+planted+`, scope: "a?b"}}
    bundles: {main: {resource: "b.tar.gz?token=`+planted+`", service: one}}
    labels: {x: "shown-${env:PLANTED}", y: shown-label}
    plugins: {p: {access_token: `+planted+`, password: `+planted+`}}
`)
	t.Setenv("PLANTED", planted)
	c := load(t, Options{File: file})
	if want := []string{"shown-" + planted, "token=" + planted, "sig=" + planted, planted}; !slices.Equal(c.Secrets(), want) {
		t.Error(c.Secrets())
	}
	text := shown(t, c)
	if strings.Contains(text, planted) || strings.Contains(text, "61234") || strings.Contains(text, fmt.Sprintf("%x", planted)) {
		t.Errorf("shows a secret:\n%s", text)
	}
	for _, want := range []string{"shown-ca.pem", "shown-HS256", "shown-label", "a?b", "https://[redacted]@bundles.example/p?[redacted]", "b.tar.gz?[redacted]"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not shown:\n%s", want, text)
		}
	}
}

// Every problem that can be had with a value that is a secret.
func TestNoProblemTellsASecret(t *testing.T) {
	t.Setenv("PLANTED", planted)
	t.Setenv("LEVEL", "debgu")
	const put = `"${env:PLANTED}"`
	for _, document := range []string{
		"limits: {connections: " + put + ", memory: " + put + ", dial: " + put + "}",
		"listeners: [{address: " + put + ", protocols: [" + put + ", " + put + "]}]",
		"listeners: [{name: " + put + ", address: ':1'}, {name: " + put + ", address: ':2'}]",
		"listeners: " + put,
		"listeners: [" + put + "]",
		"policy: {strict: " + put + ", stages: [" + put + "], capabilities: [" + put + "], roots: " + put + "}",
		"policy: {paths: 'x,${env:PLANTED},'}",
		"dns: {servers: [" + put + "]}",
		"log: {level: " + put + ", format: " + put + "}",
		"log: " + put + "\nstate: {path: [" + put + "]}",
		"management: {address: " + put + ", tokens: " + put + "}",
		"management: {tokens: {a: {token: " + put + "}, b: {token: " + put + "}}}",
		"management: {tokens: {a: {token: 'ä${env:PLANTED}'}}}",
		"management: {tokens: {a: {token: '" + planted + "', rolls: x}, b: {token: '" + planted + "'}}}",
		"management: {tokens: {a: {tokne: " + planted + "}}}",
		"management: {tokens: {a: {token: *" + planted + "}}}",
		"management: {tokens: {a: {token: !" + planted + " x}}}",
		"management: {tokens: {a: {token: [" + planted + "]}}}",
		"management: {tokens: {a: {token: " + planted + ": x}}}",
		"management: {tokens: {a: {token: 'ab${" + planted + "'}}}",
		"management: {tokens: {a: {token: 'ab${" + planted + "}'}}}",
		"upstreams: {a: {url: 'sock5://u:" + planted + "@h'}}",
		"upstreams: {a: {url: 'socks5://u:" + planted + "/x@h'}}",
		"upstreams: {a: {url: 'socks5://u:1/" + planted + "@h'}}",
		"upstreams: {a: {url: 'socks5://u:%" + planted + "@h'}}",
		"upstreams: {a: {url: 'socks4a://u:" + planted + "@h'}}",
		"upstreams: {a: {url: 'http://u:" + planted + "@h:99999'}}",
		"upstreams: {a: {url: 'u:" + planted + "'}}",
		"upstreams: {a: {url: " + put + ", tls: {key: " + put + "}, source_address: " + put + "}}",
		"upstreams: {a: {url: [" + planted + "]}}",
		"upstreams: {a: {url: 'http://h', probe: {address: " + put + ", via: [" + put + "]}, labels: " + put + "}}",
	} {
		got := problems(t, Options{File: write(t, "c.yaml", document)})
		if strings.Contains(got, planted) {
			t.Errorf("%s\n%s", document, got)
		}
	}
	for name, document := range map[string]string{
		"c.toml": "management.tokens.a.token = " + planted,
		"c.json": `{"management": {"tokens": {"a": {"token": ` + planted + `}}}}`,
	} {
		if got := problems(t, Options{File: write(t, name, document)}); strings.Contains(got, planted) {
			t.Errorf("%s\n%s", document, got)
		}
	}
	got := problems(t, Options{Env: []string{"SALLYPORT_LOG_LEVEL=${env:PLANTED}", "SALLYPORT_TOKEN=" + planted}, Set: []string{
		planted, "management.tokens.a.token={" + planted, "management.tokens.b.token=[*" + planted + "]", "tokens=" + planted,
	}})
	if strings.Contains(got, planted) {
		t.Error(got)
	}
	// A near miss is not told either.
	if got := problems(t, Options{Set: []string{"log.level=${env:LEVEL}"}}); got != "--set: log.level: want debug, info, warn or error, got [redacted]" {
		t.Error(got)
	}
}

// What others find wrong with a file is told without its name, where that came out of
// a reference or was in an encrypted file.
func TestNoProblemOfOthersTellsASecret(t *testing.T) {
	t.Setenv("PLANTED", planted+"\"/x")
	t.Setenv("SHORT", "no")
	t.Setenv("NAME", planted)
	settings, err := Load(Options{File: write(t, "c.yaml", `{geoip: {databases: ["${env:PLANTED}/a", plain]}, dns: {ca: "${env:SHORT}"}, state: {path: "${env:PLANTED}"}, log: {file: "/srv/${env:PLANTED}"}, policy: {audit: "/srv/${env:NAME}"}}`)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ key, value, want string }{
		{"geoip.databases[0]", planted + "\"/x/a", "${env:PLANTED}/a is no database"},
		{"geoip.databases[0]", planted + "\"/x/b", "${env:PLANTED}/b is no database"}, // beside it
		{"state.path", planted + "\"/x", "${env:PLANTED} is no database"},
		{"state.path", planted + "\"/b", "[redacted]/b is no database"},
		{"log.file", "/srv/" + planted + "\"/b", "[redacted]/b is no database"},
		{"policy.audit", "/srv/" + planted, "/srv/${env:NAME} is no database"},
		{"policy.audit", "/srv/b", "/srv/b is no database"},
		{"geoip.databases[1]", "plain", "plain is no database"},
		{"dns.ca", "no", "no is no database"}, // it would be found in other words
	} {
		if got := settings.Problem(c.key, c.value+" is no database").Message; got != c.want {
			t.Errorf("%s: %s", c.key, got)
		}
		quoted := strconv.Quote(c.value)
		if got := settings.Problem(c.key, quoted[1:len(quoted)-1]+" is no database").Message; got != c.want {
			t.Errorf("%s, quoted: %s", c.key, got)
		}
	}
	settings.origins["geoip.databases[1]"] = origin{sealed: true, value: "plain", written: "plain"}
	if got := settings.Problem("geoip.databases[1]", "plain is none").Message; got != "[redacted] is none" {
		t.Error(got)
	}
}

// A variable for a secret may have the prefix of the settings.
func TestVariablesThatAreReferredTo(t *testing.T) {
	t.Setenv("SALLYPORT_OPS", planted)
	file := write(t, "c.yaml", `management: {tokens: {ops: {token: "${env:SALLYPORT_OPS}"}}}`)
	if c := load(t, Options{File: file, Env: os.Environ()}); c.Management.Tokens["ops"].Token.Reveal() != planted {
		t.Error("not expanded")
	}
	if got := problems(t, Options{Env: []string{"SALLYPORT_OPS=x"}}); !strings.HasPrefix(got, "SALLYPORT_OPS: unknown setting") {
		t.Error(got)
	}
}

func TestRedactedLoadsAgain(t *testing.T) {
	c := load(t, Options{File: write(t, "c.yaml", whole["c.yaml"])})
	encoded, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	again := load(t, Options{
		File: write(t, "again.yaml", string(encoded)),
		Set:  []string{"management.tokens={Ops.One: {token: 0123456789abcdef}}"},
	})
	c.origins, again.origins = nil, nil
	if !reflect.DeepEqual(c, again) {
		t.Errorf("got %v\nwant %v", again, c)
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "17": 17, "1B": 1, "1KiB": 1024, "10 MiB": 10 << 20, "1GiB": 1 << 30, "2TiB": 2 << 40, "1KB": 1000, "1.5MB": 1500000,
		"0.5KiB": 512, "8388607TiB": 8388607 << 40,
	} {
		got, err := ParseBytes(text)
		if again, _ := ParseBytes(got.String()); got != want || err != nil || again != want {
			t.Errorf("%s: %d, %v, %s", text, got, err, got)
		}
	}
	for _, text := range []string{"", "B", "-1", "1K", "1M", "1gib", "1 2", "1.2.3", "NaN", "1e3", "0x10", "8388608TiB", "9999999999999999999", ".", "1iB", "+1"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func FuzzParseBytes(f *testing.F) {
	for _, seed := range []string{"1GiB", "1.5 MB", "17", "9223372036854775807", ".5TiB"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := ParseBytes(text)
		if err != nil {
			return
		}
		if again, err := ParseBytes(size.String()); size < 0 || err != nil || again != size {
			t.Errorf("%q: %d, then %d, %v", text, size, again, err)
		}
	})
}
