package policy

import "net/netip"

// Facts is everything that the proxy knows when it asks. One value serves a
// whole connection: it is filled in as the connection goes on, and each stage
// sees the part that is declared for it.
//
// Tags of a field:
//
//	fact     its name in `input`
//	stages   the stages that have it; without the tag, those of the enclosing field
//	values   the texts that it is, besides empty, where they are a closed list
//	spelled  how a text is spelt, where it may be anything: host or country
//	secret   it enters an input but never a log
//	doc      what it tells, for the schema
type Facts struct {
	Time        Minute              `fact:"time" stages:"admit authenticate route dial inspect manage" doc:"nanoseconds since 1970, truncated to the minute"`
	Session     Session             `fact:"session" stages:"admit authenticate route dial inspect" doc:"the client's connection"`
	Source      Source              `fact:"source" stages:"admit authenticate route dial inspect" doc:"where the client connects from"`
	Credentials Credentials         `fact:"credentials" stages:"authenticate" doc:"what the client presented, and what the user directory says of it"`
	Identity    Identity            `fact:"identity" stages:"route dial inspect" doc:"who the client is, as authenticate left it"`
	Request     Request             `fact:"request" stages:"authenticate route dial inspect" doc:"what the client asks for; in authenticate only of HTTP clients"`
	Target      Target              `fact:"target" stages:"route dial inspect" doc:"where the client wants to go, after any redirect"`
	Asked       Asked               `fact:"asked" stages:"dial inspect" doc:"where the client wanted to go before any redirect"`
	Address     Address             `fact:"address" stages:"dial" doc:"the address about to be dialled"`
	Flow        Flow                `fact:"flow" stages:"inspect" doc:"what the client's first bytes show"`
	Upstreams   map[string]Upstream `fact:"upstreams" stages:"route" doc:"the configured upstreams by name"`
	API         API                 `fact:"api" stages:"manage" doc:"the management call"`

	// Locator is no fact: it is asked for the geo of an address where a stage's
	// rules read it, by whoever answers the stage. Nil: geo is as it is given.
	Locator Locator

	// Client is no fact either: it is asked for the process in the same way.
	Client Client

	// Ways is none, too: it is asked for the upstreams in the same way.
	Ways Ways

	// Account is asked for the identity's usage in the same way.
	Account Account
}

// Session describes the client's connection.
type Session struct {
	ID       string `fact:"id" doc:"unique id of the session"`
	Listener string `fact:"listener" doc:"name of the listener that accepted it"`
	Started  int64  `fact:"started" doc:"when it connected, nanoseconds since 1970"`
	Protocol string `fact:"protocol" stages:"authenticate route dial inspect" values:"socks5 socks4 http" doc:"socks5, socks4 or http"`
	TLS      TLS    `fact:"tls" stages:"authenticate route dial inspect" doc:"the TLS connection to the listener"`
	Again    bool   `fact:"again" doc:"true when a live session is asked again under a new policy"`
}

// TLS describes the client's TLS connection to the listener.
type TLS struct {
	Version string `fact:"version" values:"1.2 1.3" doc:"1.2 or 1.3; empty without TLS"`
}

// Source describes where the client connects from.
type Source struct {
	IP          IP          `fact:"ip" doc:"the client's address"`
	Port        int64       `fact:"port" doc:"the client's port"`
	Family      Family      `fact:"family" values:"ipv4 ipv6" doc:"ipv4 or ipv6; empty on a unix socket"`
	Prefixes    Prefixes    `fact:"prefixes" doc:"the CIDR prefixes of the address, longest first"`
	Scope       Scope       `fact:"scope" doc:"which part of the address space it belongs to"`
	Geo         Geo         `fact:"geo" doc:"what the GeoIP databases know"`
	Certificate Certificate `fact:"certificate" stages:"authenticate route dial inspect" doc:"the client certificate, only of a verified chain"`
	Process     Process     `fact:"process" doc:"the client's process, of loopback and unix-socket clients, as far as the server may know it"`
	Open        int64       `fact:"open" doc:"other connections from here that are not closed yet"`
	Rate        Rate        `fact:"rate" doc:"connection attempts from here"`
	Failures    Window      `fact:"failures" doc:"failed authentications from here before this one"`
	Denials     Window      `fact:"denials" doc:"denied requests from here before this one"`
}

