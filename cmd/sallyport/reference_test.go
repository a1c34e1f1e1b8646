package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/policy"
	"sallyport/proxy/config"
	"sallyport/proxy/secret"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestReference holds the reference pages against the declarations that they
// are made of, so that none of them can go out of date.
func TestReference(t *testing.T) {
	t.Parallel()
	for path, page := range map[string]func() string{
		"../../docs/configuration.md":    configurationPage,
		"../../docs/policy-reference.md": policyPage,
	} {
		got := []byte(page())
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is out of date: run `make golden` and read the difference", path)
		}
	}
}

// made is what a page says of itself.
const made = "<!-- Made by `make golden`; do not edit. -->\n\n"

func configurationPage() string {
	var page strings.Builder
	page.WriteString("# Configuration\n\n" + made + `The later of these wins: the default, the file, the environment, ` + "`--set`" + `, the
flags with a name of their own. The file is YAML, TOML or JSON, by its name; give it with ` + "`--config`" + `.

- A list is replaced as a whole, a map key by key.
- A variable is named after its setting; a list in a variable is separated by commas. Settings without a
  variable are set in the file or by ` + "`--set KEY=VALUE`" + `, whose VALUE is YAML where it begins with ` + "`[`, `{`" + ` or a quote.
- ` + "`${env:NAME}` and `${file:PATH}`" + ` in any string stand for a secret that is kept elsewhere; no log shows it.
  A file whose name ends in ` + "`.age`" + `, this one too, is decrypted by ` + "`--age-identity`" + `: see [Secrets](secrets.md).
- Below ` + "`policy.opa`" + ` the keys are OPA's own, with their case and dots. A variable such as ` + "`SALLYPORT_POLICY_OPA_KEYS_MAIN_KEY`" + `
  replaces a value that the file has there. What comes out of ` + "`${env:NAME}` or `${file:PATH}`" + ` is a string, whatever it looks like.
- A duration is Go's (` + "`1m30s`" + `) or a number of seconds, a size ` + "`10MiB`" + ` or a number of bytes.
- What is unknown, or not supported by this release, is refused: ` + "`sallyport check --config FILE`" + ` tells
  everything that is wrong, with its line.

For example, with a token of your own for the management API:

` + "```sh" + `
(umask 077; head -c 24 /dev/urandom | base64 > ops.token)
` + "```" + `

and in ` + "`sallyport.yaml`" + `:

` + "```yaml" + `
listeners:
  - {name: laptops, address: ":1080"}
  - {name: browsers, address: "127.0.0.1:3128", protocols: [http]}
policy:
  paths: [bundles/egress]
  stages: [route]
management:
  tokens:
    ops: {token: "${file:ops.token}", roles: [admin]}
log: {format: text}
` + "```\n\n```sh\nsallyport check --config sallyport.yaml\n```\n")
	section(&page, reflect.ValueOf(config.Default()).Elem(), "", "")
	return page.String()
}

// section writes one section's table, and those of the sections in it.
func section(page *strings.Builder, of reflect.Value, path, doc string) {
	var rows, below strings.Builder
	for field, value := range of.Fields() {
		name, doc := field.Tag.Get("key"), field.Tag.Get("doc")
		if name == "" {
			continue
		}
		key := strings.TrimPrefix(path+"."+name, ".")
		switch of := field.Type; {
		case of.Kind() == reflect.Pointer:
			section(&below, reflect.Zero(of.Elem()), key, doc)
		case isSection(of):
			section(&below, value, key, doc)
		case of.Kind() == reflect.Slice && isSection(of.Elem()):
			section(&below, value.Index(0), key+"[]", doc)
		case of.Kind() == reflect.Map && isSection(of.Elem()):
			section(&below, reflect.Zero(of.Elem()), key+".NAME", doc)
		default:
			variable := ""
			if !strings.ContainsAny(key, "[N") && of.Kind() != reflect.Map {
				variable = code("SALLYPORT_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_")))
			}
			fmt.Fprintf(&rows, "| %s | %s | %s | %s | %s |\n", code(key), settingType(of), settingDefault(value), doc, variable)
		}
	}
	if path != "" && rows.Len() > 0 {
		fmt.Fprintf(page, "\n## %s\n\n%s.\n\n| key | type | default | meaning | variable |\n|---|---|---|---|---|\n", code(path), sentence(doc))
	}
	page.WriteString(rows.String())
	page.WriteString(below.String())
}

// isSection tells a struct of settings from a setting that happens to be one.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.NumField() > 0 && t.Field(0).Tag.Get("key") != ""
}

