package audit

import (
	"slices"
	"strconv"
)

// maxSeen is how many revisions of one bundle are remembered, maxBundles of how
// many bundles there is a history.
const (
	maxSeen    = 1000
	maxBundles = maxSources
)

// History is what a bundle has been, by the records of its activations.
type History struct {
	Last    Source   `json:"last"`              // active last
	Highest *Source  `json:"highest,omitempty"` // with the highest sequence
	Number  *uint64  `json:"number,omitempty"`  // the highest revision that is a whole number
	Seen    []string `json:"seen,omitempty"`    // revisions, the oldest first, at most 1000
}

// Identity is by what a source is known again: its revision, or where it has none
// its digest.
func (s *Source) Identity() string {
	if s.Revision != "" {
		return s.Revision
	}
	return s.Digest
}

// Number reads a revision that is a whole number.
func (s *Source) Number() (uint64, bool) {
	n, err := strconv.ParseUint(s.Revision, 10, 64)
	return n, err == nil
}

func (h *History) add(s Source) {
	h.Last = s
	if s.Sequence != nil && (h.Highest == nil || *s.Sequence >= *h.Highest.Sequence) {
		h.Highest = &s
	}
	if n, ok := s.Number(); ok && (h.Number == nil || n > *h.Number) {
		h.Number = &n
	}
	id := s.Identity()
	if at := slices.Index(h.Seen, id); at >= 0 {
		h.Seen = slices.Delete(h.Seen, at, at+1)
	}
	if h.Seen = append(h.Seen, id); len(h.Seen) > maxSeen {
		h.Seen = slices.Delete(h.Seen, 0, 1)
	}
}

// histories are the bundles' by name.
type histories map[string]*History

// learn takes what a record tells.
func (hs histories) learn(r *Record) {
	for _, s := range r.Sources {
		h := hs[s.Name]
		if h == nil && len(hs) >= maxBundles {
			continue
		}
		switch {
		case r.Outcome == Continued && r.History != nil && (r.History.Highest == nil || r.History.Highest.Sequence != nil):
			copied := r.History.clone()
			hs[s.Name] = &copied
		case r.Outcome == Activated:
			if h == nil {
				h = &History{}
				hs[s.Name] = h
			}
			h.add(s)
		}
	}
}

func (h *History) clone() History {
	c := *h
	c.Seen = slices.Clone(h.Seen)
	return c
}
