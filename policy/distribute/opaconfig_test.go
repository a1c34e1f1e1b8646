package distribute

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/config"
	"go.yaml.in/yaml/v3"
)

// opaYAML is OPA's configuration as an operator writes it.
func opaYAML(t *testing.T, text string) map[string]any {
	t.Helper()
	var opa map[string]any
	if err := yaml.Unmarshal([]byte(text), &opa); err != nil {
		t.Fatal(err)
	}
	return opa
}

const signedOPA = `
services: {main: {url: "https://bundles.example", credentials: {bearer: {token: hunter2hunter2}}}}
keys: {release: {algorithm: HS256, key: hunter2hunter2}}
bundles: {main: {service: main, resource: bundles/main.tar.gz, signing: {keyid: release}, persist: true, polling: {min_delay_seconds: 10, max_delay_seconds: 20, superseded_etag_ttl_seconds: 5}}}
discovery: {resource: discovery.tar.gz, signing: {}}
decision_logs: {console: true}
status: {console: true}
labels: {region: eu}
persistence_directory: /var/lib/x
nd_builtin_cache: true
plugins: {file_logger: {path: /tmp/x}}
`

func TestOPAsConfigurationThatIsTaken(t *testing.T) {
	for _, text := range []string{
		"", "labels: {a: b}", signedOPA,
		"services: [{name: main, url: 'http://127.0.0.1:1'}]\nbundles: {main: {}}",
		"bundles: {main: {resource: 'file:///srv/main.tar.gz'}}",
		"keys: {sign: {private_key: x}}\nservices: {main: {url: 'http://h'}}\nbundles: {main: {}}",
	} {
		if err := CheckOPA(opaYAML(t, text), Terms{}); err != nil {
			t.Errorf("%s\n%v", text, err)
		}
	}
	two := opaYAML(t, "services: {s: {url: 'http://h'}}\nbundles: {a: {}, b/c: {}}")
	if err := CheckOPA(two, Terms{Roots: map[string][]string{"a": {"x"}, "b/c": {"y"}}}); err != nil {
		t.Error(err)
	}
}

