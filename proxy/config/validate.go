package config

import (
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/proxy/secret"
)

// Validate judges the values of a configuration and reports everything that is wrong with them. It does no I/O: whether
// a policy loads or an address is free shows later.
func Validate(c *Config) Problems {
	v := validator{config: c}
	v.addresses()
	v.policy()
	v.databases("geoip.databases", c.GeoIP.Databases)
	v.limits()
	v.tokens()
	v.upstreams()
	v.nonEmpty("state.path", c.State.Path)
	v.usage()
	v.dns()
	v.oneOf("log.level", c.Log.Level, []string{"debug", "info", "warn", "error"})
	v.oneOf("log.format", c.Log.Format, []string{"json", "text"})
	return v.problems
}

type validator struct {
	config   *Config
	problems Problems
}

// add reports a problem where its key was written, or else where the nearest key above was.
func (v *validator) add(key, format string, arguments ...any) {
	v.problems.add(v.config.origin(key), key, format, arguments...)
}

// Problem is what is wrong with a value that was loaded, for those who judge what only they understand. The key is
// written as in [Problem.Key]. In the message a value that is a secret, such as the name
// of a file that came out of ${env:NAME}, is called as it was written.
func (c *Config) Problem(key, message string) Problem {
	at := c.origin(key)
	return Problem{File: at.file, Line: at.line, Column: at.column, Key: key, Message: at.hide(message)}
}

// origin is where a key was written, or else the nearest key above it.
func (c *Config) origin(key string) origin {
	at, known := c.origins[key]
	for above := key; !known && strings.ContainsAny(above, ".["); at, known = c.origins[above] {
		above = above[:strings.LastIndexAny(above, ".[")]
	}
	return at
}

// show quotes a value for a message, unless it came out of ${env:}, ${file:} or an encrypted file.
func (v *validator) show(key, value string) string {
	if at := v.config.origins[key]; at.secret || at.sealed {
		return secret.Redacted
	}
	return quote(value)
}

func (v *validator) nonEmpty(key, value string) {
	if value == "" {
		v.add(key, "must not be empty")
	}
}

func (v *validator) noneEmpty(key string, values []string) {
	for i, value := range values {
		v.nonEmpty(index(key, i), value)
	}
}

// databases are told apart by the names of their files where there is a metric of each.
func (v *validator) databases(key string, paths []string) {
	v.noneEmpty(key, paths)
	for i, path := range paths {
		first := slices.IndexFunc(paths, func(other string) bool { return filepath.Base(other) == filepath.Base(path) })
		if first < i && path != "" {
			v.add(index(key, i), "has the same file name as %s, and metrics tell databases apart by it", index(key, first))
		}
	}
}

func (v *validator) oneOf(key, value string, known []string) {
	if !slices.Contains(known, value) {
		v.add(key, "want %s, got %s%s", orList(known), v.show(key, value), v.suggest(key, value, known))
	}
}

// suggest keeps a near miss to itself where the value is a secret, for it would tell most of it.
func (v *validator) suggest(key, value string, known []string) string {
	if at := v.config.origins[key]; at.secret || at.sealed {
		return ""
	}
	return didYouMean(value, known)
}

func orList(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// addresses judges the listeners and the management address, which must not be in each other's way.
func (v *validator) addresses() {
	if len(v.config.Listeners) == 0 {
		v.add("listeners", "want at least one listener")
	}
	names := map[string]string{}
	var taken []bound
	for i, listener := range v.config.Listeners {
		key := index("listeners", i)
		v.nonEmpty(key+".name", listener.Name)
		if first, twice := names[listener.Name]; twice && listener.Name != "" {
			v.add(key+".name", "%s is the name of %s already", v.show(key+".name", listener.Name), first)
		} else {
			names[listener.Name] = key
		}
		taken = v.address(key, key+".address", listener.Address, taken)
		v.mode(key+".mode", listener.Mode, listener.Address)
		v.protocols(key+".protocols", listener.Protocols)
		v.door(key+".udp", listener.UDP)
		v.door(key+".bind", listener.Bind)
		v.tls(key+".tls", listener.TLS)
		v.proxyProtocol(key+".proxy_protocol", &listener)
	}
	v.address("management", "management.address", v.config.Management.Address, taken)
	v.tls("management.tls", v.config.Management.TLS)
	v.mode("management.mode", v.config.Management.Mode, v.config.Management.Address)
}

func (v *validator) protocols(key string, protocols []string) {
	if len(protocols) == 0 {
		v.add(key, "want at least one protocol; without the key all are spoken")
	}
	for i, protocol := range protocols {
		switch key := index(key, i); {
		case slices.Contains(protocols[:i], protocol):
			v.add(key, "%s is named twice", v.show(key, protocol))
		default:
			v.oneOf(key, protocol, defaultProtocols())
		}
	}
}

// door judges what clients are told of a place: an address that packets can be sent to, and one of each family at most.
func (v *validator) door(key string, d Door) {
	for i, ip := range d.Advertise {
		key := index(key+".advertise", i)
		sameFamily := func(other netip.Addr) bool { return other.Is4() == ip.Is4() }
		switch {
		case !ip.IsValid(): // a problem already
		case ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "":
			v.add(key, "nobody can send to %s", v.show(key, ip.String()))
		case slices.ContainsFunc(d.Advertise[:i], sameFamily):
			v.add(key, "want one address of each family, got a second")
		}
	}
}

// bound is an address that is listened on, and by whom.
type bound struct {
	owner string
	at    netip.AddrPort // of a unix socket the zero value
	path  string         // of a unix socket
}

// address judges one address against those taken, and returns them with this one.
func (v *validator) address(owner, key, text string, taken []bound) []bound {
	switch {
	case text == "":
		v.add(key, "want IP:PORT; there is none")
		return taken
	case strings.HasPrefix(text, "unix:"):
		return v.socket(owner, key, strings.TrimPrefix(text, "unix:"), taken)
	}
	at, wrong := listenAddress(text)
	if wrong != "" {
		v.add(key, "%s, got %s", wrong, v.show(key, text))
		return taken
	}
	for _, other := range taken {
		// On an address of all families and interfaces the port is taken for each of them.
		overlap := other.path == "" && (other.at.Addr() == at.Addr() || other.at.Addr().IsUnspecified() || at.Addr().IsUnspecified())
		if overlap && at.Port() == other.at.Port() && at.Port() != 0 {
			v.add(key, "%s listens on that address already", other.owner)
			break
		}
	}
	return append(taken, bound{owner: owner, at: at})
}

// listenAddress reads IP:PORT, :PORT and localhost:PORT, or says what was wanted. Other names are refused: which address
// a server listens on should not depend on a resolver.
func listenAddress(text string) (at netip.AddrPort, wrong string) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return at, "want IP:PORT"
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return at, "want a port from 0 to 65535"
	}
	ip := netip.IPv6Unspecified()
	switch host {
	case "":
	case "localhost":
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		if ip, err = netip.ParseAddr(host); err != nil {
			return at, "want an IP address before the port"
		}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), ""
}

