package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func banCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ban",
		Short: "List, set, lift, import and export the bans of the running server",
		Long: `List, set and lift the bans of the running server, by its management API.

WHO is an address (of IPv6 that is its /64), a prefix, identity:NAME, claimed:NAME (the
user id of SOCKS4), or uid:NUMBER (who comes by a unix socket). A name that is no UTF-8
is shown as identity-escaped:caf%E9, and may be given so.`,
	}
	needsCommand(c)
	call := apiFlags(c)
	list := &cobra.Command{
		Use: "list", Short: "List the bans in force, those that end first first", Args: noArguments,
		Example: `  sallyport ban list
  sallyport ban list --format json`,
		RunE: func(c *cobra.Command, _ []string) error {
			var answer struct {
				Bans []banned `json:"bans"`
			}
			if err := call.do(c, http.MethodGet, "/v1/bans", nil, &answer); err != nil {
				return err
			}
			var text strings.Builder
			table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
			fmt.Fprint(table, "OF\tUNTIL\tREFUSED\tCAUSE")
			for _, b := range answer.Bans {
				until := "never"
				if b.Until != nil {
					until = b.Until.Format(time.RFC3339)
				}
				fmt.Fprintf(table, "\n%s\t%s\t%d\t%q", shownName(b.Of), until, b.Refused, b.Cause)
			}
			table.Flush()
			return print(c, text.String(), answer)
		},
	}
	var long time.Duration
	var reason string
	add := &cobra.Command{
		Use: "add WHO", Short: "Ban, or change a ban", Args: cobra.ExactArgs(1),
		Example: `  sallyport ban add 192.0.2.0/24 --for 1h --reason "scans"
  sallyport ban add identity:ann`,
		RunE: func(c *cobra.Command, args []string) error {
			body := map[string]string{"reason": reason}
			if c.Flags().Changed("for") {
				body["for"] = long.String()
			}
			var made banned
			if err := call.do(c, http.MethodPut, "/v1/bans/"+url.PathEscape(args[0]), body, &made); err != nil {
				return err
			}
			return print(c, "banned "+shownName(made.Of), made)
		},
	}
	durationFlag(add, &long, "for", "", 0, "`DURATION` such as 15m or 24h; without it, until the ban is lifted")
	add.Flags().StringVar(&reason, "reason", "", "`TEXT` that the list shows")
	var missingOK bool
	remove := &cobra.Command{
		Use: "remove WHO", Short: "Lift a ban", Args: cobra.ExactArgs(1),
		Example: `  sallyport ban remove 192.0.2.0/24`,
		RunE: func(c *cobra.Command, args []string) error {
			err := call.do(c, http.MethodDelete, "/v1/bans/"+url.PathEscape(args[0]), nil, nil)
			if refused := (*apiError)(nil); missingOK && errors.As(err, &refused) && refused.status == http.StatusNotFound {
				return print(c, "there is no ban of "+shownName(args[0]), map[string]any{"lifted": nil})
			}
			if err != nil {
				return err
			}
			return print(c, "lifted "+shownName(args[0]), map[string]string{"lifted": args[0]})
		},
	}
	remove.Flags().BoolVar(&missingOK, "missing-ok", false, "where there is no such ban, that is no error")
	c.AddCommand(list, add, remove, importBansCommand(call), exportBansCommand(call))
	return c
}

// banned is a ban as the API shows it.
type banned struct {
	Of      string     `json:"of"`
	Since   time.Time  `json:"since"`
	Until   *time.Time `json:"until"`
	Cause   string     `json:"cause"`
	Refused int64      `json:"refused"`
}
