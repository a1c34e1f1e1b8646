package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
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
	case netip.AddrPort:
		return value.String()
	case netip.Prefix:
		return value.String()
	}
	switch value.Kind() {
	case reflect.Pointer:
		return c.redact(value.Elem(), path)
	case reflect.Struct:
		shown := map[string]any{}
		for field, member := range value.Fields() {
			if key := field.Tag.Get("key"); key != "" && !(member.Kind() == reflect.Pointer && member.IsNil()) {
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

// MarshalYAML encodes [Config.Redacted].
func (c Config) MarshalYAML() (any, error) { return c.Redacted(), nil }

// MarshalJSON encodes [Config.Redacted].
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(c.Redacted()) }

// LogValue is what log/slog records: [Config.Redacted].
func (c Config) LogValue() slog.Value { return slog.AnyValue(c.Redacted()) }

// Format prints [Config.Redacted], whatever the verb is.
func (c Config) Format(state fmt.State, verb rune) { fmt.Fprint(state, c.Redacted()) }
