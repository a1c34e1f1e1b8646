package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"sallyport/proxy/secret"
)

// Redacted is the configuration as it may be shown: maps, lists and scalars under the keys of the file, with "[redacted]"
// for every secret and for every value that came out of ${env:NAME} or ${file:PATH}. It loads again once those are put
// back.
func (c Config) Redacted() any { return c.redact(reflect.ValueOf(c), "") }

func (c Config) redact(value reflect.Value, path string) any {
	if c.origins[path].secret {
		return secret.Redacted
	}
	switch value := value.Interface().(type) {
	case secret.String:
		return secret.Redacted
	case time.Duration:
		return value.String()
	case Bytes:
		return value.String()
	case NameServer:
		return value.String()
	case netip.Addr:
		return value.String()
	case netip.Prefix:
		return value.String()
	case Ports:
		return value.String()
	case URL:
		return value.String()
	}
	if path == opaKey {
		return c.redactFree(c.Policy.OPA, nil, path)
	}
	switch value.Kind() {
	case reflect.Pointer:
		return c.redact(value.Elem(), path)
	case reflect.Struct:
		shown := map[string]any{}
		for field, member := range value.Fields() {
			if key := field.Tag.Get("key"); key != "" && !unsaid(member) {
				shown[key] = c.redact(member, join(path, key))
			}
		}
		return shown
	case reflect.Map:
		shown := map[string]any{}
		for key, member := range value.Seq2() {
			shown[key.String()] = c.redact(member, join(path, key.String()))
		}
		return shown
	case reflect.Slice:
		shown := make([]any, value.Len())
		for i := range shown {
			shown[i] = c.redact(value.Index(i), index(path, i))
		}
		return shown
	}
	return value.Interface()
}

// redactFree is redact for OPA's own configuration. Beside what came out of a reference, it holds credentials in places
// that OPA names; a key that verifies may be one that signs as well.
func (c Config) redactFree(value any, keys []string, path string) any {
	if c.origins[path].secret {
		return secret.Redacted
	}
	switch value := value.(type) {
	case map[string]any:
		shown := map[string]any{}
		for key, member := range value {
			shown[key] = c.redactFree(member, append(slices.Clip(keys), strings.ToLower(key)), join(path, key))
		}
		return shown
	case []any:
		shown := make([]any, len(value))
		for i, item := range value {
			shown[i] = c.redactFree(item, keys, index(path, i))
		}
		return shown
	case nil, bool:
		return value
	case string:
		if !isCredential(keys) {
			return redactURL(value)
		}
	}
	if isCredential(keys) {
		return secret.Redacted
	}
	return value
}

// isCredential tells of a value in OPA's configuration, by the lower-case keys that lead to it, whether it may be one.
func isCredential(keys []string) bool {
	if len(keys) == 0 {
		return false
	}
	switch last := keys[len(keys)-1]; last {
	case "key", "authorization", "passphrase", "password", "secret", "token":
		return true
	default:
		for _, end := range []string{"_key", "_password", "_passphrase", "_secret", "_token"} {
			if strings.HasSuffix(last, end) {
				return true
			}
		}
	}
	return slices.Contains(keys, "credentials") || slices.Contains(keys, "headers")
}

// Secrets are the texts in OPA's own configuration that nobody may be shown, for those who pass on what OPA says.
func (c *Config) Secrets() []string {
	var found []string
	var walk func(value any, keys []string, path string)
	walk = func(value any, keys []string, path string) {
		switch value := value.(type) {
		case map[string]any:
			for key, member := range value {
				walk(member, append(slices.Clip(keys), strings.ToLower(key)), join(path, key))
			}
		case []any:
			for i, item := range value {
				walk(item, keys, index(path, i))
			}
		case string:
			const shortest = 4 // anything shorter is in every sentence
			switch {
			case len(value) < shortest:
			case c.origins[path].secret || isCredential(keys):
				found = append(found, value)
			default:
				if _, query, asks := strings.Cut(value, "?"); asks && redactURL(value) != value {
					found = append(found, query)
				}
			}
		}
	}
	walk(c.Policy.OPA, nil, opaKey)
	slices.SortFunc(found, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) }) // one may hold another
	return slices.Compact(found)
}

// redactURL leaves out of a URL whom it names and what it asks, where passwords and signed requests are.
func redactURL(text string) string {
	if _, rest, is := strings.Cut(text, "://"); is {
		host, _, _ := strings.Cut(rest, "/")
		if at := strings.LastIndexByte(host, '@'); at >= 0 {
			text = strings.Replace(text, host[:at], secret.Redacted, 1)
		}
	}
	if path, query, asks := strings.Cut(text, "?"); asks && strings.Contains(query, "=") {
		text = path + "?" + secret.Redacted
	}
	return text
}

// MarshalYAML encodes [Config.Redacted].
func (c Config) MarshalYAML() (any, error) { return c.Redacted(), nil }

// MarshalJSON encodes [Config.Redacted].
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(c.Redacted()) }

// LogValue is what log/slog records: [Config.Redacted].
func (c Config) LogValue() slog.Value { return slog.AnyValue(c.Redacted()) }

// Format prints [Config.Redacted], whatever the verb is.
func (c Config) Format(state fmt.State, verb rune) { fmt.Fprint(state, c.Redacted()) }

// unsaid tells of what nobody has said that it has no value to be shown by which
// would load again.
func unsaid(value reflect.Value) bool {
	switch value.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return value.IsNil()
	}
	return value.Type() == reflect.TypeFor[netip.Addr]() && value.IsZero()
}
