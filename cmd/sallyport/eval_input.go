package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/policy"
	"sallyport/policy/distribute"
	"sallyport/proxy/geo"
	"sallyport/proxy/identity"
	"sallyport/proxy/wire/target"
)

// question is what eval asks, by flags: each changes some facts of the input
// document.
type question struct {
	input     string
	source    string
	listener  string
	protocol  string
	user      string
	method    string
	verified  bool
	groups    []string
	attribute []string
	target    string
	asked     string
	command   string
	address   string
	upstreams []string
	names     []string
	call      string
	caller    string
	roles     []string
	time      string
	flow      flow
}

// askedOf are the stages that have the facts which a flag sets; a flag that is
// not here fits all.
var askedOf = map[string][]policy.Stage{
	"source":    policy.Stages(),
	"listener":  {policy.Admit, policy.Authenticate, policy.Route, policy.Dial, policy.Inspect},
	"protocol":  {policy.Authenticate, policy.Route, policy.Dial, policy.Inspect},
	"user":      {policy.Authenticate, policy.Route, policy.Dial, policy.Inspect},
	"method":    {policy.Authenticate, policy.Route, policy.Dial, policy.Inspect},
	"verified":  {policy.Authenticate},
	"group":     {policy.Authenticate, policy.Route, policy.Dial, policy.Inspect},
	"attribute": {policy.Authenticate, policy.Route, policy.Dial, policy.Inspect},
	"target":    {policy.Route, policy.Dial, policy.Inspect},
	"asked":     {policy.Dial, policy.Inspect},
	"command":   {policy.Route, policy.Dial, policy.Inspect},
	"address":   {policy.Dial},
	"upstream":  {policy.Route},
	"names":     {policy.Dial},

	"flow-protocol": {policy.Inspect},
	"server-name":   {policy.Inspect},
	"alpn":          {policy.Inspect},
	"flow-host":     {policy.Inspect},

	"call":   {policy.Manage},
	"caller": {policy.Manage},
	"role":   {policy.Manage},
}

func (q *question) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&q.input, "input", "", "`FILE` of facts, JSON or YAML, - for standard input; what is missing has its empty value")
	f.StringVar(&q.source, "source", "", "`IP[:PORT]` of the client, or of a management call's")
	f.StringVar(&q.listener, "listener", "", "`NAME` of the listener")
	f.StringVar(&q.protocol, "protocol", "", "`NAME`: socks5, socks4 or http")
	f.StringVar(&q.user, "user", "", "`NAME` of the user; groups and attributes come from data.users where they are not given, and not from a server's state")
	f.StringVar(&q.method, "method", "", "`NAME` of how the user authenticates: password, none, certificate or certificate+password (default password with --user)")
	f.BoolVar(&q.verified, "verified", true, "whether the user's password is right, where the method has one")
	f.StringArrayVar(&q.groups, "group", nil, "`NAME` of a group that the user is in; may be repeated")
	f.StringArrayVar(&q.attribute, "attribute", nil, "`KEY=VALUE` that the user has, the value as JSON or as plain text; may be repeated")
	f.StringVar(&q.target, "target", "", "`HOST:PORT` that the client asks for")
	f.StringVar(&q.asked, "asked", "", "`HOST:PORT` that the client asked for before a redirect (default the target)")
	f.StringVar(&q.command, "command", "", "`NAME` of what the client asks for: connect, forward, … (default connect with --target)")
	f.StringVar(&q.address, "address", "", "`IP` that is about to be dialled, which dial needs (default the target's, where that is an IP)")
	f.StringArrayVar(&q.upstreams, "upstream", nil, "`NAME[=JSON]` of an upstream, the facts that differ from a healthy one's without labels: 'eu-1={\"latency_ms\": 20}'; may be repeated")
	f.StringSliceVar(&q.names, "names", nil, "`NAMES` that the target is an alias of, the canonical one last")
	q.flow.flags(c)
	f.StringVar(&q.call, "call", "", "`CALL` of the management API, such as 'GET /v1/sessions'")
	f.StringVar(&q.caller, "caller", "", "`NAME` of the valid token that the call has")
	f.StringArrayVar(&q.roles, "role", nil, "`ROLE` of that token; may be repeated")
	f.StringVar(&q.time, "time", "", "when it is asked, in `RFC3339` (default now)")
	complete(c, "time", cobra.NoFileCompletions)
	for name := range askedOf {
		complete(c, name, cobra.NoFileCompletions)
	}
}

