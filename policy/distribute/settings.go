package distribute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	filelogger "github.com/open-policy-agent/opa/v1/plugins/logger/file"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/util"
)

// What OPA leaves without a bound, or with one that does not bound memory.
const (
	bufferBytes  = 32 << 20  // of compressed events
	bufferEvents = 8192      // uncompressed
	uploadBytes  = 256 << 10 // the longest event that a client can bring about has to fit
)

// logSettings are what the log makes of OPA's configuration.
type logSettings struct {
	raw       []byte             // for OPA
	builtins  bool               // log the results of non-deterministic built-ins
	immediate bool               // upload as soon as there is something worth it
	most      int64              // in the buffer, in its unit
	file      *filelogger.Config // nil: none
}

// readLogSettings is nil where there is no decision log. OPA is told of no
// bounds and of no time to upload: it would drop events uncounted, and what it
// holds while it uploads is beside its bound (upload.go sees to both).
func readLogSettings(opa map[string]any, wait bool) (*logSettings, error) {
	if opa["decision_logs"] == nil {
		return nil, nil
	}
	var problems []error
	problem := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("policy.opa."+format, args...))
	}
	object := func(of map[string]any, key, name string) map[string]any {
		value, ok := of[key].(map[string]any)
		if !ok && of[key] != nil {
			problem("%s: want an object", name)
		}
		out := make(map[string]any, len(value))
		for k, v := range value {
			out[k] = v
		}
		return out
	}
	log := object(opa, "decision_logs", "decision_logs")
	reporting := object(log, "reporting", "decision_logs.reporting")
	out := &logSettings{builtins: true}
	for _, at := range []map[string]any{opa, log} {
		if on, isBool := at["nd_builtin_cache"].(bool); isBool && !on {
			out.builtins = false
		}
	}
	if log["request_context"] != nil {
		problem("decision_logs.request_context is not supported: decisions are not asked for over HTTP")
	}
	services := names(opa["services"])
	if _, said := log["console"]; log["service"] == nil && log["plugin"] == nil && len(services) > 1 && (!said || log["console"] == false) {
		problem("decision_logs.service: say which of the services takes them: %s", strings.Join(services, ", "))
	}
	if name, ok := log["service"].(string); ok && name != "" && !slices.Contains(services, name) {
		problem("decision_logs.service: there is no service %q", name)
	}
	if log["plugin"] != nil {
		var err error
		if out.file, err = readFileSettings(log["plugin"], object(opa, "plugins", "plugins")[fileLogger]); err != nil {
			problems = append(problems, err)
		}
	}

	switch reporting["trigger"] {
	case nil, "periodic":
	case "immediate":
		out.immediate = true
	default:
		problem("decision_logs.reporting.trigger: want periodic or immediate, since nobody would trigger it by hand")
	}
	delete(reporting, "trigger")
	if reporting["upload_size_limit_bytes"] == nil {
		reporting["upload_size_limit_bytes"] = uploadBytes
	}
	if wait && reporting["max_decisions_per_second"] != nil {
		problem("decision_logs.reporting.max_decisions_per_second drops decisions, and policy.decision_log.when_full: wait says that none is dropped")
	}
	bound, unit := "buffer_size_limit_bytes", int64(bufferBytes)
	if reporting["buffer_type"] == "event" {
		bound, unit = "buffer_size_limit_events", bufferEvents
	}
	out.most = unit
	if value := reporting[bound]; value != nil {
		n, err := json.Number(fmt.Sprint(value)).Int64()
		if err != nil || n <= 0 {
			problem("decision_logs.reporting.%s: want a whole number above 0", bound)
		}
		out.most = n
	}
	delete(reporting, bound)
	if bound == "buffer_size_limit_events" {
		reporting[bound] = 2*out.most + 1024 // with what is uploaded meanwhile
	}

	log["reporting"] = reporting
	delete(log, "nd_builtin_cache")
	raw := map[string]any{"decision_logs": log}
	for _, key := range []string{"labels", "services", "keys"} {
		if opa[key] != nil {
			raw[key] = opa[key]
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	var err error
	if out.raw, err = json.Marshal(raw); err != nil {
		return nil, fmt.Errorf("policy.opa: %w", err)
	}
	if log["console"] != true && out.file == nil && log["service"] == nil && len(services) == 0 {
		return nil, nil
	}
	return out, nil
}

// names are those of OPA's services, which are an object or a list.
func names(services any) []string {
	switch services := services.(type) {
	case map[string]any:
		return util.KeysSorted(services)
	case []any:
		var out []string
		for _, s := range services {
			if s, ok := s.(map[string]any); ok {
				out = append(out, fmt.Sprint(s["name"]))
			}
		}
		return out
	}
	return nil
}

// readFileSettings reads plugins.file_logger as OPA's own plugin does, but for
// the keys that this does not know.
func readFileSettings(plugin, settings any) (*filelogger.Config, error) {
	if plugin != fileLogger {
		return nil, fmt.Errorf("policy.opa.decision_logs.plugin: want %s, the one plugin there is, not %v", fileLogger, plugin)
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		return nil, fmt.Errorf("policy.opa.plugins.%s: %w", fileLogger, err)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&filelogger.Config{}); err != nil {
		return nil, fmt.Errorf("policy.opa.plugins.%s: %w", fileLogger, err)
	}
	read, err := (&filelogger.Factory{}).Validate(nil, raw)
	if err != nil {
		return nil, fmt.Errorf("policy.opa.plugins.%s: %w", fileLogger, err)
	}
	config := read.(filelogger.Config)
	if config.Level != "info" && config.Level != "debug" {
		return nil, fmt.Errorf("policy.opa.plugins.%s.level: decisions are logged at the level info, so that %s would leave them all out", fileLogger, config.Level)
	}
	return &config, nil
}

// asks tells whether a policy has anything to say at a path of data, such as
// "/system/log/mask".
func asks(compiler *ast.Compiler, store storage.Store, txn storage.Transaction, at string) bool {
	path, ok := storage.ParsePathEscaped(at)
	if !ok {
		return true
	}
	if len(compiler.GetRules(path.Ref(ast.DefaultRootDocument))) > 0 {
		return true
	}
	_, err := store.Read(context.Background(), txn, path)
	return !storage.IsNotFound(err)
}

// follower is the store of the plugin's manager: the active snapshot's.
type follower struct {
	storage.Store
	committed func(context.Context, storage.Transaction, storage.TriggerEvent)
}

// Register takes the one trigger that the manager has.
func (f *follower) Register(_ context.Context, _ storage.Transaction, config storage.TriggerConfig) (storage.TriggerHandle, error) {
	f.committed = config.OnCommit
	return f, nil
}

// Unregister is for the trigger's handle.
func (f *follower) Unregister(context.Context, storage.Transaction) {}
