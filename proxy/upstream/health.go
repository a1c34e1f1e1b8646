package upstream

import (
	"errors"
	"time"

	"sallyport/proxy/dial"
)

// health is whether an upstream is thought to work. It changes its mind only
// after several marks that say the same, so that one lost packet moves nobody and
// an upstream that comes and goes is not followed at each turn.
type health struct {
	rise, fall int // successes, failures in a row that change it

	healthy bool
	streak  int       // marks in a row against what it is
	since   time.Time // it is so
	reason  string    // why; empty: since the start
}

// mark notes a success, whose reason is empty, or a failure. It returns whether
// the upstream has changed.
func (h *health) mark(reason string, now time.Time) (changed bool) {
	succeeded := reason == ""
	if succeeded == h.healthy {
		h.streak = 0
		return false
	}
	h.streak++
	if h.healthy && h.streak < h.fall || !h.healthy && h.streak < h.rise {
		return false
	}
	if succeeded {
		reason = "it works again"
	}
	h.become(succeeded, reason, now)
	return true
}

// trial takes an upstream that nobody probes for healthy until the next failure.
func (h *health) trial(now time.Time) {
	h.become(true, "it is tried again", now)
	h.streak = h.fall - 1
}

func (h *health) become(healthy bool, reason string, now time.Time) {
	h.healthy, h.reason, h.since, h.streak = healthy, reason, now, 0
}

// shortest is the least time without an answer that says something of an
// upstream: a session may have spent the rest on a slow look-up.
const shortest = time.Second

// against tells whether a failed set-up speaks against the upstream's health. A
// client chooses targets, and must not choose which upstreams others use: so what
// can be due to the target, to what this session is or to this machine does not.
// An upstream that has been ready for the request, and then does not answer it,
// may be waiting for the target.
func against(e *dial.HopError, ready bool, took time.Duration) bool {
	if e.Target {
		return false
	}
	switch e.Failure {
	case dial.HopSource, dial.HopDenied, dial.HopUnsupported:
		return false
	case dial.HopTimeout:
		return !ready && took >= shortest
	case dial.HopClosed, dial.HopFailed:
		return !ready
	}
	return true
}

// note marks an upstream for what has become of a set-up or a probe of it, and
// tells the log where that changes it.
func (s *Set) note(m *member, reason string) {
	m.mu.Lock()
	changed := m.health.mark(reason, time.Now())
	told := m.told(changed)
	m.mu.Unlock()
	s.tell(m, told)
}

// told is the health as it is told of, once it has changed, and wakes those who
// wait for that. The member is locked.
func (m *member) told(changed bool) *health {
	if !changed {
		return nil
	}
	close(m.changed)
	m.changed = make(chan struct{})
	told := m.health
	return &told
}

func (s *Set) tell(m *member, h *health) {
	switch {
	case h == nil:
	case h.healthy:
		s.log.Info("upstream is healthy", "upstream", m.hop.Name, "reason", h.reason)
	default:
		s.log.Warn("upstream is not healthy", "upstream", m.hop.Name, "reason", h.reason)
	}
}

// reasonOf is a failure in the words of the log.
func reasonOf(err error) string {
	var failed *dial.HopError
	if !errors.As(err, &failed) {
		return err.Error()
	}
	what := string(failed.Failure)
	if failed.Detail != "" {
		what += ": " + failed.Detail
	}
	if failed.Target {
		return "it does not reach the probe's target: " + what
	}
	return what
}
