// Command sallyport is an egress proxy in which a policy written in Rego takes
// every decision. main.go has the commands; build.go wires the rooms.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"sallyport/policy"
	"sallyport/policy/distribute"
	"sallyport/policy/engine"
	"sallyport/proxy/identity"
)

// version is set by the linker.
var version = "devel"

// errFailed is an error after which the exit status is 1: the work went wrong,
// not the way it was asked for.
var errFailed = errors.New("failed")

func main() { os.Exit(run()) }

// run returns the exit status: 0 done, 1 it failed, 2 wrong usage or policy.
func run() int {
	err := root().ExecuteContext(context.Background())
	if err == nil {
		return 0
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(os.Stderr, "sallyport:", line)
	}
	if errors.Is(err, errFailed) {
		return 1
	}
	return 2
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "sallyport",
		Short:         "An egress proxy whose every decision is taken by a Rego policy",
		SilenceErrors: true, SilenceUsage: true, Version: version,
	}
	c.AddCommand(runCommand(), checkCommand(), schemaCommand(), userCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "sallyport", version) },
	})
	return c
}

func runCommand() *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the proxy",
		Example: `  sallyport run
  sallyport run --listen 127.0.0.1:1080 --policy policies/ --data users.json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), s) },
	}
	c.Flags().StringArrayVar(&s.listen, "listen", []string{"127.0.0.1:1080"}, "address to listen on; may be given several times")
	policyFlags(c, &s)
	return c
}

func policyFlags(c *cobra.Command, s *settings) {
	c.Flags().StringArrayVar(&s.policy, "policy", nil, "directory, .rego file or data file; may be given several times (default: the embedded policy)")
	c.Flags().StringArrayVar(&s.data, "data", nil, "JSON or YAML file with data; may be given several times")
}

func checkCommand() *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use:     "check",
		Short:   "Judge a policy without running it",
		Example: `  sallyport check --policy policies/`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			candidate, err := distribute.Load(s.policy, s.data)
			if err != nil {
				return err
			}
			if _, _, err := judged(engine.New(engine.Options{}), candidate); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "ok:", candidate.Revision)
			return nil
		},
	}
	policyFlags(c, &s)
	return c
}

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "schema STAGE",
		Short:   "Print the JSON Schema of a stage's input",
		Example: `  sallyport schema route`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			for _, stage := range policy.Stages() {
				if string(stage) == args[0] {
					_, err := c.OutOrStdout().Write(policy.Schema(stage))
					return err
				}
			}
			return fmt.Errorf("%q is no stage; the stages are %v", args[0], policy.Stages())
		},
	}
}

func userCommand() *cobra.Command {
	c := &cobra.Command{Use: "user", Short: "Work with users"}
	c.AddCommand(&cobra.Command{
		Use:     "hash",
		Short:   "Make the hash that data.users.NAME.password holds, of a password on stdin or at a prompt",
		Example: `  printf %s "$PASSWORD" | sallyport user hash`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			password, err := readPassword()
			if err != nil {
				return err
			}
			hash, err := identity.Hash(password, identity.Argon2id)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), hash)
			return err
		},
	})
	return c
}

// readPassword takes one line at most; RFC 1929 ends at 255 bytes.
func readPassword() ([]byte, error) {
	var password []byte
	var err error
	if in := int(os.Stdin.Fd()); term.IsTerminal(in) {
		fmt.Fprint(os.Stderr, "Password: ")
		password, err = term.ReadPassword(in)
		fmt.Fprintln(os.Stderr)
	} else {
		password, err = bufio.NewReader(io.LimitReader(os.Stdin, 1024)).ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		password = []byte(strings.TrimRight(string(password), "\r\n"))
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the password: %w", err)
	case len(password) == 0 || len(password) > 255:
		return nil, errors.New("a password has 1 to 255 bytes")
	}
	return password, nil
}