// Rate counts connection attempts over the last second and minute.
type Rate struct {
	Second int64 `fact:"second" doc:"in the last second"`
	Minute int64 `fact:"minute" doc:"in the last minute"`
}

// Window counts events over three spans.
type Window struct {
	Minute int64 `fact:"minute" doc:"in the last minute"`
	Hour   int64 `fact:"hour" doc:"in the last hour"`
	Day    int64 `fact:"day" doc:"in the last day"`
}

// Geo is what the GeoIP databases know of an address; what they do not know is
// empty. It stays empty until a stage's rules read it: see Facts.Locator.
type Geo struct {
	Country      string `fact:"country" spelled:"country" doc:"ISO 3166-1 alpha-2, in capitals"`
	Continent    string `fact:"continent" values:"AF AN AS EU NA OC SA" doc:"AF, AN, AS, EU, NA, OC or SA"`
	City         string `fact:"city" doc:"English name"`
	ASN          int64  `fact:"asn" doc:"number of the autonomous system"`
	Organization string `fact:"organization" doc:"holder of the autonomous system"`
}

// Locator says where an address is, of a valid one without zone. It may be asked
// from any goroutine and must not block.
type Locator interface {
	Locate(ip netip.Addr) Geo
}

// Certificate is a client certificate whose chain has been verified.
type Certificate struct {
	Subject           Subject  `fact:"subject" doc:"distinguished name of the holder"`
	Issuer            string   `fact:"issuer" doc:"distinguished name of the issuer"`
	DNSNames          []string `fact:"dns_names" doc:"subject alternative names: DNS"`
	URIs              []string `fact:"uris" doc:"subject alternative names: URIs, such as SPIFFE ids"`
	NotAfter          int64    `fact:"not_after" doc:"end of validity, nanoseconds since 1970, at most 9223372036854775807"`
	FingerprintSHA256 string   `fact:"fingerprint_sha256" doc:"hex SHA-256 of the DER form"`
}

// Subject is a certificate's distinguished name.
type Subject struct {
	CommonName         string   `fact:"common_name" doc:"CN"`
	Organization       []string `fact:"organization" doc:"O"`
	OrganizationalUnit []string `fact:"organizational_unit" doc:"OU"`
}

// Client says which process the client is. It may be asked from any goroutine,
// takes no longer than a part of a second, and always says the same.
type Client interface {
	Process() Process
}

// Process is a local client's process, empty until a stage's rules read it: see
// Facts.Client. A zero PID is a process that is not known, whose UID may be.
type Process struct {
	PID int64  `fact:"pid" doc:"process id; 0 where it is not known"`
	UID int64  `fact:"uid" doc:"user id; 0 is root only where pid is not 0"`
	Exe string `fact:"exe" doc:"path of the executable, as the process itself sees it"`
}

// Credentials is what the client presented.
type Credentials struct {
	Method     string     `fact:"method" values:"password none certificate certificate+password" doc:"password, none, certificate or certificate+password"`
	Username   string     `fact:"username" doc:"as presented; of SOCKS4 the user id, with the method none"`
	Known      bool       `fact:"known" doc:"the user directory has that name"`
	Verified   bool       `fact:"verified" doc:"the secret is right, and the user neither disabled nor expired"`
	Groups     []string   `fact:"groups" doc:"the user's groups; only when verified"`
	Attributes Attributes `fact:"attributes" doc:"the user's attributes; only when verified"`
	Failures   Window     `fact:"failures" doc:"failed authentications under that user name before this one"`
	Token      string     `fact:"token" secret:"true" doc:"a JWT given as password or as Bearer; empty where it does not have a JWT's form"`
}

