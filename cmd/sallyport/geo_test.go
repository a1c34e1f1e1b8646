package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// countries is a database in the flat layout.
func countries(t *testing.T, by map[string]string) []byte {
	t.Helper()
	records := map[string]mmdbtype.Map{}
	for network, country := range by {
		records[network] = mmdbtype.Map{"country_code": mmdbtype.String(country)}
	}
	return geoDatabaseOf(t, "country", records)
}

func systems(t *testing.T, by map[string]uint32) []byte {
	t.Helper()
	records := map[string]mmdbtype.Map{}
	for network, number := range by {
		records[network] = mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(number), "autonomous_system_organization": mmdbtype.String("Example")}
	}
	return geoDatabaseOf(t, "GeoLite2-ASN", records)
}

func geoDatabaseOf(t *testing.T, kind string, by map[string]mmdbtype.Map) []byte {
	t.Helper()
	built := time.Now().Add(-48 * time.Hour)
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: kind, BuildEpoch: built.Unix(), IncludeReservedNetworks: true, RecordSize: 24})
	if err != nil {
		t.Fatal(err)
	}
	for network, record := range by {
		_, prefix, err := net.ParseCIDR(network)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(prefix, record); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if _, err := tree.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// replaceFile is how a careful updater puts a file in another's place.
func replaceFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.Rename(write(t, path+".new", string(content)), path); err != nil {
		t.Fatal(err)
	}
}

const geofence = `package sallyport.dial

default allow := false

allow if input.address.geo.country in {"NL", "BE"}

deny contains sprintf("AS%d", [input.address.geo.asn]) if input.address.geo.asn == 64500
`

func TestGeoFence(t *testing.T) {
	t.Parallel()
	target, settings := origin(t)
	dir := t.TempDir()
	country := write(t, filepath.Join(dir, "country.mmdb"), string(countries(t, map[string]string{"127.0.0.0/8": "NL", "192.0.2.0/24": "DE"})))
	asn := write(t, filepath.Join(dir, "asn.mmdb"), string(systems(t, map[string]uint32{"192.0.2.0/24": 64500})))
	s := start(t, "--data", write(t, filepath.Join(dir, "settings.json"), settings),
		"--policy", write(t, filepath.Join(dir, "dial.rego"), geofence),
		"--set", "geoip.databases=["+country+", "+asn+"]", "--set", "policy.opa.decision_logs.console=true")
	events := json.NewDecoder(s.stdout)
	expect := func(what string, code int, geo string) {
		t.Helper()
		if out, got := curl(t, "-x", "socks5://"+s.addr, target); got != code {
			t.Errorf("%s: curl exits %d: %s", what, got, out)
		}
		for {
			var event struct {
				Path  string                    `json:"path"`
				Input map[string]map[string]any `json:"input"`
			}
			// The minute is the one fact that is no object.
			var raw struct {
				Path  string                     `json:"path"`
				Input map[string]json.RawMessage `json:"input"`
			}
			if err := events.Decode(&raw); err != nil {
				t.Fatal(err)
			}
			event.Path, event.Input = raw.Path, map[string]map[string]any{}
			for name, text := range raw.Input {
				var fact map[string]any
				if json.Unmarshal(text, &fact) == nil {
					event.Input[name] = fact
				}
			}
			for _, name := range []string{"source", "target"} {
				if geo := event.Input[name]["geo"]; geo != nil {
					t.Errorf("%s: %s of %s has %v in the log, which nothing reads", what, name, event.Path, geo)
				}
			}
			if event.Path != "sallyport/dial" {
				continue
			}
			if got, _ := json.Marshal(event.Input["address"]["geo"]); string(got) != geo {
				t.Errorf("%s: the log has %s, want %s", what, got, geo)
			}
			return
		}
	}
	expect("in the Netherlands", 0, `{"asn":0,"country":"NL"}`)

	// A new file counts for the next decision, although the last is remembered.
	replaceFile(t, country, countries(t, map[string]string{"127.0.0.0/8": "DE"}))
	if entry := s.wait(t, 2, "geoip database active"); entry["file"] != country || entry["type"] != "country" {
		t.Errorf("replaced: %v", entry)
	}
	expect("in Germany", 97, `{"asn":0,"country":"DE"}`)

	// A broken file counts for nothing.
	replaceFile(t, country, countries(t, map[string]string{"127.0.0.0/8": "NL"})[:200])
	refused := s.wait(t, 0, "geoip database refused; the active one stays")
	if refused["file"] != country || !strings.Contains(refused["error"].(string), "cannot be read as a MaxMind DB") {
		t.Errorf("refused: %v", refused)
	}
	expect("still in Germany", 97, `{"asn":0,"country":"DE"}`)
	api := "http://" + s.wait(t, 0, "management")["address"].(string)
	_, metrics := call(t, "GET", api+"/metrics", "")
	for _, want := range []string{
		`sallyport_geoip_activations_total{database="country.mmdb",outcome="ok"} 1`,
		`sallyport_geoip_activations_total{database="country.mmdb",outcome="refused"} `,
		`sallyport_geoip_age_seconds{database="asn.mmdb",type="GeoLite2-ASN"} 17`, // of 172,800
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in:\n%s", want, metrics)
		}
	}
	token, err := os.ReadFile(s.wait(t, 0, "management token")["file"].(string))
	if err != nil {
		t.Fatal(err)
	}
	var view struct {
		GeoIP []struct {
			Path, Type, Refusal string
			Built               time.Time
			Age                 int64 `json:"age_seconds"`
			Facts               []string
		}
	}
	_, body := call(t, "GET", api+"/v1/policy", strings.TrimSpace(string(token)))
	if err := json.Unmarshal([]byte(body), &view); err != nil || len(view.GeoIP) != 2 {
		t.Fatalf("%v: %s", err, body)
	}
	if d := view.GeoIP[0]; d.Path != country || d.Type != "country" || d.Age < 172_800 || d.Age > 180_000 || d.Built.IsZero() ||
		!strings.Contains(d.Refusal, "cannot be read") || strings.Join(d.Facts, " ") != "country" {
		t.Errorf("%+v", d)
	}
	if d := view.GeoIP[1]; d.Path != asn || d.Refusal != "" || strings.Join(d.Facts, " ") != "asn organization" {
		t.Errorf("%+v", d)
	}
	if status, body := call(t, "POST", api+"/v1/reload", strings.TrimSpace(string(token))); status != 422 || !strings.Contains(body, "country.mmdb") {
		t.Errorf("reload: %d %s", status, body)
	}

	// A good file mends it. HUP reads what has changed as well, and whichever comes
	// first leaves nothing to the other.
	replaceFile(t, country, countries(t, map[string]string{"127.0.0.0/8": "BE"}))
	s.wait(t, 3, "geoip database active")
	expect("in Belgium", 0, `{"asn":0,"country":"BE"}`)
	replaceFile(t, asn, systems(t, map[string]uint32{"127.0.0.0/8": 64500}))
	s.cmd.Process.Signal(syscall.SIGHUP)
	s.wait(t, 4, "geoip database active")
	expect("in a system that is kept out", 97, `{"asn":64500,"country":"BE"}`)
}

