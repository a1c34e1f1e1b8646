// Package config is what the operator decides before the first client comes: where to listen, which policies to load,
// what bounds hold. Who may do what is not decided here; that is the policy's.
//
// One typed struct, [Config], says all of it. [Load] fills it in this order, the later over the earlier: the defaults,
// one file (YAML, TOML or JSON), SALLYPORT_ environment variables, KEY=VALUE settings, the flags that have a name of
// their own. Each of these is first read into the same small tree (see node) in which every key and value knows where
// it was written, so that a problem can be told with its file and line whatever the format. Viper then settles which
// source wins for every setting that has a fixed name. It is not given the maps whose keys the operator chooses (tokens,
// bundle roots, OPA's own configuration), since it would lower-case those keys and split them at dots; they are merged
// key by key in the tree.
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
	Listeners  []Listener          `key:"listeners" doc:"where clients connect"`
	Policy     Policy              `key:"policy" doc:"which policies decide, and within which bounds"`
	GeoIP      GeoIP               `key:"geoip" doc:"where addresses are"`
	Upstreams  map[string]Upstream `key:"upstreams" doc:"proxies that a policy can lead sessions through, by the names that it uses"`
	State      State               `key:"state" doc:"what outlives a restart"`
	Limits     Limits              `key:"limits" doc:"ceilings that hold whatever a policy says"`
	Management Management          `key:"management" doc:"the management API"`
	DNS        DNS                 `key:"dns" doc:"how names of targets are resolved"`
	Log        Log                 `key:"log" doc:"the program's log and session records"`
	Telemetry  Telemetry           `key:"telemetry" doc:"metrics; what goes to an OpenTelemetry collector is set by the standard OTEL_… variables, see [Telemetry](telemetry.md)"`
	Shutdown   Shutdown            `key:"shutdown" doc:"how the server stops"`

	// origins says where each key was written, by the path that Problem.Key shows; keys that stand at their default are
	// missing. It is only read after Load.
	origins map[string]origin

	identities *secret.Identities
}

// Listener is one address at which clients connect.
type Listener struct {
	Name      string   `key:"name" doc:"the name that policies see as input.session.listener; of the next ones listener-2, listener-3, ..."`
	Address   string   `key:"address" doc:"IP:PORT or localhost:PORT (127.0.0.1); :PORT is every address of this machine, port 0 a free port; or unix:PATH"`
	Mode      string   `key:"mode" doc:"of a unix socket's file, in quotes and octal: who may write to it may connect; empty: 0600, the server's own user"`
	Protocols []string `key:"protocols" doc:"which of socks5, socks4 (with 4A) and http are spoken here, told apart by the first byte; without the key all of them"`
	UDP       Door     `key:"udp" doc:"where clients of this listener send the datagrams of a UDP association; by default to the address that they have connected to"`
	Bind      Door     `key:"bind" doc:"where the peers of a SOCKS BIND connect to; by default to the address from which this machine reaches the peer"`

	TLS           *TLS           `key:"tls" doc:"TLS with the clients, of every protocol that is spoken here; certificates are read again when their files change"`
	ProxyProtocol *ProxyProtocol `key:"proxy_protocol" doc:"whom the load balancers before it speak for"`
}

// Door is where something comes in that a client has asked for.
type Door struct {
	Advertise []netip.Addr `key:"advertise" doc:"the address that clients are told instead of this machine's, such as that of a NAT or of a container's host; one for IPv4, one for IPv6, or both"`
	Ports     Ports        `key:"ports" doc:"a range such as 40000-40100; empty: any port that is free"`
}

// TLS says what is shown of the server and asked of its clients. All files are PEM, relative to the working directory.
type TLS struct {
	Cert       string `key:"cert" doc:"file of the certificate, and of those between it and its root"`
	Key        string `key:"key" doc:"file of its private key"`
	ClientCA   string `key:"client_ca" doc:"file of the authorities whose client certificates are accepted; empty: clients are asked for none"`
	ClientAuth string `key:"client_auth" doc:"require: who shows no such certificate is turned away; optional: the policy decides; empty: require, where there is a client_ca"`
	MinVersion string `key:"min_version" doc:"1.2 or 1.3; empty: 1.2"`
}

