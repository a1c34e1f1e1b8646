package upstream

import (
	"cmp"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"sallyport/policy"
)

// choices are the upstreams of a hop in the order in which they are tried. Those
// that have just failed come after the others, whatever the order, and those that
// are not healthy last: where there is nobody else, one that is thought dead is
// still better than none.
func (s *Set) choices(hop policy.Hop, key string, now time.Time) []*member {
	type choice struct {
		m       *member
		ill     bool
		shunned bool
		latency time.Duration
		weight  uint64
	}
	choices := make([]choice, 0, len(hop.Any))
	for _, name := range hop.Any {
		m := s.known[name]
		m.mu.Lock()
		choices = append(choices, choice{m: m, ill: !m.health.healthy, shunned: now.Before(m.shunned), latency: m.latency})
		m.mu.Unlock()
	}
	switch hop.By {
	case policy.ByRandom:
		rand.Shuffle(len(choices), func(i, j int) { choices[i], choices[j] = choices[j], choices[i] })
	case policy.ByHash:
		for i := range choices {
			choices[i].weight = weigh(cmp.Or(hop.Key, key), choices[i].m.hop.Name)
		}
	}
	slices.SortStableFunc(choices, func(a, b choice) int {
		order := 0
		switch hop.By {
		case policy.ByLatency: // one that was never tried comes first, and so is measured
			order = cmp.Compare(a.latency, b.latency)
		case policy.ByHash:
			order = cmp.Compare(b.weight, a.weight)
		}
		return cmp.Or(boolCompare(a.ill, b.ill), boolCompare(a.shunned, b.shunned), order)
	})
	members := make([]*member, 0, len(choices))
	for _, c := range choices {
		if !slices.Contains(members, c.m) {
			members = append(members, c.m)
		}
	}
	return members
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// weigh gives each pair of key and name a number of its own (rendezvous hashing):
// where an upstream comes or goes, only the keys that it had or gets move.
func weigh(key, name string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, key)
	h.Write([]byte{0})
	io.WriteString(h, name)
	x := h.Sum64() // whose high bits differ little between names that differ in the last byte
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}