func settingType(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[config.Bytes]():
		return "size"
	case reflect.TypeFor[config.NameServer]():
		return "name server"
	case reflect.TypeFor[netip.Addr]():
		return "IP address"
	case reflect.TypeFor[config.Ports]():
		return "ports"
	case reflect.TypeFor[netip.Prefix]():
		return "network"
	case reflect.TypeFor[secret.String]():
		return "secret string"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.Int:
		return "integer"
	case reflect.Slice:
		return "list: " + settingType(t.Elem())
	case reflect.Map:
		return "map: " + settingType(t.Elem())
	case reflect.Interface:
		return "anything"
	}
	return t.Kind().String()
}

func settingDefault(v reflect.Value) string {
	switch {
	case v.Kind() == reflect.Slice && v.Len() > 0:
		return code(strings.Trim(strings.ReplaceAll(fmt.Sprint(v), " ", ", "), "[]"))
	case v.Kind() == reflect.Bool:
		return code(fmt.Sprint(v))
	case v.IsZero():
		return ""
	case v.Type() == reflect.TypeFor[time.Duration]():
		text := v.Interface().(time.Duration).String()
		if strings.HasSuffix(text, "m0s") {
			text = strings.TrimSuffix(text, "0s")
		}
		return code(text)
	}
	return code(fmt.Sprint(v))
}

func policyPage() string {
	var page strings.Builder
	page.WriteString("# Policy reference\n\n" + made + `A stage is a Rego package, and a field of its decision is a rule in that package. A request is allowed
if ` + "`allow` is true and `deny`" + ` is empty; everything else denies. A package of a stage holds fields and
helpers; the name of a helper starts with ` + "`_`" + `. What several stages share lives in ` + "`sallyport.lib…`" + ` or
in any package outside ` + "`sallyport`" + `.

## Stages

| stage | package | its facts | its fields |
|---|---|---|---|
`)
	for _, stage := range policy.Stages() {
		var facts, fields []string
		for _, fact := range policy.Input(stage).Fields {
			facts = append(facts, code(fact.Name))
		}
		for _, field := range policy.Fields() {
			if field.In(stage) {
				fields = append(fields, code(field.Name))
			}
		}
		note := strings.Join(fields, ", ")
		fmt.Fprintf(&page, "| %s | %s | %s | %s |\n", stage, code(stage.Package()), strings.Join(facts, ", "), note)
	}
	page.WriteString("\n## Decision fields\n\n| field | stages | type | meaning |\n|---|---|---|---|\n")
	for _, field := range policy.Fields() {
		fmt.Fprintf(&page, "| %s | %s | %s | %s |\n", code(field.Name), stageList(field.Stages), fieldType(field), field.Doc)
	}
	page.WriteString(`
A duration is Go's (` + "`\"1m30s\"`" + `) or a number of seconds; a size is ` + "`\"10MiB\"`" + ` or a number of bytes, a speed
` + "`\"10MiB/s\"`" + ` or a number of bytes a second, a rate ` + "`\"20/s\"`, `\"100/m\"`, `\"1000/h\"`" + ` or a number a second.

## Facts

Every fact of a stage is always there; what is unknown or does not apply is ` + "`\"\"`, `0`, `false`, `[]` or `{}`" + `.
The same as a JSON Schema: ` + "`sallyport schema STAGE`" + `. Reading ` + "`geo`" + ` without a database that has it is a warning
of ` + "`run` and an error of `check`" + `.

A scope is, worst first, one of ` + scopes() + `.
`)
	facts := gatherFacts()
	for i, fact := range facts {
		if !strings.Contains(fact.path, ".") {
			fmt.Fprintf(&page, "\n### %s\n\n%s. In %s.\n", code("input."+fact.path), sentence(fact.doc), stageList(fact.stages))
			if i+1 < len(facts) && strings.HasPrefix(facts[i+1].path, fact.path+".") {
				page.WriteString("\n| fact | type | meaning |\n|---|---|---|\n")
			}
			continue
		}
		doc := fact.doc
		above := facts[slices.IndexFunc(facts, func(f factRow) bool { return f.path == parentOf(fact.path) })]
		if len(fact.stages) < len(above.stages) {
			doc += "; in " + stageList(fact.stages)
		}
		fmt.Fprintf(&page, "| %s | %s | %s |\n", code(fact.path), fact.kind, doc)
	}
	return page.String()
}

// parentOf is the path of the fact that holds another.
func parentOf(path string) string {
	return strings.TrimSuffix(path[:strings.LastIndexByte(path, '.')], ".NAME")
}

// factRow is a fact of all the stages that have it.
type factRow struct {
	path, kind, doc string
	stages          []policy.Stage
}