// ProxyProtocol says who tells by haproxy's PROXY protocol, version 1 or 2, whom it speaks for.
type ProxyProtocol struct {
	Trusted []netip.Prefix `key:"trusted" doc:"addresses and networks whose connections have to begin with a PROXY header, which is believed; a header from anybody else is refused"`
}

// Policy says where policies come from and how they are run.
type Policy struct {
	Paths        []string            `key:"paths" doc:"directories, .rego files, data files and bundles (.tar.gz), relative to the working directory; none: the default policy alone"`
	Data         []string            `key:"data" doc:"JSON and YAML files that are added under data"`
	Timeout      time.Duration       `key:"timeout" doc:"how long one evaluation may take before it is a fault, at most 10s"`
	Strict       bool                `key:"strict" doc:"refuse policies that pass input on as a whole; false: warn"`
	Stages       []string            `key:"stages" doc:"stages that the policies have to define: admit, authenticate, route, dial, inspect, manage"`
	Roots        map[string][]string `key:"roots" doc:"which roots of data each bundle may own, by the bundle's name"`
	Capabilities []string            `key:"capabilities" doc:"built-ins that reach out or reveal and are allowed nevertheless: http.send, net.lookup_ip_addr, opa.runtime"`
	LogFacts     []string            `key:"log_facts" doc:"facts that are gathered and logged even where no policy reads them; not supported by this release"`
	OPA          map[string]any      `key:"opa" doc:"OPA's own configuration, as OPA's documentation has it: services, bundles, discovery, decision_logs, status, keys, labels, persistence_directory"`
	RunTests     bool                `key:"run_tests" doc:"the tests that come with a policy, in files as in bundles, have to pass before it is active"`
	Rollback     string              `key:"rollback" doc:"what becomes of a bundle that is older than the one before it: refuse or allow. Older is a lower metadata.sequence in its manifest, else a lower integer revision, else one that was active before"`
	MaxAge       time.Duration       `key:"max_age" doc:"how old what the bundle servers said last may get before no request is allowed any more; 0s: any age"`
	Deltas       bool                `key:"deltas" doc:"accept delta bundles, which change the data of the bundle before"`
	Audit        string              `key:"audit" doc:"the file that records which policies were active and which were refused; empty: sallyport-audit.jsonl beside the state file"`
	DecisionLog  DecisionLog         `key:"decision_log" doc:"what the decision log may cost; where it goes is policy.opa.decision_logs"`
}

// What becomes of a bundle that is older than the one before it.
const (
	Refuse = "refuse"
	Allow  = "allow"
)

// DecisionLog is what the decision log may cost. Where it goes is OPA's own configuration.
type DecisionLog struct {
	WhenFull string `key:"when_full" doc:"what a decision does that finds the log's queue full: drop, so that it is missing in the log and counted, or wait for room"`
}

// What a decision does that finds the decision log full.
const (
	Drop = "drop"
	Wait = "wait"
)

// GeoIP says by which databases addresses are located.
type GeoIP struct {
	Databases []string `key:"databases" doc:"files in MaxMind's DB format (.mmdb), relative to the working directory, together at most half of limits.memory; of each fact the first that knows it has the word"`
}

// State is what outlives a restart.
type State struct {
	Path  string `key:"path" doc:"the file of what outlives a restart, relative to the working directory; made with mode 0600, of one process at a time; a management token that is made lies beside it"`
	Usage Usage  `key:"usage" doc:"what is kept of who has used what, see [Usage](usage.md)"`
}

// Usage is what is kept of who has used what.
type Usage struct {
	Retention time.Duration `key:"retention" doc:"how long the hours are kept that reports are made of: full hours, from 1h to 43800h, which is five years"`
	Rows      int           `key:"rows" doc:"how many users, targets, countries, ways through upstreams and sets of labels have a row of their own in an hour, those that have used most; from 10 to 2000"`
}

