package upstream

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"time"

	"sallyport/policy"
)

// Upstreams are the facts about all upstreams, of this moment.
func (s *Set) Upstreams() map[string]policy.Upstream {
	facts := make(map[string]policy.Upstream, len(s.known))
	for name, m := range s.known {
		m.mu.Lock()
		healthy, latency := m.health.healthy, m.latency
		m.mu.Unlock()
		facts[name] = policy.Upstream{
			Healthy: healthy, LatencyMS: Coarse(latency), Open: s.open(name), Labels: m.labels,
		}
	}
	return facts
}

// Coarse is a latency in milliseconds with its first two digits, and 1 at least
// where there is any: it changes with every session, and an answer is remembered
// for as long as the facts are the same.
func Coarse(latency time.Duration) int64 {
	if latency <= 0 {
		return 0
	}
	ms := max(1, (latency + time.Millisecond/2).Milliseconds())
	unit := int64(1)
	for ms/unit >= 100 {
		unit *= 10
	}
	return (ms + unit/2) / unit * unit
}

// Status is an upstream as an operator sees it. It shows no credentials.
type Status struct {
	Name      string            `json:"name"`
	Protocol  string            `json:"protocol"` // socks5, socks4a or http
	Address   string            `json:"address"`  // HOST:PORT
	TLS       bool              `json:"tls"`
	Healthy   bool              `json:"healthy"`
	Since     time.Time         `json:"since"`      // it is so
	Reason    string            `json:"reason"`     // why; "" since the start
	LatencyMS float64           `json:"latency_ms"` // moving average of the time until it would take a request; 0: never measured
	Open      int64             `json:"open"`       // sessions through it
	Labels    map[string]string `json:"labels"`
	Probe     bool              `json:"probe"` // whether it has one
	Pool      PoolStatus        `json:"pool"`
}

// PoolStatus is how many connections an upstream has that were opened ahead, and
// how many it is to have.
type PoolStatus struct {
	Idle int `json:"idle"`
	Most int `json:"most"`
}

// List is all upstreams in the order of their names.
func (s *Set) List() []Status {
	list := make([]Status, 0, len(s.known))
	for name, m := range s.known {
		at := m.hop.At
		host := at.Name
		if host == "" {
			host = at.IP.String()
		}
		one := Status{
			Name: name, Protocol: string(m.hop.Protocol), Address: net.JoinHostPort(host, strconv.Itoa(int(at.Port))), TLS: m.hop.TLS != nil,
			Open: s.open(name), Labels: m.labels, Probe: m.probe.To.Port != 0,
			Pool: PoolStatus{Idle: m.pool.len(), Most: m.pool.most},
		}
		m.mu.Lock()
		one.Healthy, one.Since, one.Reason = m.health.healthy, m.health.since, m.health.reason
		one.LatencyMS = float64(m.latency.Microseconds()) / 1000
		m.mu.Unlock()
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// Observe tells of each upstream's health and latency, where it has been measured.
func (s *Set) Observe(tell func(upstream string, healthy bool, latency time.Duration)) {
	for name, m := range s.known {
		m.mu.Lock()
		healthy, latency := m.health.healthy, m.latency
		m.mu.Unlock()
		tell(name, healthy, latency)
	}
}