func (v *validator) policy() {
	policy := v.config.Policy
	v.duration("policy.timeout", policy.Timeout, 10*time.Second)
	v.noneEmpty("policy.paths", policy.Paths)
	v.noneEmpty("policy.data", policy.Data)
	v.noneEmpty("policy.log_facts", policy.LogFacts)
	for i, stage := range policy.Stages {
		v.oneOf(index("policy.stages", i), stage, []string{"admit", "authenticate", "route", "dial", "inspect", "manage"})
	}
	for i, capability := range policy.Capabilities {
		v.oneOf(index("policy.capabilities", i), capability, []string{"http.send", "net.lookup_ip_addr", "opa.runtime"})
	}
	v.oneOf("policy.rollback", policy.Rollback, []string{Refuse, Allow})
	v.oneOf("policy.decision_log.when_full", policy.DecisionLog.WhenFull, []string{Drop, Wait})
	if policy.MaxAge < 0 {
		v.add("policy.max_age", "must not be negative")
	}
	for _, bundle := range slices.Sorted(maps.Keys(policy.Roots)) {
		key := join("policy.roots", bundle)
		if bundle == "" {
			v.add(key, "a bundle's name must not be empty")
		}
		v.noneEmpty(key, policy.Roots[bundle])
	}
}

func (v *validator) limits() {
	limits := v.config.Limits
	if limits.Connections <= 0 {
		v.add("limits.connections", "must be greater than zero")
	}
	if least := Bytes(32 << 20); limits.Memory < least {
		v.add("limits.memory", "must be at least %v", least)
	}
	const unbounded = time.Duration(1<<63 - 1)
	v.duration("limits.handshake", limits.Handshake, 30*time.Second)
	v.duration("limits.dial", limits.Dial, unbounded)
	v.duration("limits.idle", limits.Idle, unbounded)
	v.duration("limits.bind", limits.Bind, unbounded)
	v.duration("limits.flow_idle", limits.FlowIdle, unbounded)
	if limits.Flows <= 0 {
		v.add("limits.flows", "must be greater than zero")
	}
	if limits.Handshakes < 0 {
		v.add("limits.handshakes", "must not be negative")
	}
	if limits.FlowsTotal < limits.Flows {
		v.add("limits.flows_total", "must be at least limits.flows, %d", limits.Flows)
	}
	if v.config.Shutdown.Grace < 0 {
		v.add("shutdown.grace", "must not be negative")
	}
}

func (v *validator) duration(key string, value, most time.Duration) {
	switch {
	case value <= 0:
		v.add(key, "must be longer than zero")
	case value > most:
		v.add(key, "must be at most %v", most)
	}
}

// tokens judges the management API's tokens; no message holds a token.
func (v *validator) tokens() {
	const shortest = 16
	tokens := v.config.Management.Tokens
	holders := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(tokens)) {
		key := join("management.tokens", name)
		if name == "" {
			v.add(key, "a token's name must not be empty")
		}
		token := tokens[name].Token
		notVisible := func(r rune) bool { return r <= ' ' || r > '~' }
		switch {
		case len(token.Reveal()) < shortest:
			v.add(key+".token", "want a token of at least %d characters", shortest)
		case strings.ContainsFunc(token.Reveal(), notVisible):
			v.add(key+".token", "want visible ASCII characters only, since it travels in an HTTP header")
		}
		if other, twice := holders[token.Reveal()]; twice && !token.IsZero() {
			v.add(key+".token", "the same token as that of %s", join("management.tokens", other))
		} else {
			holders[token.Reveal()] = name
		}
		v.noneEmpty(key+".roles", tokens[name].Roles)
	}
}

func (v *validator) usage() {
	u := &v.config.State.Usage
	const most = 5 * 365 * 24 * time.Hour
	if u.Retention < time.Hour || u.Retention > most || u.Retention%time.Hour != 0 {
		v.add("state.usage.retention", "want full hours, from 1h to 43800h, got %s", v.show("state.usage.retention", u.Retention.String()))
	}
	if u.Rows < 10 || u.Rows > 2000 {
		v.add("state.usage.rows", "want 10 to 2000, got %s", v.show("state.usage.rows", strconv.Itoa(u.Rows)))
	}
}
