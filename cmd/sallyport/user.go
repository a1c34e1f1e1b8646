package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sallyport/proxy/identity"
)

func userCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "user",
		Short: "Manage the users of the running server",
		Long: `Manage the users of the running server, by its management API.

Users come from the policy's data (data.users), which is changed where it is kept, and
from the server's own store, which these commands write. Live sessions follow at once:
those of a user that is removed, disabled or expired are cut, and of one whose groups or
attributes change the policy is asked again.`,
	}
	needsCommand(c)
	u := &users{call: apiFlags(c)}
	c.AddCommand(u.list(), u.show(), u.add(), u.set(), u.passwd(), u.able(true), u.able(false), u.remove(), u.load(), hashCommand())
	return c
}

// users are the commands that talk to the server.
type users struct{ call *api }

func userPath(name string) string { return "/v1/users/" + url.PathEscape(name) }

func (u *users) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List all users", Args: noArguments,
		Example: `  sallyport user list
  sallyport user list --format json`,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := u.all(c)
			if err != nil {
				return err
			}
			var text strings.Builder
			table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
			fmt.Fprint(table, "NAME\tSOURCE\tSTATE\tEXPIRES\tGROUPS")
			for i := range all {
				a := &all[i]
				fmt.Fprintf(table, "\n%s\t%s\t%s\t%s\t%s", shownName(a.Name), a.Source, state(a), expiry(a), shownGroups(a.Groups))
			}
			table.Flush()
			return print(c, text.String(), map[string]any{"users": all})
		},
	}
}

// all are the users of both places.
func (u *users) all(c *cobra.Command) ([]identity.Account, error) {
	all := []identity.Account{}
	for after := ""; ; {
		var page struct {
			Users []identity.Account `json:"users"`
			Next  string             `json:"next"`
		}
		path := "/v1/users?" + url.Values{"after": {after}}.Encode()
		if err := u.call.do(c, http.MethodGet, path, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Users...)
		if after = page.Next; after == "" {
			return all, nil
		}
	}
}

func state(a *identity.Account) string {
	switch {
	case a.Disabled:
		return "disabled"
	case a.Expired:
		return "expired"
	}
	return "active"
}

func expiry(a *identity.Account) string {
	if a.Expires == nil {
		return "never"
	}
	return a.Expires.Format(time.RFC3339)
}

func (u *users) show() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a user", Args: cobra.ExactArgs(1),
		Example: `  sallyport user show ann`,
		RunE: func(c *cobra.Command, args []string) error {
			var a identity.Account
			if err := u.call.do(c, http.MethodGet, userPath(args[0]), nil, &a); err != nil {
				return err
			}
			attributes, err := json.Marshal(a.Attributes)
			if err != nil {
				return err
			}
			var text strings.Builder
			table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
			fmt.Fprintf(table, "name\t%s\nsource\t%s\nstate\t%s\nexpires\t%s\ngroups\t%s\nattributes\t%s\nhash\t%s",
				shownName(a.Name), a.Source, state(&a), expiry(&a), shownGroups(a.Groups), attributes, a.Algorithm)
			if a.Hides {
				fmt.Fprint(table, "\nhides\tthe store's user of the same name")
			}
			if a.Created != nil && a.Changed != nil {
				fmt.Fprintf(table, "\ncreated\t%s\nchanged\t%s", a.Created.Format(time.RFC3339), a.Changed.Format(time.RFC3339))
			}
			table.Flush()
			return print(c, text.String(), a)
		},
	}
}

func (u *users) add() *cobra.Command {
	var of userFlags
	var from passwordFlags
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a user to the store", Args: cobra.ExactArgs(1),
		Long: `Add a user to the store. The password is asked for at the terminal, or comes from
--password-stdin; it is hashed here, and only the hash is sent.`,
		Example: `  sallyport user add ann --group dev
  sallyport user add ci --expires 720h --attribute team=blue --password-stdin < password.txt`,
		RunE: func(c *cobra.Command, args []string) error {
			body := map[string]any{}
			if err := of.into(c, body); err != nil {
				return err
			}
			if err := identity.CheckName(args[0]); err != nil {
				return err
			}
			hash, err := from.hash()
			if err != nil {
				return err
			}
			body["hash"] = hash
			header := http.Header{"If-None-Match": {"*"}}
			if _, err := u.call.send(c, apiCall{method: http.MethodPut, path: userPath(args[0]), header: header, body: body}); err != nil {
				return err
			}
			return print(c, "added "+shownName(args[0]), map[string]string{"added": args[0]})
		},
	}
	of.declare(c)
	from.declare(c)
	return c
}

