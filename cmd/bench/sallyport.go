package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// allowAll lets everybody everywhere, without a password: what is left is the
// proxy itself.
var allowAll = map[string]string{
	"admit":        "allow := true\n\nmethods := {\"none\"}\n",
	"authenticate": "allow := true\n",
	"route":        "allow := true\n",
	"dial":         "allow := true\n",
}

// writeAllowAll makes a policy folder. It has nothing else in it: a running
// sallyport wakes at every change below it.
func writeAllowAll(dir string) error {
	for stage, rules := range allowAll {
		if err := write(filepath.Join(dir, stage+".rego"), "package sallyport."+stage+"\n\n"+rules); err != nil {
			return err
		}
	}
	return nil
}

// A user of the egress example, with the password that is told there.
const (
	egressUser     = "billing"
	egressPassword = "pays-bills-on-time"
)

// writeEgress makes a policy folder of the example: as it is, but with long
// lists, and with the target reachable, though it is on loopback.
func writeEgress(dir, example string, entries int, targets []string, port uint16) error {
	if err := os.CopyFS(dir, os.DirFS(example)); err != nil {
		return fmt.Errorf("the egress example: %w", err)
	}
	dial := filepath.Join(dir, "sallyport", "dial", "dial.rego")
	rules, err := os.ReadFile(dial)
	if err != nil {
		return fmt.Errorf("the egress example: %w", err)
	}
	const loopback = `"loopback", `
	if strings.Count(string(rules), loopback) != 1 {
		return fmt.Errorf("%s: its deny does not name %s once", dial, loopback)
	}
	if err := write(dial, strings.Replace(string(rules), loopback, "", 1)); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, "egress", "data.yaml")); err != nil {
		return fmt.Errorf("the egress example: %w", err)
	}
	data, err := json.Marshal(egressData(entries, targets, port))
	if err != nil {
		return err
	}
	return write(filepath.Join(dir, "egress", "data.json"), string(data))
}

func egressData(entries int, targets []string, port uint16) any {
	type object = map[string]any
	domains, networks := object{}, object{}
	for i := range entries {
		domains[fmt.Sprintf("service-%d.example.com", i)] = object{}
	}
	for _, network := range targets {
		networks[network] = object{"ports": []uint16{port}}
	}
	return object{
		"ports":          []int{443},
		"blocked":        object{"gist.github.com": "anybody can put anything there"},
		"session_limits": object{"idle": "5m", "duration": "4h"},
		"groups":         object{"services": object{"networks": networks}},
		"identities": object{egressUser: object{
			"domains": domains, "labels": object{"team": "finance", "kind": "service"},
		}},
	}
}

func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}
