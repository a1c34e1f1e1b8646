// Package config is what the operator decides before the first client comes: where to listen, which policies to load,
// what bounds hold. Who may do what is not decided here; that is the policy's.
//
// One typed struct, [Config], says all of it. [Load] fills it in this order, the later over the earlier: the defaults,
// one file (YAML, TOML or JSON), SALLYPORT_ environment variables, KEY=VALUE settings, the flags that have a name of
// their own. Each of these is first read into the same small tree (see node) in which every key and value knows where
// it was written, so that a problem can be told with its file and line whatever the format. Viper then settles which
// source wins for every setting that has a fixed name. It is not given the maps whose keys the operator chooses (tokens,
// bundle roots), since it would lower-case those keys and split them at dots; they are merged key by key in the tree.
//
// Nothing is ignored: a key that is not known, a type that does not fit, a variable that is not set, and a setting of
// the documented configuration that this release does not implement yet are all problems, and all of them are reported
// at once. [Validate] then judges the values; it is pure. A configuration that is shown to anybody is shown by
// [Config.Redacted].
package config

import (
	"net/netip"
	"time"

	"sallyport/proxy/secret"
)

// Protocols that a listener of this release speaks.
const (
	SOCKS5 = "socks5" // RFC 1928
	SOCKS4 = "socks4" // and 4A
	HTTP   = "http"   // HTTP/1.1: CONNECT, and requests for http://
)

// Config is the whole configuration. The zero value is not usable; start from [Default] or [Load].
type Config struct {
	Listeners  []Listener `key:"listeners" doc:"where clients connect"`
	Policy     Policy     `key:"policy" doc:"which policies decide, and within which bounds"`
	GeoIP      GeoIP      `key:"geoip" doc:"where addresses are"`
	State      State      `key:"state" doc:"what outlives a restart"`
	Limits     Limits     `key:"limits" doc:"ceilings that hold whatever a policy says"`
	Management Management `key:"management" doc:"the management API"`
	DNS        DNS        `key:"dns" doc:"how names of targets are resolved"`
	Log        Log        `key:"log" doc:"the program's log and session records"`
	Telemetry  Telemetry  `key:"telemetry" doc:"metrics; what goes to an OpenTelemetry collector is set by the standard OTEL_… variables, see [Telemetry](telemetry.md)"`
	Shutdown   Shutdown   `key:"shutdown" doc:"how the server stops"`

	// origins says where each key was written, by the path that Problem.Key shows; keys that stand at their default are
	// missing. It is only read after Load.
	origins map[string]origin
}

// Listener is one address at which clients connect.
type Listener struct {
	Name      string   `key:"name" doc:"the name that policies see as input.session.listener; of the next ones listener-2, listener-3, ..."`
	Address   string   `key:"address" doc:"IP:PORT; :PORT is every address of this machine, port 0 a free port"`
	Protocols []string `key:"protocols" doc:"which of socks5, socks4 (with 4A) and http are spoken here, told apart by the first byte"`
}

// Policy says where policies come from and how they are run.
type Policy struct {
	Paths        []string            `key:"paths" doc:"directories, .rego files, data files and bundles (.tar.gz), relative to the working directory; none: the default policy alone"`
	Data         []string            `key:"data" doc:"JSON and YAML files that are added under data"`
	Timeout      time.Duration       `key:"timeout" doc:"how long one evaluation may take before it is a fault, at most 10s"`
	Strict       bool                `key:"strict" doc:"refuse policies that pass input on as a whole; false: warn"`
	Stages       []string            `key:"stages" doc:"stages that the policies have to define: admit, authenticate, route, dial, manage"`
	Roots        map[string][]string `key:"roots" doc:"which roots of data each bundle may own, by the bundle's name"`
	Capabilities []string            `key:"capabilities" doc:"built-ins that reach out or reveal and are allowed nevertheless: http.send, net.lookup_ip_addr, opa.runtime"`
	LogFacts     []string            `key:"log_facts" doc:"facts that are gathered and logged even where no policy reads them; not supported by this release"`
	OPA          OPA                 `key:"opa" doc:"OPA's own configuration"`
}

// OPA is the part of OPA's own configuration that this release passes on.
type OPA struct {
	DecisionLogs DecisionLogs `key:"decision_logs" doc:"where decisions are logged"`
}

// DecisionLogs says where decision-log events go.
type DecisionLogs struct {
	Console bool `key:"console" doc:"write each decision as one JSON event a line to standard output"`
}

// GeoIP says by which databases addresses are located.
type GeoIP struct {
	Databases []string `key:"databases" doc:"files in MaxMind's DB format (.mmdb), relative to the working directory, together at most half of limits.memory; of each fact the first that knows it has the word"`
}

// State is what outlives a restart.
type State struct {
	Path string `key:"path" doc:"the state file, relative to the working directory; a management token that is made lies beside it"`
}

// Limits are ceilings: a policy may ask for less, never for more.
type Limits struct {
	Connections int           `key:"connections" doc:"client connections open at once"`
	Memory      Bytes         `key:"memory" doc:"what the process aims to stay below, at least 32MiB"`
	Handshake   time.Duration `key:"handshake" doc:"how long the whole handshake may take, at most 30s"`
	Dial        time.Duration `key:"dial" doc:"how long reaching a target may take, name resolution included"`
	Idle        time.Duration `key:"idle" doc:"how long a session may carry no byte either way"`
}

// Management is the management API.
type Management struct {
	Address string           `key:"address" doc:"IP:PORT of the management API"`
	Tokens  map[string]Token `key:"tokens" doc:"who may call it, by the token's name"`
}

// Token is one caller of the management API.
type Token struct {
	Token secret.String `key:"token" doc:"sent as Authorization: Bearer; at least 16 visible ASCII characters"`
	Roles []string      `key:"roles" doc:"what the policy sees as input.api.token.roles"`
}

// DNS says how names of targets are resolved.
type DNS struct {
	Servers []netip.AddrPort `key:"servers" doc:"name servers, IP or IP:PORT (port 53); none: the system's"`
}

// Log is the program's log, session records included.
type Log struct {
	Level  string `key:"level" doc:"debug, info, warn or error"`
	Format string `key:"format" doc:"json or text"`
	File   string `key:"file" doc:"where the log goes; empty: standard error"`
}

// Telemetry says what is measured.
type Telemetry struct {
	Prometheus bool `key:"prometheus" doc:"serve GET /metrics on the management address"`
}

// Shutdown says how the server stops.
type Shutdown struct {
	Grace time.Duration `key:"grace" doc:"how long sessions may finish after TERM or INT"`
}

// Default is the configuration of a server that was told nothing.
func Default() *Config {
	return &Config{
		Listeners:  []Listener{{Name: "main", Address: "127.0.0.1:1080", Protocols: defaultProtocols()}},
		Policy:     Policy{Timeout: 500 * time.Millisecond, Strict: true},
		State:      State{Path: "sallyport.db"},
		Limits:     Limits{Connections: 10000, Memory: 1 << 30, Handshake: 10 * time.Second, Dial: 15 * time.Second, Idle: 10 * time.Minute},
		Management: Management{Address: "127.0.0.1:9080"},
		Log:        Log{Level: "info", Format: "json"},
		Telemetry:  Telemetry{Prometheus: true},
		Shutdown:   Shutdown{Grace: 30 * time.Second},
	}
}

func defaultProtocols() []string { return []string{SOCKS5, SOCKS4, HTTP} }
