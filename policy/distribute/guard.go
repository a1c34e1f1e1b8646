package distribute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/config"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/util"
)

// guard is the hook by which OPA's own configuration passes on its way to OPA's
// plugins, the one from the file and those that discovery brings. It puts bounds
// on every service, and refuses what discovery must not say.
type guard struct {
	boot   map[string]any // what the manager is made from; judged already
	terms  Terms
	deltas bool
	whole  time.Duration
	seen   func(bundle []byte) // told of each bundle that is within the bounds; may be nil

	mu       sync.Mutex
	manager  *plugins.Manager // nil: not made yet
	services map[string]*guarded
	waiting  []*bounded // for the manager
	made     int
}

type guarded struct {
	settings map[string]any
	name     string // of the plugin that bounds it
}

func newGuard(opa map[string]any, t Terms, deltas bool) *guard {
	return &guard{boot: opa, terms: t, deltas: deltas, whole: maxWhole, services: map[string]*guarded{}}
}

// attend is to be called once with the manager that was made with this hook,
// before anything starts.
func (g *guard) attend(m *plugins.Manager) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.manager = m
	for _, b := range g.waiting {
		g.register(b)
	}
	g.waiting = nil
}

// register has nothing to start, so that OPA's status need not wait for it.
func (g *guard) register(b *bounded) {
	g.manager.Register(b.name, b)
	g.manager.UpdatePluginStatus(b.name, &plugins.Status{State: plugins.StateOK})
}

// OnConfig takes the configuration from the file.
func (g *guard) OnConfig(_ context.Context, c *config.Config) (*config.Config, error) {
	return c, g.bound(c)
}

// OnConfigDiscovery takes one that discovery brings. What the file says stands
// beside it and above it.
func (g *guard) OnConfigDiscovery(_ context.Context, found *config.Config) (*config.Config, error) {
	c, err := discovered(g.boot, found, g.terms)
	if err != nil {
		return nil, fmt.Errorf("the discovered configuration: %w", err)
	}
	return c, g.bound(c)
}

// bound has every service's answers bounded.
func (g *guard) bound(c *config.Config) error {
	if c.Services == nil {
		return nil
	}
	var services any
	if err := util.UnmarshalJSON(c.Services, &services); err != nil {
		return errors.New("policy.opa.services: want a map or a list")
	}
	for _, s := range servicesOf(map[string]any{"services": services}) {
		settings, ok := s.settings.(map[string]any)
		if !ok {
			continue // OPA says so
		}
		name := g.plugin(s.name, settings)
		credentials := object(settings["credentials"])
		if credentials == nil {
			credentials = map[string]any{}
		}
		credentials["plugin"] = name
		settings["credentials"] = credentials
	}
	var err error
	c.Services, err = json.Marshal(services)
	return err
}

// plugin is the name of what bounds a service: the same for the same settings,
// since OPA does not let discovery change its own service.
func (g *guard) plugin(service string, settings map[string]any) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.services[service]; known != nil && reflect.DeepEqual(known.settings, settings) {
		return known.name
	}
	g.made++
	b := &bounded{name: "bounds/" + strconv.Itoa(g.made), deltas: g.deltas, whole: g.whole, seen: g.seen}
	g.services[service] = &guarded{clone(settings), b.name}
	if g.manager == nil {
		g.waiting = append(g.waiting, b)
	} else {
		g.register(b)
	}
	return b.name
}

// clone copies an object as far as bound changes it.
func clone(settings map[string]any) map[string]any {
	copied := map[string]any{}
	for key, value := range settings {
		if nested, ok := value.(map[string]any); ok {
			value = clone(nested)
		}
		copied[key] = value
	}
	return copied
}