// facts are the facts that are asked about. The notes say what a reader of the
// decision should know of them.
func (q *question) facts(c *cobra.Command, stage policy.Stage, users *identity.Users, databases *geo.Databases) (facts *policy.Facts, notes []string, err error) {
	for name, stages := range askedOf {
		if c.Flag(name).Changed && !slices.Contains(stages, stage) {
			return nil, nil, fmt.Errorf("--%s: %s has no such facts", name, stage.Package())
		}
	}
	input := map[string]any{}
	if q.input != "" {
		if input, err = readInput(c, q.input); err != nil {
			return nil, nil, fmt.Errorf("--input: %s: %w", q.input, err)
		}
		if err := canonical(input); err != nil {
			return nil, nil, fmt.Errorf("--input: %s: %w", q.input, err)
		}
	}
	for _, set := range []func(*cobra.Command, policy.Stage, map[string]any) error{q.setTime, q.setSource, q.setTarget, q.setUpstreams, q.flow.set, q.setCall} {
		if err := set(c, stage, input); err != nil {
			return nil, nil, err
		}
	}
	if notes, err = q.setUser(c, stage, input, users); err != nil {
		return nil, nil, err
	}
	if facts, err = policy.ReadFacts(stage, input); err != nil {
		return nil, nil, err
	}
	if stage == policy.Dial && !facts.Address.IP.IsValid() {
		return nil, nil, errors.New("dial is asked about an address: give it with --address, or as input.address.ip")
	}
	locate(input, facts, databases)
	return facts, notes, nil
}

// locate says where the addresses are of which the input does not say it.
func locate(input map[string]any, facts *policy.Facts, databases *geo.Databases) {
	for fact, at := range map[string]struct {
		ip  policy.IP
		geo *policy.Geo
	}{
		"source":  {facts.Source.IP, &facts.Source.Geo},
		"target":  {facts.Target.IP, &facts.Target.Geo},
		"address": {facts.Address.IP, &facts.Address.Geo},
	} {
		given, _ := input[fact].(map[string]any)
		if _, told := given["geo"]; !told && at.ip.IsValid() {
			*at.geo = databases.Locate(at.ip.Addr)
		}
	}
}

func readInput(c *cobra.Command, path string) (map[string]any, error) {
	from := io.Reader(c.InOrStdin())
	if path != "-" {
		file, err := os.Open(path)
		if at := (*os.PathError)(nil); errors.As(err, &at) {
			return nil, at.Err // the path is said already
		} else if err != nil {
			return nil, err
		}
		defer file.Close()
		from = file
	}
	return distribute.ReadInput(from)
}

// canonical writes the target's host as the proxy would have understood it.
func canonical(input map[string]any) error {
	for _, name := range []string{"target", "asked"} {
		object, _ := input[name].(map[string]any)
		text, _ := object["host"].(string)
		if text == "" {
			continue
		}
		host, err := target.Parse(text)
		if err != nil {
			return fmt.Errorf("input.%s.host: %w", name, err)
		}
		object["host"] = host.String()
	}
	return nil
}

// put sets a fact below objects that are made where they are missing.
func put(input map[string]any, value any, path ...string) {
	for _, name := range path[:len(path)-1] {
		below, ok := input[name].(map[string]any)
		if !ok {
			below = map[string]any{}
			input[name] = below
		}
		input = below
	}
	input[path[len(path)-1]] = value
}

func (q *question) setTime(c *cobra.Command, _ policy.Stage, input map[string]any) error {
	at := time.Now()
	if q.time != "" {
		var err error
		if at, err = time.Parse(time.RFC3339, q.time); err != nil {
			return fmt.Errorf(`--time: %q is not a time such as "2026-03-01T09:30:00Z"`, q.time)
		}
	}
	if _, given := input["time"]; !given || c.Flag("time").Changed {
		put(input, int64(policy.MinuteOf(at)), "time")
	}
	return nil
}

func (q *question) setSource(c *cobra.Command, stage policy.Stage, input map[string]any) error {
	if q.source != "" {
		ip, err := netip.ParseAddr(q.source)
		from := netip.AddrPortFrom(ip, 0)
		if err != nil {
			if from, err = netip.ParseAddrPort(q.source); err != nil {
				return fmt.Errorf("--source: %q is not an IP address, with or without a port", q.source)
			}
		}
		path := []string{"source"}
		if stage == policy.Manage {
			path = []string{"api", "source"}
		}
		for _, follows := range []string{"family", "prefixes", "scope", "geo"} {
			remove(input, append(path, follows)...)
		}
		put(input, from.Addr().Unmap().WithZone("").String(), append(path, "ip")...)
		put(input, int64(from.Port()), append(path, "port")...)
	}
	if q.listener != "" {
		put(input, q.listener, "session", "listener")
	}
	if q.protocol != "" {
		if !slices.Contains([]string{"socks5", "socks4", "http"}, q.protocol) {
			return fmt.Errorf("--protocol: want socks5, socks4 or http, got %q", q.protocol)
		}
		put(input, q.protocol, "session", "protocol")
	}
	return nil
}

