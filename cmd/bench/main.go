// Command bench measures proxies from outside: what a connection, a gigabyte, a
// round trip and an idle connection cost them, and whether every byte arrives.
//
// It starts sallyport, once with a policy that allows everything and once with
// the egress example, and the peers that are installed; or it takes any proxy
// that runs already. target.go is where the connections lead, client.go how they
// are opened, measure.go, users.go, flood.go and verify.go what is done with them,
// process.go what that has cost a proxy. start.go and sallyport.go know how each proxy is
// started, compare.go has the rounds and table.go the result. chain.go has those that
// lead through one proxy far away, and path.go the distance.
//
// What is compared is processor time: rates and latencies mostly tell how the
// machine was shared between the proxy, this program and everybody else.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func main() {
	// A reader of the table that has gone is an error like another: what was
	// started has to be stopped.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	run
	chained   []measurement // of proxies that lead through another one
	roundTrip time.Duration // to that one
	format    string
	tests     []string
	only      []string
	proxies   []string
	pids      []int
	targets   []string
	sallyport string
	with      egressOptions
}

func command() *cobra.Command {
	var o options
	var names []string
	for _, m := range append(measurements(), chainMeasurements()...) {
		names = append(names, m.name)
	}
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure what a proxy costs, beside others",
		Long: `Measure what a connection, a gigabyte, a round trip and an idle connection cost a
proxy, and whether every byte arrives. Without --proxy it starts bin/sallyport, with a
policy that allows all and with the egress example, and the peers that are installed.

A proxy that runs already must let this machine's clients through to --target. Its
processor time and memory are known where it runs on this machine.`,
		Example: `  go run ./cmd/bench
  go run ./cmd/bench --rounds 5 --tests connect,idle --only sallyport,microsocks
  go run ./cmd/bench --proxy mine=socks5://user:password@127.0.0.1:1080 --format json`,
		Args: cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		RunE: func(c *cobra.Command, _ []string) error { return o.do(c) },
	}
	f := c.Flags()
	f.IntVar(&o.rounds, "rounds", 3, "`ROUNDS`, of which the median is told")
	f.DurationVar(&o.settings.duration, "duration", time.Second, "`DURATION` of each measurement")
	f.DurationVar(&o.settings.settle, "settle", 500*time.Millisecond, "`DURATION` that a proxy may be busy at most between a load's end and the reading of what it has cost")
	f.DurationVar(&o.roundTrip, "round-trip", 50*time.Millisecond, "`DURATION` of the way to the far proxy of a chain and back")
	f.IntVar(&o.settings.idle, "idle", 2000, "`CONNECTIONS` that are held idle, and as many again beside them")
	f.StringSliceVar(&o.tests, "tests", names, "`MEASUREMENTS` to do")
	f.StringSliceVar(&o.only, "only", nil, "`NAMES` to measure of those that would be")
	f.StringArrayVar(&o.proxies, "proxy", nil, "`[NAME=]URL` of a running proxy, instead of those that are started: socks5://, http://, or tcp:// to one that forwards without being asked; may be repeated")
	f.IntSliceVar(&o.pids, "pid", nil, "`PIDS` of the one --proxy, where it can't be seen who listens there")
	f.StringSliceVar(&o.targets, "target", nil, "`ADDRESSES` of this machine for clients to ask for (default 127.0.1.1 to 127.0.1.16)")
	f.StringVar(&o.sallyport, "sallyport", "bin/sallyport", "`FILE` to start")
	f.StringVar(&o.with.example, "egress", "bundles/egress", "`FOLDER` of the egress example")
	f.IntVar(&o.with.entries, "entries", 100_000, "`DOMAINS` on the egress example's list")
	f.StringVar(&o.format, "format", "text", "`FORMAT` of the result: text or json")
	return c
}