// discovered judges a configuration that discovery has brought, and joins it
// with the file's. It may add services, keys and bundles, and must not change
// any of the file's: else who serves the policy could say who vouches for it.
func discovered(boot map[string]any, found *config.Config, t Terms) (*config.Config, error) {
	c := opaCheck{terms: t}
	joined, file := c.plain(found), map[string]any{}
	if err := util.UnmarshalJSON(encode(boot), &file); err != nil {
		return nil, err
	}
	c.machines(byName(file["services"]), byName(joined["services"]))
	for _, section := range []string{"services", "keys", "bundles"} {
		if all := c.join(section, byName(file[section]), byName(joined[section])); len(all) > 0 {
			joined[section] = all
		}
	}
	for _, section := range []string{"decision_logs", "status", "plugins", "persistence_directory"} {
		if value := joined[section]; value != nil && !reflect.DeepEqual(value, file[section]) {
			c.refuse(opaKey+"."+section, "only the file says this")
		}
		if file[section] != nil {
			joined[section] = file[section]
		}
	}
	delete(joined, "discovery") // OPA keeps to the file's
	if delete(joined, "nd_builtin_cache"); file["nd_builtin_cache"] != nil {
		joined["nd_builtin_cache"] = file["nd_builtin_cache"]
	}
	c.references(opaKey, joined)
	if len(c.problems) == 0 {
		if err := CheckOPA(joined, t); err != nil {
			return nil, err
		}
		return config.ParseConfig(encode(joined), found.Labels["id"])
	}
	return nil, c.problems
}

// plain is a configuration as it was written, without what OPA adds.
func (c *opaCheck) plain(found *config.Config) map[string]any {
	written := map[string]any{}
	if err := util.UnmarshalJSON(encode(found), &written); err != nil {
		c.fail(opaKey, err)
	}
	for key, byOPA := range map[string]string{"default_decision": "/system/main", "default_authorization_decision": "/system/authz/allow"} {
		if written[key] == byOPA {
			delete(written, key)
		}
	}
	for key := range found.Extra {
		written[key] = true // is refused by its name
	}
	return written
}

// byName is a section whose members have names; services may be a list.
func byName(section any) map[string]any {
	list, isList := section.([]any)
	if !isList {
		return object(section)
	}
	named := map[string]any{}
	for _, s := range servicesOf(map[string]any{"services": list}) {
		named[s.name] = s.settings
	}
	return named
}

func (c *opaCheck) join(section string, file, found map[string]any) map[string]any {
	all := map[string]any{}
	for name, settings := range found {
		all[name] = settings
	}
	for name, settings := range file {
		if other := found[name]; other != nil && !reflect.DeepEqual(unnamed(other), unnamed(settings)) {
			c.refuse(keyOf(opaKey+"."+section, name), "is not what the file says")
		}
		all[name] = settings
	}
	return all
}

// machines refuses credentials of this machine's: what they are read from would be
// sent to a server that discovery names.
func (c *opaCheck) machines(file, found map[string]any) {
	for _, name := range sortedKeys(found) {
		credentials := object(object(found[name])["credentials"])
		if file[name] != nil { // join sees to it that it is the same
			continue
		}
		for _, source := range [][]string{{"bearer", "token_path"}, {"oauth2", "client_assertion_path"}, {"gcp_metadata"}, {"azure_managed_identity"}} {
			value := credentials[source[0]]
			if len(source) > 1 {
				value = object(value)[source[1]]
			}
			if value != nil && value != "" {
				key := keyOf(opaKey+".services", name) + ".credentials." + strings.Join(source, ".")
				c.refuse(key, "are this machine's, which discovery must not send anywhere: the file may say so")
			}
		}
	}
}

// unnamed is a service without the name that it has in a list.
func unnamed(settings any) any {
	of, ok := settings.(map[string]any)
	if !ok || of["name"] == nil {
		return settings
	}
	of = clone(of)
	delete(of, "name")
	return of
}

// references refuses ${NAME}, by which OPA would let a discovered configuration
// send this process's environment to a service. What OPA has replaced by now is
// not to be seen any more.
func (c *opaCheck) references(key string, value any) {
	switch value := value.(type) {
	case string:
		if strings.Contains(value, "${") {
			c.refuse(key, "refers to the environment, which discovery must not")
		}
	case map[string]any:
		for _, name := range sortedKeys(value) {
			c.references(keyOf(key, name), value[name])
		}
	case []any:
		for i, item := range value {
			c.references(key+"["+strconv.Itoa(i)+"]", item)
		}
	}
}