// TestGeoOfSourceAndTarget: at the door, and for a target that is given as an
// address; a name is nowhere before it is resolved.
func TestGeoOfSourceAndTarget(t *testing.T) {
	t.Parallel()
	target, settings := origin(t)
	port := target[strings.LastIndex(target, ":")+1:]
	dir := t.TempDir()
	country := write(t, filepath.Join(dir, "country.mmdb"), string(countries(t, map[string]string{"127.0.0.0/8": "NL", "192.0.2.0/24": "DE"})))
	policies := filepath.Join(dir, "policies")
	if err := os.Mkdir(policies, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(policies, "route.rego"), `package sallyport.route

default allow := false

allow if input.target.geo.country in {"NL", ""}

explain := true

reason := sprintf("country %q", [input.target.geo.country])
`)
	admit := write(t, filepath.Join(policies, "admit.rego"), `package sallyport.admit

default allow := false

allow if input.source.geo.country == "NL"
`)
	s := start(t, "--data", write(t, filepath.Join(dir, "settings.json"), settings), "--policy", policies,
		"--set", "geoip.databases=["+country+"]")
	for _, c := range []struct{ to, want string }{
		{target, "hello"},
		{"http://localhost:" + port, "hello"},
		{"http://192.0.2.1:" + port, "403"},
	} {
		if out, _ := curl(t, "-p", "-x", "http://"+s.addr, c.to); !strings.Contains(out, c.want) {
			t.Errorf("%s: %s", c.to, out)
		}
	}
	raw := exchange(t, s.addr, "CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: a\r\n\r\n")
	if !strings.Contains(raw, `country \"DE\"`) {
		t.Errorf("a refusal reads %q", raw)
	}
	write(t, admit, "package sallyport.admit\n\nallow if input.source.geo.country != \"NL\"\n")
	s.wait(t, 1, "policy active")
	if out, _ := curl(t, "-p", "-x", "http://"+s.addr, target); strings.Contains(out, "hello") {
		t.Errorf("the source is let in: %s", out)
	}
}

