// Command sallyport is an egress proxy in which a policy written in Rego takes
// every decision. main.go has the commands; build.go wires the rooms.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"sallyport/policy"
	"sallyport/policy/engine"
	"sallyport/proxy/config"
	"sallyport/proxy/identity"
)

// version is set by the linker.
var version = "devel"

// failure is an error after which the exit status is 1: the work went wrong,
// not the way it was asked for.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// errReported is an error whose text has been printed already.
var errReported = errors.New("reported")

func main() { os.Exit(run()) }

// run returns the exit status: 0 done, 1 it failed, 2 wrong usage,
// configuration or policy.
func run() int {
	// A log or a decision log whose reader has gone is an error of the writer,
	// not the end of the process.
	signal.Ignore(syscall.SIGPIPE)
	err := root().ExecuteContext(context.Background())
	if err == nil {
		return 0
	}
	if !errors.Is(err, errReported) {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintln(os.Stderr, "sallyport:", line)
		}
	}
	if errors.As(err, new(failure)) {
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
	c.PersistentFlags().String("format", "text", "output: text, or json")
	c.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		if f := c.Flag("format").Value.String(); f != "text" && f != "json" {
			return fmt.Errorf("--format: want text or json, got %q", f)
		}
		return nil
	}
	c.AddCommand(runCommand(), checkCommand(), schemaCommand(), userCommand(), versionCommand())
	return c
}

// print writes a result as text or, with --format json, as JSON.
func print(c *cobra.Command, text string, value any) error {
	if c.Flag("format").Value.String() == "json" {
		return json.NewEncoder(c.OutOrStdout()).Encode(value)
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), text)
	return err
}

// configFlags are the flags that make up a configuration.
func configFlags(c *cobra.Command) *config.Options {
	o := &config.Options{Env: os.Environ()}
	f := c.Flags()
	f.StringVar(&o.File, "config", "", "configuration file (.yaml, .toml or .json)")
	f.StringArrayVar(&o.Listen, "listen", nil, "address to listen on, instead of the configured ones; may be repeated")
	f.StringArrayVar(&o.Policy, "policy", nil, "directory, .rego, data file or bundle, instead of the configured ones; may be repeated")
	f.StringArrayVar(&o.Data, "data", nil, "JSON or YAML file that is added under data; may be repeated")
	f.StringVar(&o.Management, "management", "", "address of the management API")
	f.StringArrayVar(&o.Set, "set", nil, "KEY=VALUE of any other setting; may be repeated")
	return o
}

func load(o *config.Options) (*config.Config, error) {
	c, err := config.Load(*o)
	if err != nil {
		return nil, err
	}
	if len(c.Policy.LogFacts) > 0 {
		return nil, errors.New("policy.log_facts: not supported by this release")
	}
	return c, nil
}

func runCommand() *cobra.Command {
	var o *config.Options
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the proxy",
		Long: `Run the proxy. Without flags it listens for SOCKS5 and HTTP on 127.0.0.1:1080, for
management on 127.0.0.1:9080, and the embedded default policy decides.

Policy files are watched and loaded again when they change. HUP loads them too.
TERM and INT let sessions finish for shutdown.grace; a second one stops at once.`,
		Example: `  sallyport run
  sallyport run --policy policies/ --data settings.json
  sallyport run --config sallyport.yaml --set log.level=debug
  sallyport run --set policy.opa.decision_logs.console=true`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := load(o)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(c.Context())
			defer cancel()
			s, err := build(ctx, settings)
			if err != nil {
				return err
			}
			stop, now := make(chan struct{}), make(chan struct{})
			signals := make(chan os.Signal, 4)
			signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
			defer signal.Stop(signals)
			go func() {
				ends := []chan struct{}{stop, now}
				for sig := range signals {
					if sig == syscall.SIGHUP {
						s.reload(ctx)
					} else if len(ends) > 0 {
						close(ends[0])
						ends = ends[1:]
					}
				}
			}()
			if err := s.run(stop, now); err != nil {
				return failure{err}
			}
			return nil
		},
	}
	o = configFlags(c)
	return c
}

func checkCommand() *cobra.Command {
	var o *config.Options
	c := &cobra.Command{
		Use:   "check",
		Short: "Judge configuration and policy as run would",
		Long: `Judge configuration and policy by the same code as run, and print every problem.
What is a warning to run, such as a path below data that nothing defines, is an
error here.`,
		Example: `  sallyport check --policy policies/
  sallyport check --config sallyport.yaml --format json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			type result struct {
				Revision string           `json:"revision,omitempty"`
				Problems []map[string]any `json:"problems"`
			}
			out := result{Problems: []map[string]any{}}
			settings, err := load(o)
			if err == nil {
				e, failed := engine.New(engineOptions(settings))
				if failed != nil {
					return failed
				}
				defer e.Close()
				var snapshot *engine.Snapshot
				var problems engine.Problems
				snapshot, problems, err = candidate(e, settings)
				if err == nil && len(problems) > 0 {
					err = problems
				}
				if snapshot != nil {
					out.Revision = snapshot.Revision()
				}
			}
			if err == nil {
				return print(c, "ok: "+out.Revision, out)
			}
			if c.Flag("format").Value.String() != "json" {
				return err
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				out.Problems = append(out.Problems, map[string]any{"message": line})
			}
			var judged engine.Problems
			if errors.As(err, &judged) {
				out.Problems = out.Problems[:0]
				for _, p := range judged {
					out.Problems = append(out.Problems, map[string]any{
						"file": p.File, "row": p.Row, "column": p.Column, "message": p.Message, "warning": p.Warning,
					})
				}
			}
			if err := print(c, "", out); err != nil {
				return failure{err}
			}
			return errReported
		},
	}
	o = configFlags(c)
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
	c := &cobra.Command{Use: "user", Short: "Work with users", RunE: func(c *cobra.Command, _ []string) error { return c.Help() }, Args: cobra.NoArgs}
	var bcrypt bool
	hash := &cobra.Command{
		Use:   "hash",
		Short: "Make the hash that data.users.NAME.password holds",
		Long:  "Make the hash that data.users.NAME.password holds, of a password on standard input or at a prompt.",
		Example: `  sallyport user hash
  sallyport user hash < password.txt`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			password, err := readPassword()
			if err != nil {
				return err
			}
			algorithm := identity.Argon2id
			if bcrypt {
				algorithm = identity.Bcrypt
			}
			made, err := identity.Hash(password, algorithm)
			if err != nil {
				return err
			}
			return print(c, made, map[string]string{"hash": made})
		},
	}
	hash.Flags().BoolVar(&bcrypt, "bcrypt", false, "bcrypt instead of argon2id")
	c.AddCommand(hash)
	return c
}

// readPassword takes one line; RFC 1929 ends at 255 bytes.
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

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return print(c, "sallyport "+version+" "+runtime.Version(), map[string]string{"version": version, "go": runtime.Version()})
		},
	}
}