func (u *users) set() *cobra.Command {
	var of userFlags
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a user's groups, attributes or expiry", Args: cobra.ExactArgs(1),
		Long: `Change a user's groups, attributes or expiry. What no flag names stays as it is.`,
		Example: `  sallyport user set ann --group dev --group ops
  sallyport user set ann --expires 2030-01-01T00:00:00Z --attribute team=red
  sallyport user set ann --no-groups --expires never`,
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.ContainsFunc(userFlagNames, c.Flags().Changed) {
				return fmt.Errorf("nothing to change: want one of --%s", strings.Join(userFlagNames, ", --"))
			}
			if err := u.change(c, args[0], func(body map[string]any) error { return of.into(c, body) }); err != nil {
				return err
			}
			return print(c, "changed "+shownName(args[0]), map[string]string{"changed": args[0]})
		},
	}
	of.declare(c)
	c.Flags().Bool("no-groups", false, "the user is in no group")
	c.Flags().Bool("no-attributes", false, "the user has no attribute but those of --attribute")
	c.MarkFlagsMutuallyExclusive("group", "no-groups")
	return c
}

func (u *users) passwd() *cobra.Command {
	var from passwordFlags
	c := &cobra.Command{
		Use: "passwd NAME", Short: "Change a user's password", Args: cobra.ExactArgs(1),
		Long: `Change a user's password, which is taken as by add. It cuts no session: it is asked for at
the next log-in.`,
		Example: `  sallyport user passwd ann
  sallyport user passwd ann --password-stdin < password.txt`,
		RunE: func(c *cobra.Command, args []string) error {
			if _, _, err := u.before(c, args[0]); err != nil { // before a password is asked for
				return err
			}
			hash, err := from.hash()
			if err != nil {
				return err
			}
			if err := u.change(c, args[0], func(body map[string]any) error {
				body["hash"] = hash
				return nil
			}); err != nil {
				return err
			}
			return print(c, "changed the password of "+shownName(args[0]), map[string]string{"changed": args[0]})
		},
	}
	from.declare(c)
	return c
}

// able makes the commands enable and disable.
func (u *users) able(enable bool) *cobra.Command {
	verb, short := "disable", "Lock a user out, and cut its sessions"
	if enable {
		verb, short = "enable", "Let a user that was disabled in again"
	}
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1),
		Example: `  sallyport user ` + verb + ` ann`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := u.change(c, args[0], func(body map[string]any) error {
				body["disabled"] = !enable
				return nil
			}); err != nil {
				return err
			}
			return print(c, verb+"d "+shownName(args[0]), map[string]string{verb + "d": args[0]})
		},
	}
}

func (u *users) remove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Remove a user, and cut its sessions", Args: cobra.ExactArgs(1),
		Long: `Remove a user from the store, and cut its sessions. Where the policy's data.users has the
name too, that user stays, and the answer says so.`,
		Example: `  sallyport user remove ann`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := u.call.do(c, http.MethodDelete, userPath(args[0]), nil, nil); err != nil {
				return err
			}
			var still identity.Account
			err := u.call.do(c, http.MethodGet, userPath(args[0]), nil, &still)
			name, refused := shownName(args[0]), (*apiError)(nil)
			switch {
			case err == nil && still.Source == "policy":
				text := fmt.Sprintf("removed the store's entry of %s, which the policy's hid: %[1]s is still a user of the policy's data.users", name)
				return print(c, text, map[string]string{"removed": args[0], "remains": "policy"})
			case err != nil && !(errors.As(err, &refused) && refused.status == http.StatusNotFound):
				return print(c, "removed the store's entry of "+name, map[string]string{"removed": args[0]}) // whether another is left is not known
			}
			return print(c, "removed "+name, map[string]string{"removed": args[0]})
		},
	}
}