// remove takes a fact away, so that it follows from the others.
func remove(input map[string]any, path ...string) {
	for _, name := range path[:len(path)-1] {
		input, _ = input[name].(map[string]any)
	}
	delete(input, path[len(path)-1])
}

func (q *question) setTarget(c *cobra.Command, stage policy.Stage, input map[string]any) error {
	var literal netip.Addr
	if q.target != "" {
		host, port, err := endpoint("target", q.target)
		if err != nil {
			return err
		}
		literal = host.IP
		input["target"] = map[string]any{"host": host.String(), "port": port}
		delete(input, "asked") // it is the target, unless it is said
		if request, _ := input["request"].(map[string]any); request["command"] == nil {
			put(input, "connect", "request", "command")
		}
	}
	if q.asked != "" {
		host, port, err := endpoint("asked", q.asked)
		if err != nil {
			return err
		}
		input["asked"] = map[string]any{"host": host.String(), "port": port}
	}
	if q.command != "" {
		commands := []string{"connect", "bind", "associate", "datagram", "forward"}
		if !slices.Contains(commands, q.command) {
			return fmt.Errorf("--command: want %s, got %q", strings.Join(commands, ", "), q.command)
		}
		put(input, q.command, "request", "command")
	}
	switch {
	case q.address != "":
		ip, err := netip.ParseAddr(q.address)
		if err != nil {
			return fmt.Errorf("--address: %q is not an IP address", q.address)
		}
		input["address"] = map[string]any{"ip": ip.Unmap().WithZone("").String()}
	case stage == policy.Dial && literal.IsValid():
		input["address"] = map[string]any{"ip": literal.String()}
	}
	if len(q.names) > 0 {
		var names []any
		for _, name := range q.names {
			names = append(names, name)
		}
		put(input, names, "address", "names")
	}
	return nil
}

// endpoint reads a flag's HOST:PORT, the host in any spelling that a client may use.
func endpoint(flag, text string) (target.Host, int64, error) {
	name, portText, err := net.SplitHostPort(text)
	if err != nil {
		return target.Host{}, 0, fmt.Errorf("--%s: %q is not HOST:PORT", flag, text)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return target.Host{}, 0, fmt.Errorf("--%s: %q is not a port from 0 to 65535", flag, portText)
	}
	host, err := target.Parse(name)
	if err != nil {
		return target.Host{}, 0, fmt.Errorf("--%s: %w", flag, err)
	}
	return host, int64(port), nil
}

func (q *question) setUpstreams(_ *cobra.Command, _ policy.Stage, input map[string]any) error {
	for _, text := range q.upstreams {
		name, facts, given := strings.Cut(text, "=")
		upstream := map[string]any{}
		if given {
			var err error
			if upstream, err = distribute.ReadInput(strings.NewReader(facts)); err != nil {
				return fmt.Errorf("--upstream: %s: %w", name, err)
			}
		}
		if _, told := upstream["healthy"]; !told {
			upstream["healthy"] = true
		}
		if name == "" {
			return fmt.Errorf("--upstream: want NAME or NAME=JSON, got %q", text)
		}
		put(input, upstream, "upstreams", name)
	}
	return nil
}

func (q *question) setCall(_ *cobra.Command, _ policy.Stage, input map[string]any) error {
	if q.call != "" {
		method, rest, _ := strings.Cut(q.call, " ")
		at, err := url.Parse(rest)
		if err != nil || !strings.HasPrefix(at.Path, "/") {
			return fmt.Errorf("--call: want 'METHOD /PATH', got %q", q.call)
		}
		segments, query := []any{}, map[string]any{}
		for segment := range strings.SplitSeq(strings.Trim(at.Path, "/"), "/") {
			if segment != "" {
				segments = append(segments, segment)
			}
		}
		for name, values := range at.Query() {
			list := []any{}
			for _, v := range values {
				list = append(list, v)
			}
			query[name] = list
		}
		put(input, method, "api", "method")
		put(input, segments, "api", "path")
		put(input, query, "api", "query")
	}
	if q.caller != "" {
		put(input, q.caller, "api", "token", "name")
	}
	if len(q.roles) > 0 {
		put(input, list(q.roles), "api", "token", "roles")
	}
	return nil
}

func list(texts []string) []any {
	out := make([]any, len(texts))
	for i := range texts {
		out[i] = texts[i]
	}
	return out
}
