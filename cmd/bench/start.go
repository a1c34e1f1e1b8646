package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// stable is where proxies are started, each on a port of its own, and stopped.
type stable struct {
	dir     string // of their files
	target  *target
	limit   uint64 // descriptors that each may open
	running []*exec.Cmd
}

// recipe is a proxy that can be started.
type recipe struct {
	name    string
	scheme  string
	program string // looked up
	debian  string // the package to install
	user    string // that its clients log in as
	secret  string
	// arguments writes the files that it needs into dir, which is its own.
	arguments func(s *stable, dir, host, port string) ([]string, error)
	bans      bool                // it is sallyport, and is asked to ban a source
	as        *syscall.Credential // who runs it; nil: who runs us
}

// recipes are the proxies that are started where they are installed: sallyport
// first, which the others are compared with.
func recipes(program string, with egressOptions) []recipe {
	return []recipe{
		{name: "sallyport", scheme: "socks5", program: program, arguments: sallyportAllowingAll, bans: true},
		{
			name: "egress", scheme: "socks5", program: program, user: egressUser, secret: egressPassword,
			arguments: func(s *stable, dir, host, port string) ([]string, error) {
				return sallyportWithEgress(s, dir, host, port, with)
			},
		},
		{name: "microsocks", scheme: "socks5", program: "microsocks", debian: "microsocks", arguments: microsocks},
		{name: "dante", scheme: "socks5", program: "danted", debian: "dante-server", arguments: dante},
		{name: "haproxy", scheme: "tcp", program: "haproxy", debian: "haproxy", arguments: haproxy},
		{name: "sallyport-http", scheme: "http", program: program, arguments: sallyportAllowingAll, bans: true},
		{name: "squid", scheme: "http", program: "squid", debian: "squid", arguments: squid},
		{name: "tinyproxy", scheme: "http", program: "tinyproxy", debian: "tinyproxy", arguments: tinyproxy},
	}
}

func sallyportAllowingAll(s *stable, dir, host, port string) ([]string, error) {
	policy := filepath.Join(dir, "policy")
	return sallyportRun(s, dir, host, port, "--policy", policy), writeAllowAll(policy)
}

// sallyportWithEgress writes its decision log to /dev/null, since what is
// measured is not the disk.
func sallyportWithEgress(s *stable, dir, host, port string, with egressOptions) ([]string, error) {
	policy, countries := filepath.Join(dir, "policy"), filepath.Join(dir, "countries.mmdb")
	arguments := sallyportRun(s, dir, host, port, "--policy", policy,
		"--set", "policy.opa.decision_logs.console=true", "--set", "geoip.databases=["+countries+"]")
	return arguments, errors.Join(writeEgress(policy, with, s.target.addrs), writeCountries(countries, s.target.addrs))
}

func sallyportRun(s *stable, dir, host, port string, more ...string) []string {
	return append([]string{
		"run", "--listen", net.JoinHostPort(host, port), "--management", managed(dir),
		"--set", "state.path=" + filepath.Join(dir, "state.db"),
		"--set", fmt.Sprintf("limits.connections=%d", s.limit/4),
	}, more...)
}

// managed is the address of the management API of the sallyport whose folder it is.
func managed(dir string) string { return "unix:" + filepath.Join(dir, "management.sock") }

func microsocks(_ *stable, _, host, port string) ([]string, error) {
	return []string{"-i", host, "-p", port}, nil
}

func dante(_ *stable, dir, host, port string) ([]string, error) {
	users := "user.notprivileged: nobody"
	if os.Geteuid() == 0 {
		users = "user.privileged: root\nuser.unprivileged: nobody"
	}
	file := filepath.Join(dir, "danted.conf")
	return []string{"-f", file, "-p", filepath.Join(dir, "danted.pid")}, write(file, fmt.Sprintf(`errorlog: stderr
internal: %s port = %s
external: lo
clientmethod: none
socksmethod: none
%s
timeout.io: 0
client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
socks pass { from: 127.0.0.0/8 to: 127.0.0.0/8 command: connect udpassociate udpreply }
`, host, port, users))
}

// haproxy asks nobody: it forwards to the target by splice(2), and is what a
// relay can be at best.
func haproxy(s *stable, dir, host, port string) ([]string, error) {
	var servers strings.Builder
	for i, to := range s.target.addrs {
		fmt.Fprintf(&servers, "  server s%d %s\n", i, to)
	}
	file := filepath.Join(dir, "haproxy.cfg")
	return []string{"-db", "-f", file}, write(file, fmt.Sprintf(`global
  maxconn %d
  tune.pipesize 524288
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  option splice-request
  option splice-response
listen forward
  bind %s:%s
  balance roundrobin
%s`, s.limit/4, host, port, servers.String()))
}