// TestGeoIsChecked: run does not start without its databases, check names what is
// wrong with each, and both warn of a fact that none of them knows.
func TestGeoIsChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	country := write(t, filepath.Join(dir, "country.mmdb"), string(countries(t, map[string]string{"192.0.2.0/24": "NL"})))
	corrupt := write(t, filepath.Join(dir, "corrupt.mmdb"), string(countries(t, map[string]string{"192.0.2.0/24": "NL"})[:100]))
	none := filepath.Join(dir, "none.mmdb")
	again := write(t, filepath.Join(t.TempDir(), "country.mmdb"), string(countries(t, map[string]string{"192.0.2.0/24": "NL"})))
	dial := write(t, filepath.Join(dir, "dial.rego"), geofence)
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"run", "--set", "geoip.databases=[" + corrupt + "]"}, 2, []string{"sallyport: --set: geoip.databases[0]: " + corrupt + ": cannot be read as a MaxMind DB"}},
		{[]string{"run", "--set", "geoip.databases=[" + country + "," + none + "]"}, 2, []string{"sallyport: --set: geoip.databases[1]: " + none + ": no such file"}},
		{[]string{"check", "--set", "geoip.databases=[" + none + "," + corrupt + "]", "--policy", dial + "x"}, 2,
			[]string{none + ": no such file", corrupt + ": cannot be read", dial + "x: no such file"}},
		{[]string{"check", "--set", "geoip.databases=[" + country + "," + again + "]"}, 2, []string{
			"sallyport: --set: geoip.databases[1]: has the same file name as geoip.databases[0], and metrics tell databases apart by it"}},
		{[]string{"check", "--set", "geoip.databases=['']"}, 2, []string{"geoip.databases[0]: must not be empty"}},
		{[]string{"check", "--policy", dial}, 2, []string{dial + ":5:10: warning: input.address.geo.country is always empty: no GeoIP database is configured (geoip.databases)"}},
		{[]string{"check", "--policy", dial, "--set", "geoip.databases=[" + country + "]"}, 2, []string{
			dial + ":7:32: warning: input.address.geo.asn is always empty: none of the GeoIP databases knows it"}},
		{[]string{"check", "--set", "geoip.databases=[" + country + "]"}, 0, []string{"ok: default"}},
		{[]string{"check", "--format", "json", "--set", "geoip.databases=[" + none + "]", "--policy", dial}, 2,
			[]string{`"problems":[{"file":"--set","key":"geoip.databases[0]","message":"` + none + `: no such file or directory"}]}`}},
	} {
		cmd := program(c.args...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != c.code {
			t.Errorf("%v: exits %d and prints %s", c.args, code, out)
		}
		for _, want := range c.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("%v: no %q in %s", c.args, want, out)
			}
		}
	}
	s := start(t, "--policy", dial, "--set", "geoip.databases=["+country+"]")
	if warned, _ := s.wait(t, 0, "policy")["problem"].(string); !strings.Contains(warned, "input.address.geo.asn is always empty") {
		t.Errorf("run warns of %q", warned)
	}
}

// Eval looks up what the question leaves open, and nothing else.
func TestEvalLocates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	country := write(t, filepath.Join(dir, "country.mmdb"), string(countries(t, map[string]string{"192.0.2.0/24": "NL", "198.51.100.0/24": "FR"})))
	rules := write(t, filepath.Join(dir, "dial.rego"), geofence)
	for address, want := range map[string]string{
		"192.0.2.1":    "allow by",
		"198.51.100.1": "deny by",
		"203.0.113.1":  "deny by",
	} {
		out, err := program("eval", "dial", "--policy", rules, "--set", "geoip.databases="+country,
			"--target", "a.example:443", "--address", address).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, %s", address, err, out)
		}
	}
	input := write(t, filepath.Join(dir, "input.json"), `{"address": {"ip": "198.51.100.1", "geo": {"country": "BE"}}}`)
	out, err := program("eval", "dial", "--policy", rules, "--set", "geoip.databases="+country, "--input", input).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "allow by") {
		t.Errorf("a geo that is given: %v, %s", err, out)
	}
}
