package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sallyport/policy/audit"
	"sallyport/proxy/config"
)

func auditCommand() *cobra.Command {
	var o *config.Options
	var expect string
	c := &cobra.Command{
		Use:   "audit [FILE]...",
		Short: "Verify the record of which policies were active",
		Long: `Verify the record of which policies were active and which were refused, and show
it: policy.audit of the configuration, or FILE. Files that were moved away are given
oldest first, and verified as one chain.

What was changed, removed, added or put in another order is found, and named with its
line. The one thing that a chain cannot show is that its end is missing, or that all
of it was made anew: note the last hash, which is printed here and is in the program's
log (audit.hash) with each policy, and hold the record against it by --expect.

Exit status: 0 the record holds; 1 it does not; 2 wrong usage, or there is no file.`,
		Example: `  sallyport audit
  sallyport audit --config sallyport.yaml --format json
  sallyport audit archive/2026.jsonl sallyport-audit.jsonl`,
		RunE: func(c *cobra.Command, files []string) error {
			if c.Flag("expect").Changed && !isHash(expect) {
				return errors.New("--expect: want the whole hash of a record, 64 hexadecimal digits in lower case")
			}
			if len(files) == 0 {
				settings, err := load(c, o)
				if err != nil {
					return err
				}
				files = []string{auditFile(settings)}
			}
			return verify(c, files, expect)
		},
	}
	o = configFlags(c)
	c.Flags().StringVar(&expect, "expect", "", "`HASH` of a record that has to be among them")
	complete(c, "expect", cobra.NoFileCompletions)
	return c
}

func isHash(text string) bool {
	return len(text) == 64 && strings.Trim(text, "0123456789abcdef") == ""
}

// auditResult is what audit prints as JSON.
type auditResult struct {
	Verified bool          `json:"verified"`
	Head     string        `json:"head"` // the hash of the last record
	Tail     audit.Tail    `json:"tail,omitempty"`
	Records  []auditRecord `json:"records"`
	Problem  *problem      `json:"problem,omitempty"`
}

type auditRecord struct {
	audit.Record
	Hash string `json:"hash"`
	File string `json:"file"`
	Line int    `json:"line"`
}

// verify shows the files' records up to where they do not hold. The error says
// that, too.
func verify(c *cobra.Command, files []string, expect string) error {
	var chain audit.Chain
	result := auditResult{Verified: true, Records: []auditRecord{}}
	met := expect == ""
	for _, file := range files {
		err := readAudit(&chain, file, func(line int, r *audit.Record) {
			met = met || r.Hash == expect
			result.Records = append(result.Records, auditRecord{*r, r.Hash, file, line})
		})
		var broken *audit.BrokenError
		if errors.As(err, &broken) {
			result.Problem = &problem{File: file, Line: broken.Line, Message: broken.Reason}
			break
		} else if err != nil {
			return err
		}
	}
	result.Head, result.Tail = chain.Head, chain.Tail
	if result.Problem == nil && !met {
		result.Problem = &problem{File: files[len(files)-1],
			Message: "no record has the hash of --expect: the end is missing, or the record was made anew"}
	}
	result.Verified = result.Problem == nil
	if c.Flag("format").Value.String() == "json" {
		if err := json.NewEncoder(c.OutOrStdout()).Encode(result); err != nil {
			return failure{err}
		}
	} else if err := writeAudit(c.OutOrStdout(), &result); err != nil {
		return failure{err}
	}
	switch p := result.Problem; {
	case p == nil:
		return nil
	case p.Line == 0:
		return failure{fmt.Errorf("%s: %s", p.File, p.Message)}
	default:
		return failure{fmt.Errorf("%s:%d: %s", p.File, p.Line, p.Message)}
	}
}

func readAudit(chain *audit.Chain, path string, each func(int, *audit.Record)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := chain.Read(file, each); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeAudit prints a line for each record, and what the last one's hash is.
func writeAudit(to io.Writer, result *auditResult) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TIME\tOUTCOME\tREVISION\tDIGEST\tSIGNER\tBY\tREASON")
	for i := range result.Records {
		r := &result.Records[i]
		var signers, names []string
		for _, s := range r.Sources {
			names = append(names, s.Name)
			if s.KeyID != "" {
				signers = append(signers, s.KeyID)
			}
		}
		by := r.By
		if r.Outcome == audit.Continued {
			by = strings.Join(names, ", ")
		}
		cells := []string{
			r.Time.UTC().Format(time.RFC3339), string(r.Outcome), r.Revision, short(r.Digest),
			strings.Join(signers, ", "), by, reason(&r.Record),
		}
		for i, cell := range cells {
			cells[i] = printable(cell)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if !result.Verified {
		return nil
	}
	note := ""
	switch result.Tail {
	case audit.Open:
		note = "; the last line has no end"
	case audit.Halved:
		note = "; half a line comes after it, as of a process that was killed: its next start says so in a record"
	}
	_, err := fmt.Fprintf(to, "verified: %d records, the last has the hash %s%s\n", len(result.Records), result.Head, note)
	return err
}

func short(digest string) string {
	const most = 12
	if len(digest) > most {
		return digest[:most]
	}
	return digest
}

// reason is the first thing that a record has to say beside its cells.
func reason(r *audit.Record) string {
	var said []string
	if n := len(r.Problems); n > 0 {
		said = append(said, r.Problems[0])
		if more := n - 1 + r.Unsaid; more > 0 {
			said = append(said, fmt.Sprintf("and %d more", more))
		}
	}
	if r.Torn != nil {
		said = append(said, fmt.Sprintf("half a line of %d bytes, of a process that was killed", r.Torn.Bytes))
	}
	if r.Lost > 0 {
		said = append(said, fmt.Sprintf("%d records before this one were not written", r.Lost))
	}
	return strings.Join(said, "; ")
}
