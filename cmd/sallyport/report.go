package main

import (
	"encoding/csv"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sallyport/proxy/usage"
)

// nameless are the rows whose names are empty, by what the report is by.
var nameless = map[string]string{
	"user": "(anonymous)", "target": "(none)", "country": "(unknown)", "upstream": "(none)", "labels": "(none)",
}

func reportCommand() *cobra.Command {
	kinds := usage.Kinds()
	c := &cobra.Command{
		Use:   "report",
		Short: "Show who has used how much, and for what",
		Long: `Show what was used, by the running server's management API: connections and requests of plain
HTTP that were granted, bytes in each direction, and denials. The hours are full ones of UTC, and
sessions that are open now are included.

By user, identity:NAME is proved, and claimed:NAME the user id of SOCKS4, which nothing proves.
What is too small for a row of its own is added up as (other).`,
		Example: `  sallyport report --by user
  sallyport report --by target --since 168h --format csv > targets.csv`,
		Args:        noArguments,
		Annotations: map[string]string{moreFormats: "table csv"},
	}
	call := apiFlags(c)
	by := c.Flags().String("by", "user", "`KIND` of rows: "+kinds)
	var since time.Duration
	durationFlag(c, &since, "since", "", 24*time.Hour, "`DURATION` until now, such as 90m or 168h")
	complete(c, "by", cobra.FixedCompletions(strings.Split(kinds, ", "), cobra.ShellCompDirectiveNoFileComp))
	complete(c, "since", cobra.NoFileCompletions)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if _, known := usage.ParseKind(*by); !known {
			return fmt.Errorf("--by: want one of %s, got %q", kinds, *by)
		}
		var r usage.Report
		query := url.Values{"by": {*by}, "since": {since.String()}}
		if err := call.do(c, http.MethodGet, "/v1/usage?"+query.Encode(), nil, &r); err != nil {
			return err
		}
		if c.Flag("format").Value.String() == "csv" {
			return writeCSV(c, &r)
		}
		return print(c, reportTable(&r), r)
	}
	return c
}

// lines are a report's rows with what is in none of them as the last one.
func lines(r *usage.Report) []usage.Row {
	all := slices.Clone(r.Rows)
	for i := range all {
		if all[i].Name == "" {
			all[i].Name = nameless[r.By]
		}
	}
	if r.Other != (usage.Counts{}) {
		all = append(all, usage.Row{Name: "(other)", Counts: r.Other})
	}
	return all
}

func reportTable(r *usage.Report) string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "%s\tCONNECTIONS\tUP\tDOWN\tDENIALS", strings.ToUpper(r.By))
	for _, row := range append(lines(r), usage.Row{Name: "TOTAL", Counts: r.Total}) {
		fmt.Fprintf(table, "\n%s\t%d\t%s\t%s\t%d", shownName(row.Name), row.Connections, inUnits(row.Bytes.Up), inUnits(row.Bytes.Down), row.Denials)
	}
	table.Flush()
	return fmt.Sprintf("%s to %s\n\n%s", r.Since.Format(time.RFC3339), r.Until.Format(time.RFC3339), text.String())
}

// writeCSV writes RFC 4180. Whoever is counted has chosen the name, so that what a
// spreadsheet would take for a formula gets a quote before it, and what would steer a
// terminal or break the line is written out.
func writeCSV(c *cobra.Command, r *usage.Report) error {
	w := csv.NewWriter(c.OutOrStdout())
	w.UseCRLF = true
	_ = w.Write([]string{r.By, "connections", "bytes_up", "bytes_down", "denials"}) // Error has it
	for _, row := range lines(r) {
		name := visible(row.Name)
		if strings.ContainsAny(name[:min(1, len(name))], "=+-@") {
			name = "'" + name
		}
		number := func(n int64) string { return strconv.FormatInt(n, 10) }
		_ = w.Write([]string{name, number(row.Connections), number(row.Bytes.Up), number(row.Bytes.Down), number(row.Denials)})
	}
	w.Flush()
	return w.Error()
}

// inUnits is a number of bytes for people to read.
func inUnits(n int64) string {
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + " B"
	}
	unit, size := 0, float64(n)
	for ; size >= 1<<10 && unit < 5; unit++ {
		size /= 1 << 10
	}
	return fmt.Sprintf("%.1f %ciB", size, "?KMGTP"[unit])
}
