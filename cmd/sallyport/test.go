package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/policy/engine"
	"sallyport/proxy/config"
)

// testFlags are what test takes beside the configuration.
type testFlags struct {
	run       string
	verbose   bool
	coverage  bool
	threshold float64
	skipped   bool
	timeout   time.Duration
}

func testCommand() *cobra.Command {
	var o *config.Options
	var t testFlags
	c := &cobra.Command{
		Use:   "test [PATH]...",
		Short: "Run a policy's tests",
		Long: `Run the tests of a policy: the rules named test_… in packages whose name ends in
_test, in files *_test.rego or any other. The policy is the configured one; PATH
adds to --policy. It is judged as run would judge it before anything is run.

The verdict is that of opa test, but for one thing: a built-in function that fails,
such as net.cidr_contains on text that is no address, is an error of the test, since
the proxy would take it for a fault. opa test takes it for undefined. The default
policy does not answer for stages that the policy leaves out, as it does not in
opa test. Data are what run loads, data.json, data.yaml and --data, as in opa test -b;
without -b it loads every other .json and .yaml as well.

A test that fails is shown with the statement that failed, what the names in it
stood for, and what it printed by print(). --verbose shows every test.

--coverage tells which lines of the policy no test reaches, the tests' own not
counted. --threshold fails below a percentage; without tests it is 0.

Bundles of policy.opa are not loaded, and what the files lack is no problem then, as in
check.

Exit status: 0 all tests passed, or there are none and no --threshold; 1 a test failed,
erred or is skipped (todo_test_…, unless --exit-zero-on-skipped), or the coverage is
under the threshold; 2 the policy is refused, or --run matches no test.`,
		Example: `  sallyport test policies/
  sallyport test --policy policies/ --data settings.json tests/
  sallyport test policies/ --run test_developers -v
  sallyport test policies/ --coverage --threshold 90
  sallyport test policies/ --coverage --format json`,
		RunE: func(c *cobra.Command, args []string) error {
			o.Policy = append(o.Policy, args...)
			return test(c, o, &t)
		},
	}
	o = configFlags(c)
	f := c.Flags()
	f.StringVarP(&t.run, "run", "r", "", "only tests whose full name, data.PACKAGE.NAME, matches this `REGEX`")
	f.BoolVarP(&t.verbose, "verbose", "v", false, "show every test, and what it prints")
	f.BoolVarP(&t.coverage, "coverage", "c", false, "show which lines of the policy are reached")
	f.Float64Var(&t.threshold, "threshold", 0, "fail where less than this `PERCENT` of the policy is covered; means --coverage")
	f.BoolVarP(&t.skipped, "exit-zero-on-skipped", "z", false, "a skipped test is no failure")
	durationFlag(c, &t.timeout, "timeout", "t", 5*time.Second, "how long one test may take")
	for _, flag := range []string{"run", "threshold", "timeout"} {
		complete(c, flag, cobra.NoFileCompletions)
	}
	return c
}

func test(c *cobra.Command, o *config.Options, t *testFlags) error {
	switch {
	case !(t.threshold >= 0 && t.threshold <= 100): // NaN too
		return fmt.Errorf("--threshold: want a percentage from 0 to 100, got %v", t.threshold)
	case t.timeout <= 0:
		return fmt.Errorf("--timeout: want more than %v", t.timeout)
	}
	if _, err := regexp.Compile(t.run); err != nil {
		return fmt.Errorf("--run: %w", err)
	}
	settings, err := load(c, o)
	if err != nil {
		return err
	}
	e, err := engine.New(engineOptions(settings, nil, false)) // tests give the facts themselves
	if err != nil {
		return err
	}
	defer e.Close()
	loaded, err := loadPolicy(settings)
	if err != nil {
		return err
	}
	if loaded.Partial {
		fmt.Fprintf(c.ErrOrStderr(), "sallyport: %s: only what the files have is tested\n", unloaded)
	}
	report, problems, err := e.Test(c.Context(), loaded, engine.TestOptions{
		Run: t.run, Timeout: t.timeout, Coverage: t.coverage || t.threshold > 0,
	})
	switch {
	case err != nil:
		return failure{err}
	case report == nil:
		return problems
	case report.Found == 0:
		fmt.Fprintln(c.ErrOrStderr(), "sallyport: there are no tests:", engine.NoTests)
	case len(report.Tests) == 0:
		return fmt.Errorf("--run: none of %d tests has a name that matches %q", report.Found, t.run)
	}
	return t.report(c, report)
}

