package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"
)

// durations.go is how a flag takes how long something lasts.

// durationWords say what a duration is written as. Go's own message, such as
// `time: unknown unit "d" in duration "1d"`, does not tell which units there are.
const durationWords = "want numbers with their units, of ms, s, m and h, such as 90s, 1h30m or 168h, which is 7 days"

// duration is a flag's value.
type duration struct{ of *time.Duration }

func (d duration) Set(text string) error {
	read, err := time.ParseDuration(text)
	if err != nil {
		return errors.New(durationWords)
	}
	*d.of = read
	return nil
}

func (d duration) String() string {
	if d.of == nil || *d.of == 0 { // help shows no default then, and asks this of a zero value
		return ""
	}
	return d.of.String()
}

func (duration) Type() string { return "duration" }

// durationFlag declares a flag that is a duration; without an otherwise, 0.
func durationFlag(c *cobra.Command, into *time.Duration, name, short string, otherwise time.Duration, usage string) {
	*into = otherwise
	c.Flags().VarP(duration{into}, name, short, usage)
}
