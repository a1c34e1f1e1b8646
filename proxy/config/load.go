package config

import (
	"io/fs"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/viper"
)

// Options is what a command was given.
type Options struct {
	File       string   // the configuration file; empty: none
	Env        []string // NAME=value, as os.Environ has it; only SALLYPORT_ names count
	Set        []string // KEY=VALUE of each --set, in order; see below
	Listen     []string // each --listen; given, they replace the listeners and are named main, listener-2, ...
	Policy     []string // each --policy; given, they replace policy.paths
	Data       []string // each --data; given, they replace policy.data
	Management string   // --management; empty: not given

	AgeIdentity []string                              // files of the private keys that decrypt what ends in .age
	Passphrase  func(identity string) ([]byte, error) // asks for that of a private key; nil: one that has one is a problem

	// Beside judges what Validate does not know, such as the files that are named: of
	// a configuration that may be wrong elsewhere, so that all is told at once. What
	// it says of a key that has a problem already is left out. It may be nil.
	Beside func(*Config) Problems
}

// Load reads the configuration from all of its sources and validates it. Any error is a [Problems] that holds everything
// that is wrong.
//
// The later of these wins: [Default], the file, the environment, Set, the flags with a name of their own. Lists are
// replaced as a whole, maps key by key. SALLYPORT_LIMITS_CONNECTIONS sets limits.connections; a list in a variable is
// separated by commas. A VALUE of Set that begins with [, { or a quote is read as YAML, any other is taken as it is
// (a list again separated by commas).
func Load(options Options) (*Config, error) {
	l := newLoader()
	if err := l.identities(options); err != nil {
		return nil, err
	}
	var document []byte
	if options.File != "" {
		if document = l.read(options.File); document != nil { // else that is the problem to report
			tree, problems := parse(options.File, document)
			l.problems = append(l.problems, problems...)
			l.layTree(tree)
		}
	}
	l.layEnvironment(options, document)
	for _, setting := range options.Set {
		l.layTree(l.parseSet(setting))
	}
	l.layFlags(options)
	return l.finish(options.Beside)
}

type loader struct {
	config   *Config
	settings []setting
	winners  *viper.Viper     // for each setting with a fixed name: a *node, or the default
	maps     map[string]*node // for each setting whose keys the operator chooses
	problems Problems
	file     string      // the configuration file, where others can read or replace what it holds
	open     fs.FileMode // its mode then
	unread   []string    // keys whose value could not be taken, so that what stands there is nothing to complain of again
}

// setting is a field of the configuration that is set as one.
type setting struct {
	key   string // such as limits.connections
	value reflect.Value
}

func newLoader() *loader {
	l := &loader{config: Default(), winners: viper.New(), maps: map[string]*node{}}
	l.config.origins = map[string]origin{}
	l.settings = settingsOf(reflect.ValueOf(l.config).Elem(), "")
	for _, s := range l.settings {
		if !mergedByKey(s.value.Kind()) {
			l.winners.SetDefault(s.key, s.value.Interface())
		}
	}
	return l
}

// settingsOf lists what a section and the sections in it hold. A struct among the fields is a section.
func settingsOf(section reflect.Value, path string) []setting {
	var settings []setting
	for field, value := range section.Fields() {
		key := field.Tag.Get("key")
		switch {
		case key == "":
		case value.Kind() == reflect.Struct:
			settings = append(settings, settingsOf(value, join(path, key))...)
		default:
			settings = append(settings, setting{join(path, key), value})
		}
	}
	return settings
}

// mergedByKey tells the settings that are kept in the tree, in l.maps.
func mergedByKey(kind reflect.Kind) bool { return kind == reflect.Map || kind == reflect.Pointer }

// layTree lays a whole tree over what is known so far.
func (l *loader) layTree(tree *node) {
	layer := map[string]any{}
	l.collect(reflect.TypeFor[Config](), tree, "", layer)
	l.lay(layer)
}

// lay puts settings by their keys over what is known so far.
func (l *loader) lay(layer map[string]any) {
	_ = l.winners.MergeConfigMap(layer) // fails for no input
}

