package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const unitFile = "../../deploy/systemd/sallyport.service"

// systemd itself finds nothing wrong with the unit, and little that it leaves open.
func TestSystemdUnit(t *testing.T) {
	need(t, "systemd-analyze")
	unit := filepath.Join(t.TempDir(), "sallyport.service")
	write(t, unit, strings.ReplaceAll(readFile(t, unitFile), "/usr/local/bin/sallyport", os.Args[0]))
	if out, err := exec.Command("systemd-analyze", "verify", unit).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("verify: %v\n%s", err, out)
	}
	if out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", unit).CombinedOutput(); err != nil {
		t.Errorf("security: %v\n%s", err, out)
	}
}

// The unit's command starts with the configuration beside it, and what systemd
// puts into the folder of credentials opens the management API.
func TestSystemdConfiguration(t *testing.T) {
	dir := t.TempDir()
	var args []string
	for line := range strings.Lines(readFile(t, unitFile)) {
		if command, found := strings.CutPrefix(line, "ExecStart="); found {
			args = strings.Fields(command)[1:]
		}
	}
	config := strings.NewReplacer(":1080", ":0", ":9080", ":0").Replace(readFile(t, "../../deploy/systemd/sallyport.yaml"))
	for i, arg := range args {
		if arg == "/etc/sallyport/sallyport.yaml" {
			args[i] = write(t, filepath.Join(dir, "sallyport.yaml"), config)
			chmod(t, args[i], 0o644) // it holds no secret
		}
	}
	token := "0123456789abcdef-ops"
	chmod(t, write(t, filepath.Join(dir, "ops.token"), token+"\n"), 0o400)
	c := program(args...)
	c.Env = append(c.Env, "CREDENTIALS_DIRECTORY="+dir, "SALLYPORT_STATE_PATH="+filepath.Join(dir, "state.db"))
	s := follow(t, c)
	api := fmt.Sprintf("http://%s/v1/sessions", s.wait(t, 0, "management")["address"])
	if status, body := call(t, "GET", api, token); status != 200 {
		t.Errorf("with the credential: %d %s", status, body)
	}
}