func (o *options) do(c *cobra.Command) error {
	if err := o.check(); err != nil {
		return err
	}
	ctx := c.Context()
	limit, err := raiseLimit()
	if err != nil {
		return err
	}
	if most := int(limit / 8); o.settings.idle > most {
		return fmt.Errorf("--idle: %d connections need more descriptors than this user may have; at most %d", o.settings.idle, most)
	}
	ips := loopbackTargets()
	if len(o.targets) > 0 {
		ips = nil
		for _, text := range o.targets {
			ip, err := netip.ParseAddr(text)
			if err != nil {
				return fmt.Errorf("--target: %w", err)
			}
			ips = append(ips, ip)
		}
	}
	target, err := listenTarget(ctx, ips)
	if err != nil {
		return err
	}
	defer target.close()
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // some peers change their user
		return err
	}
	s := &stable{dir: dir, target: target, limit: limit}
	defer s.stop()
	o.progress = c.ErrOrStderr()
	r := &report{Machine: machine(), Rounds: o.rounds}
	if len(o.proxies) == 0 {
		r.Program = programVersion(ctx, o.sallyport)
	}
	if err := o.single(ctx, s, r); err != nil {
		return err
	}
	if err := o.chains(ctx, s, r); err != nil {
		return err
	}
	write := r.text
	if o.format == "json" {
		write = r.json
	}
	if err := write(c.OutOrStdout()); err != nil {
		return err
	}
	if n := len(r.Failures); n > 0 {
		return fmt.Errorf("%d measurements went wrong", n)
	}
	return nil
}

// single measures proxies by themselves, unless nobody wants that. Those that are
// asked by HTTP have a table of their own, but all that are running have one.
func (o *options) single(ctx context.Context, s *stable, r *report) error {
	if len(o.measure) == 0 {
		return nil
	}
	contenders, missing, err := o.contenders(ctx, s)
	if err != nil {
		return err
	}
	found := warm(contenders)
	if err := o.turns(ctx, contenders, found); err != nil {
		return err
	}
	r.Missing, r.Failures = missing, found.failures
	if len(o.proxies) > 0 {
		r.Tables = append(r.Tables, compare("", found, contenders, ""))
		return nil
	}
	var others, byHTTP []*contender
	for _, c := range contenders {
		if c.through.scheme == "http" {
			byHTTP = append(byHTTP, c)
		} else {
			others = append(others, c)
		}
	}
	if len(others) > 0 {
		r.Tables = append(r.Tables, compare("by SOCKS5", found, others, "egress"))
	}
	if len(byHTTP) > 0 {
		r.Tables = append(r.Tables, compare("by HTTP", found, byHTTP, ""))
	}
	return nil
}

// chains measures proxies that lead through another one, unless the proxies are
// running ones or nobody wants that.
func (o *options) chains(ctx context.Context, s *stable, r *report) error {
	if len(o.chained) == 0 || len(o.proxies) > 0 {
		return nil
	}
	far, err := s.startFar(ctx, o.sallyport)
	if err != nil {
		return fmt.Errorf("far proxy: %w", err)
	}
	defer far.close()
	contenders, err := s.startChains(ctx, far, o.sallyport, o.wanted)
	if err != nil || len(contenders) == 0 {
		return err
	}
	measuring := run{rounds: o.rounds, settings: o.settings, measure: o.chained, progress: o.progress}
	found := warm(contenders)
	far.take(o.roundTrip)
	if err := measuring.turns(ctx, contenders, found); err != nil {
		return err
	}
	r.Failures = append(r.Failures, found.failures...)
	title := fmt.Sprintf("chains, %v there and back", o.roundTrip)
	r.Tables = append(r.Tables, compare(title, found, contenders, "sallyport-pool"))
	return nil
}

func (o *options) wanted(name string) bool { return len(o.only) == 0 || slices.Contains(o.only, name) }

func (o *options) wants(test string) bool { return slices.Contains(o.tests, test) }

