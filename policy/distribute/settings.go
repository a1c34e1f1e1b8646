package distribute

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	filelogger "github.com/open-policy-agent/opa/v1/plugins/logger/file"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/storage"
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

// decisionLogs judges the configuration of the decision log.
func (c *opaCheck) decisionLogs() {
	const key = opaKey + ".decision_logs"
	settings := c.logSettings()
	if settings == nil || !c.clean(key) {
		return
	}
	var read struct{ Decision_logs json.RawMessage }
	if err := json.Unmarshal(settings.raw, &read); err != nil {
		c.fail(key, err)
	} else if _, err := logs.ParseConfig(read.Decision_logs, c.services, []string{fileLogger}); err != nil {
		c.fail(key, err)
	}
}

// logSettings is nil where there is no decision log. OPA is told of no bounds,
// and not when to upload: it would drop events uncounted, and what it holds while
// it uploads is beside its bound. The rest of the log sees to both (upload.go).
func (c *opaCheck) logSettings() *logSettings {
	const key = opaKey + ".decision_logs"
	if c.opa["decision_logs"] == nil {
		return nil
	}
	log := maps.Clone(object(c.opa["decision_logs"]))
	reporting := maps.Clone(object(log["reporting"]))
	if reporting == nil {
		reporting = map[string]any{}
	}
	out := &logSettings{builtins: c.opa["nd_builtin_cache"] != false && log["nd_builtin_cache"] != false}
	console := log["console"] == true
	switch name := log["service"]; {
	case name == nil && log["plugin"] == nil && !console:
		if len(c.services) == 0 {
			return nil
		}
		c.from(key, log)
	case name != nil && !slices.ContainsFunc(c.services, func(s string) bool { return s == name }):
		c.refuse(key+".service", "there is no such service")
	}
	if log["request_context"] != nil {
		c.refuse(key+".request_context", "has no effect here: decisions are not asked for over HTTP")
	}
	c.polling(key+".reporting", reporting)
	out.immediate = reporting["trigger"] == "immediate"
	if log["plugin"] != nil {
		out.file = c.fileLogger(log["plugin"])
	}
	if reporting["upload_size_limit_bytes"] == nil {
		reporting["upload_size_limit_bytes"] = uploadBytes
	}
	if c.terms.LogWaits && reporting["max_decisions_per_second"] != nil {
		c.refuse(key+".reporting.max_decisions_per_second", "drops decisions, and policy.decision_log.when_full: wait says that none is dropped")
	}
	out.most = c.bufferSize(key, reporting)
	if log["plugin"] == nil && log["service"] == nil && len(c.services) > 0 && !console {
		log["service"] = c.services[0]
	}
	delete(reporting, "trigger")
	delete(log, "nd_builtin_cache")
	log["reporting"] = reporting
	raw := map[string]any{"decision_logs": log}
	for _, name := range []string{"labels", "services", "keys"} {
		if c.opa[name] != nil {
			raw[name] = c.opa[name]
		}
	}
	out.raw = encode(raw)
	return out
}

// bufferSize takes the bound of the buffer out of what OPA is told.
func (c *opaCheck) bufferSize(key string, reporting map[string]any) int64 {
	bound, most := "buffer_size_limit_bytes", int64(bufferBytes)
	if reporting["buffer_type"] == "event" {
		bound, most = "buffer_size_limit_events", bufferEvents
	}
	if value := reporting[bound]; value != nil {
		n, ok := number(value)
		if !ok || n < 1 || n > math.MaxInt32 || n != math.Trunc(n) {
			c.refuse(key+".reporting."+bound, "want a whole number from 1 to %d", math.MaxInt32)
			return most
		}
		most = int64(n)
	}
	delete(reporting, bound)
	if reporting["buffer_type"] == "event" {
		reporting[bound] = 2*most + 1024 // with what is uploaded meanwhile
	}
	return most
}

// fileLogger reads plugins.file_logger as OPA's own plugin does, but for the
// keys that this does not know.
func (c *opaCheck) fileLogger(plugin any) *filelogger.Config {
	const key = opaKey + ".plugins." + fileLogger
	if plugin != fileLogger {
		c.refuse(opaKey+".decision_logs.plugin", "there is no such plugin here; the one that there is is %s", fileLogger)
		return nil
	}
	raw := encode(object(object(c.opa["plugins"])[fileLogger]))
	strict := json.NewDecoder(bytes.NewReader(raw))
	strict.DisallowUnknownFields()
	err := strict.Decode(&filelogger.Config{})
	var read any
	if err == nil {
		read, err = (&filelogger.Factory{}).Validate(nil, raw)
	}
	if err != nil {
		c.refuse(key, "%s", strings.TrimPrefix(err.Error(), "json: "))
		return nil
	}
	config := read.(filelogger.Config)
	if config.Level != "info" && config.Level != "debug" {
		c.refuse(key+".level", "decisions have the level info, so that %s would leave them all out", config.Level)
	}
	return &config
}

// asks tells whether a policy has anything to say at a path of data, such as
// "/system/log/mask".
func asks(compiler *ast.Compiler, store storage.Store, txn storage.Transaction, at string) bool {
	path, ok := storage.ParsePathEscaped("/" + strings.Trim(at, "/"))
	if !ok || len(compiler.GetRules(path.Ref(ast.DefaultRootDocument))) > 0 {
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

// logSettingsOf reads the settings of a configuration that was judged.
func logSettingsOf(opa map[string]any, waits bool) (*logSettings, error) {
	c := opaCheck{opa: opa, terms: Terms{LogWaits: waits}}
	for _, s := range servicesOf(opa) {
		c.services = append(c.services, s.name)
	}
	settings := c.logSettings()
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	return settings, nil
}