// Limits are ceilings: a policy may ask for less, never for more.
type Limits struct {
	Connections int           `key:"connections" doc:"client connections open at once"`
	Memory      Bytes         `key:"memory" doc:"what the process stays below, at least 32MiB: near it nothing new begins, and what is there goes on"`
	Handshake   time.Duration `key:"handshake" doc:"how long the whole handshake may take, at most 30s"`
	Handshakes  int           `key:"handshakes" doc:"clients of one source that may be in their handshake at once, TLS included; the next one is hung up on; 0: any number"`
	Dial        time.Duration `key:"dial" doc:"how long reaching a target may take, name resolution included"`
	Idle        time.Duration `key:"idle" doc:"how long a session may carry no byte either way"`
	Bind        time.Duration `key:"bind" doc:"how long a SOCKS BIND may wait for its peer"`
	Flows       int           `key:"flows" doc:"destinations that a UDP association remembers; the one that is unused for longest makes room for another"`
	FlowsTotal  int           `key:"flows_total" doc:"destinations of all UDP associations; beyond them an association forgets its own"`
	FlowIdle    time.Duration `key:"flow_idle" doc:"how long a UDP destination is remembered without a datagram either way; until then its answers reach the client"`
}

// Management is the management API.
type Management struct {
	Address string           `key:"address" doc:"IP:PORT or localhost:PORT of the management API, or unix:PATH"`
	Mode    string           `key:"mode" doc:"as of a listener"`
	TLS     *TLS             `key:"tls" doc:"as of a listener"`
	Tokens  map[string]Token `key:"tokens" doc:"who may call it, by the token's name"`
}

// Token is one caller of the management API.
type Token struct {
	Token secret.String `key:"token" doc:"sent as Authorization: Bearer; at least 16 visible ASCII characters"`
	Roles []string      `key:"roles" doc:"what the policy sees as input.api.token.roles"`
}

// DNS says how names of targets are resolved.
type DNS struct {
	Servers   []NameServer            `key:"servers" doc:"name servers, asked in this order: IP or IP:PORT (or udp://IP), tcp://IP, tls://IP#NAME or https://IP/PATH#NAME, where NAME is whom the certificate has to name; or tls://NAME or https://NAME/PATH with its addresses in bootstrap. None: those of /etc/resolv.conf"`
	Bootstrap map[string][]netip.Addr `key:"bootstrap" doc:"the addresses of servers that are given by their names, by name: nothing is looked up to reach a name server"`
	CA        string                  `key:"ca" doc:"a PEM file with the authorities that may vouch for servers of tls:// and https://; empty: the system's"`
	Family    string                  `key:"family" doc:"which addresses of a name are looked up, and which are tried first: any (IPv6 first where this machine has a way there), prefer_ipv4, prefer_ipv6, ipv4 or ipv6"`
	Timeout   time.Duration           `key:"timeout" doc:"how long one server may take for one question, at most 10s; one that is silent is asked twice, with the others in between"`
	Cache     DNSCache                `key:"cache" doc:"what is remembered of answers"`
}

// DNSCache says what is remembered of answers.
type DNSCache struct {
	Entries     int           `key:"entries" doc:"answers that are remembered, at most 1000000; a name has one for each family; 0: none"`
	MinTTL      time.Duration `key:"min_ttl" doc:"how long an answer is remembered at least, whatever it says itself; at most 1h"`
	MaxTTL      time.Duration `key:"max_ttl" doc:"and at most; at most 24h"`
	NegativeTTL time.Duration `key:"negative_ttl" doc:"how long it is remembered at most that a name does not exist or has no address; at most 1h"`
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
		Listeners: []Listener{{Name: "main", Address: "127.0.0.1:1080", Protocols: defaultProtocols()}},
		Policy:    Policy{Timeout: 500 * time.Millisecond, Strict: true, Rollback: Refuse, DecisionLog: DecisionLog{WhenFull: Drop}},
		State:     State{Path: "sallyport.db", Usage: Usage{Retention: 90 * 24 * time.Hour, Rows: 1000}},
		Limits: Limits{Connections: 10000, Memory: 1 << 30, Handshake: 10 * time.Second, Handshakes: 2500, Dial: 15 * time.Second, Idle: 10 * time.Minute,
			Bind: 2 * time.Minute, Flows: 512, FlowsTotal: 65536, FlowIdle: 5 * time.Minute},
		Management: Management{Address: "127.0.0.1:9080"},
		DNS: DNS{Family: "any", Timeout: 2 * time.Second,
			Cache: DNSCache{Entries: 10000, MaxTTL: time.Hour, NegativeTTL: 5 * time.Minute}},
		Log:       Log{Level: "info", Format: "json"},
		Telemetry: Telemetry{Prometheus: true},
		Shutdown:  Shutdown{Grace: 30 * time.Second},
	}
}

func defaultProtocols() []string { return []string{SOCKS5, SOCKS4, HTTP} }
