// Command sallyport is an egress proxy in which a policy written in Rego takes
// every decision. main.go has the root, run and the small commands; the others
// have a file each. build.go wires the rooms.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"sallyport/proxy/config"
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

// moreFormats is the annotation of a command whose results have other formats, too.
const moreFormats = "formats"

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "sallyport",
		Short:         "An egress proxy whose every decision is taken by a Rego policy",
		SilenceErrors: true, SilenceUsage: true, Version: version,
		Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().String("format", "text", "`FORMAT` of results: text or json")
	complete(c, "format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	c.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		formats := append([]string{"text", "json"}, strings.Fields(c.Annotations[moreFormats])...)
		if f := c.Flag("format").Value.String(); !slices.Contains(formats, f) {
			return fmt.Errorf("--format: want %s, got %q", strings.Join(formats, " or "), f)
		}
		return nil
	}
	c.AddCommand(runCommand(), checkCommand(), testCommand(), evalCommand(), schemaCommand(), userCommand(), banCommand(), reportCommand(), auditCommand(), configCommand(), versionCommand())
	// Cobra's own two commands take an unknown word for a request for help.
	c.InitDefaultHelpCmd()
	c.InitDefaultCompletionCmd()
	for _, made := range c.Commands() {
		switch made.Name() {
		case "completion":
			needsCommand(made)
		case "help":
			made.Args = func(c *cobra.Command, args []string) error {
				found, rest, err := c.Root().Find(args)
				if err == nil && len(rest) > 0 {
					err = noSuchCommand(found, rest)
				}
				return err
			}
		}
	}
	return c
}

// needsCommand makes a command one that does nothing by itself.
func needsCommand(c *cobra.Command) {
	c.Args = noSuchCommand
	c.RunE = func(c *cobra.Command, _ []string) error {
		var names []string
		for _, below := range c.Commands() {
			names = append(names, below.Name())
		}
		return fmt.Errorf("%s needs a command: %s", c.CommandPath(), strings.Join(names, ", "))
	}
}

// noSuchCommand refuses whatever follows a command that takes other commands.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if c.SuggestionsMinimumDistance <= 0 {
		c.SuggestionsMinimumDistance = 2
	}
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("unknown command %q for %q; did you mean %s?", args[0], c.CommandPath(), strings.Join(near, " or "))
	}
	return fmt.Errorf("unknown command %q for %q; see %s --help", args[0], c.CommandPath(), c.CommandPath())
}

// noArguments does not repeat what was given: it may be a password.
func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes flags only, no argument; see %s --help", c.CommandPath(), c.CommandPath())
	}
	return nil
}

// complete names what may follow a flag, for the shell's completion.
func complete(c *cobra.Command, flag string, with cobra.CompletionFunc) {
	if err := c.RegisterFlagCompletionFunc(flag, with); err != nil {
		panic(err) // the flag is not declared, or is completed twice
	}
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
	o := &config.Options{Env: os.Environ(), Passphrase: askPassphrase}
	f := c.Flags()
	f.StringVar(&o.File, "config", "", "configuration `FILE`: .yaml, .toml or .json, and .age behind it where it is encrypted")
	f.StringArrayVar(&o.AgeIdentity, "age-identity", nil, "`FILE` of the private key that decrypts what ends in .age; may be repeated")
	f.StringArrayVar(&o.Listen, "listen", nil, "`ADDRESS` to listen on, instead of the configured ones; may be repeated")
	f.StringArrayVar(&o.Policy, "policy", nil, "`PATH` of a directory, .rego, data file or bundle, instead of the configured ones; may be repeated")
	f.StringArrayVar(&o.Data, "data", nil, "JSON or YAML `FILE` that is added under data; may be repeated")
	f.StringVar(&o.Management, "management", "", "`ADDRESS` of the management API")
	f.StringArrayVar(&o.Set, "set", nil, "`KEY=VALUE` of any other setting; may be repeated")
	for _, flag := range []string{"listen", "management", "set"} {
		complete(c, flag, cobra.NoFileCompletions)
	}
	return o
}

func load(c *cobra.Command, o *config.Options) (*config.Config, error) {
	// Empty is what an unset variable of a script leaves: the defaults are not
	// what was meant.
	for _, flag := range []string{"config", "management"} {
		if f := c.Flag(flag); f.Changed && f.Value.String() == "" {
			return nil, fmt.Errorf("--%s: must not be empty", flag)
		}
	}
	settings, err := config.Load(*o)
	if err != nil {
		return nil, err
	}
	if len(settings.Policy.LogFacts) > 0 {
		return nil, errors.New("policy.log_facts: not supported by this release")
	}
	if err := checkOPA(settings); err != nil {
		return nil, err
	}
	return settings, nil
}

func runCommand() *cobra.Command {
	var o *config.Options
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the proxy",
		Long: `Run the proxy. Without flags it listens for SOCKS5, SOCKS4 and HTTP on 127.0.0.1:1080, for
management on 127.0.0.1:9080, and the embedded default policy decides.

Policy files are watched and loaded again when they change. HUP loads them too.
TERM and INT let sessions finish for shutdown.grace; a second one stops at once.`,
		Example: `  sallyport run
  sallyport run --policy policies/ --data settings.json
  sallyport run --config sallyport.yaml --set log.level=debug
  sallyport run --set policy.opa.decision_logs.console=true`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, files, err := open(c, o)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(c.Context())
			defer cancel()
			s, err := build(ctx, settings, files)
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
						s.reload(ctx, "HUP")
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

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArguments,
		Example: `  sallyport version
  sallyport version --format json`,
		RunE: func(c *cobra.Command, _ []string) error {
			return print(c, "sallyport "+version+" "+runtime.Version(), map[string]string{"version": version, "go": runtime.Version()})
		},
	}
}