func (o *options) check() error {
	for _, name := range o.tests {
		is := func(m measurement) bool { return m.name == name }
		if known := measurements(); slices.ContainsFunc(known, is) {
			o.measure = append(o.measure, known[slices.IndexFunc(known, is)])
		} else if known := chainMeasurements(); slices.ContainsFunc(known, is) {
			o.chained = append(o.chained, known[slices.IndexFunc(known, is)])
		} else {
			return fmt.Errorf("--tests: there is no %q", name)
		}
	}
	for _, name := range o.only {
		if known := o.names(); len(o.proxies) == 0 && !slices.Contains(known, name) {
			return fmt.Errorf("--only: there is no %q: there are %s", name, strings.Join(known, ", "))
		}
	}
	switch {
	case o.format != "text" && o.format != "json":
		return fmt.Errorf("--format: want text or json, got %q", o.format)
	case o.rounds < 1 || o.settings.duration <= 0 || o.settings.idle < 1 || o.roundTrip <= 0:
		return errors.New("--rounds, --duration, --round-trip and --idle must be more than none")
	case len(o.pids) > 0 && len(o.proxies) != 1:
		return errors.New("--pid goes with one --proxy")
	}
	return nil
}

// names are those of whoever can be measured, where no proxies are running ones.
func (o *options) names() (names []string) {
	for _, r := range recipes(o.sallyport, o.with) {
		names = append(names, r.name)
	}
	for _, c := range (&chains{}).recipes(o.sallyport) {
		if !slices.Contains(names, c.name) {
			names = append(names, c.name)
		}
	}
	return append(names, "direct")
}

// contenders are started, or found running. The way without a proxy comes last.
func (o *options) contenders(ctx context.Context, s *stable) (all []*contender, missing []string, err error) {
	for _, text := range o.proxies {
		c, err := running(text, s.target)
		if err != nil {
			return nil, nil, err
		}
		if len(o.pids) > 0 {
			c.processes = o.pids
		}
		if o.wanted(c.name) {
			all = append(all, c)
		}
	}
	var packages []string
	for _, r := range recipes(o.sallyport, o.with) {
		if len(o.proxies) > 0 || !o.wanted(r.name) {
			continue
		}
		c, err := s.start(ctx, r)
		switch {
		case errors.Is(err, errNotInstalled) && r.debian != "":
			packages = append(packages, r.debian)
		case errors.Is(err, errNotInstalled):
			return nil, nil, fmt.Errorf("%s: there is no %s: run make build", r.name, r.program)
		case err != nil:
			return nil, nil, fmt.Errorf("%s: %w", r.name, err)
		default:
			all = append(all, c)
		}
	}
	if o.wants("bulk-idle") && len(all) > 0 && all[0].name == "sallyport" {
		if all[0].users, err = s.startUsers(ctx, o.sallyport); errors.Is(err, errNotRoot) {
			missing = append(missing, "bulk-idle, for which "+err.Error())
		} else if err != nil {
			return nil, nil, err
		}
	}
	if o.wanted("direct") {
		c := &contender{name: "direct"}
		c.through.scheme, c.targets = "direct", s.target.addrs
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, nil, errors.New("--only leaves nothing to measure")
	}
	if len(packages) > 0 {
		missing = append(missing, "those who are not installed: apt-get install --no-install-recommends "+strings.Join(packages, " "))
	}
	return all, missing, nil
}

// running is a proxy that others have started.
func running(text string, t *target) (*contender, error) {
	name, address, named := strings.Cut(text, "=")
	if !named || strings.Contains(name, "://") {
		name, address = "", text
	}
	through, err := parseEndpoint(address)
	if err != nil {
		return nil, fmt.Errorf("--proxy: %w", err)
	}
	if name == "" {
		name = through.address
	}
	c := &contender{name: name, processes: listening(through.address)}
	c.through, c.targets = through, t.addrs
	return c, nil
}

// raiseLimit lets this process, and those that it starts, open as many files as
// its user may.
func raiseLimit() (uint64, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("limit of descriptors: %w", err)
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("limit of descriptors: %w", err)
	}
	return min(l.Cur, 100_000), nil
}

// programVersion is what a program says of itself; empty where there is none.
func programVersion(ctx context.Context, program string) string {
	said, err := exec.CommandContext(ctx, program, "version").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(said))
}

func machine() string {
	release := "?"
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		release = unix.ByteSliceToString(u.Release[:])
	}
	return fmt.Sprintf("%d cores, Linux %s", runtime.NumCPU(), release)
}
