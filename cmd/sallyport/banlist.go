package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/proxy/guard"
	"sallyport/proxy/manage"
)

// banlist.go is many bans at once.

func importBansCommand(call *api) *cobra.Command {
	var rest plainBan
	c := &cobra.Command{
		Use: "import FILE|-", Short: "Set all bans of a file, or none of them", Args: cobra.ExactArgs(1),
		Long: `Set all bans of a file, or of standard input, or none of them. Each line is a ban as
export writes it, or WHO alone; what follows a # is a comment. A ban that is in force
is replaced, others stay. Those that are over already are left out.`,
		Example: `  sallyport ban import bans.jsonl
  sallyport ban import --for 24h --reason "known scanners" addresses.txt`,
		RunE: func(c *cobra.Command, args []string) error {
			rest.timed = c.Flags().Changed("for")
			if err := manage.CheckLong(rest.long); rest.timed && err != nil {
				return fmt.Errorf("--for %w", err)
			}
			in, name := c.InOrStdin(), "standard input"
			if args[0] != "-" {
				file, err := os.Open(args[0])
				if err != nil {
					return failure{err}
				}
				defer file.Close()
				in, name = file, args[0]
			}
			list, err := readBanList(in, name, &rest)
			if err != nil {
				return err
			}
			var done struct {
				Set  int `json:"set"`
				Over int `json:"over"`
			}
			if err := call.do(c, http.MethodPut, "/v1/bans", map[string]any{"bans": list}, &done); err != nil {
				return err
			}
			text := fmt.Sprintf("set %d bans", done.Set)
			if done.Over > 0 {
				text += fmt.Sprintf(", %d were over already", done.Over)
			}
			return print(c, text, done)
		},
	}
	durationFlag(c, &rest.long, "for", "", 0, "`DURATION`, such as 24h, of lines that are WHO alone; without it, until the ban is lifted")
	c.Flags().StringVar(&rest.reason, "reason", "", "`TEXT` that the list shows of them")
	return c
}

func exportBansCommand(call *api) *cobra.Command {
	return &cobra.Command{
		Use: "export", Short: "Print the bans in force, one JSON object a line", Args: noArguments,
		Example: `  sallyport ban export > bans.jsonl`,
		RunE: func(c *cobra.Command, _ []string) error {
			var answer struct {
				Bans []exported `json:"bans"`
			}
			if err := call.do(c, http.MethodGet, "/v1/bans", nil, &answer); err != nil {
				return err
			}
			out := bufio.NewWriter(c.OutOrStdout())
			for _, b := range answer.Bans {
				line, err := json.Marshal(b)
				if err != nil {
					return err
				}
				out.Write(append(line, '\n'))
			}
			if err := out.Flush(); err != nil {
				return failure{err}
			}
			return nil
		},
	}
}

// exported is what import takes again.
type exported struct {
	Of    string     `json:"of"`
	Since time.Time  `json:"since"`
	Until *time.Time `json:"until"`
	Cause string     `json:"cause"`
}

// plainBan is what is said of lines that are an address alone.
type plainBan struct {
	timed  bool
	long   time.Duration
	reason string
}

// readBanList reads a list as the API takes it. The error has all that is wrong
// with it, each with its line.
func readBanList(in io.Reader, name string, plain *plainBan) ([]any, error) {
	const (
		mostLine     = 64 << 10 // bytes
		mostProblems = 100      // that are told
	)
	list, problems, now := []any{}, []string{}, time.Now()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, mostLine)
	at := 0
	for lines.Scan() {
		at++
		text := bytes.TrimSpace(bytes.TrimPrefix(lines.Bytes(), []byte("\ufeff")))
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		one, err := any(json.RawMessage(bytes.Clone(text))), error(nil)
		if text[0] == '{' {
			_, err = manage.ParseBan(text, "", now)
		} else {
			one, err = plain.ban(string(text))
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s:%d: %v", name, at, err))
		}
		list = append(list, one)
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		problems = append(problems, fmt.Sprintf("%s:%d: the line is longer than %d KiB", name, at+1, mostLine>>10))
	} else if err != nil {
		return nil, failure{fmt.Errorf("%s: %w", name, err)}
	}
	if more := len(problems) - mostProblems; more > 0 {
		problems = append(problems[:mostProblems], fmt.Sprintf("%s: %d more lines are wrong", name, more))
	}
	if len(problems) > 0 {
		return nil, errors.New(strings.Join(problems, "\n"))
	}
	return list, nil
}

// ban reads a line that is WHO, with a comment behind it or not.
func (p *plainBan) ban(text string) (any, error) {
	who, _, _ := strings.Cut(text, " #")
	who = strings.TrimSpace(who)
	of, err := guard.ParseSubject(who)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", who, err)
	}
	body := map[string]string{"of": of.Text()}
	if p.timed {
		body["for"] = p.long.String()
	}
	if p.reason != "" {
		body["reason"] = p.reason
	}
	return body, nil
}