// collect finds the settings in a section of a tree.
func (l *loader) collect(section reflect.Type, tree *node, path string, layer map[string]any) {
	for field, e := range l.fields(section, tree, path) {
		key := join(path, e.key)
		switch field.Type.Kind() {
		case reflect.Struct:
			l.collect(field.Type, e.value, key, layer)
		case reflect.Map, reflect.Pointer:
			l.maps[key] = merge(l.maps[key], e.value)
		default:
			layer[key] = e.value
		}
	}
}

// tokenVariable has the token of the commands that talk to a running server, who
// may be started from the same shell.
const tokenVariable = "SALLYPORT_TOKEN"

// layEnvironment lays the SALLYPORT_ variables over what is known so far.
func (l *loader) layEnvironment(options Options, document []byte) {
	keys := map[string]string{}
	var names []string
	for _, s := range l.settings {
		keys[variableOf(s.key)] = s.key
		if settableByVariable(s.value) {
			names = append(names, variableOf(s.key))
		}
	}
	// A variable that is named as ${env:NAME} may be called whatever the operator likes.
	sources := slices.Concat([]string{string(document)}, options.Env, options.Set, options.Listen, options.Policy, options.Data)
	named := map[string]bool{}
	for _, match := range regexp.MustCompile(`\$\{env:(SALLYPORT_\w*)\}`).FindAllStringSubmatch(strings.Join(sources, "\n"), -1) {
		named[match[1]] = true
	}
	// In Kubernetes every pod finds variables of this form for each service in its namespace.
	ofKubernetes := regexp.MustCompile(`^SALLYPORT_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$`)

	layer := map[string]any{}
	for _, variable := range options.Env {
		name, value, _ := strings.Cut(variable, "=")
		at := origin{file: join("", name)}
		key := keys[name]
		switch {
		case !strings.HasPrefix(name, "SALLYPORT_") || named[name] || name == identityVariable || name == tokenVariable:
		case slices.Contains(names, name):
			layer[key] = &node{kind: untyped, at: at, text: value}
		case strings.HasPrefix(name, variableOf(opaKey)+"_"):
			l.layFree(&node{kind: untyped, at: at, text: value})
		case ofKubernetes.MatchString(name):
		case key != "":
			l.problems.add(at, key, "cannot be set by a variable; use the file or --set")
		case isUnsupportedVariable(name):
			l.problems.add(at, "", notYet)
		default:
			l.problems.add(at, "", "unknown setting%s", didYouMean(name, names))
		}
	}
	l.lay(layer)
}