// testResult is what test prints as JSON.
type testResult struct {
	Passed   int              `json:"passed"`
	Failed   int              `json:"failed"`
	Errors   int              `json:"errors"`
	Skipped  int              `json:"skipped"`
	Tests    []engine.Test    `json:"tests"`
	Coverage *engine.Coverage `json:"coverage,omitempty"`
}

// report prints what came of the tests. The error says that they failed.
func (t *testFlags) report(c *cobra.Command, report *engine.TestReport) error {
	sum := testResult{Tests: report.Tests, Coverage: report.Coverage}
	if sum.Tests == nil {
		sum.Tests = []engine.Test{}
	}
	for i := range report.Tests {
		sum.count(&report.Tests[i])
	}
	var text strings.Builder
	t.write(&text, &sum)
	if err := print(c, strings.TrimSuffix(text.String(), "\n"), sum); err != nil {
		return failure{err}
	}
	switch {
	case sum.Failed+sum.Errors > 0, sum.Skipped > 0 && !t.skipped:
		return failure{errReported}
	case report.Coverage != nil && report.Coverage.Percent < t.threshold:
		return failure{fmt.Errorf("the coverage is %.1f%%, less than the threshold of %v%%", report.Coverage.Percent, t.threshold)}
	}
	return nil
}

// count counts each case of a test, as opa test does.
func (s *testResult) count(t *engine.Test) {
	switch {
	case t.Outcome == engine.Errored:
		s.Errors++
	case t.Outcome == engine.Skipped:
		s.Skipped++
	case len(t.Cases) > 0:
		for _, one := range t.Cases {
			if one.Passed {
				s.Passed++
			} else {
				s.Failed++
			}
		}
	case t.Outcome == engine.Passed:
		s.Passed++
	default:
		s.Failed++
	}
}

func (t *testFlags) write(w io.Writer, s *testResult) {
	for i := range s.Tests {
		one := &s.Tests[i]
		if one.Outcome == engine.Passed && !t.verbose {
			continue
		}
		fmt.Fprintf(w, "%s:%d: %s: %s (%v)\n", one.File, one.Line, one.Name, strings.ToUpper(string(one.Outcome)), one.Duration.Round(time.Microsecond))
		for _, c := range one.Cases {
			if !c.Passed || t.verbose {
				fmt.Fprintf(w, "    case %s: %s\n", c.Name, map[bool]string{true: "PASS", false: "FAIL"}[c.Passed])
			}
		}
		if one.Error != "" {
			fmt.Fprintf(w, "    %s\n", strings.ReplaceAll(one.Error, "\n", "\n    "))
		}
		if one.Why != nil {
			writeStatements(w, one.Why.Statements, "    ")
		}
		if one.Printed != "" {
			fmt.Fprintf(w, "    printed: %s\n", strings.ReplaceAll(one.Printed, "\n", "\n    printed: "))
		}
	}
	if s.Coverage != nil {
		writeCoverage(w, s.Coverage)
	}
	total := s.Passed + s.Failed + s.Errors + s.Skipped
	for _, sum := range []struct {
		name string
		n    int
	}{{"PASS", s.Passed}, {"FAIL", s.Failed}, {"ERROR", s.Errors}, {"SKIPPED", s.Skipped}} {
		if sum.n > 0 {
			fmt.Fprintf(w, "%s: %d/%d\n", sum.name, sum.n, total)
		}
	}
}

// writeCoverage prints a line for each file, with the lines that are not
// reached.
func writeCoverage(w io.Writer, c *engine.Coverage) {
	for _, f := range c.Files {
		fmt.Fprintf(w, "%6.1f%%  %s", f.Percent, f.File)
		for i, lines := range f.NotCovered {
			separator := ", "
			if i == 0 {
				separator = "  not reached: "
			}
			if lines.From == lines.To {
				fmt.Fprintf(w, "%s%d", separator, lines.From)
			} else {
				fmt.Fprintf(w, "%s%d-%d", separator, lines.From, lines.To)
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%6.1f%%  of %d lines\n", c.Percent, c.Covered+c.NotCovered)
}