// load is the command import: a word that Go keeps for itself.
func (u *users) load() *cobra.Command {
	c := &cobra.Command{Use: "import", Short: "Add users from the file of another program"}
	needsCommand(c)
	var groups []string
	var update bool
	htpasswd := &cobra.Command{
		Use: "htpasswd FILE|-", Short: "Add the users of a file of Apache's htpasswd", Args: cobra.ExactArgs(1),
		Long: `Add the users of a file of Apache's htpasswd, all or none. Their hashes are bcrypt, as
` + "`htpasswd -B`" + ` makes them, or argon2id. MD5, SHA and crypt are refused, line by line: whoever gets hold
of them guesses the passwords too fast.`,
		Example: `  sallyport user import htpasswd /etc/apache2/htpasswd --group staff
  sallyport user import htpasswd /etc/apache2/htpasswd --update`,
		RunE: func(c *cobra.Command, args []string) error {
			file := os.Stdin
			if args[0] != "-" {
				var err error
				if file, err = os.Open(args[0]); err != nil {
					return err
				}
				defer file.Close()
			}
			edits, problems := identity.ParseHtpasswd(file)
			if problems != nil {
				for i, p := range problems {
					problems[i] = fmt.Errorf("%s:%w", args[0], p)
				}
				return errors.Join(problems...)
			}
			there := map[string]bool{} // who keeps the groups that he has
			if update && len(groups) > 0 {
				before, err := u.all(c)
				if err != nil {
					return err
				}
				for i := range before {
					there[before[i].Name] = true
				}
			}
			all := make(map[string]any, len(edits))
			for i := range edits {
				one := map[string]any{"hash": edits[i].Hash}
				if len(groups) > 0 && !there[edits[i].Name] {
					one["groups"] = groups
				}
				all[edits[i].Name] = one
			}
			if len(all) == 0 {
				return fmt.Errorf("%s: has no users", args[0])
			}
			body := map[string]any{"users": all, "existing": "refuse"}
			if update {
				body["existing"] = "update"
			}
			var written struct {
				Written int `json:"written"`
			}
			if err := u.call.do(c, http.MethodPut, "/v1/users", body, &written); err != nil {
				return err
			}
			return print(c, fmt.Sprintf("imported %d", written.Written), written)
		},
	}
	htpasswd.Flags().StringArrayVar(&groups, "group", nil, "`NAME` of a group that all who are new are in; may be repeated")
	htpasswd.Flags().BoolVar(&update, "update", false, "those who are there already get the password of the file; else nothing is done")
	c.AddCommand(htpasswd)
	return c
}

// before is a user as it is, in the form in which it is written, and its tag.
func (u *users) before(c *cobra.Command, name string) (body map[string]any, tag string, err error) {
	var a identity.Account
	tag, err = u.call.send(c, apiCall{method: http.MethodGet, path: userPath(name), into: &a})
	if err != nil {
		return nil, "", err
	}
	if a.Source == "policy" {
		return nil, "", failure{fmt.Errorf("%s %w", shownName(name), identity.ErrPolicy)}
	}
	body = map[string]any{"groups": a.Groups, "attributes": a.Attributes, "disabled": a.Disabled}
	if a.Expires != nil {
		body["expires"] = a.Expires
	}
	return body, tag, nil
}

// change reads a user, changes it and writes it, and begins again where somebody
// else has written it in between.
func (u *users) change(c *cobra.Command, name string, how func(body map[string]any) error) error {
	const tries = 10
	for i := 1; ; i++ {
		body, tag, err := u.before(c, name)
		if err != nil {
			return err
		}
		if err := how(body); err != nil {
			return err
		}
		_, err = u.call.send(c, apiCall{method: http.MethodPut, path: userPath(name), header: http.Header{"If-Match": {tag}}, body: body})
		var refused *apiError
		if errors.As(err, &refused) && refused.status == http.StatusPreconditionFailed && i < tries {
			continue
		}
		return err
	}
}