// Identity is who the client is.
type Identity struct {
	Name       string     `fact:"name" doc:"the user's name, or the user id of SOCKS4, which nothing proves: its method is none; empty when anonymous"`
	Method     string     `fact:"method" values:"password none certificate certificate+password" doc:"how it was established: password, none, …"`
	Groups     []string   `fact:"groups" doc:"the user's groups"`
	Attributes Attributes `fact:"attributes" doc:"the user's attributes"`
	Open       int64      `fact:"open" doc:"other sessions of this identity that are open now; one that has been refused is not"`
	Denials    Window     `fact:"denials" doc:"denied requests of this identity before this one"`
	Usage      Usage      `fact:"usage" doc:"what this identity has used, open sessions included"`
}

// Account says what an identity has used. It may be asked from any goroutine and
// must not block.
type Account interface {
	Usage() Usage
}

// Usage is what an identity has used in this UTC day and month. It is not known
// until a stage's rules read it: see Facts.Account.
type Usage struct {
	Bytes       Span `fact:"bytes" doc:"bytes in both directions"`
	Connections Span `fact:"connections" doc:"sessions, and requests of plain HTTP, that were granted"`
}

// Span counts over the current UTC day and month.
type Span struct {
	Day   int64 `fact:"day" doc:"this UTC day"`
	Month int64 `fact:"month" doc:"this UTC month"`
}

// Request is what the client asks for.
type Request struct {
	Command string  `fact:"command" values:"connect bind associate datagram forward" doc:"connect, bind, associate, datagram or forward"`
	Method  string  `fact:"method" doc:"HTTP: the method"`
	Path    string  `fact:"path" doc:"HTTP: the path without its query; empty for CONNECT"`
	Headers Headers `fact:"headers" doc:"HTTP: lower-case names to values, without Authorization, Proxy-Authorization and Cookie"`
}

// Target is where the client wants to go. [TargetName] and [TargetAddress]
// fill it so that its facts agree.
type Target struct {
	Host     string   `fact:"host" spelled:"host" doc:"lower-case ASCII name without a trailing dot, or an IP address"`
	Port     int64    `fact:"port" doc:"TCP or UDP port"`
	Kind     string   `fact:"kind" values:"domain ipv4 ipv6" doc:"domain, ipv4 or ipv6"`
	Suffixes Suffixes `fact:"suffixes" doc:"of a domain: itself first, then each parent"`
	IP       IP       `fact:"ip" doc:"of a literal: the address"`
	Prefixes Prefixes `fact:"prefixes" doc:"of a literal: its CIDR prefixes, longest first"`
	Scope    Scope    `fact:"scope" doc:"of a literal: which part of the address space it belongs to"`
	Geo      Geo      `fact:"geo" doc:"of a literal: what the GeoIP databases know"`
}

// Asked is the target before a redirect.
type Asked struct {
	Host string `fact:"host" spelled:"host" doc:"as in target"`
	Port int64  `fact:"port" doc:"as in target"`
}

// Address is an address about to be dialled.
type Address struct {
	IP       IP       `fact:"ip" doc:"the address"`
	Family   Family   `fact:"family" values:"ipv4 ipv6" doc:"ipv4 or ipv6"`
	Prefixes Prefixes `fact:"prefixes" doc:"its CIDR prefixes, longest first"`
	Scope    Scope    `fact:"scope" doc:"which part of the address space it belongs to"`
	Geo      Geo      `fact:"geo" doc:"what the GeoIP databases know"`
	Names    []string `fact:"names" doc:"the names that the target is an alias of (CNAME), the canonical one last; none where it is no alias"`
}

// Flow is what the client's first bytes show.
type Flow struct {
	Protocol   string   `fact:"protocol" values:"tls http ssh unknown none" doc:"tls, http, ssh, unknown, or none: the client has sent nothing for 3 s"`
	ServerName string   `fact:"server_name" spelled:"host" doc:"TLS: the name asked for, in lower case; empty where the ClientHello has none, or cannot be read"`
	ALPN       []string `fact:"alpn" doc:"TLS: the protocols offered"`
	Host       string   `fact:"host" spelled:"host" doc:"HTTP: the host asked for, in lower case and without its port; empty where it cannot be told"`
}