func TestOPAsConfigurationThatIsRefused(t *testing.T) {
	const service = "services: {s: {url: 'http://h'}}\n"
	for text, want := range map[string]string{
		"bundle: {name: x, service: s}":        "policy.opa.bundle: is OPA's former form, which has no signatures: use bundles",
		"bundels: {}":                          "policy.opa.bundels: OPA has no such setting; did you mean bundles?",
		"default_decision: /x":                 "policy.opa.default_decision: has no effect here: a decision is a stage's package",
		"server: {}\nstorage: {}\ncaching: {}": "policy.opa.caching: has no effect here\npolicy.opa.server: has no effect here: the server is listeners and management\npolicy.opa.storage: has no effect here: policy is held in memory",
		"labels: {a: 7}":                       "policy.opa: json: cannot unmarshal number into Go value of type string",
		"plugins: {envoy: {}}":                 "policy.opa.plugins.envoy: there is no such plugin here; the one that there is is file_logger",
		"decision_logs: {consle: true}":        "policy.opa.decision_logs.consle: OPA has no such setting; did you mean console?",
		service + "bundles: {a: {}, b: {}}":    "policy.roots.a: there are several bundles, and each needs the roots of data that it may own\npolicy.roots.b: there are several bundles, and each needs the roots of data that it may own",
		service + "keys: {k: {key: x}}\nbundles: {a: {}}\ndiscovery: {resource: x}":                    "policy.opa.bundles.a.signing: there are keys, and without this OPA would accept the bundle unsigned as well; it has to say which key signs, or {} for any of them\npolicy.opa.discovery.signing: there are keys, and without this OPA would accept the bundle unsigned as well; it has to say which key signs, or {} for any of them",
		service + "keys: {k: {key: x}}\nbundles: {a: {signing: {keyid: other}}}":                       "policy.opa.bundles.a: key id other not found",
		service + "bundles: {a: {signing: {}}}":                                                        "policy.opa.bundles.a: no verification keys configured",
		service + "keys: {k: {key: x}}\nbundles: {a: {signing: {allow_unsigned_delta_bundles: true}}}": "policy.opa.bundles.a.signing.allow_unsigned_delta_bundles: would let anybody on the way change the data of a bundle that is signed",
		service + "keys: {k: {algorithm: XS256, key: x}}":                                              "policy.opa.keys.k: unsupported algorithm 'XS256'",
		"services: {a: {url: 'http://h'}, b: {url: 'http://h'}}\nbundles: {x: {}}":                     "policy.opa.bundles.x.service: there are several services; say which",
		"bundles: {x: {}}":                                                                   "policy.opa.bundles.x.service: there is no service to load it from",
		service + "bundles: {x: {service: t}}":                                               `policy.opa.bundles.x: service name "t" not found`,
		service + "bundles: {x: }":                                                           "policy.opa.bundles.x: want a map",
		service + "bundles: {../x: {}}":                                                      `policy.opa.bundles."../x": a bundle's name is that of its directory too`,
		service + "bundles: {x: {trigger: manual}}":                                          "policy.opa.bundles.x.trigger: nobody would trigger it by hand; want periodic",
		service + "bundles: {x: {polling: {min_delay_seconds: 1}}}":                          "policy.opa.bundles.x: polling configuration missing 'max_delay_seconds'",
		service + "bundles: {x: {polling: {min_delay: 1}}}":                                  "policy.opa.bundles.x.polling.min_delay: OPA has no such setting",
		service + "bundles: {x: {size_limit_bytes: 268435457}}":                              "policy.opa.bundles.x.size_limit_bytes: a policy may have at most 268435456 bytes in all",
		"bundles: {x: {resource: 'file://srv/x'}}":                                           "policy.opa.bundles.x.resource: want file:///PATH",
		"services: {s: {url: 'ftp://h'}}":                                                    "policy.opa.services.s.url: want http://HOST or https://HOST",
		"services: {s: {url: 'http://u:hunter2hunter2@h'}}":                                  "policy.opa.services.s.url: names a user, which logs would show: use credentials",
		"services: {s: {}}":                                                                  "policy.opa.services.s.url: a service needs one",
		"services: [{url: 'http://h'}]":                                                      "policy.opa.services[0]: has no name",
		"services: [{name: s, url: 'http://h', hdrs: {}}]":                                   "policy.opa.services[0].hdrs: OPA has no such setting",
		"services: {s: {url: 'http://h', credentials: {plugin: x}}}":                         "policy.opa.services.s.credentials.plugin: there is no such plugin here",
		"services: {s: {url: 'http://h', credentials: {bearer: {token: x, token_path: y}}}}": `policy.opa.services.s.credentials: invalid config: specify a value for either the "token" or "token_path" field`,
		"services: {s: {url: 'http://h', credentials: {bearer: {}, oauth2: {}}}}":            "policy.opa.services.s.credentials: a maximum one credential method must be specified",
		"services: {s: {url: 'http://h', tls: {ca_cert: /hunter2hunter2}}}":                  "policy.opa.services.s.credentials: open /[redacted]: no such file or directory",
		service + "discovery: {}":                                                            "policy.opa.discovery: missing required discovery.resource field",
		service + "status: {prometheus: true, service: s}":                                   "policy.opa.status.prometheus: has no effect here; GET /metrics tells of activations",
		service + "status: {}":                                                               "policy.opa.status: goes nowhere: want service or console",
		service + "status: {service: t}":                                                     `policy.opa.status: invalid service name "t" in status`,
		"services: 7":                                                                        "policy.opa.services: want a map",
	} {
		err := CheckOPA(opaYAML(t, text), Terms{Secrets: []string{"hunter2hunter2"}})
		if err == nil || err.Error() != want {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
	}
}

func TestDiscovery(t *testing.T) {
	boot := opaYAML(t, signedOPA)
	delete(boot, "decision_logs")
	for text, want := range map[string]string{
		"{}": "",
		"bundles: {more: {service: main, signing: {keyid: release}}}":                          "",
		"services: {other: {url: 'http://h'}}\nbundles: {more: {service: other, signing: {}}}": "",
		"bundles: {more: {service: main}}":                                                     "policy.opa.bundles.more.signing: there are keys, and without this OPA would accept the bundle unsigned as well; it has to say which key signs, or {} for any of them",
		"bundles: {main: {service: main, resource: bundles/main.tar.gz}}":                      "policy.opa.bundles.main: is not what the file says",
		"services: {main: {url: 'https://bundles.example', allow_insecure_tls: true}}":         "policy.opa.services.main: is not what the file says",
		"keys: {release: {algorithm: HS256, key: other}}":                                      "policy.opa.keys.release: is not what the file says",
		"persistence_directory: /etc":                                                          "policy.opa.persistence_directory: only the file says this",
		"status: {console: false}":                                                             "policy.opa.status: only the file says this",
		"decision_logs: {console: true}":                                                       "policy.opa.decision_logs: only the file says this",
		"services: {other: {url: 'http://h', headers: {a: '${HOME}'}}}":                        "policy.opa.services.other.headers.a: refers to the environment, which discovery must not",
		"services: {other: {url: 'http://h', credentials: {bearer: {token: x}}}}":              "",
		"services: {other: {url: 'http://h', credentials: {bearer: {token_path: /etc/x}}}}":    "policy.opa.services.other.credentials.bearer.token_path: are this machine's, which discovery must not send anywhere: the file may say so",
		"services: {other: {url: 'http://h', credentials: {azure_managed_identity: {}}}}":      "policy.opa.services.other.credentials.azure_managed_identity: are this machine's, which discovery must not send anywhere: the file may say so",
		"server: {}":        "policy.opa.server: has no effect here: the server is listeners and management",
		"bundlse: {}":       "policy.opa.bundlse: OPA has no such setting; did you mean bundles?",
		"bundle: {name: x}": "policy.opa.bundle: is OPA's former form, which has no signatures: use bundles",
	} {
		raw, err := json.Marshal(opaYAML(t, text))
		if err != nil {
			t.Fatal(err)
		}
		found, err := config.ParseConfig(raw, "id")
		if err != nil {
			t.Fatal(err)
		}
		g := newGuard(boot, Terms{Roots: map[string][]string{"main": {"x"}, "more": {"y"}}}, false)
		c, err := g.OnConfigDiscovery(context.Background(), found)
		if want == "" {
			if err != nil {
				t.Errorf("%s\n%v", text, err)
				continue
			}
			for _, kept := range []string{`"main"`, `"release"`} {
				if all := string(c.Bundles) + string(c.Keys); !strings.Contains(all, kept) {
					t.Errorf("%s: %s is lost: %s", text, kept, all)
				}
			}
			if n := strings.Count(string(c.Services), `"plugin":"bounds/`); n != len(g.services) || n == 0 {
				t.Errorf("%s: a service without bounds: %s", text, c.Services)
			}
			continue
		}
		if err == nil || err.Error() != "the discovered configuration: "+want {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
	}
}
