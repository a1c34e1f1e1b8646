package config

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"filippo.io/age"

	"sallyport/proxy/secret"
)

// sealed encrypts a document into a new working directory, where the key is key.
func sealed(t *testing.T, name, document string) string {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	write(t, "key", key.String())
	var to secret.Recipients
	if err := to.Add(key.Recipient().String()); err != nil {
		t.Fatal(err)
	}
	content, err := to.Encrypt([]byte(document), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestEncryptedInEachFormat(t *testing.T) {
	for name, document := range whole {
		t.Run(name, func(t *testing.T) {
			want := fmt.Sprint(load(t, Options{File: write(t, name, document)}))
			file := sealed(t, name+".age", document)
			for how, options := range map[string]Options{
				"flag":     {File: file, AgeIdentity: []string{"key"}, Env: []string{"SALLYPORT_AGE_IDENTITY=gone"}},
				"variable": {File: file, Env: []string{"SALLYPORT_AGE_IDENTITY=key,key"}},
			} {
				if got := fmt.Sprint(load(t, options)); got != want {
					t.Errorf("%s: got  %s\nwant %s", how, got, want)
				}
			}
		})
	}
}

func TestEncryptedFilesThatAreRefused(t *testing.T) {
	key := []string{"key"}
	for _, c := range []struct {
		document string
		options  Options
		want     string
	}{
		{"", Options{}, "c.yaml.age: is encrypted: name the file of the key by --age-identity"},
		{"", Options{AgeIdentity: []string{"gone"}}, `--age-identity: identity file "gone" cannot be read: no such file or directory`},
		{"", Options{Env: []string{"SALLYPORT_AGE_IDENTITY=gone"}}, `SALLYPORT_AGE_IDENTITY: identity file "gone" cannot be read: no such file or directory`},
		// Nothing that stands in it is quoted, and the line is that of the plain text.
		{"log:\n  level: " + planted, Options{AgeIdentity: key}, "c.yaml.age:2: log.level: want debug, info, warn or error, got [redacted]"},
		{"limits: {dial: " + planted + ", connections: " + planted + "}", Options{AgeIdentity: key},
			"c.yaml.age:1: limits.dial: want a duration such as 10s, got [redacted]\nc.yaml.age:1: limits.connections: want an integer, got [redacted]"},
		{planted, Options{AgeIdentity: key}, "c.yaml.age:1: want a map of settings, got [redacted]"},
		{"a: [" + planted, Options{AgeIdentity: key}, "c.yaml.age:1: not YAML: did not find expected ',' or ']'"},
	} {
		c.options.File = sealed(t, "c.yaml.age", c.document)
		if got := problems(t, c.options); got != c.want {
			t.Errorf("%q: got  %s\nwant %s", c.document, got, c.want)
		}
	}
	options := Options{File: write(t, "c.yaml.age", "log: {}")}
	if got := problems(t, options); got != "c.yaml.age: is not encrypted, though its name ends in .age: run sallyport config encrypt" {
		t.Error(got)
	}
	options = Options{File: sealed(t, "c.ini.age", "x"), AgeIdentity: key}
	if got := problems(t, options); !strings.HasPrefix(got, "c.ini.age: not a format that is known") {
		t.Error(got)
	}
}

// Who writes secrets out keeps the file to himself.
func TestSecretsInAFileThatIsOpenToOthers(t *testing.T) {
	t.Setenv("PLANTED", planted)
	const (
		token = "management: {tokens: {a: {token: '" + planted + "'}}}"
		fix   = ": is a secret, and the file is open to others (mode 0644): run chmod 600 c.yaml, or write ${file:PATH} of a file that is not"
	)
	services := func(of string) string { return "policy: {opa: {services: {s: " + of + "}}}" }
	for document, key := range map[string]string{
		token: "management.tokens.a.token",
		services("{credentials: {bearer: {token: x}}}"):                                         "policy.opa.services.s.credentials.bearer.token",
		services("{credentials: {oauth2: {client_secret: x}}}"):                                 "policy.opa.services.s.credentials.oauth2.client_secret",
		services("{headers: {Authorization: x}}"):                                               "policy.opa.services.s.headers.Authorization",
		services("{headers: {X-Api-Key: x}}"):                                                   "policy.opa.services.s.headers.X-Api-Key",
		services("{url: 'https://u:p@h/x'}"):                                                    "policy.opa.services.s.url",
		"policy: {opa: {keys: {k: {key: x}}}}":                                                  "policy.opa.keys.k.key",
		"policy: {opa: {keys: {k: {private_key: '-----BEGIN RSA PRIVATE KEY-----'}}}}":          "policy.opa.keys.k.private_key",
		"policy: {opa: {list: [{password: x}]}}":                                                "policy.opa.list[0].password",
		"management: {tokens: {a: {token: '${env:PLANTED}'}}}":                                  "",
		"management: {tokens: {}}":                                                              "",
		services("{url: 'https://h/a@b:c', headers: {Accept: x}, credentials: {}}"):             "",
		services("{credentials: {bearer: {token_path: /x}, client_tls: {private_key: a.pem}}}"): "",
		services("{credentials: {bearer: {token: '${env:PLANTED}'}}}"):                          "",
		"policy: {opa: {keys: {k: {key: '-----BEGIN PUBLIC KEY-----'}}}}":                       "",
		"log: {level: info}":                                           "",
		"upstreams: {a: {url: 'socks5://u:p@192.0.2.1'}}":              "upstreams.a.url",
		"upstreams: {a: {url: 'socks5://u:${env:PLANTED}@192.0.2.1'}}": "",
		"upstreams: {a: {url: 'socks4a://u@192.0.2.1'}}":               "",
	} {
		file := write(t, "c.yaml", document)
		load(t, Options{File: file})
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Load(Options{File: file})
		switch {
		case key == "" && err != nil:
			t.Errorf("%s: %v", document, err)
		case key != "" && (err == nil || err.Error() != "c.yaml:1: "+key+fix):
			t.Errorf("%s: got  %v\nwant %s", document, err, key+fix)
		}
	}
	// What others can write is no better, and elsewhere it does not lie in the file.
	file := write(t, "c.yaml", token)
	for mode, refused := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o660: true, 0o602: true} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(Options{File: file}); (err != nil) != refused {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	if err := os.WriteFile("open.yaml", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	load(t, Options{File: "open.yaml", Set: []string{"management.tokens.a.token=" + planted}})
}