// Ways says how the upstreams are, by name. It may be asked from any goroutine
// and must not block. What it returns is never written to.
type Ways interface {
	Upstreams() map[string]Upstream
}

// Upstream is the state of a configured upstream. It is not known until a stage's
// rules read it: see Facts.Ways.
type Upstream struct {
	Healthy   bool              `fact:"healthy" doc:"neither its probe nor the sessions through it have failed several times in a row"`
	LatencyMS int64             `fact:"latency_ms" doc:"moving average, in milliseconds, of the time until it takes a request, to two digits (12, 120, 1200); 0: not measured yet"`
	Open      int64             `fact:"open" doc:"sessions through it now"`
	Labels    map[string]string `fact:"labels" doc:"from the configuration"`
}

// API is a call of the management API.
type API struct {
	Method      string              `fact:"method" doc:"HTTP method"`
	Path        []string            `fact:"path" doc:"the path's segments"`
	Query       map[string][]string `fact:"query" doc:"the query's parameters"`
	Body        APIBody             `fact:"body" doc:"of a user that is written"`
	Token       APIToken            `fact:"token" doc:"the bearer token's owner; only when the token is valid"`
	Certificate Certificate         `fact:"certificate" doc:"the client certificate, only of a verified chain"`
	Peer        Peer                `fact:"peer" doc:"the process at the other end of a unix socket"`
	Source      APISource           `fact:"source" doc:"where the call comes from"`
}

// APIBody is the part of a written user that a policy may judge.
type APIBody struct {
	Name   string   `fact:"name" doc:"the user's name"`
	Groups []string `fact:"groups" doc:"the groups that the user will have"`
}

// APIToken is the owner of a valid token.
type APIToken struct {
	Name  string   `fact:"name" doc:"its name in the configuration"`
	Roles []string `fact:"roles" doc:"its roles in the configuration"`
}

// Peer is the process at the other end of a unix socket.
type Peer struct {
	UID      int64 `fact:"uid" doc:"user id"`
	PID      int64 `fact:"pid" doc:"process id; 0 where it is not known"`
	SameUser bool  `fact:"same_user" doc:"the server's own user"`
}

// APISource is where a management call comes from.
type APISource struct {
	IP       IP       `fact:"ip" doc:"the caller's address"`
	Port     int64    `fact:"port" doc:"the caller's port"`
	Prefixes Prefixes `fact:"prefixes" doc:"the CIDR prefixes of the address, longest first"`
	Scope    Scope    `fact:"scope" doc:"which part of the address space it belongs to"`
}

// SourceOf fills the facts that follow from a client's address.
func SourceOf(from netip.AddrPort) Source {
	ip := from.Addr().Unmap().WithZone("")
	return Source{
		IP: IP{ip}, Port: int64(from.Port()), Family: FamilyOf(ip),
		Prefixes: Prefixes{ip}, Scope: ScopeOf(ip),
	}
}

// APISourceOf fills the facts that follow from a management caller's address.
func APISourceOf(from netip.AddrPort) APISource {
	ip := from.Addr().Unmap().WithZone("")
	return APISource{IP: IP{ip}, Port: int64(from.Port()), Prefixes: Prefixes{ip}, Scope: ScopeOf(ip)}
}

// TargetName is a target that is still a name: canonical, as the host codec
// left it.
func TargetName(name string, port uint16) Target {
	return Target{Host: name, Port: int64(port), Kind: "domain", Suffixes: Suffixes(name)}
}

// TargetAddress is a target that was given as an address.
func TargetAddress(ip netip.Addr, port uint16) Target {
	ip = ip.Unmap().WithZone("")
	return Target{
		Host: ip.String(), Port: int64(port), Kind: string(FamilyOf(ip)),
		IP: IP{ip}, Prefixes: Prefixes{ip}, Scope: ScopeOf(ip),
	}
}

// AddressOf fills the facts that follow from an address about to be dialled.
func AddressOf(ip netip.Addr) Address {
	ip = ip.Unmap().WithZone("")
	return Address{IP: IP{ip}, Family: FamilyOf(ip), Prefixes: Prefixes{ip}, Scope: ScopeOf(ip)}
}
