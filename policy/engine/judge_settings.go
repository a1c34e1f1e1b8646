package engine

import (
	"net"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// setting is what the embedded default policy reads of data.settings.
type setting struct {
	stage policy.Stage // that reads it
	kind  *kind
}

var (
	networks = &kind{name: `an array of networks such as "10.0.0.0/8"`, array: true,
		member: &kind{name: `a network such as "10.0.0.0/8"`, text: true, parse: parsed(parseNetwork)}}
	ports = &kind{name: "an array of ports", array: true, member: &kind{name: "a number", number: true}}
)

var settings = map[string]setting{
	"anonymous_from": {policy.Authenticate, networks},
	"allow_ports":    {policy.Route, ports},
	"allow_private":  {policy.Dial, networks},
}

func parseNetwork(text string) (*net.IPNet, error) {
	_, network, err := net.ParseCIDR(text)
	return network, err
}

// checkSettings holds data.settings against what the default policy reads of
// it. A wrong value would only ever refuse, but at a request and without a
// word. Where the user's own stages answer, the settings are theirs.
func (j *judging) checkSettings() {
	given, ok := j.data["settings"]
	if !ok {
		return
	}
	object, ok := given.(map[string]any)
	if !ok {
		j.refuse(j.settingAt(), "data.settings is not an object")
		return
	}
	for _, key := range sortedKeys(object) {
		s, known := settings[key]
		if !known {
			if near := nearest(key, sortedKeys(settings)); near != "" && object[near] == nil && j.byDefault(settings[near].stage) {
				j.warn(j.settingAt(key), "the default policy does not read data.settings.%s: did you mean %s?", key, near)
			}
			continue
		}
		if object[key] == nil || !j.byDefault(s.stage) { // null allows nothing
			continue
		}
		value, err := ast.InterfaceToValue(object[key])
		if err != nil {
			panic(err) // it came from JSON
		}
		for _, w := range s.kind.checkTerm("data.settings."+key, ast.NewTerm(value)) {
			j.refuse(j.settingAt(key), "%s", w.why)
		}
	}
}

func (j *judging) byDefault(stage policy.Stage) bool {
	s := j.stages[stage]
	return s != nil && s.byDefault
}

// optional tells whether a path of data is a setting that the default policy does
// without, as a copy of it does, too. One that the data misspell is missing.
func (j *judging) optional(path []string) bool {
	if path[0] != "settings" {
		return false
	}
	if len(path) == 1 {
		return true
	}
	given, _ := j.data["settings"].(map[string]any)
	_, known := settings[path[1]]
	return known && nearest(path[1], sortedKeys(given)) == ""
}

// settingAt is the file that gives a setting.
func (j *judging) settingAt(key ...string) *ast.Location {
	path := append([]string{"settings"}, key...)
	return &ast.Location{File: j.documentWith(path, len(j.candidate.Documents))}
}
