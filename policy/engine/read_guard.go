package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// What the guard is told by a decision: `ban` and `limits`.

// periods are those that a quota may be for.
func periods() []policy.Period { return []policy.Period{policy.PerDay, policy.PerMonth} }

func readPeriod(v ast.Value) (policy.Period, error) {
	s, err := stringOf(v)
	if err == nil && !slices.Contains(periods(), policy.Period(s)) {
		err = misreadf("%q is not day or month", clipped(s))
	}
	return policy.Period(s), err
}

// readRate reads a rate's text, or a number a second.
func readRate(v ast.Value) (policy.Pace, error) {
	switch v := v.(type) {
	case ast.String:
		r, err := parseRate(string(v))
		if err != nil {
			return policy.Pace{}, misreadf("%s", clipped(err.Error()))
		}
		if r.Count == 0 {
			return policy.Pace{}, nil
		}
		return r, nil
	case ast.Number:
		n, err := strconv.ParseFloat(string(v), 64)
		if err != nil || !(n >= 0 && n <= maxRate) {
			return policy.Pace{}, misreadf("%s is out of range", clipped(string(v)))
		}
		if n == 0 {
			return policy.Pace{}, nil
		}
		return policy.Pace{Count: n, Per: 1e9}, nil
	}
	return policy.Pace{}, unexpected("a string or a number", v)
}

// whole tells whether the parts of ban and limits that were read make sense
// together, and at this stage.
func whole(stage policy.Stage, d *policy.Decision) error {
	b, l := &d.Ban, &d.Limits
	switch {
	case *b != (policy.Ban{}) && b.For == 0:
		return errors.New("ban: it needs for, how long")
	case b.Identity && b.Prefix.IsValid():
		return errors.New("ban: it is of a prefix or of the identity, not of both")
	case b.Identity && stage == policy.Admit:
		return errors.New("ban.identity: admit knows no identity")
	case l.Prefix.IsValid() && stage != policy.Admit:
		return errors.New("limits.prefix: these limits bind the identity, only those of admit a prefix")
	case l.Quota != (policy.Quota{}) && stage != policy.Authenticate:
		return errors.New("limits.quota: it counts what an identity uses, and admit knows none")
	case (l.Quota.Bytes > 0) != (l.Quota.Per != ""):
		return errors.New("limits.quota: it needs bytes and per, how many in which period")
	case l.Burst > 0 && l.Rate.Count == 0:
		return errors.New("limits.burst: it needs rate")
	}
	return nil
}

// own tells whether the prefixes that a decision names are the source's. It is
// asked of each answer, since one that is remembered may be another source's.
func own(d *policy.Decision, facts *policy.Facts) error {
	of := facts.Source.Prefixes
	if p := d.Ban.Prefix; p.IsValid() && !hasPrefix(of, p) {
		return fmt.Errorf("ban.prefix: %s is none of the source's prefixes", p)
	}
	if p := d.Limits.Prefix; p.IsValid() && !hasPrefix(of, p) {
		return fmt.Errorf("limits.prefix: %s is none of the source's prefixes", p)
	}
	return nil
}

func hasPrefix(of policy.Prefixes, p netip.Prefix) bool {
	for each := range of.Each {
		if each == p {
			return true
		}
	}
	return false
}
