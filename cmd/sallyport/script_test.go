package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var goroutine = regexp.MustCompile(`(?m)^goroutine \d+ \[`)

// TestScripts runs the commands as a shell would. `exits STATUS ARGUMENT…` runs
// sallyport and holds its exit status against the wanted one; whatever happens,
// no stack trace is printed.
func TestScripts(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			e.Setenv(asProgram, "1")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": func(s *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) == 0 {
					s.Fatalf("usage: exits STATUS ARGUMENT…")
				}
				want, err := strconv.Atoi(args[0])
				s.Check(err)
				status := 0
				if err := s.Exec(self, args[1:]...); err != nil {
					var exit *exec.ExitError
					if !errors.As(err, &exit) {
						s.Fatalf("%v", err)
					}
					status = exit.ExitCode()
				}
				if status != want {
					s.Fatalf("sallyport %q exits with %d, not %d", args[1:], status, want)
				}
				for _, output := range []string{"stdout", "stderr"} {
					if text := s.ReadFile(output); goroutine.MatchString(text) {
						s.Fatalf("a stack trace on %s", output)
					}
				}
			},
		},
	})
}