func gatherFacts() []factRow {
	var rows []factRow
	// walk puts the facts of one stage at their places among those of the
	// others, and returns the place behind them.
	var walk func(policy.Stage, string, policy.Fact, int) int
	walk = func(stage policy.Stage, path string, f policy.Fact, at int) int {
		found := slices.IndexFunc(rows, func(r factRow) bool { return r.path == path })
		if found < 0 {
			found = at
			rows = slices.Insert(rows, at, factRow{path: path, kind: factType(f), doc: f.Doc})
		}
		rows[found].stages = append(rows[found].stages, stage)
		at = found + 1
		for _, below := range f.Fields {
			at = walk(stage, path+"."+below.Name, below, at)
		}
		for _, below := range f.Each {
			at = walk(stage, path+".NAME."+below.Name, below, at)
		}
		return at
	}
	for field := range reflect.TypeFor[policy.Facts]().Fields() {
		for _, stage := range policy.Stages() {
			input := policy.Input(stage)
			if fact, found := input.At(field.Tag.Get("fact")); found == 1 {
				walk(stage, fact.Name, *fact, len(rows))
			}
		}
	}
	return rows
}

func factType(f policy.Fact) string {
	switch {
	case f.Fields != nil, f.Each != nil:
		return "object"
	case f.Type == reflect.TypeFor[policy.Prefixes](), f.Type == reflect.TypeFor[policy.Suffixes]():
		return "array of strings"
	case f.Type == reflect.TypeFor[policy.Attributes]():
		return "object of any"
	case f.Type == reflect.TypeFor[policy.Scope]():
		return "string: a scope"
	}
	switch f.Type.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.Int64:
		return "integer"
	case reflect.Slice:
		return "array of strings"
	case reflect.Map:
		if f.Type.Elem().Kind() == reflect.Slice {
			return "object of arrays of strings"
		}
		return "object of strings"
	}
	return "string"
}

func fieldType(f policy.Field) string {
	if f.Type.Kind() == reflect.Struct && f.Type.NumField() > 0 && f.Type.Field(0).Tag.Get("key") != "" {
		var keys []string
		for part := range f.Type.Fields() {
			of := decisionType(part.Type)
			if unit := part.Tag.Get("unit"); unit != "" {
				of += ": " + unit
			}
			if only := part.Tag.Get("stages"); only != "" {
				of += "; only in " + strings.ReplaceAll(only, " ", " and ")
			}
			keys = append(keys, code(part.Tag.Get("key"))+" ("+of+")")
		}
		return "object of any of " + strings.Join(keys, ", ")
	}
	return decisionType(f.Type)
}

func decisionType(t reflect.Type) string {
	if t.Kind() == reflect.Pointer { // to tell what is undefined
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[policy.Set]():
		return "set of strings"
	case reflect.TypeFor[policy.Texts]():
		return "string or set of strings"
	case reflect.TypeFor[policy.Methods]():
		return "array or set of strings: " + strings.Join([]string{
			code(string(policy.MethodCertificate)), code(string(policy.MethodPassword)), code(string(policy.MethodNone)),
			code(string(policy.MethodCertificateAndPassword)),
		}, ", ")
	case reflect.TypeFor[policy.Groups]():
		return "array or set of strings"
	case reflect.TypeFor[policy.Labels]():
		return "object of strings"
	case reflect.TypeFor[policy.Via]():
		return "array of strings, or of objects of `any` (array of strings), `by` (string: `order`, `latency`, `random`, `hash`) and `key` (string)"
	case reflect.TypeFor[policy.Attributes]():
		return "object"
	case reflect.TypeFor[policy.Duration]():
		return "duration"
	case reflect.TypeFor[policy.Pace]():
		return "rate"
	case reflect.TypeFor[netip.Prefix]():
		return "string: a prefix"
	case reflect.TypeFor[policy.Quota]():
		return "object of `bytes` (size) and `per` (string: `day`, `month`)"
	case reflect.TypeFor[policy.Size]():
		return "size"
	case reflect.TypeFor[policy.Speed]():
		return "speed"
	}
	return cmp.Or(map[reflect.Kind]string{reflect.Bool: "boolean", reflect.Int64: "integer"}[t.Kind()], "string")
}

func stageList(stages []policy.Stage) string {
	if len(stages) == len(policy.Stages()) {
		return "all stages"
	}
	names := make([]string, len(stages))
	for i, stage := range stages {
		names[i] = string(stage)
	}
	return strings.Join(names, ", ")
}

func scopes() string {
	var names []string
	for _, scope := range policy.Scopes() {
		names = append(names, code(string(scope)))
	}
	return strings.Join(names, ", ")
}

func code(text string) string { return "`" + text + "`" }

func sentence(text string) string { return strings.ToUpper(text[:1]) + text[1:] }
