package distribute

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const masks = `package system.log

mask contains "/input/target/host"
mask contains {"op": "upsert", "path": "/input/source", "value": {"ip": data.settings.instead}} if input.path == "sallyport/route"
mask contains "/nd_builtin_cache"
mask contains data.settings.broken if input.decision_id == "failing"
drop if input.decision_id == "dropped"
`

// What a policy says of events holds in every sink, from the moment that it is
// active.
func TestMasksAndDrops(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.log")
	server := serveLogs(t)
	opa := toFile(path, nil)
	for key, value := range toService(server, nil) {
		if key != "decision_logs" {
			opa[key] = value
		}
	}
	opa["decision_logs"] = map[string]any{"plugin": "file_logger", "service": "logs", "console": true}
	var out, log bytes.Buffer
	l, err := newDecisionLog(&sinkOptions{opa: opa, id: "here", LogOptions: LogOptions{Output: &out, Log: slog.New(slog.NewTextHandler(&log, nil))}}, queueBytes)
	do(t, err)
	for _, id := range []string{"first", "dropped", "failing", "last"} {
		e := event(id)
		e.Builtins = json.RawMessage(`{"time.now_ns":{"[]":1}}`)
		e.Input = json.RawMessage(`{"target":{"host":"secret.example","port":443},"source":{"ip":"192.0.2.7"}}`)
		do(t, l.Record(e)) // before there is a policy
	}
	l.Follow(policyWith(t, masks, `{"settings": {"instead": "none", "broken": 7}}`))
	do(t, l.Close(t.Context()))
	file, err := os.ReadFile(path)
	do(t, err)
	for sink, events := range map[string][]map[string]any{"console": lines(t, out.String()), "file": lines(t, string(file)), "service": server.events} {
		if len(events) != 2 || events[0]["decision_id"] != "first" || events[1]["decision_id"] != "last" {
			t.Fatalf("%s: %v", sink, events)
		}
		text, err := json.Marshal(events[0])
		do(t, err)
		for _, want := range []string{`"input":{"source":{"ip":"none"},"target":{"port":443}}`, `"/input/target/host"`, `"masked":["/input/source"]`, `"region":"eu"`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: %s lacks %s", sink, text, want)
			}
		}
		if strings.Contains(string(text), `"nd_builtin_cache":`) || strings.Contains(string(text), "secret.example") {
			t.Errorf("%s: %s", sink, text)
		}
	}
	if l.Dropped() != 1 || !strings.Contains(log.String(), "masking failed") || !strings.Contains(log.String(), "not written") {
		t.Errorf("%d dropped, log %s", l.Dropped(), log.String())
	}
}

// A policy that masks no more, or masks anew, is followed.
func TestTheLogFollowsThePolicy(t *testing.T) {
	var out bytes.Buffer
	s := sinkOf(t, sinkOptions{opa: consoleConfig, LogOptions: LogOptions{Output: &out}})
	for _, module := range []string{"package system.log\nmask contains \"/input\"", "", "package system.log\nmask contains \"/result\"", "package system.log\ndrop := true"} {
		do(t, s.write(t.Context(), event("d"), policyOf(t, module)))
	}
	events := lines(t, out.String())
	if len(events) != 3 || events[0]["input"] != nil || events[0]["result"] == nil ||
		events[1]["input"] == nil || events[1]["result"] == nil || events[2]["input"] == nil || events[2]["result"] != nil {
		t.Errorf("%v", events)
	}
}

// Results of built-ins are left out where OPA's configuration says so.
func TestBuiltinsThatAreNotToBeLogged(t *testing.T) {
	for _, on := range []any{nil, true, false} {
		var out bytes.Buffer
		opa := map[string]any{"decision_logs": map[string]any{"console": true}, "nd_builtin_cache": on}
		s := sinkOf(t, sinkOptions{opa: opa, LogOptions: LogOptions{Output: &out}})
		e := event("d")
		e.Builtins = json.RawMessage(`{"time.now_ns":{"[]":1}}`)
		do(t, s.write(t.Context(), e, policyOf(t, "")))
		if got := lines(t, out.String()); (got[0]["nd_builtin_cache"] != nil) != (on != false) {
			t.Errorf("%v: %v", on, got)
		}
	}
}

func TestConfigurationOfTheDecisionLog(t *testing.T) {
	services := map[string]any{"a": map[string]any{"url": "http://192.0.2.1"}, "b": map[string]any{"url": "http://192.0.2.1"}}
	log := func(of map[string]any) map[string]any {
		return map[string]any{"services": services, "decision_logs": of}
	}
	reporting := func(of map[string]any) map[string]any { return log(map[string]any{"service": "a", "reporting": of}) }
	file := func(of any) map[string]any {
		return map[string]any{"decision_logs": map[string]any{"plugin": "file_logger"}, "plugins": map[string]any{"file_logger": of}}
	}
	for _, c := range []struct {
		opa  map[string]any
		want string // of the error; "none": no log; "": a log
	}{
		{nil, "none"},
		{map[string]any{"services": services}, "none"},
		{map[string]any{"decision_logs": map[string]any{}}, "none"},
		{map[string]any{"decision_logs": map[string]any{"console": true}}, ""},
		{log(map[string]any{"service": "a"}), ""},
		{log(map[string]any{}), "policy.opa.decision_logs.service: there are several services; say which"},
		{log(map[string]any{"service": "c"}), "policy.opa.decision_logs.service: there is no such service"},
		{log(map[string]any{"console": true, "request_context": map[string]any{}}), "policy.opa.decision_logs.request_context: has no effect here"},
		{log(map[string]any{"plugin": "x"}), "policy.opa.decision_logs.plugin: there is no such plugin here; the one that there is is file_logger"},
		{reporting(map[string]any{"trigger": "immediate"}), ""},
		{reporting(map[string]any{"trigger": "manual"}), "policy.opa.decision_logs.reporting.trigger: nobody would trigger it by hand"},
		{reporting(map[string]any{"buffer_type": "x"}), `invalid buffer type "x"`},
		{reporting(map[string]any{"buffer_size_limit_bytes": 0}), "policy.opa.decision_logs.reporting.buffer_size_limit_bytes: want a whole number from 1"},
		{reporting(map[string]any{"buffer_type": "event", "buffer_size_limit_events": 1.5}), "policy.opa.decision_logs.reporting.buffer_size_limit_events: want a whole number from 1"},
		{reporting(map[string]any{"max_decisions_per_second": 5}), "policy.opa.decision_logs.reporting.max_decisions_per_second: drops decisions"},
		{reporting(map[string]any{"min_delay_seconds": 5}), "missing 'max_delay_seconds'"},
		{file(nil), "policy.opa.plugins.file_logger: file logger requires 'path'"},
		{file(map[string]any{"path": "x", "paht": "y"}), `policy.opa.plugins.file_logger: unknown field "paht"`},
		{file(map[string]any{"path": "x", "level": "error"}), "policy.opa.plugins.file_logger.level: decisions have the level info"},
		{file(map[string]any{"path": "x"}), ""},
	} {
		err := CheckOPA(c.opa, Terms{LogWaits: true})
		var settings *logSettings
		if err == nil {
			settings, err = logSettingsOf(c.opa, true)
		}
		switch {
		case c.want == "none" || c.want == "":
			if err != nil || (settings == nil) != (c.want == "none") {
				t.Errorf("%v: %v, %v", c.opa, settings, err)
			}
		case err == nil || !strings.Contains(err.Error(), c.want):
			t.Errorf("%v: error %v, want %s", c.opa, err, c.want)
		}
	}
}