// squid keeps nothing and logs nothing.
func squid(s *stable, dir, host, port string) ([]string, error) {
	file := filepath.Join(dir, "squid.conf")
	return []string{"-N", "-f", file}, write(file, fmt.Sprintf(`http_port %s:%s
http_access allow all
access_log none
cache_log /dev/null
cache deny all
cache_mem 0
pid_filename none
pinger_enable off
max_filedescriptors %d
shutdown_lifetime 0 seconds
client_lifetime 1 day
visible_hostname bench
`, host, port, s.limit))
}

func tinyproxy(s *stable, dir, host, port string) ([]string, error) {
	file := filepath.Join(dir, "tinyproxy.conf")
	return []string{"-d", "-c", file}, write(file, fmt.Sprintf(`Port %s
Listen %s
Timeout 86400
MaxClients %d
LogLevel Critical
DisableViaHeader Yes
`, port, host, s.limit/4))
}

// errNotInstalled is a proxy that is left out.
var errNotInstalled = errors.New("not installed")

// start runs a proxy and waits until it accepts connections.
func (s *stable) start(ctx context.Context, r recipe) (*contender, error) {
	program, err := lookUp(r.program)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.dir, r.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	const host = "127.0.0.1"
	port, err := freePort(host)
	if err != nil {
		return nil, err
	}
	arguments, err := r.arguments(s, dir, host, port)
	if err != nil {
		return nil, err
	}
	if r.as != nil {
		if program, err = handOver(dir, program, r.as); err != nil {
			return nil, err
		}
	}
	c := &contender{name: r.name}
	c.through = endpoint{scheme: r.scheme, address: net.JoinHostPort(host, port), user: r.user, password: r.secret}
	c.targets = s.target.addrs
	if r.bans {
		c.bans = &bans{program: program, management: managed(dir)}
	}
	launch := func(ctx context.Context) (err error) {
		c.processes, err = s.launch(ctx, c.through.address, dir, r.as, program, arguments)
		return err
	}
	c.restart = func(ctx context.Context) error {
		if err := s.end(ctx, c); err != nil {
			return err
		}
		if err := launch(ctx); err != nil {
			return err
		}
		return warmUp(&c.client)
	}
	return c, launch(ctx)
}

// launch runs a program in its folder, and waits until it listens. After an error
// it may be running.
func (s *stable) launch(ctx context.Context, address, dir string, as *syscall.Credential, program string, arguments []string) (processes, error) {
	output, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	cmd := exec.Command(program, arguments...)
	cmd.Stderr = output
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true, // an interrupt is for us, who then stop it
		Pdeathsig:  syscall.SIGKILL,
		Credential: as,
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.running = append(s.running, cmd)
	started := processes{cmd.Process.Pid}
	for end := time.Now().Add(30 * time.Second); len(listening(address)) == 0; { // sallyport compiles its policy first
		if gone(cmd.Process.Pid) || time.Now().After(end) {
			said, _ := os.ReadFile(output.Name())
			return started, fmt.Errorf("it does not listen:\n%s", said)
		}
		if pause(ctx, 20*time.Millisecond); ctx.Err() != nil {
			return started, ctx.Err()
		}
	}
	return started, nil
}

// lookUp finds a program, too where only root's PATH has it.
func lookUp(program string) (string, error) {
	for _, name := range []string{program, "/usr/sbin/" + program, "/usr/local/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", errNotInstalled
}

func freePort(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// gone tells whether a process has ended and is yet to be waited for.
func gone(pid int) bool {
	fields := stat(pid)
	return len(fields) == 0 || fields[0] == "Z"
}

// stop ends all that were started.
func (s *stable) stop() {
	for _, cmd := range s.running {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	}
	for _, cmd := range s.running {
		reap(cmd)
	}
}

// end ends one of them, and waits until nobody listens where it did.
func (s *stable) end(ctx context.Context, c *contender) error {
	s.running = slices.DeleteFunc(s.running, func(cmd *exec.Cmd) bool {
		if !slices.Contains(c.processes, cmd.Process.Pid) {
			return false
		}
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		reap(cmd)
		return true
	})
	for end := time.Now().Add(patience); len(listening(c.through.address)) > 0; {
		if time.Now().After(end) {
			return errors.New("it was ended, and its port is still taken")
		}
		if pause(ctx, 20*time.Millisecond); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// reap waits until a program has ended that was told to, kills it after a while, and
// then what is left of its children.
func reap(cmd *exec.Cmd) {
	kill := time.AfterFunc(3*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	cmd.Wait() // by a signal, mostly
	kill.Stop()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}

func appendTo(path, text string) error {
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return write(path, string(before)+text)
}