func variableOf(key string) string {
	return "SALLYPORT_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

// opaKey is the one setting that is a tree of any shape.
const opaKey = "policy.opa"

// layFree lays a variable over OPA's configuration. Its name does not tell the dots and the case of the keys, so it has
// to be that of a scalar which is there already, or of the one that needs none beside it.
func (l *loader) layFree(value *node) {
	const console = "decision_logs.console"
	name := value.at.file
	var found [][]string
	var walk func(n *node, keys []string)
	walk = func(n *node, keys []string) {
		if n == nil {
			return
		}
		for _, e := range n.entries {
			walk(e.value, append(slices.Clip(keys), e.key))
		}
		if n.kind != mapping && n.kind != list && variableOf(opaKey+"."+strings.Join(keys, ".")) == name {
			found = append(found, keys)
		}
	}
	walk(l.maps[opaKey], nil)
	if len(found) == 0 && name == variableOf(opaKey+"."+console) {
		found = append(found, strings.Split(console, "."))
	}
	switch len(found) {
	case 0:
		l.problems.add(value.at, "", "unknown setting: a variable sets only what %s in the file has a value for; use the file or --set", opaKey)
	case 1:
		l.maps[opaKey] = merge(l.maps[opaKey], nested(found[0], value))
	default:
		l.problems.add(value.at, "", "is the name of more than one setting in %s; use the file or --set", opaKey)
	}
}

// nested is a value below keys.
func nested(keys []string, value *node) *node {
	for _, key := range slices.Backward(keys) {
		value = &node{kind: mapping, at: value.at, entries: []entry{{key, value.at, value}}}
	}
	return value
}

// settableByVariable tells whether one line of text can say the value: a scalar or a list of scalars.
func settableByVariable(value reflect.Value) bool {
	return !mergedByKey(value.Kind()) && value.Type() != reflect.TypeFor[[]Listener]()
}

// parseSet makes a tree of KEY=VALUE. What has no "=" is not shown, since it may be a secret in the wrong place.
func (l *loader) parseSet(argument string) *node {
	at := origin{file: "--set"}
	empty := &node{kind: mapping, at: at}
	path, text, found := strings.Cut(argument, "=")
	keys := strings.Split(path, ".")
	if !found || slices.Contains(keys, "") || len(keys) > maxDepth {
		l.problems.add(at, "", "want KEY=VALUE, such as limits.connections=100")
		return empty
	}
	value := &node{kind: untyped, at: at, text: text}
	if text != "" && strings.Contains(`[{"'`, text[:1]) {
		read, problems := parseYAML("--set", []byte(text))
		if len(problems) > 0 {
			shown := ""
			for _, key := range keys {
				shown = join(shown, key)
			}
			l.problems.add(at, shown, "%s", problems[0].Message)
			return empty
		}
		value = asUntyped(read, at)
	}
	return nested(keys, value)
}

// asUntyped gives a tree the place of its flag, and its scalars no type: a shell has none.
func asUntyped(n *node, at origin) *node {
	n.at = at
	for _, item := range n.items {
		asUntyped(item, at)
	}
	for i := range n.entries {
		n.entries[i].at = at
		asUntyped(n.entries[i].value, at)
	}
	if n.kind != list && n.kind != mapping && n.kind != null {
		n.kind, n.written = untyped, n.kind
	}
	return n
}

// layFlags lays the flags that have a name of their own over what is known so far.
func (l *loader) layFlags(options Options) {
	layer := map[string]any{}
	scalar := func(flag, text string) *node { return &node{kind: untyped, at: origin{file: flag}, text: text} }
	scalars := func(flag string, texts []string) *node {
		all := &node{kind: list, at: origin{file: flag}}
		for _, text := range texts {
			all.items = append(all.items, scalar(flag, text))
		}
		return all
	}
	if len(options.Listen) > 0 {
		listeners := scalars("--listen", options.Listen)
		for i, address := range listeners.items {
			listeners.items[i] = &node{kind: mapping, at: address.at, entries: []entry{{"address", address.at, address}}}
		}
		layer["listeners"] = listeners
	}
	if len(options.Policy) > 0 {
		layer["policy.paths"] = scalars("--policy", options.Policy)
	}
	if len(options.Data) > 0 {
		layer["policy.data"] = scalars("--data", options.Data)
	}
	if options.Management != "" {
		layer["management.address"] = scalar("--management", options.Management)
	}
	l.lay(layer)
}

// finish makes the configuration of what won, and judges it.
func (l *loader) finish(beside func(*Config) Problems) (*Config, error) {
	for _, s := range l.settings {
		winner, written := l.winners.Get(s.key).(*node)
		if mergedByKey(s.value.Kind()) {
			winner, written = l.maps[s.key], l.maps[s.key] != nil
		}
		if written { // else the field stands at its default
			l.decode(winner, s.value, s.key)
		}
	}
	for i := range l.config.Listeners {
		listener := &l.config.Listeners[i]
		if listener.Name == "" {
			listener.Name = "main"
			if i > 0 {
				listener.Name = "listener-" + strconv.Itoa(i+1)
			}
		}
		if _, written := l.config.origins[index("listeners", i)+".protocols"]; len(listener.Protocols) == 0 && !written {
			listener.Protocols = defaultProtocols()
		}
	}
	l.lax()
	for _, found := range Validate(l.config) {
		if !slices.ContainsFunc(l.unread, func(above string) bool { return within(found.Key, above) }) {
			l.problems.put(found)
		}
	}
	if beside != nil {
		known := slices.Clone(l.problems)
		for _, found := range beside(l.config) {
			if found.Key == "" || !slices.ContainsFunc(known, func(p Problem) bool { return p.Key != "" && within(found.Key, p.Key) }) {
				l.problems.put(found)
			}
		}
	}
	if len(l.problems) > 0 {
		l.problems.sort()
		return nil, l.problems
	}
	return l.config, nil
}

// within tells whether one path is another or lies below it.
func within(path, above string) bool {
	rest, found := strings.CutPrefix(path, above)
	return found && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
