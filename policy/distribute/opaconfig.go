package distribute

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/config"
	"github.com/open-policy-agent/opa/v1/keys"
	"github.com/open-policy-agent/opa/v1/logging"
	bundles "github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/plugins/discovery"
	"github.com/open-policy-agent/opa/v1/plugins/rest"
	"github.com/open-policy-agent/opa/v1/plugins/status"
)

// KeyProblem is one thing that is wrong with OPA's own configuration.
type KeyProblem struct {
	Key     string // such as policy.opa.bundles.main.signing
	Message string // holds no secret
}

func (p KeyProblem) String() string { return p.Key + ": " + p.Message }

// KeyProblems is everything that is wrong with it. As an error it prints one
// problem a line.
type KeyProblems []KeyProblem

func (p KeyProblems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// Terms are what the rest of the configuration says about OPA's own.
type Terms struct {
	Roots   map[string][]string // policy.roots
	Secrets []string            // what no message may show

	LogWaits bool // policy.decision_log.when_full: wait
}

// CheckOPA judges OPA's own configuration before anything is made of it. The
// error is a [KeyProblems] with everything that is wrong: what OPA's own parsers
// refuse, what has no effect when OPA is embedded, and what would accept a
// policy that nobody vouches for.
func CheckOPA(opa map[string]any, t Terms) error {
	c := opaCheck{terms: t, opa: opa}
	c.whole()
	if len(c.problems) > 0 {
		slices.SortStableFunc(c.problems, func(a, b KeyProblem) int { return strings.Compare(a.Key, b.Key) })
		return slices.Compact(c.problems)
	}
	return nil
}

type opaCheck struct {
	terms    Terms
	opa      map[string]any
	problems KeyProblems

	services []string
	keys     map[string]*keys.Config
	verify   bool // there is a key to verify bundles with
}

const opaKey = "policy.opa"

// keyOf appends a key to a path. A key that could be misread is quoted, as it is
// where the configuration tells of its own problems.
func keyOf(above, key string) string {
	plain := key != "" && len(key) <= 60 && !strings.ContainsFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
	if !plain {
		key = strconv.Quote(key)
	}
	return above + "." + key
}

func (c *opaCheck) refuse(key, format string, arguments ...any) {
	c.problems = append(c.problems, KeyProblem{key, hide(c.terms.Secrets, fmt.Sprintf(format, arguments...))})
}

// fail is refuse for an error of OPA's, which may repeat where it is.
func (c *opaCheck) fail(key string, err error) {
	message := err.Error()
	for _, said := range []string{"invalid configuration for bundle ", "invalid configuration for discovery service: "} {
		if rest, found := strings.CutPrefix(message, said); found {
			if _, after, named := strings.Cut(rest, `": `); named && strings.HasPrefix(rest, `"`) {
				rest = after
			}
			message = rest
		}
	}
	c.refuse(key, "%s", message)
}

// hide takes secrets out of a message.
func hide(secrets []string, message string) string {
	for _, s := range secrets {
		if s != "" {
			message = strings.ReplaceAll(message, s, "[redacted]")
		}
	}
	return message
}

func (c *opaCheck) whole() {
	raw, err := json.Marshal(c.opa)
	if err != nil {
		c.fail(opaKey, err)
		return
	}
	c.known(opaKey, c.opa, nil)
	if _, err := config.ParseConfig(raw, ""); err != nil {
		c.fail(opaKey, err)
	}
	c.verificationKeys()
	c.allServices()
	c.allBundles()
	c.discovery()
	c.status()
	c.decisionLogs()
	for _, name := range sortedKeys(object(c.opa["plugins"])) {
		if name != fileLogger {
			c.refuse(keyOf(opaKey+".plugins", name), "there is no such plugin here; the one that there is is %s", fileLogger)
		}
	}
}

// verificationKeys judges the keys. One that only signs, as credentials of a
// service do, verifies no bundle.
func (c *opaCheck) verificationKeys() {
	c.keys = map[string]*keys.Config{}
	all := object(c.opa["keys"])
	for _, name := range sortedKeys(all) {
		key := keyOf(opaKey+".keys", name)
		parsed, err := keys.ParseKeysConfig(encode(map[string]any{name: all[name]}))
		if err != nil {
			c.fail(key, err)
			c.verify = true
			continue
		}
		c.keys[name] = parsed[name]
		c.verify = c.verify || parsed[name].Key != ""
	}
}

// service is one of OPA's services, which are an object or a list.
type service struct {
	name, key string
	settings  any
}

func servicesOf(opa map[string]any) []service {
	var found []service
	switch of := opa["services"].(type) {
	case map[string]any:
		for _, name := range sortedKeys(of) {
			found = append(found, service{name, keyOf(opaKey+".services", name), of[name]})
		}
	case []any:
		for i, settings := range of {
			name, _ := object(settings)["name"].(string)
			found = append(found, service{name, opaKey + ".services[" + strconv.Itoa(i) + "]", settings})
		}
	}
	return found
}

func (c *opaCheck) allServices() {
	for _, s := range servicesOf(c.opa) {
		settings, ok := s.settings.(map[string]any)
		if !ok {
			c.refuse(s.key, "want a map")
			continue
		}
		if s.name == "" {
			c.refuse(s.key, "has no name")
		}
		if slices.Contains(c.services, s.name) {
			c.refuse(s.key, "there is another service of that name")
		}
		c.services = append(c.services, s.name)
		c.serviceURL(s.key+".url", settings["url"])
		if object(settings["credentials"])["plugin"] != nil {
			c.refuse(s.key+".credentials.plugin", "there is no such plugin here")
			continue
		}
		client, err := rest.New(encode(settings), c.keys, rest.Name(s.name), rest.Logger(logging.NewNoOpLogger()))
		if err != nil {
			c.fail(s.key, err)
			continue
		}
		auth, err := client.Config().AuthPlugin(nil)
		if err == nil {
			_, err = auth.NewClient(*client.Config())
		}
		if err != nil {
			c.fail(s.key+".credentials", err)
		}
	}
}

// serviceURL judges a URL. Its errors repeat it, and what it holds may be secret.
func (c *opaCheck) serviceURL(key string, value any) {
	text, _ := value.(string)
	u, err := url.Parse(text)
	switch {
	case text == "":
		c.refuse(key, "a service needs one")
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		c.refuse(key, "want http://HOST or https://HOST")
	case u.User != nil:
		c.refuse(key, "names a user, which logs would show: use credentials")
	}
}

// signing judges who has to vouch for a bundle.
func (c *opaCheck) signing(key string, settings map[string]any) {
	signing, signed := settings["signing"].(map[string]any)
	switch {
	case c.verify && !signed:
		c.refuse(key+".signing", "there are keys, and without this OPA would accept the bundle unsigned as well; it has to say which key signs, or {} for any of them")
	case signing["allow_unsigned_delta_bundles"] == true:
		c.refuse(key+".signing.allow_unsigned_delta_bundles", "would let anybody on the way change the data of a bundle that is signed")
	}
}

// from judges which service something is to be had from: of several, OPA would
// take any.
func (c *opaCheck) from(key string, settings map[string]any) {
	name, _ := settings["service"].(string)
	switch {
	case name == "" && len(c.services) > 1:
		c.refuse(key+".service", "there are several services; say which")
	case name == "" && len(c.services) == 0:
		c.refuse(key+".service", "there is no service to load it from")
	}
}

func (c *opaCheck) polling(key string, settings map[string]any) {
	if settings["trigger"] == "manual" {
		c.refuse(key+".trigger", "nobody would trigger it by hand; want periodic")
	}
}

func (c *opaCheck) allBundles() {
	all := object(c.opa["bundles"])
	names := sortedKeys(all)
	for _, name := range names {
		key := keyOf(opaKey+".bundles", name)
		settings, ok := all[name].(map[string]any)
		if !ok {
			c.refuse(key, "want a map")
			continue
		}
		// A bundle that persists has a directory of its name.
		if strings.ContainsAny(name, "\\\x00") || path.Clean("/"+name) != "/"+name || name == "" {
			c.refuse(key, "a bundle's name is that of its directory too")
		}
		if len(names) > 1 && len(c.terms.Roots[name]) == 0 {
			c.refuse(keyOf("policy.roots", name), "there are several bundles, and each needs the roots of data that it may own")
		}
		c.signing(key, settings)
		c.polling(key, settings)
		resource, _ := settings["resource"].(string)
		if strings.HasPrefix(resource, "file:") {
			if u, err := url.Parse(resource); err != nil || u.Host != "" || !strings.HasPrefix(u.Path, "/") {
				c.refuse(key+".resource", "want file:///PATH")
			}
		} else {
			c.from(key, settings)
		}
		if size, ok := number(settings["size_limit_bytes"]); ok && size > maxBytes {
			c.refuse(key+".size_limit_bytes", "a policy may have at most %d bytes in all", maxBytes)
		}
		if c.clean(key) {
			_, err := bundles.NewConfigBuilder().WithBytes(encode(map[string]any{name: settings})).
				WithServices(c.services).WithKeyConfigs(c.keys).Parse()
			if err != nil {
				c.fail(key, err)
			}
		}
	}
}

func (c *opaCheck) discovery() {
	const key = opaKey + ".discovery"
	if c.opa["discovery"] == nil {
		return
	}
	settings := object(c.opa["discovery"])
	c.signing(key, settings)
	c.polling(key, settings)
	c.from(key, settings)
	if c.clean(key) {
		if _, err := discovery.NewConfigBuilder().WithBytes(encode(c.opa["discovery"])).WithServices(c.services).WithKeyConfigs(c.keys).Parse(); err != nil {
			c.fail(key, err)
		}
	}
}

func (c *opaCheck) status() {
	const key = opaKey + ".status"
	if c.opa["status"] == nil {
		return
	}
	settings := object(c.opa["status"])
	c.polling(key, settings)
	for _, name := range []string{"prometheus", "prometheus_config"} {
		if settings[name] != nil && settings[name] != false {
			c.refuse(key+"."+name, "has no effect here; GET /metrics tells of activations")
		}
	}
	if settings["plugin"] != nil {
		c.refuse(key+".plugin", "there is no plugin here that takes it; want service or console")
	} else if settings["service"] == nil && settings["console"] != true {
		c.refuse(key, "goes nowhere: want service or console")
	}
	if c.clean(key) {
		if _, err := status.NewConfigBuilder().WithBytes(encode(c.opa["status"])).WithServices(c.services).Parse(); err != nil {
			c.fail(key, err)
		}
	}
}

// clean tells whether nothing at or below a key is known to be wrong, so that
// OPA would not say the same again.
func (c *opaCheck) clean(key string) bool {
	return !slices.ContainsFunc(c.problems, func(p KeyProblem) bool {
		rest, below := strings.CutPrefix(p.Key, key)
		return below && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

func sortedKeys(of map[string]any) []string { return slices.Sorted(maps.Keys(of)) }

// object is a value as a map, empty where it is none.
func object(value any) map[string]any {
	of, _ := value.(map[string]any)
	return of
}

func number(value any) (float64, bool) {
	n, err := strconv.ParseFloat(fmt.Sprint(value), 64)
	return n, err == nil
}

// encode is a value of a configuration, which came out of a document, as JSON.
func encode(value any) []byte {
	raw, _ := json.Marshal(value) // marshalled before, as a part of the whole
	return raw
}
