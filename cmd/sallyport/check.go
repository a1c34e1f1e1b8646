package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/policy/distribute"
	"sallyport/policy/engine"
	"sallyport/proxy/config"
)

func checkCommand() *cobra.Command {
	var o *config.Options
	var strict bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Judge configuration and policy as run would",
		Long: `Judge configuration and policy by the same code as run, and print every problem.
GeoIP databases and certificates are read, too, and have to be in date; bundle servers are not asked, and what
the files lack while bundles are to come is no problem, nor are their tests run then, which policy.run_tests
asks for. What is a warning to run, such as a path below data
that nothing defines, is an error here.

What is right but could be better is told as advice, which leaves the exit status
alone unless --strict-advice says otherwise: look-ups that slow down as data grows,
with what to write instead, negations that do not hold where something is undefined,
and rules that no test of the policy sees hold, or that there are no tests. Loops over
what a caller has of its own, such as data.rules[input.identity.name], over data.settings
and over short lists of numbers are fine.`,
		Example: `  sallyport check --policy policies/
  sallyport check --policy policies/ --strict-advice
  sallyport check --config sallyport.yaml --format json`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			revision, advice, err := judge(c, o)
			if err == nil && (!strict || len(advice) == 0) {
				for _, a := range advice {
					if c.Flag("format").Value.String() != "json" {
						fmt.Fprintln(c.ErrOrStderr(), "sallyport:", a.String())
					}
				}
				return print(c, "ok: "+revision, result{Revision: revision, Problems: problemsIn(advice)})
			}
			if err == nil {
				err = advice
			}
			if c.Flag("format").Value.String() != "json" {
				return err
			}
			if err := print(c, "", result{Revision: revision, Problems: problemsOf(err)}); err != nil {
				return failure{err}
			}
			return errReported
		},
	}
	o = configFlags(c)
	c.Flags().BoolVar(&strict, "strict-advice", false, "advice is a problem")
	return c
}

// judge returns the revision of a policy that can be compiled, what could be
// better where nothing is wrong, and every problem as an error.
func judge(c *cobra.Command, o *config.Options) (revision string, advice engine.Problems, err error) {
	settings, files, unread := open(c, o)
	if settings == nil {
		return "", nil, unread
	}
	if len(files.dated) > 0 {
		unread = join(unread, dated(files.dated))
	}
	e, err := engine.New(engineOptions(settings, files.geo, o.File != ""))
	if err != nil {
		return "", nil, err
	}
	defer e.Close()
	loaded, err := loadPolicy(settings)
	if err != nil {
		return "", nil, unread // which has it
	}
	snapshot, problems := e.Compile(loaded)
	if snapshot == nil {
		return "", nil, join(unread, problems)
	}
	revision = snapshot.Revision()
	if settings.Policy.RunTests && !loaded.Partial { // tests may be of what bundles bring
		unread = join(unread, distribute.Test(c.Context(), e, snapshot, loaded))
	}
	if advice, err = e.Advise(c.Context(), loaded, snapshot); err != nil {
		return revision, nil, join(unread, err)
	}
	if len(problems) > 0 {
		return revision, nil, join(unread, append(problems, advice...))
	}
	return revision, advice, unread
}

// dated are certificates that run would warn of.
type dated config.Problems

func (d dated) Error() string { return config.Problems(d).Error() }

// join is errors.Join that leaves a single error as it is.
func join(a, b error) error {
	if a == nil {
		return b
	}
	return errors.Join(a, b)
}

// result is what check prints as JSON.
type result struct {
	Revision string    `json:"revision,omitempty"`
	Problems []problem `json:"problems"`
}

// problem is one thing that is wrong. What is not known is left out.
type problem struct {
	File    string `json:"file,omitempty"` // or the flag or the variable
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Key     string `json:"key,omitempty"` // of the configuration
	Message string `json:"message"`
	Warning bool   `json:"warning,omitempty"` // run would only log it
	Advice  bool   `json:"advice,omitempty"`  // it works, but could be better
}

func problemsOf(err error) []problem {
	var problems []problem
	var configured config.Problems
	var judged engine.Problems
	var old dated
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			problems = append(problems, problemsOf(one)...)
		}
		return problems
	}
	switch {
	case errors.As(err, &configured):
		for _, p := range configured {
			problems = append(problems, problem{File: p.File, Line: p.Line, Column: p.Column, Key: p.Key, Message: p.Message})
		}
	case errors.As(err, &judged):
		problems = problemsIn(judged)
	case errors.As(err, &old):
		for _, p := range old {
			problems = append(problems, problem{File: p.File, Line: p.Line, Column: p.Column, Key: p.Key, Message: p.Message, Warning: true})
		}
	default:
		for line := range strings.SplitSeq(err.Error(), "\n") {
			problems = append(problems, problem{Message: line})
		}
	}
	return problems
}

func problemsIn(judged engine.Problems) []problem {
	problems := []problem{}
	for _, p := range judged {
		problems = append(problems, problem{
			File: p.File, Line: p.Row, Column: p.Column, Message: p.Message, Warning: p.Warning, Advice: p.Advice,
		})
	}
	return problems
}
