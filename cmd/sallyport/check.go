package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/policy/engine"
	"sallyport/proxy/config"
	"sallyport/proxy/geo"
)

func checkCommand() *cobra.Command {
	var o *config.Options
	c := &cobra.Command{
		Use:   "check",
		Short: "Judge configuration and policy as run would",
		Long: `Judge configuration and policy by the same code as run, and print every problem.
GeoIP databases are opened, too. What is a warning to run, such as a path below data that nothing defines, is an
error here.`,
		Example: `  sallyport check --policy policies/
  sallyport check --config sallyport.yaml --format json`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			revision, err := judge(c, o)
			if err == nil {
				return print(c, "ok: "+revision, result{Revision: revision, Problems: []problem{}})
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
	return c
}

// judge returns the revision of a policy that can be compiled, and every
// problem as an error.
func judge(c *cobra.Command, o *config.Options) (revision string, err error) {
	settings, err := load(c, o)
	if err != nil {
		return "", err
	}
	databases, unread := openGeo(settings)
	e, err := engine.New(engineOptions(settings, databases))
	if err != nil {
		return "", err
	}
	defer e.Close()
	snapshot, problems, err := candidate(e, settings)
	if err == nil && len(problems) > 0 {
		err = problems
	}
	if snapshot != nil {
		revision = snapshot.Revision()
	}
	return revision, join(unread, err)
}

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
}

func problemsOf(err error) []problem {
	var problems []problem
	var configured config.Problems
	var judged engine.Problems
	var file *geo.FileError
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
		for _, p := range judged {
			problems = append(problems, problem{File: p.File, Line: p.Row, Column: p.Column, Message: p.Message, Warning: p.Warning})
		}
	case errors.As(err, &file):
		problems = append(problems, problem{File: file.Path, Message: file.Err.Error()})
	default:
		for line := range strings.SplitSeq(err.Error(), "\n") {
			problems = append(problems, problem{Message: line})
		}
	}
	return problems
}
